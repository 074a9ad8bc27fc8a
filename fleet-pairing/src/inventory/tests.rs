//! Reports whose rows depend on each other, and the same report twice.

use fleet_core::RawDeviceReport;
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

const MAC: &str = "02:00:5e:10:00:01";
const MAC_2: &str = "02:00:5e:10:00:02";

#[test]
fn two_rows_of_a_new_device_make_one_record() {
    let mut inventory = Inventory::default();
    let first = inventory.decide(ME, &report(MAC, "80", "")).expect("new");
    let second = inventory
        .decide(ME, &report(MAC, "4028", "S19"))
        .expect("known");
    assert!(Inventory::is_provisional(first.device));
    assert_eq!(first.device, second.device);
    assert!(matches!(second.decision, ReportDecision::Update { .. }));
    let [record] = inventory.records() else {
        panic!("one record: {inventory:?}");
    };
    assert_eq!(
        (record.model.as_str(), record.endpoint),
        ("S19", Some(report(MAC, "4028", "").endpoint))
    );
}

#[test]
fn rows_see_the_place_that_earlier_rows_took() {
    let mut inventory = Inventory::default();
    let weak = inventory.decide(ME, &report("", "80", "")).expect("new");
    let strong = inventory
        .decide(ME, &report(MAC, "80", ""))
        .expect("the same");
    assert_eq!(weak.device, strong.device);
    let other = inventory
        .decide(ME, &report(MAC_2, "80", ""))
        .expect("another");
    assert_eq!(
        other.decision,
        ReportDecision::Create {
            endpoint_taken_from: vec![weak.device]
        }
    );
    assert_ne!(other.device, weak.device);
    assert_eq!(
        inventory
            .records()
            .first()
            .and_then(|record| record.endpoint),
        None
    );
}

#[test]
fn a_refused_row_changes_nothing() {
    let mut theirs = Inventory::default();
    theirs
        .decide(NodeId(2), &report(MAC, "80", ""))
        .expect("new");
    let before = theirs.records().to_vec();
    assert_eq!(
        theirs.decide(ME, &report(MAC, "80", "")),
        Err(RejectReason::OwnedByOtherNode)
    );
    assert_eq!(theirs.records(), before);
}

#[test]
fn a_blank_field_erases_nothing() {
    let mut inventory = Inventory::default();
    inventory
        .decide(ME, &report(MAC, "80", "S19"))
        .expect("new");
    inventory.decide(ME, &report(MAC, "80", "")).expect("known");
    assert_eq!(
        inventory
            .records()
            .first()
            .map(|record| record.model.as_str()),
        Some("S19")
    );
}

proptest! {
    #![proptest_config(fleet_core::regressions!("inventory", 512))]

    #[test]
    fn identities_and_places_stay_unique_and_re_delivery_finds_what_is_there(
        rows in prop::collection::vec((0_usize..3, 0_usize..3, 0_usize..3, 1_i64..3), 0..30),
    ) {
        let mut inventory = Inventory::default();
        for (mac, port, model, node) in rows {
            let report = report(["", MAC, MAC_2][mac], ["80", "443", "4028"][port], ["", "S19", "S21"][model]);
            let Ok(first) = inventory.decide(NodeId(node), &report) else { continue };
            let records = inventory.records().to_vec();
            let again = inventory.decide(NodeId(node), &report).expect("taken before");
            prop_assert_eq!(again.device, first.device);
            prop_assert_eq!(
                again.decision,
                ReportDecision::Update { device: first.device, rekey: None, endpoint_taken_from: vec![] }
            );
            prop_assert_eq!(inventory.records(), records);
        }
        let records = inventory.records();
        for (at, record) in records.iter().enumerate() {
            for other in &records[at + 1..] {
                prop_assert_ne!(record.id, other.id);
                prop_assert!(record.endpoint.is_none() || (record.owner, record.endpoint) != (other.owner, other.endpoint));
prop_assert_ne!(&record.identifier, &other.identifier);
            }
        }
    }
}
