//! The port list of a request: canonical decimals, deduplicated, at most 64 for a scan.

use fleet_core::{InvalidPort, Port, limits};

/// Why a port list cannot be scanned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortsError {
    /// An entry is not a port.
    #[error(transparent)]
    Invalid(#[from] InvalidPort),
    /// Too many different ports.
    #[error(
        "{count} different ports are asked for: a scan takes {} at most, start several scans",
        limits::SCAN_PORTS
    )]
    TooMany {
        /// How many.
        count: usize,
    },
}

/// Reads a port list in the order of the operator, each port once; an empty list stays empty.
///
/// # Errors
///
/// The first entry that is not a port, or more than 64 different ones.
pub fn parse_ports<S: AsRef<str>>(texts: &[S]) -> Result<Vec<Port>, PortsError> {
    let mut seen = std::collections::BTreeSet::new();
    let mut ports = Vec::new();
    for text in texts {
        let port: Port = text.as_ref().parse()?;
        if seen.insert(port) {
            ports.push(port);
        }
    }
    if ports.len() > limits::SCAN_PORTS {
        return Err(PortsError::TooMany { count: ports.len() });
    }
    Ok(ports)
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
    fn the_offending_port_is_named() {
        for text in ["80/tcp", "0", "70000", "", "080"] {
            let error = parse_ports(&["80", text]).expect_err(text).to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
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
