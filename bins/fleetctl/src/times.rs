//! Formats timestamps and durations for people.

use std::time::Duration;

/// Formats a timestamp as RFC 3339 in UTC, to the second; empty if it is absent.
pub(crate) fn timestamp(at: Option<&fleet_wire::Timestamp>) -> String {
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

/// Converts whole seconds to a protobuf duration.
pub(crate) fn seconds(seconds: i64) -> fleet_wire::Duration {
    fleet_wire::Duration { seconds, nanos: 0 }
}

/// Formats milliseconds: `0.84 s`, `12.3 s`, `3 min 20 s`.
pub(crate) fn duration(millis: i64) -> String {
    let duration = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
    match duration.as_secs() {
        0..=9 => format!("{:.2} s", duration.as_secs_f64()),
        10..=59 => format!("{:.1} s", duration.as_secs_f64()),
        secs => format!("{} min {} s", secs / 60, secs % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_or_three_digits() {
        for (millis, text) in [
            (0, "0.00 s"),
            (840, "0.84 s"),
            (12_340, "12.3 s"),
            (200_000, "3 min 20 s"),
            (-5, "0.00 s"),
        ] {
            assert_eq!(duration(millis), text);
        }
    }

    #[test]
    fn timestamps_are_in_utc() {
        let at = fleet_wire::Timestamp {
            seconds: 1_700_000_000,
            nanos: 999,
        };
        assert_eq!(timestamp(Some(&at)), "2023-11-14T22:13:20Z");
        assert_eq!(timestamp(None), "");
    }
}
