//! The table of cases: who reports x what is known x who owns it x whom it is bound to.

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

/// A report at [`HERE`] that shows what `shows` says: identifiers separated by blanks, or nothing.
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

/// A record of mine at [`HERE`]; of an `auto:` identity when `identifier` is just that.
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
        binding: Binding::Free,
        driver: "antminer".to_owned(),
        model: String::new(),
        manufacturer: String::new(),
        mac: None,
        serial: None,
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
        ..record
    }
}

fn bound(binding: Binding, record: DeviceRecord) -> DeviceRecord {
    DeviceRecord { binding, ..record }
}

fn model(model: &str, record: DeviceRecord) -> DeviceRecord {
    DeviceRecord {
        model: model.to_owned(),
        ..record
    }
}

/// A decision in short: `create`, `update 1`, `update 1 as mac:..`, each `takes 2`; or the reason.
fn decided(report: &DeviceReport, candidates: &[DeviceRecord]) -> String {
    let takes = |from: &[DeviceId]| {
        from.iter()
            .map(|id| format!(" takes {id}"))
            .collect::<String>()
    };
    match decide_report(ME, report, &report.identifier(ME), candidates) {
        ReportDecision::Create {
            endpoint_taken_from,
        } => format!("create{}", takes(&endpoint_taken_from)),
        ReportDecision::Update {
            device,
            rekey,
            endpoint_taken_from,
        } => {
            let rekey = rekey.map(|id| format!(" as {id}")).unwrap_or_default();
            format!("update {device}{rekey}{}", takes(&endpoint_taken_from))
        }
        ReportDecision::Refuse(reason) => reason.to_string(),
    }
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
fn a_record_is_written_by_its_owner_or_after_its_owner_was_revoked() {
    use Binding::{Free, Node, Server};
    let (updated, owned_by, bound_to) =
        ("update 1", "owned by another node", "bound to another node");
    for (owner, live, binding, expected) in [
        (Some(ME), true, Free, updated),
        (Some(ME), true, Node(ME), updated),
        (Some(ME), true, Node(OTHER), bound_to),
        (Some(ME), true, Server, "paired by the server"),
        (Some(OTHER), true, Free, owned_by),
        (Some(OTHER), true, Node(OTHER), bound_to),
        (Some(OTHER), true, Node(ME), updated),
        (Some(OTHER), true, Server, "paired by the server"),
        (Some(OTHER), false, Free, updated),
        (Some(OTHER), false, Node(OTHER), bound_to),
        (Some(OTHER), false, Node(NodeId(3)), bound_to),
        (Some(OTHER), false, Server, "paired by the server"),
        (None, false, Free, "found by the server itself"),
        (None, false, Server, "paired by the server"),
        (None, false, Node(OTHER), bound_to),
    ] {
        for place in [HERE, ELSEWHERE] {
            let record = bound(binding, owned(owner, live, at(place, record(1, MAC))));
            check(MAC, &[record], expected);
        }
    }
}

#[test]
fn what_is_not_known_is_created() {
    for shows in [MAC, SERIAL, ""] {
        check(shows, &[], "create");
        // The same private address behind another node, or known by the server, is another place.
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
fn a_device_first_known_by_its_place_stays_one_record() {
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
fn two_automatic_identities_of_one_place_are_one_record() {
    // The record was made when the model was not known: another hash, the same place.
    check("", &[record(1, "auto")], "update 1");
    check("", &[model("S17", record(1, "auto"))], "update 1");
}

#[test]
fn a_weak_report_is_what_the_place_is_known_to_hold() {
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
    let bitaxe = DeviceRecord {
        manufacturer: "Bitaxe".to_owned(),
        ..record(1, MAC)
    };
    check("", std::slice::from_ref(&bitaxe), "update 1");
    let bitmain = DeviceReport {
        manufacturer: "Bitmain".to_owned(),
        ..report("", "")
    };
    assert_eq!(decided(&bitmain, &[bitaxe]), "create takes 1");
}

#[test]
fn another_strong_identity_is_another_device_and_takes_the_place() {
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
        serial: report(SERIAL, "").serial,
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
    check(MAC, &[weak(), strong()], "update 2 takes 1");
    check(
        MAC,
        &[weak(), owned(Some(OTHER), false, strong())],
        "update 2 takes 1",
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
fn a_record_that_may_not_be_written_keeps_its_place() {
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

fn any_record() -> impl Strategy<Value = DeviceRecord> {
    (
        prop::sample::select(vec!["auto", MAC, MAC_2, SERIAL, "auto:0000000000000001"]),
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
    )
        .prop_map(|(identifier, place, owner, live, binding, kind)| {
            let live = live || owner == Some(ME);
            model(
                kind,
                bound(
                    binding,
                    owned(owner, live, at(place, record(0, identifier))),
                ),
            )
        })
}

proptest! {
    #![proptest_config(fleet_core::regressions!("report", 1024))]

    #[test]
    fn only_what_the_reporter_may_write_is_written(
        records in prop::collection::vec(any_record(), 0..5),
        shows in prop::sample::select(vec!["", MAC, SERIAL, "mac:02:00:5E:10:00:01 serial:S-1"]),
    ) {
        let records: Vec<_> = records
            .into_iter()
            .zip(1..)
            .map(|(record, id)| DeviceRecord { id: DeviceId(id), ..record })
            .collect();
        let report = report(shows, "S19");
        let find = |id: &DeviceId| records.iter().find(|record| record.id == *id).expect("a candidate");
        let written: Vec<DeviceId> = match decide_report(ME, &report, &report.identifier(ME), &records) {
            ReportDecision::Create { endpoint_taken_from } => endpoint_taken_from,
            ReportDecision::Update { device, rekey, mut endpoint_taken_from } => {
                prop_assert!(!endpoint_taken_from.contains(&device));
                if let Some(rekey) = rekey {
                    prop_assert!(rekey.is_strong() && rekey == report.identifier(ME));
                    prop_assert!(records.iter().all(|record| record.identifier != rekey));
                }
                endpoint_taken_from.push(device);
                endpoint_taken_from
            }
            ReportDecision::Refuse(_) => vec![],
        };
        for id in &written {
            let record = find(id);
            prop_assert!(record.writable_by(ME).is_ok());
            prop_assert!(record.identifier == report.identifier(ME) || record.is_at(ME, report.endpoint));
        }
    }
}
