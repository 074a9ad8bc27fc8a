//! What a connection has shown of itself, shared between the accept loop and the calls on it.

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
};

use tokio_util::sync::CancellationToken;

use super::census::{Census, Source};

/// What is known of the peer. Grows only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Standing {
    /// Public calls at most.
    New,
    /// Made plain requests.
    Plain,
    /// Made an authenticated call.
    Authenticated,
    /// Has no place any more.
    ShownOut,
}

impl Standing {
    fn of(byte: u8) -> Self {
        match byte {
            0 => Self::New,
            1 => Self::Plain,
            2 => Self::Authenticated,
            _ => Self::ShownOut,
        }
    }
}

/// One connection of the listener; every request on it carries a clone in its extensions.
///
/// A connection that made neither an authenticated call nor a plain request within its first seconds is closed, and so
/// is one that has made plain requests only and makes no more.
#[derive(Debug, Clone)]
pub struct ConnectionGuard(Arc<State>);

#[derive(Debug)]
struct State {
    id: u64,
    source: Option<Source>,
    /// Written under the lock of the census, except from new to plain.
    standing: AtomicU8,
    plain: AtomicU64,
    active: AtomicUsize,
    close: CancellationToken,
    census: Arc<Census>,
}

impl ConnectionGuard {
    pub(super) fn new(census: Arc<Census>, id: u64, source: Option<Source>) -> Self {
        Self(Arc::new(State {
            id,
            source,
            standing: AtomicU8::new(Standing::New as u8),
            plain: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            close: CancellationToken::new(),
            census,
        }))
    }

    /// Notes a plain request: the connection may stay for a while.
    pub fn mark_plain(&self) {
        self.0.plain.fetch_add(1, Ordering::Relaxed);
        self.0
            .standing
            .fetch_max(Standing::Plain as u8, Ordering::Relaxed);
    }

    /// Notes an authenticated call: the connection may stay, and use what is reserved for known peers.
    pub fn mark_authenticated(&self) {
        if self.standing() < Standing::Authenticated {
            self.0.census.recognize(self);
        }
    }

    /// Whether a known peer is at the other end.
    pub fn is_authenticated(&self) -> bool {
        self.standing() == Standing::Authenticated
    }

    /// How many calls are being served on the connection, the asking one included.
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

    /// For the census, under its lock.
    pub(super) fn set_standing(&self, standing: Standing) {
        self.0.standing.store(standing as u8, Ordering::Relaxed);
    }

    /// How many plain requests were made.
    pub(super) fn plain_requests(&self) -> u64 {
        self.0.plain.load(Ordering::Relaxed)
    }

    pub(super) fn id(&self) -> u64 {
        self.0.id
    }

    pub(super) fn source(&self) -> Option<Source> {
        self.0.source
    }

    pub(super) fn census(&self) -> &Census {
        &self.0.census
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
