//! Scenarios for the node's link.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use fleet_registry::{
    NodeLink,
    link::{
        Attempt, CancelReason, GoodbyeReason, HELLO_RUNNING, HandshakeFailure, HeartbeatFailure,
        Output, StopReason, StreamEnd, WireCommandId,
    },
};

use crate::{id, now};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// A node with a clock.
struct Node {
    link: NodeLink,
    now: Instant,
}

impl Node {
    fn new(seed: u64) -> Self {
        let mut link = NodeLink::new(seed);
        link.start();
        Self { link, now: now() }
    }

    /// A node whose first stream was accepted by a server of ours, and that stream.
    fn connected(seed: u64) -> (Self, Attempt) {
        let mut node = Self::new(seed);
        node.link.session_opened(node.now, DAY);
        node.link.accepted(node.now, Attempt(1), true);
        node.outputs();
        (node, Attempt(1))
    }

    /// Jumps from deadline to deadline and completes each request, until a stream is opened.
    fn reopened(&mut self) -> Attempt {
        loop {
            self.now = self
                .link
                .poll_timeout()
                .expect("something is due")
                .max(self.now);
            self.link.handle_timeout(self.now);
            for output in self.outputs() {
                match output {
                    Output::Handshake => self.link.session_opened(self.now, DAY),
                    Output::Heartbeat => self.link.heartbeat_done(self.now, Ok(())),
                    Output::OpenStream(attempt) => return attempt,
                    Output::CloseStream(_)
                    | Output::Start(_)
                    | Output::AckBusy { .. }
                    | Output::CancelScan { .. }
                    | Output::SendAck { .. }
                    | Output::Forget(_)
                    | Output::Stop(_) => {}
                }
            }
        }
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.link.poll_output()).collect()
    }
}

#[test]
fn starting_requests_a_session_a_stream_and_a_heartbeat() {
    let mut node = Node::new(1);
    assert_eq!(node.outputs(), [Output::Handshake]);
    node.link.session_opened(node.now, DAY);
    assert_eq!(node.outputs(), [Output::OpenStream(Attempt(1))]);
    node.link.handle_timeout(node.now);
    assert_eq!(node.outputs(), [Output::Heartbeat]);
}

#[test]
fn heartbeats_are_sent_every_30_s_and_never_overlap() {
    let (mut node, attempt) = Node::connected(1);
    for (sends, answered) in [
        (true, true),
        (true, true),
        (true, false),
        (false, true),
        (true, true),
    ] {
        node.link.handle_timeout(node.now);
        assert_eq!(node.outputs().contains(&Output::Heartbeat), sends);
        if answered {
            node.link.heartbeat_done(node.now, Ok(()));
        }
        node.link.message_received(node.now, attempt);
        node.now += 30 * SECOND;
        assert_eq!(node.link.poll_timeout(), Some(node.now));
    }
}

#[test]
fn a_changed_status_is_reported_at_once_and_again_until_it_arrives() {
    let (mut node, _) = Node::connected(1);
    let sends = |node: &mut Node| {
        node.link.handle_timeout(node.now);
        node.outputs().contains(&Output::Heartbeat)
    };
    assert!(sends(&mut node));
    node.link.heartbeat_done(node.now, Ok(()));
    node.now += SECOND;
    assert!(!sends(&mut node));
    node.link.status_changed(node.now);
    assert!(sends(&mut node));
    // It changes again while that heartbeat is on its way.
    node.link.status_changed(node.now);
    assert!(!sends(&mut node));
    node.link.heartbeat_done(node.now, Ok(()));
    assert!(sends(&mut node));
    node.link
        .heartbeat_done(node.now, Err(HeartbeatFailure::Other));
    assert!(!sends(&mut node));
    node.now += 2 * SECOND;
    assert!(sends(&mut node));
    node.link.heartbeat_done(node.now, Ok(()));
    node.now += 29 * SECOND;
    assert!(!sends(&mut node), "it has arrived");
    node.now += SECOND;
    assert!(sends(&mut node));
}

