//! A time zone of the IANA database, and the moments of local times in it. The database is compiled in. Start with
//! [`Zone::moments`], which defines what daylight saving means for a schedule.

use std::{fmt, str::FromStr};

use fleet_core::Timestamp;
use jiff::{
    civil::{Date, DateTime},
    tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase},
};

/// The longest name of a zone, in bytes. The longest in the database has 32.
const LONGEST: usize = 64;

/// A time zone by its IANA name, such as `Europe/Berlin` or `UTC`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

/// A text that is not the name of a time zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a time zone: expected a name of the IANA database such as Europe/Berlin or UTC"
)]
pub struct UnknownZone(String);

impl FromStr for Zone {
    type Err = UnknownZone;

    fn from_str(text: &str) -> Result<Self, UnknownZone> {
        let refused = || {
            UnknownZone(
                text.chars()
                    .take(LONGEST)
                    .flat_map(char::escape_debug)
                    .collect(),
            )
        };
        if text.len() > LONGEST {
            return Err(refused());
        }
        TimeZoneDatabase::bundled()
            .get(text)
            .map(Self)
            .map_err(|_| refused())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.iana_name().unwrap_or("UTC"))
    }
}

/// Whether a local time that the clock shows twice counts once or twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeated {
    /// The first of both counts.
    First,
    /// Both count.
    Both,
}

impl Zone {
    /// The local date and time of a moment.
    pub(crate) fn local(&self, at: Timestamp) -> DateTime {
        self.0.to_datetime(from_timestamp(at))
    }

    /// The local time of a moment with its offset.
    pub(crate) fn text(&self, at: Timestamp) -> String {
        let at = from_timestamp(at);
        at.display_with_offset(self.0.to_offset(at)).to_string()
    }

    /// The moments of a local time: one, or two if the clock shows the time twice and both count. A time that the
    /// clock skips is the moment when the clock was set forward.
    pub(crate) fn moments(&self, local: DateTime, repeated: Repeated) -> [Option<Timestamp>; 2] {
        let ambiguous = self.0.to_ambiguous_timestamp(local);
        match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } => {
                [ambiguous.compatible().ok().map(to_timestamp), None]
            }
            AmbiguousOffset::Gap { .. } => [self.end_of_gap(ambiguous.later().ok()), None],
            AmbiguousOffset::Fold { .. } => {
                let later = (repeated == Repeated::Both)
                    .then(|| ambiguous.later().ok())
                    .flatten();
                [
                    ambiguous.earlier().ok().map(to_timestamp),
                    later.map(to_timestamp),
                ]
            }
        }
    }

    /// The moment of the last transition before a moment that lies shortly after it.
    fn end_of_gap(&self, shortly_after: Option<jiff::Timestamp>) -> Option<Timestamp> {
        let after = shortly_after?
            .checked_add(jiff::SignedDuration::from_secs(1))
            .ok()?;
        let transition = self.0.preceding(after).next()?;
        Some(to_timestamp(transition.timestamp()))
    }
}

/// The weekday of a date, with Sunday as 0.
pub(crate) fn weekday(date: Date) -> u8 {
    u8::try_from(date.weekday().to_sunday_zero_offset()).unwrap_or(0)
}

pub(crate) fn from_timestamp(at: Timestamp) -> jiff::Timestamp {
    let bound = if at.as_micros() < 0 {
        jiff::Timestamp::MIN
    } else {
        jiff::Timestamp::MAX
    };
    jiff::Timestamp::from_microsecond(at.as_micros()).unwrap_or(bound)
}

pub(crate) fn to_timestamp(at: jiff::Timestamp) -> Timestamp {
    Timestamp::from_micros(at.as_microsecond())
}
