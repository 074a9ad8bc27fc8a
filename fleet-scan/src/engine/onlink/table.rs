//! The kernel's neighbor table, as plain values.

use std::{net::IpAddr, time::Duration};

use fleet_core::Mac;

/// One neighbor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) ip: IpAddr,
    pub(super) state: State,
    pub(super) mac: Option<Mac>,
    /// Time since its state last changed.
    pub(super) age: Duration,
    /// Time since it was last heard of.
    pub(super) confirmed: Duration,
}

/// The state of a neighbor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Requested, not answered yet (INCOMPLETE).
    Unresolved,
    /// Answered (REACHABLE, STALE, DELAY, PROBE).
    Answered,
    /// Did not answer in the kernel's time and tries (FAILED).
    Failed,
    /// Configured rather than resolved (PERMANENT, NOARP). It does not count against the limit.
    Fixed,
}

/// The table of one family at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) entries: Vec<Entry>,
    /// Entries of other network namespaces. They share the limit and are not listed.
    pub(super) hidden: usize,
    /// How often an entry found no room since the system started (`table_fulls`).
    pub(super) fulls: u64,
}

/// How long after its last change the kernel does not evict an entry for another one (`neigh_forced_gc`).
const KEPT: Duration = Duration::from_secs(5);

impl View {
    /// Entries that the kernel would not evict for another one.
    pub(super) fn occupied(&self) -> usize {
        let holds = |entry: &&Entry| match entry.state {
            State::Unresolved => true,
            State::Answered => entry.age <= KEPT,
            State::Failed | State::Fixed => false,
        };
        self.hidden + self.entries.iter().filter(holds).count()
    }

    /// Entries that wait for an answer.
    pub(super) fn unresolved(&self) -> usize {
        let waits = |entry: &&Entry| entry.state == State::Unresolved;
        self.entries.iter().filter(waits).count()
    }
}
