//! Orders for the nodes whose streams this server holds: cancels, revocations, pairings, takeovers. An operator can
//! call any server. The rows of the database are the source of truth. They are read at every notification, and once a
//! second in case one is missed.

use std::{sync::Arc, time::Duration};

use crate::{app::App, pair};

/// Interval of reads without a notification, and of attempts to subscribe.
const READ_EVERY: Duration = Duration::from_secs(1);
/// How far back each look for takeovers goes: a claim is stored some time after its timestamp, and the clocks of
/// servers differ. The stream's own check finds a claim that this misses.
const LOOK_BACK: Duration = Duration::from_secs(10);

/// Passes orders to the nodes until the server drains.
pub(crate) async fn run(app: Arc<App>) {
    tokio::select! {
        () = app.drain.cancelled() => {}
        () = listen(&app) => {}
        () = read(&app) => {}
    }
}

/// Receives the notifications of all servers.
async fn listen(app: &App) {
    loop {
        match app.store.notifications().await {
            Ok(mut notifications) => {
                while let Some(notification) = notifications.recv().await {
                    app.notified(notification);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "cannot subscribe to the notifications of other servers");
            }
        }
        tokio::time::sleep(READ_EVERY).await;
    }
}

async fn read(app: &Arc<App>) {
    let mut ticks = tokio::time::interval(READ_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = app.orders.notified() => {}
            _ = ticks.tick() => {}
        }
        pass_on(app).await;
    }
}

async fn pass_on(app: &Arc<App>) {
    match app.store.orders(app.replica, app.environment.now()).await {
        Ok(orders) => {
            for (node, command) in orders.canceled {
                app.hub.cancel(node, command);
            }
            for (node, command) in orders.ended {
                app.end_command(node, command);
            }
            for node in orders.revoked {
                app.hub.revoked(node);
            }
        }
        Err(error) => tracing::warn!(%error, "cannot read the orders for the connected nodes"),
    }
    if let Err(error) = pair::take_forwarded(app).await {
        tracing::warn!(%error, "cannot read the pairings that other servers forwarded");
    }
    let since = app.environment.now().minus(LOOK_BACK);
    match app.store.claimed_elsewhere(app.replica, since).await {
        Ok(claimed) => {
            for (node, epoch) in claimed {
                app.hub.superseded(node, epoch);
            }
        }
        Err(error) => tracing::warn!(%error, "cannot read which nodes connected to other servers"),
    }
}
