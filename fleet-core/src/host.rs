//! Hosts that answered a scan and that no driver identified, and names of hosts. The values are evidence for people:
//! no decision depends on them. Start with [`HostReport`].

use std::{fmt, net::IpAddr, str::FromStr};

use crate::{Mac, Port, RejectReason, UnknownState, canonical, limits, parse_literal, text};

/// The longest first reply of a host, in characters.
const REPLY: usize = 512;
/// The longest description of a request, in characters.
const REQUEST: usize = 128;
/// The most requests of a host.
const REQUESTS: usize = 16;

/// A name of a host, with the protocol that told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedBy {
    /// The name in lower case: letters, digits, hyphens, underscores and dots, at most 253 characters.
    pub name: String,
    /// Where the name comes from.
    pub source: NameSource,
}

/// The source of a host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NameSource {
    /// The site's resolver answered a reverse query.
    ReverseDns,
    /// The host answered or announced itself by multicast DNS.
    Mdns,
}

impl NameSource {
    /// Every source.
    pub const ALL: [Self; 2] = [Self::ReverseDns, Self::Mdns];

    /// The name in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReverseDns => "dns",
            Self::Mdns => "mdns",
        }
    }
}

impl fmt::Display for NameSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for NameSource {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|source| source.as_str() == text)
            .ok_or_else(|| UnknownState::new(text))
    }
}

impl NamedBy {
    /// Takes a name from a response. None if it holds another character than a host name may have, is longer than one
    /// may be, or spells an address.
    pub fn new(name: &str, source: NameSource) -> Option<Self> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_name = !name.is_empty()
            && name.len() <= 253
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
            && name
                .split('.')
                .all(|label| (1..=63).contains(&label.len()) && !label.starts_with('-'))
            // A name of digits and dots would pass for an address.
            && name.bytes().any(|byte| byte.is_ascii_alphabetic());
        is_name.then(|| Self {
            name: name.to_ascii_lowercase(),
            source,
        })
    }

    /// Returns the name; empty for none.
    pub fn name_of(known: Option<&Self>) -> String {
        known.map_or_else(String::new, |known| known.name.clone())
    }

    /// Returns the source of the name; empty for none.
    pub fn source_of(known: Option<&Self>) -> String {
        known.map_or_else(String::new, |known| known.source.to_string())
    }

    /// Reads the two fields of a report. None if either is empty or invalid.
    pub fn parse(name: &str, source: &str) -> Option<Self> {
        Self::new(name, source.parse().ok()?)
    }
}

impl fmt::Display for NamedBy {
    /// The source and the name, which [`str::parse`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.name)
    }
}

impl FromStr for NamedBy {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = text
            .split_once(':')
            .and_then(|(source, name)| Self::parse(name, source));
        read.ok_or_else(|| UnknownState::new(text))
    }
}

/// The unchecked fields of a reported host.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawHostReport<'a> {
    /// An address literal.
    pub ip: &'a str,
    /// A MAC in any spelling; may be empty.
    pub mac: &'a str,
    /// The host name; may be empty.
    pub name: &'a str,
    /// The source of the name.
    pub name_source: &'a str,
    /// 1 to 64 ports that accepted a connection.
    pub open_ports: &'a [u32],
    /// The port of the reply; 0 if no port replied.
    pub reply_port: u32,
    /// At most 512 characters.
    pub reply: &'a str,
    /// At most 16, each of at most 128 characters.
    pub requests: &'a [String],
}

/// A host that answered and that no driver identified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostReport {
    /// The address that was dialed.
    pub ip: IpAddr,
    /// The hardware address, if the host is on a link of the node.
    pub mac: Option<Mac>,
    /// The name of the host.
    pub name: Option<NamedBy>,
    /// The ports that accepted a connection, ascending, at least one.
    pub open_ports: Vec<Port>,
    /// The port that sent the reply.
    pub reply_port: Option<Port>,
    /// The first bytes that the host sent, escaped; empty if it sent none.
    pub reply: String,
    /// The requests that were sent to it.
    pub requests: Vec<String>,
}

