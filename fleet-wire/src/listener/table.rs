//! The connection table: which connections hold a slot of the port, and which of them is evicted when it is full.
//!
//! A new connection evicts the oldest unauthenticated one instead of being closed itself. Otherwise a peer that holds
//! slots silently could keep honest peers out for as long as it likes, and an honest peer authenticates within a few
//! round trips.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    net::{IpAddr, Ipv4Addr},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnetwork::IpNetwork;

use super::{
    config::{ListenerConfig, ListenerCounts, count},
    guard::{ConnectionGuard, Standing},
};
use crate::server::Payer;

/// Most evicted connections that have not closed yet. The bounds can be exceeded by this number for a moment.
pub(super) const EVICTING: usize = 64;
/// Number of the oldest connections among which one without a call is preferred for eviction.
const LOOK: usize = 16;

/// Authenticated connections of one caller, which stay open and are never evicted. A node has one or two, and a browser
/// six. Without the limit, one node could hold every slot of the port.
pub(super) const A_CALLER: usize = 512;

/// What counts as one peer: an IPv4 address, or an IPv6 /64, since one host can use all of it (RFC 6177).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    V4(Ipv4Addr),
    V6(u64),
}

impl Source {
    pub(super) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => Self::V6((ip.to_bits() >> 64) as u64),
        }
    }
}

/// Why a connection gets no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSlot {
    /// There are too many connections, and none can be evicted.
    Full,
    /// There are too many connections from its source.
    Crowded,
}

/// The bounds of [`ListenerConfig`].
#[derive(Debug, Clone)]
struct Bounds {
    all: usize,
    anonymous: usize,
    a_source: usize,
    anonymous_a_source: usize,
    exempt: Vec<IpNetwork>,
}

/// All connections. Every map holds at most as many entries as there are connections.
#[derive(Debug)]
pub(super) struct ConnectionTable {
    bounds: Bounds,
    counts: Arc<ListenerCounts>,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    next: u64,
    total: usize,
    evicting: usize,
    /// Connections of unauthenticated peers, in the order of arrival.
    anonymous: BTreeMap<u64, ConnectionGuard>,
    /// The same by source, without exempt sources.
    crowds: BTreeSet<(Source, u64)>,
    /// All connections by source, without exempt sources.
    sources: BTreeMap<Source, Tally>,
    /// Authenticated connections by caller; no entry is zero.
    callers: HashMap<Payer, usize>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    all: usize,
    anonymous: usize,
}

impl ConnectionTable {
    pub(super) fn new(config: &ListenerConfig) -> Arc<Self> {
        Arc::new(Self {
            bounds: Bounds {
                all: config.max_connections,
                anonymous: config.max_connections.saturating_sub(config.reserved),
                a_source: config.per_source,
                anonymous_a_source: config.anonymous_per_source,
                exempt: [&config.exempt[..], &config.trusted_proxies].concat(),
            },
            counts: Arc::clone(&config.counts),
            slots: Mutex::default(),
        })
    }

    /// Gives a slot to a connection. If unauthenticated peers hold all of their slots, the oldest of them is evicted.
    pub(super) fn admit(self: &Arc<Self>, ip: IpAddr) -> Result<Slot, NoSlot> {
        // A dual-stack socket reports IPv4 peers as mapped addresses.
        let ip = ip.to_canonical();
        let exempt = self
            .bounds
            .exempt
            .iter()
            .any(|network| network.contains(ip));
        let source = (!exempt).then(|| Source::of(ip));
        let mut slots = self.slots();
        // First within the source: a crowded source must
        // evict its own connections, not those of others.
        if let Some(source) = source {
            let tally = slots.sources.get(&source).copied().unwrap_or_default();
            if tally.all >= self.bounds.a_source
                || (tally.anonymous >= self.bounds.anonymous_a_source
                    && !self.evict(&mut slots, Some(source)))
            {
                return Err(NoSlot::Crowded);
            }
        }
        let full = slots.total >= self.bounds.all || slots.anonymous.len() >= self.bounds.anonymous;
        if full && !self.evict(&mut slots, None) {
            return Err(NoSlot::Full);
        }
        let id = slots.next;
        slots.next += 1;
        slots.total += 1;
        let guard = ConnectionGuard::new(Arc::clone(self), id, source);
        slots.anonymous.insert(id, guard.clone());
        if let Some(source) = source {
            slots.crowds.insert((source, id));
            let tally = slots.sources.entry(source).or_default();
            tally.all += 1;
            tally.anonymous += 1;
        }
        Ok(Slot(guard))
    }

    /// Evicts the oldest unauthenticated peers and returns their number.
    pub(super) fn make_room(&self, count: usize) -> usize {
        let mut slots = self.slots();
        (0..count)
            .take_while(|_| self.evict(&mut slots, None))
            .count()
    }

