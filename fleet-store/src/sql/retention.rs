//! The end of old events and of whole scans.

mod events;
mod scans;

use crate::{RemovedScans, Retention, ScanRetention, sql::prelude::*};

#[async_trait]
impl Retention for SqlStore {
    async fn delete_old_events(
        &self,
        ended_before: Timestamp,
        limit: u32,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        transaction!(self, "delete_old_events", |tx| {
            Ok(events::delete(tx, ended_before, u64::from(limit), now).await?)
        })
    }

    async fn remove_old_scans(
        &self,
        policy: ScanRetention,
        limit: u32,
        now: Timestamp,
    ) -> Result<RemovedScans, StoreError> {
        let operation = "remove_old_scans";
        // Most looks find nothing, and a look must not take SQLite's write lock for that.
        let any = scans::any(self.reader(), &policy).await;
        if !any.during(operation)? {
            return Ok(RemovedScans::default());
        }
        transaction!(self, operation, |tx| {
            Ok(scans::remove(tx, &policy, u64::from(limit), now).await?)
        })
    }

    async fn removed_scan(
        &self,
        org: OrgId,
        scan: ScanId,
    ) -> Result<Option<Timestamp>, StoreError> {
        let found = scans::removed_at(self.reader(), org, scan).await;
        found.during("removed_scan")
    }
}
