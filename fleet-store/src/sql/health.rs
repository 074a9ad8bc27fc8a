//! The health of a database as recent transactions show it: which connections can be used again, and whether
//! writes become durable.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A commit within this time shows that the database accepts writes. Readiness must turn red within 2 s of the
/// first failed write.
const FRESH: Duration = Duration::from_secs(1);

/// The health of one database, shared by the clones of a store and its pools.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When a BEGIN, COMMIT or ROLLBACK last failed.
    unknown_since: Option<Instant>,
    committed_at: Option<Instant>,
    /// Whether a write failed, and no check has shown since that writes succeed.
    is_suspect: bool,
}

impl Health {
    /// Records that a BEGIN, COMMIT or ROLLBACK failed. The state of its connection is unknown.
    ///
    /// After a COMMIT that failed for lack of space, SQLite can leave the transaction open. Every later
    /// transaction on that connection would then be a savepoint that is never written.
    pub(crate) fn connection_is_unknown(&self) {
        let mut state = self.state();
        state.unknown_since = Some(Instant::now());
        state.is_suspect = true;
    }

    /// Records that a write failed on a healthy connection.
    pub(crate) fn write_failed(&self) {
        self.state().is_suspect = true;
    }

    /// Whether a write failed since the last [`Self::writes_succeed`]. A commit does not end this state: on a full
    /// disk, small writes that need no new page still succeed.
    pub(crate) fn is_suspect(&self) -> bool {
        self.state().is_suspect
    }

    /// Records that a check which needs space on the disk has succeeded.
    pub(crate) fn writes_succeed(&self) {
        self.state().is_suspect = false;
    }

    /// Records that a transaction was committed.
    pub(crate) fn committed(&self) {
        self.state().committed_at = Some(Instant::now());
    }

    /// Whether a connection of this age can be used again. Every connection that existed at a failure is
    /// replaced, because a pool does not show which of them failed.
    pub(crate) fn allows(&self, age: Duration) -> bool {
        let unknown = self.state().unknown_since;
        unknown.is_none_or(|since| age < since.elapsed())
    }

    /// Whether a transaction was committed recently and no write has failed.
    pub(crate) fn is_fresh(&self) -> bool {
        let state = self.state();
        let committed = state.committed_at;
        !state.is_suspect && committed.is_some_and(|at| at.elapsed() < FRESH)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
