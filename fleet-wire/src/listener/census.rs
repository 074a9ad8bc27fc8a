//! Who holds a place on the port: how many, from where, and who has to leave when it gets crowded.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnetwork::IpNetwork;

use super::{
    config::{ListenerConfig, ListenerCounts, count},
    guard::{ConnectionGuard, Standing},
};

/// Connections that were told to leave and have not left: as many may be over the bounds for a moment.
pub(super) const LEAVING: usize = 64;
/// How many of the oldest are looked at for one without a call.
const LOOK: usize = 16;

/// What counts as one peer: an IPv4 address, or the /64 that one IPv6 host commands (RFC 6177).
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

/// Why a connection gets no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// There are too many, and none that could leave.
    Full,
    /// There are too many from its source.
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
pub(super) struct Census {
    bounds: Bounds,
    counts: Arc<ListenerCounts>,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    total: usize,
    leaving: usize,
    /// Those of unknown peers, in the order of their arrival.
    anonymous: BTreeMap<u64, ConnectionGuard>,
    /// The same by their sources; none of those that are exempt.
    crowds: BTreeSet<(Source, u64)>,
    /// All places by their sources; none of those that are exempt.
    sources: BTreeMap<Source, Tally>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    all: usize,
    anonymous: usize,
}

impl Census {
    pub(super) fn new(config: &ListenerConfig) -> Arc<Self> {
        Arc::new(Self {
            bounds: Bounds {
                all: config.max_connections,
                anonymous: config.max_connections.saturating_sub(config.reserved),
                a_source: config.per_source,
                anonymous_a_source: config.anonymous_per_source,
                exempt: config.exempt.clone(),
            },
            counts: Arc::clone(&config.counts),
            places: Mutex::default(),
        })
    }

    /// Gives a place to a connection. Where unknown peers have all places that they may have, the oldest of them leaves.
    pub(super) fn enter(self: &Arc<Self>, ip: IpAddr) -> Result<Seat, NoPlace> {
        let ip = ip.to_canonical();
        let exempt = self
            .bounds
            .exempt
            .iter()
            .any(|network| network.contains(ip));
        let source = (!exempt).then(|| Source::of(ip));
        let mut places = self.places();
        if let Some(source) = source {
            let tally = places.sources.get(&source).copied().unwrap_or_default();
            if tally.all >= self.bounds.a_source
                || (tally.anonymous >= self.bounds.anonymous_a_source
                    && !self.show_out(&mut places, Some(source)))
            {
                return Err(NoPlace::Crowded);
            }
        }
        let full =
            places.total >= self.bounds.all || places.anonymous.len() >= self.bounds.anonymous;
        if full && !self.show_out(&mut places, None) {
            return Err(NoPlace::Full);
        }
        let id = places.next;
        places.next += 1;
        places.total += 1;
        let guard = ConnectionGuard::new(Arc::clone(self), id, source);
        places.anonymous.insert(id, guard.clone());
        if let Some(source) = source {
            places.crowds.insert((source, id));
            let tally = places.sources.entry(source).or_default();
            tally.all += 1;
            tally.anonymous += 1;
        }
        Ok(Seat(guard))
    }

    /// Makes the oldest unknown peers leave; returns how many there were.
    pub(super) fn make_room(&self, count: usize) -> usize {
        let mut places = self.places();
        (0..count)
            .take_while(|_| self.show_out(&mut places, None))
            .count()
    }

    /// Notes that the peer of a place is known now, unless it was shown out already.
    pub(super) fn recognize(&self, guard: &ConnectionGuard) {
        let mut places = self.places();
        if guard.standing() < Standing::Authenticated {
            guard.set_standing(Standing::Authenticated);
            places.forget(guard);
        }
    }

    pub(super) fn total(&self) -> usize {
        let places = self.places();
        places.total + places.leaving
    }

    fn leave(&self, guard: &ConnectionGuard) {
        let mut places = self.places();
        match guard.standing() {
            Standing::ShownOut => places.leaving -= 1,
            Standing::Authenticated => places.vacate(guard),
            Standing::New | Standing::Plain => {
                places.forget(guard);
                places.vacate(guard);
            }
        }
    }

    fn show_out(&self, places: &mut Places, source: Option<Source>) -> bool {
        let done = places.show_out(source);
        if done {
            count(&self.counts.shown_out);
        }
        done
    }

    /// Plain data that no panic leaves half written.
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// Tells one of the oldest unknown peers to leave, of one source or of all, rather one without a call; it has no
    /// place from now on.
    fn show_out(&mut self, source: Option<Source>) -> bool {
        if self.leaving >= LEAVING {
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
        self.leaving += 1;
        guard.set_standing(Standing::ShownOut);
        guard.close();
        true
    }

    /// Strikes a place from those of unknown peers.
    fn forget(&mut self, guard: &ConnectionGuard) {
        self.anonymous.remove(&guard.id());
        if let Some(source) = guard.source() {
            self.crowds.remove(&(source, guard.id()));
            if let Some(tally) = self.sources.get_mut(&source) {
                tally.anonymous -= 1;
            }
        }
    }

    /// Frees a place.
    fn vacate(&mut self, guard: &ConnectionGuard) {
        self.total -= 1;
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

/// A connection's place, left on drop.
#[derive(Debug)]
pub(super) struct Seat(pub(super) ConnectionGuard);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.census().leave(&self.0);
    }
}
