//! Periodic work: deadlines of commands, queue times, expiry of codes and sessions.

use std::{sync::Arc, time::Duration};

use fleet_store::ScanRetention;

use crate::{alerts, app::App};

/// Deadlines are minutes long, so a delay of a second is acceptable.
const SCANS_EVERY: Duration = Duration::from_secs(1);
/// Codes expire after an hour, sessions after a day. Both are also checked where they are used.
const REST_EVERY: Duration = Duration::from_secs(30);
/// Events that one transaction deletes, and transactions of one sweep: 100,000 events in half a minute.
const OLD_EVENTS: (u32, usize) = (5_000, 20);
/// Rows of removed scans that one transaction deletes, and transactions of one sweep.
const OLD_SCANS: (u32, usize) = (2_000, 20);

/// Sweeps until the server drains.
pub(crate) async fn run(app: Arc<App>) {
    let mut scans = tokio::time::interval(SCANS_EVERY);
    let mut rest = tokio::time::interval(REST_EVERY);
    // Refused devices are swept in parts; this is where the next part begins.
    let mut refused = 0;
    for interval in [&mut scans, &mut rest] {
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    }
    loop {
        tokio::select! {
            () = app.drain.cancelled() => return app.auditor.flush(true).await,
            _ = scans.tick() => {
                sweep_commands(&app).await;
                forget_ended(&app).await;
                sweep_pairings(&app).await;
                app.auditor.flush(false).await;
            }
            _ = rest.tick() => {
                sweep_rest(&app).await;
                sweep_events(&app).await;
                sweep_scans(&app).await;
                alerts::sweep(&app).await;
                refused = sweep_refused_devices(&app, refused).await;
            }
        }
    }
}

async fn sweep_commands(app: &App) {
    match app.store.sweep_commands(app.environment.now()).await {
        Ok(expired) => {
            for (node, command) in expired.commands {
                tracing::info!(%node, %command, "a command passed its deadline");
                app.hub.forget(node, command);
                app.dispatch_queue.push(node);
            }
            for scan in expired.scans {
                app.wakeups.notify(scan);
            }
            for pairing in expired.pairings {
                app.wakeups.notify(pairing);
            }
        }
        Err(error) => tracing::warn!(%error, "cannot sweep commands"),
    }
}

/// Releases the permits of overdue commands that have ended in the store: another server may have swept them.
async fn forget_ended(app: &App) {
    for (node, command) in app.hub.take_overdue() {
        match app.store.is_in_flight(command).await {
            Ok(true) => {}
            Ok(false) => app.hub.forget(node, command),
            // The hub reports it again.
            Err(error) => {
                tracing::warn!(%node, %command, %error, "cannot read whether an overdue command has ended")
            }
        }
    }
}

async fn sweep_pairings(app: &App) {
    if let Err(error) = app.store.sweep_pairings(app.environment.now()).await {
        tracing::warn!(%error, "cannot sweep pairings");
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
        Ok(cleared) => tracing::info!(cleared, "duplicate identities are resolved"),
        Err(error) => tracing::warn!(%error, "cannot sweep duplicate identities"),
    }
}

/// Deletes the events of scans that ended long ago, in parts that hold no lock for long.
async fn sweep_events(app: &App) {
    let Some(kept) = app.config.scan_events_kept else {
        return;
    };
    let now = app.environment.now();
    let (batch, batches) = OLD_EVENTS;
    for _ in 0..batches {
        match app
            .store
            .delete_old_events(now.minus(kept), batch, now)
            .await
        {
            Ok(deleted) if deleted >= u64::from(batch) => {}
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, "cannot delete old events of scans");
                return;
            }
        }
    }
}

/// Removes scans that ended long ago, in parts that hold no lock for long.
async fn sweep_scans(app: &App) {
    let Some(kept) = app.config.scans_kept else {
        return;
    };
    let now = app.environment.now();
    let policy = ScanRetention {
        ended_before: now.minus(kept),
        keeps_last: app.config.last_scans_kept,
    };
    let (batch, batches) = OLD_SCANS;
    for _ in 0..batches {
        let removed = app.store.remove_old_scans(policy, batch, now).await;
        match removed {
            Ok(removed) => {
                if removed.scans > 0 {
                    tracing::info!(scans = removed.scans, "old scans are removed");
                }
                if removed.rows < u64::from(batch) {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot remove old scans");
                return;
            }
        }
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
