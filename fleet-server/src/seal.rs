//! The sealer of the audit chain: links the records that were written since its last run. Every replica runs one;
//! the store serializes them.

use std::{sync::Arc, time::Duration};

use crate::app::App;

/// Two runs fit into the second within which a record must be sealed.
const EVERY: Duration = Duration::from_millis(400);

/// Seals until the server drains, and once more then. Records that are written later are sealed at the next start.
pub(crate) async fn run(app: Arc<App>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        let last = tokio::select! {
            () = app.drain.cancelled() => true,
            _ = ticks.tick() => false,
        };
        let sealed = app.store.seal_audit(app.environment.now()).await;
        // Logged once, not twice a second, while the database is away.
        match &sealed {
            Err(error) if !failing => tracing::warn!(%error, "cannot seal the audit chain"),
            Ok(_) | Err(_) => {}
        }
        failing = sealed.is_err();
        if last {
            return;
        }
    }
}
