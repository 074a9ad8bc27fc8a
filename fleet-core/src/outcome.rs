//! Outcomes of commands and scans, as operators see them. The codes are those of gRPC; the wire crate
//! converts them. Start with [`verdict_of_ack`] and [`conclude`].

mod shares;

use std::fmt;

pub use shares::conclude_shares;

use crate::ScanState;

/// A status code, with gRPC's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// Success.
    Ok,
    /// Canceled by the operator.
    Canceled,
    /// The request is wrong.
    InvalidArgument,
    /// The deadline passed.
    DeadlineExceeded,
    /// A limit is exceeded, or the node is busy.
    ResourceExhausted,
    /// The current state does not allow the operation.
    FailedPrecondition,
    /// An internal failure.
    Internal,
    /// Temporarily unavailable; retry later.
    Unavailable,
}

impl Code {
    /// The name in snake_case, as Connect and our own events spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Canceled => "canceled",
            Self::InvalidArgument => "invalid_argument",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::ResourceExhausted => "resource_exhausted",
            Self::FailedPrecondition => "failed_precondition",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
        }
    }

    /// The code of a name.
    pub fn parse(name: &str) -> Option<Self> {
        [
            Self::Ok,
            Self::Canceled,
            Self::InvalidArgument,
            Self::DeadlineExceeded,
            Self::ResourceExhausted,
            Self::FailedPrecondition,
            Self::Internal,
            Self::Unavailable,
        ]
        .into_iter()
        .find(|code| code.as_str() == name)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The code in a node's ack. Unknown numbers are `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AckCode {
    /// 1
    Ok,
    /// 2
    Partial,
    /// 3
    BadRequest,
    /// 4
    AgentIncapable,
    /// 5
    ScanFailed,
    /// 6
    ReportFailed,
    /// 7
    Internal,
    /// 8
    Busy,
    /// 9
    Unauthenticated,
    /// 10
    Unimplemented,
    /// 11
    Forbidden,
    /// 0, and every unknown number.
    Other(i32),
}

impl AckCode {
    /// From the number on the wire.
    pub fn from_number(number: i32) -> Self {
        match number {
            1 => Self::Ok,
            2 => Self::Partial,
            3 => Self::BadRequest,
            4 => Self::AgentIncapable,
            5 => Self::ScanFailed,
            6 => Self::ReportFailed,
            7 => Self::Internal,
            8 => Self::Busy,
            9 => Self::Unauthenticated,
            10 => Self::Unimplemented,
            11 => Self::Forbidden,
            other => Self::Other(other),
        }
    }

    /// The number on the wire.
    pub fn number(self) -> i32 {
        match self {
            Self::Ok => 1,
            Self::Partial => 2,
            Self::BadRequest => 3,
            Self::AgentIncapable => 4,
            Self::ScanFailed => 5,
            Self::ReportFailed => 6,
            Self::Internal => 7,
            Self::Busy => 8,
            Self::Unauthenticated => 9,
            Self::Unimplemented => 10,
            Self::Forbidden => 11,
            Self::Other(number) => number,
        }
    }
}

/// The final outcome of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How complete the chunk is.
    pub grade: Grade,
    /// The status code of a scan with only this chunk.
    pub code: Code,
    /// The reason as a sentence; empty on success.
    pub reason: String,
}

/// How well a chunk ended, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grade {
    /// Every target was tried.
    Complete,
    /// Some targets were skipped.
    Partial,
    /// The chunk failed. The scan continues with its other chunks.
    Failed,
    /// The chunk failed for a reason that all other chunks of its node share. The node's share of the scan ends.
    Fatal,
}

/// The effect of an ack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AckVerdict {
    /// The chunk has ended.
    Ended(Verdict),
    /// The node runs another command. The chunk is retried later if the scan may wait.
    Busy(Verdict),
}

impl Verdict {
    /// Creates the verdict of a complete chunk.
    pub fn complete() -> Self {
        Self {
            grade: Grade::Complete,
            code: Code::Ok,
            reason: String::new(),
        }
    }

