//! What a connection has shown of itself, shared between the accept loop and the calls on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;

const NEW: u8 = 0;
const PLAIN: u8 = 1;
const AUTHENTICATED: u8 = 2;
const GONE: u8 = 3;

/// One connection of the listener; every request on it carries a clone in its extensions.
///
/// A connection that made neither an authenticated call nor a plain request within its first seconds is closed.
#[derive(Debug, Clone, Default)]
pub struct ConnectionGuard(Arc<State>);

#[derive(Debug, Default)]
struct State {
    standing: AtomicU8,
    active: AtomicUsize,
    close: CancellationToken,
    census: Arc<Census>,
}

impl ConnectionGuard {
    /// Notes a plain request: the connection may stay.
    pub fn mark_plain(&self) {
        self.0.standing.fetch_max(PLAIN, Ordering::Relaxed);
    }

    /// Notes an authenticated call: the connection may stay, and use what is reserved for known peers.
    pub fn mark_authenticated(&self) {
        if self.0.standing.fetch_max(AUTHENTICATED, Ordering::Relaxed) < AUTHENTICATED {
            self.0.census.anonymous.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether the connection may stay.
    pub fn is_established(&self) -> bool {
        self.0.standing.load(Ordering::Relaxed) > NEW
    }

    /// Whether a known peer is at the other end.
    pub fn is_authenticated(&self) -> bool {
        self.0.standing.load(Ordering::Relaxed) == AUTHENTICATED
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
}

/// Counts a call as active until it is dropped.
#[derive(Debug)]
pub(crate) struct ActiveCall(Arc<State>);

impl Drop for ActiveCall {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many connections there are.
#[derive(Debug, Default)]
pub(super) struct Census {
    total: AtomicUsize,
    anonymous: AtomicUsize,
}

impl Census {
    /// Enters a connection, unless there are `max`, or `max - reserved` whose peers are not known. Called by the accept
    /// loop alone.
    pub(super) fn enter(self: &Arc<Self>, max: usize, reserved: usize) -> Option<Seat> {
        let full = self.total.load(Ordering::Relaxed) >= max
            || self.anonymous.load(Ordering::Relaxed) >= max.saturating_sub(reserved);
        if full {
            return None;
        }
        self.total.fetch_add(1, Ordering::Relaxed);
        self.anonymous.fetch_add(1, Ordering::Relaxed);
        Some(Seat(ConnectionGuard(Arc::new(State {
            census: Arc::clone(self),
            ..State::default()
        }))))
    }

    pub(super) fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }
}

/// A connection's place in the census, left on drop.
#[derive(Debug)]
pub(super) struct Seat(pub(super) ConnectionGuard);

impl Drop for Seat {
    fn drop(&mut self) {
        let state = &self.0.0;
        if state.standing.swap(GONE, Ordering::Relaxed) < AUTHENTICATED {
            state.census.anonymous.fetch_sub(1, Ordering::Relaxed);
        }
        state.census.total.fetch_sub(1, Ordering::Relaxed);
    }
}
