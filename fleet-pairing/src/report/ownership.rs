//! The table of all cases: reporter, owner, binding, whether the owner is enrolled, kind of identity, and
//! replacement.

use std::collections::BTreeSet;

use fleet_core::RawDeviceReport;

use super::*;
use crate::Binding;

const TABLE: &str = include_str!("../../ownership.txt");
const ME: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);
const THIRD: NodeId = NodeId(3);
const DEAD: NodeId = NodeId(4);
const PREDECESSOR: NodeId = NodeId(5);
const KINDS: [&str; 3] = ["mac", "serial", "auto"];

fn report(kind: &str) -> DeviceReport {
    DeviceReport::parse(RawDeviceReport {
        identifier: "auto:0000000000000000",
        ip: "10.0.0.7",
        port: "4028",
        driver: "antminer",
        model: "S19",
        mac: if kind == "mac" {
            "02:00:5e:10:00:01"
        } else {
            ""
        },
        serial: if kind == "serial" { "S-1" } else { "" },
        ..RawDeviceReport::default()
    })
    .expect("well-formed")
}

fn record(owner: &str, bound: &str, kind: &str) -> DeviceRecord {
    let report = report(kind);
    let (owner, live) = match owner {
        "me" => (Some(ME), true),
        "other" => (Some(OTHER), true),
        "dead" => (Some(DEAD), false),
        "predecessor" => (Some(PREDECESSOR), false),
        "server" => (None, false),
        word => panic!("no such owner: {word}"),
    };
    let binding = match bound {
        "nobody" => Binding::Free,
        "me" => Binding::Node(ME),
        "owner" => Binding::Node(owner.expect("an owner")),
        "third" => Binding::Node(THIRD),
        "server" => Binding::Server,
        word => panic!("nothing is bound to {word}"),
    };
    DeviceRecord {
        id: DeviceId(1),
        identifier: report.identifier(owner.unwrap_or(crate::SERVER)),
        endpoint: Some(report.endpoint),
        owner,
        owner_live: live,
        binding,
        facts: report.facts,
        kept_apart: Vec::new(),
    }
}

fn outcome(record: &DeviceRecord, kind: &str) -> &'static str {
    let reporter = Reporter {
        node: ME,
        replaces: Some(PREDECESSOR),
    };
    let report = report(kind);
    let identifier = report.identifier(ME);
    match decide_report(reporter, &report, &identifier, &[record]) {
        ReportDecision::Create {
            endpoint_taken_from,
        } => {
            assert_eq!(endpoint_taken_from, [], "{record:?}");
            "created"
        }
        ReportDecision::Update {
            rekey,
            merges,
            endpoint_taken_from,
            ..
        } => {
            assert!(merges.is_empty() && endpoint_taken_from.is_empty());
            match rekey {
                None => "updated",
                Some(rekey) => {
                    assert_eq!(
                        (rekey.to, rekey.reason),
                        (identifier, IdentityReason::Replacement)
                    );
                    "inherited"
                }
            }
        }
        ReportDecision::Refuse(refused) => match refused.reason {
            RejectReason::OwnedByOtherNode => "owned",
            RejectReason::BoundToOtherNode => "bound",
            RejectReason::PairedByServer => "paired",
            RejectReason::Unattributed => "unattributed",
            reason @ (RejectReason::Identifier
            | RejectReason::Address
            | RejectReason::Port
            | RejectReason::Scheme
            | RejectReason::Driver
            | RejectReason::Text
            | RejectReason::AddressOutOfScope
            | RejectReason::PortOutOfScope
            | RejectReason::AddressClass
            | RejectReason::AlreadyReported
            | RejectReason::IdentityConflict) => panic!("{reason} of {record:?}"),
        },
    }
}

#[test]
fn whose_device_it_is_in_every_case() {
    let mut cases = BTreeSet::new();
    for line in TABLE
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let words: Vec<_> = line.split_whitespace().collect();
        let [owner, bound, outcomes @ ..] = &words[..] else {
            panic!("not a case: {line}")
        };
        assert!(cases.insert((*owner, *bound)), "{line} is there twice");
        assert_eq!(outcomes.len(), KINDS.len(), "{line}");
        for (kind, expected) in KINDS.into_iter().zip(outcomes) {
            let record = record(owner, bound, kind);
            assert_eq!(&outcome(&record, kind), expected, "{kind}: {line}");
        }
    }
    // A record of a node is bound to that node or to a third one. A record without owner cannot be bound to its
    // owner.
    assert_eq!(cases.len(), 5 * 5 - 2, "a case is missing");
}

#[test]
fn records_are_not_claimed_by_identifier_alone() {
    for kind in KINDS {
        for (owner, bound) in [("other", "nobody"), ("server", "nobody"), ("dead", "third")] {
            let known = record(owner, bound, kind);
            let taken = outcome(&known, kind);
            assert!(
                !matches!(taken, "updated" | "inherited"),
                "{owner}: {taken}"
            );
        }
    }
    // The server recomputes an `auto:` identifier that a node copied from another node.
    let theirs = record("other", "nobody", "auto");
    let report = DeviceReport {
        sent_identifier: theirs.identifier.to_string(),
        ..report("auto")
    };
    let identifier = report.identifier(ME);
    assert_ne!(identifier, theirs.identifier);
    assert_eq!(
        decide_report(ME.into(), &report, &identifier, &[&theirs]),
        ReportDecision::Create {
            endpoint_taken_from: vec![]
        }
    );
}
