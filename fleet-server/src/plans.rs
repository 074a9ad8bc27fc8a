//! [`Plans`]: computing plans of scans apart from the threads that serve calls. A request can have 65,536 targets, a
//! thousand excludes and a thousand nodes.

use fleet_core::OrgId;
use fleet_wire::RpcError;

use crate::key_slots::{KeySlots, Slot};

/// Plans of an organization that are computed or wait. Its operators may have more calls at a time.
const MOST: usize = 256;

/// The plans that are computed now: one of each organization.
#[derive(Debug)]
pub(crate) struct Plans(KeySlots<OrgId>);

impl Plans {
    pub(crate) fn new() -> Self {
        Self(KeySlots::new(1, MOST))
    }

    /// Waits for the other plans of the organization. Read what a plan needs after that, because calls that wait would
    /// keep it in memory.
    ///
    /// # Errors
    ///
    /// RESOURCE_EXHAUSTED with a retry hint when too many wait.
    pub(crate) async fn turn(&self, org: OrgId) -> Result<Turn, RpcError> {
        let slot = self.0.wait(org).await?;
        Ok(Turn { _slot: slot })
    }
}

/// The turn of a plan. Dropping it admits the next plan of the organization.
#[derive(Debug)]
pub(crate) struct Turn {
    _slot: Slot<OrgId>,
}

impl Turn {
    /// Computes on a thread for blocking work. If the caller hangs up, the turn lasts until the work ends.
    ///
    /// # Errors
    ///
    /// INTERNAL when the work panicked.
    pub(crate) async fn compute<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<(T, Self), RpcError> {
        tokio::task::spawn_blocking(move || (work(), self))
            .await
            .map_err(|_| RpcError::internal("internal error"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn plans_of_an_organization_wait_for_each_other_and_hold_up_nobody_else() {
        let plans = Plans::new();
        let (end, ended) = mpsc::channel();
        let turn = plans.turn(OrgId(1)).await.expect("the first turn");
        let mut first = Box::pin(turn.compute(move || ended.recv()));
        assert!(poll!(&mut first).is_pending());
        let mut second = Box::pin(plans.turn(OrgId(1)));
        assert!(poll!(&mut second).is_pending());
        // Its caller hangs up, and the work goes on.
        drop(first);
        assert!(poll!(&mut second).is_pending());
        let other = plans.turn(OrgId(2)).await.expect("another organization");
        let (three, _other) = other.compute(|| 3).await.expect("ends");
        assert_eq!(three, 3);
        end.send(()).expect("the work waits");
        let (two, _second) = second
            .await
            .expect("its turn")
            .compute(|| 2)
            .await
            .expect("ends");
        assert_eq!(two, 2);
    }
}
