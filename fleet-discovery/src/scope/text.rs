//! The text of a scope: `1|kind|addresses|ports`. The leading number is the version of the format.
//!
//! | kind | addresses |
//! |---|---|
//! | `exact`, `announced` | an address list |
//! | `pinned` | `name=?`, `name=10.0.0.7+10.0.0.8` or `name=!reason`, joined by commas |
//! | `subnet` | `?` or the aligned /22 |
//! | `unpinned` | `name=` and the addresses seen, joined by `+` |
//!
//! Ports are numbers joined by commas, after `~` if announced and after `*` if open.

use std::{fmt, net::IpAddr, str::FromStr};

use fleet_core::{Port, limits, parse_literal};

use super::{
    Addresses, Ports, Scope,
    pins::{Answer, Pin},
    subnet_of,
};
use crate::{HostName, shown::shown};

/// Maximum length in bytes of a text that is parsed: 65,536 single addresses at 40 bytes each, with a margin.
const MOST: usize = 4 << 20;

/// A stored text that is not a scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{input}` is not a scope: {part}")]
pub struct InvalidScope {
    input: String,
    part: &'static str,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("1|")?;
        match &self.addresses {
            Addresses::Exact(list) => write!(f, "exact|{list}")?,
            Addresses::Announced(list) => write!(f, "announced|{list}")?,
            Addresses::Pinned(pins) => {
                f.write_str("pinned|")?;
                for (at, pin) in pins.iter().enumerate() {
                    let comma = if at > 0 { "," } else { "" };
                    write!(f, "{comma}{}=", pin.name())?;
                    match pin.answer() {
                        Answer::None => f.write_str("?")?,
                        Answer::Addresses(addresses) => joined(f, addresses, "+")?,
                        Answer::Skipped(reason) => write!(f, "!{}", Encoded(reason))?,
                    }
                }
            }
            Addresses::Subnet(None) => f.write_str("subnet|?")?,
            Addresses::Subnet(Some(network)) => write!(f, "subnet|{}", network.network())?,
            Addresses::Unpinned(name, seen) => {
                write!(f, "unpinned|{name}=")?;
                joined(f, seen, "+")?;
            }
        }
        f.write_str("|")?;
        match &self.ports {
            Ports::Exact(ports) => joined(f, ports, ","),
            Ports::Announced(ports) => f.write_str("~").and_then(|()| joined(f, ports, ",")),
            Ports::Open(ports) => f.write_str("*").and_then(|()| joined(f, ports, ",")),
        }
    }
}

fn joined<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T], glue: &str) -> fmt::Result {
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            f.write_str(glue)?;
        }
        item.fmt(f)?;
    }
    Ok(())
}

/// Writes the bytes that are not printable ASCII, and those that the format uses, as `%XX`.
struct Encoded<'a>(&'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'%' | b'|' | b',' | b'=' => write!(f, "%{byte:02X}")?,
                b' '..=b'~' => write!(f, "{}", char::from(byte))?,
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, after)) = rest.split_once('%') {
        bytes.extend_from_slice(plain.as_bytes());
        bytes.push(u8::from_str_radix(after.get(..2)?, 16).ok()?);
        rest = after.get(2..)?;
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).ok()
}

impl FromStr for Scope {
    type Err = InvalidScope;

    /// Reads only what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = |part| InvalidScope {
            input: shown(text),
            part,
        };
        if text.len() > MOST {
            return Err(refused("it is too long"));
        }
        let mut parts = text.split('|');
        let (Some("1"), Some(kind), Some(addresses), Some(ports), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(refused("expected `1|kind|addresses|ports`"));
        };
        let scope = Self {
            addresses: read_addresses(kind, addresses).ok_or_else(|| refused("its addresses"))?,
            ports: read_ports(ports).ok_or_else(|| refused("its ports"))?,
        };
        if scope.to_string() == text {
            Ok(scope)
        } else {
            Err(refused("it is not in canonical form"))
        }
    }
}

fn read_addresses(kind: &str, text: &str) -> Option<Addresses> {
    Some(match kind {
        "exact" => Addresses::Exact(text.parse().ok()?),
        "announced" => Addresses::Announced(text.parse().ok()?),
        "pinned" => Addresses::Pinned(read_pins(text)?),
        "subnet" if text == "?" => Addresses::Subnet(None),
        "subnet" => Addresses::Subnet(Some(subnet_of(parse_literal(text)?)?)),
        "unpinned" => {
            let (name, seen) = text.split_once('=')?;
            let seen = if seen.is_empty() {
                Vec::new()
            } else {
                read_seen(seen)?
            };
            Addresses::Unpinned(name.parse().ok()?, seen)
        }
        _ => return None,
    })
}

fn read_pins(text: &str) -> Option<Vec<Pin>> {
    let mut pins = Vec::new();
    for pin in text.split(',').filter(|_| !text.is_empty()) {
        let (name, answer) = pin.split_once('=')?;
        let name: HostName = name.parse().ok()?;
        let answer = match answer.strip_prefix('!') {
            Some(reason) => Answer::Skipped(decoded(reason)?),
            None if answer == "?" => Answer::None,
            None => Answer::Addresses(read_seen(answer)?),
        };
        pins.push(Pin::new(name, answer));
        if pins.len() > limits::COMMAND_TARGETS {
            return None;
        }
    }
    // `pin` finds the first of two equal names only, so
    // the second would wait for its answer for ever.
    let names: std::collections::BTreeSet<_> = pins.iter().map(Pin::name).collect();
    (names.len() == pins.len()).then_some(pins)
}

/// One to eight different addresses.
fn read_seen(text: &str) -> Option<Vec<IpAddr>> {
    let mut seen = Vec::new();
    for address in text.split('+') {
        let ip = fleet_core::canonical(parse_literal(address)?);
        if seen.contains(&ip) || seen.len() == limits::NAME_ADDRESSES {
            return None;
        }
        seen.push(ip);
    }
    Some(seen)
}

fn read_ports(text: &str) -> Option<Ports> {
    if let Some(seen) = text.strip_prefix('*') {
        return Some(Ports::Open(read_ascending(seen, limits::QUOTA_PORTS)?));
    }
    let (announced, text) = match text.strip_prefix('~') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let ports = read_ascending(text, limits::COMMAND_PORTS).filter(|ports| !ports.is_empty())?;
    Some(if announced {
        Ports::Announced(ports)
    } else {
        Ports::Exact(ports)
    })
}

fn read_ascending(text: &str, most: usize) -> Option<Vec<Port>> {
    let mut ports: Vec<Port> = Vec::new();
    for port in text.split(',').filter(|_| !text.is_empty()) {
        let port = port.parse().ok()?;
        if ports.last().is_some_and(|last| *last >= port) || ports.len() == most {
            return None;
        }
        ports.push(port);
    }
    Some(ports)
}
