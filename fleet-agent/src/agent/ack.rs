//! Builds the ack of a command from how it ended. Pure. Start with [`ack`].

use fleet_core::{TargetOutcome, outcome::AckCode};
use fleet_registry::{
    link::{CancelReason, WireCommandId},
    spool::Tally,
};
use fleet_scan::{Interruption, ScanSummary};
use fleet_wire::gateway::ControlAck;

use super::{command::Refusal, pairing::PairSummary};

/// Wire limits: notes of an ack, and characters of a note.
const NOTES: (usize, usize) = (64, 512);
/// The reason for commands that a halt stopped.
const HALTED: &str = "halted by the administrator of the node's site";
/// Wire limit of the reason, in characters.
const REASON: usize = 4_096;

/// How a command ended on this node.
#[derive(Debug)]
pub(super) enum Ending {
    /// It was refused.
    Refused(Refusal),
    /// The scan could not run, or crashed.
    Failed(String),
    /// The scan ran.
    Ran(ScanSummary),
    /// The pairing ran.
    Paired(PairSummary),
}

/// Why a command was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopCause {
    /// The link canceled it.
    Canceled(CancelReason),
    /// The server rejects every report of the command.
    CommandDead,
    /// The process is shutting down.
    ShuttingDown,
    /// The site's administrator halted the node.
    Halted,
}

/// Results that the server does not learn from the reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unreported {
    /// Found devices that could not be reported.
    pub(super) unreportable: u64,
    /// Skipped names, unless the server knows them from the pins.
    pub(super) skipped_names: Option<String>,
    /// The server reads no notes of an ack, so its reason contains them.
    pub(super) notes_in_reason: bool,
}

/// Builds the ack from how the command ended and from the counts of its reports.
pub(super) fn ack(
    command: &WireCommandId,
    ending: &Ending,
    stopped: Option<StopCause>,
    tally: &Tally,
    gaps: Unreported,
) -> ControlAck {
    let notes_in_reason = gaps.notes_in_reason;
    let (code, mut reason) = scan_result(ending, stopped, tally, gaps);
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
    let all = tally.rejected + tally.accepted + tally.owned_elsewhere;
    if tally.owned_elsewhere > 0 {
        notes.insert(
            0,
            format!(
                "{} of {all} reported devices are identified and belong to another node or to the server",
                tally.owned_elsewhere
            ),
        );
    }
    if tally.rejected > 0 {
        // First, because the notes are cut to the limit of the wire.
        notes.insert(
            0,
            format!(
                "the server rejected {} of {all} reported devices",
                tally.rejected
            ),
        );
    }
    notes.truncate(NOTES.0);
    if notes_in_reason {
        let own = [reason].into_iter().filter(|reason| !reason.is_empty());
        reason = own
            .chain(notes.iter().cloned())
            .collect::<Vec<_>>()
            .join("; ");
    }
    ControlAck {
        command_id: command.as_str().to_owned(),
        // An upstream server takes OK for a success only with this flag.
        succeeded: code == AckCode::Ok,
        error_message: bounded(&reason, REASON),
        code: code.number(),
        payload: bytes::Bytes::new(),
        outcomes: outcomes.into(),
        notes: notes.iter().map(|note| bounded(note, NOTES.1)).collect(),
    }
}

/// The ack of a command that arrived while another one runs.
pub(super) fn busy(command: &WireCommandId) -> ControlAck {
    ControlAck {
        command_id: command.as_str().to_owned(),
        error_message: "another command is running on this node".to_owned(),
        code: AckCode::Busy.number(),
        ..ControlAck::default()
    }
}

/// The ack of a command that was refused on arrival, while another one runs.
pub(super) fn refused(command: &WireCommandId, refusal: Refusal) -> ControlAck {
    ControlAck {
        command_id: command.as_str().to_owned(),
        error_message: bounded(&refusal.reason, REASON),
        code: refusal.code.number(),
        ..ControlAck::default()
    }
}

/// Why a command was stopped, as its ack states it.
fn cause(stopped: Option<StopCause>) -> &'static str {
    match stopped {
        Some(StopCause::Canceled(CancelReason::Requested)) => "canceled",
        Some(StopCause::CommandDead) => {
            "stopped, because the server rejects all further reports of this command"
        }
        Some(StopCause::Halted) => HALTED,
        Some(StopCause::ShuttingDown | StopCause::Canceled(_)) | None => "stopped on the node",
    }
}

/// The result is OK if the server has stored a result for every target.
fn pairing_result(
    summary: PairSummary,
    stopped: Option<StopCause>,
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
        gaps.push(cause(stopped).to_owned());
    }
    if tried < targets {
        gaps.push(format!(
            "{} of {targets} devices were not tried",
            targets - tried
        ));
    }
    if tally.rejected + tally.dropped > 0 {
        gaps.push(format!(
            "{} results were not stored",
            tally.rejected + tally.dropped
        ));
    }
    if gaps.is_empty() {
        (AckCode::Ok, String::new())
    } else {
        (AckCode::Partial, gaps.join("; "))
    }
}