/// The delay before the next stream after `end`, as the first loss of a stable stream.
fn delay_after(seed: u64, end: StreamEnd) -> Duration {
    let (mut node, attempt) = Node::connected(seed);
    for _ in 0..4 {
        node.now += 29 * SECOND;
        node.link.message_received(node.now, attempt);
        node.link.handle_timeout(node.now);
    }
    node.link.stream_ended(node.now, attempt, end);
    node.outputs();
    let lost = node.now;
    node.reopened();
    node.now - lost
}

#[test]
fn each_end_of_a_stream_has_its_delay() {
    let hint = 90 * SECOND;
    for (end, least, most) in [
        (StreamEnd::Lost, 0, 10_000),
        (StreamEnd::NotActive, 1_000, 1_500),
        (StreamEnd::Limited { retry_after: hint }, 90_000, 99_000),
        (StreamEnd::Unimplemented, 300_000, 600_000),
        (StreamEnd::Unauthenticated, 0, 4_000),
    ] {
        let delays: Vec<_> = (0..200)
            .map(|seed| delay_after(seed, end).as_millis())
            .collect();
        assert!(
            delays.iter().all(|d| (least..=most).contains(d)),
            "{end:?}: {delays:?}"
        );
        // The delays must be spread: many nodes must not reconnect in the same tenth of the window.
        let tenth = (most - least) / 10;
        let tenths: BTreeSet<_> = delays.iter().map(|d| (d - least) / tenth.max(1)).collect();
        assert!(tenths.len() >= 8, "{end:?}: {tenths:?}");
    }
}

#[test]
fn the_reconnect_bound_doubles_and_resets_after_30_stable_seconds() {
    let mut longest = [Duration::ZERO; 5];
    for seed in 0..300 {
        let mut node = Node::new(seed);
        node.link.session_opened(node.now, DAY);
        node.outputs();
        let mut attempt = Attempt(1);
        for longest in &mut longest {
            node.link.stream_ended(node.now, attempt, StreamEnd::Lost);
            let lost = node.now;
            attempt = node.reopened();
            *longest = (*longest).max(node.now - lost);
        }
        node.link.accepted(node.now, attempt, true);
        node.now += 30 * SECOND;
        node.link.handle_timeout(node.now);
        node.link.stream_ended(node.now, attempt, StreamEnd::Lost);
        let lost = node.now;
        node.reopened();
        assert!(node.now - lost <= 10 * SECOND);
    }
    for (seen, ceiling) in longest.into_iter().zip([4, 8, 16, 30, 30]) {
        let ceiling = ceiling * SECOND;
        assert!(seen <= ceiling && seen > ceiling * 9 / 10, "{longest:?}");
    }
}

#[test]
fn a_goodbye_sets_the_exact_reconnect_time() {
    let (mut node, attempt) = Node::connected(3);
    let slot = Some(7 * SECOND);
    node.link
        .goodbye(node.now, attempt, GoodbyeReason::Drain, slot);
    assert_eq!(node.outputs(), [Output::CloseStream(attempt)]);
    // Messages of the closed stream have no effect.
    node.link
        .stream_ended(node.now, attempt, StreamEnd::NodeUnknown);
    let goodbye_at = node.now;
    assert_eq!(node.reopened(), Attempt(2));
    assert_eq!(node.now - goodbye_at, 7 * SECOND);
}

#[test]
fn a_stream_is_lost_after_90_silent_seconds() {
    let (mut node, attempt) = Node::connected(4);
    node.now += 89 * SECOND;
    node.link.message_received(node.now, attempt);
    node.now += 89 * SECOND;
    node.link.handle_timeout(node.now);
    assert!(node.link.is_connected());
    node.now += SECOND;
    node.link.handle_timeout(node.now);
    assert!(node.outputs().contains(&Output::CloseStream(attempt)));
    assert!(!node.link.is_connected());
}

