//! The durable events of a scan. Progress is not an event but state, which is read separately from the log.

use fleet_core::{
    DeviceFacts, DeviceId, DeviceIdentifier, Endpoint, HostReport, NodeId, outcome::Conclusion,
};

use crate::Ledger;

/// An event of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEvent {
    /// A device was accepted.
    Device(DeviceFound),
    /// A host answered, and no driver identified it. It is not a device, and no count includes it.
    Host(HostFound),
    /// A problem that the operator should see while the scan runs.
    Warning {
        /// The text as a sentence; escaped and bounded.
        text: String,
    },
    /// The one terminal event.
    Ended(ScanEnded),
}

/// An accepted device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFound {
    /// The id of its record in the inventory.
    pub device: DeviceId,
    /// The identity of that record.
    pub identifier: DeviceIdentifier,
    /// The node that found it; none for the server itself.
    pub node: Option<NodeId>,
    /// The endpoint that was dialed.
    pub endpoint: Endpoint,
    /// Facts from the inventory at that time. The evidence is empty: only the inventory keeps it.
    pub facts: DeviceFacts,
    /// Milliseconds since the scan's first command was issued.
    pub elapsed_ms: u64,
}

/// A host that answered and that no driver identified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFound {
    /// The host.
    pub host: HostReport,
    /// The node that reported it; none for the server itself.
    pub node: Option<NodeId>,
    /// Milliseconds since the scan's first command was issued.
    pub elapsed_ms: u64,
}

/// How a scan ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanEnded {
    /// State, code and sentence.
    pub conclusion: Conclusion,
    /// The outcomes of all targets.
    pub ledger: Ledger,
}