impl HostReport {
    /// Checks every field of a reported host. A MAC or name that cannot be read is an unknown fact.
    ///
    /// # Errors
    ///
    /// The first field that is not well-formed.
    pub fn parse(raw: RawHostReport<'_>) -> Result<Self, RejectReason> {
        let ip = canonical(parse_literal(raw.ip).ok_or(RejectReason::Address)?);
        if raw.open_ports.is_empty() || raw.open_ports.len() > limits::SCAN_PORTS {
            return Err(RejectReason::Port);
        }
        let port = |number: u32| {
            let number = u16::try_from(number).map_err(|_| RejectReason::Port)?;
            Port::new(number).ok_or(RejectReason::Port)
        };
        let mut open_ports = raw
            .open_ports
            .iter()
            .map(|number| port(*number))
            .collect::<Result<Vec<_>, _>>()?;
        open_ports.sort_unstable();
        open_ports.dedup();
        let reply_port = match raw.reply_port {
            0 => None,
            number => Some(port(number)?),
        };
        if reply_port.is_some_and(|port| !open_ports.contains(&port)) {
            return Err(RejectReason::Port);
        }
        let fit = text::fits(raw.reply, REPLY)
            && text::fits(raw.mac, 64)
            && raw.requests.len() <= REQUESTS
            && raw
                .requests
                .iter()
                .all(|request| text::fits(request, REQUEST));
        if !fit {
            return Err(RejectReason::Text);
        }
        let visible = |text: &str| text::visible(text).into_owned();
        Ok(Self {
            ip,
            mac: raw
                .mac
                .parse()
                .ok()
                .filter(|mac: &Mac| !mac.is_placeholder()),
            name: NamedBy::parse(raw.name, raw.name_source),
            open_ports,
            reply_port,
            reply: visible(raw.reply),
            requests: raw.requests.iter().map(|text| visible(text)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> RawHostReport<'static> {
        RawHostReport {
            ip: "10.0.0.7",
            mac: "02-00-5e-00-00-07",
            name: "Printer.Lan.",
            name_source: "dns",
            open_ports: &[443, 80, 80],
            reply_port: 80,
            reply: "HTTP 200, title Boiler",
            requests: &[],
        }
    }

    #[test]
    fn a_host_report_is_cleaned() {
        let host = HostReport::parse(good()).expect("a host");
        assert_eq!(
            host.open_ports,
            [80, 443].map(|port| Port::new(port).expect("a port"))
        );
        assert_eq!(
            host.mac.map(|mac| mac.to_string()).as_deref(),
            Some("02:00:5E:00:00:07")
        );
        let name = host.name.expect("a name");
        assert_eq!(
            (&*name.name, name.source),
            ("printer.lan", NameSource::ReverseDns)
        );
        let hidden = HostReport::parse(RawHostReport {
            reply: "S\u{202e}19",
            mac: "not a MAC",
            ..good()
        })
        .expect("a host");
        assert_eq!((&*hidden.reply, hidden.mac), ("S\u{fffd}19", None));
    }

    #[test]
    fn each_field_is_refused_by_its_own_reason() {
        let long = "x".repeat(513);
        let many: Vec<u32> = (1..=65).collect();
        let requests = vec!["x".repeat(129)];
        for (raw, reason) in [
            (
                RawHostReport {
                    ip: "10.0.0.07",
                    ..good()
                },
                RejectReason::Address,
            ),
            (
                RawHostReport {
                    open_ports: &[],
                    ..good()
                },
                RejectReason::Port,
            ),
            (
                RawHostReport {
                    open_ports: &[80, 0],
                    ..good()
                },
                RejectReason::Port,
            ),
            (
                RawHostReport {
                    open_ports: &[80, 65_536],
                    ..good()
                },
                RejectReason::Port,
            ),
            (
                RawHostReport {
                    open_ports: &many,
                    ..good()
                },
                RejectReason::Port,
            ),
            (
                RawHostReport {
                    reply_port: 22,
                    ..good()
                },
                RejectReason::Port,
            ),
            (
                RawHostReport {
                    reply: &long,
                    ..good()
                },
                RejectReason::Text,
            ),
            (
                RawHostReport {
                    reply: "a\u{1b}[31m",
                    ..good()
                },
                RejectReason::Text,
            ),
            (
                RawHostReport {
                    requests: &requests,
                    ..good()
                },
                RejectReason::Text,
            ),
        ] {
            assert_eq!(HostReport::parse(raw), Err(reason), "{raw:?}");
        }
    }

    #[test]
    fn only_host_names_are_names() {
        for text in ["miner-7.lan", "bitaxe.local.", "NerdQAxe_1", "a1"] {
            assert!(NamedBy::new(text, NameSource::Mdns).is_some(), "{text}");
        }
        let long = format!("{}.lan", "x".repeat(64));
        for text in [
            "",
            ".",
            "a..b",
            "-a.lan",
            "10.0.0.7",
            "a b",
            "a\u{202e}b",
            "mäuse.lan",
            "<b>",
            &long,
        ] {
            assert_eq!(NamedBy::new(text, NameSource::Mdns), None, "{text}");
        }
        assert_eq!(NamedBy::parse("a.lan", "guess"), None);
        let known = NamedBy::new("a.lan", NameSource::Mdns).expect("a name");
        assert_eq!(known.to_string().parse(), Ok(known));
    }
}
