//! Invitations and nodes. Rows are locked in one order: node, then invitation.

use std::net::IpAddr;

use async_trait::async_trait;
use fleet_core::{
    Fingerprint, NodeId, OrgId, PendingEnrollmentId, ScanId, SecretHash, SiteId, Timestamp,
    enrollment::{InvitationState, NodeState},
    presence::LastStream,
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

/// An enrollment code to store.
#[derive(Clone, Debug)]
pub struct NewCode {
    /// The organization that the node joins.
    pub org: OrgId,
    /// The hash of the code.
    pub code: SecretHash,
    /// When it expires.
    pub expires: Timestamp,
    /// The revoked node that the new one replaces. A device that the old node knew only by endpoint and type
    /// passes to the new node when the new node reports the same.
    pub replaces: Option<NodeId>,
    /// The operator that creates it.
    pub actor: Actor,
    /// The current time.
    pub now: Timestamp,
}

/// The most enrollment codes of an organization that are open at a time. They expire after an hour.
pub const OPEN_CODES: u64 = 1_000;

/// Why a code was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateCodeError {
    /// No such node in this organization.
    #[error(
        "no node {0} in this organization: `fleetctl nodes list --revoked` shows those that can be replaced"
    )]
    NotFound(NodeId),
    /// The organization has [`OPEN_CODES`] open codes.
    #[error(
        "{OPEN_CODES} enrollment codes of this organization are open: cancel some, or wait an hour until they expire"
    )]
    TooMany,
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
    /// The name: 1 to 255 characters, unique among the live nodes of the organization.
    pub name: String,
    /// The identity key: a valid ed25519 public key, unique among the live nodes of the organization.
    pub identity_key: [u8; 32],
    /// A usable X25519 public key.
    pub encryption_key: [u8; 32],
    /// Whether it proved that it holds the identity key, by a signature over both keys. Upstream nodes do not.
    pub keys_proved: bool,
    /// The author and its address, for the audit trail.
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
    /// The code is unknown, used, canceled or expired. These cases are deliberately indistinguishable.
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
    /// Another node has already replaced the revoked node. The code stays usable.
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
    /// The node and the invitation do not belong together, or the node does not await confirmation.
    #[error("{0}")]
    Refused(String),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Why a node could not be renamed.
#[derive(Debug, thiserror::Error)]
pub enum RenameNodeError {
    /// No such node in this organization.
    #[error("no node {0} in this organization")]
    NotFound(NodeId),
    /// Another live node has this name.
    #[error("node {node} is named `{name}` already: choose another name")]
    NameTaken {
        /// The name.
        name: String,
        /// The node that has it.
        node: NodeId,
    },
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
    /// The node awaits confirmation, so its invitation must be named too.
    #[error("node {0} awaits confirmation: name its pending_enrollment_id too")]
    PendingIdMissing(NodeId),
    /// The node and the invitation do not belong together.
    #[error("{0}")]
    Refused(String),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Why a node could not be moved to another site.
#[derive(Debug, thiserror::Error)]
pub enum MoveNodeError {
    /// No such live node in this organization.
    #[error("no node {0} in this organization")]
    NotFound(NodeId),
    /// No such site in this organization.
    #[error(
        "no site {0} in this organization: `fleetctl nodes list --wide` shows the site of each node"
    )]
    NoSite(SiteId),
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
    /// The invitation is no longer pending.
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
    /// The ports that the node tries when a scan names none.
    pub default_ports: Vec<String>,
    /// The node's own private subnets.
    pub local_subnets: Vec<String>,
    /// The most targets that it accepts in one command; 0 for unknown.
    pub max_targets: u32,
    /// The most ports that it accepts in one command; 0 for unknown.
    pub max_ports: u32,
    /// Probes per second; 0 for unknown.
    pub rate: u32,
    /// Whether it resolves neighbors itself, by ARP.
    pub arp: bool,
    /// The ports that its site denies.
    pub denied_ports: Vec<String>,
    /// The only networks that its site allows; empty for all.
    pub allowed_networks: Vec<String>,
}

