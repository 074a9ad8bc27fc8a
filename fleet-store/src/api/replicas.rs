//! Servers that share one database: their heartbeats, and orders for the nodes that each of them holds.

use std::time::Duration;

use async_trait::async_trait;
use fleet_core::{CommandId, NodeId, OrgId, ReplicaId, Timestamp};
use tokio::sync::mpsc;

use crate::StoreError;

/// A change in the database that a server must look at soon. It carries no data: the rows are the source of truth, and a
/// notification can be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notification {
    /// There is something for this node: a command to issue, a cancel, a revocation.
    Node(NodeId),
    /// A credential or a role of one of this organization's operators was changed.
    Credentials(OrgId),
}

/// How long an ended command is an order. It exceeds the time between two reads by far.
pub const ENDED_FOR: Duration = Duration::from_secs(60);

/// Orders for the nodes whose streams one server holds. An operator can call any server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Commands in flight that their scan or pairing no longer wants.
    pub canceled: Vec<(NodeId, CommandId)>,
    /// Nodes that were revoked.
    pub revoked: Vec<NodeId>,
    /// Commands that were ended within [`ENDED_FOR`] because too many of their rows were refused.
    pub ended: Vec<(NodeId, CommandId)>,
}

/// Coordination of the servers that share one database.
#[async_trait]
pub trait Replicas: Send + Sync {
    /// Counts one more heartbeat of a server, and returns the counts of all servers. A server whose count stands still
    /// was killed or hangs. The key is the X25519 key to which other servers seal what only this one may read.
    async fn count_heartbeat(
        &self,
        replica: ReplicaId,
        key: [u8; 32],
        now: Timestamp,
    ) -> Result<Vec<(ReplicaId, i64)>, StoreError>;

    /// Returns the key of a server; `None` for an unknown one, and for one of a version without keys.
    async fn replica_key(&self, replica: ReplicaId) -> Result<Option<[u8; 32]>, StoreError>;

    /// Reads the orders for the nodes whose streams a server holds. An order is repeated until the node has obeyed it.
    async fn orders(&self, replica: ReplicaId, now: Timestamp) -> Result<Orders, StoreError>;

    /// Notifies all servers of this database. Call it after the transaction, because a notification inside it would
    /// serialize the commits of all servers.
    async fn notify(&self, notification: Notification) -> Result<(), StoreError>;

    /// Subscribes to the notifications of all servers. The channel closes when the subscription is lost. Notifications
    /// that find it full are dropped.
    async fn notifications(&self) -> Result<mpsc::Receiver<Notification>, StoreError>;
}
