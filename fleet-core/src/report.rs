//! One device as a node reports it: the schema check that turns wire text into values. Scope, class,
//! quota and ownership are judged elsewhere.

use std::{fmt, str::FromStr};

use crate::{DeviceIdentifier, Endpoint, Mac, NodeId, Serial, canonical, parse_literal};

/// The fields of a report as they came.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawDeviceReport<'a> {
    /// 1..=255 characters.
    pub identifier: &'a str,
    /// An address literal.
    pub ip: &'a str,
    /// Canonical decimal.
    pub port: &'a str,
    /// At most 32 characters of RFC 3986 scheme grammar; may be empty.
    pub scheme: &'a str,
    /// 1..=50 characters.
    pub driver: &'a str,
    /// At most 255 characters.
    pub model: &'a str,
    /// At most 255 characters.
    pub manufacturer: &'a str,
    /// At most 255 characters.
    pub firmware: &'a str,
    /// Our extension: a MAC in any spelling; may be empty.
    pub mac: &'a str,
    /// Our extension: a serial; may be empty.
    pub serial: &'a str,
    /// Our extension: what named the device, at most 512 characters.
    pub evidence: &'a str,
}

/// One device of a report whose every field is well-formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceReport {
    /// The identifier as sent, for comparing a repeated row.
    pub sent_identifier: String,
    /// Where the node dialed it.
    pub endpoint: Endpoint,
    /// Lower-case scheme; data, not a link.
    pub scheme: String,
    /// The driver that named it.
    pub driver: String,
    /// May be empty: not known.
    pub model: String,
    /// May be empty: not known.
    pub manufacturer: String,
    /// May be empty: not known.
    pub firmware: String,
    /// No placeholder.
    pub mac: Option<Mac>,
    /// No placeholder.
    pub serial: Option<Serial>,
    /// What named it; an identifier of unknown kind is kept here too.
    pub evidence: String,
}

/// Why one device of a report was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectReason {
    /// Identifier empty, too long, or with control characters.
    Identifier,
    /// Not an address literal.
    Address,
    /// Not a canonical port.
    Port,
    /// Not a scheme.
    Scheme,
    /// Driver name empty, too long, or with control characters.
    Driver,
    /// Another text is too long or has control characters.
    Text,
    /// The address was not asked for.
    AddressOutOfScope,
    /// The port was not asked for.
    PortOutOfScope,
    /// The address is of a class that is never scanned.
    AddressClass,
    /// The command already reported another identifier there.
    AlreadyReported,
    /// The record belongs to another live node.
    OwnedByOtherNode,
    /// The record is bound to another node.
    BoundToOtherNode,
    /// The record is paired by the server.
    PairedByServer,
    /// The server found the record itself: no node may claim it.
    Unattributed,
    /// Two strong identities contradict each other.
    IdentityConflict,
}

impl RejectReason {
    /// Every reason.
    pub const ALL: [Self; 15] = [
        Self::Identifier,
        Self::Address,
        Self::Port,
        Self::Scheme,
        Self::Driver,
        Self::Text,
        Self::AddressOutOfScope,
        Self::PortOutOfScope,
        Self::AddressClass,
        Self::AlreadyReported,
        Self::OwnedByOtherNode,
        Self::BoundToOtherNode,
        Self::PairedByServer,
        Self::Unattributed,
        Self::IdentityConflict,
    ];

    /// The name that counts use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identifier => "bad identifier",
            Self::Address => "bad address",
            Self::Port => "bad port",
            Self::Scheme => "bad scheme",
            Self::Driver => "bad driver name",
            Self::Text => "bad text",
            Self::AddressOutOfScope => "address out of scope",
            Self::PortOutOfScope => "port out of scope",
            Self::AddressClass => "address class",
            Self::AlreadyReported => "already reported as another device",
            Self::OwnedByOtherNode => "owned by another node",
            Self::BoundToOtherNode => "bound to another node",
            Self::PairedByServer => "paired by the server",
            Self::Unattributed => "found by the server itself",
            Self::IdentityConflict => "identity conflict",
        }
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RejectReason {
    type Err = crate::UnknownState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.as_str() == text)
            .ok_or_else(|| crate::UnknownState::new(text))
    }
}

