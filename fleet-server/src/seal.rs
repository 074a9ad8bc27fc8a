//! The sealer of the audit chain: links what was written since its last look. Every replica runs one; the
//! store lets them take turns.

use std::{sync::Arc, time::Duration};

use crate::app::App;

/// Twice within the second in which a record must be sealed.
const EVERY: Duration = Duration::from_millis(400);

/// Seals until the server drains, and once more then. What is written after that, the next start seals.
pub(crate) async fn run(app: Arc<App>) {
    let mut looks = tokio::time::interval(EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        let last = tokio::select! {
            () = app.drain.cancelled() => true,
            _ = looks.tick() => false,
        };
        let sealed = app.store.seal_audit(app.environment.now()).await;
        // Said once, not twice a second while the database is away.
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
