//! The parts of a simulated site: devices, their services, and the behavior of each service.
//!
//! [`Site`] is plain data that converts to and from JSON. `preset.rs` has ready-made sites, and `make.rs` the makes.
//! `answer.rs` encodes the devices' answers. `truth.rs` has the expected results.

mod make;
mod preset;

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

pub use make::Make;
use serde::{Deserialize, Serialize};

/// A simulated LAN with all of its devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// The seed of the site. Pseudorandom bytes on the wire derive from it.
    pub seed: u64,
    /// The devices in any order. Each (address, port) occurs at most once.
    pub devices: Vec<Device>,
}

/// One simulated device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// The listening address: loopback for tests, a real address inside a lab namespace.
    pub address: IpAddr,
    /// The make, which determines the answers.
    pub make: Make,
    /// The model as the device reports it. May be empty.
    pub model: String,
    /// The firmware version as the device reports it, without the firmware's name.
    pub firmware: String,
    /// Upper case, separated by colons. The make determines whether it can be read without a login.
    pub mac: Option<String>,
    /// The serial on the label. The make determines whether it can be read without a login.
    pub serial: Option<String>,
    /// The listening services.
    pub services: Vec<Service>,
    /// The credentials that unlock more data. None means the factory defaults of the make. [`Make::has_login`] tells
    /// which makes require a login.
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
    /// Whether the device refuses every login.
    #[serde(default)]
    pub locked: bool,
}

impl DeviceLogin {
    /// The default login of an Antminer.
    pub fn delivered() -> Self {
        Self::default_of(Make::Antminer)
    }

    /// The login of the devices of the demonstration. Whatsminers accept at most 8 characters, Proto rigs at least 8.
    pub fn demo() -> Self {
        Self::new("root", "fleetsim")
    }

    /// The default login of a make. The user name is empty if the make has none.
    pub fn default_of(make: Make) -> Self {
        match make {
            Make::Vnish => Self::new("", "admin"),
            Make::Proto => Self::new("", "proto"),
            Make::SealMiner => Self::new("seal", "seal"),
            // The API of Whatsminers has one account.
            Make::Whatsminer => Self::new("", "admin"),
            Make::Auradine => Self::new("admin", "admin"),
            Make::Antminer
            | Make::Avalon
            | Make::Braiins
            | Make::LuxOs
            | Make::Marathon
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
    /// The protocol at this port.
    pub protocol: Protocol,
    /// The behavior of the service.
    pub manner: Manner,
    /// The delay before each answer, in milliseconds.
    #[serde(default)]
    pub delay_ms: u64,
}

/// The protocols of simulated devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// The CGMiner API: one JSON command per connection, usually TCP 4028.
    Cgminer,
    /// HTTP/1.1, usually TCP 80.
    Http,
}

/// The behavior of a service toward its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manner {
    /// Answers like real devices of its make.
    Proper,
    /// Answers with a known firmware defect. A tolerant client can still read the answer.
    Malformed(Malformation),
    /// Answers correctly, but only a few bytes at a time.
    Dripping,
    /// Sends random bytes until the peer closes.
    Garbage,
    /// Accepts connections and sends nothing.
    Silent,
    /// Accepts and closes immediately.
    HangsUp,
}

/// Defects of CGMiner replies that occur in real firmware.
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
    /// The connection closes before the last brackets are sent.
    Truncated,
}

impl Malformation {
    /// Every defect.
    pub const ALL: [Self; 5] = [
        Self::MissingComma,
        Self::TrailingNuls,
        Self::ControlCharacters,
        Self::TrailingComma,
        Self::Truncated,
    ];
}

/// The ports of the services of a ready-made site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// The port of the CGMiner API.
    pub cgminer: u16,
    /// The port of HTTP.
    pub http: u16,
}

impl Ports {
    /// The ports of real devices. Port 80 requires a privileged process.
    pub const REAL: Self = Self {
        cgminer: 4028,
        http: 80,
    };
    /// Ports that any process may bind.
    pub const UNPRIVILEGED: Self = Self {
        cgminer: 4028,
        http: 8080,
    };
}

impl Service {
    /// The delay before each answer.
    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms)
    }
}

impl Site {
    /// Reads a description from JSON.
    ///
    /// # Errors
    /// [`SiteError::Json`] if the text is not a site, otherwise the errors of [`Site::check`].
    pub fn from_json(text: &str) -> Result<Self, SiteError> {
        let site: Self = serde_json::from_str(text)?;
        site.check()?;
        Ok(site)
    }

    /// Writes the description as JSON for [`Site::from_json`].
    ///
    /// # Errors
    /// [`SiteError::Json`]. A site that passed [`Site::check`] never fails.
    pub fn to_json(&self) -> Result<String, SiteError> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// Checks that services have distinct endpoints and valid ports.
    ///
    /// # Errors
    /// Returns the first invalid endpoint.
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

    /// All ports on which devices listen, ascending. A scan of this site should use them.
    pub fn ports(&self) -> Vec<u16> {
        let ports: BTreeSet<u16> = self
            .devices
            .iter()
            .flat_map(|device| device.services.iter().map(|service| service.port))
            .collect();
        ports.into_iter().collect()
    }

    /// The addresses of all devices, ascending.
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

/// Why a description is invalid.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// The text is not JSON, or does not have the fields of a site.
    #[error("the site description cannot be read")]
    Json(#[from] serde_json::Error),
    /// Two services have the same endpoint.
    #[error("{address} port {port} is described twice; give each device its own address")]
    Twice {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
    },
    /// A service has port 0.
    #[error("{address} has a service on port 0; use 1 to 65535")]
    PortZero {
        /// The address.
        address: IpAddr,
    },
    /// The network has fewer host addresses than devices.
    #[error(
        "{network} has {room} usable addresses, {devices} devices do not fit; use a wider network or fewer devices"
    )]
    NoRoom {
        /// The requested network.
        network: ipnetwork::Ipv4Network,
        /// The capacity of the network in devices.
        room: usize,
        /// The requested number of devices.
        devices: usize,
    },
}
