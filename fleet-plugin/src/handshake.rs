//! The first output line of a plugin, which contains its address. Pure. Start with [`Address::parse`].

use std::{net::SocketAddr, path::PathBuf};

use crate::lines::escaped;

/// Longest first line, in bytes. Only a certificate could make it long (about 2,000), and none is accepted.
pub(crate) const LINE: usize = 4_096;
/// Longest path of a Unix socket, in bytes (`sun_path` on Linux, without the final NUL).
const SOCKET_PATH: usize = 107;
/// Longest quotation of a wrong line, in characters.
const SHOWN: usize = 80;
/// The expected form of the line.
const FORM: &str = "`1|1|tcp|127.0.0.1:PORT|grpc` or `1|1|unix|PATH|grpc`";

/// The address of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A loopback address.
    Tcp(SocketAddr),
    /// The absolute path of a Unix socket.
    Unix(PathBuf),
}

/// Why a first line is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error(
        "its first line on standard output is `{0}`, not {FORM}; it must print that line before anything else"
    )]
    Malformed(String),
    #[error("its first line on standard output has more than {LINE} bytes; expected {FORM}")]
    TooLong,
    #[error("it uses version `{0}` of the handshake; this node supports version 1")]
    Core(String),
    #[error("it uses version `{0}` of the driver protocol; this node supports version 1")]
    App(String),
    #[error("it uses the protocol `{0}`; this node supports grpc")]
    Protocol(String),
    #[error("it listens on a `{0}` network; this node supports tcp and unix")]
    Network(String),
    #[error("it listens at `{0}`; a loopback address with a port is required")]
    NotLoopback(String),
    #[error("it listens at `{0}`; an absolute path of at most {SOCKET_PATH} bytes is required")]
    NotASocket(String),
    #[error("it requires TLS, which this node does not support for plugins")]
    Tls,
}

impl Address {
    /// Parses `core|app|network|address|protocol[|certificate[|multiplexed]]`, without the line end.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`] names the wrong part.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, HandshakeError> {
        if line.len() > LINE {
            return Err(HandshakeError::TooLong);
        }
        let malformed = || HandshakeError::Malformed(shown(line));
        let text = std::str::from_utf8(line).map_err(|_| malformed())?.trim();
        let mut parts = text.split('|');
        let mut part = || parts.next().ok_or_else(malformed);
        let (core, app, network, address, protocol) = (part()?, part()?, part()?, part()?, part()?);
        let (certificate, _multiplexed) = (parts.next().unwrap_or_default(), parts.next());
        if parts.next().is_some() {
            return Err(malformed());
        }
        let part = |text: &str| shown(text.as_bytes());
        if core != "1" {
            return Err(HandshakeError::Core(part(core)));
        }
        if app != "1" {
            return Err(HandshakeError::App(part(app)));
        }
        if protocol != "grpc" {
            return Err(HandshakeError::Protocol(part(protocol)));
        }
        if !certificate.is_empty() {
            return Err(HandshakeError::Tls);
        }
        match network {
            "tcp" => loopback(address).ok_or_else(|| HandshakeError::NotLoopback(part(address))),
            "unix" => socket(address).ok_or_else(|| HandshakeError::NotASocket(part(address))),
            other => Err(HandshakeError::Network(part(other))),
        }
    }
}

fn loopback(text: &str) -> Option<Address> {
    let address: SocketAddr = text.parse().ok()?;
    // Elsewhere, a plugin could direct the node's calls, passwords included, to another machine.
    let usable = address.ip().is_loopback() && address.port() != 0;
    usable.then_some(Address::Tcp(address))
}

fn socket(text: &str) -> Option<Address> {
    let usable = text.starts_with('/') && text.len() <= SOCKET_PATH && !text.contains('\0');
    usable.then(|| Address::Unix(text.into()))
}

fn shown(bytes: &[u8]) -> String {
    escaped(bytes, SHOWN)
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    match Address::parse(bytes) {
        Ok(Address::Tcp(address)) => assert!(address.ip().is_loopback() && address.port() != 0),
        Ok(Address::Unix(path)) => assert!(path.is_absolute()),
        Err(error) => assert!(!error.to_string().contains(char::is_control)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn valid_lines_contain_an_address() {
        let tcp = |text: &str| Address::Tcp(text.parse().expect("an address"));
        for (line, expected) in [
            ("1|1|tcp|127.0.0.1:10007|grpc", tcp("127.0.0.1:10007")),
            ("1|1|tcp|127.0.0.1:10007|grpc\r", tcp("127.0.0.1:10007")),
            ("1|1|tcp|127.0.0.1:10007|grpc|", tcp("127.0.0.1:10007")),
            ("1|1|tcp|[::1]:10007|grpc||false", tcp("[::1]:10007")),
            (
                "1|1|unix|/run/p/plugin123|grpc|",
                Address::Unix("/run/p/plugin123".into()),
            ),
        ] {
            assert_eq!(Address::parse(line.as_bytes()), Ok(expected), "{line}");
        }
    }

    #[test]
    fn a_wrong_line_is_rejected_naming_the_wrong_part() {
        for (line, named) in [
            ("", "not `1|1|tcp"),
            ("listening on 10007", "listening on 10007"),
            ("1|1|tcp|127.0.0.1:10007", "before anything else"),
            ("1|1|tcp|127.0.0.1:10007|grpc||true|more", "not `1|1|tcp"),
            (
                "2|1|tcp|127.0.0.1:10007|grpc",
                "version `2` of the handshake",
            ),
            ("1|2|tcp|127.0.0.1:10007|grpc", "version `2` of the driver"),
            ("1|1|tcp|127.0.0.1:10007|netrpc", "`netrpc`"),
            ("1|1|udp|127.0.0.1:10007|grpc", "`udp`"),
            ("1|1|tcp|10.0.0.7:10007|grpc", "10.0.0.7:10007"),
            ("1|1|tcp|0.0.0.0:10007|grpc", "0.0.0.0:10007"),
            ("1|1|tcp|127.0.0.1:0|grpc", "127.0.0.1:0"),
            ("1|1|tcp|localhost:10007|grpc", "localhost"),
            ("1|1|tcp|127.1:10007|grpc", "127.1"),
            ("1|1|unix|plugin.sock|grpc", "plugin.sock"),
            ("1|1|tcp|127.0.0.1:10007|grpc|MIIB", "TLS"),
            ("\u{1b}[31m1|1", "\\u{1b}"),
        ] {
            let refused = Address::parse(line.as_bytes()).expect_err(line).to_string();
            assert!(refused.contains(named), "{line}: {refused}");
        }
        let long = format!("1|1|unix|/{}|grpc", "x".repeat(SOCKET_PATH));
        assert!(matches!(
            Address::parse(long.as_bytes()),
            Err(HandshakeError::NotASocket(_))
        ));
        assert_eq!(
            Address::parse(&[b'1'; LINE + 1]),
            Err(HandshakeError::TooLong)
        );
        assert!(Address::parse(b"1|1|unix|/a\xff|grpc").is_err());
    }

    proptest! {
        #![proptest_config(fleet_core::regressions!("plugin-handshake", 256))]

        #[test]
        fn any_line_is_parsed_or_rejected(line in "[12]\\|[12]\\|(tcp|unix)\\|\\PC{0,20}\\|grpc\\|?") {
            fuzz(line.as_bytes());
        }
    }
}
