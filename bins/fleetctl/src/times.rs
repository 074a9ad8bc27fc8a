//! Moments and durations for people.

use std::time::Duration;

/// RFC 3339 to the second, in UTC; empty when there is none.
pub(crate) fn moment(at: Option<&fleet_wire::Timestamp>) -> String {
    at.map(|at| {
        let text =
            fleet_core::Timestamp::from_micros(at.seconds.saturating_mul(1_000_000)).to_string();
        text.split('.')
            .next()
            .map(|head| format!("{head}Z"))
            .unwrap_or(text)
    })
    .unwrap_or_default()
}

/// Whole seconds as the wire counts them.
pub(crate) fn seconds(seconds: i64) -> fleet_wire::Duration {
    fleet_wire::Duration { seconds, nanos: 0 }
}

/// `0.84 s`, `12.3 s`, `3 min 20 s`.
pub(crate) fn span(millis: i64) -> String {
    let span = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
    match span.as_secs() {
        0..=9 => format!("{:.2} s", span.as_secs_f64()),
        10..=59 => format!("{:.1} s", span.as_secs_f64()),
        secs => format!("{} min {} s", secs / 60, secs % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_well() {
        for (millis, text) in [
            (0, "0.00 s"),
            (840, "0.84 s"),
            (12_340, "12.3 s"),
            (200_000, "3 min 20 s"),
            (-5, "0.00 s"),
        ] {
            assert_eq!(span(millis), text);
        }
    }

    #[test]
    fn moments_are_utc() {
        let at = fleet_wire::Timestamp {
            seconds: 1_700_000_000,
            nanos: 999,
        };
        assert_eq!(moment(Some(&at)), "2023-11-14T22:13:20Z");
        assert_eq!(moment(None), "");
    }
}
