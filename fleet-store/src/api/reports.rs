//! A report as it enters storage, and what comes of it.

use std::net::IpAddr;

use fleet_core::{
    AddressPolicy, CommandId, DeviceReport, NodeId, OrgId, RejectReason, ScanId, Timestamp,
};

use crate::StoreError;

/// A report whose envelope is in order.
#[derive(Clone, Debug)]
pub struct NewReport {
    /// Who sent it, from the bearer token.
    pub node: NodeId,
    /// Whose node it is.
    pub org: OrgId,
    /// Where it came from.
    pub from: Option<IpAddr>,
    /// The command it belongs to.
    pub command: CommandId,
    /// SHA-256 of the report's content: while the command is in flight, the same report again is
    /// answered as the first time.
    pub digest: [u8; 32],
    /// Its rows in order; a malformed one with its reason and an escaped example.
    pub rows: Vec<Result<DeviceReport, (RejectReason, String)>>,
    /// Which addresses may be reported.
    pub addresses: AddressPolicy,
    /// Now.
    pub now: Timestamp,
}

/// What was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportAnswer {
    /// Rows stored, or stored before.
    pub accepted: u64,
    /// Rows refused, now or before.
    pub rejected: u64,
    /// The scan, whose watchers want a bell.
    pub scan: ScanId,
    /// Whether the refused rows passed the bound, so that the command was ended by this report.
    pub ended: bool,
}

/// Why a whole report was refused. Nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The command is unknown, another node's, or not in flight.
    #[error("command {0} is not in flight for this node")]
    NotInFlight(CommandId),
    /// The addresses of the command's names are not known yet: they travel beside reports, and may come
    /// a moment later.
    #[error("command {0} waits for what its names resolve to: report again when that was said")]
    AwaitsPins(CommandId),
    /// More rows than the command may report.
    #[error("command {command} may report {quota} rows and no more")]
    OverQuota {
        /// The command.
        command: CommandId,
        /// Its quota.
        quota: u64,
    },
    /// The command was ended for its refused rows.
    #[error("command {0} was ended because too many of its rows were refused")]
    Flooded(CommandId),
    /// The server itself is dialing at an address of the report, so that nothing there can become a
    /// node's right now; it will be over within a minute at the most.
    #[error("the server itself is dialing {0} at this moment: send the report again shortly")]
    BeingDialed(IpAddr),
    /// Storage trouble.
    #[error(transparent)]
    Storage(#[from] StoreError),
}
