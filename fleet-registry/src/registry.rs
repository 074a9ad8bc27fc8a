//! The server's end of the control streams: the current connections of this process and their commands in flight.
//!
//! Start with [`Registry`] and its [`Output`]. The caller owns streams, storage and clocks. The store is authoritative
//! for epochs and commands.

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
    Admission, Adopted, Claim, CommandEnd, CommandProgress, DispatchRefused, Dropped,
    DroppedCounts, EvictReason, InFlight, OpenRefused, Output, RegistryLimits, Released, Standing,
};

use crate::{Announced, random::Random, timers::Timers};

/// The most commands of one node: as many as a Hello may list. This process dispatches only one at a time; more can
/// only be adopted.
pub const IN_FLIGHT_PER_NODE: usize = 64;
/// The number of ended commands kept per node, which a claim that was in progress must not revive.
pub const ENDED_REMEMBERED: usize = 8;
/// Time limit of a claim in the store. It exceeds the time that the store spends on retries.
pub const CLAIM_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a node without stream, claim and commands stays in memory. Its epoch and its last commands protect
/// against claims that were in progress; a claim takes at most a twentieth of this.
pub const REMEMBER_NODE: Duration = Duration::from_secs(600);
/// How often an overdue command is reported. The store may have moved its deadline, or may be away.
pub const OVERDUE_EVERY: Duration = Duration::from_secs(10);
/// The shortest interval between two forwarded progress messages of a command: about as fast as a person can read.
pub const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// The current connections of this process and their commands in flight.
///
/// Call it with times that never decrease: one call per event, then [`poll_output`](Self::poll_output) until it
/// returns none. Sleep until [`poll_timeout`](Self::poll_timeout) or the next event. Call
/// [`handle_timeout`](Self::handle_timeout) only after all received events are handled: then a timer never discards
/// an ack. No call blocks, so a mutex that is never held across an await is sufficient.
///
/// The life of a connection: [`opened`](Self::opened), [`admit`](Self::admit) with its Hello, the claim in the
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
    /// A connection has not sent its Hello.
    Hello(ConnectionId),
    /// The store has not finished a connection's claim.
    Claim(ConnectionId),
    /// The next liveness signal of a current connection is due.
    Accepted(ConnectionId),
    /// A command's ack has not arrived by its deadline.
    Command(NodeId, CommandId),
    /// A node was disconnected and idle for long enough to be removed.
    Forget(NodeId),
}

#[derive(Debug)]
struct Connection {
    phase: Phase,
    dropped: DroppedCounts,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Waiting for Hello.
    Opened,
    /// Admitted; the store is claiming its epoch.
    Claiming { node: NodeId },
    /// Its node's current connection.
    Current { node: NodeId },
}

#[derive(Debug, Default)]
struct Node {
    /// The highest epoch that this process knows.
    epoch: Option<Epoch>,
    current: Option<Current>,
    claiming: BTreeSet<ConnectionId>,
    in_flight: BTreeMap<CommandId, Flight>,
    /// The last commands that ended permanently here, at most [`ENDED_REMEMBERED`].
    ended: VecDeque<CommandId>,
}

#[derive(Clone, Copy, Debug)]
struct Current {
    connection: ConnectionId,
    announced: Announced,
}

#[derive(Debug)]
struct Flight {
    info: InFlight,
    /// When progress was last forwarded.
    forwarded_at: Option<Instant>,
}

#[derive(Debug)]
struct Draining {
    window: Duration,
    random: Random,
}

impl Registry {
    /// Creates an empty registry.
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

