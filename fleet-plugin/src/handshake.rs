//! The line with which a plugin begins: where it listens. Pure. Start with [`Address::parse`].

use std::{net::SocketAddr, path::PathBuf};

use crate::lines::escaped;

/// Longest first line, in bytes. A certificate in it, the only long part, would be about 2,000; none is accepted.
pub(crate) const LINE: usize = 4_096;
/// Longest path of a Unix socket, in bytes (`sun_path` on Linux, without the final NUL).
const SOCKET_PATH: usize = 107;
/// As much of a wrong line is shown, in characters.
const SHOWN: usize = 80;
/// What a right line looks like.
const FORM: &str = "`1|1|tcp|127.0.0.1:PORT|grpc` or `1|1|unix|PATH|grpc`";

/// Where a plugin listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// On loopback.
    Tcp(SocketAddr),
    /// An absolute path.
    Unix(PathBuf),
}

/// Why a first line is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error(
        "its first line on standard output is `{0}`, not {FORM}: nothing else may come before that"
    )]
    Malformed(String),
    #[error("its first line on standard output has more than {LINE} bytes; it should be {FORM}")]
    TooLong,
    #[error("it speaks version `{0}` of the handshake, this node version 1")]
    Core(String),
    #[error("it speaks version `{0}` of the driver protocol, this node version 1")]
    App(String),
    #[error("it speaks `{0}`, this node grpc")]
    Protocol(String),
    #[error("it listens on a `{0}` network: tcp and unix are known")]
    Network(String),
    #[error("it listens at `{0}`: a loopback address with a port is needed")]
    NotLoopback(String),
    #[error("it listens at `{0}`: an absolute path of at most {SOCKET_PATH} bytes is needed")]
    NotASocket(String),
    #[error("it wants TLS, though it was not asked to")]
    Tls,
}

impl Address {
    /// Reads a line of `core|app|network|address|protocol[|certificate[|multiplexed]]`, without its end.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`], naming the part that is wrong.
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
    fn a_plugin_says_where_it_listens() {
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
    fn a_wrong_line_is_refused_by_the_part_that_is_wrong() {
        for (line, named) in [
            ("", "not `1|1|tcp"),
            ("listening on 10007", "listening on 10007"),
            ("1|1|tcp|127.0.0.1:10007", "nothing else may come before"),
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
        fn any_line_is_read_or_refused(line in "[12]\\|[12]\\|(tcp|unix)\\|\\PC{0,20}\\|grpc\\|?") {
            fuzz(line.as_bytes());
        }
    }
}
