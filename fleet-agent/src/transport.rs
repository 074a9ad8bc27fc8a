//! The channel to the server, and the rules for its URL. Start with [`open`].

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

/// The largest accepted message: a command's payload of 1 MiB, and the same again for its envelope.
const MOST: usize = 2 << 20;

/// Why no channel can be created.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Plain HTTP would expose the node's secrets.
    #[error(
        "{url} is plain HTTP to another machine and would expose the node's keys; use https://, or pass --allow-insecure-transport on a trusted network"
    )]
    Insecure {
        /// The server.
        url: String,
    },
    /// The URL or the certificates cannot be used.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

/// The address of a server and the certificates to trust.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerAddress<'a> {
    pub(crate) url: &'a str,
    pub(crate) ca_file: Option<&'a PathBuf>,
    pub(crate) allow_insecure: bool,
}

/// Creates the channel without connecting.
///
/// # Errors
///
/// [`TransportError`]: the URL is invalid or plain HTTP to another machine, or the CA file cannot be used.
pub(crate) fn open(server: ServerAddress<'_>) -> Result<Channel, TransportError> {
    let roots = server.ca_file.cloned().map_or(Roots::System, Roots::File);
    let config = ChannelConfig {
        roots,
        max_response: MOST,
        ..ChannelConfig::default()
    };
    let channel = Channel::new(server.url, &config)?;
    // The channel has already rejected an invalid URL.
    let uri: Option<Uri> = server.url.parse().ok();
    let plain = uri
        .as_ref()
        .is_none_or(|uri| uri.scheme_str() != Some("https"));
    let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
    if plain && !server.allow_insecure && !is_loopback(host) {
        return Err(TransportError::Insecure {
            url: server.url.to_owned(),
        });
    }
    Ok(channel)
}

/// The wall-clock time for messages. Deadlines do not use it.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

/// Whether the host of a URL is certainly this machine.
fn is_loopback(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || parse_literal(literal).is_some_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_allowed_only_to_this_machine() {
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
