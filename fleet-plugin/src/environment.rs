//! The environment variables of a plugin. Pure. Start with [`environment`].

use std::{
    ffi::{OsStr, OsString},
    path::Path,
};

/// Variables that any program needs to find its files and use the right language. None belongs to the node.
const KEPT: [&str; 14] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    // Settings of upstream's plugins: the port of Proto rigs (in upstream's installation guide), the port of an
    // Antminer's page, and the list of virtual miners.
    "PROTO_MINER_PORT",
    "ANTMINER_WEB_PORT",
    "VIRTUAL_MINER_CONFIG",
];
/// Prefix of the other locale variables.
const LOCALE: &str = "LC_";

/// Variables that the plugin protocol requires. Without the first one, a plugin refuses to run.
const CONTRACT: [(&str, &str); 4] = [
    ("MINER_DRIVER_PLUGIN", "fleet-miner-driver"),
    ("PLUGIN_PROTOCOL_VERSIONS", "1"),
    ("PLUGIN_MIN_PORT", "10000"),
    ("PLUGIN_MAX_PORT", "25000"),
];
/// The folder in which plugins may create Unix sockets.
const SOCKETS: &str = "PLUGIN_UNIX_SOCKET_DIR";
/// Never passed on, because it makes some plugins use TLS.
const CERTIFICATE: &str = "PLUGIN_CLIENT_CERT";

/// Returns the complete environment of a plugin: the protocol's variables, the common ones from `own`, and those that
/// the operator listed in `more`.
pub(crate) fn environment(
    own: impl IntoIterator<Item = (OsString, OsString)>,
    more: &[OsString],
    sockets: Option<&Path>,
) -> Vec<(OsString, OsString)> {
    let is_set = |name: &OsStr| CONTRACT.iter().any(|(set, _)| name == *set) || name == SOCKETS;
    let is_kept = |name: &OsStr| {
        KEPT.iter().any(|kept| name == *kept)
            || more.iter().any(|named| named == name)
            || name.to_str().is_some_and(|name| name.starts_with(LOCALE))
    };
    let kept = own
        .into_iter()
        .filter(|(name, _)| is_kept(name) && !is_set(name) && name != CERTIFICATE);
    let set = CONTRACT.map(|(name, value)| (name.into(), value.into()));
    let sockets = sockets.map(|folder| (SOCKETS.into(), folder.into()));
    kept.chain(set).chain(sockets).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_gets_the_protocol_common_and_listed_variables() {
        let own = [
            ("PATH", "/bin"),
            ("LC_ALL", "C"),
            ("FLEETNODE_STATE_DIR", "/secret"),
            ("NOTIFY_SOCKET", "/run/notify"),
            ("MINER_DRIVER_PLUGIN", "wrong"),
            ("PLUGIN_UNIX_SOCKET_DIR", "/wrong"),
            ("PLUGIN_CLIENT_CERT", "pem"),
            ("RUST_LOG", "debug"),
            ("PROTO_MINER_PORT", "8080"),
            ("ANTMINER_WEB_PORT", "8081"),
            ("VIRTUAL_MINER_CONFIG", "/etc/virtual.json"),
        ];
        let own = || own.map(|(name, value)| (name.into(), value.into()));
        let names = |environment: Vec<(OsString, OsString)>| {
            let mut pairs: Vec<_> = environment
                .into_iter()
                .map(|(name, value)| format!("{}={}", name.display(), value.display()))
                .collect();
            pairs.sort();
            pairs
        };
        let mut expected = vec![
            "ANTMINER_WEB_PORT=8081",
            "LC_ALL=C",
            "MINER_DRIVER_PLUGIN=fleet-miner-driver",
            "PATH=/bin",
            "PLUGIN_MAX_PORT=25000",
            "PLUGIN_MIN_PORT=10000",
            "PLUGIN_PROTOCOL_VERSIONS=1",
            "PROTO_MINER_PORT=8080",
            "VIRTUAL_MINER_CONFIG=/etc/virtual.json",
        ];
        assert_eq!(names(environment(own(), &[], None)), expected);
        expected.extend(["PLUGIN_UNIX_SOCKET_DIR=/run/p", "RUST_LOG=debug"]);
        expected.sort_unstable();
        let more = ["RUST_LOG", "PLUGIN_CLIENT_CERT", "MISSING"].map(OsString::from);
        let seen = environment(own(), &more, Some(Path::new("/run/p")));
        assert_eq!(names(seen), expected);
    }
}
