//! Devices over many reports: identity, moves, ownership, and the effect of blank fields.

use std::collections::BTreeSet;

use fleet_core::{
    DeviceId, OrgId, RawDeviceReport, ScanState, enrollment::NodeState, outcome::AckCode,
};
use fleet_store::*;
use sea_orm::ConnectionTrait;

use crate::site::{Node, Row, Site, at, blank, plain, row, with_mac};

contract! {
    a_device_keeps_its_id_across_scans
    blank_fields_never_erase_known_ones
    a_device_that_shows_a_mac_stays_one_record
    another_device_takes_the_endpoint
    a_live_nodes_device_is_refused_to_another
    a_revoked_nodes_device_moves_to_its_new_reporter
    a_bound_device_is_refused_to_other_nodes
    devices_found_by_the_server_belong_to_no_node
    two_sites_with_one_range_stay_apart
    every_endpoint_ever_attributed_is_stored
    last_seen_moves_by_accepted_reports_only
    devices_are_listed_page_by_page
    a_deleted_device_that_is_found_again_is_a_new_one
    devices_are_deleted_all_or_none
    totals_count_live_nodes_scans_by_state_and_devices
}

const MAC: &str = "02:00:5E:00:00:01";

/// Scans 10.0.0.0/16 part by part. The node reports these rows.
async fn scan(site: &Site, node: Node, rows: Vec<Row>) -> (u64, u64) {
    let command = site.running(node, "10.0.0.0/22").await.command;
    let counts = site.reported(node, command, rows).await;
    site.acked(node, command, AckCode::Ok).await;
    counts
}

async fn only(site: &Site) -> DeviceRow {
    let mut devices = site.devices().await;
    assert_eq!(devices.len(), 1, "{devices:#?}");
    devices.remove(0)
}

async fn a_device_keeps_its_id_across_scans(site: Site) {
    let node = site.node("north").await;
    scan(&site, node, vec![with_mac("10.0.0.7", MAC)]).await;
    let first = only(&site).await;
    scan(&site, node, vec![with_mac("10.0.0.99", MAC)]).await;
    let moved = only(&site).await;
    assert_eq!((moved.id, moved.identifier), (first.id, first.identifier));
    assert_eq!(
        moved.endpoint.map(|endpoint| endpoint.to_string()),
        Some("10.0.0.99:80".into())
    );
}

async fn blank_fields_never_erase_known_ones(site: Site) {
    let node = site.node("north").await;
    let known = row(RawDeviceReport {
        ip: "10.0.0.7",
        mac: MAC,
        serial: "SN1",
        scheme: "http",
        manufacturer: "Bitmain",
        firmware: "1.2",
        evidence: "title",
        ..blank()
    });
    scan(&site, node, vec![known]).await;
    let before = only(&site).await;
    let blanks = row(RawDeviceReport {
        ip: "10.0.0.7",
        mac: MAC,
        model: "",
        ..blank()
    });
    scan(&site, node, vec![blanks]).await;
    assert_eq!(only(&site).await, before);
    let newer = row(RawDeviceReport {
        ip: "10.0.0.7",
        mac: MAC,
        model: "",
        firmware: "1.3",
        ..blank()
    });
    scan(&site, node, vec![newer]).await;
    let mut expected = before;
    expected.facts.firmware = "1.3".into();
    assert_eq!(only(&site).await, expected);
}

async fn a_device_that_shows_a_mac_stays_one_record(site: Site) {
    let node = site.node("north").await;
    scan(&site, node, vec![plain("10.0.0.7", "80")]).await;
    let weak = only(&site).await;
    assert!(!weak.identifier.is_strong());
    scan(&site, node, vec![with_mac("10.0.0.7", MAC)]).await;
    let strong = only(&site).await;
    assert_eq!(
        (strong.id, strong.identifier.to_string()),
        (weak.id, format!("mac:{MAC}"))
    );
    let alias = format!(
        "SELECT count(*) FROM device_alias WHERE identifier = '{}' AND device_id = {}",
        weak.identifier, weak.id
    );
    assert_eq!(site.number(&alias).await, 1, "the former name is kept");
    scan(&site, node, vec![plain("10.0.0.7", "80")]).await;
    assert_eq!(
        only(&site).await.identifier,
        strong.identifier,
        "a report without it is the same device"
    );
}

