//! Whose device it is: which record of the inventory a reported device belongs to, and whether its
//! node may write that record.
//!
//! Pure decisions over rows that the caller has loaded and locked; nothing of storage or wire. Start
//! with [`decide_report`] (one device), then [`Inventory`] (a whole report, row after row). What the server
//! itself may dial and write is [`divide`]'s and [`Sightings`]' to say; [`decide_undo`] takes back what a
//! report has made one.

mod direct;
#[doc(hidden)]
pub mod fuzz;
mod inventory;
mod reason;
mod record;
mod report;
mod undo;

pub use direct::{DirectDecision, DirectRefusal, Divided, KnownDevice, SERVER, Sightings, divide};
pub use inventory::{Inventory, Planned};
pub use reason::IdentityReason;
pub use record::{Binding, DeviceRecord};
pub use report::{Refused, Rekey, ReportDecision, Reporter, decide_report, heir_identifier};
pub use undo::{IdentityChange, KEPT_APART_MOST, Undo, UndoRefusal, decide_undo, keep_apart};
