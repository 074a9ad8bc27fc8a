//! Scenarios for the registry.

use std::time::{Duration, Instant};

use fleet_core::{
    CommandId, ConnectionId, Epoch, NodeId, Priority, Timestamp, limits::HELLO_TIMEOUT,
};
use fleet_registry::{
    Announced, Capabilities, Registry,
    registry::{
        Admission, Adopted, Claim, CommandEnd, CommandProgress, DispatchRefused, Dropped,
        EvictReason, OVERDUE_EVERY, OpenRefused, Output, RegistryLimits, Standing,
    },
};

use crate::now;

const NODE: NodeId = NodeId(1);
const SECOND: Duration = Duration::from_secs(1);

/// A server process with a clock and a store that grants every claim.
struct Server {
    registry: Registry,
    now: Instant,
    connections: u64,
    epoch: i64,
}

fn server() -> Server {
    Server {
        registry: Registry::new(RegistryLimits::default()),
        now: now(),
        connections: 0,
        epoch: 0,
    }
}

fn ours() -> Announced {
    Announced::new(Capabilities::all(), 0, 0)
}

fn command(number: u8) -> CommandId {
    CommandId::new(Timestamp::from_micros(0), [number; 10])
}

impl Server {
    fn open(&mut self) -> ConnectionId {
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        assert_eq!(self.registry.opened(self.now, connection), Ok(()));
        connection
    }

    fn admit(&mut self, connection: ConnectionId) -> Admission {
        self.registry.admit(self.now, connection, NODE)
    }

    fn claim(&mut self, announced: Announced, adopted: &[Adopted]) -> Claim {
        self.epoch += 1;
        Claim {
            epoch: Epoch(self.epoch),
            announced,
            adopted: adopted.to_vec(),
        }
    }

    /// Opens, admits and claims a stream.
    fn connect(&mut self, announced: Announced, adopted: &[Adopted]) -> ConnectionId {
        let connection = self.open();
        assert_eq!(self.admit(connection), Admission::Proceed);
        let claim = self.claim(announced, adopted);
        let standing = self.registry.connected(self.now, NODE, connection, claim);
        assert_eq!(standing, Standing::Current);
        connection
    }

    fn dispatch(&mut self, number: u8) -> Result<ConnectionId, DispatchRefused> {
        let deadline = self.now + 720 * SECOND;
        let epoch = Epoch(self.epoch);
        self.registry.dispatched(
            NODE,
            epoch,
            command(number),
            Priority::Interactive,
            deadline,
        )
    }

    fn adopted(&self, number: u8) -> Adopted {
        Adopted {
            command: command(number),
            priority: Priority::Interactive,
            deadline: self.now + 720 * SECOND,
            canceled: false,
        }
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.registry.poll_output()).collect()
    }

    fn ended(&mut self) -> Vec<(CommandId, CommandEnd)> {
        let ended = |output| match output {
            Output::Ended { command, end, .. } => Some((command, end)),
            Output::Accepted { .. }
            | Output::Evict { .. }
            | Output::Goodbye { .. }
            | Output::SendCancel { .. }
            | Output::Adopted { .. }
            | Output::Overdue { .. }
            | Output::Ready { .. } => None,
        };
        self.outputs().into_iter().filter_map(ended).collect()
    }
}

#[test]
fn the_newest_stream_wins_and_the_older_one_is_notified() {
    let mut server = server();
    let old = server.connect(ours(), &[]);
    server.outputs();
    let new = server.connect(ours(), &[]);
    let epoch = Epoch(2);
    assert_eq!(
        server.outputs(),
        [
            Output::Evict {
                connection: old,
                reason: EvictReason::Replaced,
                retry_after: None,
                goodbye: true,
            },
            Output::Accepted {
                connection: new,
                epoch
            },
            Output::Ready { node: NODE, epoch },
        ]
    );
}

#[test]
fn a_stale_release_changes_nothing() {
    let mut server = server();
    let old = server.connect(ours(), &[]);
    let new = server.connect(ours(), &[]);
    assert_eq!(server.registry.closed(server.now, old), None);
    assert_eq!(server.registry.current(NODE).map(|(c, _)| c), Some(new));
    let released = server.registry.closed(server.now, new);
    assert_eq!(released.map(|r| r.epoch), Some(Epoch(2)));
    assert_eq!(server.registry.closed(server.now, new), None);
}