async fn another_device_takes_the_endpoint(site: Site) {
    let node = site.node("north").await;
    let other = "02:00:5E:00:00:02";
    scan(&site, node, vec![with_mac("10.0.0.7", MAC)]).await;
    scan(&site, node, vec![with_mac("10.0.0.7", other)]).await;
    let endpoints: Vec<_> = site
        .devices()
        .await
        .into_iter()
        .map(|device| (device.identifier.to_string(), device.endpoint.is_some()))
        .collect();
    assert_eq!(
        endpoints,
        [
            (format!("mac:{MAC}"), false),
            (format!("mac:{other}"), true)
        ]
    );
    // The two devices swap addresses within one report.
    scan(&site, node, vec![with_mac("10.0.0.8", MAC)]).await;
    assert_eq!(
        scan(
            &site,
            node,
            vec![with_mac("10.0.0.8", other), with_mac("10.0.0.7", MAC)]
        )
        .await,
        (2, 0)
    );
    let endpoints: Vec<_> = site
        .devices()
        .await
        .into_iter()
        .map(|device| device.endpoint.map(|endpoint| endpoint.to_string()))
        .collect();
    assert_eq!(
        endpoints,
        [Some("10.0.0.7:80".into()), Some("10.0.0.8:80".into())]
    );
}

async fn a_live_nodes_device_is_refused_to_another(site: Site) {
    let (north, south) = (site.node("north").await, site.node("south").await);
    scan(&site, north, vec![with_mac("10.0.0.7", MAC)]).await;
    let before = only(&site).await;
    let command = site.running(south, "10.0.0.0/24").await;
    assert_eq!(
        site.reported(
            south,
            command.command,
            vec![with_mac("10.0.0.7", MAC), plain("10.0.0.8", "80")]
        )
        .await,
        (1, 1)
    );
    let mut after = site.devices().await.remove(0);
    let seen_by = std::mem::take(&mut after.seen_by);
    assert_eq!(after, before);
    assert_eq!(
        seen_by.iter().map(|seen| seen.node).collect::<Vec<_>>(),
        [south.id]
    );
    // A repeat of the rejected row gets the same answer, even without its digest.
    assert_eq!(
        site.reported(south, command.command, vec![with_mac("10.0.0.7", MAC)])
            .await,
        (0, 1)
    );
    site.acked(south, command.command, AckCode::Ok).await;
    let ledger = site.look(command.scan).await.ledger.expect("ended");
    assert_eq!(
        (
            ledger.accepted,
            ledger.rejected,
            ledger.rejected_reasons[0].reason.as_str()
        ),
        (1, 1, "owned by another node")
    );
}

async fn a_revoked_nodes_device_moves_to_its_new_reporter(site: Site) {
    let (north, south) = (site.node("north").await, site.node("south").await);
    scan(&site, north, vec![with_mac("10.0.0.7", MAC)]).await;
    site.store
        .revoke_node(site.org, north.id, None, site.actor(), at(50))
        .await
        .expect("revoked");
    assert_eq!(
        scan(&site, south, vec![with_mac("10.0.0.7", MAC)]).await,
        (1, 0)
    );
    assert_eq!(only(&site).await.node, Some(south.id));
}

async fn bind(site: &Site, device: DeviceId, node: Option<i64>) {
    let node = node.map_or("NULL".into(), |id| id.to_string());
    let sql = format!(
        "INSERT INTO binding (device_id, org_id, node_id, created_at) VALUES ({device}, {}, {node}, 1)",
        site.org
    );
    site.raw()
        .await
        .execute_unprepared(&sql)
        .await
        .expect("bound");
}

async fn a_bound_device_is_refused_to_other_nodes(site: Site) {
    let (north, south) = (site.node("north").await, site.node("south").await);
    scan(&site, north, vec![with_mac("10.0.0.7", MAC)]).await;
    let device = only(&site).await.id;
    bind(&site, device, Some(south.id.0)).await;
    assert_eq!(
        scan(&site, north, vec![with_mac("10.0.0.7", MAC)]).await,
        (0, 1)
    );
    assert_eq!(
        scan(&site, south, vec![with_mac("10.0.0.7", MAC)]).await,
        (1, 0),
        "attribution follows the binding"
    );
    assert_eq!(only(&site).await.node, Some(south.id));
    let twice = format!(
        "INSERT INTO binding (device_id, org_id, node_id, created_at) VALUES ({device}, {}, NULL, 1)",
        site.org
    );
    assert!(
        site.raw().await.execute_unprepared(&twice).await.is_err(),
        "one row a device"
    );
    site.store
        .revoke_node(site.org, south.id, None, site.actor(), at(50))
        .await
        .expect("revoked");
    assert_eq!(
        site.number("SELECT count(*) FROM binding").await,
        0,
        "revocation releases"
    );
    assert_eq!(
        scan(&site, north, vec![with_mac("10.0.0.7", MAC)]).await,
        (1, 0)
    );
}

