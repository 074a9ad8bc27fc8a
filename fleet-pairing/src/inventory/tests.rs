//! Reports whose rows depend on each other, and the same report twice.

use fleet_core::{RawDeviceReport, RejectReason};
use proptest::prelude::*;

use super::*;

const ME: NodeId = NodeId(1);

fn report(mac: &str, port: &str, model: &str) -> DeviceReport {
    DeviceReport::parse(RawDeviceReport {
        identifier: "x",
        ip: "10.0.0.7",
        port,
        driver: "antminer",
        model,
        mac,
        ..RawDeviceReport::default()
    })
    .expect("well-formed")
}

fn all(inventory: &Inventory) -> Vec<DeviceRecord> {
    inventory.records().cloned().collect()
}

const MAC: &str = "02:00:5e:10:00:01";
const MAC_2: &str = "02:00:5e:10:00:02";

#[test]
fn two_rows_of_a_new_device_make_one_record() {
    let mut inventory = Inventory::default();
    let first = inventory
        .decide(ME.into(), &report(MAC, "80", ""))
        .expect("new");
    let second = inventory
        .decide(ME.into(), &report(MAC, "4028", "S19"))
        .expect("known");
    assert!(Inventory::is_provisional(first.device));
    assert_eq!(first.device, second.device);
    assert!(matches!(second.decision, ReportDecision::Update { .. }));
    let [record]: [DeviceRecord; 1] = all(&inventory).try_into().expect("one record");
    assert_eq!(
        (record.facts.model.as_str(), record.endpoint),
        ("S19", Some(report(MAC, "4028", "").endpoint))
    );
}

#[test]
fn rows_see_the_endpoint_that_earlier_rows_took() {
    let mut inventory = Inventory::default();
    let weak = inventory
        .decide(ME.into(), &report("", "80", ""))
        .expect("new");
    let strong = inventory
        .decide(ME.into(), &report(MAC, "80", ""))
        .expect("the same");
    assert_eq!(weak.device, strong.device);
    let other = inventory
        .decide(ME.into(), &report(MAC_2, "80", ""))
        .expect("another");
    assert_eq!(
        other.decision,
        ReportDecision::Create {
            endpoint_taken_from: vec![weak.device]
        }
    );
    assert_ne!(other.device, weak.device);
    let loser = all(&inventory)
        .into_iter()
        .find(|record| record.id == weak.device);
    assert_eq!(loser.and_then(|record| record.endpoint), None);
}

#[test]
fn a_refused_row_changes_nothing() {
    let mut theirs = Inventory::default();
    theirs
        .decide(NodeId(2).into(), &report(MAC, "80", ""))
        .expect("new");
    let before = all(&theirs);
    let refused = theirs.decide(ME.into(), &report(MAC, "80", ""));
    assert_eq!(
        refused.map_err(|refused| refused.reason),
        Err(RejectReason::OwnedByOtherNode)
    );
    assert_eq!(all(&theirs), before);
}

#[test]
fn a_blank_field_erases_nothing() {
    let mut inventory = Inventory::default();
    inventory
        .decide(ME.into(), &report(MAC, "80", "S19"))
        .expect("new");
    inventory
        .decide(ME.into(), &report(MAC, "80", ""))
        .expect("known");
    assert_eq!(all(&inventory)[0].facts.model, "S19");
}

#[test]
fn a_merged_record_leaves_what_it_knew_and_its_binding() {
    let mut inventory = Inventory::default();
    let weak = inventory
        .decide(ME.into(), &report("", "80", "S19"))
        .expect("new");
    inventory.change(weak.device, |record| record.binding = Binding::Node(ME));
    let strong = inventory
        .decide(ME.into(), &report(MAC, "443", ""))
        .expect("new");
    let merged = inventory
        .decide(ME.into(), &report(MAC, "80", ""))
        .expect("known");
    assert_eq!(merged.device, strong.device);
    let [record]: [DeviceRecord; 1] = all(&inventory).try_into().expect("one record");
    assert_eq!(
        (record.facts.model.as_str(), record.binding),
        ("S19", Binding::Node(ME))
    );
}

#[test]
fn a_row_looks_at_few_records_however_many_there_are() {
    let mac = |n: usize| format!("02:00:5e:10:{:02x}:{:02x}", n / 256, n % 256);
    let at = |n: usize, mac: &str| {
        DeviceReport::parse(RawDeviceReport {
            identifier: "x",
            ip: &format!("10.0.{}.{}", n / 256, n % 256),
            port: "80",
            driver: "antminer",
            mac,
            ..RawDeviceReport::default()
        })
        .expect("well-formed")
    };
    let mut inventory = Inventory::default();
    for n in 0..1_024 {
        inventory.decide(ME.into(), &at(n, &mac(n))).expect("new");
    }
    // Every device has moved to the next address: each row names one record and displaces another.
    for n in 0..1_024 {
        let moved = at((n + 1) % 1_024, &mac(n));
        let identifier = moved.identifier(ME);
        let looked_at = inventory.candidates(ME.into(), &moved, &identifier).len();
        assert!(looked_at <= 2, "row {n} looks at {looked_at} records");
        inventory.decide(ME.into(), &moved).expect("known");
    }
    let endpoints: BTreeSet<_> = inventory
        .records()
        .filter_map(|record| record.endpoint)
        .collect();
    assert_eq!(
        (inventory.records().count(), endpoints.len()),
        (1_024, 1_024)
    );
}

proptest! {
    #![proptest_config(fleet_core::regressions!("inventory", 512))]

    #[test]
    fn identities_and_endpoints_stay_unique_and_re_delivery_changes_nothing(
        rows in prop::collection::vec((0_usize..3, 0_usize..3, 0_usize..3, 1_i64..3), 0..30),
    ) {
        let mut inventory = Inventory::default();
        for (mac, port, model, node) in rows {
            let report = report(["", MAC, MAC_2][mac], ["80", "443", "4028"][port], ["", "S19", "S21"][model]);
            let Ok(first) = inventory.decide(NodeId(node).into(), &report) else { continue };
            let records = all(&inventory);
            let again = inventory.decide(NodeId(node).into(), &report).expect("taken before");
            prop_assert_eq!(again.device, first.device);
            prop_assert_eq!(
                again.decision,
                ReportDecision::Update { device: first.device, rekey: None, merges: vec![], endpoint_taken_from: vec![] }
            );
            prop_assert_eq!(all(&inventory), records);
        }
        let records = all(&inventory);
        for (at, record) in records.iter().enumerate() {
            for other in &records[at + 1..] {
                prop_assert_ne!(record.id, other.id);
                prop_assert!(record.endpoint.is_none() || (record.owner, record.endpoint) != (other.owner, other.endpoint));
prop_assert_ne!(&record.identifier, &other.identifier);
            }
        }
    }
}
