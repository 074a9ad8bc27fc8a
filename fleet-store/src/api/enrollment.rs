//! Invitations and nodes. Rows are locked in one order: node, then invitation.

use async_trait::async_trait;
use fleet_core::{
    Fingerprint, NodeId, OrgId, PendingEnrollmentId, ScanId, SecretHash, Timestamp,
    enrollment::{InvitationState, NodeState},
};
use fleet_discovery::{Announcement, NodeProfile};

use crate::{Actor, StoreError};

/// An open invitation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// Its id.
    pub id: PendingEnrollmentId,
    /// Pending or awaiting confirmation.
    pub state: InvitationState,
    /// When the code was created.
    pub created_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
    /// The e-mail of the operator that created it.
    pub created_by: String,
    /// The node that used it.
    pub node: Option<NodeId>,
    /// The revoked node that the invited one replaces.
    pub replaces: Option<NodeId>,
}

/// A code to store.
#[derive(Clone, Debug)]
pub struct NewCode {
    /// The organization that the node joins.
    pub org: OrgId,
    /// Its hash.
    pub code: SecretHash,
    /// When it expires.
    pub expires: Timestamp,
    /// The revoked node that the new one replaces. Devices that the old node knew by endpoint and type
    /// alone become the new node's when it reports the same.
    pub replaces: Option<NodeId>,
    /// The operator that creates it.
    pub actor: Actor,
    /// The current time.
    pub now: Timestamp,
}

/// Why a code was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateCodeError {
    /// No such node in this organization.
    #[error(
        "no node {0} in this organization: `fleetctl nodes list --revoked` shows those that can be replaced"
    )]
    NotFound(NodeId),
    /// The node is not revoked.
    #[error("node {0} is not revoked: only a revoked node can be replaced; revoke it first")]
    NotRevoked(NodeId),
    /// Another node replaces it already.
    #[error(
        "node {by} replaces node {node} already: revoke node {by} first, or create a code that replaces node {by}"
    )]
    Replaced {
        /// The revoked node.
        node: NodeId,
        /// The live node that replaces it.
        by: NodeId,
    },
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// A node that presents a code.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// The hash of the code it presents.
    pub code: SecretHash,
    /// 1..=255 characters, unique among the live nodes of the organization.
    pub name: String,
    /// A valid ed25519 public key, unique among the live nodes of the organization.
    pub identity_key: [u8; 32],
    /// A usable X25519 public key.
    pub encryption_key: [u8; 32],
    /// The caller.
    pub actor: Actor,
    /// The current time.
    pub now: Timestamp,
}

/// A registered node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The node.
    pub node: NodeId,
    /// The organization.
    pub org: OrgId,
    /// The invitation it used.
    pub invitation: PendingEnrollmentId,
}

/// Why a node could not register.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Unknown, used, canceled and expired codes are told apart nowhere.
    #[error("the enrollment code is not valid: ask the operator for a new one")]
    Code,
    /// A live node has this name. The code stays usable.
    #[error("a node named `{0}` exists already: enroll with another --name")]
    NameTaken(String),
    /// A live node has this identity key. The code stays usable.
    #[error(
        "this identity key belongs to a node that is enrolled already: revoke that node first, or enroll with a new state directory"
    )]
    KeyTaken,
    /// Another node has used a code for the same place. The code stays usable.
    #[error("node {by} replaces node {node} already: ask the operator for a new code")]
    ReplacementTaken {
        /// The revoked node.
        node: NodeId,
        /// The live node that replaces it.
        by: NodeId,
    },
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Why a node could not be confirmed.
#[derive(Debug, thiserror::Error)]
pub enum ConfirmError {
    /// No such node in this organization.
    #[error("no node {0} in this organization")]
    NotFound(NodeId),
    /// The ids do not belong together, or the node does not wait.
    #[error("{0}")]
    Refused(String),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Why a node could not be revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// No such live node in this organization.
    #[error("no node {0} in this organization")]
    NotFound(NodeId),
    /// An awaiting node is named together with its invitation.
    #[error("node {0} awaits confirmation: name its pending_enrollment_id too")]
    PendingIdMissing(NodeId),
    /// The ids do not belong together.
    #[error("{0}")]
    Refused(String),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Why a code could not be canceled.
#[derive(Debug, thiserror::Error)]
pub enum CancelCodeError {
    /// No such invitation in this organization.
    #[error("no enrollment code {0} in this organization")]
    NotFound(PendingEnrollmentId),
    /// It is not pending any more.
    #[error("enrollment code {0} is {1}: only a pending code can be canceled")]
    NotPending(PendingEnrollmentId, InvitationState),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// The effect of a revocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Scans that ended because of it; their watchers must be notified.
    pub scans: Vec<ScanId>,
}

/// The last Hello of a node, as text; bounded by the caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Empty for an upstream node.
    pub version: String,
    /// Empty for an upstream node.
    pub capabilities: Vec<String>,
    /// Ports it tries when none are given.
    pub default_ports: Vec<String>,
    /// Its own private subnets.
    pub local_subnets: Vec<String>,
    /// Targets it accepts in one command; 0 for unknown.
    pub max_targets: u32,
    /// Ports it accepts in one command; 0 for unknown.
    pub max_ports: u32,
}

