//! [`Plans`]: computing plans of scans apart from the threads that serve calls. A request can have 65,536 targets, a
//! thousand excludes and a thousand nodes.

use fleet_core::OrgId;
use fleet_wire::RpcError;

use crate::key_slots::KeySlots;

/// Plans of an organization that are computed or wait. Its operators may have more calls at a time.
const MOST: usize = 256;

/// The plans that are computed now: one of each organization.
#[derive(Debug)]
pub(crate) struct Plans(KeySlots<OrgId>);

impl Plans {
    pub(crate) fn new() -> Self {
        Self(KeySlots::new(1, MOST))
    }

    /// Computes on a thread for blocking work, after the other plans of the organization. If the caller hangs up, the work
    /// still counts until it ends.
    ///
    /// # Errors
    ///
    /// RESOURCE_EXHAUSTED with a retry hint when too many wait; INTERNAL when the work panicked.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        org: OrgId,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RpcError> {
        let slot = self.0.wait(org).await?;
        let computed = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            work()
        });
        computed
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
        let mut first = Box::pin(plans.compute(OrgId(1), move || ended.recv()));
        assert!(poll!(&mut first).is_pending());
        let mut second = Box::pin(plans.compute(OrgId(1), || 2));
        assert!(poll!(&mut second).is_pending());
        // Its caller hangs up, and the work goes on.
        drop(first);
        assert!(poll!(&mut second).is_pending());
        let other = plans.compute(OrgId(2), || 3).await;
        assert_eq!(other.expect("another organization"), 3);
        end.send(()).expect("the work waits");
        assert_eq!(second.await.expect("its turn"), 2);
    }
}
