//! Whose device it is: which record of the inventory a reported device belongs to, and whether its
//! node may write that record.
//!
//! Pure decisions over rows that the caller has loaded and locked; nothing of storage or wire. Start
//! with [`decide_report`] (one device), then [`Inventory`] (a whole report, row after row). What the server
//! itself may dial and write is [`divide`]'s and [`Sightings`]' to say; [`decide_undo`] takes back what a
//! report has made one. Pairing is [`decide_bind`] (whom a device is bound to) and [`decide_result`] (what a
//! node's attempt makes of it).

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
pub use inventory::{Inventory, Planned};
pub use outcome::{PairWord, Settled, decide_result, may_settle};
pub use reason::IdentityReason;
pub use record::{Binding, DeviceRecord};
pub use report::{Refused, Rekey, ReportDecision, Reporter, decide_report, heir_identifier};
pub use undo::{IdentityChange, KEPT_APART_MOST, Undo, UndoRefusal, decide_undo, keep_apart};
