//! The page of a device: its timeline, its ports, labels and notes.

use std::collections::BTreeSet;

use fleet_core::{
    DeviceId, PairingStatus, RawDeviceReport, TargetOutcome, limits, outcome::AckCode,
};
use fleet_inventory::Label;
use fleet_store::*;

use crate::site::{Node, Row, Site, at, blank, mac, nobody, row};

contract! {
    the_timeline_has_every_change_newest_first
    a_missing_device_comes_back
    a_merge_can_be_undone_from_the_timeline
    the_events_of_a_device_are_limited
    ports_are_those_of_its_address_in_its_site
    labels_are_found_by_the_search
    labels_change_for_all_devices_or_none
    a_note_is_replaced_and_deleted
    a_merged_record_passes_on_its_labels
    another_organization_changes_nothing
}

const RANGE: &str = "10.0.0.0/24";

fn miner(ip: &str, port: &str, number: usize, model: &str, firmware: &str) -> Row {
    row(RawDeviceReport {
        ip,
        port,
        mac: &mac(number),
        manufacturer: "Bitmain",
        model,
        firmware,
        ..blank()
    })
}

/// Runs a scan that starts at this second. The addresses of no row are silent.
async fn scanned(site: &Site, node: Node, second: u64, rows: Vec<Row>) {
    let mut new = site.new_scan(node.id, RANGE, &["80", "4028"]);
    new.queueing = Queueing::Until(at(1_000_000));
    site.create(new).await;
    let issued = site.issue_at(node, at(second)).await.expect("a command");
    let report = NewReport {
        now: at(second + 1),
        ..site.report(node, issued.command, rows)
    };
    site.store.record_report(report).await.expect("recorded");
    let ack = Ack {
        outcomes: Some(vec![TargetOutcome::Silent.to_byte(); 254]),
        now: at(second + 2),
        ..Site::ack(node, issued.command, AckCode::Ok)
    };
    site.store.record_ack(ack).await.expect("acked");
}

async fn detail(site: &Site, id: i64) -> DeviceDetail {
    let found = site.store.device_detail(site.org, DeviceId(id)).await;
    found.expect("read").expect("the device")
}

/// The events as `kind former > became`.
fn lines(detail: &DeviceDetail) -> Vec<String> {
    let line = |event: &DeviceEvent| format!("{} {} > {}", event.kind, event.former, event.became);
    detail.events.iter().map(line).collect()
}

fn label(text: &str) -> Label {
    text.parse().expect(text)
}

async fn relabel(
    site: &Site,
    devices: &[i64],
    add: &[&str],
    remove: &[&str],
) -> Result<(), AnnotateError> {
    let devices: BTreeSet<DeviceId> = devices.iter().copied().map(DeviceId).collect();
    let labels = |texts: &[&str]| texts.iter().map(|text| label(text)).collect();
    let store = &site.store;
    store
        .label_devices(
            site.org,
            devices,
            labels(add),
            labels(remove),
            site.actor(),
            at(90),
        )
        .await
}

async fn the_timeline_has_every_change_newest_first(site: Site) {
    let node = site.node("north").await;
    scanned(
        &site,
        node,
        20,
        vec![miner("10.0.0.1", "80", 1, "S19", "1.0")],
    )
    .await;
    scanned(
        &site,
        node,
        40,
        vec![miner("10.0.0.1", "80", 1, "S19", "1.0")],
    )
    .await;
    assert_eq!(
        lines(&detail(&site, 1).await),
        ["found  > "],
        "an unchanged report is no event"
    );
    scanned(
        &site,
        node,
        60,
        vec![miner("10.0.0.9", "80", 1, "S21", "2.0")],
    )
    .await;
    let bound = site.store.bind_to_server(
        site.org,
        DeviceId(1),
        PairingStatus::Paired,
        nobody(),
        at(70),
    );
    // A node found it, so the server cannot bind it.
    assert!(bound.await.is_err());
    let found = detail(&site, 1).await;
    assert_eq!(
        lines(&found),
        [
            "firmware 1.0 > 2.0",
            "name Bitmain S19 > Bitmain S21",
            "address 10.0.0.1:80 > 10.0.0.9:80",
            "found  > ",
        ]
    );
    assert!(
        found.events[..3]
            .iter()
            .all(|event| event.node == Some(node.id) && event.at == at(61))
    );
    assert_eq!(found.events[3].at, at(21));
}

