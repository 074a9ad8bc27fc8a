//! The rules of a scan between its plan and its end. They decide when a node has room, how a lost or busy command
//! continues, when waiting ends, and when refused rows end a command. The store loads and locks the rows, calls these
//! functions, and writes the decision.

use std::time::Duration;

use fleet_core::{
    ScanState, Timestamp, limits,
    outcome::{Code, Conclusion, Verdict},
};

/// First and last ceiling of the wait after a BUSY answer. The first is short because most commands take seconds. The
/// last limits the retries on a node that is busy for hours.
const BUSY_WAITS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// How long sweeps may pause before the pause counts as an interruption. They run every second, and the clocks of
/// several servers may differ by this much.
const INTERRUPTION: Duration = Duration::from_secs(30);
/// How often a sweep stores its time.
pub const SWEEP_STORED_EVERY: Duration = Duration::from_secs(5);

/// The current work of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeLoad {
    /// Whether a command is in flight or a pairing is open.
    pub busy: bool,
    /// Scans that have not ended, waiting ones included.
    pub open_scans: u64,
    /// Scans without an issued command.
    pub queued_scans: u64,
}

/// Why a node has no room for another scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The node is busy, and the scan does not queue.
    Busy,
    /// The queue of the node is full.
    QueueFull,
}

/// Checks that a node has room for a scan. A scan that queues needs a free position in the queue; any other scan
/// needs an idle node.
///
/// # Errors
///
/// [`NoRoom`] states why the node has no room.
pub fn check_room(queues: bool, load: NodeLoad) -> Result<(), NoRoom> {
    // A scan between two of its chunks has no command in flight, but needs the node again.
    if !queues && (load.busy || load.open_scans > 0) {
        return Err(NoRoom::Busy);
    }
    if queues && load.queued_scans >= limits::QUEUED_SCANS as u64 {
        return Err(NoRoom::QueueFull);
    }
    Ok(())
}

/// The state of a scan at an event of one of its commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunningScan {
    /// Whether the scan has not ended.
    pub open: bool,
    /// Whether the operator has canceled the scan.
    pub canceling: bool,
    /// Whether the scan waits for a busy node.
    pub queues: bool,
}

/// How a chunk continues after a command without a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// The scan has already ended. Nothing changes.
    Ignore,
    /// The chunk waits again and may be issued at once.
    Retry,
    /// The chunk waits again and may be issued after this time.
    RetryAfter(Duration),
    /// The chunk ends with this verdict.
    Fail(Verdict),
    /// Every open chunk gets the node's verdict, and the scan ends.
    GiveUp,
    /// The scan ends as canceled.
    Cancel,
}

/// Decides how a chunk continues after its node lost the command, for example in a restart.
pub fn on_lost(scan: RunningScan, attempts: u32) -> Unfinished {
    if !scan.open {
        return Unfinished::Ignore;
    }
    // The lost command was the one that the node should stop, so no acknowledgment will come.
    if scan.canceling {
        return Unfinished::Cancel;
    }
    if attempts < limits::CHUNK_ATTEMPTS {
        return Unfinished::Retry;
    }
    let reason = format!("not reached: the node lost it {attempts} times");
    Unfinished::Fail(Verdict::failed(Code::Unavailable, reason))
}

/// Decides how a chunk continues after its node gave no answer until the command's deadline.
pub fn on_expired(scan: RunningScan, attempts: u32) -> Unfinished {
    let minutes = limits::COMMAND_DEADLINE.as_secs() / 60;
    let reason = format!("the node gave no answer within {minutes} minutes");
    match on_lost(scan, attempts) {
        // The caller of a scan that never queues waits for this answer.
        Unfinished::Retry if scan.queues => Unfinished::Retry,
        Unfinished::Retry | Unfinished::Fail(_) => {
            Unfinished::Fail(Verdict::failed(Code::DeadlineExceeded, reason))
        }
        other @ (Unfinished::Ignore
        | Unfinished::RetryAfter(_)
        | Unfinished::GiveUp
        | Unfinished::Cancel) => other,
    }
}

