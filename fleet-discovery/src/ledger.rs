//! The ledger of a scan counts the outcome of every target. The counts add up for any report of a node. Start with
//! [`settle`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fleet_core::{TargetOutcome, outcome::Grade};

use crate::{Scope, Tally};

/// The counts at the end of a scan. A target is an address, or a name without an address. It counts once, by its best
/// outcome over all ports and chunks.
///
/// `targets` is the sum of the eight rows from `identified` to `unknown`. `reported` is `accepted` plus `rejected`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Number of requested targets, as far as known.
    pub targets: u64,
    /// The node chose the addresses and reports no outcomes, so only those with a device are known.
    pub targets_unknown: bool,
    /// Addresses with an accepted device.
    pub identified: u64,
    /// Addresses with a device that belongs to another owner, and no accepted device.
    pub owned_elsewhere: u64,
    /// Addresses that answered without an identified device.
    pub unidentified: u64,
    /// Addresses that refused the connection.
    pub refused: u64,
    /// Addresses that did not answer.
    pub silent: u64,
    /// Targets that the plan or the node skipped.
    pub skipped: u64,
    /// Targets that were not probed.
    pub not_reached: u64,
    /// Targets that the node probed without reporting an outcome.
    pub unknown: u64,
    /// Rows that the node reported.
    pub reported: u64,
    /// Accepted rows.
    pub accepted: u64,
    /// Rejected rows.
    pub rejected: u64,
    /// The owners of devices that belong elsewhere. The counts add up to `owned_elsewhere`.
    pub owned_elsewhere_reasons: Vec<Tally>,
    /// Why targets were skipped. The counts add up to `skipped`.
    pub skipped_reasons: Vec<Tally>,
    /// Why rows were rejected. The counts add up to `rejected`.
    pub rejected_reasons: Vec<Tally>,
    /// Milliseconds from the scan's first command to its first device.
    pub first_device_ms: Option<u64>,
    /// Milliseconds from the scan's first command to its end.
    pub elapsed_ms: u64,
}

/// The facts about a chunk when its scan ends.
#[derive(Clone, Copy, Debug)]
pub struct ChunkFacts<'a> {
    /// The scope of its last command, or of the plan if it has none.
    pub scope: &'a Scope,
    /// One byte per address in scope order, from the ack; none if the node does not report outcomes.
    pub outcomes: Option<&'a [u8]>,
    /// The grade of the chunk; none if it never ended.
    pub grade: Option<Grade>,
}

/// The facts about a scan when it ends.
#[derive(Clone, Debug, Default)]
pub struct LedgerFacts<'a> {
    /// The targets that the plan skipped.
    pub skipped: &'a [Tally],
    /// Its chunks, in order.
    pub chunks: Vec<ChunkFacts<'a>>,
    /// Addresses of the accepted devices.
    pub devices: BTreeSet<IpAddr>,
    /// Addresses of devices that were refused because they belong to another owner, who is named.
    pub owned_elsewhere: BTreeMap<IpAddr, String>,
    /// Number of accepted rows.
    pub accepted: u64,
    /// The rejected rows, by reason.
    pub rejected: &'a [Tally],
    /// Milliseconds from the scan's first command to its first device.
    pub first_device_ms: Option<u64>,
    /// Milliseconds from the scan's first command to its end.
    pub elapsed_ms: u64,
}

impl Ledger {
    /// Whether the parts add up to the totals.
    pub fn adds_up(&self) -> bool {
        let parts = [
            self.identified,
            self.owned_elsewhere,
            self.unidentified,
            self.refused,
            self.silent,
            self.skipped,
            self.not_reached,
            self.unknown,
        ];
        let sum = |tallies: &[Tally]| {
            tallies
                .iter()
                .map(|tally| u128::from(tally.count))
                .sum::<u128>()
        };
        let whole = |parts: &[u64]| parts.iter().copied().map(u128::from).sum::<u128>();
        whole(&parts) == self.targets.into()
            && whole(&[self.accepted, self.rejected]) == self.reported.into()
            && sum(&self.owned_elsewhere_reasons) == self.owned_elsewhere.into()
            && sum(&self.skipped_reasons) == self.skipped.into()
            && sum(&self.rejected_reasons) == self.rejected.into()
    }
}

