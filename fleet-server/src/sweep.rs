//! What time alone brings about: deadlines of commands, ends of queues, expiry of codes and sessions.

use std::{sync::Arc, time::Duration};

use crate::app::App;

/// Deadlines are minutes long; a second late is soon enough.
const SCANS_EVERY: Duration = Duration::from_secs(1);
/// Codes live an hour, sessions a day; both are checked where they are used too.
const REST_EVERY: Duration = Duration::from_secs(30);

/// Sweeps until the server drains.
pub(crate) async fn run(app: Arc<App>) {
    let mut scans = tokio::time::interval(SCANS_EVERY);
    let mut rest = tokio::time::interval(REST_EVERY);
    // Where the sweep of refused devices goes on: a part of them at a time.
    let mut refused = 0;
    for interval in [&mut scans, &mut rest] {
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    }
    loop {
        tokio::select! {
            () = app.drain.cancelled() => return,
            _ = scans.tick() => {
                sweep_scans(&app).await;
                sweep_pairings(&app).await;
                follow_claims(&app).await;
            }
            _ = rest.tick() => {
                sweep_rest(&app).await;
                refused = sweep_refused_devices(&app, refused).await;
            }
        }
    }
}

async fn sweep_scans(app: &App) {
    match app.store.sweep_scans(app.environment.now()).await {
        Ok(swept) => {
            for (node, command) in swept.commands {
                tracing::info!(%node, %command, "a command passed its deadline");
                app.hub.forget(node, command);
                app.work.look_at(node);
            }
            for scan in swept.scans {
                app.bells.ring(scan);
            }
        }
        Err(error) => tracing::warn!(%error, "cannot sweep scans"),
    }
}

async fn sweep_pairings(app: &App) {
    match app.store.sweep_pairings(app.environment.now()).await {
        Ok(commands) => {
            for (node, command) in commands {
                tracing::info!(%node, %command, "a command of pairing passed its deadline");
                app.hub.forget(node, command);
                app.work.look_at(node);
            }
        }
        Err(error) => tracing::warn!(%error, "cannot sweep pairings"),
    }
}

async fn sweep_rest(app: &App) {
    let now = app.environment.now();
    match app.store.sweep_enrollments(now).await {
        Ok(0) => {}
        Ok(expired) => tracing::info!(expired, "enrollment codes expired"),
        Err(error) => tracing::warn!(%error, "cannot sweep enrollments"),
    }
    if let Err(error) = app.store.sweep_sessions(now).await {
        tracing::warn!(%error, "cannot sweep sessions");
    }
    match app.store.sweep_duplicates(now).await {
        Ok(0) => {}
        Ok(cleared) => tracing::info!(cleared, "nodes are single again"),
        Err(error) => tracing::warn!(%error, "cannot look after duplicate identities"),
    }
}

/// How far back to look each time: a claim is stored some time after the moment it names, and servers' clocks
/// differ. What is missed by this is found out by the stream's own check.
const LOOK_BACK: Duration = Duration::from_secs(10);

/// Ends the streams whose nodes went to another server, so that the older machine learns soon that a newer one
/// came.
async fn follow_claims(app: &App) {
    let since = app.environment.now().minus(LOOK_BACK);
    match app.store.claimed_elsewhere(app.replica, since).await {
        Ok(claimed) => {
            for (node, epoch) in claimed {
                app.hub.superseded(node, epoch);
            }
        }
        Err(error) => tracing::warn!(%error, "cannot look for nodes that went to other servers"),
    }
}

async fn sweep_refused_devices(app: &App, after: i64) -> i64 {
    let now = app.environment.now();
    match app.store.sweep_refused_devices(after, now).await {
        Ok(next) => next.unwrap_or(0),
        Err(error) => {
            tracing::warn!(%error, "cannot sweep refused devices");
            after
        }
    }
}
