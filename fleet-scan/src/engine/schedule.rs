//! The state machine of reachability: schedules connection attempts and interprets silence. Pure; time is an argument.
//!
//! [`Schedule::next`] returns the next action, [`Schedule::expire`] the endpoints that stayed silent. An endpoint has a
//! slot from its first attempt until it is settled. After a silent attempt its socket stays open beside the next one,
//! because a late answer still counts. `walk.rs` gives the order of first attempts, except that the other ports of a
//! host that answered go first. `timing.rs` gives the timeouts.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use fleet_core::limits::HOST_CONNECTIONS;

use super::{targets::Targets, walk::Walk};
use crate::timing::Timeouts;

/// The most attempts per endpoint.
pub(super) const TRIES: u8 = 3;

/// The most simultaneous sockets. It keeps slot numbers within 16 bits.
pub(super) const ROOM: usize = 32_768;

/// How long after a SYN the kernel has not repeated it: it does so after a second, and the sweep needs a margin.
pub(crate) const RETRANSMISSION: Duration = Duration::from_millis(900);

/// How much later the kernel repeats it.
const RETRANSMISSION_MARGIN: Duration = Duration::from_millis(100);

/// Time between the kernel's first and second retransmission, on kernels that repeat every second.
const NEXT_RETRANSMISSION: Duration = Duration::from_secs(1);

/// When an attempt is checked again that is nearly due. Answers in the meantime can make it due earlier.
const RECHECK: Duration = Duration::from_millis(20);

/// An endpoint in progress. It becomes stale when the endpoint is settled, which the schedule detects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// Less than twice the room.
    pub(super) slot: u32,
    /// Distinguishes successive users of a slot.
    pub(super) generation: u32,
}

/// One connection attempt, with its own socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Attempt {
    pub(super) key: Key,
    /// Less than [`TRIES`].
    pub(super) nth: u8,
}

/// An endpoint as indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub(super) host: u32,
    pub(super) port: u8,
}

/// The next action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Connect, then report the result.
    Dial(Attempt, At),
    /// Close the socket of this attempt, because another one needs its room.
    Abandon(Attempt),
    /// Do nothing until a result, a release or a deadline.
    Wait,
    /// Everything is settled.
    Done,
}

/// A SYN that the kernel repeats as long as its socket is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Retransmission {
    pub(super) attempt: Attempt,
    pub(super) is_first: bool,
    /// The sweep came too late, for example because its thread was suspended, and the kernel has probably repeated it.
    pub(super) has_happened: bool,
}

/// What to do with an open connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opened {
    /// Its endpoint is settled. Close the endpoint's other sockets, and call [`Schedule::release`] once this one is closed.
    Take(At),
    /// The host has its maximum of connections. Close this one; the endpoint is tried again.
    TooMany,
    /// The endpoint was already settled. Close the connection.
    Stale,
}

#[derive(Debug)]
pub(super) struct Schedule {
    targets: Arc<Targets>,
    walk: Walk,
    tries: u8,
    room: usize,
    /// Open sockets: waiting, late, and passed on.
    sockets: usize,
    /// For each host, its waiting attempts and its connections that were passed on.
    busy: Vec<u8>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Work that goes before the walk as soon as there is room.
    ready: VecDeque<Work>,
    /// Hosts that are not tried until it is known whether they exist.
    held: BTreeSet<u32>,
    /// For each host, whether the walk skips it because it was held or has answered.
    passed_by: Vec<bool>,
    /// For each host, how many of its ports the walk has visited, starting with the first.
    visited: Vec<u8>,
    /// Hosts that exist, with their next port.
    admitted: VecDeque<(u32, u8)>,
    ports: u8,
    /// Work that waits for a busy host.
    parked: BTreeMap<u32, Parked>,
    timeouts: Timeouts,
    /// When to check attempts, each queue in the order of time: after the shortest wait, and soon again.
    far_checks: VecDeque<(Instant, Attempt)>,
    near_checks: VecDeque<(Instant, Attempt)>,
    /// Silent attempts with open sockets, the oldest first. Some are closed already.
    late: VecDeque<Attempt>,
    /// When the kernel is about to repeat the SYN of an attempt for the first and the second time. Each queue has one
    /// delay, so its order is the order of time.
    retransmissions: [VecDeque<(Instant, Attempt)>; 2],
}