impl Hello {
    /// The profile that plans are made for.
    pub fn profile(&self) -> NodeProfile {
        NodeProfile::announced(Announcement {
            capabilities: &self.capabilities,
            default_ports: &self.default_ports,
            local_subnets: &self.local_subnets,
            max_targets: self.max_targets,
            max_ports: self.max_ports,
        })
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// The node.
    pub id: NodeId,
    /// The organization.
    pub org: OrgId,
    /// Its name.
    pub name: String,
    /// Pending or confirmed; revoked only in [`Enrollment::list_revoked_nodes`].
    pub state: NodeState,
    /// Of its identity key.
    pub fingerprint: Fingerprint,
    /// When it registered.
    pub created_at: Timestamp,
    /// The last heartbeat or stream, by the server's clock.
    pub last_seen_at: Option<Timestamp>,
    /// The invitation it waits on.
    pub invitation: Option<PendingEnrollmentId>,
    /// Whether a control stream is claimed and not released.
    pub connected: bool,
    /// Its last Hello; `None` before its first stream.
    pub hello: Option<Hello>,
    /// Two machines present this identity.
    pub duplicate_identity: bool,
    /// Scans that wait or run on it.
    pub open_scans: u32,
    /// The revoked node that it replaces.
    pub replaces: Option<NodeId>,
}

/// Enrollment codes.
#[async_trait]
pub trait Invitations: Send + Sync {
    /// Stores a code's hash as a pending invitation.
    async fn create_code(&self, new: NewCode) -> Result<PendingEnrollmentId, CreateCodeError>;

    /// The open invitations, newest first.
    async fn list_codes(&self, org: OrgId) -> Result<Vec<Invitation>, StoreError>;

    /// Withdraws a pending code.
    async fn cancel_code(
        &self,
        org: OrgId,
        id: PendingEnrollmentId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), CancelCodeError>;

    /// Expires invitations past their time and soft-deletes the unconfirmed nodes bound to them, each
    /// in one transaction. Returns how many.
    async fn sweep_enrollments(&self, now: Timestamp) -> Result<u64, StoreError>;
}

/// Nodes, from registration to revocation.
#[async_trait]
pub trait Enrollment: Send + Sync {
    /// Uses a code: the node is pending, the invitation awaits confirmation and is bound to it.
    async fn register_node(&self, new: NewNode) -> Result<Registered, RegisterError>;

    /// Confirms an awaiting node and stores the hash of its API key.
    async fn confirm_node(
        &self,
        org: OrgId,
        node: NodeId,
        invitation: PendingEnrollmentId,
        key: SecretHash,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), ConfirmError>;

    /// Revokes a live node for good: open invitations canceled, keys, challenges, sessions and its
    /// stream void, its commands ended, its scans ended with what they found, its devices released.
    async fn revoke_node(
        &self,
        org: OrgId,
        node: NodeId,
        invitation: Option<PendingEnrollmentId>,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Revoked, RevokeError>;

    /// The live nodes of an organization, by id.
    async fn list_nodes(&self, org: OrgId) -> Result<Vec<NodeRow>, StoreError>;

    /// The revoked nodes of an organization, newest first, at most 200.
    async fn list_revoked_nodes(&self, org: OrgId) -> Result<Vec<NodeRow>, StoreError>;

    /// One live node of an organization.
    async fn node(&self, org: OrgId, node: NodeId) -> Result<Option<NodeRow>, StoreError>;
}
