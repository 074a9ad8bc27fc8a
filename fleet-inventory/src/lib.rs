//! Decisions about an inventory over time: when a schedule runs.
//!
//! The crate has no clock, no randomness and no IO, and no storage or wire code. Start with [`Cron`].

mod cron;

pub use cron::{Cron, CronError};
