//! Whether a node is connected and whether it is online. The answers follow from the claim of the node's control
//! stream, the heartbeat of the server that holds it, and the time, so every server gives the same answer. Start with
//! [`is_connected`].

use std::time::{Duration, Instant};

use crate::{
    ReplicaId, Timestamp,
    limits::{NODE_OFFLINE, REPLICA_STALE},
};

/// The newest control stream of a node, as the database has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastStream {
    /// The server that holds or held it.
    pub replica: ReplicaId,
    /// When it ended. A server that is killed stores no end.
    pub ended_at: Option<Timestamp>,
}

/// The heartbeat of a server, as another server observes it.
///
/// Each server counts its heartbeats in the database. An observer dates every change of the count by its own monotonic
/// clock. The rule therefore holds although the clocks of servers differ and jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaHeartbeat {
    count: i64,
    /// When the observer read it first.
    observed_at: Instant,
    /// When the observer saw the count change.
    changed_at: Option<Instant>,
}

impl ReplicaHeartbeat {
    /// The first count that the observer reads. It does not show that the server runs, because it may be the last one
    /// before the server was killed.
    pub fn first(count: i64, now: Instant) -> Self {
        Self {
            count,
            observed_at: now,
            changed_at: None,
        }
    }

    /// A later count.
    #[must_use]
    pub fn next(self, count: i64, now: Instant) -> Self {
        if count == self.count {
            return self;
        }
        Self {
            count,
            changed_at: Some(now),
            ..self
        }
    }

    /// The heartbeat that the observer itself has: it runs.
    pub fn own(now: Instant) -> Self {
        Self {
            count: 0,
            observed_at: now,
            changed_at: Some(now),
        }
    }

    /// When a server that is not live any more was last able to hear of a node, as far as this observer knows.
    pub fn stale_since(self) -> Instant {
        self.changed_at.unwrap_or(self.observed_at) + REPLICA_STALE
    }

    /// Whether the count changed within [`REPLICA_STALE`]. A server that was killed or hangs is stale.
    pub fn is_live(self, now: Instant) -> bool {
        self.changed_at
            .is_some_and(|at| now.saturating_duration_since(at) < REPLICA_STALE)
    }
}

/// Whether a node is connected: its newest stream has not ended, and the server that holds it is live.
pub fn is_connected(
    stream: Option<LastStream>,
    heartbeat: Option<ReplicaHeartbeat>,
    now: Instant,
) -> bool {
    stream.is_some_and(|stream| stream.ended_at.is_none())
        && heartbeat.is_some_and(|heartbeat| heartbeat.is_live(now))
}

/// Whether a node is online: its last sign of life is within [`NODE_OFFLINE`], and it is connected or has sent a heartbeat
/// since its last stream ended. A server that is killed stores no end. Its streams end when it becomes stale: `stale_for`
/// is how long ago that was.
pub fn is_online(
    connected: bool,
    stream: Option<LastStream>,
    stale_for: Duration,
    last_seen: Option<Timestamp>,
    now: Timestamp,
) -> bool {
    let Some(seen) = last_seen.filter(|seen| now.since(*seen) <= NODE_OFFLINE) else {
        return false;
    };
    let is_after = |stream: LastStream| match stream.ended_at {
        Some(ended_at) => seen > ended_at,
        None => now.since(seen) < stale_for,
    };
    connected || stream.is_none_or(is_after)
}

