//! The heartbeats of the servers that share the database: this server counts its own, and observes those of the others.
//! The rule that uses them is [`fleet_core::presence`].

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use fleet_core::{
    ReplicaId, limits,
    presence::{self, LastStream, ReplicaHeartbeat},
};

use crate::app::App;

/// How long a server must be stale before another one ends its work. A server whose database was away for a moment
/// continues by itself.
pub(crate) const STOPPED_AFTER: Duration = Duration::from_secs(10);

/// The heartbeats as this server has observed them.
#[derive(Debug)]
pub(crate) struct Replicas {
    own: ReplicaId,
    /// When this server began to observe.
    began: Instant,
    observed: Mutex<BTreeMap<ReplicaId, ReplicaHeartbeat>>,
}

impl Replicas {
    pub(crate) fn new(own: ReplicaId, now: Instant) -> Self {
        Self {
            own,
            began: now,
            observed: Mutex::default(),
        }
    }

    /// Whether the node with this stream is connected to any server.
    pub(crate) fn is_connected(&self, stream: Option<LastStream>, now: Instant) -> bool {
        let heartbeat = stream.and_then(|stream| self.heartbeat(stream.replica, now));
        presence::is_connected(stream, heartbeat, now)
    }

    /// How long the server that holds a stream has been stale; zero if it is live or the stream has ended.
    pub(crate) fn stale_for(&self, stream: Option<LastStream>, now: Instant) -> Duration {
        let Some(stream) = stream.filter(|stream| stream.ended_at.is_none()) else {
            return Duration::ZERO;
        };
        self.silent_for(stream.replica, now)
    }

    /// Whether a server has stopped: it was stale for [`STOPPED_AFTER`].
    pub(crate) fn has_stopped(&self, replica: ReplicaId, now: Instant) -> bool {
        self.silent_for(replica, now) >= STOPPED_AFTER
    }

    /// How long a server has been stale; zero if it is live.
    fn silent_for(&self, replica: ReplicaId, now: Instant) -> Duration {
        match self.heartbeat(replica, now) {
            Some(heartbeat) if heartbeat.is_live(now) => Duration::ZERO,
            Some(heartbeat) => now.saturating_duration_since(heartbeat.stale_since()),
            // It stopped before this server began.
            None => now.saturating_duration_since(self.began),
        }
    }

    /// The servers that are live, including this one.
    pub(crate) fn live(&self, now: Instant) -> Vec<ReplicaId> {
        let observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        let live = observed
            .iter()
            .filter(|(_, heartbeat)| heartbeat.is_live(now));
        let others = live.map(|(replica, _)| *replica);
        let others = others.filter(|replica| *replica != self.own);
        std::iter::once(self.own).chain(others).collect()
    }

    fn heartbeat(&self, replica: ReplicaId, now: Instant) -> Option<ReplicaHeartbeat> {
        if replica == self.own {
            return Some(ReplicaHeartbeat::own(now));
        }
        let observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        observed.get(&replica).copied()
    }

    fn observe(&self, counts: Vec<(ReplicaId, i64)>, now: Instant) {
        let mut observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        let next = counts.into_iter().map(|(replica, count)| {
            let known = observed.get(&replica);
            let heartbeat = known.map_or(ReplicaHeartbeat::first(count, now), |known| {
                known.next(count, now)
            });
            (replica, heartbeat)
        });
        *observed = next.collect();
    }
}

/// Counts and observes heartbeats until the server drains.
pub(crate) async fn run(app: Arc<App>) {
    let mut ticks = tokio::time::interval(limits::REPLICA_HEARTBEAT);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            () = app.drain.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let (key, now) = (app.forward_key.public(), app.environment.now());
        match app.store.count_heartbeat(app.replica, key, now).await {
            Ok(counts) => {
                app.replicas.observe(counts, app.environment.instant());
                failing = false;
            }
            // An outage of the database is logged once here, and every second by the readiness check.
            Err(error) if !std::mem::replace(&mut failing, true) => {
                tracing::warn!(%error, "the heartbeats of this server are not stored");
            }
            Err(_) => {}
        }
    }
}
