//! The slots for scans and pairings that the server carries out itself.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use fleet_core::{OrgId, limits};
use fleet_wire::RpcError;

/// One slot for each organization, and few in all.
#[derive(Clone, Debug, Default)]
pub(crate) struct DirectSlots(Arc<Mutex<BTreeSet<OrgId>>>);

/// An acquired slot; dropping it releases the slot.
#[derive(Debug)]
pub(crate) struct DirectSlot {
    slots: DirectSlots,
    org: OrgId,
}

impl DirectSlots {
    /// # Errors
    ///
    /// RESOURCE_EXHAUSTED when the organization's slot is taken, or all slots of the server are.
    pub(crate) fn acquire(&self, org: OrgId) -> Result<DirectSlot, RpcError> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.contains(&org) {
            return Err(RpcError::resource_exhausted(
                "the server already dials for a scan or pairing of your organization: try again when it is over",
            ).with_reason("DIRECT_BUSY"));
        }
        if taken.len() >= limits::DIRECT_SCANS {
            return Err(RpcError::resource_exhausted(format!(
                "the server already dials for {} organizations: try again shortly",
                taken.len()
            ))
            .with_reason("DIRECT_BUSY")
            .with_fact("limit", taken.len()));
        }
        taken.insert(org);
        Ok(DirectSlot {
            slots: self.clone(),
            org,
        })
    }
}

impl Drop for DirectSlot {
    fn drop(&mut self) {
        let mut taken = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.remove(&self.org);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_organization_has_one_slot_and_the_server_few() {
        let slots = DirectSlots::default();
        let first = slots.acquire(OrgId(1)).expect("free");
        let busy = slots.acquire(OrgId(1)).expect_err("taken");
        assert!(busy.message.contains("your organization"), "{busy:?}");
        let others: Vec<DirectSlot> = (2..=limits::DIRECT_SCANS as i64)
            .map(|org| slots.acquire(OrgId(org)).expect("free"))
            .collect();
        let full = slots.acquire(OrgId(99)).expect_err("full");
        assert!(full.message.contains("organizations"), "{full:?}");
        drop(first);
        assert!(slots.acquire(OrgId(1)).is_ok());
        drop(others);
    }
}
