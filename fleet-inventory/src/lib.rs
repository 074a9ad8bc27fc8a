//! Decisions about an inventory over time: when a schedule runs, what a due run does, what changed between two
//! scans, and which alerts follow.
//!
//! The crate has no clock, no randomness and no IO, and no storage or wire code. Start with [`Timing`], which converts
//! an operator's texts to times. Then read [`decide`] and [`firing`]. For changes, start with [`difference`]; for alerts, with [`observe`].

mod alert;
mod blackout;
mod block;
mod cron;
mod day;
mod difference;
mod history;
#[cfg(test)]
mod samples;
mod schedule;
mod search;
mod timing;
mod wide;
mod zone;

pub use alert::{
    AfterAttempt, AlertEvent, AlertItem, AlertMessage, AlertRule, AlertRuleError, AlertRuleText,
    Answer, DeviceFact, ITEMS_SHOWN, Known, Observation, Observed, QuietHours, QuietHoursError,
    RETRIED_FOR, Silence, UnknownAlertEvent, after_attempt, observe, silence,
};
pub use blackout::{Blackout, BlackoutEnd, BlackoutError, blackout_end, is_always, is_blacked_out};
pub use block::{AddressOutcome, BlockNumber, CELLS, Cell, CellState, NotABlock, announced_blocks};
pub use cron::{Cron, CronError};
pub use day::{DAYS, Day, DayCounts, last_days};
pub use difference::{
    Counts, Field, Group, Later, Location, Reason, Row, Seen, UnknownGroup, difference,
    explain_zero,
};
pub use history::{Appearance, Change, EventKind, Label, LabelError, UnknownKind, changes};
pub use schedule::{Circumstances, Decision, Firing, decide, firing};
pub use search::{Age, Network, Pattern, Search, SearchError, TextField, TimeField};
pub use timing::{Basis, Run, Timing, TimingError, TimingText};
pub use wide::{WideCounts, WideNetwork, wide_networks};
pub use zone::{UnknownZone, Zone};
