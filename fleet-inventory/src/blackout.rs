//! Windows in which a schedule does not run. Start with [`Blackout`].

use std::{fmt, str::FromStr, time::Duration};

use fleet_core::Timestamp;

use crate::zone::{Zone, weekday};

/// The most windows of one schedule.
const MOST: usize = 16;
/// The longest text of all windows, in bytes.
const LONGEST: usize = 1024;
const DAY: u16 = 24 * 60;
/// Minutes of a week.
const WEEK: usize = 7 * DAY as usize;
const MINUTE: Duration = Duration::from_secs(60);
const NAMES: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A window that is repeated each week in the schedule's time zone, such as `mon-fri 08:00-18:00` or `22:00-06:00`.
///
/// The first minute belongs to the window and the last does not. A window whose end is not after its start ends on
/// the next day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blackout {
    /// The days on which the window starts, as bits from Sunday.
    days: u8,
    from: u16,
    to: u16,
}

/// A text that is not a list of windows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlackoutError {
    /// A window is not valid.
    #[error(
        "`{0}` is not a blackout window: expected `08:00-18:00` or, with days, `mon-fri 08:00-18:00`"
    )]
    Window(String),
    /// There are too many windows.
    #[error("{0} blackout windows were given: at most {MOST} are accepted")]
    TooMany(usize),
    /// The text is too long.
    #[error("the blackout windows have {0} bytes: at most {LONGEST} are accepted")]
    TooLong(usize),
}

impl Blackout {
    /// Reads windows that are separated by `;`. An empty text means none.
    ///
    /// # Errors
    ///
    /// The first window that is not valid, or that there are too many.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, BlackoutError> {
        if text.len() > LONGEST {
            return Err(BlackoutError::TooLong(text.len()));
        }
        let windows = text
            .split(';')
            .map(str::trim)
            .filter(|window| !window.is_empty());
        let count = windows.clone().count();
        if count > MOST {
            return Err(BlackoutError::TooMany(count));
        }
        windows.map(str::parse).collect()
    }

    /// Whether the window contains a moment. The local time of the moment decides, on both sides of a change of the
    /// clock.
    pub fn contains(&self, zone: &Zone, at: Timestamp) -> bool {
        let local = zone.local(at);
        let minute = local.hour() as u16 * 60 + local.minute() as u16;
        let today = weekday(local.date());
        let starts = |day: u8| self.days & (1 << day) != 0;
        if self.from < self.to {
            return starts(today) && (self.from..self.to).contains(&minute);
        }
        let yesterday = (today + 6) % 7;
        (starts(today) && minute >= self.from) || (starts(yesterday) && minute < self.to)
    }
}

impl FromStr for Blackout {
    type Err = BlackoutError;

    fn from_str(text: &str) -> Result<Self, BlackoutError> {
        let lower = text.trim().to_ascii_lowercase();
        read(&lower).ok_or_else(|| {
            BlackoutError::Window(text.chars().take(64).flat_map(char::escape_debug).collect())
        })
    }
}

fn read(text: &str) -> Option<Blackout> {
    let (days, times) = match text.rsplit_once(' ') {
        Some((days, times)) => (read_days(days.trim())?, times),
        None => (0x7f, text),
    };
    let (from, to) = times.split_once('-')?;
    let (from, to) = (read_time(from)?, read_time(to)?);
    // 24:00 is an end and not a start, and a window without a minute is a mistake.
    (from < DAY && from != to).then_some(Blackout { days, from, to })
}

fn read_days(text: &str) -> Option<u8> {
    let position = |name: &str| NAMES.iter().position(|known| *known == name);
    text.split(',').map(str::trim).try_fold(0, |days, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (position(first)?, position(last)?);
        // `fri-mon` passes the end of the week.
        let length = (last + 7 - first) % 7;
        Some((0..=length).fold(days, |days, step| days | 1 << ((first + step) % 7)))
    })
}

