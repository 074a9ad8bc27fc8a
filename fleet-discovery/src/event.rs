//! The durable events of a scan's log. Progress is not one: it is state, read beside the log.

use fleet_core::{DeviceFacts, DeviceId, DeviceIdentifier, Endpoint, outcome::Conclusion};

use crate::Ledger;

/// What happened in a scan, in the order in which operators read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEvent {
    /// A device was accepted.
    Device(DeviceFound),
    /// Something the operator should know while the scan goes on.
    Warning {
        /// A sentence; escaped and bounded.
        text: String,
    },
    /// The one terminal event.
    Ended(ScanEnded),
}

/// An accepted device, as it was reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFound {
    /// Its record in the inventory.
    pub device: DeviceId,
    /// Its identity there.
    pub identifier: DeviceIdentifier,
    /// Where the node dialed it.
    pub endpoint: Endpoint,
    /// What the inventory knew of it then, without the evidence, which only the inventory keeps.
    pub facts: DeviceFacts,
    /// Milliseconds since the scan's first command was issued.
    pub elapsed_ms: u64,
}

/// How a scan ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanEnded {
    /// State, code and sentence.
    pub conclusion: Conclusion,
    /// What became of every target.
    pub ledger: Ledger,
}
