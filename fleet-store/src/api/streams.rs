//! Claims of control streams: the growing epoch that fences a node's older streams on every server.

use std::time::Duration;

use async_trait::async_trait;
use fleet_core::{
    CommandId, Epoch, InstanceId, NodeId, Priority, ReplicaId, ScanId, SessionId, Timestamp,
};

use crate::{Hello, StoreError};

/// A stream whose Hello has arrived.
#[derive(Clone, Debug)]
pub struct StreamClaim {
    /// The node.
    pub node: NodeId,
    /// The session that opened it.
    pub session: SessionId,
    /// The server that holds it.
    pub replica: ReplicaId,
    /// The id of the node's process; `None` for an upstream node.
    pub instance: Option<InstanceId>,
    /// Its Hello.
    pub hello: Hello,
    /// Commands that still run on the node or have unsent reports.
    pub running: Vec<CommandId>,
    /// The current time.
    pub now: Timestamp,
}

/// A command that continues under a new epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdoptedCommand {
    /// The command.
    pub command: CommandId,
    /// Its priority.
    pub priority: Priority,
    /// When the command expires.
    pub deadline: Timestamp,
    /// Whether it was canceled in the meantime. If so, the cancel must be sent to the node again.
    pub canceled: bool,
}

/// A claimed stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedStream {
    /// The epoch, greater than that of every earlier stream of this node.
    pub epoch: Epoch,
    /// Commands that continue under this stream.
    pub adopted: Vec<AdoptedCommand>,
    /// Scans that ended because a chunk was lost on its last attempt. Their watchers must be notified.
    pub ended: Vec<ScanId>,
}

/// Why a stream could not be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The node is not live and confirmed.
    #[error("node {0} is not enrolled any more")]
    NotFound(NodeId),
    /// Another machine uses the node's identity and keeps the stream. This machine is held off. The hold is
    /// stored for every server and audited.
    #[error(
        "another machine uses the identity of node {node}: stop one of them, or enroll this one anew"
    )]
    Duplicate {
        /// The node with this identity.
        node: NodeId,
        /// How long this machine is held off.
        hold: Duration,
    },
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Claims of control streams.
#[async_trait]
pub trait Streams: Send + Sync {
    /// Claims the stream of a node under a new epoch, and stores the node's Hello. Commands that the node still
    /// runs are adopted. All other issued commands are lost: their chunks wait again under new ids, or end as
    /// not reached after the last attempt. The third takeover between two machines within
    /// `fleet_core::limits::TAKEOVER_WINDOW` counts as a duplicate identity. The claimant is refused, and the
    /// node is shown as a duplicate until no claim was refused for the duration of a hold.
    async fn claim_stream(&self, claim: StreamClaim) -> Result<ClaimedStream, ClaimError>;

    /// Releases the stream of this epoch, unless a newer one was claimed. The reason is shown to operators.
    async fn release_stream(
        &self,
        node: NodeId,
        epoch: Epoch,
        reason: String,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Lists the nodes that other servers have claimed since then, with their epochs. Streams that this server
    /// holds under a lower epoch are over.
    async fn claimed_elsewhere(
        &self,
        replica: ReplicaId,
        since: Timestamp,
    ) -> Result<Vec<(NodeId, Epoch)>, StoreError>;

    /// Clears the duplicate mark of nodes whose identity was not contested for the duration of a hold. Returns
    /// the number of nodes.
    async fn sweep_duplicates(&self, now: Timestamp) -> Result<u64, StoreError>;

    /// Returns whether the node is live and this epoch is its current one.
    async fn is_current(&self, node: NodeId, epoch: Epoch) -> Result<bool, StoreError>;
}