#[test]
fn of_two_concurrent_claims_the_higher_epoch_wins() {
    let mut server = server();
    let (first, second) = (server.open(), server.open());
    assert_eq!(server.admit(first), Admission::Proceed);
    assert_eq!(server.admit(second), Admission::Proceed);
    let (earlier, later) = (server.claim(ours(), &[]), server.claim(ours(), &[]));
    let registry = &mut server.registry;
    assert_eq!(
        registry.connected(server.now, NODE, second, later),
        Standing::Current
    );
    assert_eq!(
        registry.connected(server.now, NODE, first, earlier),
        Standing::Fenced
    );
    assert_eq!(registry.current(NODE).map(|(c, _)| c), Some(second));
    assert_eq!(registry.epoch(NODE), Some(Epoch(2)));
}

#[test]
fn a_claim_whose_stream_has_ended_still_fences_the_older_one() {
    let mut server = server();
    let old = server.connect(ours(), &[]);
    let dead = server.open();
    assert_eq!(server.admit(dead), Admission::Proceed);
    let claim = server.claim(ours(), &[]);
    assert_eq!(server.registry.closed(server.now, dead), None);
    let standing = server.registry.connected(server.now, NODE, dead, claim);
    assert_eq!(standing, Standing::Gone);
    assert_eq!(server.registry.current(NODE), None);
    assert_eq!(
        server.registry.ack(server.now, old, command(1)),
        Err(Dropped::NotCurrent)
    );
}

#[test]
fn an_ack_received_at_its_deadline_counts() {
    let mut server = server();
    let connection = server.connect(ours(), &[]);
    server.dispatch(1).expect("the slot is free");
    server.now += 720 * SECOND;
    // The deadline is due, but received messages are handled first.
    let acked = server.registry.ack(server.now, connection, command(1));
    assert_eq!(acked, Ok(NODE));
    server.registry.handle_timeout(server.now);
    assert_eq!(server.ended(), [(command(1), CommandEnd::Acked)]);
}

#[test]
fn an_overdue_command_is_reported_until_the_store_ends_it_and_a_late_ack_is_counted() {
    let mut server = server();
    let connection = server.connect(ours(), &[]);
    server.dispatch(1).expect("the slot is free");
    server.outputs();
    let overdue = |output: &Output| matches!(output, Output::Overdue { .. });
    server.now += 720 * SECOND;
    server.registry.handle_timeout(server.now);
    server.registry.handle_timeout(server.now);
    assert_eq!(server.outputs().iter().filter(|o| overdue(o)).count(), 1);
    assert!(!server.registry.can_dispatch(NODE), "the store decides");
    server.now += OVERDUE_EVERY;
    server.registry.handle_timeout(server.now);
    assert_eq!(server.outputs().iter().filter(|o| overdue(o)).count(), 1);
    server.registry.ended(server.now, NODE, command(1));
    server.registry.ended(server.now, NODE, command(1));
    assert_eq!(server.ended(), [(command(1), CommandEnd::Stored)]);
    assert_eq!(
        server.registry.ack(server.now, connection, command(1)),
        Err(Dropped::NotInFlight(command(1)))
    );
    let counts = server.registry.dropped_of(connection);
    assert_eq!(counts.map(|c| c.not_in_flight), Some(1));
}

#[test]
fn a_node_runs_one_command_at_a_time() {
    let mut server = server();
    let connection = server.connect(ours(), &[]);
    assert_eq!(server.dispatch(1), Ok(connection));
    assert!(!server.registry.can_dispatch(NODE));
    let (node, busy) = (NODE, command(1));
    assert_eq!(
        server.dispatch(2),
        Err(DispatchRefused::Busy {
            node,
            command: busy
        })
    );
    server.outputs();
    assert_eq!(server.registry.ack(server.now, connection, busy), Ok(NODE));
    assert!(server.outputs().contains(&Output::Ready {
        node,
        epoch: Epoch(1)
    }));
    assert_eq!(server.dispatch(2), Ok(connection));
}

#[test]
fn a_command_issued_under_an_older_epoch_is_not_sent() {
    let mut server = server();
    server.connect(ours(), &[]);
    server.connect(ours(), &[]);
    server.epoch = 1;
    assert_eq!(
        server.dispatch(1),
        Err(DispatchRefused::StaleEpoch {
            node: NODE,
            issued: Epoch(1),
            current: Epoch(2)
        })
    );
}