fn read_time(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(hour) || !digits(minute) {
        return None;
    }
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    let time = hour * 60 + minute;
    (minute < 60 && time <= DAY).then_some(time)
}

impl fmt::Display for Blackout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days != 0x7f {
            let days = (0..7)
                .filter(|day| self.days & (1 << day) != 0)
                .map(|day| NAMES[day]);
            write!(f, "{} ", days.collect::<Vec<_>>().join(","))?;
        }
        let (from, to) = (self.from, self.to);
        write!(
            f,
            "{:02}:{:02}-{:02}:{:02}",
            from / 60,
            from % 60,
            to / 60,
            to % 60
        )
    }
}

/// The end of a blackout that contains a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlackoutEnd {
    /// The first minute outside of all windows; a week after the moment if there is none.
    pub at: Timestamp,
    /// The same as local time with the name of the zone, such as `2026-11-30 18:00 Europe/Berlin`.
    pub local: String,
    /// The window that contains the moment.
    pub window: Blackout,
}

/// Returns when the blackout around a moment ends; none if no window contains the moment. Windows that touch each other
/// are one blackout.
pub fn blackout_end(windows: &[Blackout], zone: &Zone, now: Timestamp) -> Option<BlackoutEnd> {
    let around = |at| windows.iter().find(|window| window.contains(zone, at));
    let window = around(now)?.clone();
    // Windows start and end at full minutes of the local time. Zones differ from UTC by full minutes.
    let minute = MINUTE.as_micros() as i64;
    let first = now.as_micros().div_euclid(minute) + 1;
    let minutes = (first..)
        .take(WEEK)
        .map(|at| Timestamp::from_micros(at * minute));
    let at = minutes
        .clone()
        .find(|at| around(*at).is_none())
        .or(minutes.last())?;
    let local = zone.local(at);
    Some(BlackoutEnd {
        at,
        local: format!(
            "{} {:02}:{:02} {zone}",
            local.date(),
            local.hour(),
            local.minute()
        ),
        window,
    })
}

/// Whether a window contains a moment. It is much cheaper than [`blackout_end`].
pub fn is_blacked_out(windows: &[Blackout], zone: &Zone, at: Timestamp) -> bool {
    windows.iter().any(|window| window.contains(zone, at))
}

