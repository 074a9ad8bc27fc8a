//! What a node keeps between two starts: where its server is, who it is, how far its enrollment came.
//! Sessions are not kept: every start proves its identity anew. Start with [`StateDir::open`].

mod dir;
mod secret;

use std::path::PathBuf;

pub use dir::{StateDir, StateError};
use fleet_core::Fingerprint;
pub use secret::{SecretKey, SecretText};
use serde::{Deserialize, Serialize};

/// A node's state. Its `Debug` form shows no secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateFile {
    /// The server, scheme and path prefix included.
    pub server_url: String,
    /// The name it registered with.
    pub name: String,
    /// The ed25519 key that proves who it is.
    pub identity_key: SecretKey,
    /// The X25519 key that credentials are sealed to.
    pub encryption_key: SecretKey,
    /// Certificates to trust instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Plain HTTP to a host that is not this machine is accepted.
    #[serde(default)]
    pub allow_insecure_transport: bool,
    /// The server is the upstream implementation: its challenges carry no tag.
    #[serde(default)]
    pub upstream_server: bool,
    /// The id that the server gave at registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet_node_id: Option<i64>,
    /// The key that the operator gave after confirming.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<SecretText>,
}

/// How far an enrollment came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Keys exist, the server knows nothing.
    New,
    /// The server knows the node; the operator's API key is missing.
    Registered,
    /// Everything is there.
    Enrolled,
}

impl StateFile {
    /// How far the enrollment came.
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

    /// What the operator compares.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.identity_public())
    }
}
