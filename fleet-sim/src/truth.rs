//! The expected result of a read-only identification, written make by make and independently of any scanner.

use serde::{Deserialize, Serialize};

use crate::site::{Device, Make, Manner, Protocol, Service};

/// The expected result of a scan of given ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truth {
    /// It names itself without a login.
    Identified(Box<Identity>),
    /// It accepts connections on an asked port, but nothing there names a known make.
    Unidentified,
    /// It listens on none of the asked ports.
    Refused,
}

/// The identity that can be read without a login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The port whose answer names it.
    pub port: u16,
    /// The scheme of its web page.
    pub url_scheme: String,
    /// Name of the driver that such devices belong to.
    pub driver_name: String,
    /// Model, or empty when it does not say.
    pub model: String,
    /// Maker of the hardware, or of the firmware when only that is known.
    pub manufacturer: String,
    /// Firmware, with its name for aftermarket firmware; may be empty.
    pub firmware_version: String,
    /// Upper-case colon form.
    pub mac: Option<String>,
    /// As the device says it.
    pub serial: Option<String>,
}

impl Device {
    /// What a scan of `ports` should find. The CGMiner API goes before a web page, which adds what the API lacks.
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
            // The API shows the hash of a build, which is not a version.
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
    /// The API's identity, with what only the web page says.
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
