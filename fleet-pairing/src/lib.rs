//! Device ownership: which inventory record a reported device belongs to, and whether the reporting node may write
//! that record.
//!
//! All decisions are pure functions over rows that the caller has loaded and locked. The crate contains no storage
//! and no wire code. Start with [`decide_report`] (one device), then read [`Inventory`] (a whole report, row by row).
//! [`divide`] and [`Sightings`] decide what the server itself may dial and write. [`decide_undo`] reverts a merge
//! that a report caused. [`decide_bind`] decides bindings, and [`decide_result`] applies the result of a pairing
//! attempt.

mod binding;
mod direct;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
mod inventory;
mod outcome;
mod reason;
mod record;
mod report;
mod undo;

pub use binding::{
    BindDecision, BindRefusal, NotPairable, PairCandidate, ServerClaim, decide_bind,
    decide_bind_to_server, decide_target, decide_unpaired_target,
};
pub use direct::{DirectDecision, DirectRefusal, Divided, KnownDevice, SERVER, Sightings, divide};
pub use inventory::{Inventory, Planned, SharedIdentity};
pub use outcome::{PairReply, Settled, decide_result, may_settle};
pub use reason::IdentityReason;
pub use record::{Binding, DeviceRecord};
pub use report::{
    Claim, ClaimBasis, Refused, Rekey, ReportDecision, Reporter, decide_report,
    predecessor_identifier,
};
pub use undo::{IdentityChange, KEPT_APART_MOST, Undo, UndoRefusal, decide_undo, keep_apart};
