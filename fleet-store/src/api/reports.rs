//! Reports of nodes: devices, and the resolved addresses of names.

use std::net::IpAddr;

use async_trait::async_trait;
use fleet_core::{
    AddressPolicy, CommandId, DeviceReport, HostReport, NodeId, OrgId, RejectReason, ScanId,
    Timestamp,
};

use crate::StoreError;

/// A report with a valid envelope.
#[derive(Clone, Debug)]
pub struct NewReport {
    /// The node that sent it, from the bearer token.
    pub node: NodeId,
    /// The organization of the node.
    pub org: OrgId,
    /// The address it came from.
    pub from: Option<IpAddr>,
    /// The command it belongs to.
    pub command: CommandId,
    /// SHA-256 of the report's content. While the command is in flight, a repeated report gets the same answer
    /// as the first one.
    pub digest: [u8; 32],
    /// Its rows in order; a malformed row with its reason and an escaped example.
    pub rows: Vec<Result<DeviceReport, (RejectReason, String)>>,
    /// Its hosts that no driver identified; a malformed one with its reason and an escaped example.
    pub hosts: Vec<Result<HostReport, (RejectReason, String)>>,
    /// The addresses that may be reported.
    pub addresses: AddressPolicy,
    /// The current time.
    pub now: Timestamp,
}

/// The result of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportAnswer {
    /// The number of rows stored, now or before.
    pub accepted: u64,
    /// The number of rows refused, now or before.
    pub rejected: u64,
    /// The number of those whose device belongs to another owner.
    pub owned_elsewhere: u64,
    /// The scan, whose watchers must be notified.
    pub scan: ScanId,
    /// Whether this report ended the command, because too many of its rows were refused.
    pub ended: bool,
}

/// Why a whole report was refused. Nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The command is unknown, belongs to another node, or is not in flight.
    #[error("command {0} is not in flight for this node")]
    NotInFlight(CommandId),
    /// The addresses of the command's names are not stored yet. They are sent separately from reports and can
    /// arrive slightly later.
    #[error(
        "command {0} waits for the addresses of its names: send them, then send the report again"
    )]
    AwaitsPins(CommandId),
    /// The report has more rows than its command allows.
    #[error("command {command} may report at most {quota} rows")]
    OverQuota {
        /// The command.
        command: CommandId,
        /// Its quota.
        quota: u64,
    },
    /// The command was ended because too many rows were refused.
    #[error("command {0} was ended because too many of its rows were refused")]
    Flooded(CommandId),
    /// The server itself is dialing an address of the report. This blocks its attribution to a node for at most
    /// a minute.
    #[error("the server itself is dialing {0} at this moment: send the report again shortly")]
    BeingDialed(IpAddr),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Addresses that a node pinned for a command's names.
#[derive(Clone, Debug)]
pub struct Pins {
    /// The node that sent them.
    pub node: NodeId,
    /// The command.
    pub command: CommandId,
    /// Each name with its addresses, or with the reason to skip it. The caller bounds the number.
    pub names: Vec<(String, Result<Vec<IpAddr>, String>)>,
    /// The addresses that may be pinned.
    pub addresses: AddressPolicy,
    /// The current time.
    pub now: Timestamp,
}

/// The result of pins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinsTaken {
    /// The scan, whose watchers must be notified: the log has an entry for each name.
    pub scan: ScanId,
    /// Names that have addresses now and had none before.
    pub pinned: u32,
    /// The reason of each answer that was refused.
    pub refused: Vec<String>,
}

/// Why pins were refused as a whole.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// The command is unknown, belongs to another node, or is not in flight.
    #[error("command {0} is not in flight for this node")]
    NotInFlight(CommandId),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// What nodes report about their commands.
#[async_trait]
pub trait Reports: Send + Sync {
    /// Judges and stores a report in one transaction with set-based statements. An accepted device, its row,
    /// its event and the counts become durable together. The unidentified hosts are stored with the scan; they
    /// change no count.
    async fn record_report(&self, report: NewReport) -> Result<ReportAnswer, ReportError>;

    /// Stores the pins of a command as part of its scope. Reports of the command are refused until every name
    /// has an answer. The first answer for a name is final, and repeating it changes nothing.
    async fn record_pins(&self, pins: Pins) -> Result<PinsTaken, PinsError>;
}