/// Why a node is not connected, for people; empty if it is connected or never was. `ended` is why its last stream ended,
/// and `problem` why the node cannot open one, as it states in heartbeats.
pub fn why_disconnected(
    connected: bool,
    stream: Option<LastStream>,
    ended: Option<&str>,
    problem: Option<&str>,
) -> String {
    let ended = match stream {
        _ if connected => return String::new(),
        // The server stores a reason together with the end.
        Some(LastStream {
            ended_at: Some(_), ..
        }) => ended.unwrap_or("its control stream ended"),
        Some(LastStream { ended_at: None, .. }) => {
            "the server that held its control stream stopped or hangs"
        }
        None => "",
    };
    // The node's own statement is newer: heartbeats come after the end of the stream.
    problem.unwrap_or(ended).to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HELD: LastStream = LastStream {
        replica: ReplicaId([1; 16]),
        ended_at: None,
    };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(0).plus(Duration::from_secs(seconds))
    }

    #[test]
    fn a_node_is_connected_while_its_stream_is_held_by_a_live_server() {
        #[expect(clippy::disallowed_methods, reason = "the start of the test's clock")]
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let ended = LastStream {
            ended_at: Some(at(1)),
            ..HELD
        };
        let killed = ReplicaHeartbeat::first(7, start);
        let live = killed.next(8, after(500));
        for (stream, heartbeat, now, expected) in [
            (None, Some(live), 500, false),
            (Some(HELD), None, 500, false),
            (Some(HELD), Some(killed), 0, false),
            (Some(HELD), Some(killed.next(7, after(500))), 500, false),
            (Some(HELD), Some(live), 500, true),
            (Some(HELD), Some(live), 1_999, true),
            (Some(HELD), Some(live), 2_000, false),
            (Some(HELD), Some(live.next(8, after(1_900))), 2_000, false),
            (Some(HELD), Some(live.next(9, after(2_100))), 2_100, true),
            (Some(ended), Some(live), 500, false),
        ] {
            assert_eq!(
                is_connected(stream, heartbeat, after(now)),
                expected,
                "{stream:?} {heartbeat:?} after {now} ms"
            );
        }
    }

    #[test]
    fn a_node_is_online_while_it_is_connected_or_sends_heartbeats_after_its_stream() {
        let ended = LastStream {
            ended_at: Some(at(100)),
            ..HELD
        };
        for (connected, stream, stale_for, seen, now, expected) in [
            (true, Some(HELD), 0, Some(100), 100, true),
            (true, Some(HELD), 0, Some(100), 221, false),
            // The server was killed, and the node has not come to another one.
            (false, Some(HELD), 0, Some(100), 100, false),
            (false, Some(HELD), 20, Some(100), 120, false),
            // It sends heartbeats to another server, and cannot open a stream.
            (false, Some(HELD), 20, Some(101), 120, true),
            (false, Some(HELD), 200, Some(101), 222, false),
            // The node was stopped.
            (false, Some(ended), 0, Some(90), 100, false),
            (false, Some(ended), 90, Some(100), 100, false),
            // It lost its stream and still sends heartbeats.
            (false, Some(ended), 0, Some(101), 101, true),
            (false, Some(ended), 0, Some(101), 222, false),
            // It cannot open streams.
            (false, None, 0, Some(100), 120, true),
            (false, None, 0, None, 120, false),
        ] {
            let stale_for = Duration::from_secs(stale_for);
            assert_eq!(
                is_online(connected, stream, stale_for, seen.map(at), at(now)),
                expected,
                "{connected} {stream:?} seen at {seen:?}, now {now}"
            );
        }
    }

    #[test]
    fn a_node_that_is_not_connected_has_a_reason_once_it_was_connected() {
        let ended = LastStream {
            ended_at: Some(Timestamp::from_micros(1)),
            ..HELD
        };
        for (connected, stream, end, problem, expected) in [
            (true, Some(HELD), None, Some("HTTP/1.1"), ""),
            (false, None, None, None, ""),
            (false, None, None, Some("HTTP/1.1"), "HTTP/1.1"),
            (
                false,
                Some(ended),
                Some("node revoked"),
                None,
                "node revoked",
            ),
            (false, Some(ended), None, None, "its control stream ended"),
            (
                false,
                Some(ended),
                Some("lost"),
                Some("HTTP/1.1"),
                "HTTP/1.1",
            ),
            (
                false,
                Some(HELD),
                None,
                None,
                "the server that held its control stream stopped or hangs",
            ),
        ] {
            assert_eq!(
                why_disconnected(connected, stream, end, problem),
                expected,
                "{connected} {stream:?} {end:?} {problem:?}"
            );
        }
    }

    proptest! {
        #![proptest_config(crate::regressions!("presence"))]

        /// For all counts and reading times of an observer, a server is live exactly if its count changed within the last
        /// 1.5 s.
        #[test]
        fn a_server_is_live_exactly_while_its_count_changes(
            reads in prop::collection::vec((0_u64..700, any::<bool>()), 1..50),
            later in 0_u64..3_000,
        ) {
            #[expect(clippy::disallowed_methods, reason = "the start of the test's clock")]
            let start = Instant::now();
            let (mut millis, mut count, mut changed) = (0, 1, None);
            let mut heartbeat = ReplicaHeartbeat::first(count, start);
            for (pause, beats) in reads {
                millis += pause;
                if beats {
                    count += 1;
                    changed = Some(millis);
                }
                heartbeat = heartbeat.next(count, start + Duration::from_millis(millis));
            }
            let now = millis + later;
            let expected = changed.is_some_and(|at| now - at < 1_500);
            prop_assert_eq!(heartbeat.is_live(start + Duration::from_millis(now)), expected);
        }
    }
}
