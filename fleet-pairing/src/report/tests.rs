//! Tables of cases: reporter, known records, their owners and their bindings.

use fleet_core::{Endpoint, RawDeviceReport};
use proptest::prelude::*;

use super::*;
use crate::Binding;

const ME: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);
const MAC: &str = "mac:02:00:5E:10:00:01";
const MAC_2: &str = "mac:02:00:5E:10:00:02";
const SERIAL: &str = "serial:S-1";
const HERE: &str = "10.0.0.7";
const ELSEWHERE: &str = "10.0.0.8";

/// A report at [`HERE`]. `shows` holds its identifiers separated by blanks; it may be empty.
fn report(shows: &str, model: &str) -> DeviceReport {
    let kind = |kind: &str| {
        shows
            .split(' ')
            .find_map(|id| id.strip_prefix(kind))
            .unwrap_or_default()
    };
    DeviceReport::parse(RawDeviceReport {
        identifier: "auto:0000000000000000",
        ip: HERE,
        port: "4028",
        driver: "antminer",
        model,
        mac: kind("mac:"),
        serial: kind("serial:"),
        ..RawDeviceReport::default()
    })
    .expect("well-formed")
}

/// A record of the reporting node at [`HERE`]. It gets an `auto:` identity if `identifier` is `auto`.
fn record(id: i64, identifier: &str) -> DeviceRecord {
    let report = report("", "");
    let identifier = match identifier {
        "auto" => report.identifier(ME),
        other => other.parse().expect(other),
    };
    DeviceRecord {
        id: DeviceId(id),
        identifier,
        endpoint: Some(report.endpoint),
        owner: Some(ME),
        owner_live: true,
        site: Some(SiteId(ME.0)),
        binding: Binding::Free,
        facts: report.facts,
        kept_apart: Vec::new(),
        shared: false,
        seen_at: None,
    }
}

fn at(ip: &str, record: DeviceRecord) -> DeviceRecord {
    let ip = fleet_core::parse_literal(ip).expect(ip);
    DeviceRecord {
        endpoint: record.endpoint.map(|endpoint| Endpoint { ip, ..endpoint }),
        ..record
    }
}

fn owned(owner: Option<NodeId>, live: bool, record: DeviceRecord) -> DeviceRecord {
    DeviceRecord {
        owner,
        owner_live: live,
        site: owner.map(|owner| SiteId(owner.0)),
        ..record
    }
}

fn bound(binding: Binding, record: DeviceRecord) -> DeviceRecord {
    DeviceRecord { binding, ..record }
}

fn model(model: &str, record: DeviceRecord) -> DeviceRecord {
    let mut record = record;
    model.clone_into(&mut record.facts.model);
    record
}

/// The record with the `auto:` identifier that node `owner` would compute from its endpoint and type.
fn auto_of(owner: NodeId, kind: &str, record: DeviceRecord) -> DeviceRecord {
    DeviceRecord {
        identifier: report("", kind).identifier(owner),
        ..record
    }
}

fn apart(from: &str, record: DeviceRecord) -> DeviceRecord {
    DeviceRecord {
        kept_apart: vec![from.parse().expect(from)],
        ..record
    }
}

/// A decision in short: `create`, `update 1`, `update 1 as mac:..`, `merges 3`, `takes 2`; or the reason.
fn decided_for(reporter: Reporter, report: &DeviceReport, candidates: &[DeviceRecord]) -> String {
    let takes = |from: &[DeviceId]| {
        from.iter()
            .map(|id| format!(" takes {id}"))
            .collect::<String>()
    };
    let candidates: Vec<_> = candidates.iter().collect();
    match decide_report(
        reporter,
        report,
        &report.identifier(reporter.node),
        &candidates,
    ) {
        ReportDecision::Create {
            endpoint_taken_from,
        } => format!("create{}", takes(&endpoint_taken_from)),
        ReportDecision::Update {
            device,
            rekey,
            merges,
            endpoint_taken_from,
        } => {
            let rekey = rekey
                .map(|rekey| format!(" as {}", rekey.to))
                .unwrap_or_default();
            let merges: String = merges
                .iter()
                .map(|(id, _)| format!(" merges {id}"))
                .collect();
            format!(
                "update {device}{rekey}{merges}{}",
                takes(&endpoint_taken_from)
            )
        }
        ReportDecision::Refuse(refused) => refused.reason.to_string(),
    }
}

