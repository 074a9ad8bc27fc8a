//! Why a scan found no device, as a sentence.

/// The counts of a scan's summary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All targets.
    pub targets: u64,
    /// Addresses with a device.
    pub identified: u64,
    /// Addresses with a device of another owner.
    pub owned_elsewhere: u64,
    /// Addresses that answered without being identified.
    pub unidentified: u64,
    /// Addresses that refused the connection.
    pub refused: u64,
    /// Addresses that did not answer.
    pub silent: u64,
    /// Targets that were skipped.
    pub skipped: u64,
    /// The most frequent reason of skipped targets; empty if none was skipped.
    pub skipped_reason: String,
    /// Targets that were not probed.
    pub not_reached: u64,
    /// Targets without a reported outcome.
    pub unknown: u64,
    /// Rejected reports.
    pub rejected: u64,
    /// The most frequent reason of rejected reports; empty if none was rejected.
    pub rejected_reason: String,
}

/// Explains why a scan found no device: the cause that an operator can act on first, with the next step. None if the
/// scan found a device.
///
/// A cause that shows hosts outweighs the number of silent addresses, which a network has in any case.
pub fn explain_zero(counts: &Counts) -> Option<String> {
    let Counts {
        targets,
        identified,
        owned_elsewhere,
        unidentified,
        refused,
        silent,
        skipped,
        not_reached,
        unknown,
        rejected,
        ..
    } = *counts;
    if identified > 0 {
        return None;
    }
    let of = |count: u64, what: &str| {
        let noun = if targets == 1 { "target" } else { "targets" };
        format!("No device was found: {count} of {targets} {noun} {what}")
    };
    let sentence = if targets == 0 {
        "No device was found: the scan had no targets. Check the targets and what they exclude."
            .to_owned()
    } else if rejected > 0 && owned_elsewhere == 0 {
        let reason = &counts.rejected_reason;
        format!(
            "No device was accepted: the server rejected {rejected} reports ({reason}). See Rejected."
        )
    } else if owned_elsewhere > 0 {
        format!(
            "{}. Unpair or move these devices first if this node shall have them.",
            of(
                owned_elsewhere,
                "have a device that belongs to another node"
            )
        )
    } else if unidentified > 0 {
        format!(
            "{}. See Unidentified for what they answered.",
            of(unidentified, "answered, but no driver identified them")
        )
    } else if not_reached > 0 && not_reached >= silent {
        format!(
            "{}. The reason of the scan's end says why; scan again to reach them.",
            of(not_reached, "were not reached")
        )
    } else if skipped > 0 && skipped >= silent.saturating_add(refused) {
        let reason = &counts.skipped_reason;
        format!(
            "{}. Check the targets and the excludes.",
            of(skipped, &format!("were skipped ({reason})"))
        )
    } else if refused > 0 {
        format!(
            "{}. Hosts are there, but the scanned ports are closed: scan other ports.",
            of(refused, "refused the connection")
        )
    } else if unknown > 0 {
        format!(
            "{}. The node does not report outcomes, so silent and refused hosts cannot be told apart.",
            of(unknown, "have no reported outcome")
        )
    } else {
        format!(
            "{}. Check that the node is on this network and that the devices are on.",
            of(silent, "did not answer")
        )
    };
    Some(sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(counts: Counts, part: Option<&str>) {
        match (explain_zero(&counts), part) {
            (None, None) => {}
            (Some(sentence), Some(part)) => assert!(sentence.contains(part), "{sentence}"),
            (sentence, part) => panic!("{counts:?}: {sentence:?}, expected {part:?}"),
        }
    }

    #[test]
    fn a_result_of_zero_names_its_cause_and_the_next_step() {
        let all = |edit: fn(&mut Counts)| {
            let mut counts = Counts {
                targets: 254,
                silent: 250,
                ..Counts::default()
            };
            edit(&mut counts);
            counts
        };
        check(all(|counts| counts.identified = 1), None);
        check(Counts::default(), Some("had no targets"));
        check(
            all(|counts| counts.silent = 254),
            Some("254 of 254 targets did not answer. Check that the node is on this network"),
        );
        check(
            all(|counts| counts.refused = 4),
            Some("4 of 254 targets refused the connection"),
        );
        check(
            all(|counts| counts.unidentified = 4),
            Some("4 of 254 targets answered, but no driver"),
        );
        check(
            all(|counts| counts.owned_elsewhere = 4),
            Some("belongs to another node"),
        );
        check(
            all(|counts| {
                counts.rejected = 4;
                counts.rejected_reason = "address out of scope".into();
            }),
            Some("rejected 4 reports (address out of scope)"),
        );
        check(
            all(|counts| {
                counts.silent = 0;
                counts.skipped = 254;
                counts.skipped_reason = "excluded".into();
            }),
            Some("254 of 254 targets were skipped (excluded)"),
        );
        check(
            all(|counts| {
                counts.silent = 100;
                counts.not_reached = 154;
            }),
            Some("154 of 254 targets were not reached"),
        );
        check(
            all(|counts| {
                counts.silent = 0;
                counts.unknown = 254;
            }),
            Some("have no reported outcome"),
        );
    }

    #[test]
    fn one_target_is_one_target() {
        let counts = Counts {
            targets: 1,
            silent: 1,
            ..Counts::default()
        };
        check(counts, Some("1 of 1 target did not answer"));
    }
}
