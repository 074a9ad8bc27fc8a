//! The server's half: who is connected to this process and what is in flight through it. Start with
//! [`Registry`]; what it says is [`Output`]. Streams, storage and clocks are the shell's; the truth about
//! epochs and commands is the store's.

mod io;
mod steps;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use fleet_core::{
    CommandId, ConnectionId, Epoch, NodeId, Priority, full_jitter, limits::HELLO_TIMEOUT,
};
pub use io::{
    Admission, Adopted, Claim, CommandEnd, DispatchRefused, Dropped, DroppedCounts, EvictReason,
    InFlight, OpenRefused, Output, Progress, RegistryLimits, Released, Standing,
};

use crate::{Announced, random::Random, timers::Timers};

/// Commands of one node at a time: as many as a Hello may list. Only one of them is ever dispatched by this
/// process; more can only come by adoption.
pub const IN_FLIGHT_PER_NODE: usize = 64;
/// Ended commands that are remembered a node: a claim that was on its way meanwhile cannot bring them back.
pub const ENDED_REMEMBERED: usize = 8;
/// How long a claim may take in the store before its stream is given up: longer than the store retries.
pub const CLAIM_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a node without stream, claim and commands is remembered: its epoch and its last commands, against
/// claims that were on their way. Twenty times as long as a claim may take.
pub const REMEMBER_NODE: Duration = Duration::from_secs(600);
/// Between two progress messages of a command that are passed on: what a person can follow.
pub const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Who is connected to this process and what is in flight.
///
/// Drive it by calls, with times that never fall: one per event, then [`poll_output`](Self::poll_output)
/// until it is empty, then sleep until [`poll_timeout`](Self::poll_timeout) or the next event, and call
/// [`handle_timeout`](Self::handle_timeout) only when every event already received was handled, so that a
/// timer never discards an ack. No call waits; a mutex that is never held across an await is enough.
///
/// The way of a connection: [`opened`](Self::opened), [`admit`](Self::admit) with its Hello, the claim in the
/// store, [`connected`](Self::connected), messages, [`closed`](Self::closed).
#[derive(Debug)]
pub struct Registry {
    limits: RegistryLimits,
    connections: BTreeMap<ConnectionId, Connection>,
    nodes: BTreeMap<NodeId, Node>,
    timers: Timers<Timer>,
    outputs: VecDeque<Output>,
    draining: Option<Draining>,
    dropped: u64,
}

/// Every deadline of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A connection has not said Hello.
    Hello(ConnectionId),
    /// The store has not answered a connection's claim.
    Claim(ConnectionId),
    /// A current connection's next sign of life is due.
    Accepted(ConnectionId),
    /// A command's ack has not come.
    Command(NodeId, CommandId),
    /// A node was away, with nothing in flight, for long enough to be forgotten.
    Forget(NodeId),
}

#[derive(Debug)]
struct Connection {
    phase: Phase,
    dropped: DroppedCounts,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Waits for Hello.
    Opened,
    /// Admitted; the store is claiming its epoch.
    Claiming { node: NodeId },
    /// Its node's current connection.
    Current { node: NodeId },
}

#[derive(Debug, Default)]
struct Node {
    /// The highest epoch that this process heard of.
    epoch: Option<Epoch>,
    current: Option<Current>,
    claiming: BTreeSet<ConnectionId>,
    in_flight: BTreeMap<CommandId, Flight>,
    /// The last commands that ended for good here, at most [`ENDED_REMEMBERED`].
    ended: VecDeque<CommandId>,
}

#[derive(Clone, Copy, Debug)]
struct Current {
    connection: ConnectionId,
    announced: Announced,
}

#[derive(Debug)]
struct Flight {
    shown: InFlight,
    /// When progress was last passed on.
    told: Option<Instant>,
}

#[derive(Debug)]
struct Draining {
    window: Duration,
    random: Random,
}

impl Registry {
    /// An empty registry.
    pub fn new(limits: RegistryLimits) -> Self {
        Self {
            limits,
            connections: BTreeMap::new(),
            nodes: BTreeMap::new(),
            timers: Timers::new(),
            outputs: VecDeque::new(),
            draining: None,
            dropped: 0,
        }
    }

    /// A control stream was opened; its Hello is waited for 5 s. `connection` was never used before.
    ///
    /// # Errors
    /// [`OpenRefused`] when the process is full or going down: end the stream.
    pub fn opened(&mut self, now: Instant, connection: ConnectionId) -> Result<(), OpenRefused> {
        if let Some(retry_after) = self.draining_slot() {
            return Err(OpenRefused::Draining { retry_after });
        }
        if self.connections.len() >= self.limits.connections {
            return Err(OpenRefused::TooMany(self.limits.connections));
        }
        self.connections.insert(
            connection,
            Connection {
                phase: Phase::Opened,
                dropped: DroppedCounts::default(),
            },
        );
        self.timers
            .set(Timer::Hello(connection), now + HELLO_TIMEOUT);
        Ok(())
    }