impl DeviceReport {
    /// Checks every field of a device report.
    ///
    /// # Errors
    ///
    /// The first field that is not well-formed, as a [`RejectReason`].
    pub fn parse(raw: RawDeviceReport<'_>) -> Result<Self, RejectReason> {
        let sent_identifier = text(raw.identifier, 255)
            .filter(|t| !t.is_empty())
            .ok_or(RejectReason::Identifier)?;
        let ip = parse_literal(raw.ip).ok_or(RejectReason::Address)?;
        let port = raw.port.parse().map_err(|_| RejectReason::Port)?;
        let scheme = scheme(raw.scheme).ok_or(RejectReason::Scheme)?;
        let driver = text(raw.driver, 50)
            .filter(|t| !t.is_empty())
            .ok_or(RejectReason::Driver)?;
        let field = |value, most| text(value, most).ok_or(RejectReason::Text);
        let mut report = Self {
            sent_identifier,
            endpoint: Endpoint {
                ip: canonical(ip),
                port,
            },
            scheme,
            driver,
            model: field(raw.model, 255)?,
            manufacturer: field(raw.manufacturer, 255)?,
            firmware: field(raw.firmware, 255)?,
            mac: field(raw.mac, 64)?
                .parse()
                .ok()
                .filter(|mac: &Mac| !mac.is_placeholder()),
            serial: Serial::new(&field(raw.serial, 255)?),
            evidence: field(raw.evidence, 512)?,
        };
        report.read_identifier();
        Ok(report)
    }

    /// Takes MAC or serial from the sent identifier where the extension fields do not give it, and
    /// keeps a text of unknown kind as evidence.
    fn read_identifier(&mut self) {
        match self.sent_identifier.parse() {
            Ok(DeviceIdentifier::Mac(mac)) => self.mac = self.mac.or(Some(mac)),
            Ok(DeviceIdentifier::Serial(serial)) => {
                self.serial = self.serial.take().or(Some(serial))
            }
            Ok(DeviceIdentifier::Auto(_)) => {}
            Err(_) => {
                let sent = format!("identifier {}", self.sent_identifier);
                self.evidence = match self.evidence.as_str() {
                    "" => sent,
                    known => format!("{known}; {sent}"),
                };
            }
        }
    }

    /// The identifier under which the server keeps the device: `auto:` is computed here from the
    /// reporting node's own id, whatever was sent.
    pub fn identifier(&self, node: NodeId) -> DeviceIdentifier {
        DeviceIdentifier::derive(
            self.mac,
            self.serial.as_ref(),
            node,
            self.endpoint,
            &self.driver,
            &self.model,
        )
    }
}

/// The text itself, if it has at most `most` characters and none of them is a control.
pub(crate) fn text(value: &str, most: usize) -> Option<String> {
    let fits = value.chars().take(most + 1).count() <= most && !value.chars().any(char::is_control);
    fits.then(|| value.to_owned())
}

