//! The expected result of a read-only identification for each make. It is written independently of any scanner.

use serde::{Deserialize, Serialize};

use crate::site::{Device, Make, Manner, Protocol, Service};

/// The expected result of a scan of the given ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truth {
    /// The device identifies itself without a login.
    Identified(Box<Identity>),
    /// The device accepts connections on a requested port, but no answer identifies a known make.
    Unidentified,
    /// The device listens on none of the requested ports.
    Refused,
}

/// The identity that can be read without a login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The port whose answer identifies the device.
    pub port: u16,
    /// The scheme of its web page.
    pub url_scheme: String,
    /// The driver name of the device.
    pub driver_name: String,
    /// The model, or empty if the device does not report it.
    pub model: String,
    /// The maker of the hardware, or of the firmware if the hardware maker is unknown.
    pub manufacturer: String,
    /// The firmware version. Aftermarket firmware includes its name. May be empty.
    pub firmware_version: String,
    /// Upper case, separated by colons.
    pub mac: Option<String>,
    /// As the device reports it.
    pub serial: Option<String>,
}

impl Device {
    /// The expected result of a scan of `ports`. The CGMiner API has priority, and the web page fills the gaps.
    pub fn truth(&self, ports: &[u16]) -> Truth {
        let asked = || {
            self.services
                .iter()
                .filter(|service| ports.contains(&service.port))
        };
        let of = |protocol: Protocol| {
            asked()
                .filter(move |service| {
                    service.protocol == protocol && service.says_something_readable()
                })
                .find_map(|service| match protocol {
                    Protocol::Cgminer => self.by_cgminer(service),
                    Protocol::Http => self.by_web(service),
                })
        };
        let identity = match (of(Protocol::Cgminer), of(Protocol::Http)) {
            (Some(api), Some(web)) => Some(api.completed_by(web)),
            (api, web) => api.or(web),
        };
        match identity {
            Some(identity) => Truth::Identified(Box::new(identity)),
            None if asked().next().is_some() => Truth::Unidentified,
            None => Truth::Refused,
        }
    }

    fn by_cgminer(&self, service: &Service) -> Option<Identity> {
        let (manufacturer, firmware) = match self.make {
            Make::Antminer => ("Bitmain", self.firmware.clone()),
            Make::Whatsminer => ("MicroBT", self.firmware.clone()),
            Make::Avalon => ("Canaan", self.firmware.clone()),
            // The API returns a build hash, which is not a version.
            Make::Braiins => ("Bitmain", "Braiins OS".to_owned()),
            Make::LuxOs => ("Bitmain", format!("LuxOS {}", self.firmware)),
            Make::Vnish => ("Bitmain", format!("VNish {}", self.firmware)),
            Make::Marathon => ("Bitmain", format!("Marathon {}", self.firmware)),
            Make::SealMiner => ("Bitdeer", self.firmware.clone()),
            Make::Auradine => ("Auradine", self.firmware.clone()),
            Make::PlainCgminer
            | Make::Bitaxe
            | Make::NerdAxe
            | Make::Epic
            | Make::Proto
            | Make::Printer
            | Make::Router => return None,
        };
        let (mac, serial) = match self.make {
            Make::LuxOs | Make::SealMiner => (self.mac.clone(), self.serial.clone()),
            Make::Whatsminer | Make::Avalon => (self.mac.clone(), None),
            Make::Antminer
            | Make::Braiins
            | Make::Vnish
            | Make::Marathon
            | Make::Auradine
            | Make::PlainCgminer
            | Make::Bitaxe
            | Make::NerdAxe
            | Make::Epic
            | Make::Proto
            | Make::Printer
            | Make::Router => (None, None),
        };
        let driver = if self.make == Make::Antminer {
            "antminer"
        } else {
            "asicrs"
        };
        let model = match self.make {
            Make::Avalon => format!("AvalonMiner {}", self.model),
            Make::SealMiner => format!("SealMiner {}", self.model),
            Make::Antminer
            | Make::Whatsminer
            | Make::Braiins
            | Make::LuxOs
            | Make::Vnish
            | Make::Marathon
            | Make::Auradine
            | Make::PlainCgminer
            | Make::Bitaxe
            | Make::NerdAxe
            | Make::Epic
            | Make::Proto
            | Make::Printer
            | Make::Router => self.model.clone(),
        };
        Some(Identity {
            port: service.port,
            url_scheme: "http".to_owned(),
            driver_name: driver.to_owned(),
            model,
            manufacturer: manufacturer.to_owned(),
            firmware_version: firmware,
            mac,
            serial,
        })
    }

    fn by_web(&self, service: &Service) -> Option<Identity> {
        if !self.make.web_page_names_it() {
            return None;
        }
        let named = |manufacturer: &str, model: &str, firmware: &str| Identity {
            port: service.port,
            url_scheme: "http".to_owned(),
            driver_name: "asicrs".to_owned(),
            model: model.to_owned(),
            manufacturer: manufacturer.to_owned(),
            firmware_version: firmware.to_owned(),
            mac: None,
            serial: None,
        };
        let identity = match self.make {
            Make::Antminer => named("Bitmain", "", ""),
            Make::Avalon => named("Canaan", "", ""),
            Make::Braiins => named(
                "Bitmain",
                &self.model,
                &format!("Braiins OS {}", self.firmware),
            ),
            Make::LuxOs => named("Luxor", "", "LuxOS"),
            Make::Vnish => Identity {
                mac: self.mac.clone(),
                serial: self.serial.clone(),
                ..named("Bitmain", &self.model, &format!("VNish {}", self.firmware))
            },
            Make::SealMiner => named("Bitdeer", "", ""),
            Make::Epic => named("ePIC", "", ""),
            Make::Bitaxe => {
                let chip = self.model.split(' ').next().unwrap_or_default();
                let model = match chip {
                    "BM1397" => "Bitaxe Max",
                    "BM1366" => "Bitaxe Ultra",
                    "BM1368" => "Bitaxe Supra",
                    "BM1370" => "Bitaxe Gamma",
                    _ => "Bitaxe",
                };
                Identity {
                    mac: self.mac.clone(),
                    ..named("Bitaxe", model, &self.firmware)
                }
            }
            Make::NerdAxe => Identity {
                mac: self.mac.clone(),
                ..named("NerdAxe", &self.model, &self.firmware)
            },
            Make::Proto => Identity {
                driver_name: "proto".to_owned(),
                mac: self.mac.clone(),
                serial: self.serial.clone(),
                ..named("Proto", &self.model, &self.firmware)
            },
            Make::Whatsminer
            | Make::Marathon
            | Make::Auradine
            | Make::PlainCgminer
            | Make::Printer
            | Make::Router => return None,
        };
        Some(identity)
    }
}

impl Identity {
    /// The identity from the API, completed with facts that only the web page contains.
    fn completed_by(self, web: Self) -> Self {
        let is_release = web
            .firmware_version
            .starts_with(&format!("{} ", self.firmware_version));
        let firmware_version = if is_release {
            web.firmware_version
        } else {
            self.firmware_version
        };
        Self {
            mac: self.mac.or(web.mac),
            serial: self.serial.or(web.serial),
            firmware_version,
            ..self
        }
    }
}

impl Service {
    fn says_something_readable(&self) -> bool {
        match self.manner {
            Manner::Proper | Manner::Malformed(_) | Manner::Dripping => true,
            Manner::Garbage | Manner::Silent | Manner::HangsUp => false,
        }
    }
}
