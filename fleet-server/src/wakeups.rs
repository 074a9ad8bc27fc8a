//! Wake-ups: "this scan or pairing changed, read it again". A wake-up carries no data, and a missed one is harmless,
//! because every subscriber also reads once a second.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    sync::Arc,
};

use tokio::sync::{
    Notify,
    futures::{Notified, OwnedNotified},
};

/// Number of slots. Keys that share a slot wake each other's subscribers, which read and sleep again.
const SLOTS: usize = 64;

/// A fixed set of slots, shared by all scans and pairings, so that watchers of unknown ids cost no memory.
#[derive(Debug)]
pub(crate) struct Wakeups {
    slots: [Arc<Notify>; SLOTS],
    hasher: RandomState,
}

impl Wakeups {
    pub(crate) fn new() -> Self {
        Self {
            slots: std::array::from_fn(|_| Arc::default()),
            hasher: RandomState::new(),
        }
    }

    /// Wakes all subscribers of a key.
    pub(crate) fn notify(&self, key: impl Hash) {
        self.slot(key).notify_waiters();
    }

    /// Waits for the next notification. Subscribe before reading, otherwise a notification in between is missed.
    pub(crate) fn subscribe(&self, key: impl Hash) -> Notified<'_> {
        self.slot(key).notified()
    }

    /// The same without a borrow.
    pub(crate) fn subscribe_owned(&self, key: impl Hash) -> OwnedNotified {
        self.slot(key).clone().notified_owned()
    }

    fn slot(&self, key: impl Hash) -> &Arc<Notify> {
        let hash = usize::try_from(self.hasher.hash_one(key) % SLOTS as u64).unwrap_or(0);
        &self.slots[hash]
    }
}