fn decided(report: &DeviceReport, candidates: &[DeviceRecord]) -> String {
    decided_for(ME.into(), report, candidates)
}

#[track_caller]
fn check(shows: &str, candidates: &[DeviceRecord], expected: &str) {
    assert_eq!(
        decided(&report(shows, "S19"), candidates),
        expected,
        "{shows} {candidates:?}"
    );
}

#[test]
fn unknown_devices_are_created() {
    for shows in [MAC, SERIAL, ""] {
        check(shows, &[], "create");
        // The same private address behind another node, or known by the server, is another endpoint.
        check(
            shows,
            &[owned(Some(OTHER), true, record(1, MAC_2))],
            "create",
        );
        check(
            shows,
            &[owned(Some(OTHER), false, record(1, MAC_2))],
            "create",
        );
        check(shows, &[owned(None, false, record(1, MAC_2))], "create");
        check(shows, &[at(ELSEWHERE, record(1, MAC_2))], "create");
    }
}

#[test]
fn a_device_first_known_by_its_endpoint_stays_one_record() {
    check(MAC, &[record(1, "auto")], &format!("update 1 as {MAC}"));
    check(
        SERIAL,
        &[record(1, "auto")],
        &format!("update 1 as {SERIAL}"),
    );
    check(
        MAC,
        &[bound(Binding::Node(ME), record(1, "auto"))],
        &format!("update 1 as {MAC}"),
    );
    check(MAC, &[at(ELSEWHERE, record(1, "auto"))], "create");
    check(
        MAC,
        &[owned(Some(OTHER), true, record(1, "auto"))],
        "create",
    );
}

#[test]
fn two_automatic_identities_of_one_endpoint_are_one_record() {
    // The record was created when the model was unknown: the hash differs, the endpoint is the same.
    check("", &[record(1, "auto")], "update 1");
    check("", &[model("S17", record(1, "auto"))], "update 1");
}

#[test]
fn a_weak_report_matches_the_known_device_of_the_endpoint() {
    for strong in [MAC, SERIAL] {
        check("", &[record(1, strong)], "update 1");
        check("", &[model("s19 ", record(1, strong))], "update 1");
        check("", &[model("S21", record(1, strong))], "create takes 1");
        check(
            "",
            &[bound(Binding::Node(ME), record(1, strong))],
            "update 1",
        );
    }
    let mut bitaxe = record(1, MAC);
    bitaxe.facts.manufacturer = "Bitaxe".to_owned();
    check("", std::slice::from_ref(&bitaxe), "update 1");
    let mut bitmain = report("", "");
    bitmain.facts.manufacturer = "Bitmain".to_owned();
    assert_eq!(decided(&bitmain, &[bitaxe]), "create takes 1");
}

#[test]
fn another_strong_identity_is_another_device_and_takes_the_endpoint() {
    check(MAC, &[record(1, MAC_2)], "create takes 1");
    check(SERIAL, &[record(1, MAC_2)], "create takes 1");
    check(
        MAC,
        &[record(1, MAC_2), at(ELSEWHERE, record(2, MAC))],
        "update 2 takes 1",
    );
    check(
        MAC,
        &[bound(Binding::Node(ME), record(1, MAC_2))],
        "create takes 1",
    );
}