#[test]
fn a_command_survives_its_stream_if_the_node_still_runs_it() {
    let mut server = server();
    let old = server.connect(ours(), &[]);
    server.dispatch(1).expect("the slot is free");
    server.registry.closed(server.now, old);
    assert_eq!(server.ended(), []);
    let adopted = server.adopted(1);
    let new = server.connect(ours(), &[adopted]);
    assert!(server.outputs().contains(&Output::Adopted {
        node: NODE,
        command: command(1)
    }));
    assert!(!server.registry.can_dispatch(NODE));
    assert_eq!(server.registry.ack(server.now, new, command(1)), Ok(NODE));
}

#[test]
fn a_command_that_the_node_omits_is_lost() {
    let mut server = server();
    server.connect(Announced::UPSTREAM, &[]);
    server.dispatch(1).expect("the slot is free");
    server.connect(Announced::UPSTREAM, &[]);
    assert_eq!(server.ended(), [(command(1), CommandEnd::Lost)]);
    assert!(server.registry.can_dispatch(NODE));
}

#[test]
fn a_concurrent_claim_does_not_revive_an_acknowledged_command() {
    let mut server = server();
    let old = server.connect(ours(), &[]);
    server.dispatch(1).expect("the slot is free");
    let new = server.open();
    assert_eq!(server.admit(new), Admission::Proceed);
    let adopted = server.adopted(1);
    let claim = server.claim(ours(), &[adopted]);
    assert_eq!(server.registry.ack(server.now, old, command(1)), Ok(NODE));
    let standing = server.registry.connected(server.now, NODE, new, claim);
    assert_eq!(standing, Standing::Current);
    assert_eq!(server.ended(), [(command(1), CommandEnd::Acked)]);
    assert!(server.registry.can_dispatch(NODE));
}

#[test]
fn a_cancel_is_sent_once_to_a_capable_node_and_again_after_its_reconnect() {
    let mut server = server();
    let old = server.connect(ours(), &[]);
    server.dispatch(1).expect("the slot is free");
    server.outputs();
    server.registry.cancel(NODE, command(1));
    server.registry.cancel(NODE, command(1));
    let expected = |connection| Output::SendCancel {
        connection,
        command: command(1),
    };
    assert_eq!(server.outputs(), [expected(old)]);
    assert!(!server.registry.can_dispatch(NODE), "it keeps the permit");
    let adopted = server.adopted(1);
    let new = server.connect(ours(), &[adopted]);
    assert!(server.outputs().contains(&expected(new)));
}

#[test]
fn an_upstream_node_gets_no_cancel_and_keeps_the_permit_until_the_store_ends_it() {
    let mut server = server();
    server.connect(Announced::UPSTREAM, &[]);
    server.dispatch(1).expect("the slot is free");
    server.outputs();
    server.registry.cancel(NODE, command(1));
    assert_eq!(server.outputs(), []);
    assert!(!server.registry.can_dispatch(NODE));
    server.registry.ended(server.now, NODE, command(1));
    assert_eq!(server.ended(), [(command(1), CommandEnd::Stored)]);
    assert!(server.registry.can_dispatch(NODE));
}

#[test]
fn revoking_ends_streams_claims_and_commands_at_once() {
    let mut server = server();
    let current = server.connect(ours(), &[]);
    server.dispatch(1).expect("the slot is free");
    let claiming = server.open();
    assert_eq!(server.admit(claiming), Admission::Proceed);
    server.outputs();
    server.registry.revoked(server.now, NODE);
    let evicted = |connection, goodbye| Output::Evict {
        connection,
        reason: EvictReason::Revoked,
        retry_after: None,
        goodbye,
    };
    assert_eq!(
        server.outputs(),
        [
            evicted(claiming, false),
            evicted(current, true),
            Output::Ended {
                node: NODE,
                command: command(1),
                end: CommandEnd::Revoked
            },
        ]
    );
}

#[test]
fn a_node_claimed_by_another_server_leaves_this_one() {
    let mut server = server();
    server.connect(ours(), &[]);
    server.dispatch(1).expect("the slot is free");
    server.registry.superseded(server.now, NODE, Epoch(1));
    assert!(
        server.registry.current(NODE).is_some(),
        "that is its own epoch"
    );
    server.registry.superseded(server.now, NODE, Epoch(7));
    assert_eq!(server.registry.current(NODE), None);
    assert_eq!(server.ended(), [(command(1), CommandEnd::Moved)]);
}

