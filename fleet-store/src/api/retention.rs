//! The end of old events and scans. The audit trail is always kept.

use async_trait::async_trait;
use fleet_core::{OrgId, ScanId, Timestamp};

use crate::StoreError;

/// Which scans are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanRetention {
    /// Scans that ended before this time.
    pub ended_before: Timestamp,
    /// Whether a scan is kept that a later one of the same targets would be compared with.
    pub keeps_last: bool,
}

/// What one call removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemovedScans {
    /// The number of scans that are hidden since this call.
    pub scans: u64,
    /// The number of deleted rows. At least the limit of the call if more are left.
    pub rows: u64,
}

/// The end of old events and scans.
#[async_trait]
pub trait Retention: Send + Sync {
    /// Deletes at most `limit` events of scans that ended before a time, oldest scans first. The scans themselves and
    /// the audit trail stay. Returns how many were deleted; fewer than `limit` means that none are left.
    async fn delete_old_events(
        &self,
        ended_before: Timestamp,
        limit: u32,
        now: Timestamp,
    ) -> Result<u64, StoreError>;

    /// Removes old scans with everything that belongs to them, oldest first: a scan is hidden at once, with an audit
    /// record, and about `limit` rows of hidden scans are deleted. Devices, their history and the map stay. Does nothing
    /// while another server removes scans.
    async fn remove_old_scans(
        &self,
        policy: ScanRetention,
        limit: u32,
        now: Timestamp,
    ) -> Result<RemovedScans, StoreError>;

    /// Returns when a scan of an organization was removed.
    async fn removed_scan(&self, org: OrgId, scan: ScanId)
    -> Result<Option<Timestamp>, StoreError>;
}