    /// Records that a peer has authenticated, unless it is evicted already. Returns whether the caller has few enough
    /// such connections.
    pub(super) fn recognize(&self, guard: &ConnectionGuard, caller: Payer) -> bool {
        let mut slots = self.slots();
        // Checked again under the lock, because the
        // connection may have been evicted in the meantime.
        if guard.standing() >= Standing::Authenticated {
            return true;
        }
        let held = slots.callers.entry(caller).or_default();
        if *held >= A_CALLER {
            return false;
        }
        *held += 1;
        guard.set_caller(caller);
        guard.set_standing(Standing::Authenticated);
        slots.forget(guard);
        true
    }

    pub(super) fn total(&self) -> usize {
        let slots = self.slots();
        slots.total + slots.evicting
    }

    fn release(&self, guard: &ConnectionGuard) {
        let mut slots = self.slots();
        match guard.standing() {
            Standing::Evicted => slots.evicting -= 1,
            Standing::Authenticated => slots.vacate(guard),
            Standing::New | Standing::Plain => {
                slots.forget(guard);
                slots.vacate(guard);
            }
        }
    }

    fn evict(&self, slots: &mut Slots, source: Option<Source>) -> bool {
        let done = slots.evict(source);
        if done {
            count(&self.counts.evicted);
        }
        done
    }

    /// Recovers a poisoned lock: no panic leaves this data half written.
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    /// Evicts one of the oldest unauthenticated peers of a source, or of all. Peers without a call are preferred. The
    /// slot is free at once.
    fn evict(&mut self, source: Option<Source>) -> bool {
        // Evicted connections keep their descriptors until their tasks end.
        if self.evicting >= EVICTING {
            return false;
        }
        let oldest: Vec<_> = match source {
            None => self.anonymous.values().take(LOOK).cloned().collect(),
            Some(source) => {
                let from = Bound::Included((source, 0));
                let crowd = self
                    .crowds
                    .range((from, Bound::Included((source, u64::MAX))));
                crowd
                    .take(LOOK)
                    .filter_map(|(_, id)| self.anonymous.get(id).cloned())
                    .collect()
            }
        };
        let idle = oldest.iter().find(|guard| guard.active_calls() == 0);
        let Some(guard) = idle.or(oldest.first()) else {
            return false;
        };
        self.forget(guard);
        self.vacate(guard);
        self.evicting += 1;
        guard.set_standing(Standing::Evicted);
        guard.close();
        true
    }

    /// Removes a connection from those of unauthenticated peers.
    fn forget(&mut self, guard: &ConnectionGuard) {
        self.anonymous.remove(&guard.id());
        if let Some(source) = guard.source() {
            self.crowds.remove(&(source, guard.id()));
            if let Some(tally) = self.sources.get_mut(&source) {
                tally.anonymous -= 1;
            }
        }
    }

    /// Frees the slot of a connection.
    fn vacate(&mut self, guard: &ConnectionGuard) {
        self.total -= 1;
        if let Some(caller) = guard.caller()
            && let Entry::Occupied(mut held) = self.callers.entry(caller)
        {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
        if let Some(source) = guard.source()
            && let Some(tally) = self.sources.get_mut(&source)
        {
            tally.all -= 1;
            if tally.all == 0 {
                self.sources.remove(&source);
            }
        }
    }
}

/// The slot of a connection, released on drop.
#[derive(Debug)]
pub(super) struct Slot(pub(super) ConnectionGuard);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.table().release(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_cannot_hold_every_slot() {
        let table = ConnectionTable::new(&ListenerConfig {
            max_connections: A_CALLER + 8,
            reserved: 4,
            ..ListenerConfig::plaintext()
        });
        let (hostile, honest) = (Payer::of(1_u8), Payer::of(2_u8));
        let admit = || table.admit(IpAddr::from([192, 0, 2, 1])).expect("a slot");
        let mut held = Vec::new();
        for _ in 0..A_CALLER {
            let slot = admit();
            slot.0.mark_authenticated(hostile);
            assert!(slot.0.is_authenticated());
            held.push(slot);
        }
        // More of them are evicted when others come.
        let more: Vec<Slot> = (0..8).map(|_| admit()).collect();
        for slot in &more {
            slot.0.mark_authenticated(hostile);
            assert!(!slot.0.is_authenticated());
        }
        let other = admit();
        other.0.mark_authenticated(honest);
        assert!(other.0.is_authenticated());
        assert!(
            more.iter()
                .any(|slot| slot.0.standing() == Standing::Evicted)
        );
        // A closed connection makes room for another one of the caller.
        drop(held.pop());
        let again = admit();
        again.0.mark_authenticated(hostile);
        assert!(again.0.is_authenticated());
        drop((held, more, other, again));
        assert!(table.slots().callers.is_empty());
        assert_eq!(table.total(), 0);
    }
}