impl Hello {
    /// Returns the profile that plans are made for.
    pub fn profile(&self) -> NodeProfile {
        NodeProfile::announced(Announcement {
            capabilities: &self.capabilities,
            default_ports: &self.default_ports,
            local_subnets: &self.local_subnets,
            max_targets: self.max_targets,
            max_ports: self.max_ports,
            rate: self.rate,
            arp: self.arp,
            denied_ports: &self.denied_ports,
            allowed_networks: &self.allowed_networks,
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
    /// The site that it belongs to.
    pub site: SiteId,
    /// The name of that site.
    pub site_name: String,
    /// Pending or confirmed; revoked only in [`Enrollment::list_revoked_nodes`].
    pub state: NodeState,
    /// The fingerprint of its identity key.
    pub fingerprint: Fingerprint,
    /// When it registered.
    pub created_at: Timestamp,
    /// When the last heartbeat or stream arrived, by the server's clock.
    pub last_seen_at: Option<Timestamp>,
    /// The invitation that awaits confirmation.
    pub invitation: Option<PendingEnrollmentId>,
    /// Its newest control stream; `None` before its first one.
    pub stream: Option<LastStream>,
    /// Why that stream ended; `None` while it is open, and if its server did not store the end.
    pub stream_end: Option<String>,
    /// Why the node has no control stream, as its heartbeats state.
    pub stream_problem: Option<String>,
    /// Its last Hello; `None` before its first stream.
    pub hello: Option<Hello>,
    /// Why the administrator of its site has halted it; may be empty. `None` while it is not halted.
    pub halt_reason: Option<String>,
    /// Whether two machines present this identity.
    pub duplicate_identity: bool,
    /// The number of scans that wait or run on it.
    pub open_scans: u32,
    /// The revoked node that it replaces.
    pub replaces: Option<NodeId>,
    /// Set once it has asked for its API key: when it last fetched one, if it has.
    pub key_fetch: Option<Option<Timestamp>>,
}

impl NodeRow {
    /// Whether its newest control stream has ended, or it never had one.
    pub fn stream_ended(&self) -> bool {
        self.stream.is_none_or(|stream| stream.ended_at.is_some())
    }
}

/// The public keys of a live node that has proved them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchingNode {
    /// The organization.
    pub org: OrgId,
    /// The identity key, which signs its requests.
    pub identity_key: [u8; 32],
    /// The encryption key, to which its API key is sealed.
    pub encryption_key: [u8; 32],
}

/// A signed request of a node for its API key. The caller has verified the signature.
#[derive(Clone, Copy, Debug)]
pub struct KeyRequest {
    /// The node.
    pub node: NodeId,
    /// The sequence of the request.
    pub sequence: i64,
    /// The hash of a new key, which becomes the node's key if it may fetch one.
    pub key: SecretHash,
    /// The address of the request.
    pub from: IpAddr,
    /// The current time.
    pub now: Timestamp,
}

/// The answer to a node that asks for its API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAnswer {
    /// No operator has confirmed it yet.
    AwaitingConfirmation,
    /// The new key is the node's key. A key that it fetched before is invalid.
    Fetched,
    /// The operator received the key.
    Pasted,
}

/// Why a node may not fetch its API key.
#[derive(Debug, thiserror::Error)]
pub enum FetchKeyError {
    /// The node is not known, or was revoked.
    #[error("this node is not enrolled here, or was revoked: enroll it with a new code")]
    NotFound,
    /// The request is not newer than an earlier one.
    #[error(
        "request {0} is not newer than an earlier one of this node: send the current time in microseconds"
    )]
    Repeated(i64),
    /// The node has used its key.
    #[error(
        "this node has used its API key before: revoke it and enroll it again if the key is lost"
    )]
    Used,
    /// The time is over.
    #[error("the time to fetch the API key is over: revoke the node and enroll it again")]
    Expired,
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// A page of a list, by the key of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListPage {
    /// The id of the last row of the previous page; 0 for the first page.
    pub after: i64,
    /// The most rows.
    pub limit: u32,
}