/// What is known about a target, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Known {
    Skipped,
    NotReached,
    /// Probed, but the outcome was not reported.
    Unknown,
    Silent,
    Refused,
    Unidentified,
    OwnedElsewhere,
    Identified,
}

/// The reason that counts targets which the node skipped.
const SKIPPED_BY_NODE: &str = "left out by the node";
/// The reason that counts names without an address to scan.
const SKIPPED_NAME: &str = "name not pinned";

/// Creates the ledger. The outcome bytes of a node count only as far as they are consistent:
///
/// - An address with an accepted device is identified, regardless of its byte. An address with a device of another
///   owner is counted under that owner. An address that its byte calls identified, but that has neither, is
///   unidentified.
/// - Bytes of the wrong length are ignored.
/// - The addresses of a chunk without bytes are unknown if the chunk ended well, and otherwise not reached.
/// - In an open subnet, only the addresses of accepted devices are targets.
pub fn settle(facts: LedgerFacts<'_>) -> Ledger {
    let mut ledger = Ledger {
        accepted: facts.accepted,
        first_device_ms: facts.first_device_ms,
        elapsed_ms: facts.elapsed_ms,
        ..Ledger::default()
    };
    for tally in facts.rejected {
        Tally::add(
            &mut ledger.rejected_reasons,
            &tally.reason,
            tally.count,
            &tally.example,
        );
    }
    ledger.rejected = total(&ledger.rejected_reasons);
    ledger.reported = ledger.accepted.saturating_add(ledger.rejected);
    // It differs only if the sum saturated. The parts must add up even then.
    ledger.accepted = ledger.reported - ledger.rejected;

    for tally in facts.skipped {
        Tally::add(
            &mut ledger.skipped_reasons,
            &tally.reason,
            tally.count,
            &tally.example,
        );
    }
    let mut names = BTreeMap::new();
    let owned_elsewhere = facts.owned_elsewhere.keys().copied();
    let mut addresses: BTreeMap<IpAddr, Known> = owned_elsewhere
        .map(|ip| (ip, Known::OwnedElsewhere))
        .collect();
    addresses.extend(facts.devices.iter().map(|ip| (*ip, Known::Identified)));
    for chunk in &facts.chunks {
        ledger.targets_unknown |= chunk.scope.is_chosen_by_node() && chunk.outcomes.is_none();
        let says_nothing = says_nothing(chunk);
        for (ip, known) in outcomes(chunk, says_nothing) {
            // Every group of ports has its own chunk, so chunks share addresses and names.
            let best = addresses.entry(ip).or_insert(known);
            *best = known.max(*best);
        }
        // A node that pins names reports each lookup. Without a report, for example after a cancel, there was none.
        let not_looked_up = if chunk.scope.awaits_pins() {
            Known::NotReached
        } else {
            says_nothing
        };
        for (name, skipped) in chunk.scope.names_without_address() {
            let known = if skipped.is_some() {
                Known::Skipped
            } else {
                not_looked_up
            };
            let (best, why) = names.entry(name).or_insert((known, skipped));
            (*best, *why) = (known.max(*best), why.or(skipped));
        }
    }
    for (ip, known) in addresses {
        if known == Known::Skipped {
            Tally::add(
                &mut ledger.skipped_reasons,
                SKIPPED_BY_NODE,
                1,
                &ip.to_string(),
            );
        }
        if known == Known::OwnedElsewhere
            && let Some(owner) = facts.owned_elsewhere.get(&ip)
        {
            Tally::add(
                &mut ledger.owned_elsewhere_reasons,
                owner,
                1,
                &ip.to_string(),
            );
        }
        ledger.count(known);
    }
    for (name, (known, why)) in names {
        if known == Known::Skipped {
            let example = format!("{name}: {}", why.unwrap_or_default());
            Tally::add(&mut ledger.skipped_reasons, SKIPPED_NAME, 1, &example);
        }
        ledger.count(known);
    }
    ledger.skipped = total(&ledger.skipped_reasons);
    ledger.targets = [
        ledger.identified,
        ledger.owned_elsewhere,
        ledger.unidentified,
        ledger.refused,
        ledger.silent,
        ledger.skipped,
        ledger.not_reached,
        ledger.unknown,
    ]
    .into_iter()
    .fold(0, u64::saturating_add);
    ledger
}