#[derive(Debug, Clone, Copy)]
enum Work {
    Fresh(At),
    Again(Key),
}

/// Ports of a host as bits, and endpoints to try again.
#[derive(Debug, Default)]
struct Parked {
    fresh: u64,
    again: Vec<Key>,
}

#[derive(Debug, Clone)]
struct Slot {
    generation: u32,
    at: At,
    state: State,
    /// Attempts so far.
    tries: u8,
    /// A bit for each attempt whose socket is open.
    open: u8,
    sent: [Option<Instant>; TRIES as usize],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    /// The last attempt waits for its answer.
    Waiting,
    /// The next attempt is ready or parked.
    Resting,
}

impl Schedule {
    /// Tries `ports` ports of every target, each at most `tries` times, with at most `room` sockets.
    pub(super) fn new(
        targets: Arc<Targets>,
        ports: u8,
        tries: u8,
        room: usize,
        timeouts: Timeouts,
    ) -> Self {
        let hosts = targets.len();
        Self {
            targets,
            // Target indexes have 32 bits.
            walk: Walk::new(hosts as u32, ports),
            tries: tries.clamp(1, TRIES),
            room: room.clamp(1, ROOM),
            sockets: 0,
            busy: vec![0; hosts],
            slots: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            held: BTreeSet::new(),
            passed_by: vec![false; hosts],
            visited: vec![0; hosts],
            admitted: VecDeque::new(),
            ports,
            parked: BTreeMap::new(),
            timeouts,
            far_checks: VecDeque::new(),
            near_checks: VecDeque::new(),
            late: VecDeque::new(),
            retransmissions: [VecDeque::new(), VecDeque::new()],
        }
    }

    /// Holds back these hosts until [`Schedule::admit`] or [`Schedule::rule_out`]. Call this before the first
    /// [`Schedule::next`].
    pub(super) fn hold(&mut self, hosts: &[u32]) {
        for host in hosts {
            if let Some(passed_by) = self.passed_by.get_mut(*host as usize) {
                *passed_by = true;
                self.held.insert(*host);
            }
        }
    }

    /// Tries the ports of a held host.
    pub(super) fn admit(&mut self, host: u32) {
        if self.held.remove(&host) && self.ports > 0 {
            self.admitted.push_back((host, 0));
        }
    }

    /// Drops a held host without trying it.
    pub(super) fn rule_out(&mut self, host: u32) {
        self.held.remove(&host);
    }

    /// Returns whether [`Schedule::next`] has something to do.
    pub(super) fn has_work(&self) -> bool {
        // Twice the room keeps slot numbers within the 16 bits that `sockets.rs` packs into its
        // tokens.
        !self.ready.is_empty() || (!self.is_begun() && self.in_progress() < 2 * self.room)
    }

