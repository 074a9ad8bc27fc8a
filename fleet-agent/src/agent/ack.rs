//! How a command ended, as its ack says it. Pure. Start with [`ack`].

use fleet_core::{TargetOutcome, outcome::AckCode};
use fleet_registry::{
    link::{CancelReason, WireCommandId},
    spool::Tally,
};
use fleet_scan::{Interruption, ScanSummary};
use fleet_wire::gateway::ControlAck;

use super::{order::Refusal, pairing::PairSummary};

/// Notes of an ack on the wire, and characters of one.
const NOTES: (usize, usize) = (64, 512);
/// What a command that ran is told of.
const HALTED: &str = "halted by the administrator of the node's site";
/// Characters of the reason on the wire.
const REASON: usize = 4_096;

/// How the work on a command ended on this node.
#[derive(Debug)]
pub(super) enum Ending {
    /// It was not begun.
    Refused(Refusal),
    /// The scan could not run, or crashed.
    Failed(String),
    /// The scan ran.
    Ran(ScanSummary),
    /// The pairing ran.
    Paired(PairSummary),
}

/// Why a scan was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The link said so.
    Canceled(CancelReason),
    /// The server refuses everything of the command.
    CommandDead,
    /// This process is to end.
    ShuttingDown,
    /// The site's administrator halted the node.
    Halted,
}

/// What the server does not get to see otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Gaps {
    /// Found devices that could not be put into a report.
    pub(super) lost: u64,
    /// Names that were left out, if the server was not told.
    pub(super) left_out: Option<String>,
}

/// The ack of a command: `ending` is what the scan came to, `tally` what became of its reports.
pub(super) fn ack(
    command: &WireCommandId,
    ending: &Ending,
    stopped: Option<Stopped>,
    tally: &Tally,
    gaps: Gaps,
) -> ControlAck {
    let (code, reason) = judge(ending, stopped, tally, gaps);
    let mut notes = Vec::new();
    let mut outcomes = Vec::new();
    if let Ending::Ran(summary) = ending {
        outcomes = summary
            .outcomes
            .iter()
            .copied()
            .map(TargetOutcome::to_byte)
            .collect();
        notes.clone_from(&summary.notes);
    }
    if tally.rejected > 0 {
        let all = tally.rejected + tally.accepted;
        notes.insert(
            0,
            format!(
                "the server rejected {} of {all} reported devices",
                tally.rejected
            ),
        );
    }
    notes.truncate(NOTES.0);
    ControlAck {
        command_id: command.as_str().to_owned(),
        succeeded: code == AckCode::Ok,
        error_message: bounded(&reason, REASON),
        code: code.number(),
        payload: bytes::Bytes::new(),
        outcomes: outcomes.into(),
        notes: notes.iter().map(|note| bounded(note, NOTES.1)).collect(),
    }
}

/// The ack of a command that is not begun because another one runs.
pub(super) fn busy(command: &WireCommandId) -> ControlAck {
    ControlAck {
        command_id: command.as_str().to_owned(),
        error_message: "another scan is running on this node".to_owned(),
        code: AckCode::Busy.number(),
        ..ControlAck::default()
    }
}

/// OK when every target has a result that the server took.
fn judge_pairing(
    summary: PairSummary,
    stopped: Option<Stopped>,
    tally: &Tally,
) -> (AckCode, String) {
    let PairSummary {
        targets,
        tried,
        canceled,
    } = summary;
    if tried > 0 && tally.accepted == 0 && tally.dropped > 0 {
        let why = "no result could be uploaded".to_owned();
        return (AckCode::ReportFailed, why);
    }
    let mut gaps = Vec::new();
    if canceled {
        gaps.push(match stopped {
            Some(Stopped::Canceled(CancelReason::Asked)) => "canceled".to_owned(),
            Some(Stopped::CommandDead) => {
                "stopped, because the server takes nothing more of this command".to_owned()
            }
            Some(Stopped::Halted) => HALTED.to_owned(),
            Some(Stopped::ShuttingDown | Stopped::Canceled(_)) | None => {
                "stopped on the node".to_owned()
            }
        });
    }
    if tried < targets {
        gaps.push(format!(
            "{} of {targets} devices were not tried",
            targets - tried
        ));
    }
    if tally.rejected + tally.dropped > 0 {
        gaps.push(format!(
            "{} results were not taken",
            tally.rejected + tally.dropped
        ));
    }
    if gaps.is_empty() {
        (AckCode::Ok, String::new())
    } else {
        (AckCode::Partial, gaps.join("; "))
    }
}