impl Ledger {
    /// Counts a target. Skipped targets are counted by their tallies.
    fn count(&mut self, known: Known) {
        match known {
            Known::Skipped => {}
            Known::NotReached => self.not_reached += 1,
            Known::Unknown => self.unknown += 1,
            Known::Silent => self.silent += 1,
            Known::Refused => self.refused += 1,
            Known::Unidentified => self.unidentified += 1,
            Known::OwnedElsewhere => self.owned_elsewhere += 1,
            Known::Identified => self.identified += 1,
        }
    }
}

/// Returns what is known about the addresses of a chunk without bytes.
pub(crate) fn says_nothing(chunk: &ChunkFacts<'_>) -> Known {
    match chunk.grade {
        Some(Grade::Complete | Grade::Partial) => Known::Unknown,
        Some(Grade::Failed | Grade::Fatal) | None => Known::NotReached,
    }
}

/// Returns the addresses of a chunk with the outcomes from its bytes.
pub(crate) fn outcomes<'a>(
    chunk: &ChunkFacts<'a>,
    says_nothing: Known,
) -> impl Iterator<Item = (IpAddr, Known)> + use<'a> {
    let addresses: Vec<IpAddr> = chunk.scope.addresses().collect();
    let bytes = chunk
        .outcomes
        .filter(|bytes| bytes.len() == addresses.len());
    addresses.into_iter().enumerate().map(move |(at, ip)| {
        let byte = bytes.and_then(|bytes| bytes.get(at));
        (
            ip,
            byte.map_or(says_nothing, |byte| known(TargetOutcome::from_byte(*byte))),
        )
    })
}

fn known(outcome: TargetOutcome) -> Known {
    match outcome {
        TargetOutcome::Skipped => Known::Skipped,
        TargetOutcome::NotReached => Known::NotReached,
        TargetOutcome::Silent => Known::Silent,
        TargetOutcome::Refused => Known::Refused,
        // Only an accepted device makes an address identified.
        TargetOutcome::Unidentified | TargetOutcome::Identified => Known::Unidentified,
    }
}

