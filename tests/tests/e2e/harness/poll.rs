//! Waiting for conditions instead of for time. Every wait has a time limit and names the condition that was not met.

use std::{future::Future, time::Duration};

/// Time limit for a loaded machine. No test asserts it as a duration.
const PATIENCE: Duration = Duration::from_secs(60);
/// Interval between two checks.
const LOOK: Duration = Duration::from_millis(25);

/// Calls `look` until it returns something.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let seen = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    within(what, seen).await
}

/// Awaits a future with a time limit.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not come within {} s", PATIENCE.as_secs()),
    }
}
