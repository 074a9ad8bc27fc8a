//! One device of a report: the schema check that converts wire text to values. Scope, address class, quota
//! and ownership are checked elsewhere.

use std::{fmt, str::FromStr};

use crate::{
    DeviceFacts, DeviceIdentifier, Endpoint, NodeId, auto_identifier, canonical, facts::EVIDENCE,
    parse_literal, text,
};

/// The unchecked fields of a reported device.
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
    /// Extension of this product: a MAC in any spelling; may be empty.
    pub mac: &'a str,
    /// Extension of this product: a serial; may be empty.
    pub serial: &'a str,
    /// Extension of this product: the evidence that identified the device, at most 512 characters.
    pub evidence: &'a str,
    /// Extension of this product: the name of the host; may be empty. An invalid name is an unknown fact.
    pub host_name: &'a str,
    /// The source of the name.
    pub host_name_source: &'a str,
}

/// One device of a report whose every field is well-formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceReport {
    /// The identifier as sent, for comparing a repeated row.
    pub sent_identifier: String,
    /// The endpoint that the node dialed.
    pub endpoint: Endpoint,
    /// Facts about the device. The driver is not empty. The evidence includes a sent identifier of unknown
    /// kind.
    pub facts: DeviceFacts,
}

/// Why one device of a report was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectReason {
    /// The identifier is empty, too long, or has control characters.
    Identifier,
    /// The address is not an address literal.
    Address,
    /// The port is not canonical.
    Port,
    /// The scheme is not well-formed.
    Scheme,
    /// The driver name is empty, too long, or has control characters.
    Driver,
    /// Another text is too long or has control characters.
    Text,
    /// The command does not include the address.
    AddressOutOfScope,
    /// The command does not include the port.
    PortOutOfScope,
    /// The class of the address is never scanned.
    AddressClass,
    /// The command already reported another identifier at the endpoint.
    AlreadyReported,
    /// The record belongs to another live node.
    OwnedByOtherNode,
    /// The record belongs to a revoked node, and only its MAC or serial speaks for the reporter.
    OwnedByRevokedNode,
    /// The record is bound to another node.
    BoundToOtherNode,
    /// The record is paired by the server.
    PairedByServer,
    /// The server itself found the device, so no node may claim it.
    Unattributed,
    /// Two strong identities contradict each other.
    IdentityConflict,
}

impl RejectReason {
    /// Every reason.
    pub const ALL: [Self; 16] = [
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
        Self::OwnedByRevokedNode,
        Self::BoundToOtherNode,
        Self::PairedByServer,
        Self::Unattributed,
        Self::IdentityConflict,
    ];

