//! A model of the registry as a few flat lists that are searched linearly. Start with `World`.

mod check;
mod commands;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use fleet_core::{CommandId, ConnectionId, Epoch, NodeId, Priority, limits};
use fleet_registry::{
    Announced, Capabilities, Capability, Registry,
    registry::{
        Admission, Adopted, CLAIM_TIMEOUT, Claim, CommandEnd, CommandProgress, ENDED_REMEMBERED,
        EvictReason, OpenRefused, Output, RegistryLimits, Standing,
    },
};

use super::{Op, pick};

const NODES: i64 = 3;
const CONNECTIONS: usize = 8;
const DRAIN_WINDOW: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug)]
enum State {
    Opened {
        hello_by: Instant,
    },
    Claiming {
        node: NodeId,
        by: Instant,
    },
    Current {
        node: NodeId,
        announced: Announced,
        next: Instant,
    },
    Ended,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    node: NodeId,
    command: CommandId,
    deadline: Instant,
    overdue_at: Instant,
    canceled: bool,
    forwarded_at: Option<Instant>,
    progress: CommandProgress,
}

/// A claim that the store granted and that the registry does not know yet.
#[derive(Clone, Debug)]
struct Granted {
    connection: ConnectionId,
    node: NodeId,
    epoch: Epoch,
    adopted: Vec<Adopted>,
}

struct World {
    registry: Registry,
    now: Instant,
    // The store.
    store_epochs: BTreeMap<NodeId, i64>,
    granted: Vec<Granted>,
    claimed: BTreeSet<ConnectionId>,
    // The model.
    connections: BTreeMap<ConnectionId, State>,
    known: BTreeMap<NodeId, Epoch>,
    flights: Vec<Flight>,
    ended: Vec<(NodeId, CommandId)>,
    draining: bool,
    dropped: u64,
    // Counters over the whole run.
    commands: Vec<CommandId>,
    residences: BTreeMap<CommandId, i32>,
    /// The highest epoch under which a stream of the node was ever current.
    highest: BTreeMap<NodeId, Epoch>,
    expected: Vec<Output>,
}

pub(super) fn run(origin: Instant, ops: impl Iterator<Item = Op>) {
    let mut world = World::new(origin);
    for op in ops {
        world.step(op);
        world.compare();
    }
    world.finish();
}

fn announced_by(argument: u8) -> Announced {
    let capabilities: Capabilities = [(1, Capability::Cancel), (2, Capability::Goodbye)]
        .into_iter()
        .filter_map(|(bit, capability)| (argument & bit != 0).then_some(capability))
        .collect();
    Announced::new(capabilities, 0, 0)
}

impl World {
    fn new(origin: Instant) -> Self {
        Self {
            registry: Registry::new(RegistryLimits {
                connections: CONNECTIONS,
                nodes: 64,
            }),
            now: origin,
            store_epochs: BTreeMap::new(),
            granted: Vec::new(),
            claimed: BTreeSet::new(),
            connections: BTreeMap::new(),
            known: BTreeMap::new(),
            flights: Vec::new(),
            ended: Vec::new(),
            draining: false,
            dropped: 0,
            commands: Vec::new(),
            residences: BTreeMap::new(),
            highest: BTreeMap::new(),
            expected: Vec::new(),
        }
    }

    fn step(&mut self, [kind, a, b, c]: Op) {
        let node = NodeId(i64::from(a) % NODES);
        match kind % 24 {
            0 | 1 => self.open(),
            2 | 3 => self.admit(a, NodeId(i64::from(b) % NODES)),
            4 | 5 => self.grant(a, b),
            6 | 7 => self.deliver(a, b),
            8 => self.close(a),
            9 | 10 => self.dispatch(node, b, c),
            11 | 12 => self.ack(a, b),
            13 => self.progress(a, b, c),
            14 => self.cancel(node, b),
            15 => self.pass(u64::from(a) * 10),
            // Long steps are rare, because most state expires after one to ten minutes.
            16 if b < 64 => self.pass(u64::from(a) * 3_000),
            16 => self.pass(u64::from(a) * 50),
            17 => self.tick(),
            18 => match b % 8 {
                0 => self.revoke(node),
                1 | 2 => self.supersede(node, c),
                3 if c > 200 => self.drain(u64::from(a)),
                4 => self.end_in_store(c),
                _ => self.malformed(c),
            },
            19..22 => self.live_once(node, c),
            // Two machines compete for one node.
            _ => {
                for _ in 0..=(b % 6) {
                    self.live_once(node, c);
                    self.compare();
                }
            }
        }
    }

    /// Opens, admits and claims a stream in one operation, which lets short runs reach more states.
    fn live_once(&mut self, node: NodeId, adopt: u8) {
        self.open();
        self.admit(u8::MAX, node);
        self.compare();
        self.grant(u8::MAX, adopt);
        self.deliver(u8::MAX, adopt);
    }