fn total(tallies: &[Tally]) -> u64 {
    tallies
        .iter()
        .fold(0, |sum, tally| tally.count.saturating_add(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        text.parse().expect(text)
    }

    fn counts(ledger: &Ledger) -> [u64; 8] {
        assert!(ledger.adds_up(), "{ledger:?}");
        [
            ledger.targets,
            ledger.identified,
            ledger.unidentified,
            ledger.refused,
            ledger.silent,
            ledger.skipped,
            ledger.not_reached,
            ledger.unknown,
        ]
    }

    /// Checks the counts of one chunk: targets, identified, unidentified, refused, silent, skipped, not reached,
    /// unknown.
    #[track_caller]
    fn check(
        text: &str,
        outcomes: Option<&[u8]>,
        grade: Option<Grade>,
        devices: &[&str],
        expected: [u64; 8],
    ) {
        let scope = scope(text);
        let ledger = settle(LedgerFacts {
            chunks: vec![ChunkFacts {
                scope: &scope,
                outcomes,
                grade,
            }],
            devices: devices
                .iter()
                .map(|ip| fleet_core::parse_literal(ip).expect(ip))
                .collect(),
            ..LedgerFacts::default()
        });
        assert_eq!(counts(&ledger), expected, "{text} {outcomes:?} {grade:?}");
    }

    #[test]
    fn bytes_count_as_far_as_they_are_consistent() {
        let six = "1|exact|10.0.0.1-10.0.0.6|80";
        let done = Some(Grade::Complete);
        check(
            six,
            Some(&[0, 1, 2, 3, 4, 5]),
            done,
            &["10.0.0.5"],
            [6, 1, 1, 1, 1, 1, 1, 0],
        );
        // The byte reports a device as identified, but none was accepted.
        check(
            six,
            Some(&[0, 1, 2, 3, 4, 5]),
            done,
            &[],
            [6, 0, 2, 1, 1, 1, 1, 0],
        );
        // A device was accepted at an address that the byte calls silent.
        check(
            six,
            Some(&[1; 6]),
            done,
            &["10.0.0.2"],
            [6, 1, 0, 0, 5, 0, 0, 0],
        );
        // Too few bytes, too many bytes, and undefined values.
        check(six, Some(&[1; 5]), done, &[], [6, 0, 0, 0, 0, 0, 0, 6]);
        check(
            six,
            Some(&[1; 7]),
            done,
            &["10.0.0.2"],
            [6, 1, 0, 0, 0, 0, 0, 5],
        );
        check(six, Some(&[99; 6]), done, &[], [6, 0, 0, 0, 0, 0, 6, 0]);
    }

    #[test]
    fn devices_of_other_owners_are_counted_under_their_owner() {
        let scope = scope("1|exact|10.0.0.1-10.0.0.4|80");
        let ip = |text: &str| fleet_core::parse_literal(text).expect(text);
        let barn = "belongs to node 2 (barn)".to_owned();
        let ledger = settle(LedgerFacts {
            chunks: vec![ChunkFacts {
                scope: &scope,
                outcomes: Some(&[4, 4, 4, 1]),
                grade: Some(Grade::Complete),
            }],
            devices: [ip("10.0.0.1")].into(),
            // One host can have devices of two owners. It counts once.
            owned_elsewhere: [
                (ip("10.0.0.1"), barn.clone()),
                (ip("10.0.0.2"), barn.clone()),
            ]
            .into(),
            ..LedgerFacts::default()
        });
        assert_eq!(ledger.owned_elsewhere, 1);
        let reason = Tally {
            reason: barn,
            count: 1,
            example: "10.0.0.2".into(),
        };
        assert_eq!(ledger.owned_elsewhere_reasons, [reason]);
        assert_eq!(counts(&ledger), [4, 1, 1, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn without_bytes_a_chunk_is_unknown_or_not_reached() {
        let two = "1|exact|10.0.0.1-10.0.0.2|80";
        check(
            two,
            None,
            Some(Grade::Complete),
            &["10.0.0.1"],
            [2, 1, 0, 0, 0, 0, 0, 1],
        );
        check(
            two,
            None,
            Some(Grade::Partial),
            &[],
            [2, 0, 0, 0, 0, 0, 0, 2],
        );
        check(
            two,
            None,
            Some(Grade::Failed),
            &["10.0.0.1"],
            [2, 1, 0, 0, 0, 0, 1, 0],
        );
        check(two, None, None, &[], [2, 0, 0, 0, 0, 0, 2, 0]);
    }

    #[test]
    fn names_count_by_their_addresses_or_as_themselves() {
        let pinned = "1|pinned|a.lan=10.0.0.9+10.0.0.1,b.lan=!no such host,c.lan=?|80";
        check(
            pinned,
            Some(&[2, 1]),
            Some(Grade::Complete),
            &[],
            [4, 0, 0, 1, 1, 1, 1, 0],
        );
        check(pinned, None, None, &[], [4, 0, 0, 0, 0, 1, 3, 0]);
        let canceled_during_the_lookup = "1|pinned|a.lan=?,b.lan=?|80";
        check(
            canceled_during_the_lookup,
            None,
            Some(Grade::Partial),
            &[],
            [2, 0, 0, 0, 0, 0, 2, 0],
        );
        check(
            "1|unpinned|a.lan=|80",
            None,
            Some(Grade::Complete),
            &[],
            [1, 0, 0, 0, 0, 0, 0, 1],
        );
        check(
            "1|unpinned|a.lan=10.0.0.1|80",
            None,
            Some(Grade::Complete),
            &["10.0.0.1"],
            [1, 1, 0, 0, 0, 0, 0, 0],
        );
    }

    #[test]
    fn targets_are_unknown_only_where_the_node_chose_them_and_reports_none() {
        for (text, outcomes, expected) in [
            ("1|subnet|?|80", None, true),
            ("1|exact|10.0.0.1|80", None, false),
            ("1|exact|10.0.0.1|80", Some(&[1_u8][..]), false),
        ] {
            let scope = scope(text);
            let ledger = settle(LedgerFacts {
                chunks: vec![ChunkFacts {
                    scope: &scope,
                    outcomes,
                    grade: Some(Grade::Complete),
                }],
                ..LedgerFacts::default()
            });
            assert_eq!(ledger.targets_unknown, expected, "{text} {outcomes:?}");
        }
    }

    #[test]
    fn an_open_subnet_has_the_targets_that_answered() {
        check("1|subnet|?|80", None, Some(Grade::Complete), &[], [0; 8]);
        check(
            "1|subnet|10.0.0.0|80",
            Some(&[1; 9]),
            Some(Grade::Complete),
            &["10.0.0.1", "10.0.0.2"],
            [2, 2, 0, 0, 0, 0, 0, 0],
        );
    }

    #[test]
    fn a_target_counts_once_by_the_best_of_its_chunks() {
        let (a, b) = (
            scope("1|exact|10.0.0.1-10.0.0.4|80"),
            scope("1|exact|10.0.0.1-10.0.0.4|443"),
        );
        let chunk = |scope, outcomes, grade| ChunkFacts {
            scope,
            outcomes,
            grade,
        };
        let done = Some(Grade::Complete);
        let ledger = settle(LedgerFacts {
            chunks: vec![
                chunk(&a, Some(&[5, 1, 5, 0]), done),
                chunk(&b, Some(&[5, 3, 1, 5]), done),
            ],
            ..LedgerFacts::default()
        });
        assert_eq!(counts(&ledger), [4, 0, 1, 0, 1, 1, 1, 0]);
        let ledger = settle(LedgerFacts {
            chunks: vec![chunk(&a, Some(&[1, 1, 0, 5]), done), chunk(&b, None, done)],
            ..LedgerFacts::default()
        });
        assert_eq!(counts(&ledger), [4, 0, 0, 0, 2, 0, 0, 2]);
    }

    #[test]
    fn reasons_are_kept_and_add_up() {
        let tally = |reason: &str, count| Tally {
            reason: reason.into(),
            count,
            example: "x".into(),
        };
        let skipped = [tally("network address", 1), tally("broadcast address", 1)];
        let rejected = [
            tally("address out of scope", 3),
            tally("address out of scope", 2),
            tally("bad port", 1),
        ];
        let scope = scope("1|exact|10.0.0.1-10.0.0.2|80");
        let ledger = settle(LedgerFacts {
            skipped: &skipped,
            chunks: vec![ChunkFacts {
                scope: &scope,
                outcomes: Some(&[5, 5]),
                grade: Some(Grade::Partial),
            }],
            rejected: &rejected,
            accepted: 4,
            ..LedgerFacts::default()
        });
        assert_eq!(counts(&ledger), [4, 0, 0, 0, 0, 4, 0, 0]);
        assert_eq!(
            (ledger.reported, ledger.accepted, ledger.rejected),
            (10, 4, 6)
        );
        assert_eq!(
            ledger.skipped_reasons.last(),
            Some(&Tally {
                reason: SKIPPED_BY_NODE.into(),
                count: 2,
                example: "10.0.0.1".into()
            })
        );
        assert_eq!(
            ledger.rejected_reasons.first(),
            Some(&tally("address out of scope", 5))
        );
    }
}
