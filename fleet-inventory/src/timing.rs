//! When a schedule runs: its recurrence, time zone, jitter and blackout windows. Start with [`Timing::parse`] and
//! [`Timing::runs`]. What a due run does is in `schedule.rs`.

use std::{collections::VecDeque, time::Duration};

use fleet_core::{ScheduleId, Timestamp};
use jiff::civil::Date;

use crate::{
    blackout::{self, Blackout, BlackoutError},
    cron::{Cron, CronError},
    zone::{self, Repeated, UnknownZone, Zone},
};

/// The shortest interval: each run is a scan with commands, events and records.
const INTERVAL_LEAST: Duration = Duration::from_secs(60);
/// The longest interval: a year.
const INTERVAL_MOST: Duration = Duration::from_secs(366 * 24 * 3600);
/// The longest jitter.
const JITTER_MOST: Duration = Duration::from_secs(3600);
/// How many days ahead a run is searched for. The rarest expression, the 29th of February, has a gap of eight years
/// around 2100.
const SEARCH_DAYS: u32 = 8 * 366 + 2;
/// How many due times in blackout windows one iteration passes over in total: a year in steps of five minutes.
const SEARCH_INTERVALS: u32 = 105_408;
/// How many runs are compared with the jitter: those of a day in steps of 15 minutes.
const COMPARED: usize = 96;

/// The texts of a timing, as the API and the storage have them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimingText {
    /// An expression of cron such as `30 2 * * mon-fri`, or an interval such as `every 6h`.
    pub when: String,
    /// The IANA name of the time zone.
    pub zone: String,
    /// The jitter.
    pub jitter: Duration,
    /// The blackout windows, separated by `;`.
    pub blackouts: String,
}

/// When a schedule runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    recurrence: Recurrence,
    zone: Zone,
    jitter: Duration,
    blackouts: Vec<Blackout>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Recurrence {
    Cron(Cron),
    Every(Duration),
}

/// Why a timing is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// The expression is not valid.
    #[error(transparent)]
    Cron(#[from] CronError),
    /// The interval is not valid.
    #[error(
        "`{0}` is not an interval: expected `every` and 1 minute to 366 days, such as `every 30m`, `every 6h` or `every 7d`"
    )]
    Interval(String),
    /// The time zone is not known.
    #[error(transparent)]
    Zone(#[from] UnknownZone),
    /// The windows are not valid.
    #[error(transparent)]
    Blackout(#[from] BlackoutError),
    /// The jitter is too long.
    #[error("the jitter of {0} s is too long: at most {most} s are accepted", most = JITTER_MOST.as_secs())]
    Jitter(u64),
    /// The jitter is not shorter than the time between two runs.
    #[error(
        "the jitter of {jitter} s is not shorter than the {shortest} s between two runs: choose a shorter jitter"
    )]
    JitterOverlaps {
        /// The jitter, in seconds.
        jitter: u64,
        /// The shortest time between two runs, in seconds.
        shortest: u64,
    },
    /// No run is left.
    #[error("no time is left: the blackout windows cover every run of `{0}`")]
    Never(String),
}

/// One run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// The time that the recurrence gives. It identifies the run.
    pub due: Timestamp,
    /// When it starts: the due time with the jitter.
    pub at: Timestamp,
}

/// The values of one schedule on which its runs depend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Basis {
    /// The schedule, which determines the jitter. A preview has none and shows due times.
    pub schedule: Option<ScheduleId>,
    /// The time from which intervals count.
    pub since: Timestamp,
}

impl Timing {
    /// Reads the texts of a timing that was stored. A new one needs [`Self::check`] too.
    ///
    /// # Errors
    ///
    /// The first text that is not valid.
    pub fn parse(text: &TimingText) -> Result<Self, TimingError> {
        if text.jitter > JITTER_MOST {
            return Err(TimingError::Jitter(text.jitter.as_secs()));
        }
        Ok(Self {
            recurrence: parse_recurrence(&text.when)?,
            zone: text.zone.parse()?,
            jitter: text.jitter,
            blackouts: Blackout::parse_list(&text.blackouts)?,
        })
    }

