//! The steps that the inputs of [`Registry`] are made of.

use std::time::{Duration, Instant};

use fleet_core::{
    CommandId, ConnectionId, Epoch, NodeId, Priority, full_jitter, limits::ACCEPTED_EVERY,
};

use super::{
    Adopted, CommandEnd, Current, ENDED_REMEMBERED, EvictReason, Flight, IN_FLIGHT_PER_NODE,
    InFlight, Node, Output, Phase, Progress, REMEMBER_NODE, Registry, Timer,
};
use crate::Capability;

impl Flight {
    pub(super) fn new(priority: Priority, deadline: Instant, canceled: bool) -> Self {
        Self {
            shown: InFlight {
                priority,
                deadline,
                canceled,
                progress: Progress::default(),
            },
            told: None,
        }
    }
}

impl Current {
    pub(super) fn understands_cancel(&self) -> bool {
        self.announced.capabilities.has(Capability::Cancel)
    }
}

impl Node {
    pub(super) fn is_idle(&self) -> bool {
        self.current.is_none() && self.claiming.is_empty() && self.in_flight.is_empty()
    }
}

impl Registry {
    /// A slot for somebody who comes while this process goes down.
    pub(super) fn draining_slot(&mut self) -> Option<Duration> {
        let draining = self.draining.as_mut()?;
        Some(full_jitter(draining.window, draining.random.next()))
    }

    /// Whether a node is, or can be, remembered. At the bound the one that was idle longest gives way.
    pub(super) fn make_room_for(&mut self, node: NodeId) -> bool {
        if self.nodes.contains_key(&node) || self.nodes.len() < self.limits.nodes {
            return true;
        }
        let idle = self.timers.keys().find_map(|timer| match timer {
            Timer::Forget(node) => Some(node),
            Timer::Hello(_) | Timer::Claim(_) | Timer::Accepted(_) | Timer::Command(..) => None,
        });
        if let Some(idle) = idle {
            self.timers.cancel(Timer::Forget(idle));
            self.nodes.remove(&idle);
        }
        idle.is_some()
    }

    /// Ends the claim of a connection. Answers whether the connection is still there.
    pub(super) fn end_claim(&mut self, node: NodeId, connection: ConnectionId) -> bool {
        let claimed = |state: &mut Node| state.claiming.remove(&connection);
        if !self.nodes.get_mut(&node).is_some_and(claimed) {
            return false;
        }
        self.timers.cancel(Timer::Claim(connection));
        let held = self.connections.get(&connection);
        held.is_some_and(|held| matches!(held.phase, Phase::Claiming { .. }))
    }

    /// Takes over what the store adopted; everything else in flight is lost. Without a stream here nothing
    /// new is taken over.
    pub(super) fn adopt(&mut self, node: NodeId, adopted: &[Adopted], has_stream: bool) {
        let adopted = &adopted[..adopted.len().min(IN_FLIGHT_PER_NODE)];
        let goes_on = |command: &CommandId| adopted.iter().any(|a| a.command == *command);
        for command in self.commands_of(node) {
            if !goes_on(&command) {
                self.end(node, command, CommandEnd::Lost);
            }
        }
        let Some(state) = self.nodes.get_mut(&node) else {
            return;
        };
        for found in adopted {
            let command = found.command;
            let known = state.in_flight.contains_key(&command);
            if !known && (!has_stream || state.ended.contains(&command)) {
                continue;
            }
            let timers = &mut self.timers;
            let flight = state.in_flight.entry(command).or_insert_with(|| {
                timers.set(Timer::Command(node, command), found.deadline);
                Flight::new(found.priority, found.deadline, false)
            });
            flight.shown.canceled |= found.canceled;
            self.outputs.push_back(Output::Adopted { node, command });
        }
    }

    pub(super) fn make_current(&mut self, node: NodeId, current: Current) {
        if let Some(held) = self.connections.get_mut(&current.connection) {
            held.phase = Phase::Current { node };
        }
        if let Some(state) = self.nodes.get_mut(&node) {
            state.current = Some(current);
        }
    }

    /// Tells a node that came back what was canceled meanwhile, or was told on a stream that broke.
    pub(super) fn repeat_cancels(&mut self, node: NodeId) {
        let Some(state) = self.nodes.get(&node) else {
            return;
        };
        let Some(current) = state.current.filter(Current::understands_cancel) else {
            return;
        };
        let connection = current.connection;
        let canceled = state.in_flight.iter().filter(|(_, f)| f.shown.canceled);
        self.outputs
            .extend(canceled.map(|(command, _)| Output::SendCancel {
                connection,
                command: *command,
            }));
    }