#[test]
fn a_stream_whose_hello_is_not_answered_is_given_up_within_35_seconds() {
    let mut node = Node::new(4);
    node.link.session_opened(node.now, DAY);
    let attempt = Attempt(1);
    assert!(node.outputs().contains(&Output::OpenStream(attempt)));
    let closed = Output::CloseStream(attempt);
    node.now += 34 * SECOND;
    node.link.handle_timeout(node.now);
    assert!(!node.outputs().contains(&closed));
    node.now += SECOND;
    node.link.handle_timeout(node.now);
    assert!(node.outputs().contains(&closed));
}

#[test]
fn final_failures_stop_the_node_with_advice_and_no_output_follows() {
    type Event = fn(&mut Node, Attempt);
    let table: [(Event, StopReason); 4] = [
        (
            |node, at| node.link.stream_ended(node.now, at, StreamEnd::NodeUnknown),
            StopReason::NodeUnknown,
        ),
        (
            |node, at| {
                let reason = GoodbyeReason::Revoked;
                node.link.goodbye(node.now, at, reason, None);
            },
            StopReason::Revoked,
        ),
        (
            |node, _| {
                node.link.handle_timeout(node.now);
                let unknown = Err(HeartbeatFailure::NodeUnknown);
                node.link.heartbeat_done(node.now, unknown);
            },
            StopReason::NodeUnknown,
        ),
        (
            |node, _| {
                node.link
                    .handshake_failed(node.now, HandshakeFailure::KeyRefused)
            },
            StopReason::KeyRefused,
        ),
    ];
    for (event, reason) in table {
        let (mut node, attempt) = Node::connected(5);
        node.link.command(node.now, attempt, id("one"));
        event(&mut node, attempt);
        let outputs = node.outputs();
        assert_eq!(outputs.last(), Some(&Output::Stop(reason)));
        assert!(outputs.contains(&Output::CancelScan {
            command: id("one"),
            reason: CancelReason::Stopping
        }));
        assert!(reason.to_string().contains("enroll"));
        node.link.session_opened(node.now, DAY);
        node.link.accepted(node.now, attempt, true);
        node.link.command(node.now, attempt, id("two"));
        node.link.finished(node.now, &id("one"));
        assert_eq!((node.outputs(), node.link.poll_timeout()), (vec![], None));
    }
}

#[test]
fn a_session_is_refreshed_in_its_last_hour_and_survives_a_failed_refresh() {
    for seed in 0..100 {
        let (mut node, attempt) = Node::connected(seed);
        let opened = node.now;
        let mut asked = None;
        while asked.is_none() {
            node.now = node.link.poll_timeout().expect("something is due");
            node.link.message_received(node.now, attempt);
            node.link.handle_timeout(node.now);
            for output in node.outputs() {
                if output == Output::Heartbeat {
                    node.link.heartbeat_done(node.now, Ok(()));
                } else if output == Output::Handshake {
                    asked = Some(node.now - opened);
                }
            }
        }
        let hour = 3_600 * SECOND;
        assert!(
            asked >= Some(DAY - hour) && asked <= Some(DAY - hour / 2),
            "{asked:?}"
        );
        node.link
            .handshake_failed(node.now, HandshakeFailure::Other);
        assert!(node.link.is_connected() && node.link.has_session());
        node.now += 30 * SECOND;
        node.link.handle_timeout(node.now);
        let outputs = node.outputs();
        assert!(outputs.contains(&Output::Heartbeat) && outputs.contains(&Output::Handshake));
    }
}

