//! Dispatch: hands stored chunks to connected nodes. The command row is written before anything is sent,
//! so that a crash in between costs an attempt, never a chunk.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fleet_core::NodeId;
use fleet_store::StoreError;
use tokio::sync::Notify;

use crate::{app::App, hub::Hub};

/// Looks without a bell, for chunks whose back-off is over and for what other servers stored.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Nodes to look at: at most one entry a node, so that it is bounded by their number.
#[derive(Debug)]
pub(crate) struct Work {
    nodes: Mutex<BTreeSet<NodeId>>,
    bell: Notify,
}

impl Work {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Mutex::default(),
            bell: Notify::new(),
        }
    }

    /// Something may have to be dispatched to this node.
    pub(crate) fn look_at(&self, node: NodeId) {
        self.nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(node);
        self.bell.notify_one();
    }

    fn take(&self) -> BTreeSet<NodeId> {
        std::mem::take(&mut *self.nodes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Dispatches until the server drains.
pub(crate) async fn run(app: Arc<App>) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = app.drain.cancelled() => return,
            () = app.work.bell.notified() => {}
            _ = every.tick() => match app.store.nodes_with_work(app.environment.now()).await {
                Ok(nodes) => nodes.into_iter().for_each(|node| app.work.look_at(node)),
                Err(error) => tracing::warn!(%error, "cannot look for work"),
            }
        }
        for node in app.work.take() {
            if app.drain.is_cancelled() {
                return;
            }
            if let Err(error) = dispatch(&app, node).await {
                // The next look tries again.
                tracing::warn!(%node, %error, "cannot dispatch");
            }
        }
    }
}

/// Issues the next chunk of a node and hands it to the stream that holds the current epoch.
async fn dispatch(app: &App, node: NodeId) -> Result<(), StoreError> {
    let hub: &Hub = &app.hub;
    let Some(epoch) = hub.free_lane(node) else {
        return Ok(());
    };
    let command = app.environment.command_id();
    let Some(issued) = app
        .store
        .issue_command(node, epoch, command, app.environment.now())
        .await?
    else {
        return Ok(());
    };
    app.bells.ring(issued.scan);
    tracing::debug!(%node, %epoch, %command, scan = %issued.scan, "command issued");
    if !hub.send_command(node, epoch, &issued, app.environment.now()) {
        app.store
            .withdraw_command(command, app.environment.now())
            .await?;
    }
    Ok(())
}
