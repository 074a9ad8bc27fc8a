//! The one table that a machine keeps its deadlines in. What fires when is said by each machine's own
//! `Timer` enum; how time passes is the caller's.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// Deadlines by key: at most one a key, the earliest found first. Holds as many entries as the machine
/// has keys, so its bound is the machine's.
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

    /// Sets the deadline of a key; an earlier setting is forgotten.
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

    /// Takes the deadline of a key if `now` has reached it.
    pub(crate) fn pop_key(&mut self, key: K, now: Instant) -> Option<K> {
        self.by_key.get(&key).filter(|at| **at <= now)?;
        self.cancel(key);
        Some(key)
    }

    /// Takes the earliest deadline that `now` has reached.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<K> {
        let (at, key) = *self.by_time.first()?;
        if at > now {
            return None;
        }
        self.cancel(key);
        Some(key)
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// The keys, earliest deadline first.
    pub(crate) fn keys(&self) -> impl Iterator<Item = K> {
        self.by_time.iter().map(|(_, key)| *key)
    }
}