fn judge(
    ending: &Ending,
    stopped: Option<Stopped>,
    tally: &Tally,
    Gaps { lost, left_out }: Gaps,
) -> (AckCode, String) {
    let summary = match ending {
        Ending::Refused(refusal) => return (refusal.code, refusal.reason.clone()),
        Ending::Failed(reason) => return (AckCode::ScanFailed, reason.clone()),
        Ending::Ran(summary) => summary,
        Ending::Paired(summary) => return judge_pairing(*summary, stopped, tally),
    };
    let mut gaps: Vec<String> = left_out.into_iter().collect();
    match (summary.interrupted, stopped) {
        (Some(Interruption::Canceled), Some(Stopped::Canceled(CancelReason::Asked))) => {
            gaps.push("canceled".to_owned())
        }
        (Some(Interruption::Canceled), Some(Stopped::CommandDead)) => {
            gaps.push("stopped, because the server takes nothing more of this command".to_owned())
        }
        (Some(Interruption::Canceled), Some(Stopped::Halted)) => gaps.push(HALTED.to_owned()),
        (
            Some(Interruption::Canceled),
            Some(Stopped::ShuttingDown | Stopped::Canceled(_)) | None,
        ) => gaps.push("stopped on the node".to_owned()),
        (Some(interruption @ Interruption::BudgetSpent), _) => gaps.push(interruption.to_string()),
        (None, _) => {}
    }
    let not_reached = summary.count(TargetOutcome::NotReached);
    if not_reached > 0 {
        gaps.push(format!(
            "{not_reached} of {} targets were not reached",
            summary.outcomes.len()
        ));
    }
    if summary.driver_crashes > 0 {
        gaps.push(format!(
            "a driver crashed or did not work, {} times",
            summary.driver_crashes
        ));
    }
    if lost > 0 {
        gaps.push(format!(
            "{lost} devices answered with what no report can hold"
        ));
    }
    if tally.dropped > 0 {
        let refusal = tally.refusal.as_deref().unwrap_or("no reason given");
        let text = format!(
            "{} devices were not taken by the server: {refusal}",
            tally.dropped
        );
        if tally.accepted + tally.rejected == 0 {
            return (AckCode::ReportFailed, text);
        }
        gaps.push(text);
    }
    if gaps.is_empty() {
        (AckCode::Ok, String::new())
    } else {
        (AckCode::Partial, gaps.join("; "))
    }
}

fn bounded(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(
        outcomes: &[TargetOutcome],
        interrupted: Option<Interruption>,
        driver_crashes: u64,
    ) -> Ending {
        Ending::Ran(ScanSummary {
            outcomes: outcomes.to_vec(),
            found: 0,
            notes: Vec::new(),
            interrupted,
            driver_crashes,
        })
    }

    fn tally(accepted: u64, rejected: u64, dropped: u64) -> Tally {
        Tally {
            accepted,
            rejected,
            dropped,
            refusal: (dropped > 0).then(|| "too many".to_owned()),
        }
    }

    #[test]
    fn the_ack_says_ok_only_when_nothing_is_missing() {
        use TargetOutcome::{Identified, NotReached, Silent};
        let all = [Identified, Silent];
        let asked = Some(Stopped::Canceled(CancelReason::Asked));
        let canceled = Some(Interruption::Canceled);
        let refusal = Refusal {
            code: AckCode::AgentIncapable,
            reason: "port 22".to_owned(),
        };
        for (ending, stopped, tally, lost, code, said) in [
            (ran(&all, None, 0), None, tally(1, 0, 0), 0, AckCode::Ok, ""),
            (
                ran(&all, None, 0),
                asked,
                tally(1, 1, 0),
                0,
                AckCode::Ok,
                "",
            ),
            (
                ran(&all, None, 1),
                None,
                tally(1, 0, 0),
                0,
                AckCode::Partial,
                "crashed",
            ),
            (
                ran(&all, None, 0),
                None,
                tally(1, 0, 0),
                3,
                AckCode::Partial,
                "3 devices",
            ),
            (
                ran(&all, None, 0),
                None,
                tally(1, 0, 2),
                0,
                AckCode::Partial,
                "too many",
            ),
            (
                ran(&all, None, 0),
                None,
                tally(0, 0, 2),
                0,
                AckCode::ReportFailed,
                "too many",
            ),
            (
                ran(&[NotReached], canceled, 0),
                asked,
                tally(0, 0, 0),
                0,
                AckCode::Partial,
                "canceled; 1 of 1",
            ),
            (
                ran(&[NotReached], Some(Interruption::BudgetSpent), 0),
                None,
                tally(0, 0, 0),
                0,
                AckCode::Partial,
                "time",
            ),
            (
                Ending::Failed("crashed".to_owned()),
                None,
                tally(3, 0, 0),
                0,
                AckCode::ScanFailed,
                "crashed",
            ),
            (
                Ending::Refused(refusal),
                None,
                tally(0, 0, 0),
                0,
                AckCode::AgentIncapable,
                "port 22",
            ),
        ] {
            let id = WireCommandId::new("c").expect("an id");
            let gaps = Gaps {
                lost,
                left_out: None,
            };
            let ack = ack(&id, &ending, stopped, &tally, gaps);
            assert_eq!(AckCode::from_number(ack.code), code, "{ending:?}");
            assert_eq!(ack.succeeded, code == AckCode::Ok);
            assert!(
                ack.error_message.contains(said) && ack.error_message.is_empty() == said.is_empty(),
                "{}",
                ack.error_message
            );
        }
    }

    #[test]
    fn texts_fit_the_wire() {
        let summary = ScanSummary {
            outcomes: vec![TargetOutcome::Silent],
            found: 0,
            notes: vec!["é".repeat(600); 70],
            interrupted: None,
            driver_crashes: 0,
        };
        let id = WireCommandId::new("c").expect("an id");
        let ack = ack(
            &id,
            &Ending::Ran(summary),
            None,
            &tally(1, 2, 0),
            Gaps::default(),
        );
        assert_eq!(ack.notes.len(), 64);
        assert!(
            ack.notes[0].contains("rejected 2 of 3")
                && ack.notes.iter().all(|note| note.chars().count() <= 512)
        );
        assert_eq!(&ack.outcomes[..], [1]);
    }
}
