//! The table in which a state machine keeps its deadlines. Each machine's `Timer` enum states when each deadline
//! fires.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// Deadlines by key, at most one per key. The number of entries is bounded by the machine's number of keys.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    by_key: BTreeMap<K, Instant>,
    by_time: BTreeSet<(Instant, K)>,
}

impl<K: Copy + Ord> Timers<K> {
    pub(crate) fn new() -> Self {
        Self {
            by_key: BTreeMap::new(),
            by_time: BTreeSet::new(),
        }
    }

    /// Sets the deadline of a key and replaces an earlier one.
    pub(crate) fn set(&mut self, key: K, at: Instant) {
        self.cancel(key);
        self.by_key.insert(key, at);
        self.by_time.insert((at, key));
    }

    pub(crate) fn cancel(&mut self, key: K) {
        if let Some(at) = self.by_key.remove(&key) {
            self.by_time.remove(&(at, key));
        }
    }

    pub(crate) fn clear(&mut self) {
        self.by_key.clear();
        self.by_time.clear();
    }

    /// Removes the deadline of a key if `now` has reached it.
    pub(crate) fn pop_key(&mut self, key: K, now: Instant) -> Option<K> {
        self.by_key.get(&key).filter(|at| **at <= now)?;
        self.cancel(key);
        Some(key)
    }

    /// Removes the earliest deadline that `now` has reached and returns its key.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<K> {
        let (at, key) = *self.by_time.first()?;
        if at > now {
            return None;
        }
        self.cancel(key);
        Some(key)
    }

    /// When the earliest deadline fires.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// The keys, earliest deadline first.
    pub(crate) fn keys(&self) -> impl Iterator<Item = K> {
        self.by_time.iter().map(|(_, key)| *key)
    }
}
