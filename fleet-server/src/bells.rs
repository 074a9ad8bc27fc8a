//! Bells: "something happened to this scan, look again". They carry no data; who misses one looks again
//! after a second anyway.

use std::hash::{BuildHasher, RandomState};

use fleet_core::ScanId;
use tokio::sync::{Notify, futures::Notified};

/// Scans that share a bell wake each other's watchers, who look and sleep again.
const BELLS: usize = 64;

/// A fixed set of bells, shared by all scans.
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

    /// Wakes whoever waits for this scan.
    pub(crate) fn ring(&self, scan: ScanId) {
        self.of(scan).notify_waiters();
    }

    /// Waits for the next ring. Take it before looking, so that no ring falls in between.
    pub(crate) fn listen(&self, scan: ScanId) -> Notified<'_> {
        self.of(scan).notified()
    }

    fn of(&self, scan: ScanId) -> &Notify {
        let hash = usize::try_from(self.hasher.hash_one(scan) % BELLS as u64).unwrap_or(0);
        &self.bells[hash]
    }
}