    pub(super) fn say_accepted(&mut self, now: Instant, connection: ConnectionId, epoch: Epoch) {
        self.outputs
            .push_back(Output::Accepted { connection, epoch });
        // From now, not from the last deadline: after a long pause one sign of life is enough.
        self.timers
            .set(Timer::Accepted(connection), now + ACCEPTED_EVERY);
    }

    pub(super) fn tell_if_ready(&mut self, node: NodeId) {
        if let (true, Some(epoch)) = (self.can_dispatch(node), self.epoch(node)) {
            self.outputs.push_back(Output::Ready { node, epoch });
        }
    }

    /// Says goodbye to a greeted connection, ends another.
    pub(super) fn send_away(&mut self, now: Instant, connection: ConnectionId, slot: Duration) {
        let Some(held) = self.connections.get(&connection) else {
            return;
        };
        match held.phase {
            Phase::Opened => self.evict(connection, EvictReason::Draining, Some(slot)),
            Phase::Claiming { node } => {
                self.evict(connection, EvictReason::Draining, Some(slot));
                self.rest_if_idle(now, node);
            }
            Phase::Current { node } => self.outputs.push_back(Output::Goodbye {
                connection,
                retry_after: slot,
                goodbye: self.understands_goodbye(node),
            }),
        }
    }

    /// Forgets a connection and tells the shell to end it. Its node keeps what is in flight.
    pub(super) fn evict(
        &mut self,
        connection: ConnectionId,
        reason: EvictReason,
        retry_after: Option<Duration>,
    ) {
        let goodbye = self
            .holder(connection)
            .is_some_and(|node| self.understands_goodbye(node));
        self.forget_connection(connection);
        self.outputs.push_back(Output::Evict {
            connection,
            reason,
            retry_after,
            goodbye,
        });
    }

    /// Removes every trace of a connection; the caller sees to its node.
    pub(super) fn forget_connection(&mut self, connection: ConnectionId) {
        self.timers.cancel(Timer::Hello(connection));
        self.timers.cancel(Timer::Claim(connection));
        self.timers.cancel(Timer::Accepted(connection));
        let Some(held) = self.connections.remove(&connection) else {
            return;
        };
        match held.phase {
            Phase::Opened => {}
            Phase::Claiming { node } => {
                if let Some(state) = self.nodes.get_mut(&node) {
                    state.claiming.remove(&connection);
                }
            }
            Phase::Current { node } => {
                if let Some(state) = self.nodes.get_mut(&node) {
                    state.current = None;
                }
            }
        }
    }

    /// Ends everything that a node has in flight.
    pub(super) fn end_all(&mut self, node: NodeId, end: CommandEnd) {
        for command in self.commands_of(node) {
            self.end(node, command, end);
        }
    }

    /// Ends one command, once.
    pub(super) fn end(&mut self, node: NodeId, command: CommandId, end: CommandEnd) {
        self.timers.cancel(Timer::Command(node, command));
        let Some(state) = self.nodes.get_mut(&node) else {
            return;
        };
        if state.in_flight.remove(&command).is_none() {
            return;
        }
        match end {
            CommandEnd::Acked | CommandEnd::Expired | CommandEnd::Revoked => {
                if state.ended.len() == ENDED_REMEMBERED {
                    state.ended.pop_front();
                }
                state.ended.push_back(command);
            }
            // The store may still bring these back.
            CommandEnd::Lost | CommandEnd::Moved => {}
        }
        self.outputs.push_back(Output::Ended { node, command, end });
    }

    /// Starts to forget a node that holds nothing.
    pub(super) fn rest_if_idle(&mut self, now: Instant, node: NodeId) {
        if self.nodes.get(&node).is_some_and(Node::is_idle) {
            self.timers.set(Timer::Forget(node), now + REMEMBER_NODE);
        }
    }

    pub(super) fn node_of(&self, connection: ConnectionId) -> Option<NodeId> {
        match self.connections.get(&connection)?.phase {
            Phase::Opened => None,
            Phase::Claiming { node } | Phase::Current { node } => Some(node),
        }
    }

    fn commands_of(&self, node: NodeId) -> Vec<CommandId> {
        let state = self.nodes.get(&node);
        state.map_or_else(Vec::new, |n| n.in_flight.keys().copied().collect())
    }

    fn understands_goodbye(&self, node: NodeId) -> bool {
        let current = self.nodes.get(&node).and_then(|n| n.current);
        current.is_some_and(|c| c.announced.capabilities.has(Capability::Goodbye))
    }
}
