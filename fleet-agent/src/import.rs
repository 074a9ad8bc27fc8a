//! Takes over the enrollment of an upstream node from its `state.yaml`. Start with [`import`].

use std::{fs::File, io::Read, path::Path};

use fleet_core::{Secret, SecretKind};
use zeroize::Zeroizing;

use crate::{
    enroll::{EnrollError, Registration, refuse_registered},
    state::{SecretKey, SecretText, StateDir, StateFile},
};

/// The largest accepted file, in bytes. A valid one has about a dozen short lines.
const FILE_MOST: u64 = 64 * 1024;

/// Reads an upstream node's state file and saves its server, identity and API key as the state of this node. The server does
/// not notice: id, keys and API key stay the same. The file is not changed.
///
/// # Errors
///
/// [`EnrollError::AlreadyRegistered`] if this node has an enrollment; [`EnrollError::Import`] names the missing or invalid
/// entry.
pub fn import(dir: &StateDir, path: &Path, name: String) -> Result<Registration, EnrollError> {
    refuse_registered(dir)?;
    let failed = |problem: String| EnrollError::Import {
        path: path.to_owned(),
        problem,
    };
    let mut text = Zeroizing::new(String::new());
    File::open(path)
        .and_then(|file| file.take(FILE_MOST).read_to_string(&mut text))
        .map_err(|error| failed(error.to_string()))?;
    let state = parse(&text, name).map_err(failed)?;
    let registration = Registration {
        fleet_node_id: state.fleet_node_id.unwrap_or_default(),
        fingerprint: state.fingerprint(),
    };
    dir.save(&state)?;
    Ok(registration)
}

/// Parses the entries. The file is YAML, but a program writes it: one `key: value` per line, quoted or not.
fn parse(text: &str, name: String) -> Result<StateFile, String> {
    let optional = |key: &str| {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(found, _)| *found == key)
            .map(|(_, value)| value.trim().trim_matches(['"', '\'']))
            .filter(|value| !value.is_empty())
    };
    let required = |key: &str| optional(key).ok_or_else(|| format!("it has no `{key}`"));
    let id = required("fleet_node_id")?;
    let api_key = optional("api_key");
    // An upstream node can be enrolled with a server of this project, whose challenges are different.
    let is_ours = api_key.is_some_and(|key| Secret::parse(SecretKind::NodeKey, key).is_ok());
    let state = StateFile {
        server_url: required("server_url")?.to_owned(),
        name,
        identity_key: key(
            "identity_private_key_hex",
            required("identity_private_key_hex")?,
        )?,
        encryption_key: key(
            "encryption_private_key_hex",
            required("encryption_private_key_hex")?,
        )?,
        ca_file: None,
        allow_insecure_transport: optional("allow_insecure_transport") == Some("true"),
        upstream_server: !is_ours,
        imported: true,
        fleet_node_id: Some(
            id.parse()
                .map_err(|_| format!("`fleet_node_id` is `{id}`"))?,
        ),
        api_key: api_key.map(|text| SecretText::new(text.to_owned())),
    };
    let ours = state.fingerprint().to_string();
    match optional("identity_fingerprint") {
        Some(fingerprint) if fingerprint != ours => Err(format!(
            "its key has the fingerprint {ours}, not {fingerprint}"
        )),
        Some(_) | None => Ok(state),
    }
}

/// Parses a key. Upstream stores an ed25519 key as seed and public key, 64 bytes in all; the seed is the first half.
fn key(name: &str, text: &str) -> Result<SecretKey, String> {
    let wrong = || format!("`{name}` is not a key of 32 or 64 bytes in hexadecimal");
    if !matches!(text.len(), 64 | 128) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let mut bytes = Zeroizing::new([0; 32]);
    for (at, byte) in bytes.iter_mut().enumerate() {
        let digits = text.get(2 * at..2 * at + 2).ok_or_else(wrong)?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(SecretKey::new(*bytes))
}

#[cfg(test)]
mod tests {
    use fleet_core::Fingerprint;

    use super::*;
    use crate::state::Stage;

    fn file() -> String {
        let identity = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
        let hex = |bytes: &[u8]| {
            let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
            digits.collect::<String>()
        };
        format!(
            "server_url: https://fleet.example/api-proxy\nallow_insecure_transport: true\nfleet_node_id: 42\n\
             identity_fingerprint: {}\nidentity_private_key_hex: {}\nencryption_private_key_hex: \"{}\"\n\
             api_key: fleet_key\nsession_expires_at: 2026-01-02T03:04:05Z\n",
            Fingerprint::of(&identity.verifying_key().to_bytes()),
            hex(&identity.to_keypair_bytes()),
            hex(&[9; 32]),
        )
    }

    #[test]
    fn an_upstream_state_file_becomes_an_enrolled_node_once() {
        let parent = tempfile::tempdir().expect("a folder");
        let path = parent.path().join("state.yaml");
        std::fs::write(&path, file()).expect("writes");
        let dir = StateDir::open(&parent.path().join("node")).expect("opens");
        let registration = import(&dir, &path, "barn".to_owned()).expect("imports");
        assert_eq!(registration.fleet_node_id, 42);

        let state = dir.load().expect("reads").expect("was saved");
        assert_eq!(state.stage(), Stage::Enrolled);
        assert_eq!(state.server_url, "https://fleet.example/api-proxy");
        assert!(state.allow_insecure_transport && state.upstream_server);
        assert_eq!(state.identity_key.expose(), &[7; 32]);
        assert_eq!(state.encryption_key.expose(), &[9; 32]);
        assert_eq!(state.api_key.expect("a key").expose(), "fleet_key");
        assert!(matches!(
            import(&dir, &path, "barn".to_owned()),
            Err(EnrollError::AlreadyRegistered { .. })
        ));
    }

    #[test]
    fn the_api_key_shows_which_kind_of_server_the_node_is_enrolled_with() {
        let ours = Secret::new(SecretKind::NodeKey, &[7; 32]);
        for (key, upstream_server) in [
            ("api_key: fleet_key".to_owned(), true),
            (format!("api_key: {}", ours.expose()), false),
            (String::new(), true),
        ] {
            let text = file().replace("api_key: fleet_key", &key);
            let state = parse(&text, "barn".to_owned()).expect("parses");
            assert_eq!(state.upstream_server, upstream_server, "{upstream_server}");
            // What the server's list shows: an upstream node proved its identity key alone.
            let shown = Fingerprint::of(&state.identity_public());
            assert_eq!(state.fingerprint(), shown, "{upstream_server}");
        }
    }

    #[test]
    fn an_unusable_file_is_rejected_by_the_entry_and_without_its_secrets() {
        for (from, to, named) in [
            ("server_url", "url", "no `server_url`"),
            ("42", "x", "`fleet_node_id` is `x`"),
            (
                "identity_private_key_hex: 0707",
                "identity_private_key_hex: 07",
                "identity_private_key_hex",
            ),
            (
                "identity_private_key_hex: 07",
                "identity_private_key_hex: 08",
                "fingerprint",
            ),
            ("0909", "zz09", "encryption_private_key_hex"),
        ] {
            let refused = parse(&file().replacen(from, to, 1), "barn".to_owned()).expect_err(named);
            assert!(
                refused.contains(named) && !refused.contains("0707"),
                "{refused}"
            );
        }
    }
}
