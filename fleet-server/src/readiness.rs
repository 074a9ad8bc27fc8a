//! Readiness: whether the database answers, checked in the background. Requests read the last result, so a hanging
//! database cannot hang them, and unauthenticated callers cause no work in the database.

use std::{sync::Arc, time::Duration};

use fleet_store::StoreError;
use tokio::{sync::watch, task::JoinHandle};

use crate::app::App;

/// Interval of checks.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// A database that has not answered for this long is not ready. With the interval it is reported within 2 s.
const ANSWER_WITHIN: Duration = Duration::from_millis(800);
/// How long a request waits for the first result after the start.
const FIRST_WITHIN: Duration = Duration::from_millis(900);

/// The last result; none before the first.
#[derive(Debug)]
pub(crate) struct Readiness(watch::Sender<Option<bool>>);

impl Readiness {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// The last result. Returns within a second.
    pub(crate) async fn is_ready(&self) -> bool {
        let mut results = self.0.subscribe();
        let first = results.wait_for(Option::is_some);
        match tokio::time::timeout(FIRST_WITHIN, first).await {
            Ok(Ok(result)) => result.unwrap_or(false),
            Ok(Err(_)) | Err(_) => false,
        }
    }
}

/// Checks until the server drains.
pub(crate) async fn run(app: Arc<App>) {
    let mut ticks = tokio::time::interval(CHECK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut pending: Option<JoinHandle<Result<(), StoreError>>> = None;
    loop {
        tokio::select! {
            () = app.drain.cancelled() => return,
            _ = ticks.tick() => {}
        }
        // A check that hangs is not repeated beside itself: each would wait for a connection.
        let mut check = pending.take().unwrap_or_else(|| {
            let app = app.clone();
            tokio::spawn(async move { app.store.ping().await })
        });
        let ready = match tokio::time::timeout(ANSWER_WITHIN, &mut check).await {
            Ok(Ok(Ok(()))) => true,
            Ok(Ok(Err(error))) => {
                tracing::warn!(%error, "not ready");
                false
            }
            Ok(Err(_)) => false,
            Err(_) => {
                tracing::warn!("not ready: the database does not answer");
                pending = Some(check);
                false
            }
        };
        app.readiness.0.send_replace(Some(ready));
    }
}