    /// Returns the next action.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        while self.has_work() {
            if self.sockets >= self.room {
                // Only late attempts give way. A waiting one still has most of its chance to be
                // answered.
                return self.oldest_late().map_or(Next::Wait, Next::Abandon);
            }
            let work = self.ready.pop_front();
            let work = work.or_else(|| self.first_attempt().map(Work::Fresh));
            let Some((work, at)) = work.and_then(|work| Some((work, self.at_of(work)?))) else {
                continue;
            };
            // Waiting here for one host would stop the attempts at all others.
            if self.is_busy(at.host) {
                self.park(work, at);
                continue;
            }
            let key = match work {
                Work::Fresh(at) => self.take_slot(at),
                Work::Again(key) => key,
            };
            return Next::Dial(self.dial(key, now), at);
        }
        if self.in_progress() == 0
            && self.parked.is_empty()
            && self.held.is_empty()
            && self.is_begun()
        {
            Next::Done
        } else {
            Next::Wait
        }
    }

    /// Reports that an attempt led to a connection.
    #[must_use]
    pub(super) fn opened(&mut self, attempt: Attempt, now: Instant) -> Opened {
        let Some(slot) = self.slot(attempt.key) else {
            return Opened::Stale;
        };
        let (at, state, open) = (slot.at, slot.state, slot.open);
        self.measure(attempt, now);
        // A resting endpoint has returned its slot at the host, so a late answer needs one again.
        if state == State::Resting {
            if self.is_busy(at.host) {
                self.closed(attempt);
                return Opened::TooMany;
            }
            self.occupy(at.host);
        }
        // The connection that is passed on still counts, until `release`.
        self.sockets = (self.sockets + 1).saturating_sub(open.count_ones() as usize);
        self.free_slot(attempt.key);
        self.host_answered(at.host);
        Opened::Take(at)
    }

    /// Reports a reset by the host. It settles the endpoint, whose sockets the caller closes.
    pub(super) fn refused(&mut self, attempt: Attempt, now: Instant) -> Option<At> {
        self.slot(attempt.key)?;
        self.measure(attempt, now);
        let at = self.settle(attempt.key);
        if let Some(at) = at {
            self.host_answered(at.host);
        }
        at
    }

    /// Settles an endpoint. The caller closes its sockets.
    pub(super) fn settle(&mut self, key: Key) -> Option<At> {
        let slot = self.slot(key)?;
        let (at, state, open) = (slot.at, slot.state, slot.open);
        self.sockets = self.sockets.saturating_sub(open.count_ones() as usize);
        self.free_slot(key);
        // A resting endpoint has returned its slot already. Returning it twice would let a third
        // connection through.
        if state == State::Waiting {
            self.vacate(at.host);
        }
        self.unpark(at.host);
        Some(at)
    }

    /// Reports that the socket of an attempt is closed, which settles nothing.
    pub(super) fn closed(&mut self, attempt: Attempt) {
        if !self.has_socket(attempt) {
            return;
        }
        if let Some(slot) = self.slot_mut(attempt.key) {
            slot.open &= !(1 << attempt.nth);
            self.sockets = self.sockets.saturating_sub(1);
        }
    }

    /// Reports that this machine could not make the attempt for a temporary reason. It is made again.
    pub(super) fn starved(&mut self, attempt: Attempt) {
        self.closed(attempt);
        let Some(slot) = self.slot_mut(attempt.key) else {
            return;
        };
        let host = slot.at.host;
        // A shortage on this machine proves nothing about the endpoint, so it costs no try.
        slot.tries = slot.tries.saturating_sub(1);
        slot.state = State::Resting;
        self.ready.push_front(Work::Again(attempt.key));
        self.vacate(host);
    }

    /// Reports that a connection that was passed on is closed.
    pub(super) fn release(&mut self, host: u32) {
        self.sockets = self.sockets.saturating_sub(1);
        self.vacate(host);
        self.unpark(host);
    }

    /// Returns an open attempt whose SYN the kernel is about to repeat. The caller closes the attempt, or the first time
    /// spends a permit and calls [`Schedule::keep`]. Call this until it returns none.
    pub(super) fn next_retransmission(&mut self, now: Instant) -> Option<Retransmission> {
        for nth in 0..self.retransmissions.len() {
            while let Some((due, attempt)) = self.retransmissions[nth].front().copied() {
                let is_open = self.has_socket(attempt);
                if is_open && now < due {
                    break;
                }
                self.retransmissions[nth].pop_front();
                if is_open {
                    return Some(Retransmission {
                        attempt,
                        is_first: nth == 0,
                        has_happened: now >= due + RETRANSMISSION_MARGIN,
                    });
                }
            }
        }
        None
    }

    /// Keeps an attempt open beyond its first retransmission, so that a late answer still counts.
    pub(super) fn keep(&mut self, attempt: Attempt, now: Instant) {
        let [_, second] = &mut self.retransmissions;
        second.push_back((now + NEXT_RETRANSMISSION, attempt));
    }

    /// Settles an endpoint that stayed silent to the last attempt, which was sent at the returned time. The caller closes
    /// its sockets, and calls this until it returns none.
    pub(super) fn expire(&mut self, now: Instant) -> Option<(Key, At, Instant)> {
        while let Some(attempt) = self.due(now) {
            let Some(slot) = self.slot(attempt.key) else {
                continue;
            };
            let (at, tries) = (slot.at, slot.tries);
            // Only the latest attempt decides. Earlier ones stay in the queues after their
            // successor began.
            if slot.state != State::Waiting || attempt.nth + 1 != tries {
                continue;
            }
            let Some(sent) = slot.sent[usize::from(attempt.nth)] else {
                continue;
            };
            let due = sent + self.timeouts.wait(self.targets.subnet(at.host));
            if now < due {
                self.recheck(attempt, now, due);
            } else if tries < self.tries {
                self.rest(attempt);
            } else {
                self.settle(attempt.key);
                return Some((attempt.key, at, sent));
            }
        }
        None
    }

    /// When to call [`Schedule::expire`] again; sometimes too early.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let checks = [self.far_checks.front(), self.near_checks.front()];
        let retransmissions = self.retransmissions.iter().map(VecDeque::front);
        let fronts = checks.into_iter().chain(retransmissions);
        fronts.flatten().map(|(check, _)| *check).min()
    }

    /// Whether every endpoint that may be tried was tried once.
    fn is_begun(&self) -> bool {
        self.admitted.is_empty() && self.walk.is_over()
    }

    /// The next endpoint to try for the first time. Hosts that are known to exist go first, their ports in rotation.
    fn first_attempt(&mut self) -> Option<At> {
        if let Some((host, port)) = self.admitted.pop_front() {
            if port + 1 < self.ports {
                // In rotation, because consecutive attempts at one host would reach its limit of
                // two connections.
                self.admitted.push_back((host, port + 1));
            }
            return Some(At { host, port });
        }
        let passed_by = &self.passed_by;
        let (host, port) = self.walk.find(|(host, _)| !passed_by[*host as usize])?;
        self.visited[host as usize] = port + 1;
        Some(At { host, port })
    }

    /// Moves a host that answered ahead of the walk, because its other ports decide how it is identified.
    fn host_answered(&mut self, host: u32) {
        let at = host as usize;
        if !std::mem::replace(&mut self.passed_by[at], true) && self.visited[at] < self.ports {
            self.admitted.push_back((host, self.visited[at]));
        }
    }

    /// Keeps the attempt's socket open beside the next one's.
    fn rest(&mut self, attempt: Attempt) {
        let Some(slot) = self.slot_mut(attempt.key) else {
            return;
        };
        slot.state = State::Resting;
        let host = slot.at.host;
        if self.late.len() >= 2 * self.room {
            // Nothing else removes closed attempts while room is not short.
            let mut late = std::mem::take(&mut self.late);
            late.retain(|attempt| self.has_socket(*attempt));
            self.late = late;
        }
        self.late.push_back(attempt);
        self.ready.push_back(Work::Again(attempt.key));
        self.vacate(host);
        self.unpark(host);
    }

    /// Each queue has one delay, so its order is the order of time.
    fn recheck(&mut self, attempt: Attempt, now: Instant, due: Instant) {
        let floor = self.timeouts.floor();
        if due.saturating_duration_since(now) + RECHECK > floor {
            self.far_checks.push_back((now + floor, attempt));
        } else {
            self.near_checks.push_back((now + RECHECK, attempt));
        }
    }

    fn due(&mut self, now: Instant) -> Option<Attempt> {
        [&mut self.far_checks, &mut self.near_checks]
            .into_iter()
            .find_map(|checks| checks.pop_front_if(|(check, _)| *check <= now))
            .map(|(_, attempt)| attempt)
    }

    fn dial(&mut self, key: Key, now: Instant) -> Attempt {
        let slot = &mut self.slots[key.slot as usize];
        let attempt = Attempt {
            key,
            nth: slot.tries,
        };
        slot.state = State::Waiting;
        slot.tries += 1;
        slot.open |= 1 << attempt.nth;
        slot.sent[usize::from(attempt.nth)] = Some(now);
        let host = slot.at.host;
        self.sockets += 1;
        self.occupy(host);
        // Checked at the floor and not when due: waits differ by subnet, and a queue with one delay
        // needs no sorting.
        self.far_checks
            .push_back((now + self.timeouts.floor(), attempt));
        let [first, _] = &mut self.retransmissions;
        first.push_back((now + RETRANSMISSION, attempt));
        attempt
    }

    fn measure(&mut self, attempt: Attempt, now: Instant) {
        let Some(slot) = self.slot(attempt.key) else {
            return;
        };
        if let Some(sent) = slot.sent[usize::from(attempt.nth)] {
            let subnet = self.targets.subnet(slot.at.host);
            let round_trip = now.saturating_duration_since(sent);
            self.timeouts.answered(subnet, round_trip);
        }
    }

    /// Takes the room of the oldest late attempt, whose socket then counts as closed.
    fn oldest_late(&mut self) -> Option<Attempt> {
        while let Some(attempt) = self.late.pop_front() {
            if self.has_socket(attempt) {
                self.closed(attempt);
                return Some(attempt);
            }
        }
        None
    }

    fn has_socket(&self, attempt: Attempt) -> bool {
        self.slot(attempt.key)
            .is_some_and(|slot| slot.open & 1 << attempt.nth != 0)
    }

    fn at_of(&self, work: Work) -> Option<At> {
        match work {
            Work::Fresh(at) => Some(at),
            Work::Again(key) => self
                .slot(key)
                .filter(|slot| slot.state == State::Resting)
                .map(|slot| slot.at),
        }
    }

    fn park(&mut self, work: Work, at: At) {
        let parked = self.parked.entry(at.host).or_default();
        match work {
            // The mask only keeps the shift in range: a scan has at most 64 ports (`SCAN_PORTS`).
            Work::Fresh(at) => parked.fresh |= 1 << (at.port & 63),
            Work::Again(key) => parked.again.push(key),
        }
    }

    /// Readies the next work that waits for a host.
    fn unpark(&mut self, host: u32) {
        let Some(mut parked) = self.parked.remove(&host) else {
            return;
        };
        // A settled endpoint would use up this wake-up, and the rest could stay parked forever.
        let again = std::iter::from_fn(|| parked.again.pop())
            .find(|key| self.at_of(Work::Again(*key)).is_some());
        if let Some(key) = again {
            self.ready.push_back(Work::Again(key));
        } else if parked.fresh != 0 {
            let port = parked.fresh.trailing_zeros() as u8;
            parked.fresh &= parked.fresh - 1;
            self.ready.push_back(Work::Fresh(At { host, port }));
        }
        if parked.fresh != 0 || !parked.again.is_empty() {
            self.parked.insert(host, parked);
        }
    }

    fn is_busy(&self, host: u32) -> bool {
        usize::from(self.busy[host as usize]) >= HOST_CONNECTIONS
    }

    fn occupy(&mut self, host: u32) {
        self.busy[host as usize] += 1;
    }

    fn vacate(&mut self, host: u32) {
        let busy = &mut self.busy[host as usize];
        *busy = busy.saturating_sub(1);
    }

    fn in_progress(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn take_slot(&mut self, at: At) -> Key {
        let fresh = Slot {
            generation: 0,
            at,
            state: State::Resting,
            tries: 0,
            open: 0,
            sent: [None; TRIES as usize],
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                let generation = self.slots[slot as usize].generation;
                self.slots[slot as usize] = Slot {
                    generation,
                    ..fresh
                };
                slot
            }
            None => {
                self.slots.push(fresh);
                self.slots.len() as u32 - 1
            }
        };
        Key {
            slot,
            generation: self.slots[slot as usize].generation,
        }
    }

    fn free_slot(&mut self, key: Key) {
        let slot = &mut self.slots[key.slot as usize];
        slot.state = State::Free;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.slot);
    }

    fn slot(&self, key: Key) -> Option<&Slot> {
        self.slots
            .get(key.slot as usize)
            .filter(|slot| slot.generation == key.generation && slot.state != State::Free)
    }

    fn slot_mut(&mut self, key: Key) -> Option<&mut Slot> {
        self.slots
            .get_mut(key.slot as usize)
            .filter(|slot| slot.generation == key.generation && slot.state != State::Free)
    }
}

#[cfg(test)]
mod tests;
