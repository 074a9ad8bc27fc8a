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

/// The same records in the next scan.
fn next_scan(inventory: &Inventory) -> Inventory {
    let unseen = |record| DeviceRecord {
        seen_at: None,
        ..record
    };
    Inventory {
        created: inventory.created,
        ..Inventory::new(all(inventory).into_iter().map(unseen))
    }
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
fn a_merged_record_leaves_its_facts_and_its_binding() {
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
    // The next scan finds that every device has moved to the next address: each row names one record and displaces
    // another.
    let mut inventory = next_scan(&inventory);
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

fn report_at(ip: &str, mac: &str, serial: &str) -> DeviceReport {
    DeviceReport::parse(RawDeviceReport {
        identifier: "x",
        ip,
        port: "80",
        driver: "antminer",
        mac,
        serial,
        ..RawDeviceReport::default()
    })
    .expect("well-formed")
}

/// Decides rows of address, MAC and serial. Returns the number of warnings.
fn decide_all(inventory: &mut Inventory, rows: &[(&str, &str, &str)]) -> usize {
    rows.iter()
        .map(|(ip, mac, serial)| {
            let report = report_at(ip, mac, serial);
            let planned = inventory.decide(ME.into(), &report).expect("its own");
            planned.shared.len()
        })
        .sum()
}

/// The address of each record, in the order of creation.
fn addresses(inventory: &Inventory) -> Vec<(DeviceId, String)> {
    let mut records = all(inventory);
    records.sort_by_key(|record| -record.id.0);
    let address = |record: DeviceRecord| {
        let ip = record.endpoint.map(|endpoint| endpoint.ip.to_string());
        (record.id, ip.unwrap_or_default())
    };
    records.into_iter().map(address).collect()
}

#[test]
fn a_mac_at_two_addresses_of_one_scan_is_two_devices_and_stays_two() {
    let first = ("10.0.0.7", MAC, "");
    let second = ("10.0.0.8", MAC, "");
    let mut inventory = Inventory::default();
    assert_eq!(decide_all(&mut inventory, &[first, second]), 1);
    let devices = addresses(&inventory);
    assert_eq!(devices.len(), 2);
    // The order of the answers differs in each scan. Nothing moves.
    for order in [[second, first], [first, second], [second, first]] {
        inventory = next_scan(&inventory);
        assert_eq!(decide_all(&mut inventory, &order), 1);
        assert_eq!(addresses(&inventory), devices);
    }
    // A third clone is a third device.
    decide_all(&mut inventory, &[("10.0.0.9", MAC, "")]);
    assert_eq!(addresses(&inventory).len(), 3);
}

#[test]
fn a_serial_tells_devices_with_one_mac_apart_wherever_they_are() {
    let mut inventory = Inventory::default();
    let clones = [("10.0.0.7", MAC, "A1"), ("10.0.0.8", MAC, "B2")];
    assert_eq!(decide_all(&mut inventory, &clones), 1);
    let names: Vec<_> = all(&inventory)
        .iter()
        .map(|record| record.identifier.to_string())
        .collect();
    assert!(names.contains(&"serial:B2".to_owned()), "{names:?}");
    inventory = next_scan(&inventory);
    decide_all(&mut inventory, &[("10.0.0.20", MAC, "B2")]);
    assert_eq!(addresses(&inventory).len(), 2);
    // A serial at two addresses is no identity either.
    assert_eq!(decide_all(&mut inventory, &[("10.0.0.21", MAC, "B2")]), 2);
    assert_eq!(addresses(&inventory).len(), 3);
}

#[test]
fn a_device_that_moves_between_scans_or_answers_on_ipv6_too_is_one() {
    let mut inventory = Inventory::default();
    let rows = [("10.0.0.7", MAC, ""), ("fd00::7", MAC, "")];
    assert_eq!(decide_all(&mut inventory, &rows), 0);
    inventory = next_scan(&inventory);
    assert_eq!(decide_all(&mut inventory, &[("10.0.0.8", MAC, "")]), 0);
    assert_eq!(addresses(&inventory).len(), 1);
}

#[test]
fn a_known_device_is_not_mistaken_for_a_clone_at_its_address() {
    let mut inventory = Inventory::default();
    decide_all(
        &mut inventory,
        &[("10.0.0.8", MAC_2, ""), ("10.0.0.7", MAC, "")],
    );
    inventory = next_scan(&inventory);
    let clones = [("10.0.0.7", MAC, ""), ("10.0.0.8", MAC, "")];
    assert_eq!(decide_all(&mut inventory, &clones), 1);
    let displaced = all(&inventory).into_iter().find(|record| {
        record
            .identifier
            .to_string()
            .eq_ignore_ascii_case(&format!("mac:{MAC_2}"))
    });
    assert_eq!(displaced.and_then(|record| record.endpoint), None);
    assert_eq!(addresses(&inventory).len(), 3);
}

#[test]
fn nodes_that_share_a_site_keep_one_inventory_and_its_finders() {
    let [first, second] = [1, 2].map(|node| Reporter {
        node: NodeId(node),
        site: SiteId(1),
        replaces: None,
    });
    let mut inventory = Inventory::default();
    let found = inventory
        .decide(first, &report("", "80", "S19"))
        .expect("new");
    let seen = inventory
        .decide(second, &report("", "80", "S19"))
        .expect("known");
    assert_eq!((found.device, found.owner), (seen.device, first.node));
    assert_eq!(seen.owner, first.node, "the node that found it keeps it");
    // A binding decides whose device it is.
    inventory.change(found.device, |record| {
        record.binding = Binding::Node(second.node)
    });
    let bound = inventory
        .decide(second, &report("", "80", "S19"))
        .expect("known");
    assert_eq!(bound.owner, second.node);
    assert_eq!(all(&inventory).len(), 1);
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
                prop_assert!(record.endpoint.is_none() || (record.site, record.endpoint) != (other.site, other.endpoint));
prop_assert_ne!(&record.identifier, &other.identifier);
            }
        }
    }
}
