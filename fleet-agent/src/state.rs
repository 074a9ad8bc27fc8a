//! The state that a node keeps across restarts: its server, its identity, and the progress of its enrollment. Sessions are
//! not kept; every start does a new handshake. Start with [`StateDir::open`].

mod dir;
mod secret;

use std::path::PathBuf;

pub use dir::{StateDir, StateError};
use fleet_core::Fingerprint;
pub use secret::{SecretKey, SecretText};
use serde::{Deserialize, Serialize};

/// The content of the state file. Its `Debug` form contains no secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateFile {
    /// The server's URL, including scheme and path prefix.
    pub server_url: String,
    /// The name it registered with.
    pub name: String,
    /// The ed25519 key that proves the node's identity.
    pub identity_key: SecretKey,
    /// The X25519 key that credentials are sealed to.
    pub encryption_key: SecretKey,
    /// CA certificates to trust instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Allow plain HTTP to another machine.
    #[serde(default)]
    pub allow_insecure_transport: bool,
    /// The server is the upstream implementation, whose challenges have no tag.
    #[serde(default)]
    pub upstream_server: bool,
    /// The node was registered by an upstream node, which proved the identity key alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub imported: bool,
    /// The id that the server assigned at registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet_node_id: Option<i64>,
    /// The API key from the operator's confirmation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<SecretText>,
}

/// The progress of an enrollment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Keys exist, but the server does not know the node.
    New,
    /// The node is registered, but has no API key.
    Registered,
    /// The node has an API key.
    Enrolled,
}

impl StateFile {
    /// The progress of the enrollment.
    pub fn stage(&self) -> Stage {
        match (self.fleet_node_id, &self.api_key) {
            (None, _) => Stage::New,
            (Some(_), None) => Stage::Registered,
            (Some(_), Some(_)) => Stage::Enrolled,
        }
    }

    /// The public identity key.
    pub fn identity_public(&self) -> [u8; 32] {
        ed25519_dalek::SigningKey::from_bytes(self.identity_key.expose())
            .verifying_key()
            .to_bytes()
    }

    /// The public encryption key.
    pub fn encryption_public(&self) -> [u8; 32] {
        let secret = x25519_dalek::StaticSecret::from(*self.encryption_key.expose());
        x25519_dalek::PublicKey::from(&secret).to_bytes()
    }

    /// The fingerprint that the operator compares: over both keys, unless the server is upstream's or the node was
    /// imported. The server then knows a proof of the identity key alone.
    pub fn fingerprint(&self) -> Fingerprint {
        if self.upstream_server || self.imported {
            Fingerprint::of(&self.identity_public())
        } else {
            Fingerprint::of_both(&self.identity_public(), &self.encryption_public())
        }
    }
}
