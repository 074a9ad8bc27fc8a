//! Decisions about an inventory over time: when a schedule runs, and what a due run does.
//!
//! The crate has no clock, no randomness and no IO, and no storage or wire code. Start with [`Timing`], which converts
//! an operator's texts to times. Then read [`decide`] and [`firing`].

mod blackout;
mod cron;
mod schedule;
mod timing;
mod zone;

pub use blackout::{Blackout, BlackoutError};
pub use cron::{Cron, CronError};
pub use schedule::{Circumstances, Decision, Firing, decide, firing};
pub use timing::{Basis, Run, Timing, TimingError, TimingText};
pub use zone::{UnknownZone, Zone};
