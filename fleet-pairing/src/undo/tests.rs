//! What is taken back, what is not, and that the next reports leave it so.

use fleet_core::{DeviceReport, NodeId, RawDeviceReport};

use super::*;
use crate::{Binding, Inventory, ReportDecision};

const ME: NodeId = NodeId(1);
const MAC: &str = "02:00:5e:10:00:01";

fn report(ip: &str, mac: &str) -> DeviceReport {
    DeviceReport::parse(RawDeviceReport {
        identifier: "x",
        ip,
        port: "80",
        driver: "antminer",
        mac,
        ..RawDeviceReport::default()
    })
    .expect("well-formed")
}

fn weak() -> DeviceIdentifier {
    report("10.0.0.7", "").identifier(ME)
}

fn strong() -> DeviceIdentifier {
    report("10.0.0.7", MAC).identifier(ME)
}

fn record(id: i64, identifier: DeviceIdentifier) -> DeviceRecord {
    DeviceRecord {
        id: DeviceId(id),
        identifier,
        endpoint: Some(report("10.0.0.7", "").endpoint),
        owner: Some(ME),
        owner_live: true,
        binding: Binding::Free,
        driver: "antminer".to_owned(),
        model: String::new(),
        manufacturer: String::new(),
        mac: None,
        serial: None,
        kept_apart: Vec::new(),
    }
}

fn change(merged: Option<i64>) -> IdentityChange {
    IdentityChange {
        device: DeviceId(1),
        merged: merged.map(DeviceId),
        former: weak(),
        became: strong(),
        undone: false,
    }
}

#[test]
fn each_case_has_its_answer() {
    let survivor = record(1, strong());
    let undo = |revive: Option<i64>| {
        Ok(Undo {
            revive: revive.map(DeviceId),
            keep_apart: vec![strong()],
        })
    };
    assert_eq!(decide_undo(&change(None), &survivor, None), undo(None));
    assert_eq!(
        decide_undo(&change(Some(2)), &survivor, None),
        undo(Some(2))
    );
    let undone = IdentityChange {
        undone: true,
        ..change(None)
    };
    assert_eq!(
        decide_undo(&undone, &survivor, None),
        Err(UndoRefusal::Undone)
    );
    assert_eq!(
        decide_undo(&change(None), &survivor, Some(DeviceId(3))),
        Err(UndoRefusal::Taken {
            device: DeviceId(3),
            identifier: weak()
        })
    );
    // The survivor has a third name meanwhile: neither of the two is taken on again.
    let renamed = record(1, report("10.0.0.7", "02:00:5e:10:00:02").identifier(ME));
    assert_eq!(
        decide_undo(&change(None), &renamed, None).map(|undo| undo.keep_apart),
        Ok(vec![strong(), renamed.identifier])
    );
}

#[test]
fn after_an_undo_no_report_makes_the_two_one_again() {
    let undo = decide_undo(&change(Some(2)), &record(1, strong()), None).expect("decided");
    let mut weaker = record(2, weak());
    weaker.endpoint = None;
    weaker.kept_apart = keep_apart(&weaker.kept_apart, undo.keep_apart);
    let mut inventory = Inventory::new([record(1, strong()), weaker]);
    // The same place by turns with and without the MAC, and each of them at another place.
    for (ip, mac) in [
        ("10.0.0.7", MAC),
        ("10.0.0.7", ""),
        ("10.0.0.8", MAC),
        ("10.0.0.7", ""),
        ("10.0.0.7", MAC),
        ("10.0.0.7", ""),
    ] {
        let planned = inventory
            .decide(ME.into(), &report(ip, mac))
            .expect("taken");
        let one = matches!(
            &planned.decision,
            ReportDecision::Update { rekey, merges, .. } if rekey.is_some() || !merges.is_empty()
        );
        assert!(!one, "{ip} {mac}: {planned:?}");
    }
    assert_eq!(inventory.records().count(), 2);
}

#[test]
fn what_is_kept_apart_is_bounded_and_each_once() {
    let serial = |n: usize| format!("serial:S{n}").parse().expect("a serial");
    let mut known = Vec::new();
    for n in 0..40 {
        known = keep_apart(&known, [serial(n), serial(n)]);
    }
    assert_eq!(known.len(), KEPT_APART_MOST);
    assert_eq!(known.last(), Some(&serial(39)));
}