    /// Checks that a run is left after `now`, and that the jitter is shorter than the time between runs.
    ///
    /// # Errors
    ///
    /// The rule that the timing breaks.
    pub fn check(&self, now: Timestamp) -> Result<(), TimingError> {
        let basis = Basis {
            schedule: None,
            since: now,
        };
        let runs: Vec<Run> = self.runs(basis, now).take(COMPARED).collect();
        if runs.is_empty() {
            return Err(TimingError::Never(self.recurrence_text()));
        }
        let shortest = runs
            .windows(2)
            .map(|pair| pair[1].due.since(pair[0].due))
            .min();
        match shortest {
            Some(shortest) if self.jitter >= shortest => Err(TimingError::JitterOverlaps {
                jitter: self.jitter.as_secs(),
                shortest: shortest.as_secs(),
            }),
            _ => Ok(()),
        }
    }

    /// The texts of the timing, in their normal form.
    pub fn text(&self) -> TimingText {
        let blackouts: Vec<String> = self.blackouts.iter().map(ToString::to_string).collect();
        TimingText {
            when: self.recurrence_text(),
            zone: self.zone.to_string(),
            jitter: self.jitter,
            blackouts: blackouts.join("; "),
        }
    }

    /// The runs that are due after a moment, in order. Runs in a blackout window are left out. The iterator ends early
    /// when it has left out very many.
    pub fn runs(&self, basis: Basis, after: Timestamp) -> impl Iterator<Item = Run> + '_ {
        let due: Box<dyn Iterator<Item = Timestamp>> = match &self.recurrence {
            Recurrence::Cron(cron) => Box::new(Days::new(cron, &self.zone, after)),
            Recurrence::Every(interval) => Box::new(Intervals::new(*interval, basis.since, after)),
        };
        // One budget for the whole iteration: with one for each run, a preview of many runs would take seconds.
        due.scan(0, move |skipped, due| {
            let run = (!self.is_blacked_out(due)).then(|| self.run(basis, due));
            *skipped += u32::from(run.is_none());
            (*skipped < SEARCH_INTERVALS).then_some(run)
        })
        .flatten()
    }

    /// The local time of a moment with its offset, such as `2026-03-29T03:00:00+02:00`.
    pub fn local_text(&self, at: Timestamp) -> String {
        self.zone.text(at)
    }

    /// Whether a moment lies in a blackout window.
    pub fn is_blacked_out(&self, at: Timestamp) -> bool {
        blackout::is_blacked_out(&self.blackouts, &self.zone, at)
    }

    /// The run of a due time. A jitter that would move it into a blackout window does not apply.
    fn run(&self, basis: Basis, due: Timestamp) -> Run {
        let delay = basis
            .schedule
            .map_or(Duration::ZERO, |schedule| delay(schedule, due, self.jitter));
        let at = due.plus(delay);
        Run {
            due,
            at: if self.is_blacked_out(at) { due } else { at },
        }
    }

    fn recurrence_text(&self) -> String {
        match &self.recurrence {
            Recurrence::Cron(cron) => cron.to_string(),
            Recurrence::Every(interval) => format!("every {}", interval_text(*interval)),
        }
    }
}

/// The jitter of a run: the same on every server, and spread over the schedules.
fn delay(schedule: ScheduleId, due: Timestamp, jitter: Duration) -> Duration {
    // FNV-1a, then the finalizer of splitmix64, which spreads it over all bits. No attacker gains from a guess.
    let text = format!("{schedule} {}", due.as_micros());
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = hash ^ (hash >> 31);
    Duration::from_secs(hash % (jitter.as_secs() + 1))
}

