//! Expressions of five fields in the manner of cron: which local minutes they select. Time zones are not part of this
//! file. Start with [`Cron`].

use std::{fmt, str::FromStr};

/// The longest accepted expression, in bytes. A list of every minute has 169.
const LONGEST: usize = 256;

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Names for common expressions.
const NICKNAMES: [(&str, &str); 6] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// An expression of the five fields minute, hour, day of the month, month and day of the week.
///
/// A field is `*`, a number, a range `a-b`, a step `*/n` or `a-b/n`, or a list of these. Months and days of the week
/// have English names of three letters; Sunday is 0 and 7. When both days are restricted, a day that fits one of them
/// is selected, as in cron.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    text: String,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    every_hour: bool,
    any_day: bool,
    any_weekday: bool,
}

/// A text that is not an expression, or one that selects no day of any year.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// The text is too long.
    #[error("the cron expression has {0} bytes: at most {LONGEST} are accepted")]
    TooLong(usize),
    /// The number of fields is not five.
    #[error(
        "`{text}` has {found} fields: expected the five fields minute, hour, day of the month, month and day of the week, \
         such as `30 2 * * mon-fri`, or one of @hourly, @daily, @weekly, @monthly, @yearly"
    )]
    Fields {
        /// The text.
        text: String,
        /// The number of its fields.
        found: usize,
    },
    /// A part of a field is not valid.
    #[error(
        "`{part}` is not valid in the field {field}: expected {least} to {most}, `*`, a range `a-b` or a step `/n`"
    )]
    Part {
        /// The name of the field.
        field: &'static str,
        /// The part.
        part: String,
        /// The least value.
        least: u8,
        /// The largest value.
        most: u8,
    },
    /// No day of any year is selected.
    #[error("`{0}` selects no day: none of its months has such a day")]
    Never(String),
}

/// A field: its name, its values, and names for them.
struct Field {
    name: &'static str,
    least: u8,
    most: u8,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field {
        name: "minute",
        least: 0,
        most: 59,
        names: &[],
    },
    Field {
        name: "hour",
        least: 0,
        most: 23,
        names: &[],
    },
    Field {
        name: "day of the month",
        least: 1,
        most: 31,
        names: &[],
    },
    Field {
        name: "month",
        least: 1,
        most: 12,
        names: &MONTHS,
    },
    Field {
        name: "day of the week",
        least: 0,
        most: 7,
        names: &WEEKDAYS,
    },
];

impl FromStr for Cron {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        if text.len() > LONGEST {
            return Err(CronError::TooLong(text.len()));
        }
        let text = text
            .split_ascii_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .to_ascii_lowercase();
        let nickname = NICKNAMES.iter().find(|(name, _)| *name == text);
        let fields: Vec<&str> = nickname
            .map_or(&*text, |(_, fields)| fields)
            .split(' ')
            .collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(CronError::Fields {
                found: fields.iter().filter(|f| !f.is_empty()).count(),
                text: shown(&text),
            });
        };
        let [of_minute, of_hour, of_day, of_month, of_weekday] = &FIELDS;
        let weekdays = of_weekday.read(weekday)?;
        let cron = Self {
            minutes: of_minute.read(minute)?,
            hours: of_hour.read(hour)?,
            days: of_day.read(day)?,
            months: of_month.read(month)?,
            weekdays: (weekdays | weekdays >> 7) & 0x7f,
            every_hour: hour.starts_with('*'),
            any_day: day.starts_with('*'),
            any_weekday: weekday.starts_with('*'),
            text,
        };
        if cron.selects_a_day() {
            Ok(cron)
        } else {
            Err(CronError::Never(cron.text))
        }
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Cron {
    /// Whether the field of hours begins with `*`. Such an expression means a rhythm and not a time of the day.
    pub fn is_every_hour(&self) -> bool {
        self.every_hour
    }

    /// Whether a day is selected: `month` and `day` count from 1, and Sunday is the weekday 0.
    pub fn has_day(&self, month: u8, day: u8, weekday: u8) -> bool {
        let (day, weekday) = (has(self.days, day), has(self.weekdays, weekday));
        // Both fields restrict the day: cron takes a day that fits one of them.
        let day = if self.any_day || self.any_weekday {
            day && weekday
        } else {
            day || weekday
        };
        day && has(self.months, month)
    }

    /// Lists the selected times of a day in order, as hour and minute.
    pub fn times(&self) -> impl Iterator<Item = (u8, u8)> + '_ {
        (0..24)
            .filter(|hour| has(self.hours, *hour))
            .flat_map(move |hour| {
                (0..60)
                    .filter(|minute| has(self.minutes, *minute))
                    .map(move |minute| (hour, minute))
            })
    }

    fn selects_a_day(&self) -> bool {
        const LONGEST_MONTHS: [u8; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        // Every date falls on each day of the week in some year.
        let by_weekday = !self.any_weekday && !self.any_day;
        by_weekday
            || (1..=12).zip(LONGEST_MONTHS).any(|(month, days)| {
                has(self.months, month) && (1..=days).any(|day| has(self.days, day))
            })
    }
}

fn has(set: u64, value: u8) -> bool {
    set & (1 << value) != 0
}

fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