async fn devices_found_by_the_server_belong_to_no_node(site: Site) {
    let node = site.node("north").await;
    scan(&site, node, vec![with_mac("10.0.0.7", MAC)]).await;
    let device = only(&site).await.id;
    site.raw()
        .await
        .execute_unprepared("UPDATE device SET node_id = NULL")
        .await
        .expect("updated");
    assert_eq!(
        scan(&site, node, vec![with_mac("10.0.0.7", MAC)]).await,
        (0, 1)
    );
    site.raw()
        .await
        .execute_unprepared(&format!("UPDATE device SET node_id = {}", node.id))
        .await
        .expect("updated");
    bind(&site, device, None).await;
    assert_eq!(
        scan(&site, node, vec![with_mac("10.0.0.7", MAC)]).await,
        (0, 1),
        "paired by the server"
    );
}

async fn two_sites_with_one_range_stay_apart(site: Site) {
    let (north, south) = (site.node("north").await, site.node("south").await);
    for node in [north, south] {
        assert_eq!(
            scan(&site, node, vec![plain("10.0.0.7", "80")]).await,
            (1, 0)
        );
    }
    let devices = site.devices().await;
    assert_eq!(
        devices.iter().map(|device| device.node).collect::<Vec<_>>(),
        [Some(north.id), Some(south.id)]
    );
    assert_ne!(devices[0].identifier, devices[1].identifier);
    // Two organizations may have the same MAC.
    let org = site.other_org().await;
    let theirs = Site {
        org,
        ..site.clone()
    };
    let foreign = theirs.confirmed_in(org, "foreign").await;
    let claimed = site
        .store
        .claim_stream(Site::claim(foreign, &[], at(3)))
        .await
        .expect("claimed");
    let foreign = Node {
        id: foreign,
        epoch: claimed.epoch,
    };
    scan(&site, north, vec![with_mac("10.0.0.9", MAC)]).await;
    assert_eq!(
        scan(&theirs, foreign, vec![with_mac("10.0.0.9", MAC)]).await,
        (1, 0)
    );
    assert_eq!(
        (site.devices().await.len(), theirs.devices().await.len()),
        (3, 1)
    );
}

async fn every_endpoint_ever_attributed_is_stored(site: Site) {
    let node = site.node("north").await;
    for ip in ["10.0.0.7", "10.0.0.8", "10.0.0.7"] {
        scan(&site, node, vec![with_mac(ip, MAC)]).await;
    }
    assert_eq!(site.number("SELECT count(*) FROM node_endpoint").await, 2);
}

async fn last_seen_moves_by_accepted_reports_only(site: Site) {
    let (north, south) = (site.node("north").await, site.node("south").await);
    let command = site.running(north, "10.0.0.0/24").await.command;
    let report = site.report(north, command, vec![with_mac("10.0.0.7", MAC)]);
    site.store
        .record_report(report.clone())
        .await
        .expect("recorded");
    site.store
        .record_report(NewReport {
            now: at(90),
            ..report
        })
        .await
        .expect("answered");
    let repeated = NewReport {
        now: at(91),
        ..site.report(north, command, vec![with_mac("10.0.0.7", MAC)])
    };
    site.store.record_report(repeated).await.expect("answered");
    let foreign = site.running(south, "10.0.0.0/24").await.command;
    let refused = NewReport {
        now: at(92),
        ..site.report(south, foreign, vec![with_mac("10.0.0.7", MAC)])
    };
    site.store.record_report(refused).await.expect("answered");
    site.acked(north, command, AckCode::Ok).await;
    let device = only(&site).await;
    assert_eq!((device.first_seen, device.last_seen), (at(30), at(30)));
    let command = site.running(north, "10.0.0.0/24").await.command;
    let accepted = NewReport {
        now: at(95),
        ..site.report(north, command, vec![with_mac("10.0.0.7", MAC)])
    };
    site.store.record_report(accepted).await.expect("recorded");
    let device = only(&site).await;
    assert_eq!((device.first_seen, device.last_seen), (at(30), at(95)));
}

