//! Changes that are reverted, changes that are not, and later reports that must not merge the records again.

use fleet_core::{DeviceReport, NodeId, RawDeviceReport};
use proptest::prelude::*;

use super::*;
use crate::{Binding, Inventory, Planned, ReportDecision};

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
        site: Some(fleet_core::SiteId(ME.0)),
        binding: Binding::Free,
        facts: report("10.0.0.7", "").facts,
        kept_apart: Vec::new(),
        shared: false,
        seen_at: None,
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
    // The survivor has a third identifier by now. It takes neither of the two again.
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
    // Alternates between the same endpoint with and without the MAC, and also moves each device to another endpoint.
    for (ip, mac) in [
        ("10.0.0.7", MAC),
        ("10.0.0.7", ""),
        ("10.0.0.8", MAC),
        ("10.0.0.7", ""),
        ("10.0.0.7", MAC),
        ("10.0.0.7", ""),
    ] {
        // Each report is from another scan.
        let unseen = |record: &DeviceRecord| DeviceRecord {
            seen_at: None,
            ..record.clone()
        };
        inventory = Inventory::new(inventory.records().map(unseen).collect::<Vec<_>>());
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
fn separated_identifiers_are_bounded_and_unique() {
    let serial = |n: usize| format!("serial:S{n}").parse().expect("a serial");
    let mut known = Vec::new();
    for n in 0..40 {
        known = keep_apart(&known, [serial(n), serial(n)]);
    }
    assert_eq!(known.len(), KEPT_APART_MOST);
    assert_eq!(known.last(), Some(&serial(39)));
}

const MACS: [&str; 3] = ["", MAC, "02:00:5e:10:00:02"];
const SERIALS: [&str; 2] = ["", "S-1"];

/// What a node may report at one of two endpoints: the MAC, serial and model that it shows.
fn rows() -> impl Strategy<Value = (usize, usize, usize, usize)> {
    (0..2_usize, 0..3_usize, 0..2_usize, 0..2_usize)
}

fn row_report((endpoint, mac, serial, model): (usize, usize, usize, usize)) -> DeviceReport {
    DeviceReport::parse(RawDeviceReport {
        identifier: "x",
        ip: ["10.0.0.7", "10.0.0.8"][endpoint],
        port: "80",
        driver: "antminer",
        model: ["", "S19"][model],
        mac: MACS[mac],
        serial: SERIALS[serial],
        ..RawDeviceReport::default()
    })
    .expect("well-formed")
}

/// Returns the records as stored, without provisional ids.
fn stored(inventory: &Inventory) -> Vec<DeviceRecord> {
    let settled = |record: &DeviceRecord| DeviceRecord {
        id: settled(record.id),
        shared: false,
        seen_at: None,
        ..record.clone()
    };
    inventory.records().map(settled).collect()
}

fn settled(id: DeviceId) -> DeviceId {
    DeviceId(id.0.abs())
}

/// Returns the first change that a decision made.
fn made(
    before: &[DeviceRecord],
    after: &[DeviceRecord],
    planned: &Planned,
) -> Option<IdentityChange> {
    let ReportDecision::Update { rekey, merges, .. } = &planned.decision else {
        return None;
    };
    let find = |records: &[DeviceRecord], id: DeviceId| {
        let known = records.iter().find(|record| record.id == settled(id));
        known.cloned().expect("a record")
    };
    let merged = merges.first().map(|(merged, _)| settled(*merged));
    let former = match (merged, rekey) {
        (Some(merged), _) => find(before, merged).identifier,
        (None, Some(_)) => find(before, planned.device).identifier,
        (None, None) => return None,
    };
    Some(IdentityChange {
        device: settled(planned.device),
        merged,
        former,
        became: find(after, planned.device).identifier,
        undone: false,
    })
}

proptest! {
    #![proptest_config(fleet_core::regressions!("undo", 1024))]

    /// A report that merged two records does not merge them again after an operator separated them. Neither does any
    /// report without new evidence.
    #[test]
    fn an_undone_change_stays_undone_until_new_evidence(
        first in prop::collection::vec(rows(), 1..12),
        then in prop::collection::vec(rows(), 0..12),
    ) {
        let mut inventory = Inventory::default();
        for row in first {
            let before = stored(&inventory);
            let report = row_report(row);
            let planned = inventory.decide(ME.into(), &report).expect("its own");
            let after = stored(&inventory);
            let Some(change) = made(&before, &after, &planned) else { continue };
            let survivor = after.iter().find(|record| record.id == change.device).expect("it lives");
            let holder = after.iter().find(|record| record.identifier == change.former);
            let Ok(undo) = decide_undo(&change, survivor, holder.map(|record| record.id)) else { continue };
            let restored = DeviceRecord {
                id: undo.revive.unwrap_or(DeviceId(1_000)),
                identifier: change.former.clone(),
                endpoint: None,
                kept_apart: keep_apart(&[], undo.keep_apart),
                ..record(0, change.former.clone())
            };
            let told_apart = restored.id;
            let mut inventory = Inventory::new(after.into_iter().chain([restored]));
            let nothing_new = then.iter().map(|row| row_report(*row)).filter(|report| {
                report.identifiers(ME).all(|shown| !shown.is_strong() || shown == change.became)
            });
            for report in std::iter::once(report).chain(nothing_new) {
                inventory.decide(ME.into(), &report).expect("its own");
                let weaker = inventory.records().find(|record| record.id == told_apart);
                prop_assert_eq!(weaker.map(|record| &record.identifier), Some(&change.former));
            }
            break;
        }
    }
}
