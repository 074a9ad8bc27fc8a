//! Commands and the messages about them, in the registry's model.

use std::time::Duration;

use fleet_core::{CommandId, ConnectionId, Epoch, NodeId, Priority, Timestamp};
use fleet_registry::{
    Capability,
    registry::{CommandEnd, CommandProgress, DispatchRefused, Dropped, Output, PROGRESS_EVERY},
};

use super::{super::pick, Flight, State, World};

impl World {
    pub(super) fn new_command(&mut self) -> CommandId {
        let number = self.commands.len() as u64;
        let [a, b, c, d, e, f, g, h] = number.to_be_bytes();
        let command = CommandId::new(Timestamp::from_micros(0), [a, b, c, d, e, f, g, h, 0, 0]);
        self.commands.push(command);
        command
    }

    pub(super) fn dispatch(&mut self, node: NodeId, epoch: u8, seconds: u8) {
        let command = self.new_command();
        let known = self.known.get(&node).copied();
        let epoch = match known {
            Some(known) if epoch < 32 => Epoch(known.0 - 1),
            Some(known) => known,
            None => Epoch(1),
        };
        let deadline = self.now + Duration::from_secs(u64::from(seconds) * 3);
        let answer =
            self.registry
                .dispatched(node, epoch, command, Priority::Interactive, deadline);
        let Some((connection, ..)) = self.current(node).filter(|_| !self.draining) else {
            assert_eq!(answer, Err(DispatchRefused::Away(node)));
            return;
        };
        let current = self.known[&node];
        if epoch != current {
            assert_eq!(
                answer,
                Err(DispatchRefused::StaleEpoch {
                    node,
                    issued: epoch,
                    current
                })
            );
            return;
        }
        if let Some(running) = self.flights_of(node).first() {
            let command = *running;
            assert_eq!(answer, Err(DispatchRefused::Busy { node, command }));
            return;
        }
        assert_eq!(answer, Ok(connection));
        *self.residences.entry(command).or_insert(0) += 1;
        self.flights.push(Flight {
            node,
            command,
            deadline,
            overdue_at: deadline,
            canceled: false,
            forwarded_at: None,
            progress: CommandProgress::default(),
        });
    }

    /// I3: the node on whose behalf a message takes effect, if any.
    pub(super) fn judge_message(
        &mut self,
        id: ConnectionId,
        command: CommandId,
    ) -> Result<NodeId, Dropped> {
        let judged = match self.connections[&id] {
            State::Opened { .. } | State::Claiming { .. } | State::Ended => {
                Err(Dropped::NotCurrent)
            }
            State::Current { node, .. } => {
                if self
                    .flights
                    .iter()
                    .any(|f| (f.node, f.command) == (node, command))
                {
                    Ok(node)
                } else {
                    Err(Dropped::NotInFlight(command))
                }
            }
        };
        self.dropped += u64::from(judged.is_err());
        judged
    }

    pub(super) fn message(&self, which: u8, command: u8) -> Option<(ConnectionId, CommandId)> {
        let recent: Vec<_> = self.commands.iter().rev().take(6).copied().collect();
        Some((self.connection(which)?, pick(&recent, command)?))
    }

    pub(super) fn ack(&mut self, which: u8, command: u8) {
        let Some((id, command)) = self.message(which, command) else {
            return;
        };
        let judged = self.judge_message(id, command);
        assert_eq!(self.registry.ack(self.now, id, command), judged);
        if let Ok(node) = judged {
            self.expect_end(node, command, CommandEnd::Acked);
            self.expect_ready(node);
        }
    }

    /// The store ends a command without an ack.
    pub(super) fn end_in_store(&mut self, argument: u8) {
        let Some(command) = pick(&self.commands, argument) else {
            return;
        };
        let flight = self.flights.iter().find(|f| f.command == command);
        let node = flight.map_or(NodeId(0), |flight| flight.node);
        let in_flight = flight.is_some();
        self.registry.ended(self.now, node, command);
        if in_flight {
            self.expect_end(node, command, CommandEnd::Stored);
            self.expect_ready(node);
        }
    }

    pub(super) fn progress(&mut self, which: u8, command: u8, argument: u8) {
        let Some((id, command)) = self.message(which, command) else {
            return;
        };
        let judged = self.judge_message(id, command);
        let now = self.now;
        let reported = CommandProgress {
            done: u64::from(argument),
            total: u64::from(argument / 2),
        };
        let answer = self.registry.progress(now, id, command, reported);
        let Ok(node) = judged else {
            assert_eq!(answer, judged.map(|_| None));
            return;
        };
        let mut flights = self.flights.iter_mut();
        let Some(flight) = flights.find(|f| (f.node, f.command) == (node, command)) else {
            return;
        };
        let total = reported.total.max(flight.progress.total);
        flight.progress = CommandProgress {
            done: flight.progress.done.max(reported.done.min(total)),
            total,
        };
        let recent = flight
            .forwarded_at
            .is_some_and(|at| now - at < PROGRESS_EVERY);
        assert_eq!(answer, Ok((!recent).then_some(flight.progress)));
        if !recent {
            flight.forwarded_at = Some(now);
        }
    }

    pub(super) fn cancel(&mut self, node: NodeId, command: u8) {
        let of_node = self.flights_of(node);
        let Some(command) = pick(&of_node, command).or_else(|| pick(&self.commands, command))
        else {
            return;
        };
        self.registry.cancel(node, command);
        let current = self.current(node);
        let mut flights = self.flights.iter_mut();
        let flight = flights.find(|f| (f.node, f.command) == (node, command) && !f.canceled);
        if let Some(flight) = flight {
            flight.canceled = true;
            if let Some((connection, announced)) = current
                && announced.capabilities.has(Capability::Cancel)
            {
                self.expected.push(Output::SendCancel {
                    connection,
                    command,
                });
            }
        }
    }
}