fn scan_result(
    ending: &Ending,
    stopped: Option<StopCause>,
    tally: &Tally,
    Unreported {
        unreportable,
        skipped_names,
        notes_in_reason: _,
    }: Unreported,
) -> (AckCode, String) {
    let summary = match ending {
        Ending::Refused(refusal) => return (refusal.code, refusal.reason.clone()),
        Ending::Failed(reason) => return (AckCode::ScanFailed, reason.clone()),
        Ending::Ran(summary) => summary,
        Ending::Paired(summary) => return pairing_result(*summary, stopped, tally),
    };
    let mut gaps: Vec<String> = skipped_names.into_iter().collect();
    match summary.interrupted {
        Some(Interruption::Canceled) => gaps.push(cause(stopped).to_owned()),
        Some(interruption @ Interruption::BudgetSpent) => {
            gaps.push(interruption.to_string());
        }
        None => {}
    }
    let not_reached = summary.count(TargetOutcome::NotReached);
    if not_reached > 0 {
        gaps.push(format!(
            "{not_reached} of {} targets were not reached",
            summary.outcomes.len()
        ));
    }
    gaps.extend(summary.gaps.reasons());
    if unreportable > 0 {
        gaps.push(format!("{unreportable} devices could not be reported"));
    }
    if tally.dropped > 0 {
        let refusal = tally.refusal.as_deref().unwrap_or("no reason given");
        let text = format!(
            "the server did not store {} devices: {refusal}",
            tally.dropped
        );
        if tally.accepted + tally.rejected + tally.owned_elsewhere == 0 {
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
    use fleet_discovery::Gaps;

    use super::*;

    fn ran(
        outcomes: &[TargetOutcome],
        interrupted: Option<Interruption>,
        driver_failures: u64,
    ) -> Ending {
        Ending::Ran(ScanSummary {
            outcomes: outcomes.to_vec(),
            gaps: Gaps {
                driver_failures,
                ..Gaps::default()
            },
            found: 0,
            notes: Vec::new(),
            interrupted,
        })
    }

    fn tally(accepted: u64, rejected: u64, dropped: u64) -> Tally {
        Tally {
            accepted,
            rejected,
            owned_elsewhere: 0,
            dropped,
            refusal: (dropped > 0).then(|| "too many".to_owned()),
        }
    }

    #[test]
    fn the_ack_is_ok_only_if_nothing_is_missing() {
        use TargetOutcome::{Identified, NotReached, Silent};
        let all = [Identified, Silent];
        let requested = Some(StopCause::Canceled(CancelReason::Requested));
        let canceled = Some(Interruption::Canceled);
        let refusal = Refusal {
            code: AckCode::AgentIncapable,
            reason: "port 22".to_owned(),
        };
        for (ending, stopped, tally, unreportable, code, expected) in [
            (ran(&all, None, 0), None, tally(1, 0, 0), 0, AckCode::Ok, ""),
            (
                ran(&all, None, 0),
                requested,
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
                requested,
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
            let gaps = Unreported {
                unreportable,
                skipped_names: None,
                notes_in_reason: false,
            };
            let ack = ack(&id, &ending, stopped, &tally, gaps);
            assert_eq!(AckCode::from_number(ack.code), code, "{ending:?}");
            assert_eq!(ack.succeeded, code == AckCode::Ok);
            assert!(
                ack.error_message.contains(expected)
                    && ack.error_message.is_empty() == expected.is_empty(),
                "{}",
                ack.error_message
            );
        }
    }

    #[test]
    fn devices_of_other_owners_are_no_gap_and_no_rejection() {
        let id = WireCommandId::new("c").expect("an id");
        let tally = Tally {
            owned_elsewhere: 197,
            ..tally(203, 0, 0)
        };
        let identified = ran(&[TargetOutcome::Identified], None, 0);
        let ack = ack(&id, &identified, None, &tally, Unreported::default());
        assert_eq!(AckCode::from_number(ack.code), AckCode::Ok);
        assert_eq!(
            ack.notes,
            [
                "197 of 400 reported devices are identified and belong to another node or to the server"
            ]
        );
    }

    #[test]
    fn a_server_that_reads_no_notes_gets_them_in_the_reason() {
        let id = WireCommandId::new("c").expect("an id");
        for (failures, notes_in_reason, expected) in [
            (0, false, ""),
            (
                0,
                true,
                "the server rejected 2 of 3 reported devices; a plugin is down",
            ),
            (1, false, "a driver crashed or failed 1 times"),
            (
                1,
                true,
                "a driver crashed or failed 1 times; the server rejected 2 of 3 reported devices; a plugin is down",
            ),
        ] {
            let Ending::Ran(summary) = ran(&[TargetOutcome::Identified], None, failures) else {
                panic!("the scan did not run");
            };
            let ending = Ending::Ran(ScanSummary {
                notes: vec!["a plugin is down".to_owned()],
                ..summary
            });
            let gaps = Unreported {
                notes_in_reason,
                ..Unreported::default()
            };
            let ack = ack(&id, &ending, None, &tally(1, 2, 0), gaps);
            assert_eq!(ack.error_message, expected);
            assert_eq!(ack.succeeded, failures == 0);
        }
    }

    #[test]
    fn texts_are_cut_to_the_wire_limits() {
        let summary = ScanSummary {
            outcomes: vec![TargetOutcome::Silent],
            gaps: Gaps::default(),
            found: 0,
            notes: vec!["é".repeat(600); 70],
            interrupted: None,
        };
        let id = WireCommandId::new("c").expect("an id");
        let ack = ack(
            &id,
            &Ending::Ran(summary),
            None,
            &tally(1, 2, 0),
            Unreported::default(),
        );
        assert_eq!(ack.notes.len(), 64);
        assert!(
            ack.notes[0].contains("rejected 2 of 3")
                && ack.notes.iter().all(|note| note.chars().count() <= 512)
        );
        assert_eq!(&ack.outcomes[..], [1]);
    }
}
