//! The state of a connection, shared between the accept loop and the calls on the connection.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
};

use tokio_util::sync::CancellationToken;

use super::table::{ConnectionTable, Source};
use crate::server::Payer;

/// How far the peer is trusted. Only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Standing {
    /// No more than public calls.
    New,
    /// The peer made plain requests.
    Plain,
    /// The peer made an authenticated call.
    Authenticated,
    /// The connection lost its slot.
    Evicted,
}

impl Standing {
    fn of(byte: u8) -> Self {
        match byte {
            0 => Self::New,
            1 => Self::Plain,
            2 => Self::Authenticated,
            _ => Self::Evicted,
        }
    }
}

/// One connection of the listener; every request on it carries a clone in its extensions.
///
/// A connection without an authenticated call or a plain request in its first seconds is closed. A connection with
/// plain requests only is closed when they stop.
#[derive(Debug, Clone)]
pub struct ConnectionGuard(Arc<State>);

#[derive(Debug)]
struct State {
    id: u64,
    source: Option<Source>,
    /// Written under the lock of the table, except for the step from new to plain.
    standing: AtomicU8,
    plain: AtomicU64,
    active: AtomicUsize,
    close: CancellationToken,
    /// The caller whose authenticated connection this is.
    caller: OnceLock<Payer>,
    table: Arc<ConnectionTable>,
}

impl ConnectionGuard {
    pub(super) fn new(table: Arc<ConnectionTable>, id: u64, source: Option<Source>) -> Self {
        Self(Arc::new(State {
            id,
            source,
            standing: AtomicU8::new(Standing::New as u8),
            plain: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            close: CancellationToken::new(),
            caller: OnceLock::new(),
            table,
        }))
    }

    /// Records a plain request, which keeps the connection open for a while.
    pub fn mark_plain(&self) {
        // Relaxed is enough: no other data is published by these values.
        self.0.plain.fetch_add(1, Ordering::Relaxed);
        self.0
            .standing
            // The connection may be authenticated or evicted
            // at the same time, which must not be overwritten.
            .fetch_max(Standing::Plain as u8, Ordering::Relaxed);
    }

    /// Records an authenticated call of a caller. The connection stays open and may use the slots reserved for
    /// authenticated peers, unless the caller has too many such connections already. It then counts as one of plain
    /// requests: it may be evicted, and ends when it has no calls.
    pub fn mark_authenticated(&self, caller: Payer) {
        // Only the first authenticated call takes the lock of the table.
        if self.standing() < Standing::Authenticated && !self.0.table.recognize(self, caller) {
            self.mark_plain();
        }
    }

    /// Whether the peer has authenticated.
    pub fn is_authenticated(&self) -> bool {
        self.standing() == Standing::Authenticated
    }

    /// Number of calls that are served on the connection, including the current one.
    pub fn active_calls(&self) -> usize {
        self.0.active.load(Ordering::Relaxed)
    }

    /// Closes the connection at once, with every call on it.
    pub fn close(&self) {
        self.0.close.cancel();
    }

    pub(crate) fn begin_call(&self) -> ActiveCall {
        self.0.active.fetch_add(1, Ordering::Relaxed);
        ActiveCall(Arc::clone(&self.0))
    }

    pub(super) fn closed(&self) -> impl Future<Output = ()> {
        self.0.close.clone().cancelled_owned()
    }

    pub(super) fn standing(&self) -> Standing {
        Standing::of(self.0.standing.load(Ordering::Relaxed))
    }

    /// The caller that is counted for this connection.
    pub(super) fn caller(&self) -> Option<Payer> {
        self.0.caller.get().copied()
    }

    /// Called by the table only, under its lock.
    pub(super) fn set_caller(&self, caller: Payer) {
        // A connection is recognized once.
        let _ = self.0.caller.set(caller);
    }

    /// Called by the table only, under its lock.
    pub(super) fn set_standing(&self, standing: Standing) {
        self.0.standing.store(standing as u8, Ordering::Relaxed);
    }

    /// Number of plain requests.
    pub(super) fn plain_requests(&self) -> u64 {
        self.0.plain.load(Ordering::Relaxed)
    }

    pub(super) fn id(&self) -> u64 {
        self.0.id
    }

    pub(super) fn source(&self) -> Option<Source> {
        self.0.source
    }

    pub(super) fn table(&self) -> &ConnectionTable {
        &self.0.table
    }
}

/// Counts a call as active until it is dropped.
#[derive(Debug)]
pub(crate) struct ActiveCall(Arc<State>);

impl Drop for ActiveCall {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}