    /// Creates the verdict of a failed chunk.
    pub fn failed(code: Code, reason: impl Into<String>) -> Self {
        Self {
            grade: Grade::Failed,
            code,
            reason: reason.into(),
        }
    }

    /// Creates the verdict of a failure that all other chunks share.
    pub fn fatal(code: Code, reason: impl Into<String>) -> Self {
        Self {
            grade: Grade::Fatal,
            code,
            reason: reason.into(),
        }
    }
}

/// Converts an ack to a verdict. `message` is the text of the node, bounded and escaped by the caller.
pub fn verdict_of_ack(code: AckCode, succeeded: bool, message: &str) -> AckVerdict {
    let verdict = |text: &str| {
        if message.is_empty() {
            text.to_owned()
        } else {
            format!("{text}: {message}")
        }
    };
    AckVerdict::Ended(match code {
        AckCode::Ok if succeeded => Verdict::complete(),
        AckCode::Ok => Verdict::failed(
            Code::Internal,
            verdict("the node contradicts itself: it says OK but not succeeded"),
        ),
        // `succeeded` does not count here: upstream judges PARTIAL by the code alone.
        AckCode::Partial => Verdict {
            grade: Grade::Partial,
            code: Code::Ok,
            reason: verdict("the node left something out"),
        },
        AckCode::Busy => {
            return AckVerdict::Busy(Verdict::failed(
                Code::ResourceExhausted,
                verdict("the node is busy, retry shortly"),
            ));
        }
        AckCode::BadRequest => Verdict::fatal(
            Code::InvalidArgument,
            verdict("the node refused the request"),
        ),
        AckCode::AgentIncapable => Verdict::fatal(
            Code::FailedPrecondition,
            verdict("this node cannot do it, try another node"),
        ),
        AckCode::ReportFailed => Verdict::failed(
            Code::Internal,
            verdict("the node could not upload its report; part of the results may be stored"),
        ),
        AckCode::ScanFailed => Verdict::failed(
            Code::Internal,
            verdict("the scan could not run on the node"),
        ),
        AckCode::Internal
        | AckCode::Unauthenticated
        | AckCode::Unimplemented
        | AckCode::Forbidden
        | AckCode::Other(_) => Verdict::failed(Code::Internal, verdict("the node failed")),
    })
}

/// How a scan ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conclusion {
    /// A terminal state.
    pub state: ScanState,
    /// The code.
    pub code: Code,
    /// The outcome as a sentence; empty on success.
    pub reason: String,
}

impl Conclusion {
    /// Creates a conclusion that does not follow from chunks: canceled, expired or revoked.
    pub fn new(state: ScanState, code: Code, reason: impl Into<String>) -> Self {
        Self {
            state,
            code,
            reason: reason.into(),
        }
    }
}

/// Derives the outcome of a node's share of a scan from the verdicts of its chunks, in order. Verdicts after a fatal one
/// may be missing.
pub fn conclude(verdicts: &[Verdict]) -> Conclusion {
    let several = verdicts.len() > 1;
    let name = |(at, verdict): (usize, &Verdict)| {
        if several {
            format!("chunk {}: {}", at + 1, verdict.reason)
        } else {
            verdict.reason.clone()
        }
    };
    let numbered = || verdicts.iter().enumerate();
    let useful = |verdict: &&Verdict| verdict.grade <= Grade::Partial;
    let first_failure = || {
        // The fatal verdict ended the scan, even if another chunk failed before it.
        numbered()
            .find(|(_, v)| v.grade == Grade::Fatal)
            .or_else(|| numbered().find(|(_, v)| v.grade == Grade::Failed))
    };
    let gaps = || {
        let incomplete = numbered().filter(|(_, v)| v.grade != Grade::Complete);
        listed(&incomplete.map(name).collect::<Vec<_>>())
    };
    let fatal = verdicts.iter().any(|v| v.grade == Grade::Fatal);
    if verdicts.iter().all(|v| v.grade == Grade::Complete) {
        return Conclusion::new(ScanState::Completed, Code::Ok, "");
    }
    match first_failure() {
        // BAD_REQUEST and AGENT_INCAPABLE end the scan, even after successful chunks.
        Some(failure) if fatal => Conclusion::new(ScanState::Failed, failure.1.code, name(failure)),
        Some(failure) if !verdicts.iter().any(|v| useful(&v)) => {
            Conclusion::new(ScanState::Failed, failure.1.code, name(failure))
        }
        _ => Conclusion::new(ScanState::Partial, Code::Ok, gaps()),
    }
}