#[test]
fn an_identity_shown_before_is_the_same_device() {
    let with_serial = |identifier| DeviceRecord {
        facts: report(SERIAL, "").facts,
        ..record(1, identifier)
    };
    let both = format!("{MAC} {SERIAL}");
    check(&both, &[record(1, SERIAL)], &format!("update 1 as {MAC}"));
    check(SERIAL, &[with_serial(MAC)], "update 1");
    check(&both, &[with_serial(MAC_2)], "create takes 1");
    check(SERIAL, &[at(ELSEWHERE, with_serial(MAC))], "create");
}

#[test]
fn two_records_of_one_device_become_one() {
    let weak = || record(1, "auto");
    let strong = || at(ELSEWHERE, record(2, MAC));
    check(MAC, &[weak(), strong()], "update 2 merges 1");
    check(
        MAC,
        &[weak(), owned(Some(OTHER), false, record(2, MAC))],
        "update 2 merges 1",
    );
    // A MAC alone is no claim to a record of a revoked node.
    check(
        MAC,
        &[weak(), owned(Some(OTHER), false, strong())],
        "owned by a revoked node",
    );
    // A record with the serial that the device shows beside its MAC is the same device too.
    let both = format!("{MAC} {SERIAL}");
    check(&both, &[record(1, SERIAL), strong()], "update 2 merges 1");
    check(MAC, &[record(1, SERIAL), strong()], "update 2 takes 1");
    // A binding may have given one node two records at the same endpoint.
    check(
        "",
        &[record(1, "auto"), record(2, "auto:0000000000000001")],
        "update 1 merges 2",
    );
    check(
        "",
        &[
            record(1, "auto:0000000000000001"),
            auto_of(ME, "S19", record(2, "auto")),
        ],
        "update 2 merges 1",
    );
    for record in [
        owned(Some(OTHER), true, strong()),
        owned(None, false, strong()),
        bound(Binding::Node(OTHER), strong()),
        bound(Binding::Server, strong()),
    ] {
        check(MAC, &[weak(), record], "identity conflict");
    }
}

#[test]
fn records_of_two_types_never_become_one() {
    let strong = || at(ELSEWHERE, record(2, MAC));
    check(
        MAC,
        &[model("S21", record(1, "auto")), strong()],
        "update 2 takes 1",
    );
    check(
        MAC,
        &[
            model("S21", record(1, "auto")),
            owned(Some(OTHER), true, strong()),
        ],
        "owned by another node",
    );
}

#[test]
fn devices_separated_by_an_operator_stay_separate_until_new_evidence() {
    let separated = || apart(MAC, record(1, "auto"));
    check(MAC, &[separated()], "create takes 1");
    check(
        MAC,
        &[separated(), at(ELSEWHERE, record(2, MAC))],
        "update 2 takes 1",
    );
    check("", &[separated()], "update 1");
    check(MAC_2, &[separated()], &format!("update 1 as {MAC_2}"));
    check(SERIAL, &[separated()], &format!("update 1 as {SERIAL}"));
    let both = format!("{MAC} {SERIAL}");
    check(&both, &[apart(MAC, record(1, SERIAL))], "create takes 1");
}

#[test]
fn a_replacement_takes_over_the_revoked_nodes_record_of_endpoint_and_type() {
    let replacement = Reporter {
        replaces: Some(OTHER),
        ..ME.into()
    };
    let theirs = || owned(Some(OTHER), false, auto_of(OTHER, "S19", record(1, "auto")));
    let auto = report("", "S19").identifier(ME);
    let check = |shows: &str, candidates: &[DeviceRecord], expected: &str| {
        assert_eq!(
            decided_for(replacement, &report(shows, "S19"), candidates),
            expected,
            "{shows} {candidates:?}"
        );
    };
    check("", &[theirs()], &format!("update 1 as {auto}"));
    check(MAC, &[theirs()], &format!("update 1 as {MAC}"));
    check("", &[theirs(), record(2, "auto")], "update 2 merges 1");
    check(
        MAC,
        &[theirs(), at(ELSEWHERE, record(2, MAC))],
        "update 2 merges 1",
    );
    // Nothing is guessed: a match by endpoint only, another type, another node's record and an enrolled node do not
    // count.
    check("", &[auto_of(OTHER, "S21", theirs())], "create");
    check("", &[auto_of(NodeId(3), "S19", theirs())], "create");
    check("", &[owned(Some(NodeId(3)), false, theirs())], "create");
    check("", &[owned(Some(OTHER), true, theirs())], "create");
    check("", &[bound(Binding::Node(NodeId(3)), theirs())], "create");
    check("", &[bound(Binding::Server, theirs())], "create");
    // A node that was not named as the replacement takes over nothing.
    assert_eq!(decided(&report("", "S19"), &[theirs()]), "create");
    // A record that an operator separated is not taken over either.
    check("", &[apart(&auto.to_string(), theirs())], "create");
}

