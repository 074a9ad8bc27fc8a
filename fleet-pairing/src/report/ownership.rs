//! The table of all cases: reporter, owner, binding, whether the owner is enrolled, site, endpoint, kind of identity,
//! and replacement.

use std::collections::BTreeSet;

use fleet_core::RawDeviceReport;

use super::*;
use crate::Binding;

const TABLE: &str = include_str!("../../ownership.txt");
const ME: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);
const THIRD: NodeId = NodeId(3);
const REVOKED: NodeId = NodeId(4);
const PREDECESSOR: NodeId = NodeId(5);
const MATE: NodeId = NodeId(6);
const REVOKED_MATE: NodeId = NodeId(7);
const HERE: &str = "10.0.0.7";
const AWAY: &str = "10.0.0.8";
/// The site of the reporter and its mates. Each other node has a site of its own.
const MY_SITE: SiteId = SiteId(1);
const KINDS: [&str; 3] = ["mac", "serial", "auto"];

fn report(kind: &str) -> DeviceReport {
    report_at(kind, HERE)
}

fn report_at(kind: &str, ip: &str) -> DeviceReport {
    DeviceReport::parse(RawDeviceReport {
        identifier: "auto:0000000000000000",
        ip,
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

fn record(owner: &str, bound: &str, at: &str, kind: &str) -> DeviceRecord {
    let report = report_at(
        kind,
        match at {
            "here" => HERE,
            "away" => AWAY,
            word => panic!("no such endpoint: {word}"),
        },
    );
    let (owner, live) = match owner {
        "me" => (Some(ME), true),
        "other" => (Some(OTHER), true),
        "revoked" => (Some(REVOKED), false),
        "predecessor" => (Some(PREDECESSOR), false),
        "mate" => (Some(MATE), true),
        "revoked-mate" => (Some(REVOKED_MATE), false),
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
        site: owner.map(|owner| match owner {
            ME | MATE | REVOKED_MATE => MY_SITE,
            other => SiteId(other.0),
        }),
        binding,
        facts: report.facts,
        kept_apart: Vec::new(),
        shared: false,
        seen_at: None,
    }
}

const REPORTER: Reporter = Reporter {
    node: ME,
    site: MY_SITE,
    replaces: Some(PREDECESSOR),
};

fn outcome(record: &DeviceRecord, kind: &str) -> &'static str {
    let report = report(kind);
    let identifier = report.identifier(ME);
    match decide_report(REPORTER, &report, &identifier, &[record]) {
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
                None if record.owner_after(ME) == ME => "updated",
                None => "kept",
                Some(rekey) => {
                    assert_eq!(
                        (rekey.to, rekey.reason),
                        (identifier, IdentityReason::Replacement)
                    );
                    "succeeded"
                }
            }
        }
        ReportDecision::Refuse(refused) => match refused.reason {
            RejectReason::OwnedByOtherNode => "owned",
            RejectReason::OwnedByRevokedNode => "revoked",
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
        let [owner, bound, at, outcomes @ ..] = &words[..] else {
            panic!("not a case: {line}")
        };
        assert!(cases.insert((*owner, *bound, *at)), "{line} is there twice");
        assert_eq!(outcomes.len(), KINDS.len(), "{line}");
        for (kind, expected) in KINDS.into_iter().zip(outcomes) {
            let record = record(owner, bound, at, kind);
            assert_eq!(&outcome(&record, kind), expected, "{kind}: {line}");
        }
    }
    // A record of a node is bound to that node or to a third one. A record without owner cannot be bound to its
    // owner.
    let of_other_sites = cases
        .iter()
        .filter(|(owner, _, at)| *at == "here" && !owner.ends_with("mate"));
    assert_eq!(of_other_sites.count(), 5 * 5 - 2, "a case is missing");
}

#[test]
fn records_are_not_claimed_by_identifier_alone() {
    for kind in KINDS {
        for (owner, bound, at) in [
            ("other", "nobody", "here"),
            ("server", "nobody", "here"),
            ("revoked", "third", "here"),
            ("revoked", "nobody", "away"),
        ] {
            let known = record(owner, bound, at, kind);
            let taken = outcome(&known, kind);
            assert!(
                !matches!(taken, "updated" | "succeeded"),
                "{owner}: {taken}"
            );
        }
    }
    // The server recomputes an `auto:` identifier that a node copied from another node.
    let theirs = record("other", "nobody", "here", "auto");
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

#[test]
fn a_record_of_a_revoked_node_passes_on_for_a_stated_reason() {
    let claim = |owner, bound, at| {
        let known = record(owner, bound, at, "mac");
        known.claim(REPORTER, report("mac").endpoint)
    };
    for (owner, bound, at, from, basis) in [
        ("revoked", "nobody", "here", REVOKED, ClaimBasis::Endpoint),
        ("revoked", "me", "away", REVOKED, ClaimBasis::Binding),
        (
            "revoked-mate",
            "nobody",
            "away",
            REVOKED_MATE,
            ClaimBasis::Site,
        ),
        (
            "predecessor",
            "nobody",
            "away",
            PREDECESSOR,
            ClaimBasis::Replacement,
        ),
        (
            "predecessor",
            "nobody",
            "here",
            PREDECESSOR,
            ClaimBasis::Replacement,
        ),
    ] {
        assert_eq!(
            claim(owner, bound, at),
            Some(Claim { from, basis }),
            "{owner} {bound} {at}"
        );
    }
    for (owner, at) in [
        ("revoked", "away"),
        ("me", "here"),
        ("mate", "here"),
        ("other", "here"),
        ("server", "here"),
    ] {
        assert_eq!(claim(owner, "nobody", at), None, "{owner} {at}");
    }
}
