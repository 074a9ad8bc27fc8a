//! The event, the threshold and the quiet hours of a rule. Start with [`AlertRule`].

use std::{fmt, str::FromStr, time::Duration};

use fleet_core::{Timestamp, limits};

use super::DeviceFact;
use crate::{
    blackout::{Blackout, BlackoutError, blackout_end, is_always},
    zone::{UnknownZone, Zone},
};

/// Most scans after which a device counts as missing.
const SCANS: u32 = 100;
/// Least and most minutes after which a node counts as silent. A node is offline after two minutes.
const MINUTES: (u32, u32) = (2, 7 * 24 * 60);

/// An event of which a rule notifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlertEvent {
    /// A device that no scan showed before.
    NewDevice,
    /// A device did not answer in a number of scans in a row that probed its endpoint.
    DeviceMissing,
    /// A device answers at another address.
    DeviceMoved,
    /// A device has another firmware.
    FirmwareChanged,
    /// The server received nothing from a node for some time.
    NodeSilent,
    /// A scan failed.
    ScanFailed,
}

impl AlertEvent {
    /// Every event.
    pub const ALL: [Self; 6] = [
        Self::NewDevice,
        Self::DeviceMissing,
        Self::DeviceMoved,
        Self::FirmwareChanged,
        Self::NodeSilent,
        Self::ScanFailed,
    ];

    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NewDevice => "device.new",
            Self::DeviceMissing => "device.missing",
            Self::DeviceMoved => "device.moved",
            Self::FirmwareChanged => "device.firmware",
            Self::NodeSilent => "node.silent",
            Self::ScanFailed => "scan.failed",
        }
    }

    /// Whether the event concerns devices, which are compared after each scan.
    pub fn is_of_devices(self) -> bool {
        match self {
            Self::NewDevice | Self::DeviceMissing | Self::DeviceMoved | Self::FirmwareChanged => {
                true
            }
            Self::NodeSilent | Self::ScanFailed => false,
        }
    }

    /// The threshold of a rule that states none: scans or minutes; 0 for events without a threshold.
    pub fn default_threshold(self) -> u32 {
        match self {
            Self::DeviceMissing => 2,
            Self::NodeSilent => 10,
            Self::NewDevice | Self::DeviceMoved | Self::FirmwareChanged | Self::ScanFailed => 0,
        }
    }
}

impl fmt::Display for AlertEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an event: use device.new, device.missing, device.moved, device.firmware, node.silent or scan.failed"
)]
pub struct UnknownAlertEvent(String);

impl FromStr for AlertEvent {
    type Err = UnknownAlertEvent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|event| event.as_str() == text);
        found.ok_or_else(|| {
            UnknownAlertEvent(text.chars().take(32).flat_map(char::escape_debug).collect())
        })
    }
}

/// The texts of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertRuleText {
    /// The name of an [`AlertEvent`].
    pub event: String,
    /// Scans for a missing device, minutes for a silent node. 0 means the default.
    pub threshold: u32,
    /// The IANA name of the time zone of the quiet hours. Empty means UTC.
    pub zone: String,
    /// Windows in which messages wait, such as `22:00-06:00`; empty for none.
    pub quiet: String,
}

/// A rule that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertRule {
    /// The event.
    pub event: AlertEvent,
    /// Scans for a missing device, minutes for a silent node, else 0.
    pub threshold: u32,
    /// When messages wait.
    pub quiet: QuietHours,
}