impl Field {
    /// Reads a list of parts to a set of bits.
    fn read(&self, text: &str) -> Result<u64, CronError> {
        text.split(',').try_fold(0, |set, part| {
            Ok(set | self.part(part).ok_or_else(|| self.refuse(part))?)
        })
    }

    fn refuse(&self, part: &str) -> CronError {
        CronError::Part {
            field: self.name,
            part: shown(part),
            least: self.least,
            most: self.most,
        }
    }

    fn part(&self, text: &str) -> Option<u64> {
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (range, Some(number(step).filter(|step| *step > 0)?)),
            None => (text, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (self.least, self.most),
            Some((first, last)) => (self.value(first)?, self.value(last)?),
            None => {
                let first = self.value(range)?;
                // `5/15` means from 5 to the end, as `5-59/15`.
                (first, if step.is_some() { self.most } else { first })
            }
        };
        // Sunday ends a week too: `fri-sun` is 5 to 7.
        let last = if last == 0 && first > 0 && self.most == 7 {
            7
        } else {
            last
        };
        if first > last {
            return None;
        }
        Some(
            (first..=last)
                .step_by(usize::from(step.unwrap_or(1)))
                .fold(0, |set, value| set | 1 << value),
        )
    }

    fn value(&self, text: &str) -> Option<u8> {
        let named = self
            .names
            .iter()
            .zip(self.least..)
            .find(|(name, _)| **name == text);
        let value = match named {
            Some((_, value)) => value,
            None => number(text)?,
        };
        (self.least..=self.most).contains(&value).then_some(value)
    }
}

/// Reads one or two digits: `+5` and `005`, which `parse` accepts, are not numbers of cron.
fn number(text: &str) -> Option<u8> {
    let digits = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(text: &str) -> String {
        let cron: Cron = text.parse().expect(text);
        let times: Vec<String> = cron
            .times()
            .map(|(hour, minute)| format!("{hour}:{minute:02}"))
            .collect();
        times.join(" ")
    }

    /// The days of a month of 31 days that starts on a Monday.
    fn days(text: &str, month: u8) -> Vec<u8> {
        let cron: Cron = text.parse().expect(text);
        (1..=31)
            .filter(|day| cron.has_day(month, *day, day % 7))
            .collect()
    }

    #[test]
    fn times_of_a_day_are_listed_in_order() {
        for (text, expected) in [
            ("30 2 * * *", "2:30"),
            ("0 9-17/4 * * *", "9:00 13:00 17:00"),
            ("*/20 6,18 * * *", "6:00 6:20 6:40 18:00 18:20 18:40"),
            ("50/5 0 * * *", "0:50 0:55"),
            ("5,5,4 1 * * *", "1:04 1:05"),
            ("@daily", "0:00"),
        ] {
            assert_eq!(times(text), expected, "{text}");
        }
        assert_eq!(times("* * * * *").split(' ').count(), 1440);
    }

    #[test]
    fn days_fit_the_month_and_one_of_two_restricted_fields() {
        for (text, month, expected) in [
            ("0 0 10 * *", 3, vec![10]),
            ("0 0 10 feb *", 3, vec![]),
            ("0 0 * * mon", 3, vec![1, 8, 15, 22, 29]),
            ("0 0 * * 0", 3, vec![7, 14, 21, 28]),
            ("0 0 * * 7", 3, vec![7, 14, 21, 28]),
            ("0 0 * * sat-sun", 3, vec![6, 7, 13, 14, 20, 21, 27, 28]),
            ("0 0 10 * mon", 3, vec![1, 8, 10, 15, 22, 29]),
            ("0 0 */10 * mon", 3, vec![1]),
            ("0 0 31 * *", 1, vec![31]),
            ("@weekly", 1, vec![7, 14, 21, 28]),
        ] {
            assert_eq!(days(text, month), expected, "{text}");
        }
    }

    #[test]
    fn errors_name_the_part_and_its_field() {
        for (text, expected) in [
            ("60 * * * *", "`60` is not valid in the field minute"),
            ("* 24 * * *", "`24` is not valid in the field hour"),
            (
                "* * 0 * *",
                "`0` is not valid in the field day of the month",
            ),
            ("* * * 13 *", "`13` is not valid in the field month"),
            ("* * * * 8", "`8` is not valid in the field day of the week"),
            ("*/0 * * * *", "`*/0` is not valid"),
            ("5-1 * * * *", "`5-1` is not valid"),
            ("+5 * * * *", "`+5` is not valid"),
            ("1,, * * * *", "`` is not valid"),
            ("x\u{202e} * * * *", "`x\\u{202e}` is not valid"),
            ("* * * *", "has 4 fields"),
            ("", "has 0 fields"),
            ("@reboot", "has 1 fields"),
            ("0 0 30 feb *", "selects no day"),
            ("0 0 31 4,6,9,11 *", "selects no day"),
        ] {
            let error = text.parse::<Cron>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert_eq!(
            "0 ".repeat(200).parse::<Cron>(),
            Err(CronError::TooLong(400))
        );
        assert!("0 0 29 feb *".parse::<Cron>().is_ok());
        assert!(
            "0 0 30 feb mon".parse::<Cron>().is_ok(),
            "its Mondays are days"
        );
    }
}