#[test]
fn a_refusal_names_the_conflicting_record() {
    let strong = owned(Some(OTHER), true, at(ELSEWHERE, record(2, MAC)));
    let weak = record(1, "auto");
    let report = report(MAC, "S19");
    assert_eq!(
        decide_report(
            ME.into(),
            &report,
            &report.identifier(ME),
            &[&weak, &strong]
        ),
        ReportDecision::Refuse(Refused {
            reason: RejectReason::IdentityConflict,
            record: DeviceId(2),
        })
    );
}

#[test]
fn a_record_that_may_not_be_written_keeps_its_endpoint() {
    check(
        MAC,
        &[bound(Binding::Server, record(1, MAC_2))],
        "paired by the server",
    );
    check(
        "",
        &[bound(Binding::Node(OTHER), model("S21", record(1, MAC)))],
        "bound to another node",
    );
}

fn mate(record: DeviceRecord) -> DeviceRecord {
    DeviceRecord {
        site: Some(SiteId(ME.0)),
        ..owned(Some(OTHER), true, record)
    }
}

#[test]
fn nodes_of_one_site_have_one_record_for_a_device() {
    // The hash has the id of the other node in it. The endpoint in the shared site says that it is the same device.
    let theirs = || mate(auto_of(OTHER, "S19", record(1, "auto")));
    check("", &[theirs()], "update 1");
    check(MAC, &[theirs()], &format!("update 1 as {MAC}"));
    check("", &[mate(record(1, MAC))], "update 1");
    check(MAC, &[mate(at(ELSEWHERE, record(1, MAC)))], "update 1");
    // The records from before the nodes shared a site become one.
    check("", &[theirs(), record(2, "auto")], "update 1 merges 2");
    check(
        MAC,
        &[theirs(), at(ELSEWHERE, record(2, MAC))],
        "update 2 merges 1",
    );
    // Another device at the endpoint takes it, as between two records of one node.
    check(MAC, &[mate(record(1, MAC_2))], "create takes 1");
    check("", &[mate(model("S21", record(1, MAC)))], "create takes 1");
    // What is bound to the other node stays one device too; what a third node has is not touched.
    let bound_to = |node| bound(Binding::Node(node), theirs());
    check("", &[bound_to(OTHER)], "update 1");
    check("", &[bound_to(NodeId(3))], "bound to another node");
}

#[test]
fn an_identity_at_another_endpoint_never_moves_between_live_nodes() {
    for shows in [MAC, SERIAL] {
        for endpoint in [HERE, ELSEWHERE] {
            let theirs = owned(Some(OTHER), true, at(endpoint, record(1, shows)));
            check(shows, &[theirs], "owned by another node");
        }
    }
}

