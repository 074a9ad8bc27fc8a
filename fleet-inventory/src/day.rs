//! Counts of the inventory per day, for the chart of the overview. Days are those of UTC, because the sites of an
//! organization can be in several time zones. Start with [`last_days`].

use std::collections::BTreeMap;

use fleet_core::Timestamp;

/// The days that the overview shows.
pub const DAYS: usize = 30;

const MICROS: i64 = 86_400_000_000;

/// A day of UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(i64);

impl Day {
    /// The day of a moment.
    pub fn of(time: Timestamp) -> Self {
        Self(time.as_micros().div_euclid(MICROS))
    }

    /// Reads the number of days since 1970-01-01.
    pub fn from_number(number: i64) -> Self {
        Self(number)
    }

    /// The number of days since 1970-01-01.
    pub fn number(self) -> i64 {
        self.0
    }

    /// Its first moment.
    pub fn start(self) -> Timestamp {
        Timestamp::from_micros(self.0.saturating_mul(MICROS))
    }

    /// The day that is this many days earlier.
    #[must_use]
    pub fn minus(self, days: usize) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(days).unwrap_or(i64::MAX)),
        )
    }

    /// The date as `2026-01-31`.
    pub fn date(self) -> String {
        let text = self.start().to_string();
        text.split_once('T')
            .map_or(String::new(), |(date, _)| date.to_owned())
    }
}

/// How many devices something happened to on a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DayCounts {
    /// Devices that were reported, each once.
    pub seen: u64,
    /// Devices that were reported for the first time.
    pub new: u64,
    /// Devices that became missing.
    pub missing: u64,
}

impl DayCounts {
    /// Whether nothing happened.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, other: Self) {
        self.seen = self.seen.saturating_add(other.seen);
        self.new = self.new.saturating_add(other.new);
        self.missing = self.missing.saturating_add(other.missing);
    }
}

/// The last [`DAYS`] days with the sums of their rows, oldest first. Days without a row have zeros, and rows of other
/// days do not count.
pub fn last_days(
    today: Day,
    rows: impl IntoIterator<Item = (Day, DayCounts)>,
) -> Vec<(Day, DayCounts)> {
    let mut days: BTreeMap<Day, DayCounts> = (0..DAYS)
        .map(|back| (today.minus(back), DayCounts::default()))
        .collect();
    for (day, counts) in rows {
        if let Some(sum) = days.get_mut(&day) {
            sum.add(counts);
        }
    }
    days.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_a_day_of_utc() {
        for (micros, number, date) in [
            (0, 0, "1970-01-01"),
            (-1, -1, "1969-12-31"),
            (MICROS - 1, 0, "1970-01-01"),
            (1_709_164_800_000_000, 19_782, "2024-02-29"),
        ] {
            let day = Day::of(Timestamp::from_micros(micros));
            assert_eq!(
                (day.number(), day.date().as_str()),
                (number, date),
                "{micros}"
            );
            assert_eq!(Day::of(day.start()), day);
            assert_eq!(Day::from_number(number), day);
        }
    }

    #[test]
    fn thirty_days_end_today_and_have_the_sums_of_their_rows() {
        let today = Day::from_number(20_000);
        let one = DayCounts {
            seen: 3,
            new: 2,
            missing: 1,
        };
        let days = last_days(
            today,
            [
                (today, one),
                (today, one),
                (today.minus(29), one),
                (today.minus(30), one),
            ],
        );
        assert_eq!(days.len(), DAYS);
        assert_eq!(days.first(), Some(&(today.minus(29), one)));
        let twice = DayCounts {
            seen: 6,
            new: 4,
            missing: 2,
        };
        assert_eq!(days.last(), Some(&(today, twice)));
        let between = days.get(1..29).expect("28 days");
        assert!(between.iter().all(|(_, counts)| counts.is_zero()));
        assert!(days.windows(2).all(|two| two[0].0 == two[1].0.minus(1)));
    }
}