    /// Registers an open control stream. Its Hello is due within 5 s. `connection` must be new.
    ///
    /// # Errors
    /// [`OpenRefused`] if the process is full or shutting down: end the stream.
    pub fn opened(&mut self, now: Instant, connection: ConnectionId) -> Result<(), OpenRefused> {
        if let Some(retry_after) = self.reconnect_slot() {
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

    /// Handles the Hello of an authenticated node: decides whether the connection may claim the node's epoch. The claim
    /// itself decides whether another machine uses the node's identity.
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
        // The node's epoch must stay known until the claim ends, which is compared with it.
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

    /// Handles a successful claim. Must be called after every successful claim, even if the connection has ended in the
    /// meantime, because the claim has fenced the older connections.
    pub fn connected(
        &mut self,
        now: Instant,
        node: NodeId,
        connection: ConnectionId,
        claim: Claim,
    ) -> Standing {
        // The stream may have ended, or the claim may have timed out, while the store was working.
        let is_there = self.end_claim(node, connection);
        let Some(state) = self.nodes.get_mut(&node) else {
            return Standing::Gone;
        };
        // Claims of one node end in any order. Only the store's epoch tells which one is newer.
        if state.epoch.is_some_and(|known| claim.epoch <= known) {
            if is_there {
                self.evict(connection, EvictReason::Replaced, None);
            }
            self.forget_later_if_idle(now, node);
            return Standing::Fenced;
        }
        state.epoch = Some(claim.epoch);
        if let Some(old) = state.current {
            self.evict(old.connection, EvictReason::Replaced, None);
        }
        // A node that still runs an adopted command is not ready for another.
        self.adopt(node, &claim.adopted, is_there);
        if !is_there {
            self.forget_later_if_idle(now, node);
            return Standing::Gone;
        }
        self.make_current(
            node,
            Current {
                connection,
                announced: claim.announced,
            },
        );
        // A node expects Accepted as the first message of its stream.
        self.send_accepted(now, connection, claim.epoch);
        self.resend_cancels(node);
        self.notify_if_ready(node);
        Standing::Current
    }

    /// Handles the end of a connection, or its failed claim. Has no effect if the connection was already evicted: the end
    /// of an old stream never unregisters the newer one. Commands in flight stay in flight.
    pub fn closed(&mut self, now: Instant, connection: ConnectionId) -> Option<Released> {
        match self.connections.get(&connection)?.phase {
            Phase::Opened => {
                self.forget_connection(connection);
                None
            }
            Phase::Claiming { node } => {
                self.forget_connection(connection);
                self.forget_later_if_idle(now, node);
                None
            }
            Phase::Current { node } => {
                self.forget_connection(connection);
                self.forget_later_if_idle(now, node);
                // The known epoch is that of this connection. A newer one would have evicted it.
                let epoch = self.nodes.get(&node)?.epoch?;
                Some(Released { node, epoch })
            }
        }
    }

    /// Handles a newer claim of the node by another process: this process's stream and commands of the node end.
    pub fn superseded(&mut self, now: Instant, node: NodeId, epoch: Epoch) {
        let Some(state) = self.nodes.get_mut(&node) else {
            return;
        };
        if state.epoch.is_some_and(|known| epoch <= known) {
            return;
        }
        state.epoch = Some(epoch);
        // Claims in progress stay, because their epoch may be newer still.
        if let Some(current) = state.current {
            self.evict(current.connection, EvictReason::Replaced, None);
        }
        self.end_all(node, CommandEnd::Moved);
        self.forget_later_if_idle(now, node);
    }

    /// Ends the streams and commands of a revoked node.
    pub fn revoked(&mut self, now: Instant, node: NodeId) {
        let Some(state) = self.nodes.get(&node) else {
            return;
        };
        let current = state.current.map(|c| c.connection);
        for connection in state
            // The store may have granted these claims just before the revocation.
            .claiming
            .iter()
            .copied()
            .chain(current)
            .collect::<Vec<_>>()
        {
            self.evict(connection, EvictReason::Revoked, None);
        }
        self.end_all(node, CommandEnd::Revoked);
        self.forget_later_if_idle(now, node);
    }

    /// Registers a command that the store issued under `epoch`. Returns the connection on which to send it.
    ///
    /// # Errors
    /// [`DispatchRefused`]: the command must not be sent; withdraw it in the store.
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
        // The node can reconnect between the commit in the store and this call.
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

    /// Handles the ack of a command. Store its content before dispatching the next command.
    ///
    /// # Errors
    /// [`Dropped`] if the ack has no effect: it came on an old connection, or its command is not in flight on the
    /// connection's node.
    pub fn ack(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        command: CommandId,
    ) -> Result<NodeId, Dropped> {
        let node = self.check(connection, command)?;
        self.end(node, command, CommandEnd::Acked);
        self.notify_if_ready(node);
        self.forget_later_if_idle(now, node);
        Ok(node)
    }

    /// Handles the end of a command that the store ended without an ack. Other commands are ignored.
    pub fn ended(&mut self, now: Instant, node: NodeId, command: CommandId) {
        let in_flight = |state: &Node| state.in_flight.contains_key(&command);
        if self.nodes.get(&node).is_some_and(in_flight) {
            self.end(node, command, CommandEnd::Stored);
            self.notify_if_ready(node);
            self.forget_later_if_idle(now, node);
        }
    }

    /// Handles a progress message. Returns the progress to forward, or none if something was forwarded less than
    /// [`PROGRESS_EVERY`] ago. The latest progress is kept.
    ///
    /// # Errors
    /// [`Dropped`] as for [`ack`](Self::ack).
    pub fn progress(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        command: CommandId,
        reported: CommandProgress,
    ) -> Result<Option<CommandProgress>, Dropped> {
        let node = self.check(connection, command)?;
        let flight = self
            .nodes
            .get_mut(&node)
            .and_then(|n| n.in_flight.get_mut(&command));
        let Some(flight) = flight else {
            return Err(Dropped::NotInFlight(command));
        };
        let total = reported.total.max(flight.info.progress.total);
        flight.info.progress = CommandProgress {
            done: reported.done.min(total).max(flight.info.progress.done),
            total,
        };
        let recent = |at: Instant| now.saturating_duration_since(at) < PROGRESS_EVERY;
        if flight.forwarded_at.is_some_and(recent) {
            return Ok(None);
        }
        flight.forwarded_at = Some(now);
        Ok(Some(flight.info.progress))
    }

    /// Checks whether another message about a command (such as pins) takes effect. Returns the node.
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

    /// Counts a message that is malformed, oversized or unexpected.
    pub fn malformed(&mut self, connection: ConnectionId) {
        self.dropped = self.dropped.saturating_add(1);
        if let Some(held) = self.connections.get_mut(&connection) {
            held.dropped.malformed = held.dropped.malformed.saturating_add(1);
        }
    }

    /// Cancels a command. A node with the cancel capability is notified, now or when it reconnects. Any command holds
    /// the permit until its ack, or until the store ends it.
    pub fn cancel(&mut self, node: NodeId, command: CommandId) {
        let Some(state) = self.nodes.get_mut(&node) else {
            return;
        };
        let Some(flight) = state.in_flight.get_mut(&command) else {
            return;
        };
        // One request per stream is enough. `resend_cancels` repeats it on the next one.
        if std::mem::replace(&mut flight.info.canceled, true) {
            return;
        }
        if let Some(current) = state.current.filter(Current::understands_cancel) {
            self.outputs.push_back(Output::SendCancel {
                connection: current.connection,
                command,
            });
        }
    }

    /// Starts the shutdown: no stream is admitted and no command is dispatched. Every node gets a reconnect slot; the
    /// slots are spread evenly over `window`, which protects other servers from a rush. Messages of open streams are
    /// handled until the streams end. A second call has no effect.
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
            self.drain_connection(now, connection, slot);
        }
        self.draining = Some(Draining { window, random });
    }

