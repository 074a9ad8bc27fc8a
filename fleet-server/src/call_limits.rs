//! Limits of concurrent calls per caller, over all of its connections. A connection says nothing about a caller: a proxy
//! carries the calls of many nodes on one connection, and one hostile node can open many connections.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fleet_core::{NodeId, OperatorId, OrgId};
use fleet_wire::RpcError;
use tokio::sync::OwnedMutexGuard;

use crate::key_slots::Slot;

/// Concurrent calls of a node. It needs its stream, an older stream that ends, a heartbeat, and a few reports.
pub(crate) const CALLS_OF_A_NODE: usize = 16;
/// Concurrent calls of an operator that are no streams. The database has 16 connections for all, and a call takes a few
/// milliseconds of one.
const CALLS_OF_AN_OPERATOR: usize = 64;
/// Concurrent streams of an operator: watches of open pages, and scans and pairings that are followed.
const STREAMS_OF_AN_OPERATOR: usize = 256;
/// Concurrent streams of all operators of an organization.
const STREAMS_OF_AN_ORG: usize = 1_024;
/// Concurrent control streams of an organization's nodes: half as many as there are connections.
const NODE_STREAMS_OF_AN_ORG: usize = 10_000;
/// Concurrent calls without a credential from one source. A site may have one address for hundreds of nodes.
const CALLS_OF_A_SOURCE: usize = 512;
/// When a refused call may be retried.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Time between two refusals of one caller. A caller that retries at once on many connections would otherwise take the
/// processors with refusals alone: each costs as much as a small call.
const REFUSAL_INTERVAL: Duration = Duration::from_millis(50);
/// The most callers whose refusals wait at a time. Refusals of further ones do not wait.
const REFUSED_CALLERS: usize = 16_384;
/// The longest wait of a refusal. Clients wait longer for an answer.
const REFUSAL_WAIT: Duration = Duration::from_secs(10);

/// The identity by which calls are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum CallerId {
    Node(NodeId),
    Operator(OperatorId),
    /// A caller without a credential.
    Source(IpAddr),
}

/// The caller whose refusals are spread over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RefusedCaller {
    /// A caller beyond its limits.
    Known(CallerId),
    /// The hash of a credential that is not looked up, because too many calls present it.
    Credential([u8; 32]),
}

impl From<CallerId> for RefusedCaller {
    fn from(caller: CallerId) -> Self {
        Self::Known(caller)
    }
}

/// A call to be counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CountedCall {
    pub(crate) caller: CallerId,
    /// None for a caller without a credential.
    pub(crate) org: Option<OrgId>,
    /// Whether the call stays open, as watches do.
    pub(crate) is_stream: bool,
}

/// The callers with calls in progress.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallLimits(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    callers: BTreeMap<CallerId, Active>,
    /// Streams of an organization: of its nodes (true), and of its operators.
    streams: BTreeMap<(OrgId, bool), usize>,
    /// When the next refusal of a caller is due. Callers whose time has passed are removed.
    refusals: BTreeMap<RefusedCaller, Instant>,
}

#[derive(Debug, Default)]
struct Active {
    calls: usize,
    streams: usize,
    /// Held by the report that is read and stored.
    reporting: Arc<tokio::sync::Mutex<()>>,
    /// Held by the heartbeat that is stored.
    beating: Arc<tokio::sync::Mutex<()>>,
}

/// A counted call. The call ends when the last clone of its permit is dropped.
#[derive(Debug)]
pub(crate) struct CallPermit {
    limits: CallLimits,
    call: CountedCall,
    /// Dropped with the permit, at the end of the response.
    held: Mutex<Option<Slot<OrgId>>>,
}

impl CallLimits {
    /// Counts a call until the permit is dropped.
    ///
    /// # Errors
    ///
    /// RESOURCE_EXHAUSTED with a retry hint when the caller, or its organization, has as many calls as it may.
    pub(crate) fn acquire(&self, call: CountedCall) -> Result<Arc<CallPermit>, RpcError> {
        let (most, streams, name) = match call.caller {
            // The hub limits the streams of a node.
            CallerId::Node(_) => (CALLS_OF_A_NODE, CALLS_OF_A_NODE, "a node"),
            CallerId::Operator(_) => (CALLS_OF_AN_OPERATOR, STREAMS_OF_AN_OPERATOR, "an operator"),
            CallerId::Source(_) => (CALLS_OF_A_SOURCE, CALLS_OF_A_SOURCE, "an address"),
        };
        let of_org = call.streams_of_org();
        let mut counts = self.lock();
        let active = counts.callers.get(&call.caller);
        let (calls, open) = active.map_or((0, 0), |active| (active.calls, active.streams));
        let counted = match call.caller {
            // Their streams have a limit of their own.
            CallerId::Operator(_) if call.is_stream => 0,
            CallerId::Operator(_) => calls.saturating_sub(open),
            CallerId::Node(_) | CallerId::Source(_) => calls,
        };
        if counted >= most {
            let text = format!("{name} may have {most} calls at a time");
            return Err(refusal(&text, most));
        }
        if call.is_stream && open >= streams {
            let text = format!("{name} may have {streams} streams open at a time");
            return Err(refusal(&text, streams));
        }
        if let Some((key, most)) = of_org {
            let open = counts.streams.entry(key).or_default();
            if *open >= most {
                let text = format!("an organization may have {most} such streams open at a time");
                return Err(refusal(&text, most));
            }
            *open += 1;
        }
        let active = counts.callers.entry(call.caller).or_default();
        active.calls += 1;
        active.streams += usize::from(call.is_stream);
        Ok(Arc::new(CallPermit {
            limits: self.clone(),
            call,
            held: Mutex::default(),
        }))
    }

