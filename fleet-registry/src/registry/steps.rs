//! The private steps of [`Registry`].

use std::time::{Duration, Instant};

use fleet_core::{
    CommandId, ConnectionId, Epoch, NodeId, Priority, full_jitter, limits::ACCEPTED_EVERY,
};

use super::{
    Adopted, CommandEnd, CommandProgress, Current, ENDED_REMEMBERED, EvictReason, Flight,
    IN_FLIGHT_PER_NODE, InFlight, Node, Output, Phase, REMEMBER_NODE, Registry, Timer,
};
use crate::Capability;

impl Flight {
    pub(super) fn new(priority: Priority, deadline: Instant, canceled: bool) -> Self {
        Self {
            info: InFlight {
                priority,
                deadline,
                canceled,
                progress: CommandProgress::default(),
            },
            forwarded_at: None,
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
    /// A reconnect slot for a node that connects during the shutdown.
    pub(super) fn reconnect_slot(&mut self) -> Option<Duration> {
        let draining = self.draining.as_mut()?;
        Some(full_jitter(draining.window, draining.random.next()))
    }

    /// Makes room for a node, evicting the node that was idle longest. Returns false if no node is idle.
    pub(super) fn make_room_for(&mut self, node: NodeId) -> bool {
        if self.nodes.contains_key(&node) || self.nodes.len() < self.limits.nodes {
            return true;
        }
        // Every idle node waits for the same time, so the
        // first deadline belongs to the one idle longest.
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

    /// Ends the claim of a connection. Returns whether the connection still exists.
    pub(super) fn end_claim(&mut self, node: NodeId, connection: ConnectionId) -> bool {
        let claimed = |state: &mut Node| state.claiming.remove(&connection);
        if !self.nodes.get_mut(&node).is_some_and(claimed) {
            return false;
        }
        self.timers.cancel(Timer::Claim(connection));
        let held = self.connections.get(&connection);
        held.is_some_and(|held| matches!(held.phase, Phase::Claiming { .. }))
    }

    /// Registers the commands that the store adopted; other commands in flight are lost. Without a stream on this
    /// process, no new command is registered.
    pub(super) fn adopt(&mut self, node: NodeId, adopted: &[Adopted], has_stream: bool) {
        // The bound of this map must not depend on the store.
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
            // Without a stream the epoch is released, and the
            // next claim adopts the command, maybe elsewhere.
            if !known && (!has_stream || state.ended.contains(&command)) {
                continue;
            }
            let timers = &mut self.timers;
            let flight = state.in_flight.entry(command).or_insert_with(|| {
                timers.set(Timer::Command(node, command), found.deadline);
                Flight::new(found.priority, found.deadline, false)
            });
            // The cancel may have reached this process while the claim was in progress.
            flight.info.canceled |= found.canceled;
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

    /// Repeats the cancel requests to a node that reconnected, because the last stream may not have delivered them.
    pub(super) fn resend_cancels(&mut self, node: NodeId) {
        let Some(state) = self.nodes.get(&node) else {
            return;
        };
        let Some(current) = state.current.filter(Current::understands_cancel) else {
            return;
        };
        let connection = current.connection;
        let canceled = state.in_flight.iter().filter(|(_, f)| f.info.canceled);
        self.outputs
            .extend(canceled.map(|(command, _)| Output::SendCancel {
                connection,
                command: *command,
            }));
    }

    pub(super) fn send_accepted(&mut self, now: Instant, connection: ConnectionId, epoch: Epoch) {
        self.outputs
            .push_back(Output::Accepted { connection, epoch });
        // Counted from now, not from the last deadline: after a long pause, one liveness signal is enough.
        self.timers
            .set(Timer::Accepted(connection), now + ACCEPTED_EVERY);
    }

    pub(super) fn notify_if_ready(&mut self, node: NodeId) {
        if let (true, Some(epoch)) = (self.can_dispatch(node), self.epoch(node)) {
            self.outputs.push_back(Output::Ready { node, epoch });
        }
    }

    /// Sends a goodbye to a current connection, and evicts one that is still connecting.
    pub(super) fn drain_connection(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        slot: Duration,
    ) {
        let Some(held) = self.connections.get(&connection) else {
            return;
        };
        match held.phase {
            Phase::Opened => self.evict(connection, EvictReason::Draining, Some(slot)),
            Phase::Claiming { node } => {
                // If the claim still succeeds, `connected` finds
                // no connection, and the epoch is released.
                self.evict(connection, EvictReason::Draining, Some(slot));
                self.forget_later_if_idle(now, node);
            }
            Phase::Current { node } => self.outputs.push_back(Output::Goodbye {
                connection,
                retry_after: slot,
                goodbye: self.understands_goodbye(node),
            }),
        }
    }

    /// Removes a connection and makes the caller end it. The node's commands stay in flight.
    pub(super) fn evict(
        &mut self,
        connection: ConnectionId,
        reason: EvictReason,
        retry_after: Option<Duration>,
    ) {
        // `holder` reads the connection, which is removed next.
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

    /// Removes a connection from all tables. The caller handles its node.
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

    /// Ends every command of a node.
    pub(super) fn end_all(&mut self, node: NodeId, end: CommandEnd) {
        for command in self.commands_of(node) {
            self.end(node, command, end);
        }
    }

    /// Ends one command; a second call has no effect.
    pub(super) fn end(&mut self, node: NodeId, command: CommandId, end: CommandEnd) {
        self.timers.cancel(Timer::Command(node, command));
        let Some(state) = self.nodes.get_mut(&node) else {
            return;
        };
        if state.in_flight.remove(&command).is_none() {
            return;
        }
        match end {
            CommandEnd::Acked | CommandEnd::Stored | CommandEnd::Revoked => {
                if state.ended.len() == ENDED_REMEMBERED {
                    state.ended.pop_front();
                }
                state.ended.push_back(command);
            }
            // The store may adopt these again.
            CommandEnd::Lost | CommandEnd::Moved => {}
        }
        self.outputs.push_back(Output::Ended { node, command, end });
    }

    /// Schedules the removal of a node that has no stream, claim or command.
    pub(super) fn forget_later_if_idle(&mut self, now: Instant, node: NodeId) {
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
