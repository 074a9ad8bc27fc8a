//! The nodes that [`dispatch`](crate::dispatch) has to look at.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use fleet_core::NodeId;
use tokio::sync::Notify;

/// A set of nodes, and so bounded by their number.
#[derive(Debug, Default)]
pub(crate) struct DispatchQueue {
    nodes: Mutex<BTreeSet<NodeId>>,
    added: Notify,
}

impl DispatchQueue {
    /// Adds a node that may have a chunk to receive.
    pub(crate) fn push(&self, node: NodeId) {
        self.nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(node);
        self.added.notify_one();
    }

    /// Empties the queue.
    pub(crate) fn take(&self) -> BTreeSet<NodeId> {
        std::mem::take(&mut *self.nodes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until a node was added since the last wait.
    pub(crate) async fn wait(&self) {
        self.added.notified().await;
    }
}