    /// A connection said Hello in the name of an authenticated node: may it claim the node's epoch? Whether
    /// another machine holds the node's identity is for the claim to say.
    pub fn admit(&mut self, now: Instant, connection: ConnectionId, node: NodeId) -> Admission {
        let waits = |c: &Connection| matches!(c.phase, Phase::Opened);
        if !self.connections.get(&connection).is_some_and(waits) {
            return Admission::Gone;
        }
        if !self.make_room_for(node) {
            self.forget_connection(connection);
            return Admission::Full {
                retry_after: CLAIM_TIMEOUT,
            };
        }
        self.timers.cancel(Timer::Hello(connection));
        self.timers
            .set(Timer::Claim(connection), now + CLAIM_TIMEOUT);
        self.timers.cancel(Timer::Forget(node));
        if let Some(held) = self.connections.get_mut(&connection) {
            held.phase = Phase::Claiming { node };
        }
        self.nodes
            .entry(node)
            .or_default()
            .claiming
            .insert(connection);
        Admission::Proceed
    }

    /// The store made `connection` the newest of its node. Must be called after every claim that succeeded,
    /// even when the connection has ended meanwhile: the claim has fenced the older ones.
    pub fn connected(
        &mut self,
        now: Instant,
        node: NodeId,
        connection: ConnectionId,
        claim: Claim,
    ) -> Standing {
        let is_there = self.end_claim(node, connection);
        let Some(state) = self.nodes.get_mut(&node) else {
            return Standing::Gone;
        };
        if state.epoch.is_some_and(|known| claim.epoch <= known) {
            if is_there {
                self.evict(connection, EvictReason::Replaced, None);
            }
            self.rest_if_idle(now, node);
            return Standing::Fenced;
        }
        state.epoch = Some(claim.epoch);
        if let Some(old) = state.current {
            self.evict(old.connection, EvictReason::Replaced, None);
        }
        self.adopt(node, &claim.adopted, is_there);
        if !is_there {
            self.rest_if_idle(now, node);
            return Standing::Gone;
        }
        self.make_current(
            node,
            Current {
                connection,
                announced: claim.announced,
            },
        );
        self.say_accepted(now, connection, claim.epoch);
        self.repeat_cancels(node);
        self.tell_if_ready(node);
        Standing::Current
    }

    /// A connection ended, for whatever reason, or its claim failed. Without effect when it was evicted
    /// before: an ended old stream never unregisters the newer one. What is in flight stays in flight.
    pub fn closed(&mut self, now: Instant, connection: ConnectionId) -> Option<Released> {
        match self.connections.get(&connection)?.phase {
            Phase::Opened => {
                self.forget_connection(connection);
                None
            }
            Phase::Claiming { node } => {
                self.forget_connection(connection);
                self.rest_if_idle(now, node);
                None
            }
            Phase::Current { node } => {
                self.forget_connection(connection);
                self.rest_if_idle(now, node);
                let epoch = self.nodes.get(&node)?.epoch?;
                Some(Released { node, epoch })
            }
        }
    }

    /// Another process claimed the node under a newer epoch: what this one holds of it ends.
    pub fn superseded(&mut self, now: Instant, node: NodeId, epoch: Epoch) {
        let Some(state) = self.nodes.get_mut(&node) else {
            return;
        };
        if state.epoch.is_some_and(|known| epoch <= known) {
            return;
        }
        state.epoch = Some(epoch);
        if let Some(current) = state.current {
            self.evict(current.connection, EvictReason::Replaced, None);
        }
        self.end_all(node, CommandEnd::Moved);
        self.rest_if_idle(now, node);
    }

    /// The node was revoked: its streams end at once, and its commands with them.
    pub fn revoked(&mut self, now: Instant, node: NodeId) {
        let Some(state) = self.nodes.get(&node) else {
            return;
        };
        let current = state.current.map(|c| c.connection);
        for connection in state
            .claiming
            .iter()
            .copied()
            .chain(current)
            .collect::<Vec<_>>()
        {
            self.evict(connection, EvictReason::Revoked, None);
        }
        self.end_all(node, CommandEnd::Revoked);
        self.rest_if_idle(now, node);
    }