    /// Selects a connection by an argument: any one that ever existed, or the latest.
    fn connection(&self, argument: u8) -> Option<ConnectionId> {
        if argument == u8::MAX {
            return self.connections.last_key_value().map(|(id, _)| *id);
        }
        let recent: Vec<_> = self
            .connections
            .keys()
            .rev()
            .take(2 * CONNECTIONS)
            .copied()
            .collect();
        pick(&recent, argument)
    }

    fn live(&self) -> usize {
        let live = |s: &&State| !matches!(s, State::Ended);
        self.connections.values().filter(live).count()
    }

    fn current(&self, node: NodeId) -> Option<(ConnectionId, Announced)> {
        self.connections.iter().find_map(|(id, state)| match state {
            State::Current {
                node: of,
                announced,
                ..
            } if *of == node => Some((*id, *announced)),
            State::Opened { .. }
            | State::Claiming { .. }
            | State::Current { .. }
            | State::Ended => None,
        })
    }

    fn flights_of(&self, node: NodeId) -> Vec<CommandId> {
        let mut of: Vec<_> = self
            .flights
            .iter()
            .filter(|f| f.node == node)
            .map(|f| f.command)
            .collect();
        of.sort();
        of
    }

    // The steps of the model.

    fn end_connection(&mut self, id: ConnectionId) {
        self.connections.insert(id, State::Ended);
    }

    fn expect_evict(&mut self, connection: ConnectionId, reason: EvictReason) {
        let goodbye = match self.connections.get(&connection) {
            Some(State::Current { announced, .. }) => {
                announced.capabilities.has(Capability::Goodbye)
            }
            Some(State::Opened { .. } | State::Claiming { .. } | State::Ended) | None => false,
        };
        self.expected.push(Output::Evict {
            connection,
            reason,
            retry_after: None,
            goodbye,
        });
        self.end_connection(connection);
    }

    fn expect_end(&mut self, node: NodeId, command: CommandId, end: CommandEnd) {
        self.flights
            .retain(|f| (f.node, f.command) != (node, command));
        if !matches!(end, CommandEnd::Lost | CommandEnd::Moved) {
            self.ended.push((node, command));
        }
        self.expected.push(Output::Ended { node, command, end });
    }

    fn expect_ready(&mut self, node: NodeId) {
        if self.can_dispatch(node) {
            let epoch = self.known[&node];
            self.expected.push(Output::Ready { node, epoch });
        }
    }

    fn can_dispatch(&self, node: NodeId) -> bool {
        !self.draining && self.current(node).is_some() && self.flights_of(node).is_empty()
    }

    // Operations.

    fn open(&mut self) {
        let id = ConnectionId(self.connections.len() as u64);
        let answer = self.registry.opened(self.now, id);
        if self.draining {
            assert!(
                matches!(answer, Err(OpenRefused::Draining { retry_after }) if retry_after <= DRAIN_WINDOW)
            );
        } else if self.live() == CONNECTIONS {
            assert_eq!(answer, Err(OpenRefused::TooMany(CONNECTIONS)));
        } else {
            assert_eq!(answer, Ok(()));
            let hello_by = self.now + limits::HELLO_TIMEOUT;
            self.connections.insert(id, State::Opened { hello_by });
        }
    }

    fn admit(&mut self, which: u8, node: NodeId) {
        let Some(id) = self.connection(which) else {
            return;
        };
        let answer = self.registry.admit(self.now, id, node);
        if !matches!(self.connections[&id], State::Opened { .. }) {
            assert_eq!(answer, Admission::Gone);
            return;
        }
        assert_eq!(answer, Admission::Proceed);
        let by = self.now + CLAIM_TIMEOUT;
        self.connections.insert(id, State::Claiming { node, by });
    }

    /// The store grants a claim: its epoch is the highest, and its transaction selects the adopted commands.
    fn grant(&mut self, which: u8, adopt: u8) {
        let Some(id) = self.connection(which) else {
            return;
        };
        let State::Claiming { node, .. } = self.connections[&id] else {
            return;
        };
        if !self.claimed.insert(id) {
            return;
        }
        let epoch = self.store_epochs.entry(node).or_insert(0);
        *epoch += 1;
        let epoch = Epoch(*epoch);
        let mut adopted = Vec::new();
        for (at, flight) in self.flights.iter().filter(|f| f.node == node).enumerate() {
            if adopt & (1 << (at % 3)) != 0 {
                adopted.push(Adopted {
                    command: flight.command,
                    priority: Priority::Interactive,
                    deadline: self.now + Duration::from_secs(1),
                    canceled: adopt & 32 != 0,
                });
            }
        }
        if adopt & 8 != 0 {
            // Another process had dispatched it.
            let command = self.new_command();
            let deadline = self.now + Duration::from_secs(u64::from(adopt));
            adopted.push(Adopted {
                command,
                priority: Priority::Scheduled,
                deadline,
                canceled: adopt & 16 != 0,
            });
        }
        self.granted.push(Granted {
            connection: id,
            node,
            epoch,
            adopted,
        });
    }

