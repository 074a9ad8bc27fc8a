//! The simulated makes, with the models and firmware versions that their devices report.

use serde::{Deserialize, Serialize};

/// The maker of a device, or its aftermarket firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Make {
    /// Bitmain Antminer with stock firmware.
    Antminer,
    /// MicroBT Whatsminer (BTMiner).
    Whatsminer,
    /// Canaan Avalon.
    Avalon,
    /// Antminer hardware with Braiins OS (BOSminer, BOSer).
    Braiins,
    /// Antminer hardware with LuxOS.
    LuxOs,
    /// Antminer hardware with VNish (AnthillOS).
    Vnish,
    /// Antminer hardware with Marathon's firmware.
    Marathon,
    /// Bitdeer SealMiner (BDMiner).
    SealMiner,
    /// Auradine Teraflux (FluxOS).
    Auradine,
    /// Bitaxe (AxeOS).
    Bitaxe,
    /// NerdAxe family.
    NerdAxe,
    /// ePIC control boards.
    Epic,
    /// Proto rigs.
    Proto,
    /// Plain cgminer on a computer. It answers the API but reports no make.
    PlainCgminer,
    /// The web page of a network printer.
    Printer,
    /// The LuCI web page of a router, which resembles a Whatsminer's.
    Router,
}

impl Make {
    /// Every make.
    pub const ALL: [Self; 16] = [
        Self::Antminer,
        Self::Whatsminer,
        Self::Avalon,
        Self::Braiins,
        Self::LuxOs,
        Self::Vnish,
        Self::Marathon,
        Self::SealMiner,
        Self::Auradine,
        Self::Bitaxe,
        Self::NerdAxe,
        Self::Epic,
        Self::Proto,
        Self::PlainCgminer,
        Self::Printer,
        Self::Router,
    ];

    /// Whether devices of this make answer the CGMiner API.
    pub fn speaks_cgminer(self) -> bool {
        match self {
            Self::Antminer
            | Self::Whatsminer
            | Self::Avalon
            | Self::Braiins
            | Self::LuxOs
            | Self::Vnish
            | Self::Marathon
            | Self::SealMiner
            | Self::Auradine
            | Self::PlainCgminer => true,
            Self::Bitaxe
            | Self::NerdAxe
            | Self::Epic
            | Self::Proto
            | Self::Printer
            | Self::Router => false,
        }
    }

    /// Whether devices of this make have a password that a read-only request verifies.
    pub fn has_login(self) -> bool {
        self == Self::Whatsminer || self.has_web_login()
    }

    /// Whether the web server of this make verifies a password.
    pub(crate) fn has_web_login(self) -> bool {
        match self {
            Self::Antminer
            | Self::Braiins
            | Self::Vnish
            | Self::Marathon
            | Self::SealMiner
            | Self::Auradine
            | Self::Proto => true,
            Self::Whatsminer
            | Self::Avalon
            | Self::LuxOs
            | Self::Bitaxe
            | Self::NerdAxe
            | Self::Epic
            | Self::PlainCgminer
            | Self::Printer
            | Self::Router => false,
        }
    }

    /// Whether the web page alone identifies the make. The pages of Whatsminer and Marathon do not.
    pub(crate) fn web_page_names_it(self) -> bool {
        match self {
            Self::Antminer
            | Self::Avalon
            | Self::Braiins
            | Self::LuxOs
            | Self::Vnish
            | Self::SealMiner
            | Self::Bitaxe
            | Self::NerdAxe
            | Self::Epic
            | Self::Proto => true,
            Self::Whatsminer
            | Self::Marathon
            | Self::Auradine
            | Self::PlainCgminer
            | Self::Printer
            | Self::Router => false,
        }
    }

    /// Whether the make is an identifiable miner.
    pub fn can_be_named(self) -> bool {
        match self {
            Self::PlainCgminer | Self::Printer | Self::Router => false,
            Self::Antminer
            | Self::Whatsminer
            | Self::Avalon
            | Self::Braiins
            | Self::LuxOs
            | Self::Vnish
            | Self::Marathon
            | Self::SealMiner
            | Self::Auradine
            | Self::Bitaxe
            | Self::NerdAxe
            | Self::Epic
            | Self::Proto => true,
        }
    }

    /// The models and firmware versions that devices of this make report.
    pub(crate) fn catalogue(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Antminer => &[
                ("Antminer S9", "2.0.0"),
                ("Antminer S19", "1.0.0"),
                ("Antminer S19 Pro", "1.0.0"),
                ("Antminer S19j Pro", "uart_trans.1.3"),
                ("Antminer S21", "uart_trans.1.3"),
                ("Antminer S21+ Hyd.", "uart_trans.1.3"),
                ("Antminer T21", "uart_trans.1.3"),
            ],
            Self::Whatsminer => &[
                ("M31SV10", "20200725.18.REL"),
                ("M30S++VH60", "20220920.15.REL"),
                ("M50VH60", "20230803.11.REL"),
                ("M60S_VK30", "20240612.12.REL"),
            ],
            Self::Avalon => &[
                ("1246-81", "21030201_4ec6bb0_09b1765"),
                ("1366", "23080901_25462b2_9ddf522"),
                ("1566", "24102401_2fa8a7a"),
            ],
            Self::Braiins => &[
                ("Antminer S19J", "22.08"),
                ("Antminer S19 Pro", "24.09"),
                ("Antminer S9", "21.09.3"),
                ("Antminer S21", "25.07"),
            ],
            Self::LuxOs => &[
                ("Antminer S19k Pro", "2025.4.8.220305-57b389c7"),
                ("Antminer S19j Pro+", "2026.3.30.174759-b99dff377"),
            ],
            Self::Vnish => &[
                ("Antminer S19", "1.2.0"),
                ("Antminer S19j Pro", "1.2.6-rc5"),
            ],
            Self::Marathon => &[("Antminer S21", "1.4.2"), ("Antminer S19 XP", "1.3.0")],
            Self::SealMiner => &[("A2", "2025091001"), ("A2 Pro Hyd", "2025101502")],
            Self::Auradine => &[("AT1500", "2.1.3"), ("AI2500", "2.2.0")],
            Self::Bitaxe => &[
                ("BM1366 204", "v2.1.8"),
                ("BM1368 401", "v2.4.5"),
                ("BM1370 601", "v2.9.0"),
            ],
            Self::NerdAxe => &[("NerdQAxe++", "v1.0.32"), ("NerdAxe", "v1.0.29")],
            Self::Epic => &[("", "")],
            Self::Proto => &[("Rig", "1.8.0")],
            Self::PlainCgminer => &[("", "4.12.1")],
            Self::Printer => &[("LaserJet Pro M404dn", "20240115")],
            Self::Router => &[("Router", "23.05.3")],
        }
    }

    /// The first three octets of its MAC addresses in simulated sites. They are locally administered, so they belong to
    /// no vendor.
    pub(crate) fn oui(self) -> [u8; 3] {
        [
            0x02,
            0xf1,
            Self::ALL.iter().position(|make| *make == self).unwrap_or(0) as u8,
        ]
    }
}
