//! Handshakes and sessions of nodes.

use async_trait::async_trait;
use fleet_core::{KeyId, NodeId, OrgId, ReplicaId, SecretHash, SessionId, Timestamp};

use crate::{Actor, StoreError};

/// Why a handshake could not begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// The API key is unknown, or the identity key is not the node's (compared in constant time).
    #[error("the API key is not valid for this identity: enroll the node again")]
    Credentials,
    /// The node exists but is not confirmed.
    #[error("node {0} is not confirmed")]
    NotConfirmed(NodeId),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// A consumed challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenged {
    /// The node it was for.
    pub node: NodeId,
    /// The key that must have signed it.
    pub identity_key: [u8; 32],
    /// The API key that began the handshake.
    pub key: KeyId,
    /// Whether it was still valid.
    pub alive: bool,
}

/// Why a session could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenSessionError {
    /// The node or its key was revoked.
    #[error("the node is not confirmed any more")]
    Refused,
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// The node that a session token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The node, which is confirmed.
    pub node: NodeId,
    /// The organization.
    pub org: OrgId,
    /// Its name.
    pub name: String,
    /// The session.
    pub session: SessionId,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// The statements of a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// Whether the node is halted; `None` from an upstream node, which does not state it.
    pub halt: Option<Halt>,
    /// Why the node has no control stream, escaped; `None` if it has one or does not know.
    pub stream_problem: Option<String>,
}

/// Whether the administrator of a node's site has halted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// It accepts scans and pairings.
    Running,
    /// It refuses them, for this reason, which may be empty.
    Halted(String),
}

/// Handshakes and sessions.
#[async_trait]
pub trait Sessions: Send + Sync {
    /// Stores the hash of a challenge for the holder of an API key. A newer challenge replaces it.
    async fn begin_handshake(
        &self,
        key: SecretHash,
        identity_key: [u8; 32],
        challenge: SecretHash,
        expires: Timestamp,
    ) -> Result<NodeId, BeginError>;

    /// Records why a handshake with the identity key of a confirmed node was refused, as the reason that it has no control
    /// stream. A node with an open stream on one of the live servers keeps its state: the caller of the handshake has
    /// proved nothing. A server that was killed leaves streams without an end.
    async fn handshake_refused(
        &self,
        identity_key: [u8; 32],
        live: Vec<ReplicaId>,
        reason: String,
    ) -> Result<(), StoreError>;

    /// Consumes a challenge, even an expired one. Returns `None` when it is unknown.
    async fn take_challenge(
        &self,
        challenge: SecretHash,
        now: Timestamp,
    ) -> Result<Option<Challenged>, StoreError>;

    /// Opens a session after reading node and key again. Every earlier session of the node ends within
    /// `fleet_core::limits::SESSION_OVERLAP`, and at most one earlier session stays. Audited.
    async fn open_session(
        &self,
        node: NodeId,
        key: KeyId,
        token: SecretHash,
        expires: Timestamp,
        actor: Actor,
        now: Timestamp,
    ) -> Result<SessionId, OpenSessionError>;

    /// Returns the node of a token, or `None` when the token is unknown or expired, or the node is not
    /// confirmed.
    async fn node_by_session(
        &self,
        token: SecretHash,
        now: Timestamp,
    ) -> Result<Option<NodeIdentity>, StoreError>;

    /// Returns whether the node is confirmed and has any live session. A stream may outlive the session that
    /// opened it while a rotated session is live.
    async fn has_live_session(&self, node: NodeId, now: Timestamp) -> Result<bool, StoreError>;

    /// Sets `last_seen_at` of a node, and stores what the heartbeat states. Returns whether the node is confirmed.
    async fn heartbeat(
        &self,
        node: NodeId,
        heartbeat: Heartbeat,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Deletes expired challenges and sessions.
    async fn sweep_sessions(&self, now: Timestamp) -> Result<u64, StoreError>;
}