#[test]
fn a_stream_without_hello_is_ended_after_five_seconds() {
    let mut server = server();
    let connection = server.open();
    assert_eq!(
        server.registry.poll_timeout(),
        Some(server.now + HELLO_TIMEOUT)
    );
    server.now += HELLO_TIMEOUT;
    server.registry.handle_timeout(server.now);
    let reason = EvictReason::NoHello;
    assert_eq!(
        server.outputs(),
        [Output::Evict {
            connection,
            reason,
            retry_after: None,
            goodbye: false
        }]
    );
    assert_eq!(server.admit(connection), Admission::Gone);
}

#[test]
fn a_liveness_signal_is_sent_every_30_s() {
    let mut server = server();
    let connection = server.connect(ours(), &[]);
    server.outputs();
    let epoch = Epoch(1);
    for _ in 0..3 {
        let at = server.registry.poll_timeout().expect("it is scheduled");
        assert_eq!(at, server.now + 30 * SECOND);
        server.now = at;
        server.registry.handle_timeout(at);
        assert_eq!(server.outputs(), [Output::Accepted { connection, epoch }]);
    }
    // After a long pause of the process, one is enough.
    server.now += 3_600 * SECOND;
    server.registry.handle_timeout(server.now);
    assert_eq!(server.outputs().len(), 1);
}

#[test]
fn a_drain_spreads_the_nodes_evenly_over_its_window() {
    let (mut server, nodes) = (server(), 200_u32);
    let window = 20 * SECOND;
    for node in 0..i64::from(nodes) {
        let connection = server.open();
        let node = NodeId(node);
        let admitted = server.registry.admit(server.now, connection, node);
        assert_eq!(admitted, Admission::Proceed);
        let claim = server.claim(ours(), &[]);
        let standing = server
            .registry
            .connected(server.now, node, connection, claim);
        assert_eq!(standing, Standing::Current);
    }
    server.outputs();
    server.registry.drain(server.now, window, 42);
    server.registry.drain(server.now, window, 43);
    let mut a_second = [0_u32; 20];
    let outputs = server.outputs();
    assert_eq!(outputs.len(), 200);
    for output in outputs {
        let Output::Goodbye { retry_after, .. } = output else {
            panic!("{output:?}");
        };
        let second = usize::try_from(retry_after.as_secs()).expect("it is small");
        a_second[second.min(19)] += 1;
    }
    assert!(a_second.iter().all(|count| *count == 10), "{a_second:?}");
    assert!(!server.registry.can_dispatch(NODE));
    assert!(matches!(
        server.registry.opened(server.now, ConnectionId(999)),
        Err(OpenRefused::Draining { retry_after }) if retry_after <= window
    ));
}

#[test]
fn progress_never_decreases_and_is_forwarded_five_times_per_second() {
    let mut server = server();
    let connection = server.connect(ours(), &[]);
    server.dispatch(1).expect("the permit is free");
    let mut report = |after_ms, done, total| {
        server.now += Duration::from_millis(after_ms);
        let reported = CommandProgress { done, total };
        let answer = server
            .registry
            .progress(server.now, connection, command(1), reported);
        answer.expect("it is in flight")
    };
    let expected = |done, total| Some(CommandProgress { done, total });
    assert_eq!(report(0, 10, 100), expected(10, 100));
    assert_eq!(report(199, 20, 100), None);
    assert_eq!(report(1, 15, 100), expected(20, 100));
    assert_eq!(report(200, 900, 50), expected(100, 100));
}

#[test]
fn a_full_process_rejects_streams_and_evicts_the_longest_idle_node() {
    let mut server = server();
    server.registry = Registry::new(RegistryLimits {
        connections: 2,
        nodes: 2,
    });
    let admit = |server: &mut Server, connection, node| {
        server.registry.admit(server.now, connection, NodeId(node))
    };
    for node in [1, 2] {
        let connection = server.open();
        assert_eq!(admit(&mut server, connection, node), Admission::Proceed);
        server.registry.closed(server.now, connection);
        server.now += SECOND;
    }
    let (one, two) = (server.open(), server.open());
    assert_eq!(
        server.registry.opened(server.now, ConnectionId(99)),
        Err(OpenRefused::TooMany(2))
    );
    assert_eq!(admit(&mut server, one, 3), Admission::Proceed);
    assert!(!server.registry.remembers(NodeId(1)));
    assert!(server.registry.remembers(NodeId(2)));
    assert_eq!(admit(&mut server, two, 2), Admission::Proceed);
    assert!(server.registry.is_consistent());
}
