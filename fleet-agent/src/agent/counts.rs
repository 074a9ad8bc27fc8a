//! [`AgentCounts`]: what the agent has done since it started. Pure.

use fleet_core::{TargetOutcome, outcome::AckCode};
use fleet_registry::spool::Tally;

/// Counts since the start of an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentCounts {
    /// Attempts to open the control stream.
    pub streams: u64,
    /// Commands that succeeded.
    pub succeeded: u64,
    /// Commands that succeeded in part.
    pub partial: u64,
    /// Commands that were refused or failed.
    pub failed: u64,
    /// Targets of ended scans that a driver identified.
    pub identified: u64,
    /// Targets of ended scans that answered and were not identified.
    pub unidentified: u64,
    /// Targets of ended scans that refused the connection.
    pub refused: u64,
    /// Targets of ended scans that did not answer.
    pub silent: u64,
    /// Targets of ended scans that were skipped or not reached.
    pub not_probed: u64,
    /// Reported rows that the server accepted.
    pub accepted: u64,
    /// Reported rows that the server rejected.
    pub rejected: u64,
    /// Rows that the server did not store.
    pub dropped: u64,
}

impl AgentCounts {
    /// Counts a command that ended: its code, the outcomes of its targets as bytes of the wire, and its reports.
    pub(super) fn ended(&mut self, code: i32, outcomes: &[u8], tally: &Tally) {
        match AckCode::from_number(code) {
            AckCode::Ok => self.succeeded += 1,
            AckCode::Partial => self.partial += 1,
            AckCode::BadRequest
            | AckCode::AgentIncapable
            | AckCode::ScanFailed
            | AckCode::ReportFailed
            | AckCode::Internal
            | AckCode::Busy
            | AckCode::Unauthenticated
            | AckCode::Unimplemented
            | AckCode::Forbidden
            | AckCode::Other(_) => self.failed += 1,
        }
        for byte in outcomes {
            match TargetOutcome::from_byte(*byte) {
                TargetOutcome::Identified => self.identified += 1,
                TargetOutcome::Unidentified => self.unidentified += 1,
                TargetOutcome::Refused => self.refused += 1,
                TargetOutcome::Silent => self.silent += 1,
                TargetOutcome::Skipped | TargetOutcome::NotReached => self.not_probed += 1,
            }
        }
        self.accepted += tally.accepted;
        self.rejected += tally.rejected + tally.owned_elsewhere;
        self.dropped += tally.dropped;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_counts_once_and_each_of_its_targets_once() {
        let mut counts = AgentCounts::default();
        let tally = Tally {
            accepted: 2,
            rejected: 1,
            owned_elsewhere: 0,
            dropped: 4,
            refusal: None,
        };
        counts.ended(1, &[4, 4, 3, 2, 1, 0, 5], &tally);
        counts.ended(2, &[1], &Tally::default());
        counts.ended(5, &[], &Tally::default());
        let expected = AgentCounts {
            streams: 0,
            succeeded: 1,
            partial: 1,
            failed: 1,
            identified: 2,
            unidentified: 1,
            refused: 1,
            silent: 2,
            not_probed: 2,
            accepted: 2,
            rejected: 1,
            dropped: 4,
        };
        assert_eq!(counts, expected);
    }
}
