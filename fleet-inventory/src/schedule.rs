//! What happens when a schedule is due: which run starts, which were missed, and why one does not start. Start with
//! [`decide`].

use std::time::Duration;

use fleet_core::{Permission, Role, Timestamp};

use crate::timing::{Basis, Run, Timing};

/// How late a run may be before a blackout window that has begun meanwhile keeps it from starting.
const LATE: Duration = Duration::from_secs(60);
/// How many missed runs are counted at most: a week of every minute.
const MISSED_MOST: usize = 10_000;

/// What to do about a schedule at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// No run is due.
    Wait,
    /// A run is due. Earlier ones were missed, because no server was running, and do not run again.
    Start {
        /// The run.
        run: Run,
        /// The number of missed runs.
        missed: u32,
        /// The run after it, if any is left.
        next: Option<Run>,
    },
    /// All due runs were missed, and a blackout window has begun since.
    Missed {
        /// The number of missed runs.
        missed: u32,
        /// The run after them, if any is left.
        next: Option<Run>,
    },
}

/// Decides about a schedule whose next run is known.
pub fn decide(timing: &Timing, basis: Basis, next: Run, now: Timestamp) -> Decision {
    if next.at > now {
        return Decision::Wait;
    }
    let later = timing.runs(basis, next.due).take(MISSED_MOST);
    let (last, count) = later
        .take_while(|run| run.at <= now)
        .fold((next, 1_u32), |(_, count), run| (run, count + 1));
    let after = if count as usize > MISSED_MOST {
        now
    } else {
        last.due
    };
    let following = timing.runs(basis, after).next();
    if now.since(last.at) > LATE && timing.is_blacked_out(now) {
        return Decision::Missed {
            missed: count,
            next: following,
        };
    }
    Decision::Start {
        run: last,
        missed: count - 1,
        next: following,
    }
}

/// The facts of the moment at which a run is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// The role of the operator who created the schedule; `None` when the operator was revoked.
    pub creator: Option<Role>,
    /// Whether the scan of the previous run has not ended.
    pub previous_is_open: bool,
}

/// Whether a due run becomes a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firing {
    /// The scan starts.
    Scan,
    /// This run is left out.
    Skip(&'static str),
    /// The schedule is paused until an operator resumes it.
    Pause(&'static str),
}

/// Decides whether a due run becomes a scan. A run acts for the creator of its schedule, and with the creator's role
/// of now.
pub fn firing(circumstances: Circumstances) -> Firing {
    match circumstances.creator {
        None => Firing::Pause(
            "the operator who is responsible for it was revoked: resume it to take it over",
        ),
        Some(role) if !role.may(Permission::NodeManage) => Firing::Pause(
            "the operator who is responsible for it may no longer start scans: resume it to take it over",
        ),
        Some(_) if circumstances.previous_is_open => {
            Firing::Skip("the scan of the previous run had not ended")
        }
        Some(_) => Firing::Scan,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timing::TimingText;

    fn at(text: &str) -> Timestamp {
        crate::zone::to_timestamp(text.parse().expect(text))
    }

    fn run(text: &str) -> Run {
        Run {
            due: at(text),
            at: at(text),
        }
    }

    fn decided(when: &str, blackouts: &str, next: &str, now: &str) -> Decision {
        let text = TimingText {
            when: when.to_owned(),
            zone: "UTC".to_owned(),
            blackouts: blackouts.to_owned(),
            ..TimingText::default()
        };
        let timing = Timing::parse(&text).expect("valid");
        decide(
            &timing,
            Basis {
                schedule: None,
                since: at("2026-06-01T00:00:00Z"),
            },
            run(next),
            at(now),
        )
    }

    #[test]
    fn after_an_interruption_one_run_starts_and_the_others_are_counted() {
        let start = |due, missed, next| Decision::Start {
            run: run(due),
            missed,
            next: Some(run(next)),
        };
        for (when, next, now, expected) in [
            (
                "0 * * * *",
                "2026-06-01T01:00:00Z",
                "2026-06-01T00:59:59Z",
                Decision::Wait,
            ),
            (
                "0 * * * *",
                "2026-06-01T01:00:00Z",
                "2026-06-01T01:00:00Z",
                start("2026-06-01T01:00:00Z", 0, "2026-06-01T02:00:00Z"),
            ),
            (
                "0 * * * *",
                "2026-06-01T01:00:00Z",
                "2026-06-01T02:00:00Z",
                start("2026-06-01T02:00:00Z", 1, "2026-06-01T03:00:00Z"),
            ),
            (
                "0 * * * *",
                "2026-06-01T01:00:00Z",
                "2026-06-04T01:30:00Z",
                start("2026-06-04T01:00:00Z", 72, "2026-06-04T02:00:00Z"),
            ),
            (
                "every 6h",
                "2026-06-01T06:00:00Z",
                "2026-06-02T00:10:00Z",
                start("2026-06-02T00:00:00Z", 3, "2026-06-02T06:00:00Z"),
            ),
        ] {
            assert_eq!(decided(when, "", next, now), expected, "{when} at {now}");
        }
        let Decision::Start { missed, next, .. } = decided(
            "* * * * *",
            "",
            "2026-06-01T00:00:00Z",
            "2026-06-20T00:00:30Z",
        ) else {
            panic!("it starts");
        };
        assert_eq!((missed, next), (10_000, Some(run("2026-06-20T00:01:00Z"))));
    }

    #[test]
    fn a_late_run_does_not_start_in_a_window_that_has_begun() {
        let window = "08:00-18:00";
        let found = decided(
            "0 7 * * *",
            window,
            "2026-06-01T07:00:00Z",
            "2026-06-02T09:00:00Z",
        );
        assert_eq!(
            found,
            Decision::Missed {
                missed: 2,
                next: Some(run("2026-06-03T07:00:00Z"))
            }
        );
        // A run that is on time starts although the window begins within the same second.
        let found = decided(
            "59 7 * * *",
            window,
            "2026-06-01T07:59:00Z",
            "2026-06-01T08:00:00Z",
        );
        assert!(
            matches!(found, Decision::Start { missed: 0, .. }),
            "{found:?}"
        );
    }

    #[test]
    fn a_run_needs_the_role_of_its_creator_and_the_end_of_the_previous_run() {
        for (creator, previous_is_open, expected) in [
            (Some(Role::Operator), false, "Scan"),
            (Some(Role::Admin), false, "Scan"),
            (Some(Role::Operator), true, "Skip"),
            (Some(Role::Viewer), false, "Pause"),
            (None, true, "Pause"),
        ] {
            let found = format!(
                "{:?}",
                firing(Circumstances {
                    creator,
                    previous_is_open
                })
            );
            assert!(
                found.starts_with(expected),
                "{creator:?} {previous_is_open}: {found}"
            );
        }
    }
}
