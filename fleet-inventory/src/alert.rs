//! Which alerts follow from an ended scan or a silent node, when they are sent, and when they are sent again.
//!
//! [`observe`] compares an ended scan with the devices that earlier scans showed. It returns the new facts together with
//! the state to store, so each fact is found once. A [`AlertRule`] selects facts, and [`AlertMessage`] groups those of
//! one scan.

mod delivery;
mod message;
mod observation;
mod rule;

pub use delivery::{AfterAttempt, Answer, RETRIED_FOR, after_attempt};
pub use message::{AlertItem, AlertMessage, ITEMS_SHOWN};
pub use observation::{DeviceFact, Known, Observation, Observed, observe};
pub use rule::{
    AlertEvent, AlertRule, AlertRuleError, AlertRuleText, QuietHours, QuietHoursError, Silence,
    UnknownAlertEvent, silence,
};

#[cfg(test)]
mod tests;