async fn a_missing_device_comes_back(site: Site) {
    let node = site.node("north").await;
    let miner = || miner("10.0.0.1", "80", 1, "S19", "1.0");
    scanned(&site, node, 20, vec![miner()]).await;
    scanned(&site, node, 40, vec![]).await;
    scanned(&site, node, 60, vec![]).await;
    assert_eq!(detail(&site, 1).await.device.missing_since, Some(at(42)));
    scanned(&site, node, 80, vec![miner()]).await;
    let found = detail(&site, 1).await;
    assert_eq!(
        lines(&found),
        ["back  > 10.0.0.1:80", "missing 10.0.0.1:80 > ", "found  > "]
    );
    assert_eq!(found.device.missing_since, None);
}

async fn a_merge_can_be_undone_from_the_timeline(site: Site) {
    let node = site.node("north").await;
    scanned(&site, node, 20, vec![crate::site::plain("10.0.0.1", "80")]).await;
    scanned(
        &site,
        node,
        40,
        vec![miner("10.0.0.1", "80", 1, "S19", "1.0")],
    )
    .await;
    let found = detail(&site, 1).await;
    let merged = found.events.iter().find(|event| event.undo.is_some());
    let merged = merged.expect("a merge");
    assert_eq!(merged.kind.as_str(), "merged");
    assert!(merged.former.starts_with("auto:") && merged.became.starts_with("mac:"));
    assert!(
        merged.reason.contains("showed its MAC"),
        "{}",
        merged.reason
    );
    let change = merged.undo.expect("a change");
    let undone = site
        .store
        .undo_identity_change(site.org, change, site.actor(), at(50));
    undone.await.expect("undone");
    let kinds: Vec<_> = detail(&site, 1)
        .await
        .events
        .iter()
        .map(|event| event.kind.as_str())
        .collect();
    assert_eq!(kinds, ["separated", "name", "merged", "found"]);
    assert!(
        detail(&site, 1)
            .await
            .events
            .iter()
            .all(|event| event.undo.is_none())
    );
}

async fn the_events_of_a_device_are_limited(site: Site) {
    let node = site.node("north").await;
    for turn in 0..205_u64 {
        let firmware = turn.to_string();
        scanned(
            &site,
            node,
            20 + 10 * turn,
            vec![miner("10.0.0.1", "80", 1, "S19", &firmware)],
        )
        .await;
    }
    assert_eq!(site.number("SELECT count(*) FROM device_event").await, 200);
    let found = detail(&site, 1).await;
    assert_eq!(found.events.len(), 200);
    assert_eq!(lines(&found)[0], "firmware 203 > 204");
}

async fn ports_are_those_of_its_address_in_its_site(site: Site) {
    let (north, south) = (site.node("north").await, site.node("south").await);
    scanned(
        &site,
        north,
        20,
        vec![miner("10.0.0.1", "4028", 1, "S19", "1.0")],
    )
    .await;
    scanned(
        &site,
        north,
        40,
        vec![miner("10.0.0.1", "80", 1, "S19", "1.0")],
    )
    .await;
    scanned(
        &site,
        south,
        20,
        vec![miner("10.0.0.1", "80", 2, "S19", "1.0")],
    )
    .await;
    let ports = async |id| {
        let ports = detail(&site, id).await.ports;
        ports.iter().map(|port| port.number()).collect::<Vec<_>>()
    };
    assert_eq!(ports(1).await, [80, 4028]);
    assert_eq!(ports(2).await, [80]);
}

