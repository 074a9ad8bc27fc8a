//! Time, the drain, and the comparison of the registry with its model.

use std::collections::BTreeSet;

use fleet_core::{NodeId, limits};
use fleet_registry::registry::{CommandEnd, EvictReason, OVERDUE_EVERY, Output};

use super::{DRAIN_WINDOW, Flight, NODES, State, World};

impl World {
    pub(super) fn drain(&mut self, seed: u64) {
        self.registry.drain(self.now, DRAIN_WINDOW, seed);
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        // Slots are random. The model checks which connections get one, and that it lies in the connection's share.
        let mut spoken_to = Vec::new();
        while let Some(output) = self.registry.poll_output() {
            let (connection, slot) = match output {
                Output::Goodbye {
                    connection,
                    retry_after,
                    ..
                } => {
                    assert!(matches!(
                        self.connections[&connection],
                        State::Current { .. }
                    ));
                    (connection, Some(retry_after))
                }
                Output::Evict {
                    connection,
                    reason: EvictReason::Draining,
                    retry_after,
                    goodbye: false,
                } => {
                    assert!(matches!(
                        self.connections[&connection],
                        State::Opened { .. } | State::Claiming { .. }
                    ));
                    self.end_connection(connection);
                    (connection, retry_after)
                }
                other @ (Output::Accepted { .. }
                | Output::Evict { .. }
                | Output::SendCancel { .. }
                | Output::Adopted { .. }
                | Output::Overdue { .. }
                | Output::Ended { .. }
                | Output::Ready { .. }) => panic!("{other:?} while draining"),
            };
            spoken_to.push((connection, slot));
        }
        let share = DRAIN_WINDOW / u32::try_from(spoken_to.len().max(1)).unwrap_or(1);
        for (at, (_, slot)) in (0_u32..).zip(&spoken_to) {
            assert!(slot.is_some_and(|slot| share * at <= slot && slot <= share * (at + 1)));
        }
        let connections: BTreeSet<_> = spoken_to.iter().map(|(id, _)| *id).collect();
        let live = self
            .connections
            .iter()
            .filter(|(_, s)| matches!(s, State::Current { .. }));
        assert!(live.into_iter().all(|(id, _)| connections.contains(id)));
        assert_eq!(connections.len(), spoken_to.len());
    }

    pub(super) fn tick(&mut self) {
        if let Some(at) = self.registry.poll_timeout() {
            self.now = self.now.max(at);
        }
        let now = self.now;
        self.registry.handle_timeout(now);
        assert!(self.registry.poll_timeout().is_none_or(|at| at > now));
        for (id, state) in self.connections.clone() {
            match state {
                State::Opened { hello_by } if hello_by <= now => {
                    self.expect_evict(id, EvictReason::NoHello)
                }
                State::Claiming { by, .. } if by <= now => {
                    self.expect_evict(id, EvictReason::ClaimStuck)
                }
                State::Current {
                    node,
                    announced,
                    next,
                } if next <= now => {
                    let epoch = self.known[&node];
                    self.expected.push(Output::Accepted {
                        connection: id,
                        epoch,
                    });
                    let next = now + limits::ACCEPTED_EVERY;
                    self.connections.insert(
                        id,
                        State::Current {
                            node,
                            announced,
                            next,
                        },
                    );
                }
                State::Opened { .. }
                | State::Claiming { .. }
                | State::Current { .. }
                | State::Ended => {}
            }
        }
        for flight in self.flights.iter_mut().filter(|f| f.overdue_at <= now) {
            flight.overdue_at = now + OVERDUE_EVERY;
            let (node, command) = (flight.node, flight.command);
            self.expected.push(Output::Overdue { node, command });
        }
    }

    /// Compares the outputs and the views of the registry with the model's.
    pub(super) fn compare(&mut self) {
        let mut outputs = Vec::new();
        while let Some(output) = self.registry.poll_output() {
            if let Output::Ended { command, .. } = output {
                *self.residences.entry(command).or_insert(0) -= 1;
            }
            outputs.push(output);
        }
        let sorted = |outputs: Vec<Output>| {
            let mut texts: Vec<_> = outputs.iter().map(|o| format!("{o:?}")).collect();
            texts.sort();
            texts
        };
        let expected = std::mem::take(&mut self.expected);
        if outputs != expected {
            assert_eq!(sorted(outputs), sorted(expected));
        }
        assert!(self.registry.is_consistent());
        assert_eq!(self.registry.connections(), self.live());
        assert_eq!(self.registry.dropped(), self.dropped);
        for node in (0..NODES).map(NodeId) {
            // I2: the model finds at most one current connection, and it is this one.
            let current = self.current(node);
            assert_eq!(self.registry.current(node), current);
            assert_eq!(self.registry.can_dispatch(node), self.can_dispatch(node));
            if !self.registry.remembers(node) {
                assert!(current.is_none() && self.flights_of(node).is_empty());
                self.known.remove(&node);
                self.ended.retain(|(n, _)| *n != node);
            }
            assert_eq!(self.registry.epoch(node), self.known.get(&node).copied());
            let shown: Vec<_> = self.registry.in_flight(node).collect();
            assert_eq!(
                shown.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
                self.flights_of(node)
            );
            for (command, flight) in shown {
                let model = self
                    .flights
                    .iter()
                    .find(|f| (f.node, f.command) == (node, command));
                let model = model.map(|f| (f.deadline, f.canceled, f.progress));
                assert_eq!(
                    model,
                    Some((flight.deadline, flight.canceled, flight.progress))
                );
            }
        }
        // Every command that is not in flight has ended as often as it started.
        for (command, open) in &self.residences {
            let flying = self
                .flights
                .iter()
                .filter(|f| f.command == *command)
                .count();
            assert_eq!(usize::try_from(*open), Ok(flying), "{command}");
        }
    }

    /// Ends the run: streams close, the store ends all commands, and nodes are forgotten.
    pub(super) fn finish(&mut self) {
        for id in self.connections.keys().copied().collect::<Vec<_>>() {
            let _released = self.registry.closed(self.now, id);
            self.end_connection(id);
        }
        self.compare();
        for Flight { node, command, .. } in self.flights.clone() {
            self.registry.ended(self.now, node, command);
            self.expect_end(node, command, CommandEnd::Stored);
        }
        self.compare();
        for _ in 0..1_000 {
            if self.registry.poll_timeout().is_none() {
                break;
            }
            self.tick();
            self.compare();
        }
        assert_eq!(self.registry.poll_timeout(), None);
        assert!(self.flights.is_empty());
        assert!((0..NODES).all(|node| !self.registry.remembers(NodeId(node))));
    }
}
