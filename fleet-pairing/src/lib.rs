//! Whose device it is: which record of the inventory a reported device belongs to, and whether its
//! node may write that record.
//!
//! Pure decisions over rows that the caller has loaded and locked; nothing of storage or wire. Start
//! with [`decide_report`] (one device), then [`Inventory`] (a whole report, row after row). What the server
//! itself may dial and write is [`divide`]'s and [`Sightings`]' to say.

mod direct;
mod inventory;
mod record;
mod report;

pub use direct::{DirectDecision, DirectRefusal, Divided, KnownDevice, SERVER, Sightings, divide};
pub use inventory::{Inventory, Planned};
pub use record::{Binding, DeviceRecord};
pub use report::{ReportDecision, decide_report};
