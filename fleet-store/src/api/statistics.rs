//! Counts of the whole database, for metrics.

use std::collections::BTreeMap;

use async_trait::async_trait;
use fleet_core::{ScanState, enrollment::NodeState};

use crate::StoreError;

/// Counts of rows over all organizations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Nodes that are not revoked, by state. A state without nodes is absent.
    pub nodes: BTreeMap<NodeState, u64>,
    /// Scans by state. A state without scans is absent.
    pub scans: BTreeMap<ScanState, u64>,
    /// Devices in the inventories.
    pub devices: u64,
}

/// Counts for metrics.
#[async_trait]
pub trait Statistics: Send + Sync {
    /// Counts nodes, scans and devices of all organizations. Reads an index per table, not the rows.
    async fn totals(&self) -> Result<Totals, StoreError>;
}