    /// A command that the store issued under `epoch` goes to its node: send it on the connection answered.
    ///
    /// # Errors
    /// [`DispatchRefused`]: the command was not sent; take it back in the store.
    pub fn dispatched(
        &mut self,
        node: NodeId,
        epoch: Epoch,
        command: CommandId,
        priority: Priority,
        deadline: Instant,
    ) -> Result<ConnectionId, DispatchRefused> {
        let draining = self.draining.is_some();
        let away = DispatchRefused::Away(node);
        let state = self.nodes.get_mut(&node).ok_or(away)?;
        let (Some(current), Some(known)) = (state.current.filter(|_| !draining), state.epoch)
        else {
            return Err(away);
        };
        if known != epoch {
            return Err(DispatchRefused::StaleEpoch {
                node,
                issued: epoch,
                current: known,
            });
        }
        if let Some((command, _)) = state.in_flight.first_key_value() {
            let command = *command;
            return Err(DispatchRefused::Busy { node, command });
        }
        state
            .in_flight
            .insert(command, Flight::new(priority, deadline, false));
        self.timers.set(Timer::Command(node, command), deadline);
        Ok(current.connection)
    }

    /// A node acknowledged a command: store what it says before looking for the next one.
    ///
    /// # Errors
    /// [`Dropped`] when the ack takes no effect: from an old connection, or for a command that is not in
    /// flight on the connection's node.
    pub fn ack(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        command: CommandId,
    ) -> Result<NodeId, Dropped> {
        let node = self.check(connection, command)?;
        self.end(node, command, CommandEnd::Acked);
        self.tell_if_ready(node);
        self.rest_if_idle(now, node);
        Ok(node)
    }

    /// A node said how far a command is. Answers what to pass on: nothing when something was passed on less
    /// than [`PROGRESS_EVERY`] ago; the latest is kept.
    ///
    /// # Errors
    /// [`Dropped`] as for [`ack`](Self::ack).
    pub fn progress(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        command: CommandId,
        said: Progress,
    ) -> Result<Option<Progress>, Dropped> {
        let node = self.check(connection, command)?;
        let flight = self
            .nodes
            .get_mut(&node)
            .and_then(|n| n.in_flight.get_mut(&command));
        let Some(flight) = flight else {
            return Err(Dropped::NotInFlight(command));
        };
        let total = said.total.max(flight.shown.progress.total);
        flight.shown.progress = Progress {
            done: said.done.min(total).max(flight.shown.progress.done),
            total,
        };
        let recent = |at: Instant| now.saturating_duration_since(at) < PROGRESS_EVERY;
        if flight.told.is_some_and(recent) {
            return Ok(None);
        }
        flight.told = Some(now);
        Ok(Some(flight.shown.progress))
    }

    /// Whether any other message of a connection about a command (pins) takes effect. Answers the node.
    ///
    /// # Errors
    /// [`Dropped`] as for [`ack`](Self::ack).
    pub fn check(
        &mut self,
        connection: ConnectionId,
        command: CommandId,
    ) -> Result<NodeId, Dropped> {
        let held = self.connections.get_mut(&connection);
        let Some((held, node)) = held.and_then(|c| match c.phase {
            Phase::Current { node } => Some((c, node)),
            Phase::Opened | Phase::Claiming { .. } => None,
        }) else {
            self.dropped = self.dropped.saturating_add(1);
            return Err(Dropped::NotCurrent);
        };
        let in_flight = |n: &Node| n.in_flight.contains_key(&command);
        if self.nodes.get(&node).is_some_and(in_flight) {
            return Ok(node);
        }
        held.dropped.not_in_flight = held.dropped.not_in_flight.saturating_add(1);
        self.dropped = self.dropped.saturating_add(1);
        Err(Dropped::NotInFlight(command))
    }

    /// A connection said something malformed, oversized or out of place: counts it.
    pub fn malformed(&mut self, connection: ConnectionId) {
        self.dropped = self.dropped.saturating_add(1);
        if let Some(held) = self.connections.get_mut(&connection) {
            held.dropped.malformed = held.dropped.malformed.saturating_add(1);
        }
    }

    /// An operator canceled a command. A node that can be told is told, now or when it comes back; any
    /// command keeps the slot until its ack or deadline.
    pub fn cancel(&mut self, node: NodeId, command: CommandId) {
        let Some(state) = self.nodes.get_mut(&node) else {
            return;
        };
        let Some(flight) = state.in_flight.get_mut(&command) else {
            return;
        };
        if std::mem::replace(&mut flight.shown.canceled, true) {
            return;
        }
        if let Some(current) = state.current.filter(Current::understands_cancel) {
            self.outputs.push_back(Output::SendCancel {
                connection: current.connection,
                command,
            });
        }
    }

    /// This process goes down: nobody is let in any more, nothing is dispatched, and every node gets its slot,
    /// spread evenly over `window` so that they do not come to another server in one second. What streams
    /// still say is heard until they end. A second call changes nothing.
    pub fn drain(&mut self, now: Instant, window: Duration, seed: u64) {
        if self.draining.is_some() {
            return;
        }
        let mut random = Random::new(seed);
        let count = u32::try_from(self.connections.len())
            .unwrap_or(u32::MAX)
            .max(1);
        let share = window / count;
        for (at, connection) in (0_u32..).zip(self.connections.keys().copied().collect::<Vec<_>>())
        {
            let slot = share.saturating_mul(at) + full_jitter(share, random.next());
            self.send_away(now, connection, slot);
        }
        self.draining = Some(Draining { window, random });
    }