    /// Returns how long the refusal of a caller must wait. The first one does not wait.
    pub(crate) fn refusal_wait(&self, caller: impl Into<RefusedCaller>, now: Instant) -> Duration {
        let caller = caller.into();
        let refusals = &mut self.lock().refusals;
        refusals.retain(|_, due| *due > now);
        if refusals.len() >= REFUSED_CALLERS {
            return Duration::ZERO;
        }
        let due = refusals
            .get(&caller)
            .map_or(now, |due| (*due).min(now + REFUSAL_WAIT));
        refusals.insert(caller, due + REFUSAL_INTERVAL);
        due.saturating_duration_since(now)
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The refusal of a caller that has as many calls in progress as it may.
pub(crate) fn refusal(text: &str, limit: usize) -> RpcError {
    RpcError::resource_exhausted(format!("{text}: wait for one to end"))
        .with_reason("TOO_MANY_CALLS")
        .with_fact("limit", limit)
        .with_retry_after(RETRY_AFTER)
}

impl CountedCall {
    /// The counter of its organization's streams and its limit, if this is a stream.
    fn streams_of_org(&self) -> Option<((OrgId, bool), usize)> {
        let org = self.org.filter(|_| self.is_stream)?;
        match self.caller {
            CallerId::Node(_) => Some(((org, true), NODE_STREAMS_OF_AN_ORG)),
            CallerId::Operator(_) => Some(((org, false), STREAMS_OF_AN_ORG)),
            CallerId::Source(_) => None,
        }
    }
}

impl CallPermit {
    /// Waits until no other report of this caller is read or stored. Without this, the reports of one node could take
    /// every connection of the database pool, and as much memory as they have bytes.
    pub(crate) async fn reporting(&self) -> OwnedMutexGuard<()> {
        self.exclusive(|active| &active.reporting).await
    }

    /// Waits until no other heartbeat of this caller is stored. Heartbeats do not wait for reports, because a large report
    /// takes minutes to arrive.
    pub(crate) async fn beating(&self) -> OwnedMutexGuard<()> {
        self.exclusive(|active| &active.beating).await
    }

    /// Keeps a slot until the response is sent.
    pub(crate) fn hold(&self, slot: Slot<OrgId>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(slot);
    }

    async fn exclusive(
        &self,
        of: impl FnOnce(&Active) -> &Arc<tokio::sync::Mutex<()>>,
    ) -> OwnedMutexGuard<()> {
        let lock = of(self
            .limits
            .lock()
            .callers
            .entry(self.call.caller)
            .or_default())
        .clone();
        // Outside the lock of the map, which must not be held across an await.
        lock.lock_owned().await
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        let mut counts = self.limits.lock();
        if let Some((key, _)) = self.call.streams_of_org()
            && let Some(open) = counts.streams.get_mut(&key)
        {
            *open = open.saturating_sub(1);
            if *open == 0 {
                counts.streams.remove(&key);
            }
        }
        if let Some(active) = counts.callers.get_mut(&self.call.caller) {
            active.calls = active.calls.saturating_sub(1);
            active.streams = active
                .streams
                .saturating_sub(usize::from(self.call.is_stream));
            if active.calls == 0 {
                counts.callers.remove(&self.call.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: CallerId = CallerId::Node(NodeId(1));

    fn call(caller: CallerId) -> CountedCall {
        CountedCall {
            caller,
            org: Some(OrgId(1)),
            is_stream: false,
        }
    }

    fn stream(operator: i64, org: i64) -> CountedCall {
        CountedCall {
            caller: CallerId::Operator(OperatorId(operator)),
            org: Some(OrgId(org)),
            is_stream: true,
        }
    }

    #[test]
    fn a_caller_is_limited_over_all_its_calls_and_no_other_caller_is() {
        let address = |last| CallerId::Source(IpAddr::from([192, 0, 2, last]));
        for (caller, most) in [(NODE, CALLS_OF_A_NODE), (address(1), CALLS_OF_A_SOURCE)] {
            let limits = CallLimits::default();
            let permits: Vec<_> = (0..most)
                .map(|_| limits.acquire(call(caller)).expect("is below the limit"))
                .collect();
            let refused = limits.acquire(call(caller)).expect_err("is at the limit");
            assert!(refused.retry_after().is_some(), "{refused}");
            let others = [
                CallerId::Node(NodeId(2)),
                CallerId::Operator(OperatorId(1)),
                address(2),
            ];
            for other in others {
                assert!(limits.acquire(call(other)).is_ok(), "{other:?}");
            }
            drop(permits);
            assert!(limits.acquire(call(caller)).is_ok());
            assert!(
                limits.lock().callers.is_empty(),
                "idle callers cost no memory"
            );
        }
    }

    #[test]
    fn refusals_of_one_caller_are_spread_and_those_of_others_are_not() {
        let (limits, start) = (CallLimits::default(), Instant::now());
        let waits: Vec<_> = (0..1_000)
            .map(|_| limits.refusal_wait(NODE, start))
            .collect();
        assert_eq!(waits[0], Duration::ZERO);
        assert_eq!(waits[1], REFUSAL_INTERVAL);
        assert_eq!(waits[100], 100 * REFUSAL_INTERVAL);
        assert_eq!(waits.last(), Some(&REFUSAL_WAIT));
        let other = CallerId::Node(NodeId(2));
        assert_eq!(limits.refusal_wait(other, start), Duration::ZERO);
        let later = start + 2 * REFUSAL_WAIT;
        assert_eq!(limits.refusal_wait(NODE, later), Duration::ZERO);
        assert_eq!(
            limits.lock().refusals.len(),
            1,
            "idle callers cost no memory"
        );
    }

    #[test]
    fn calls_and_streams_of_an_operator_have_separate_limits() {
        let limits = CallLimits::default();
        let one = call(CallerId::Operator(OperatorId(1)));
        let mut open: Vec<_> = (0..STREAMS_OF_AN_OPERATOR)
            .map(|_| limits.acquire(stream(1, 1)).expect("is below"))
            .collect();
        for _ in 0..CALLS_OF_AN_OPERATOR {
            open.push(limits.acquire(one).expect("is below"));
        }
        let refused = limits.acquire(one).expect_err("is at the limit");
        assert!(refused.message.contains("64 calls"), "{refused}");
        assert!(limits.acquire(stream(1, 1)).is_err());
        open.truncate(1);
        assert!(limits.acquire(stream(1, 1)).is_ok());
        assert!(limits.acquire(one).is_ok());
    }

    #[test]
    fn streams_are_limited_per_operator_and_per_organization() {
        let limits = CallLimits::default();
        let mut open = Vec::new();
        for operator in 1..=4 {
            for _ in 0..STREAMS_OF_AN_OPERATOR {
                open.push(limits.acquire(stream(operator, 1)).expect("is below"));
            }
            assert!(limits.acquire(stream(operator, 1)).is_err());
        }
        assert_eq!(open.len(), STREAMS_OF_AN_ORG);
        let refused = limits.acquire(stream(5, 1)).expect_err("is at the limit");
        assert!(refused.message.contains("organization"), "{refused}");
        assert!(limits.acquire(stream(6, 2)).is_ok(), "another organization");
        let short = CountedCall {
            is_stream: false,
            ..stream(1, 1)
        };
        assert!(limits.acquire(short).is_ok(), "short calls still pass");
        let of_node = CountedCall {
            is_stream: true,
            ..call(NODE)
        };
        assert!(
            limits.acquire(of_node).is_ok(),
            "nodes have a limit of their own"
        );
        drop(open);
        assert!(limits.acquire(stream(5, 1)).is_ok());
        assert!(limits.lock().streams.is_empty());
    }

    #[tokio::test]
    async fn one_report_and_one_heartbeat_of_a_node_is_stored_at_a_time() {
        let limits = CallLimits::default();
        let (one, other) = (
            limits.acquire(call(NODE)).expect("free"),
            limits.acquire(call(NODE)).expect("free"),
        );
        let reporting = one.reporting().await;
        let beating = one.beating().await;
        let mut report = std::pin::pin!(other.reporting());
        let mut beat = std::pin::pin!(other.beating());
        assert!(futures::poll!(&mut report).is_pending());
        assert!(futures::poll!(&mut beat).is_pending());
        drop(reporting);
        report.await;
        assert!(futures::poll!(&mut beat).is_pending());
        drop(beating);
        beat.await;
    }
}