fn parse_recurrence(text: &str) -> Result<Recurrence, TimingError> {
    let lower = text.trim().to_ascii_lowercase();
    let Some(interval) = lower.strip_prefix("every ") else {
        return Ok(Recurrence::Cron(text.parse()?));
    };
    let refused =
        || TimingError::Interval(text.chars().take(64).flat_map(char::escape_debug).collect());
    let interval = interval.trim();
    let split = interval.len().saturating_sub(1);
    let (number, unit) = interval.split_at_checked(split).ok_or_else(refused)?;
    let seconds = match unit {
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(refused()),
    };
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits
        .then(|| number.parse::<u32>().ok())
        .flatten()
        .ok_or_else(refused)?;
    let interval = Duration::from_secs(u64::from(number) * seconds);
    if !(INTERVAL_LEAST..=INTERVAL_MOST).contains(&interval) {
        return Err(refused());
    }
    Ok(Recurrence::Every(interval))
}

fn interval_text(interval: Duration) -> String {
    let minutes = interval.as_secs() / 60;
    match minutes {
        _ if minutes.is_multiple_of(24 * 60) => format!("{}d", minutes / (24 * 60)),
        _ if minutes.is_multiple_of(60) => format!("{}h", minutes / 60),
        _ => format!("{minutes}m"),
    }
}

/// The due times of an interval. They count from a fixed time, and a change of the clock does not move them.
struct Intervals {
    interval: Duration,
    next: Timestamp,
}

impl Intervals {
    fn new(interval: Duration, since: Timestamp, after: Timestamp) -> Self {
        let passed = after.since(since).as_micros() / interval.as_micros().max(1);
        let steps = u32::try_from(passed + 1).unwrap_or(u32::MAX);
        let first = since.plus(interval.saturating_mul(steps));
        Self {
            interval,
            next: first,
        }
    }
}

impl Iterator for Intervals {
    type Item = Timestamp;

    fn next(&mut self) -> Option<Timestamp> {
        let due = self.next;
        self.next = due.plus(self.interval);
        Some(due)
    }
}

/// The due times of an expression, day by day in local time.
///
/// A time that the clock skips runs when the clock is set forward, together with other such times. Of a time that
/// the clock shows twice, the first runs; both do when the expression has `*` as its hour, because it means a rhythm
/// then.
struct Days<'a> {
    cron: &'a Cron,
    zone: &'a Zone,
    day: Option<Date>,
    waiting: VecDeque<Timestamp>,
    last: Timestamp,
}

impl<'a> Days<'a> {
    fn new(cron: &'a Cron, zone: &'a Zone, after: Timestamp) -> Self {
        // A moment of the local day before can lie after this one, where the clock is set back over midnight.
        let today = zone.local(after).date();
        Self {
            cron,
            zone,
            day: today.yesterday().ok().or(Some(today)),
            waiting: VecDeque::new(),
            last: after,
        }
    }

    fn fill(&mut self, date: Date) {
        let repeated = if self.cron.is_every_hour() {
            Repeated::Both
        } else {
            Repeated::First
        };
        let times = self.cron.times().filter_map(|(hour, minute)| {
            let (hour, minute) = (i8::try_from(hour).ok()?, i8::try_from(minute).ok()?);
            Some(date.at(hour, minute, 0, 0))
        });
        let moments = times
            .flat_map(|time| self.zone.moments(time, repeated))
            .flatten();
        let mut moments: Vec<Timestamp> = moments.filter(|at| *at > self.last).collect();
        moments.sort_unstable();
        moments.dedup();
        self.waiting.extend(moments);
    }
}

impl Iterator for Days<'_> {
    type Item = Timestamp;

    fn next(&mut self) -> Option<Timestamp> {
        let mut searched = 0;
        while self.waiting.is_empty() && searched < SEARCH_DAYS {
            let date = self.day?;
            let (month, day) = (
                u8::try_from(date.month()).ok()?,
                u8::try_from(date.day()).ok()?,
            );
            if self.cron.has_day(month, day, zone::weekday(date)) {
                self.fill(date);
            }
            self.day = date.tomorrow().ok();
            searched += 1;
        }
        let due = self.waiting.pop_front()?;
        self.last = due;
        Some(due)
    }
}

#[cfg(test)]
mod tests;
