//! Bells: "something happened to this scan or pairing, look again". They carry no data; who misses one looks again
//! after a second anyway.

use std::hash::{BuildHasher, Hash, RandomState};

use tokio::sync::{Notify, futures::Notified};

/// Those that share a bell wake each other's watchers, who look and sleep again.
const BELLS: usize = 64;

/// A fixed set of bells, shared by all scans and pairings.
#[derive(Debug)]
pub(crate) struct Bells {
    bells: [Notify; BELLS],
    hasher: RandomState,
}

impl Bells {
    pub(crate) fn new() -> Self {
        Self {
            bells: std::array::from_fn(|_| Notify::new()),
            hasher: RandomState::new(),
        }
    }

    /// Wakes whoever waits for this.
    pub(crate) fn ring(&self, what: impl Hash) {
        self.of(what).notify_waiters();
    }

    /// Waits for the next ring. Take it before looking, so that no ring falls in between.
    pub(crate) fn listen(&self, what: impl Hash) -> Notified<'_> {
        self.of(what).notified()
    }

    fn of(&self, what: impl Hash) -> &Notify {
        let hash = usize::try_from(self.hasher.hash_one(what) % BELLS as u64).unwrap_or(0);
        &self.bells[hash]
    }
}