async fn devices_are_listed_page_by_page(site: Site) {
    let (north, south) = (site.node("north").await, site.node("south").await);
    scan(
        &site,
        north,
        (1..=7)
            .map(|n| plain(&format!("10.0.0.{n}"), "80"))
            .collect(),
    )
    .await;
    scan(&site, south, vec![plain("10.0.0.1", "80")]).await;
    let (mut seen, mut after) = (BTreeSet::new(), DeviceId(0));
    loop {
        let page = site
            .store
            .list_devices(site.org, Some(north.id), after, 3)
            .await
            .expect("read");
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 3);
        after = last.id;
        seen.extend(page.into_iter().map(|device| device.id));
    }
    assert_eq!(seen.len(), 7);
    assert_eq!(site.devices().await.len(), 8);
    let other = site.other_org().await;
    assert_eq!(
        site.store
            .list_devices(other, None, DeviceId(0), 100)
            .await
            .expect("read"),
        []
    );
}

async fn totals_count_live_nodes_scans_by_state_and_devices(site: Site) {
    assert_eq!(site.store.totals().await.expect("reads"), Totals::default());
    let node = site.node("north").await;
    scan(&site, node, vec![with_mac("10.0.0.7", MAC)]).await;
    site.running(node, "10.0.0.0/24").await;
    let totals = site.store.totals().await.expect("reads");
    assert_eq!(totals.devices, 1);
    assert_eq!(totals.nodes, [(NodeState::Confirmed, 1)].into());
    let scans = [(ScanState::Completed, 1), (ScanState::Running, 1)];
    assert_eq!(totals.scans, scans.into());
}

async fn delete(site: &Site, org: OrgId, devices: &[DeviceId]) -> Result<(), DeleteDevicesError> {
    let devices = devices.iter().copied().collect();
    site.store
        .delete_devices(org, devices, "sold".into(), site.actor(), at(60))
        .await
}

async fn a_deleted_device_that_is_found_again_is_a_new_one(site: Site) {
    let node = site.node("north").await;
    // The second report gives the record a former name.
    scan(&site, node, vec![plain("10.0.0.7", "80")]).await;
    let former = only(&site).await.identifier;
    scan(&site, node, vec![with_mac("10.0.0.7", MAC)]).await;
    let first = only(&site).await;
    let [alias] = &first.aliases[..] else {
        panic!("one former name: {first:?}")
    };
    let bound = site
        .store
        .bind_device(site.org, node.id, first.id, site.actor(), at(50))
        .await;
    bound.expect("bound");
    delete(&site, site.org, &[first.id]).await.expect("deleted");
    assert_eq!(site.devices().await, []);
    for name in [
        DeviceName::Id(first.id),
        DeviceName::Identifier(first.identifier.clone()),
        DeviceName::Identifier(former),
    ] {
        let found = site.store.device(site.org, name.clone()).await;
        assert_eq!(found.expect("read"), None, "{name:?}");
    }
    let bound = site
        .store
        .list_bound_devices(site.org, None, fleet_store::ListPage::FIRST)
        .await;
    assert_eq!(bound.expect("read"), []);
    let undone = site
        .store
        .undo_identity_change(site.org, alias.change, site.actor(), at(61))
        .await;
    assert!(matches!(undone, Err(UndoError::NotFound(_))), "{undone:?}");
    let audit = site.store.list_audit(site.org, None, 20).await;
    let deleted: Vec<String> = audit
        .expect("read")
        .into_iter()
        .filter(|row| row.entry.action == "device.delete")
        .map(|row| row.entry.subject)
        .collect();
    let expected = format!("device {} ({}): sold", first.id, first.identifier);
    assert_eq!(deleted, [expected]);

    scan(&site, node, vec![with_mac("10.0.0.7", MAC)]).await;
    let again = only(&site).await;
    assert!(again.id > first.id, "{again:?}");
    assert_eq!(
        (again.identifier, again.aliases),
        (first.identifier, vec![])
    );
}

async fn devices_are_deleted_all_or_none(site: Site) {
    let node = site.node("north").await;
    scan(&site, node, vec![with_mac("10.0.0.7", MAC)]).await;
    let device = only(&site).await.id;
    for (org, ids, missing) in [
        (site.org, vec![device, DeviceId(987_654)], DeviceId(987_654)),
        (OrgId(987_654), vec![device], device),
    ] {
        let refused = delete(&site, org, &ids).await;
        assert!(
            matches!(refused, Err(DeleteDevicesError::NotFound(id)) if id == missing),
            "{refused:?}"
        );
    }
    assert_eq!(only(&site).await.id, device);
}