    /// The registry receives a granted claim, in any order, possibly after the connection has ended.
    fn deliver(&mut self, which: u8, announced: u8) {
        let Some(at) = usize::from(which).checked_rem(self.granted.len()) else {
            return;
        };
        let Granted {
            connection,
            node,
            epoch,
            adopted,
        } = self.granted.swap_remove(at);
        let announced = announced_by(announced);
        let remembered = self.registry.remembers(node);
        let claim = Claim {
            epoch,
            announced,
            adopted: adopted.clone(),
        };
        let answer = self.registry.connected(self.now, node, connection, claim);

        let is_there = matches!(self.connections[&connection], State::Claiming { .. });
        if !remembered {
            assert_eq!((answer, is_there), (Standing::Gone, false));
            return;
        }
        // I1: an epoch that is not higher has no effect.
        if self.known.get(&node).is_some_and(|known| epoch <= *known) {
            assert_eq!(answer, Standing::Fenced);
            if is_there {
                self.expect_evict(connection, EvictReason::Replaced);
            }
            return;
        }
        self.known.insert(node, epoch);
        if let Some((old, _)) = self.current(node) {
            self.expect_evict(old, EvictReason::Replaced);
        }
        for command in self.flights_of(node) {
            if !adopted.iter().any(|a| a.command == command) {
                self.expect_end(node, command, CommandEnd::Lost);
            }
        }
        for found in &adopted {
            self.adopt(node, found, is_there);
        }
        if !is_there {
            assert_eq!(answer, Standing::Gone);
            return;
        }
        assert_eq!(answer, Standing::Current);
        // I1 holds even after the node was forgotten.
        let before = self.highest.insert(node, epoch);
        assert!(before.is_none_or(|before| before < epoch));
        let next = self.now + limits::ACCEPTED_EVERY;
        self.connections.insert(
            connection,
            State::Current {
                node,
                announced,
                next,
            },
        );
        self.expected.push(Output::Accepted { connection, epoch });
        if announced.capabilities.has(Capability::Cancel) {
            let canceled: Vec<_> = self
                .flights
                .iter()
                .filter(|f| f.node == node && f.canceled)
                .copied()
                .collect();
            for Flight { command, .. } in canceled {
                self.expected.push(Output::SendCancel {
                    connection,
                    command,
                });
            }
        }
        self.expect_ready(node);
    }

    fn adopt(&mut self, node: NodeId, found: &Adopted, has_stream: bool) {
        let command = found.command;
        let known = self
            .flights
            .iter_mut()
            .find(|f| (f.node, f.command) == (node, command));
        if let Some(flight) = known {
            flight.canceled |= found.canceled;
        } else {
            let of_node = self
                .ended
                .iter()
                .rev()
                .filter(|(n, _)| *n == node)
                .take(ENDED_REMEMBERED);
            if !has_stream || of_node.into_iter().any(|(_, ended)| *ended == command) {
                return;
            }
            *self.residences.entry(command).or_insert(0) += 1;
            self.flights.push(Flight {
                node,
                command,
                deadline: found.deadline,
                overdue_at: found.deadline,
                canceled: found.canceled,
                forwarded_at: None,
                progress: CommandProgress::default(),
            });
        }
        self.expected.push(Output::Adopted { node, command });
    }

    fn close(&mut self, which: u8) {
        let Some(id) = self.connection(which) else {
            return;
        };
        let answer = self.registry.closed(self.now, id);
        match self.connections[&id] {
            State::Current { node, .. } => {
                let epoch = self.known[&node];
                assert_eq!(answer.map(|r| (r.node, r.epoch)), Some((node, epoch)));
            }
            // A stale release has no effect. The comparison after this step checks that.
            State::Opened { .. } | State::Claiming { .. } | State::Ended => {
                assert_eq!(answer, None)
            }
        }
        self.end_connection(id);
    }

    fn revoke(&mut self, node: NodeId) {
        self.registry.revoked(self.now, node);
        let of_node: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, state)| match state {
                State::Claiming { node: of, .. } | State::Current { node: of, .. } => *of == node,
                State::Opened { .. } | State::Ended => false,
            })
            .map(|(id, _)| *id)
            .collect();
        for id in of_node {
            self.expect_evict(id, EvictReason::Revoked);
        }
        for command in self.flights_of(node) {
            self.expect_end(node, command, CommandEnd::Revoked);
        }
    }

    /// Another process claims the node. The notification may be late.
    fn supersede(&mut self, node: NodeId, late: u8) {
        let store = self.store_epochs.entry(node).or_insert(0);
        if late < 200 {
            *store += 1;
        }
        let epoch = Epoch(*store);
        let remembered = self.registry.remembers(node);
        self.registry.superseded(self.now, node, epoch);
        if !remembered || self.known.get(&node).is_some_and(|known| epoch <= *known) {
            return;
        }
        self.known.insert(node, epoch);
        if let Some((old, ..)) = self.current(node) {
            self.expect_evict(old, EvictReason::Replaced);
        }
        for command in self.flights_of(node) {
            self.expect_end(node, command, CommandEnd::Moved);
        }
    }

    fn malformed(&mut self, which: u8) {
        if let Some(id) = self.connection(which) {
            self.registry.malformed(id);
            self.dropped += 1;
        }
    }

    /// Advances the time. The next operation is handled before any deadline fires.
    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }
}