async fn labels_are_found_by_the_search(site: Site) {
    let node = site.node("north").await;
    let two = vec![
        miner("10.0.0.1", "80", 1, "S19", "1.0"),
        miner("10.0.0.2", "80", 2, "S19", "1.0"),
    ];
    scanned(&site, node, 20, two).await;
    relabel(&site, &[1, 2], &["Rack-7", "spare"], &[])
        .await
        .expect("labeled");
    relabel(&site, &[2], &["rack-7"], &["spare", "unknown"])
        .await
        .expect("labeled");
    let labels: Vec<_> = site
        .devices()
        .await
        .into_iter()
        .map(|device| device.labels)
        .collect();
    assert_eq!(labels, [vec!["rack-7", "spare"], vec!["rack-7"]]);
    let found = async |search: &str| {
        let query = DeviceQuery {
            search: search.parse().expect(search),
            node: None,
            order: DeviceOrder::Id,
            descending: false,
            after: None,
            limit: 10,
            now: at(100),
        };
        let page = site
            .store
            .search_devices(site.org, query)
            .await
            .expect("read");
        page.devices
            .iter()
            .map(|device| device.id.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(found("label:rack*").await, [1, 2]);
    assert_eq!(found("label:SPARE").await, [1]);
    assert_eq!(found("label:other").await, Vec::<i64>::new());
    let actions: Vec<String> = site
        .audited()
        .await
        .into_iter()
        .map(|one| format!("{} {}", one.entry.action, one.entry.subject))
        .collect();
    assert_eq!(
        actions
            .iter()
            .filter(|action| action.starts_with("device.label"))
            .count(),
        3,
        "{actions:?}"
    );
    assert!(
        actions
            .iter()
            .any(|action| action.ends_with(": +rack-7 -spare -unknown")),
        "{actions:?}"
    );
}

async fn labels_change_for_all_devices_or_none(site: Site) {
    let node = site.node("north").await;
    scanned(
        &site,
        node,
        20,
        vec![miner("10.0.0.1", "80", 1, "S19", "1.0")],
    )
    .await;
    let refused = relabel(&site, &[1, 99], &["rack-7"], &[]).await;
    assert!(matches!(
        refused,
        Err(AnnotateError::NotFound(DeviceId(99)))
    ));
    let many: Vec<String> = (0..=limits::DEVICE_LABELS)
        .map(|number| format!("l{number}"))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let refused = relabel(&site, &[1], &many, &[]).await;
    assert!(
        matches!(
            refused,
            Err(AnnotateError::TooMany {
                count: 17,
                most: 16,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(detail(&site, 1).await.device.labels, Vec::<String>::new());
    relabel(&site, &[1], &many[1..], &[])
        .await
        .expect("labeled");
    assert_eq!(
        detail(&site, 1).await.device.labels.len(),
        limits::DEVICE_LABELS
    );
}

async fn a_note_is_replaced_and_deleted(site: Site) {
    let node = site.node("north").await;
    scanned(
        &site,
        node,
        20,
        vec![miner("10.0.0.1", "80", 1, "S19", "1.0")],
    )
    .await;
    let write = async |text: &str, second| {
        let store = &site.store;
        let id = DeviceId(1);
        let set = store.set_device_note(
            site.org,
            id,
            text.to_owned(),
            site.operator,
            site.actor(),
            at(second),
        );
        set.await.expect("written");
        detail(&site, id.0).await.note
    };
    write("first", 60).await;
    let note = write("fan is loud\nordered", 70).await.expect("a note");
    assert_eq!(
        (note.text.as_str(), note.author.as_str(), note.changed_at),
        ("fan is loud\nordered", "ann@acme.test", at(70))
    );
    assert_eq!(write("", 80).await, None);
    let notes = site
        .audited()
        .await
        .into_iter()
        .filter(|one| one.entry.action == "device.note");
    assert_eq!(notes.count(), 3);
}

async fn a_merged_record_passes_on_its_labels(site: Site) {
    let node = site.node("north").await;
    let two = vec![
        miner("10.0.0.1", "80", 1, "S19", "1.0"),
        crate::site::plain("10.0.0.2", "80"),
    ];
    scanned(&site, node, 20, two).await;
    relabel(&site, &[1], &["rack-7"], &[])
        .await
        .expect("labeled");
    relabel(&site, &[2], &["spare"], &[])
        .await
        .expect("labeled");
    let (id, org) = (DeviceId(2), site.org);
    let note =
        site.store
            .set_device_note(org, id, "loud".into(), site.operator, site.actor(), at(30));
    note.await.expect("written");
    // The device with the MAC shows up where the other record was known.
    scanned(
        &site,
        node,
        40,
        vec![miner("10.0.0.2", "80", 1, "S19", "1.0")],
    )
    .await;
    let devices = site.devices().await;
    if devices.len() == 1 {
        let survivor = detail(&site, devices[0].id.0).await;
        assert_eq!(survivor.device.labels, ["rack-7", "spare"]);
        assert_eq!(survivor.note.expect("a note").text, "loud");
    } else {
        panic!("the records were not merged: {devices:?}");
    }
}

async fn another_organization_changes_nothing(site: Site) {
    let node = site.node("north").await;
    scanned(
        &site,
        node,
        20,
        vec![miner("10.0.0.1", "80", 1, "S19", "1.0")],
    )
    .await;
    let other = site.other_org().await;
    let store = &site.store;
    let id = DeviceId(1);
    assert_eq!(store.device_detail(other, id).await.expect("read"), None);
    let labeled = store.label_devices(
        other,
        [id].into(),
        [label("a")].into(),
        BTreeSet::new(),
        nobody(),
        at(50),
    );
    assert!(matches!(labeled.await, Err(AnnotateError::NotFound(_))));
    let noted = store.set_device_note(other, id, "x".into(), site.operator, nobody(), at(50));
    assert!(matches!(noted.await, Err(AnnotateError::NotFound(_))));
    let kept = detail(&site, 1).await;
    assert_eq!((kept.device.labels, kept.note), (Vec::new(), None));
}