/// Why a rule is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AlertRuleError {
    /// The event is not known.
    #[error(transparent)]
    Event(#[from] UnknownAlertEvent),
    /// The threshold is out of range.
    #[error("the threshold of {event} is {threshold} {unit}: use {least} to {most}")]
    Threshold {
        /// The event.
        event: AlertEvent,
        /// The threshold.
        threshold: u32,
        /// Scans or minutes.
        unit: &'static str,
        /// The least.
        least: u32,
        /// The most.
        most: u32,
    },
    /// The event has no threshold.
    #[error("{0} has no threshold, and {1} was given: leave it out")]
    NoThreshold(AlertEvent, u32),
    /// The quiet hours are not valid.
    #[error(transparent)]
    Quiet(#[from] QuietHoursError),
}

impl AlertRule {
    /// Checks the texts of a rule.
    ///
    /// # Errors
    ///
    /// The first text that is not valid.
    pub fn parse(text: &AlertRuleText) -> Result<Self, AlertRuleError> {
        let event: AlertEvent = text.event.parse()?;
        let threshold = if text.threshold == 0 {
            event.default_threshold()
        } else {
            text.threshold
        };
        let (unit, least, most) = match event {
            AlertEvent::DeviceMissing => ("scans", 1, SCANS),
            AlertEvent::NodeSilent => ("minutes", MINUTES.0, MINUTES.1),
            _ if threshold != 0 => return Err(AlertRuleError::NoThreshold(event, threshold)),
            AlertEvent::NewDevice
            | AlertEvent::DeviceMoved
            | AlertEvent::FirmwareChanged
            | AlertEvent::ScanFailed => ("", 0, 0),
        };
        if !(least..=most).contains(&threshold) {
            return Err(AlertRuleError::Threshold {
                event,
                threshold,
                unit,
                least,
                most,
            });
        }
        let quiet = QuietHours::parse(&text.zone, &text.quiet)?;
        Ok(Self {
            event,
            threshold,
            quiet,
        })
    }

    /// The rule as it is stored.
    pub fn text(&self) -> AlertRuleText {
        AlertRuleText {
            event: self.event.to_string(),
            threshold: self.threshold,
            zone: self.quiet.zone.to_string(),
            quiet: self.quiet.to_string(),
        }
    }

    /// Whether the rule notifies of a fact. A device is reported as missing in one scan of its absence.
    pub fn selects(&self, fact: &DeviceFact) -> bool {
        match (self.event, fact) {
            (AlertEvent::DeviceMissing, DeviceFact::Missing { scans, .. }) => {
                *scans == self.threshold
            }
            (event, fact) => event == fact.event() && event != AlertEvent::DeviceMissing,
        }
    }

    /// How long a node may be silent.
    pub fn silence(&self) -> Duration {
        Duration::from_secs(u64::from(self.threshold) * 60)
    }
}

/// Times of each week in which messages wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuietHours {
    zone: Zone,
    windows: Vec<Blackout>,
}

/// Why quiet hours are not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuietHoursError {
    /// The zone is not known.
    #[error(transparent)]
    Zone(#[from] UnknownZone),
    /// A window is not valid.
    #[error("quiet hours: {0}")]
    Window(BlackoutError),
    /// The windows leave no time.
    #[error("the quiet hours `{0}` leave no minute of the week: leave a time for messages")]
    Always(String),
}

impl QuietHours {
    /// Reads windows that are separated by `;`, in a time zone. An empty zone means UTC.
    ///
    /// # Errors
    ///
    /// An unknown zone, a window that is not valid, or windows that leave no time.
    pub fn parse(zone: &str, windows: &str) -> Result<Self, QuietHoursError> {
        let zone: Zone = if zone.is_empty() { "UTC" } else { zone }.parse()?;
        let windows = Blackout::parse_list(windows).map_err(QuietHoursError::Window)?;
        let hours = Self { zone, windows };
        if is_always(&hours.windows, &hours.zone) {
            return Err(QuietHoursError::Always(hours.to_string()));
        }
        Ok(hours)
    }

    /// When a message of now may be sent: now, or at the end of the quiet hours.
    pub fn release(&self, now: Timestamp) -> Timestamp {
        blackout_end(&self.windows, &self.zone, now).map_or(now, |end| end.at)
    }
}

impl fmt::Display for QuietHours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let windows: Vec<String> = self.windows.iter().map(Blackout::to_string).collect();
        f.write_str(&windows.join("; "))
    }
}

/// What happened to a node since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Nothing that a rule notifies of.
    Unchanged,
    /// The node is silent, and no alert of it is open.
    Begins,
    /// The node of an open alert is back.
    Ends,
}

/// Decides about a node. `watched_since` is when this server started: nodes cannot reach a server that does not run.
pub fn silence(
    alerted: bool,
    last_seen: Option<Timestamp>,
    watched_since: Timestamp,
    allowed: Duration,
    now: Timestamp,
) -> Silence {
    // A node that never connected is awaited and not silent.
    let Some(seen) = last_seen else {
        return Silence::Unchanged;
    };
    if alerted {
        let is_back = now.since(seen) <= limits::NODE_OFFLINE;
        return if is_back {
            Silence::Ends
        } else {
            Silence::Unchanged
        };
    }
    if now.since(seen.max(watched_since)) > allowed {
        Silence::Begins
    } else {
        Silence::Unchanged
    }
}