/// The first reasons, and the number of the others.
fn listed(reasons: &[String]) -> String {
    match reasons {
        // A text that ends with "and 1 more" would be no shorter than the one that it omits.
        [shown @ .., _, _] if shown.len() > 3 => {
            let (first, others) = reasons.split_at(4);
            format!("{}; and {} more", first.join("; "), others.len())
        }
        _ => reasons.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: AckCode, succeeded: bool) -> Verdict {
        match verdict_of_ack(code, succeeded, "why") {
            AckVerdict::Ended(verdict) => verdict,
            AckVerdict::Busy(verdict) => panic!("busy: {verdict:?}"),
        }
    }

    #[test]
    fn every_ack_has_its_outcome() {
        use Code as C;
        use Grade as G;
        for (code, succeeded, grade, expected) in [
            (AckCode::Ok, true, G::Complete, C::Ok),
            (AckCode::Ok, false, G::Failed, C::Internal),
            (AckCode::Partial, true, G::Partial, C::Ok),
            (AckCode::Partial, false, G::Partial, C::Ok),
            (AckCode::BadRequest, false, G::Fatal, C::InvalidArgument),
            (
                AckCode::AgentIncapable,
                false,
                G::Fatal,
                C::FailedPrecondition,
            ),
            (AckCode::ReportFailed, false, G::Failed, C::Internal),
            (AckCode::ScanFailed, false, G::Failed, C::Internal),
            (AckCode::Internal, false, G::Failed, C::Internal),
            (AckCode::Other(0), true, G::Failed, C::Internal),
            (AckCode::Other(99), false, G::Failed, C::Internal),
            (AckCode::Unimplemented, false, G::Failed, C::Internal),
        ] {
            let verdict = ended(code, succeeded);
            assert_eq!((verdict.grade, verdict.code), (grade, expected), "{code:?}");
            assert_eq!(grade == G::Complete, verdict.reason.is_empty(), "{code:?}");
        }
        assert!(
            matches!(verdict_of_ack(AckCode::Busy, false, ""), AckVerdict::Busy(v) if v.code == C::ResourceExhausted)
        );
    }

    #[test]
    fn ack_numbers_round_trip() {
        for number in -1..20 {
            assert_eq!(AckCode::from_number(number).number(), number);
        }
    }

    #[test]
    fn a_scan_is_as_good_as_its_chunks() {
        let ok = Verdict::complete;
        let gap = || ended(AckCode::Partial, true);
        let failed = || Verdict::failed(Code::DeadlineExceeded, "late");
        let fatal = || ended(AckCode::AgentIncapable, false);
        for (verdicts, state, code) in [
            (vec![ok(), ok()], ScanState::Completed, Code::Ok),
            (vec![ok(), gap()], ScanState::Partial, Code::Ok),
            (vec![ok(), failed()], ScanState::Partial, Code::Ok),
            (vec![gap(), failed()], ScanState::Partial, Code::Ok),
            (
                vec![failed(), Verdict::failed(Code::Internal, "x")],
                ScanState::Failed,
                Code::DeadlineExceeded,
            ),
            (vec![fatal()], ScanState::Failed, Code::FailedPrecondition),
            (
                vec![ok(), fatal()],
                ScanState::Failed,
                Code::FailedPrecondition,
            ),
        ] {
            let concluded = conclude(&verdicts);
            assert_eq!(
                (concluded.state, concluded.code),
                (state, code),
                "{verdicts:?}"
            );
        }
        assert_eq!(conclude(&[ok(), failed()]).reason, "chunk 2: late");
        let many = conclude(
            &std::iter::repeat_with(failed)
                .take(9)
                .chain([ok()])
                .collect::<Vec<_>>(),
        );
        assert!(many.reason.ends_with("and 5 more"), "{}", many.reason);
    }
}
