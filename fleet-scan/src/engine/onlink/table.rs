//! What the kernel says of its neighbors. Values.

use std::{net::IpAddr, time::Duration};

use fleet_core::Mac;

/// One neighbor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) ip: IpAddr,
    pub(super) state: State,
    pub(super) mac: Option<Mac>,
    /// Since its state last changed.
    pub(super) age: Duration,
}

/// How a neighbor stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Was asked for, has not answered (INCOMPLETE).
    Unresolved,
    /// Answered (REACHABLE, STALE, DELAY, PROBE).
    Answered,
    /// Has not answered in the kernel's own time and tries (FAILED).
    Failed,
    /// Somebody's word, not an answer (PERMANENT, NOARP); does not count against the limit.
    Fixed,
}

/// The whole table of one family at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) entries: Vec<Entry>,
    /// Entries of other network namespaces, which share the limit and are not shown.
    pub(super) hidden: usize,
    /// How often an entry was wanted and there was no room (`table_fulls`), since the system started.
    pub(super) fulls: u64,
}

/// How long the kernel does not give up an entry for another one after its last change (`neigh_forced_gc`).
const KEPT: Duration = Duration::from_secs(5);

impl View {
    /// Entries that hold a place which the kernel would not give to another one.
    pub(super) fn occupied(&self) -> usize {
        let holds = |entry: &&Entry| match entry.state {
            State::Unresolved => true,
            State::Answered => entry.age <= KEPT,
            State::Failed | State::Fixed => false,
        };
        self.hidden + self.entries.iter().filter(holds).count()
    }

    /// Entries whose answer is awaited.
    pub(super) fn unresolved(&self) -> usize {
        let waits = |entry: &&Entry| entry.state == State::Unresolved;
        self.entries.iter().filter(waits).count()
    }
}
