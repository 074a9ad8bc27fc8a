//! Claims of control streams: the growing epoch that fences a node's older streams, on every server.

use std::time::Duration;

use async_trait::async_trait;
use fleet_core::{
    CommandId, Epoch, InstanceId, NodeId, Priority, ReplicaId, ScanId, SessionId, Timestamp,
};

use crate::{Hello, StoreError};

/// A stream whose Hello has arrived.
#[derive(Clone, Debug)]
pub struct StreamClaim {
    /// The organization.
    pub node: NodeId,
    /// The session that opened it.
    pub session: SessionId,
    /// The server that holds it.
    pub replica: ReplicaId,
    /// The node's process; none for an upstream node.
    pub instance: Option<InstanceId>,
    /// Its Hello.
    pub hello: Hello,
    /// Commands that still run there or have unsent reports.
    pub running: Vec<CommandId>,
    /// The current time.
    pub now: Timestamp,
}

/// A command that continues under a new epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdoptedCommand {
    /// Which.
    pub command: CommandId,
    /// Its lane.
    pub priority: Priority,
    /// When the command expires.
    pub deadline: Timestamp,
    /// Whether it was canceled meanwhile, which the node must be sent again.
    pub canceled: bool,
}

/// A claimed stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedStream {
    /// Greater than that of every earlier stream of this node.
    pub epoch: Epoch,
    /// Commands that continue under this stream.
    pub adopted: Vec<AdoptedCommand>,
    /// Scans that ended because a chunk was lost for the last time; their watchers must be notified.
    pub ended: Vec<ScanId>,
}

/// Why a stream could not be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The node is not live and confirmed.
    #[error("node {0} is not enrolled any more")]
    NotFound(NodeId),
    /// Another machine uses the node's identity and stays; this one is held off. Remembered for every server
    /// and audited.
    #[error(
        "another machine uses the identity of node {node}: stop one of them, or enroll this one anew"
    )]
    Duplicate {
        /// Whose identity it is.
        node: NodeId,
        /// For how long this machine is held off.
        hold: Duration,
    },
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Claims of control streams.
#[async_trait]
pub trait Streams: Send + Sync {
    /// Claims the stream of a node: a new epoch; the commands it still runs are adopted, all other
    /// issued ones are lost and their chunks wait again under new ids, or end as not reached after
    /// the last attempt. Remembers what the node announced. Two machines that take the stream from each other
    /// for the third time within `fleet_core::limits::TAKEOVER_WINDOW` are found out here: the claimant is
    /// refused, and the node shown as a duplicate until nobody was refused for as long as a hold lasts.
    async fn claim_stream(&self, claim: StreamClaim) -> Result<ClaimedStream, ClaimError>;

    /// Releases the stream of this epoch, unless a newer one was claimed.
    async fn release_stream(
        &self,
        node: NodeId,
        epoch: Epoch,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// The nodes that other servers have claimed since then, with their epochs: what this server holds of them
    /// under a lower epoch is over.
    async fn claimed_elsewhere(
        &self,
        replica: ReplicaId,
        since: Timestamp,
    ) -> Result<Vec<(NodeId, Epoch)>, StoreError>;

    /// Shows nodes as single again whose identity nobody has contested for as long as a hold lasts. Answers
    /// how many.
    async fn sweep_duplicates(&self, now: Timestamp) -> Result<u64, StoreError>;

    /// Whether this epoch is the node's current one.
    async fn is_current(&self, node: NodeId, epoch: Epoch) -> Result<bool, StoreError>;
}
