use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    zone::to_timestamp(text.parse().expect(text))
}

fn timing(when: &str, zone: &str) -> TimingText {
    TimingText {
        when: when.to_owned(),
        zone: zone.to_owned(),
        ..TimingText::default()
    }
}

fn basis(since: Timestamp) -> Basis {
    Basis {
        schedule: None,
        since,
    }
}

fn id(byte: u8) -> ScheduleId {
    ScheduleId::new(at("2026-01-01T00:00:00Z"), [byte; 10])
}

fn due(text: &TimingText, after: &str, count: usize) -> Vec<String> {
    let timing = Timing::parse(text).expect("valid");
    let after = at(after);
    let runs = timing.runs(basis(after), after).take(count);
    runs.map(|run| zone::from_timestamp(run.due).to_string())
        .collect()
}

/// Berlin sets its clock forward on 2026-03-29 at 01:00 UTC (02:00 to 03:00), and back on 2026-10-25 at 01:00 UTC
/// (03:00 to 02:00).
#[test]
fn changes_of_the_clock_are_defined() {
    let day = |text: &str| text.to_owned();
    for (when, after, expected) in [
        // 02:30 does not exist: the run is at 03:00, once.
        (
            "30 2 * * *",
            "2026-03-28T02:00:00Z",
            vec!["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
        ),
        // Several times in the gap are one run, and 03:00 is the same moment.
        (
            "*/15 2-3 * * *",
            "2026-03-28T12:00:00Z",
            vec![
                "2026-03-29T01:00:00Z",
                "2026-03-29T01:15:00Z",
                "2026-03-29T01:30:00Z",
            ],
        ),
        (
            "*/30 * * * *",
            "2026-03-29T00:15:00Z",
            vec![
                "2026-03-29T00:30:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-29T01:30:00Z",
            ],
        ),
        // 02:30 exists twice: the first counts.
        (
            "30 2 * * *",
            "2026-10-24T12:00:00Z",
            vec!["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
        ),
        // An expression for every hour is a rhythm: both count.
        (
            "30 * * * *",
            "2026-10-25T00:00:00Z",
            vec![
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:30:00Z",
                "2026-10-25T02:30:00Z",
            ],
        ),
        (
            "0 */2 * * *",
            "2026-10-24T23:00:00Z",
            vec![
                "2026-10-25T00:00:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T03:00:00Z",
            ],
        ),
        // An interval does not know the clock.
        (
            "every 1h",
            "2026-03-29T00:30:00Z",
            vec!["2026-03-29T01:30:00Z", "2026-03-29T02:30:00Z"],
        ),
    ] {
        let found = due(&timing(when, "Europe/Berlin"), after, expected.len());
        assert_eq!(
            found,
            expected.into_iter().map(day).collect::<Vec<_>>(),
            "{when} after {after}"
        );
    }
    // Samoa had no 2011-12-30: its times run when the day was left out, together with midnight of the 31st.
    let samoa = due(
        &timing("0 0,12 * * *", "Pacific/Apia"),
        "2011-12-29T20:00:00Z",
        3,
    );
    assert_eq!(
        samoa,
        [
            "2011-12-29T22:00:00Z",
            "2011-12-30T10:00:00Z",
            "2011-12-30T22:00:00Z"
        ][..]
    );
    // Azores set the clock back over midnight: 00:30 exists twice, and so does no other run of the day.
    let azores = due(
        &timing("30 0 * * *", "Atlantic/Azores"),
        "2026-10-24T12:00:00Z",
        2,
    );
    assert_eq!(azores, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"][..]);
}

#[test]
fn rare_days_are_found_and_impossible_timings_refused() {
    assert_eq!(
        due(&timing("0 0 29 feb *", "UTC"), "2096-03-01T00:00:00Z", 1),
        ["2104-02-29T00:00:00Z"]
    );
    let now = at("2026-06-01T00:00:00Z");
    let check = |text: &TimingText| Timing::parse(text).and_then(|timing| timing.check(now));
    let covered = TimingText {
        blackouts: "08:00-10:00".to_owned(),
        ..timing("0 9 * * *", "UTC")
    };
    assert_eq!(
        check(&covered),
        Err(TimingError::Never("0 9 * * *".to_owned()))
    );
    let always = TimingText {
        blackouts: "00:00-24:00".to_owned(),
        ..timing("every 1m", "UTC")
    };
    assert_eq!(
        check(&always),
        Err(TimingError::Never("every 1m".to_owned()))
    );
    let jitter = TimingText {
        jitter: Duration::from_secs(600),
        ..timing("*/10 * * * *", "UTC")
    };
    assert_eq!(
        check(&jitter),
        Err(TimingError::JitterOverlaps {
            jitter: 600,
            shortest: 600
        })
    );
    let jitter = TimingText {
        jitter: Duration::from_secs(3601),
        ..timing("@daily", "UTC")
    };
    assert_eq!(check(&jitter), Err(TimingError::Jitter(3601)));
    for when in [
        "every 0m",
        "every 367d",
        "every h",
        "every 5s",
        "every -5m",
        "every 99999999999h",
        "every é",
        "every ",
    ] {
        let found = check(&timing(when, "UTC"));
        assert!(
            matches!(found, Err(TimingError::Interval(_) | TimingError::Cron(_))),
            "{when}: {found:?}"
        );
    }
    for zone in ["", "Berlin", "../etc/localtime", "Europe/Berlin\0", "UTC+2"] {
        assert!(
            matches!(check(&timing("@daily", zone)), Err(TimingError::Zone(_))),
            "{zone}"
        );
    }
    for zone in ["UTC", "europe/berlin", "America/Argentina/Buenos_Aires"] {
        assert_eq!(check(&timing("@daily", zone)), Ok(()), "{zone}");
    }
}

#[test]
fn one_iteration_passes_over_a_limited_number_of_times() {
    // One minute a week is left, so 10,079 times are left out before each run.
    let text = TimingText {
        blackouts: "00:00-23:59; mon-sat 23:59-24:00".to_owned(),
        ..timing("every 1m", "UTC")
    };
    let runs = due(&text, "2026-06-01T00:00:00Z", COMPARED);
    assert_eq!(
        (runs.len(), &*runs[0]),
        (10, "2026-06-07T23:59:00Z"),
        "{runs:?}"
    );
    let now = at("2026-06-01T00:00:00Z");
    let checked = Timing::parse(&text).and_then(|timing| timing.check(now));
    assert_eq!(checked, Ok(()));
}

#[test]
fn intervals_count_from_their_start_and_windows_leave_runs_out() {
    let text = TimingText {
        blackouts: "mon 00:00-10:00".to_owned(),
        ..timing("every 4h", "UTC")
    };
    let timing = Timing::parse(&text).expect("valid");
    let since = at("2026-06-01T01:00:00Z");
    let runs = |after: &str| -> Vec<String> {
        let runs = timing.runs(basis(since), at(after)).take(2);
        runs.map(|run| zone::from_timestamp(run.due).to_string())
            .collect()
    };
    assert_eq!(
        runs("2026-06-01T01:00:00Z"),
        ["2026-06-01T13:00:00Z", "2026-06-01T17:00:00Z"]
    );
    assert_eq!(
        runs("2026-06-01T13:00:00Z"),
        ["2026-06-01T17:00:00Z", "2026-06-01T21:00:00Z"]
    );
    assert_eq!(
        runs("2026-05-30T00:00:00Z"),
        ["2026-06-01T13:00:00Z", "2026-06-01T17:00:00Z"]
    );
}

#[test]
fn jitter_is_fixed_per_run_differs_between_schedules_and_avoids_windows() {
    let text = TimingText {
        jitter: Duration::from_secs(1800),
        ..timing("0 * * * *", "UTC")
    };
    let timing = Timing::parse(&text).expect("valid");
    let after = at("2026-06-01T00:30:00Z");
    let delays = |schedule| -> Vec<u64> {
        let basis = Basis {
            schedule: Some(schedule),
            since: after,
        };
        timing
            .runs(basis, after)
            .take(50)
            .map(|run| run.at.since(run.due).as_secs())
            .collect()
    };
    assert_eq!(delays(id(1)), delays(id(1)));
    assert_ne!(delays(id(1)), delays(id(2)));
    assert!(delays(id(1)).iter().all(|delay| *delay <= 1800));
    let distinct: std::collections::BTreeSet<u64> = delays(id(1)).into_iter().collect();
    assert!(distinct.len() > 40, "{distinct:?}");
    // Every delay would end in a window that begins a minute after the run.
    let text = TimingText {
        blackouts: "09:01-23:00".to_owned(),
        when: "0 9 * * *".to_owned(),
        ..text
    };
    let timing = Timing::parse(&text).expect("valid");
    let basis = Basis {
        schedule: Some(id(1)),
        since: after,
    };
    for run in timing.runs(basis, after).take(20) {
        assert!(run.at.since(run.due).as_secs() < 60, "{run:?}");
    }
}

proptest! {
    /// The runs of an expression are those minutes whose local time it selects, apart from changes of the clock.
    #[test]
    fn runs_are_the_selected_minutes(
        minute in 0..60_u8, hour in 0..24_u8, step in 1..30_u8, weekday in 0..7_u8, start in 0..400_u32,
    ) {
        // A zone without changes of the clock, with an offset that is not whole hours.
        let text = timing(&format!("{minute}/{step} {hour}-23 * * {weekday}"), "Asia/Kathmandu");
        let timing = Timing::parse(&text).expect("valid");
        let from = at("2026-01-01T00:00:00Z").plus(Duration::from_secs(u64::from(start) * 86_400));
        let end = from.plus(Duration::from_secs(8 * 86_400));
        let found: Vec<Timestamp> =
            timing.runs(basis(from), from).map(|run| run.due).take_while(|due| *due <= end).collect();
        let expected: Vec<Timestamp> = (1..=8 * 1440_u64)
            .map(|passed| from.plus(Duration::from_secs(passed * 60)))
            .filter(|at| {
                let local = timing.zone.local(*at);
                let of = |value: i8| u8::try_from(value).expect("positive");
                of(local.hour()) >= hour
                    && of(local.minute()) >= minute
                    && (of(local.minute()) - minute) % step == 0
                    && zone::weekday(local.date()) == weekday
            })
            .collect();
        prop_assert_eq!(found, expected);
    }

    /// In every zone the runs rise strictly, and each is after the moment that was asked for.
    #[test]
    fn runs_rise_strictly(
        zone in prop::sample::select(vec!["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "Asia/Tehran", "America/Havana"]),
        when in prop::sample::select(vec!["*/7 * * * *", "30 0,1,2,23 * * *", "0 */3 * * sun", "59 23 * * *"]),
        start in 0..730_u64,
    ) {
        let timing = Timing::parse(&timing(when, zone)).expect("valid");
        let from = at("2026-01-01T00:00:00Z").plus(Duration::from_secs(start * 86_400));
        let mut last = from;
        for run in timing.runs(basis(from), from).take(500) {
            prop_assert!(run.due > last, "{:?} after {:?}", run, last);
            last = run.due;
        }
    }

    #[test]
    fn no_text_panics(when in ".{0,40}", zone in ".{0,40}", blackouts in ".{0,60}") {
        let _ = Timing::parse(&TimingText { when, zone, jitter: Duration::ZERO, blackouts });
    }
}