/// How deadlines continue after an interruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// Microseconds to add to every open deadline. They are negative after the clock was set back.
    pub shift: i64,
    /// The earliest end of work that waits for a node. Until then, nodes reconnect and send the reports that they kept.
    pub nodes_return_by: Timestamp,
}

/// Decides whether open deadlines must move, from the time of the last stored sweep. Deadlines run only while a server
/// sweeps. They do not run while all servers or the database are away, and they do not jump when the clock is set.
pub fn continuation(last_sweep: Timestamp, now: Timestamp) -> Option<Continuation> {
    let pause = now.since(last_sweep).max(last_sweep.since(now));
    (pause > INTERRUPTION).then(|| Continuation {
        shift: now.as_micros().saturating_sub(last_sweep.as_micros()),
        nodes_return_by: now.plus(limits::NODE_RETURN),
    })
}

/// Decides how a chunk continues after its node answered BUSY for the `busy_answers + 1`-th time in a row. A BUSY
/// answer does not count as an attempt.
pub fn on_busy(scan: RunningScan, busy_answers: u32) -> Unfinished {
    if !scan.open {
        return Unfinished::Ignore;
    }
    if scan.canceling {
        return Unfinished::Cancel;
    }
    if !scan.queues {
        return Unfinished::GiveUp;
    }
    let (first, last) = BUSY_WAITS;
    // 60 s are reached after five answers, and a shift by 32 or more would overflow.
    let wait = first.saturating_mul(1 << busy_answers.min(16));
    Unfinished::RetryAfter(wait.min(last))
}

/// An open scan that a sweep checks.
#[derive(Clone, Copy, Debug)]
pub struct WaitingScan {
    /// The state of the scan.
    pub state: ScanState,
    /// Whether the scan waits for a busy node.
    pub queues: bool,
    /// When the scan was created.
    pub created_at: Timestamp,
    /// When its time in the queue ends.
    pub queued_until: Timestamp,
    /// Deadline by which the node may stop by itself after a cancel.
    pub cancel_until: Option<Timestamp>,
    /// Whether one of its commands is in flight.
    pub in_flight: bool,
    /// Whether the last answer of its node was BUSY.
    pub was_busy: bool,
    /// Whether one of its chunks has ended.
    pub has_run: bool,
}

/// How a scan ends that has waited too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// The scan ends as canceled, together with a command in flight.
    Cancel,
    /// Every open chunk gets this verdict.
    GiveUp(Verdict),
    /// The scan ends with this conclusion.
    Finish(Conclusion),
}

/// Decides whether an open scan has waited too long. The deadline of a command in flight is decided elsewhere.
pub fn expiry(scan: &WaitingScan, now: Timestamp) -> Option<Expiry> {
    if scan.cancel_until.is_some_and(|until| until <= now) {
        return Some(Expiry::Cancel);
    }
    if scan.in_flight {
        return None;
    }
    if scan.queued_until <= now {
        let (code, why) = if scan.was_busy {
            (
                Code::ResourceExhausted,
                "the node was busy until the scan's time in the queue was over",
            )
        } else {
            (
                Code::DeadlineExceeded,
                "the node did not come before the scan's time in the queue was over",
            )
        };
        // The results of earlier chunks are kept, which makes the scan partial and not expired.
        return Some(if scan.has_run {
            Expiry::GiveUp(Verdict::failed(code, why))
        } else {
            Expiry::Finish(Conclusion::new(ScanState::Expired, code, why))
        });
    }
    let away = scan.created_at.plus(limits::NODE_AWAY) <= now;
    if !scan.queues && scan.state == ScanState::Queued && away {
        let why = "the node has no stream to the server";
        let conclusion = Conclusion::new(ScanState::Failed, Code::FailedPrecondition, why);
        return Some(Expiry::Finish(conclusion));
    }
    None
}

/// When the queue time of a scan ends after a command was in flight from `issued_at` to `now`. The queue time limits how
/// long a scan waits, not how long it runs.
pub fn queued_until(before: Timestamp, issued_at: Timestamp, now: Timestamp) -> Timestamp {
    before.plus(now.since(issued_at))
}