impl ListPage {
    /// The first 1,000 rows.
    pub const FIRST: Self = Self {
        after: 0,
        limit: 1_000,
    };
}

/// Enrollment codes.
#[async_trait]
pub trait Invitations: Send + Sync {
    /// Stores a code's hash as a pending invitation.
    async fn create_code(&self, new: NewCode) -> Result<PendingEnrollmentId, CreateCodeError>;

    /// Lists the open invitations, newest first.
    async fn list_codes(&self, org: OrgId, page: ListPage) -> Result<Vec<Invitation>, StoreError>;

    /// Withdraws a pending code.
    async fn cancel_code(
        &self,
        org: OrgId,
        id: PendingEnrollmentId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), CancelCodeError>;

    /// Expires invitations that are past their time. Soft-deletes the unconfirmed nodes that used them, each in
    /// one transaction. Returns the number of expired invitations.
    async fn sweep_enrollments(&self, now: Timestamp) -> Result<u64, StoreError>;
}

/// Nodes, from registration to revocation.
#[async_trait]
pub trait Enrollment: Send + Sync {
    /// Uses a code: the node becomes pending, and the invitation is bound to it and awaits confirmation.
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

    /// Confirms an awaiting node that fetches its API key itself within [`fleet_core::limits::KEY_FETCH_LIFE`].
    async fn confirm_fetching_node(
        &self,
        org: OrgId,
        node: NodeId,
        invitation: PendingEnrollmentId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), ConfirmError>;

    /// Returns the keys of a live node that has proved them.
    async fn fetching_node(&self, node: NodeId) -> Result<Option<FetchingNode>, StoreError>;

    /// Remembers that an awaiting node fetches its key. Gives a confirmed node a new key, until it has used one. The key of an earlier request becomes invalid. Audited.
    async fn fetch_key(&self, request: KeyRequest) -> Result<KeyAnswer, FetchKeyError>;

    /// Revokes a live node permanently. Its open invitations are canceled, and its keys, challenges and sessions
    /// become invalid. Its stream is ended by the server that holds it (`Orders::revoked`). Its commands end, its scans end with the results so far, and its devices are
    /// released.
    async fn revoke_node(
        &self,
        org: OrgId,
        node: NodeId,
        invitation: Option<PendingEnrollmentId>,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Revoked, RevokeError>;

    /// Changes the name of a node. It applies to operators: the node keeps the name that its logs show. Audited.
    async fn rename_node(
        &self,
        org: OrgId,
        node: NodeId,
        name: String,
        actor: Actor,
        now: Timestamp,
    ) -> Result<(), RenameNodeError>;

    /// Moves a node, with the devices that it found, to a site, or to a new one of its own. `auto:` devices at one
    /// endpoint of a site are one device, so the next report of a device joins the records that its site has for it.
    async fn move_node(
        &self,
        org: OrgId,
        node: NodeId,
        to: Option<SiteId>,
        actor: Actor,
        now: Timestamp,
    ) -> Result<SiteId, MoveNodeError>;

    /// Lists the live nodes of an organization, by id.
    async fn list_nodes(&self, org: OrgId, page: ListPage) -> Result<Vec<NodeRow>, StoreError>;

    /// Lists the revoked nodes of an organization, newest first.
    async fn list_revoked_nodes(
        &self,
        org: OrgId,
        page: ListPage,
    ) -> Result<Vec<NodeRow>, StoreError>;

    /// Returns one live node of an organization.
    async fn node(&self, org: OrgId, node: NodeId) -> Result<Option<NodeRow>, StoreError>;
}