fn any_record() -> impl Strategy<Value = DeviceRecord> {
    (
        prop::sample::select(vec![
            "auto",
            "predecessor",
            MAC,
            MAC_2,
            SERIAL,
            "auto:0000000000000001",
        ]),
        prop::sample::select(vec![HERE, ELSEWHERE]),
        prop::sample::select(vec![None, Some(ME), Some(OTHER)]),
        any::<bool>(),
        prop::sample::select(vec![
            Binding::Free,
            Binding::Node(ME),
            Binding::Node(OTHER),
            Binding::Server,
        ]),
        prop::sample::select(vec!["", "S19", "S21"]),
        prop::sample::subsequence(vec![MAC, MAC_2, SERIAL], 0..3),
        any::<bool>(),
    )
        .prop_map(
            |(identifier, endpoint, owner, live, binding, kind, separated, mate)| {
                let live = live || owner == Some(ME);
                let named = match identifier {
                    "predecessor" => auto_of(OTHER, "S19", record(0, "auto")),
                    other => record(0, other),
                };
                let kept_apart = separated
                    .into_iter()
                    .map(|id| id.parse().expect(id))
                    .collect();
                let known = model(
                    kind,
                    bound(binding, owned(owner, live, at(endpoint, named))),
                );
                DeviceRecord {
                    kept_apart,
                    site: known
                        .site
                        .map(|site| if mate { SiteId(ME.0) } else { site }),
                    ..known
                }
            },
        )
}

proptest! {
    #![proptest_config(fleet_core::regressions!("report", 4096))]

    #[test]
    fn only_records_of_the_reporter_are_written(
        records in prop::collection::vec(any_record(), 0..5),
        shows in prop::sample::select(vec!["", MAC, SERIAL, "mac:02:00:5E:10:00:01 serial:S-1"]),
        replaces in prop::sample::select(vec![None, Some(OTHER)]),
    ) {
        let mut names = std::collections::BTreeSet::new();
        let records: Vec<_> = records
            .into_iter()
            // The database keeps identifiers unique among live records.
            .filter(|record| names.insert(record.identifier.clone()))
            .zip(1..)
            .map(|(record, id)| DeviceRecord {
                id: DeviceId(id),
                // Only a revoked node is replaced.
                owner_live: record.owner_live && record.owner != replaces,
                ..record
            })
            .collect();
        let report = report(shows, "S19");
        let reporter = Reporter { replaces, ..ME.into() };
        let identifier = report.identifier(ME);
        let predecessor = predecessor_identifier(reporter, &report);
        let candidates: Vec<_> = records.iter().collect();
        let find = |id: &DeviceId| records.iter().find(|record| record.id == *id).expect("a candidate");
        let decision = decide_report(reporter, &report, &identifier, &candidates);
        let written: Vec<DeviceId> = match decision {
            ReportDecision::Create { endpoint_taken_from } => endpoint_taken_from,
            ReportDecision::Update { device, rekey, merges, endpoint_taken_from } => {
                let becomes = rekey.as_ref().map_or(&find(&device).identifier, |rekey| &rekey.to);
                if let Some(rekey) = &rekey {
                    prop_assert!(rekey.to == identifier);
                    prop_assert!(rekey.to.is_strong() || rekey.reason == IdentityReason::Replacement);
                    prop_assert!(records.iter().all(|record| record.identifier != rekey.to));
                    prop_assert!(!find(&device).kept_apart.contains(&rekey.to));
                }
                for (merged, _) in &merges {
                    prop_assert!(!find(merged).kept_apart.contains(becomes));
                    prop_assert!(!matches!(find(merged).identifier, DeviceIdentifier::Mac(_)));
                }
                let merged = merges.into_iter().map(|(id, _)| id);
                std::iter::once(device).chain(merged).chain(endpoint_taken_from).collect()
            }
            ReportDecision::Refuse(refused) => {
                find(&refused.record);
                vec![]
            }
        };
        let mut once = std::collections::BTreeSet::new();
        for id in &written {
            let record = find(id);
            prop_assert!(once.insert(*id), "each record has one part");
            prop_assert!(record.writable_by(reporter, report.endpoint).is_ok());
            let succeeded = Some(&record.identifier) == predecessor.as_ref() && record.owner == Some(OTHER) && !record.owner_live;
            prop_assert!(record.identifier == identifier || record.is_at(reporter.site, report.endpoint) || succeeded);
        }
    }
}