/// The conclusion of a scan that the operator canceled.
pub fn canceled() -> Conclusion {
    let reason = "canceled; what was found is kept";
    Conclusion::new(ScanState::Canceled, Code::Canceled, reason)
}

/// Whether a command has so many refused rows that its node must be broken or hostile.
pub fn is_flooded(refused_rows: u64, quota: u64) -> bool {
    let bound = quota
        .saturating_mul(limits::REFUSED_ROWS_FACTOR as u64)
        .max(limits::REFUSED_ROWS_FLOOR as u64);
    refused_rows > bound
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: RunningScan = RunningScan {
        open: true,
        canceling: false,
        queues: true,
    };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(0).plus(Duration::from_secs(seconds))
    }

    #[test]
    fn a_scan_that_does_not_queue_needs_an_idle_node() {
        let full = limits::QUEUED_SCANS as u64;
        for (queues, busy, open_scans, queued_scans, expected) in [
            (false, false, 0, 0, Ok(())),
            (false, true, 0, 0, Err(NoRoom::Busy)),
            (false, false, 1, 1, Err(NoRoom::Busy)),
            (true, true, full, full - 1, Ok(())),
            (true, false, full, full, Err(NoRoom::QueueFull)),
        ] {
            let load = NodeLoad {
                busy,
                open_scans,
                queued_scans,
            };
            assert_eq!(check_room(queues, load), expected, "{queues} {load:?}");
        }
    }

    #[test]
    fn a_lost_chunk_is_retried_until_its_attempts_are_used_up() {
        let ended = RunningScan {
            open: false,
            ..OPEN
        };
        let canceling = RunningScan {
            canceling: true,
            ..OPEN
        };
        for (scan, attempts, expected) in [
            (OPEN, 1, Unfinished::Retry),
            (OPEN, limits::CHUNK_ATTEMPTS - 1, Unfinished::Retry),
            (
                OPEN,
                limits::CHUNK_ATTEMPTS,
                Unfinished::Fail(Verdict::failed(
                    Code::Unavailable,
                    "not reached: the node lost it 3 times",
                )),
            ),
            (canceling, 1, Unfinished::Cancel),
            (ended, 1, Unfinished::Ignore),
        ] {
            assert_eq!(on_lost(scan, attempts), expected, "{scan:?} {attempts}");
        }
    }

    #[test]
    fn an_expired_chunk_is_retried_while_attempts_are_left_and_its_scan_queues() {
        let reason = "the node gave no answer within 12 minutes";
        let failed = || Unfinished::Fail(Verdict::failed(Code::DeadlineExceeded, reason));
        let never_queues = RunningScan {
            queues: false,
            ..OPEN
        };
        let canceling = RunningScan {
            canceling: true,
            ..OPEN
        };
        let ended = RunningScan {
            open: false,
            ..OPEN
        };
        for (scan, attempts, expected) in [
            (OPEN, 1, Unfinished::Retry),
            (OPEN, limits::CHUNK_ATTEMPTS - 1, Unfinished::Retry),
            (OPEN, limits::CHUNK_ATTEMPTS, failed()),
            (never_queues, 1, failed()),
            (canceling, 1, Unfinished::Cancel),
            (ended, 1, Unfinished::Ignore),
        ] {
            assert_eq!(on_expired(scan, attempts), expected, "{scan:?} {attempts}");
        }
    }

    #[test]
    fn deadlines_move_by_the_length_of_an_interruption_and_with_the_clock() {
        let moved = |seconds: i64, back: u64| {
            Some(Continuation {
                shift: seconds * 1_000_000,
                nodes_return_by: at(back).plus(limits::NODE_RETURN),
            })
        };
        for (last, now, expected) in [
            (1_000, 1_000, None),
            (1_000, 1_030, None),
            (1_000, 970, None),
            (1_000, 1_031, moved(31, 1_031)),
            (1_000, 1_720, moved(720, 1_720)),
            (1_000, 280, moved(-720, 280)),
        ] {
            assert_eq!(continuation(at(last), at(now)), expected, "{last} {now}");
        }
    }

    #[test]
    fn waits_double_with_every_busy_answer_up_to_a_minute() {
        let wait = |seconds| Unfinished::RetryAfter(Duration::from_secs(seconds));
        for (answers, expected) in [(0, 2), (1, 4), (4, 32), (5, 60), (40, 60)] {
            assert_eq!(on_busy(OPEN, answers), wait(expected), "{answers}");
        }
        let impatient = RunningScan {
            queues: false,
            ..OPEN
        };
        assert_eq!(on_busy(impatient, 0), Unfinished::GiveUp);
        let canceling = RunningScan {
            canceling: true,
            ..OPEN
        };
        assert_eq!(on_busy(canceling, 0), Unfinished::Cancel);
        let ended = RunningScan {
            open: false,
            ..OPEN
        };
        assert_eq!(on_busy(ended, 0), Unfinished::Ignore);
    }

    #[test]
    fn a_waiting_scan_expires_by_cancel_queue_time_or_absence() {
        let waiting = WaitingScan {
            state: ScanState::Queued,
            queues: true,
            created_at: at(0),
            queued_until: at(1_000),
            cancel_until: None,
            in_flight: false,
            was_busy: false,
            has_run: false,
        };
        let finish = |state, code| move |expiry: &Expiry| matches!(expiry, Expiry::Finish(end) if end.state == state && end.code == code);
        let expired = |scan: WaitingScan, now| expiry(&scan, at(now));
        assert_eq!(expired(waiting, 999), None);
        let end = expired(waiting, 1_000).expect("an end");
        assert!(finish(ScanState::Expired, Code::DeadlineExceeded)(&end));
        let busy = WaitingScan {
            was_busy: true,
            ..waiting
        };
        let end = expired(busy, 1_000).expect("an end");
        assert!(finish(ScanState::Expired, Code::ResourceExhausted)(&end));
        let has_run = WaitingScan {
            has_run: true,
            ..waiting
        };
        assert!(matches!(expired(has_run, 1_000), Some(Expiry::GiveUp(_))));
        let in_flight = WaitingScan {
            in_flight: true,
            ..waiting
        };
        assert_eq!(expired(in_flight, 1_000), None);
        let canceled = WaitingScan {
            cancel_until: Some(at(10)),
            ..in_flight
        };
        assert_eq!(expired(canceled, 9), None);
        assert_eq!(expired(canceled, 10), Some(Expiry::Cancel));
        let impatient = WaitingScan {
            queues: false,
            ..waiting
        };
        let away = limits::NODE_AWAY.as_secs();
        assert_eq!(expired(impatient, away - 1), None);
        let end = expired(impatient, away).expect("an end");
        assert!(finish(ScanState::Failed, Code::FailedPrecondition)(&end));
        let running = WaitingScan {
            state: ScanState::Running,
            ..impatient
        };
        assert_eq!(expired(running, away), None);
    }

    #[test]
    fn the_queue_time_does_not_pass_while_a_command_is_in_flight() {
        for (before, issued, ended, expected) in [
            (60, 1, 51, 110),
            (60, 59, 3_659, 3_660),
            // The clock went back.
            (60, 50, 20, 60),
        ] {
            let until = queued_until(at(before), at(issued), at(ended));
            assert_eq!(until, at(expected), "{before} {issued} {ended}");
        }
    }

    #[test]
    fn a_command_is_flooded_past_a_multiple_of_its_quota_and_never_below_the_floor() {
        let floor = limits::REFUSED_ROWS_FLOOR as u64;
        let factor = limits::REFUSED_ROWS_FACTOR as u64;
        for (refused, quota, expected) in [
            (floor, 1, false),
            (floor + 1, 1, true),
            (floor + 1, floor, false),
            (floor * factor + 1, floor, true),
            (u64::MAX, u64::MAX, false),
        ] {
            assert_eq!(is_flooded(refused, quota), expected, "{refused} of {quota}");
        }
    }
}
