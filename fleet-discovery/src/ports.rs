//! The ports of a request: decimals and ranges such as `80,443,4028-4030`, each port once, at most 64 for a scan.

use fleet_core::{InvalidPort, Port, limits};

/// Why a port list cannot be scanned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortsError {
    /// An entry is not a port.
    #[error(transparent)]
    Invalid(#[from] InvalidPort),
    /// A range whose first port is above its last.
    #[error("`{0}` is not a range of ports: write the lower port first, such as 4028-4030")]
    RangeOrder(String),
    /// Too many different ports.
    #[error(
        "{count} different ports are requested, and a scan takes at most {}: start several scans",
        limits::SCAN_PORTS
    )]
    TooMany {
        /// Number of different ports.
        count: usize,
    },
}

/// Reads ports in the order in which they were written, each port once. No texts yield no ports.
///
/// # Errors
///
/// The first entry that is not a port, or with which there are more than 64 different ones.
pub fn parse_ports<S: AsRef<str>>(texts: &[S]) -> Result<Vec<Port>, PortsError> {
    let mut seen = std::collections::BTreeSet::new();
    let mut ports = Vec::new();
    for text in texts.iter().map(AsRef::as_ref) {
        let mut entries = text
            .split(|c: char| c.is_whitespace() || c == ',')
            .filter(|entry| !entry.is_empty())
            .peekable();
        if entries.peek().is_none() {
            // An empty text is an invalid port.
            port(text)?;
        }
        for entry in entries {
            ports.extend(range(entry)?.filter(|port| seen.insert(*port)));
            // Checked at once: a request has room for thousands of ranges of 65,535 ports.
            if ports.len() > limits::SCAN_PORTS {
                return Err(PortsError::TooMany { count: ports.len() });
            }
        }
    }
    Ok(ports)
}

/// The ports of `4028` or `4028-4030`.
fn range(entry: &str) -> Result<impl Iterator<Item = Port>, PortsError> {
    let (first, last) = match entry.split_once('-') {
        Some((first, last)) if first.contains(|c: char| c.is_ascii_digit()) => {
            (port(first)?, port(last)?)
        }
        Some(_) | None => {
            let port = port(entry)?;
            (port, port)
        }
    };
    if first > last {
        // Not escaped, because both parts are ports.
        return Err(PortsError::RangeOrder(entry.chars().take(16).collect()));
    }
    Ok((first.number()..=last.number()).filter_map(Port::new))
}

/// The port of a text. Upstream takes a sign and leading zeros: `+80` and `080` mean 80.
fn port(text: &str) -> Result<Port, InvalidPort> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    let canonical = digits.trim_start_matches('0');
    // The error names the port as it was written.
    canonical.parse().or_else(|_| text.parse())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_keep_their_order_and_lose_repetitions() {
        let ports = parse_ports(&["4028", "80", "4028", "443"]).expect("ports");
        assert_eq!(
            ports.iter().map(|p| p.number()).collect::<Vec<_>>(),
            [4028, 80, 443]
        );
        assert_eq!(parse_ports::<&str>(&[]), Ok(vec![]));
    }

    #[test]
    fn lists_and_ranges_can_be_written_in_one_text() {
        let ports = parse_ports(&["80,443, 4028-4030", "80"]).expect("ports");
        assert_eq!(
            ports.iter().map(|port| port.number()).collect::<Vec<_>>(),
            [80, 443, 4028, 4029, 4030]
        );
        assert_eq!(
            parse_ports(&["4030-4028"]),
            Err(PortsError::RangeOrder("4030-4028".to_owned()))
        );
        assert_eq!(
            parse_ports(&["1-65535"]),
            Err(PortsError::TooMany { count: 65_535 })
        );
    }

    #[test]
    fn the_offending_port_is_named() {
        for text in [
            "80/tcp", "0", "000", "+0", "+", "++80", "-80", "0x50", "70000", "",
        ] {
            let error = parse_ports(&["80", text]).expect_err(text).to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }

    #[test]
    fn a_sign_and_leading_zeros_do_not_matter() {
        let ports = parse_ports(&["080", "+80,0443", "04028-+4030"]).expect("ports");
        assert_eq!(
            ports.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["80", "443", "4028", "4029", "4030"]
        );
    }

    #[test]
    fn different_ports_are_counted_not_entries() {
        let numbers = |last: u16| (1..=last).map(|n| n.to_string()).collect::<Vec<_>>();
        assert!(parse_ports(&[numbers(64), numbers(64)].concat()).is_ok());
        assert_eq!(
            parse_ports(&numbers(65)),
            Err(PortsError::TooMany { count: 65 })
        );
    }
}
