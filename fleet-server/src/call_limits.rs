//! Limits of concurrent calls per caller, over all of its connections. A connection says nothing about a caller: a proxy
//! carries the calls of many nodes on one connection, and one hostile node can open many connections.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fleet_core::{NodeId, OperatorId};
use fleet_wire::RpcError;
use tokio::sync::OwnedMutexGuard;

/// Concurrent calls of a node. It needs its stream, an older stream that ends, a heartbeat, and a few reports.
pub(crate) const CALLS_OF_A_NODE: usize = 16;
/// Concurrent calls of an operator: most are watches of open pages.
const CALLS_OF_AN_OPERATOR: usize = 1_024;
/// When a refused call may be retried.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The identity by which calls are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CallerId {
    Node(NodeId),
    Operator(OperatorId),
}

/// The callers with calls in progress.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallLimits(Arc<Mutex<BTreeMap<CallerId, Active>>>);

#[derive(Debug, Default)]
struct Active {
    calls: usize,
    /// Held by the call that stores.
    storing: Arc<tokio::sync::Mutex<()>>,
}

/// A counted call. The call ends when the last clone of its permit is dropped.
#[derive(Debug)]
pub(crate) struct CallPermit {
    limits: CallLimits,
    caller: CallerId,
}

impl CallLimits {
    /// Counts a call until the permit is dropped.
    ///
    /// # Errors
    ///
    /// RESOURCE_EXHAUSTED with a retry hint when the caller has as many calls as it may.
    pub(crate) fn acquire(&self, caller: CallerId) -> Result<Arc<CallPermit>, RpcError> {
        let (most, name) = match caller {
            CallerId::Node(_) => (CALLS_OF_A_NODE, "a node"),
            CallerId::Operator(_) => (CALLS_OF_AN_OPERATOR, "an operator"),
        };
        let mut callers = self.lock();
        let active = callers.entry(caller).or_default();
        if active.calls >= most {
            return Err(RpcError::resource_exhausted(format!(
                "{name} may have {most} calls at a time: wait for one to end"
            ))
            .with_reason("TOO_MANY_CALLS")
            .with_fact("limit", most)
            .with_retry_after(RETRY_AFTER));
        }
        active.calls += 1;
        Ok(Arc::new(CallPermit {
            limits: self.clone(),
            caller,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CallerId, Active>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallPermit {
    /// Waits until no other call of this caller stores anything. Without this, the calls of one node could hold every
    /// connection of the database pool.
    pub(crate) async fn storing(&self) -> OwnedMutexGuard<()> {
        let storing = {
            let mut callers = self.limits.lock();
            callers.entry(self.caller).or_default().storing.clone()
        };
        // Outside the lock of the map, which must not be held across an await.
        storing.lock_owned().await
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        let mut callers = self.limits.lock();
        if let Some(active) = callers.get_mut(&self.caller) {
            active.calls = active.calls.saturating_sub(1);
            if active.calls == 0 {
                callers.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: CallerId = CallerId::Node(NodeId(1));

    #[test]
    fn a_node_is_limited_over_all_its_calls_and_no_other_caller_is() {
        let limits = CallLimits::default();
        let permits: Vec<_> = (0..CALLS_OF_A_NODE)
            .map(|_| limits.acquire(NODE).expect("is below the limit"))
            .collect();
        let refused = limits.acquire(NODE).expect_err("is at the limit");
        assert!(refused.retry_after().is_some(), "{refused}");
        for other in [CallerId::Node(NodeId(2)), CallerId::Operator(OperatorId(1))] {
            assert!(limits.acquire(other).is_ok(), "{other:?}");
        }
        drop(permits);
        assert!(limits.acquire(NODE).is_ok());
        assert!(limits.lock().is_empty(), "idle callers cost no memory");
    }

    #[tokio::test]
    async fn one_call_of_a_node_stores_at_a_time() {
        let limits = CallLimits::default();
        let (one, other) = (
            limits.acquire(NODE).expect("free"),
            limits.acquire(NODE).expect("free"),
        );
        let storing = one.storing().await;
        let mut waiting = std::pin::pin!(other.storing());
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(storing);
        waiting.await;
    }
}