    /// Fires every deadline that `now` has reached. Call it after all received events are handled.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Hello(connection) => self.evict(connection, EvictReason::NoHello, None),
                Timer::Claim(connection) => {
                    let node = self.node_of(connection);
                    self.evict(connection, EvictReason::ClaimStuck, None);
                    if let Some(node) = node {
                        self.forget_later_if_idle(now, node);
                    }
                }
                Timer::Accepted(connection) => {
                    let epoch = self.node_of(connection).and_then(|node| self.epoch(node));
                    if let Some(epoch) = epoch {
                        self.send_accepted(now, connection, epoch);
                    }
                }
                Timer::Command(node, command) => {
                    self.outputs.push_back(Output::Overdue { node, command });
                    let again = now + OVERDUE_EVERY;
                    self.timers.set(Timer::Command(node, command), again);
                }
                Timer::Forget(node) => {
                    self.nodes.remove(&node);
                }
            }
        }
    }

    /// Returns the next action. Call it until it returns none. One call of an input causes at most a few outputs per
    /// connection.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Whether a command can be dispatched to the node now.
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

    /// The commands that the node runs.
    pub fn in_flight(&self, node: NodeId) -> impl Iterator<Item = (CommandId, InFlight)> {
        let flights = self.nodes.get(&node).map(|n| n.in_flight.iter());
        flights.into_iter().flatten().map(|(id, f)| (*id, f.info))
    }

    /// The nodes with a current connection, in ascending order.
    pub fn connected_nodes(&self) -> impl Iterator<Item = NodeId> {
        let connected = self.nodes.iter().filter(|(_, n)| n.current.is_some());
        connected.map(|(node, _)| *node)
    }

    /// The number of messages of an open connection that had no effect.
    pub fn dropped_of(&self, connection: ConnectionId) -> Option<DroppedCounts> {
        Some(self.connections.get(&connection)?.dropped)
    }

    /// The number of messages that had no effect since the start, over all connections.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The number of open connections, whether or not their Hello has arrived.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Whether the node is in memory. For tests.
    #[doc(hidden)]
    pub fn remembers(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    /// Whether every bound holds and the indexes agree. For tests.
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