    /// Carries out every deadline that `now` has reached. Call it when all events received were handled.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Hello(connection) => self.evict(connection, EvictReason::NoHello, None),
                Timer::Claim(connection) => {
                    let node = self.node_of(connection);
                    self.evict(connection, EvictReason::ClaimStuck, None);
                    if let Some(node) = node {
                        self.rest_if_idle(now, node);
                    }
                }
                Timer::Accepted(connection) => {
                    let epoch = self.node_of(connection).and_then(|node| self.epoch(node));
                    if let Some(epoch) = epoch {
                        self.say_accepted(now, connection, epoch);
                    }
                }
                Timer::Command(node, command) => {
                    self.end(node, command, CommandEnd::Expired);
                    self.tell_if_ready(node);
                    self.rest_if_idle(now, node);
                }
                Timer::Forget(node) => {
                    self.nodes.remove(&node);
                }
            }
        }
    }

    /// The next thing to do; call it until it answers none. Holds at most what one call can cause: a few
    /// outputs a connection.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Whether a command can go to the node now.
    pub fn can_dispatch(&self, node: NodeId) -> bool {
        self.draining.is_none()
            && self
                .nodes
                .get(&node)
                .is_some_and(|n| n.current.is_some() && n.in_flight.is_empty())
    }

    /// The highest epoch of a node that this process knows.
    pub fn epoch(&self, node: NodeId) -> Option<Epoch> {
        self.nodes.get(&node)?.epoch
    }

    /// The node's current connection on this process and what it announced.
    pub fn current(&self, node: NodeId) -> Option<(ConnectionId, Announced)> {
        let current = self.nodes.get(&node)?.current?;
        Some((current.connection, current.announced))
    }

    /// The node whose current connection this is.
    pub fn holder(&self, connection: ConnectionId) -> Option<NodeId> {
        match self.connections.get(&connection)?.phase {
            Phase::Opened | Phase::Claiming { .. } => None,
            Phase::Current { node } => Some(node),
        }
    }

    /// What the node runs.
    pub fn in_flight(&self, node: NodeId) -> impl Iterator<Item = (CommandId, InFlight)> {
        let flights = self.nodes.get(&node).map(|n| n.in_flight.iter());
        flights.into_iter().flatten().map(|(id, f)| (*id, f.shown))
    }

    /// The nodes with a current connection, in order.
    pub fn connected_nodes(&self) -> impl Iterator<Item = NodeId> {
        let connected = self.nodes.iter().filter(|(_, n)| n.current.is_some());
        connected.map(|(node, _)| *node)
    }

    /// How many messages of a live connection took no effect.
    pub fn dropped_of(&self, connection: ConnectionId) -> Option<DroppedCounts> {
        Some(self.connections.get(&connection)?.dropped)
    }

    /// How many messages took no effect since the start, of all connections.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How many connections are held, greeted or not.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Whether anything is remembered of a node. For tests.
    #[doc(hidden)]
    pub fn remembers(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    /// Whether everything is within its stated bound and every index agrees with what it indexes. For tests.
    #[doc(hidden)]
    pub fn is_consistent(&self) -> bool {
        let phase_of =
            |connection: &ConnectionId| self.connections.get(connection).map(|c| c.phase);
        let node_ok = |(id, node): (&NodeId, &Node)| {
            let current = node.current.is_none_or(
                |c| matches!(phase_of(&c.connection), Some(Phase::Current { node }) if node == *id),
            );
            let claiming = node
                .claiming
                .iter()
                .all(|c| matches!(phase_of(c), Some(Phase::Claiming { node }) if node == *id));
            current
                && claiming
                && node.in_flight.len() <= IN_FLIGHT_PER_NODE
                && node.ended.len() <= ENDED_REMEMBERED
        };
        let held = self
            .nodes
            .values()
            .map(|n| n.claiming.len() + usize::from(n.current.is_some()));
        let opened = |c: &&Connection| matches!(c.phase, Phase::Opened);
        let opened = self.connections.values().filter(opened).count();
        let flying = self.nodes.values().map(|n| n.in_flight.len());
        let idle = self.nodes.values().filter(|n| n.is_idle()).count();
        self.connections.len() <= self.limits.connections
            && self.nodes.len() <= self.limits.nodes
            && self.nodes.iter().all(node_ok)
            && held.sum::<usize>() + opened == self.connections.len()
            && self.timers.keys().count() == self.connections.len() + flying.sum::<usize>() + idle
    }
}