/// A scheme by RFC 3986, 3.1, in lower case; empty stays empty.
fn scheme(value: &str) -> Option<String> {
    let mut bytes = value.bytes();
    let begins = bytes.next().is_none_or(|byte| byte.is_ascii_alphabetic());
    let goes_on =
        bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    (begins && goes_on && value.len() <= 32).then(|| value.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> RawDeviceReport<'static> {
        RawDeviceReport {
            identifier: "auto:1",
            ip: "10.0.0.7",
            port: "4028",
            driver: "antminer",
            model: "S19",
            ..RawDeviceReport::default()
        }
    }

    #[test]
    fn each_field_is_refused_by_its_own_reason() {
        let long = "x".repeat(256);
        for (raw, reason) in [
            (
                RawDeviceReport {
                    identifier: "",
                    ..good()
                },
                RejectReason::Identifier,
            ),
            (
                RawDeviceReport {
                    identifier: &long,
                    ..good()
                },
                RejectReason::Identifier,
            ),
            (
                RawDeviceReport {
                    ip: "10.0.0.07",
                    ..good()
                },
                RejectReason::Address,
            ),
            (
                RawDeviceReport {
                    ip: "fe80::1%eth0",
                    ..good()
                },
                RejectReason::Address,
            ),
            (
                RawDeviceReport {
                    port: "0",
                    ..good()
                },
                RejectReason::Port,
            ),
            (
                RawDeviceReport {
                    scheme: "java script",
                    ..good()
                },
                RejectReason::Scheme,
            ),
            (
                RawDeviceReport {
                    scheme: "1http",
                    ..good()
                },
                RejectReason::Scheme,
            ),
            (
                RawDeviceReport {
                    driver: "",
                    ..good()
                },
                RejectReason::Driver,
            ),
            (
                RawDeviceReport {
                    model: "a\u{1b}[31m",
                    ..good()
                },
                RejectReason::Text,
            ),
            (
                RawDeviceReport {
                    firmware: &long,
                    ..good()
                },
                RejectReason::Text,
            ),
        ] {
            assert_eq!(DeviceReport::parse(raw), Err(reason), "{raw:?}");
        }
        assert!(DeviceReport::parse(good()).is_ok());
    }

    #[test]
    fn lengths_count_code_points() {
        let model = "é".repeat(255);
        assert!(
            DeviceReport::parse(RawDeviceReport {
                model: &model,
                ..good()
            })
            .is_ok()
        );
    }

    #[test]
    fn the_server_computes_identities_itself() {
        let id =
            |raw| DeviceReport::parse(raw).map(|report| report.identifier(NodeId(1)).to_string());
        assert_eq!(id(good()), Ok("auto:bc7e693e1d31d8f6".into()));
        assert_eq!(
            id(RawDeviceReport {
                identifier: "mac:0200.5e10.000a",
                ..good()
            }),
            Ok("mac:02:00:5E:10:00:0A".into())
        );
        assert_eq!(
            id(RawDeviceReport {
                mac: "02-00-5e-10-00-0a",
                serial: "S1",
                ..good()
            }),
            Ok("mac:02:00:5E:10:00:0A".into())
        );
        assert_eq!(
            id(RawDeviceReport {
                mac: "00:00:00:00:00:00",
                serial: "S1",
                ..good()
            }),
            Ok("serial:S1".into())
        );
        assert_eq!(
            id(RawDeviceReport {
                identifier: "serial:0000",
                ..good()
            }),
            Ok("auto:bc7e693e1d31d8f6".into())
        );
    }

    #[test]
    fn an_unknown_kind_of_identifier_is_kept_as_evidence() {
        let report = DeviceReport::parse(RawDeviceReport {
            identifier: "uuid:1",
            ..good()
        })
        .expect("well-formed");
        assert_eq!(report.evidence, "identifier uuid:1");
        let report = DeviceReport::parse(RawDeviceReport {
            identifier: "uuid:1",
            evidence: "title Antminer",
            ..good()
        })
        .expect("well-formed");
        assert_eq!(report.evidence, "title Antminer; identifier uuid:1");
        assert_eq!(
            report.identifier(NodeId(1)).to_string(),
            "auto:bc7e693e1d31d8f6"
        );
    }

    #[test]
    fn a_mapped_address_is_stored_as_ipv4() {
        let report = DeviceReport::parse(RawDeviceReport {
            ip: "::ffff:10.0.0.7",
            ..good()
        })
        .expect("well-formed");
        assert_eq!(report.endpoint.to_string(), "10.0.0.7:4028");
    }

    #[test]
    fn reasons_round_trip() {
        for reason in RejectReason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(reason));
        }
    }
}
