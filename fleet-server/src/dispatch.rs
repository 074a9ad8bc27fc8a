//! Dispatch: sends stored chunks to connected nodes. The command's row is written before anything is sent, so a crash
//! in between costs an attempt and never a chunk.

use std::{sync::Arc, time::Duration};

use fleet_core::NodeId;
use fleet_store::StoreError;

use crate::app::App;

/// Interval of polls, for chunks whose back-off is over and chunks that other servers stored.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// Dispatches until the server drains.
pub(crate) async fn run(app: Arc<App>) {
    let mut polls = tokio::time::interval(POLL_EVERY);
    polls.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = app.drain.cancelled() => return,
            () = app.dispatch_queue.wait() => {}
            _ = polls.tick() => match app.store.nodes_with_work(app.environment.now()).await {
                Ok(nodes) => nodes.into_iter().for_each(|node| app.dispatch_queue.push(node)),
                Err(error) => tracing::warn!(%error, "cannot read which nodes have work"),
            }
        }
        for node in app.dispatch_queue.take() {
            if app.drain.is_cancelled() {
                return;
            }
            if let Err(error) = dispatch(&app, node).await {
                // The next poll retries.
                tracing::warn!(%node, %error, "cannot dispatch");
            }
        }
    }
}

/// Issues a node's next chunk and sends it to the stream that holds the current epoch.
async fn dispatch(app: &App, node: NodeId) -> Result<(), StoreError> {
    let Some(epoch) = app.hub.free_epoch(node) else {
        return Ok(());
    };
    let command = app.environment.command_id();
    let now = app.environment.now();
    let Some(issued) = app.store.issue_command(node, epoch, command, now).await? else {
        return Ok(());
    };
    app.wakeups.notify(issued.scan);
    tracing::debug!(%node, %epoch, %command, scan = %issued.scan, "command issued");
    // The stream ended in between. A withdrawal costs no attempt, and waiting for the deadline
    // would cost 12 minutes.
    if !app
        .hub
        .send_command(node, epoch, &issued, app.environment.now())
    {
        app.store
            .withdraw_command(command, app.environment.now())
            .await?;
    }
    Ok(())
}
