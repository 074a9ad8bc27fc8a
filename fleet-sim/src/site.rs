//! What a simulated site consists of: devices, their services, and how each of them behaves.
//!
//! [`Site`] is plain data (JSON both ways). Ready-made sites are in `preset.rs`, the makes in `make.rs`; what a
//! device says on the wire is `answer.rs`, what should be found is `truth.rs`.

mod make;
mod preset;

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

pub use make::Make;
use serde::{Deserialize, Serialize};

/// A simulated LAN: every device that exists on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// The seed it was made from; random-looking bytes on the wire derive from it.
    pub seed: u64,
    /// The devices, in no particular order; at most one a (address, port).
    pub devices: Vec<Device>,
}

/// One simulated device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Where it listens; loopback for tests, a real address inside a lab namespace.
    pub address: IpAddr,
    /// Who made it, which decides what it says.
    pub make: Make,
    /// The model as the device itself spells it; may be empty.
    pub model: String,
    /// The firmware version as the device itself spells it, without the firmware's name.
    pub firmware: String,
    /// Colon form, upper case. Whether it can be read without a login depends on the make.
    pub mac: Option<String>,
    /// As printed on the label. Whether it can be read without a login depends on the make.
    pub serial: Option<String>,
    /// What it listens on.
    pub services: Vec<Service>,
    /// The credentials behind which it shows more; none means the default ones of its make. Antminer, VNish, Braiins,
    /// Proto and SealMiner ask for a login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<DeviceLogin>,
}

/// The credentials that a simulated device accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceLogin {
    /// The user name.
    pub username: String,
    /// The password.
    pub password: String,
    /// Refuses every login.
    #[serde(default)]
    pub locked: bool,
}

impl DeviceLogin {
    /// The default login of an Antminer.
    pub fn delivered() -> Self {
        Self::default_of(Make::Antminer)
    }

    /// The default login of a make. The user name is empty where the make has none.
    pub fn default_of(make: Make) -> Self {
        match make {
            Make::Vnish => Self::new("", "admin"),
            Make::Proto => Self::new("", "proto"),
            Make::SealMiner => Self::new("seal", "seal"),
            Make::Antminer
            | Make::Whatsminer
            | Make::Avalon
            | Make::Braiins
            | Make::LuxOs
            | Make::Marathon
            | Make::Auradine
            | Make::Bitaxe
            | Make::NerdAxe
            | Make::Epic
            | Make::PlainCgminer
            | Make::Printer
            | Make::Router => Self::new("root", "root"),
        }
    }

    /// A user name and a password.
    pub fn new(username: &str, password: &str) -> Self {
        Self {
            username: username.to_owned(),
            password: password.to_owned(),
            locked: false,
        }
    }
}

/// One listening port of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// TCP port.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
    /// How well it behaves.
    pub manner: Manner,
    /// How long it thinks before it answers, in milliseconds.
    #[serde(default)]
    pub delay_ms: u64,
}

/// The protocols that simulated devices speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// CGMiner's API: one JSON command a connection, usually TCP 4028.
    Cgminer,
    /// HTTP/1.1, usually TCP 80.
    Http,
}

/// How a service treats whoever connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manner {
    /// Answers as real devices of its make do.
    Proper,
    /// Answers with a defect that real firmware is known for; still readable by a tolerant client.
    Malformed(Malformation),
    /// Answers properly, a few bytes at a time.
    Dripping,
    /// Sends random bytes without end, until the peer closes.
    Garbage,
    /// Accepts and never says a word.
    Silent,
    /// Accepts and closes at once.
    HangsUp,
}

/// Defects of CGMiner replies seen in the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Malformation {
    /// Two objects without a comma between them, `}{`.
    MissingComma,
    /// Several NUL bytes after the reply, some in the middle of whitespace.
    TrailingNuls,
    /// Raw control characters inside strings.
    ControlCharacters,
    /// A comma before a closing bracket.
    TrailingComma,
    /// The connection closes before the last brackets were sent.
    Truncated,
}

impl Malformation {
    /// Every defect, for sites that show each of them.
    pub const ALL: [Self; 5] = [
        Self::MissingComma,
        Self::TrailingNuls,
        Self::ControlCharacters,
        Self::TrailingComma,
        Self::Truncated,
    ];
}

/// Which ports the services of a ready-made site listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// The CGMiner API's.
    pub cgminer: u16,
    /// HTTP's.
    pub http: u16,
}

impl Ports {
    /// The ports of real devices; 80 needs a privileged process.
    pub const REAL: Self = Self {
        cgminer: 4028,
        http: 80,
    };
    /// Ports that anybody may bind.
    pub const UNPRIVILEGED: Self = Self {
        cgminer: 4028,
        http: 8080,
    };
}

impl Service {
    /// How long it thinks before it answers.
    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms)
    }
}

impl Site {
    /// Reads a description from JSON.
    ///
    /// # Errors
    /// [`SiteError::Json`] when it is not a site, else what [`Site::check`] says.
    pub fn from_json(text: &str) -> Result<Self, SiteError> {
        let site: Self = serde_json::from_str(text)?;
        site.check()?;
        Ok(site)
    }

    /// Writes the description as JSON, readable by [`Site::from_json`].
    ///
    /// # Errors
    /// [`SiteError::Json`]; not for a site that passed [`Site::check`].
    pub fn to_json(&self) -> Result<String, SiteError> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// Checks that no two services share an address and port, and that every port can be listened on.
    ///
    /// # Errors
    /// Names the first offending device.
    pub fn check(&self) -> Result<(), SiteError> {
        let mut seen = BTreeSet::new();
        for device in &self.devices {
            for service in &device.services {
                if service.port == 0 {
                    return Err(SiteError::PortZero {
                        address: device.address,
                    });
                }
                if !seen.insert((device.address, service.port)) {
                    return Err(SiteError::Twice {
                        address: device.address,
                        port: service.port,
                    });
                }
            }
        }
        Ok(())
    }

    /// Every port that some device listens on, ascending: what a scan of this site should ask.
    pub fn ports(&self) -> Vec<u16> {
        let ports: BTreeSet<u16> = self
            .devices
            .iter()
            .flat_map(|device| device.services.iter().map(|service| service.port))
            .collect();
        ports.into_iter().collect()
    }

    /// Every address of a device, ascending.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let addresses: BTreeSet<IpAddr> =
            self.devices.iter().map(|device| device.address).collect();
        addresses.into_iter().collect()
    }

    /// The device at an address.
    pub fn device(&self, address: IpAddr) -> Option<&Device> {
        self.devices.iter().find(|device| device.address == address)
    }
}

/// Why a description is no site.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// Not JSON, or not of this shape.
    #[error("the site description cannot be read")]
    Json(#[from] serde_json::Error),
    /// Two services at one endpoint.
    #[error("{address} port {port} is described twice; give each device its own address")]
    Twice {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
    },
    /// Port 0 cannot be listened on.
    #[error("{address} has a service on port 0; use 1 to 65535")]
    PortZero {
        /// The address.
        address: IpAddr,
    },
    /// More devices than host addresses.
    #[error(
        "{network} has {room} usable addresses, {devices} devices do not fit; use a wider network or fewer devices"
    )]
    NoRoom {
        /// The network asked for.
        network: ipnetwork::Ipv4Network,
        /// How many devices it can hold.
        room: usize,
        /// How many were asked for.
        devices: usize,
    },
}