/// Whether the windows leave no minute of a week.
pub fn is_always(windows: &[Blackout], zone: &Zone) -> bool {
    // A week without a change of the clock, from Sunday, 4 January 1970.
    let start = Timestamp::from_micros(0).plus(MINUTE * 60 * 24 * 3);
    (0..WEEK as u32).all(|minute| is_blacked_out(windows, zone, start.plus(MINUTE * minute)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(window: &str, local: &str) -> bool {
        let zone: Zone = "Europe/Berlin".parse().expect("known");
        let at: jiff::Timestamp = local.parse().expect(local);
        let window: Blackout = window.parse().expect(window);
        assert_eq!(window.to_string().parse(), Ok(window.clone()), "{window}");
        window.contains(&zone, crate::zone::to_timestamp(at))
    }

    #[test]
    fn windows_follow_local_days_and_cross_midnight() {
        // 2026-06-01 is a Monday; Berlin is two hours ahead of UTC.
        for (window, at, expected) in [
            ("mon-fri 08:00-18:00", "2026-06-01T05:59:59Z", false),
            ("mon-fri 08:00-18:00", "2026-06-01T06:00:00Z", true),
            ("mon-fri 08:00-18:00", "2026-06-01T15:59:59Z", true),
            ("mon-fri 08:00-18:00", "2026-06-01T16:00:00Z", false),
            ("mon-fri 08:00-18:00", "2026-06-06T10:00:00Z", false),
            ("fri 22:00-06:00", "2026-06-05T20:00:00Z", true),
            ("fri 22:00-06:00", "2026-06-06T03:59:00Z", true),
            ("fri 22:00-06:00", "2026-06-06T04:00:00Z", false),
            ("fri 22:00-06:00", "2026-06-05T03:00:00Z", false),
            ("fri-mon 00:00-24:00", "2026-06-01T10:00:00Z", true),
            ("fri-mon 00:00-24:00", "2026-06-02T10:00:00Z", false),
            ("22:00-24:00", "2026-06-02T21:59:00Z", true),
        ] {
            assert_eq!(contains(window, at), expected, "{window} at {at}");
        }
    }

    #[test]
    fn invalid_windows_are_named() {
        for text in [
            "8:00-9:00",
            "08:00",
            "24:00-01:00",
            "08:00-08:00",
            "08:60-09:00",
            "xyz 08:00-09:00",
            "mon 08:00-25:00",
        ] {
            let error = Blackout::parse_list(&format!("22:00-23:00; {text}")).expect_err(text);
            assert_eq!(error, BlackoutError::Window(text.to_owned()));
        }
        assert_eq!(Blackout::parse_list(" ; ").expect("empty"), []);
        let many = "22:00-23:00;".repeat(MOST + 1);
        assert_eq!(Blackout::parse_list(&many), Err(BlackoutError::TooMany(17)));
        assert_eq!(
            Blackout::parse_list(&"x".repeat(2000)),
            Err(BlackoutError::TooLong(2000))
        );
    }

    fn end(windows: &str, now: &str) -> Option<(String, String)> {
        let zone: Zone = "Europe/Berlin".parse().expect("known");
        let now: jiff::Timestamp = now.parse().expect(now);
        let windows = Blackout::parse_list(windows).expect(windows);
        let now = crate::zone::to_timestamp(now);
        let end = blackout_end(&windows, &zone, now);
        assert_eq!(is_blacked_out(&windows, &zone, now), end.is_some());
        let end = end?;
        let at = crate::zone::from_timestamp(end.at);
        Some((at.to_string(), end.local))
    }

    #[test]
    fn a_blackout_ends_at_the_first_minute_outside_of_all_windows() {
        for (windows, now, expected) in [
            ("08:00-18:00", "2026-11-30T05:00:00Z", None),
            (
                "08:00-18:00",
                "2026-11-30T09:30:15Z",
                Some(("2026-11-30T17:00:00Z", "2026-11-30 18:00 Europe/Berlin")),
            ),
            // The last minute belongs to the window.
            (
                "08:00-18:00",
                "2026-11-30T16:59:59Z",
                Some(("2026-11-30T17:00:00Z", "2026-11-30 18:00 Europe/Berlin")),
            ),
            ("08:00-18:00", "2026-11-30T17:00:00Z", None),
            // Windows that touch each other are one blackout.
            (
                "mon 08:00-24:00; tue 00:00-06:00",
                "2026-11-30T12:00:00Z",
                Some(("2026-12-01T05:00:00Z", "2026-12-01 06:00 Europe/Berlin")),
            ),
            // The night of the change to winter time has an hour more.
            (
                "sat 22:00-06:00",
                "2026-10-24T21:00:00Z",
                Some(("2026-10-25T05:00:00Z", "2026-10-25 06:00 Europe/Berlin")),
            ),
            (
                "00:00-12:00; 12:00-24:00",
                "2026-11-30T09:00:00Z",
                Some(("2026-12-07T09:00:00Z", "2026-12-07 10:00 Europe/Berlin")),
            ),
        ] {
            let expected = expected.map(|(at, local)| (at.to_owned(), local.to_owned()));
            assert_eq!(end(windows, now), expected, "{windows} at {now}");
        }
    }

    #[test]
    fn windows_that_leave_no_minute_are_recognized() {
        let zone: Zone = "Asia/Kolkata".parse().expect("known");
        for (windows, expected) in [
            ("", false),
            ("00:00-24:00", true),
            ("00:00-23:59", false),
            ("mon-sun 06:00-18:00; 18:00-06:00", true),
            ("mon-sat 00:00-24:00", false),
        ] {
            let windows = Blackout::parse_list(windows).expect(windows);
            assert_eq!(is_always(&windows, &zone), expected, "{windows:?}");
        }
    }
}