#[test]
fn a_rejection_of_an_old_session_does_not_end_the_new_one() {
    let (mut node, _) = Node::connected(6);
    node.link.handle_timeout(node.now);
    assert_eq!(node.outputs(), [Output::Heartbeat]);
    node.link.session_opened(node.now, DAY);
    let refused = Err(HeartbeatFailure::Unauthenticated);
    node.link.heartbeat_done(node.now, refused);
    assert!(node.link.has_session());
    node.link.handle_timeout(node.now);
    node.link.heartbeat_done(node.now, refused);
    assert!(!node.link.has_session());
}

#[test]
fn one_command_runs_another_is_busy_and_a_repeated_one_has_no_effect() {
    let (mut node, attempt) = Node::connected(7);
    for command in ["one", "one", "two"] {
        node.link.command(node.now, attempt, id(command));
    }
    let command = id("two");
    assert_eq!(
        node.outputs(),
        [
            Output::Start(id("one")),
            Output::AckBusy { attempt, command }
        ]
    );
}

#[test]
fn a_running_command_and_an_unconfirmed_ack_survive_the_stream() {
    let (mut node, first) = Node::connected(8);
    node.link.command(node.now, first, id("one"));
    node.link.finished(node.now, &id("one"));
    let send = |attempt| Output::SendAck {
        attempt,
        command: id("one"),
    };
    assert_eq!(node.outputs(), [Output::Start(id("one")), send(first)]);
    node.link.stream_ended(node.now, first, StreamEnd::Lost);
    let second = node.reopened();
    assert_eq!(node.link.hello_running().collect::<Vec<_>>(), [&id("one")]);
    node.link.accepted(node.now, second, true);
    assert_eq!(node.outputs(), [send(second)]);
    // A new command proves that the server has the ack.
    node.link.command(node.now, second, id("two"));
    assert_eq!(
        node.outputs(),
        [Output::Forget(id("one")), Output::Start(id("two"))]
    );
    node.link.stream_ended(node.now, second, StreamEnd::Lost);
    node.link.finished(node.now, &id("two"));
    assert_eq!(node.outputs(), [], "there is no stream to send it on");
    let third = node.reopened();
    node.link.accepted(node.now, third, true);
    let command = id("two");
    let attempt = third;
    assert_eq!(node.outputs(), [Output::SendAck { attempt, command }]);
}

#[test]
fn an_upstream_server_gets_no_ack_of_a_command_from_an_earlier_stream() {
    let (mut node, first) = Node::connected(9);
    node.link.command(node.now, first, id("one"));
    node.link.finished(node.now, &id("one"));
    node.link.command(node.now, first, id("two"));
    node.outputs();
    node.link.stream_ended(node.now, first, StreamEnd::Lost);
    let second = node.reopened();
    node.link.accepted(node.now, second, false);
    let (command, reason) = (id("two"), CancelReason::Abandoned);
    assert_eq!(node.outputs(), [Output::CancelScan { command, reason }]);
    node.link.finished(node.now, &id("two"));
    assert_eq!(node.outputs(), [Output::Forget(id("two"))]);
}

#[test]
fn hello_lists_at_most_its_limit() {
    let (mut node, mut attempt) = Node::connected(10);
    for number in 0..100 {
        // No ack counts as delivered, because the stream breaks after each command.
        let command = id(&format!("command-{number}"));
        node.link.command(node.now, attempt, command.clone());
        node.link.stream_ended(node.now, attempt, StreamEnd::Lost);
        node.link.finished(node.now, &command);
        attempt = node.reopened();
        assert!(node.link.hello_running().count() <= HELLO_RUNNING);
        node.link.accepted(node.now, attempt, true);
        node.link.stream_ended(node.now, attempt, StreamEnd::Lost);
        attempt = node.reopened();
        node.link.accepted(node.now, attempt, true);
    }
}

#[test]
fn command_ids_have_one_to_128_characters() {
    for (length, fits) in [(0, false), (1, true), (128, true), (129, false)] {
        assert_eq!(
            WireCommandId::new(&"ü".repeat(length)).is_ok(),
            fits,
            "{length}"
        );
    }
}