    /// Returns the name that counts use.
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
            Self::OwnedByRevokedNode => "owned by a revoked node",
            Self::BoundToOtherNode => "bound to another node",
            Self::PairedByServer => "paired by the server",
            Self::Unattributed => "found by the server itself",
            Self::IdentityConflict => "identity conflict",
        }
    }

    /// Whether the report itself is in order, and the device in it belongs to another owner.
    pub fn is_ownership(self) -> bool {
        match self {
            Self::OwnedByOtherNode
            | Self::OwnedByRevokedNode
            | Self::BoundToOtherNode
            | Self::PairedByServer
            | Self::Unattributed
            | Self::IdentityConflict => true,
            Self::Identifier
            | Self::Address
            | Self::Port
            | Self::Scheme
            | Self::Driver
            | Self::Text
            | Self::AddressOutOfScope
            | Self::PortOutOfScope
            | Self::AddressClass
            | Self::AlreadyReported => false,
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
        if raw.identifier.is_empty() || !text::fits(raw.identifier, 255) {
            return Err(RejectReason::Identifier);
        }
        let ip = parse_literal(raw.ip).ok_or(RejectReason::Address)?;
        let port = raw.port.parse().map_err(|_| RejectReason::Port)?;
        let facts = DeviceFacts::parse(&raw)?;
        if facts.driver.is_empty() {
            return Err(RejectReason::Driver);
        }
        let mut report = Self {
            sent_identifier: raw.identifier.to_owned(),
            endpoint: Endpoint {
                ip: canonical(ip),
                port,
            },
            facts,
        };
        // Upstream nodes have no extension fields. Their MAC or serial is in the identifier only.
        report.read_identifier();
        Ok(report)
    }

    /// Creates the report of a device that this process found itself, with the bounds of every report.
    ///
    /// # Errors
    ///
    /// The first field that is not well-formed, as a [`RejectReason`].
    pub fn new(node: NodeId, endpoint: Endpoint, facts: DeviceFacts) -> Result<Self, RejectReason> {
        facts.check()?;
        if facts.driver.is_empty() {
            return Err(RejectReason::Driver);
        }
        Ok(Self {
            sent_identifier: facts.identifier(node, endpoint).to_string(),
            endpoint,
            facts: facts.visible(),
        })
    }

    /// Takes the MAC or serial from the sent identifier if the extension fields lack it. An identifier of unknown
    /// kind is kept as evidence.
    fn read_identifier(&mut self) {
        let facts = &mut self.facts;
        match self.sent_identifier.parse() {
            Ok(DeviceIdentifier::Mac(mac)) => facts.mac = facts.mac.or(Some(mac)),
            Ok(DeviceIdentifier::Serial(serial)) => {
                facts.serial = facts.serial.take().or(Some(serial));
            }
            Ok(DeviceIdentifier::Auto(_)) => {}
            Err(_) => {
                let sent = format!("identifier {}", text::visible(&self.sent_identifier));
                let all = match facts.evidence.as_str() {
                    "" => sent,
                    known => format!("{known}; {sent}"),
                };
                facts.evidence = all.chars().take(EVIDENCE).collect();
            }
        }
    }

    /// Returns the identifier under which the server keeps the device. An `auto:` identifier is computed from
    /// the id of the reporting node; the sent one is ignored.
    pub fn identifier(&self, node: NodeId) -> DeviceIdentifier {
        self.facts.identifier(node, self.endpoint)
    }

    /// Returns every identifier that the report shows, strongest first. The last one is `auto:`.
    pub fn identifiers(&self, node: NodeId) -> impl Iterator<Item = DeviceIdentifier> {
        let DeviceFacts {
            mac,
            serial,
            driver,
            model,
            ..
        } = &self.facts;
        let mac = mac.filter(|mac| !mac.is_placeholder());
        let auto = auto_identifier(node, self.endpoint, driver, model);
        mac.map(DeviceIdentifier::Mac)
            .into_iter()
            .chain(serial.clone().map(DeviceIdentifier::Serial))
            .chain([auto])
    }
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
        assert_eq!(report.facts.evidence, "identifier uuid:1");
        let report = DeviceReport::parse(RawDeviceReport {
            identifier: "uuid:1",
            evidence: "title Antminer",
            ..good()
        })
        .expect("well-formed");
        assert_eq!(report.facts.evidence, "title Antminer; identifier uuid:1");
        assert_eq!(
            report.identifier(NodeId(1)).to_string(),
            "auto:bc7e693e1d31d8f6"
        );
    }

    #[test]
    fn hidden_and_reordering_characters_leave_a_mark() {
        let report = DeviceReport::parse(RawDeviceReport {
            identifier: "uuid:\u{202e}1",
            model: "S19\u{200b}",
            manufacturer: "\u{2066}Bitmain",
            firmware: "1\u{e0041}",
            evidence: "title \u{feff}x",
            ..good()
        })
        .expect("well-formed");
        let facts = report.facts;
        assert_eq!(
            [&*facts.model, &*facts.manufacturer, &*facts.firmware],
            ["S19\u{fffd}", "\u{fffd}Bitmain", "1\u{fffd}"]
        );
        assert_eq!(facts.evidence, "title \u{fffd}x; identifier uuid:\u{fffd}1");
        // A node of ours cleans its own reports too.
        let facts = DeviceFacts {
            driver: "http".into(),
            model: "S\u{202e}19".into(),
            ..DeviceFacts::default()
        };
        let own = DeviceReport::new(NodeId(1), report.endpoint, facts).expect("well-formed");
        assert_eq!(own.facts.model, "S\u{fffd}19");
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
