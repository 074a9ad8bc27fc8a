//! How a node reaches its server: which URLs it accepts, and the channel. Start with [`open`].

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use fleet_core::parse_literal;
use fleet_wire::{
    Timestamp,
    client::{Channel, ChannelConfig, ChannelError, Roots},
};
use http::Uri;

/// The largest message taken from a server: a command's payload of 1 MiB, and as much again for what is around it.
const MOST: usize = 2 << 20;

/// Why a server cannot be talked to at all.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Secrets would travel readable for anybody on the way.
    #[error(
        "{url} is plain HTTP to another machine, which would show the node's keys to anybody on the way: use https://, or pass --allow-insecure-transport on a network you trust"
    )]
    Insecure {
        /// The server.
        url: String,
    },
    /// URL or certificates cannot be used.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

/// Where a server is and whom to trust on the way to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerAddress<'a> {
    pub(crate) url: &'a str,
    pub(crate) ca_file: Option<&'a PathBuf>,
    pub(crate) allow_insecure: bool,
}

/// Prepares the channel; nothing is dialed yet.
///
/// # Errors
///
/// [`TransportError`]: the URL is none, or plain HTTP beyond this machine; the CA file cannot be used.
pub(crate) fn open(server: ServerAddress<'_>) -> Result<Channel, TransportError> {
    let roots = server.ca_file.cloned().map_or(Roots::System, Roots::File);
    let config = ChannelConfig {
        roots,
        max_response: MOST,
        ..ChannelConfig::default()
    };
    let channel = Channel::new(server.url, &config)?;
    // The channel has refused what is no URL.
    let uri: Option<Uri> = server.url.parse().ok();
    let plain = uri
        .as_ref()
        .is_none_or(|uri| uri.scheme_str() != Some("https"));
    let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
    if plain && !server.allow_insecure && !is_this_machine(host) {
        return Err(TransportError::Insecure {
            url: server.url.to_owned(),
        });
    }
    Ok(channel)
}

/// The time of day, for messages that carry it; no deadline is measured by it.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

/// Whether a host of a URL can only be this machine.
fn is_this_machine(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || parse_literal(literal).is_some_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_only() {
        let open = |url, allow_insecure| {
            open(ServerAddress {
                url,
                ca_file: None,
                allow_insecure,
            })
        };
        for url in [
            "http://127.0.0.1:8420",
            "http://localhost:1/prefix",
            "http://[::1]:8420",
            "http://127.9.9.9",
        ] {
            assert!(open(url, false).is_ok(), "{url}");
        }
        for url in [
            "http://10.0.0.1:8420",
            "http://fleet.example",
            "http://localhost.example",
            "http://127.1:80",
        ] {
            let refused = open(url, false).expect_err(url);
            assert!(
                matches!(refused, TransportError::Insecure { .. }),
                "{url}: {refused}"
            );
            assert!(open(url, true).is_ok(), "{url}");
        }
        for url in [
            "",
            "fleet.example",
            "ftp://fleet.example",
            "http://user@localhost",
        ] {
            assert!(
                matches!(open(url, true), Err(TransportError::Channel(_))),
                "{url}"
            );
        }
    }
}
