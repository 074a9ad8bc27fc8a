//! Device identities over time: how a report creates or changes one, how a change is undone, what a replacement node
//! inherits, and which names are rejected because another record has them.

use fleet_core::{DeviceId, IdentityChangeId, NodeId, RawDeviceReport, limits, outcome::AckCode};
use fleet_store::*;
use sea_orm::ConnectionTrait;

use crate::site::{Node, Row, Site, at, blank, mac, plain, row, with_mac};

contract! {
    a_changed_name_says_why_and_is_taken_back
    two_records_become_one_and_are_taken_apart
    separated_devices_stay_separate
    a_binding_goes_over_with_its_record_and_back
    devices_that_share_a_serial_pass_it_on_within_one_report
    a_record_that_ended_is_found_by_its_id_and_names
    a_change_is_taken_back_once_and_by_its_own_organization
    a_replacement_takes_over_the_revoked_nodes_record_of_endpoint_and_type
    only_a_revoked_node_is_replaced_and_by_one
    endpoints_stay_stored_after_changes_of_their_records
    a_conflict_with_another_record_is_shown_until_it_is_resolved
    refused_devices_of_a_node_are_bounded
    an_unreadable_refused_device_hides_no_other
    evidence_of_a_former_name_is_kept
}

const MAC: &str = "02:00:5E:00:00:01";

async fn scan(site: &Site, node: Node, rows: Vec<Row>) -> (u64, u64) {
    let command = site.running(node, "10.0.0.0/22").await.command;
    let counts = site.reported(node, command, rows).await;
    site.acked(node, command, AckCode::Ok).await;
    counts
}

/// The devices in short form: `1 mac:.. 10.0.0.7:80`.
async fn shown(site: &Site) -> Vec<String> {
    let device = |device: DeviceRow| {
        let endpoint = device
            .endpoint
            .map_or("nowhere".into(), |endpoint| endpoint.to_string());
        let kind = device.identifier.to_string();
        let kind = kind.split(':').next().unwrap_or_default().to_owned();
        format!("{} {kind} {endpoint}", device.id)
    };
    site.devices().await.into_iter().map(device).collect()
}

async fn device(site: &Site, id: i64) -> DeviceRow {
    site.store
        .device(site.org, DeviceName::Id(DeviceId(id)))
        .await
        .expect("read")
        .expect("there")
}

async fn undo(site: &Site, change: IdentityChangeId) -> Result<SeparatedDevices, UndoError> {
    site.store
        .undo_identity_change(site.org, change, site.actor(), at(80))
        .await
}

async fn devices_that_share_a_serial_pass_it_on_within_one_report(site: Site) {
    let node = site.node("north").await;
    let serial = |ip, mac| {
        row(RawDeviceReport {
            ip,
            mac,
            serial: "S-1",
            ..blank()
        })
    };
    scan(
        &site,
        node,
        vec![plain("10.0.0.7", "80"), serial("10.0.0.8", "")],
    )
    .await;
    let before = ["1 auto 10.0.0.7:80", "2 serial 10.0.0.8:80"];
    assert_eq!(shown(&site).await, before);
    // The second device gives the serial up for its MAC, and the first one shows the same serial. The first one has
    // the lower id, so its row is written first.
    let both = vec![serial("10.0.0.8", MAC), serial("10.0.0.7", "")];
    assert_eq!(scan(&site, node, both).await, (2, 0));
    let after = ["1 serial 10.0.0.7:80", "2 mac 10.0.0.8:80"];
    assert_eq!(shown(&site).await, after);
}

async fn bind(site: &Site, device: i64, node: NodeId) {
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

async fn a_changed_name_says_why_and_is_taken_back(site: Site) {
    let node = site.node("north").await;
    scan(&site, node, vec![plain("10.0.0.7", "80")]).await;
    let weak = device(&site, 1).await.identifier;
    scan(&site, node, vec![with_mac("10.0.0.7", MAC)]).await;
    let renamed = device(&site, 1).await;
    let [alias] = &renamed.aliases[..] else {
        panic!("one former name")
    };
    assert_eq!(
        (
            &alias.identifier,
            alias.reason.as_str(),
            alias.merged,
            alias.node
        ),
        (&weak, "showed a mac", None, Some(node.id))
    );
    let apart = undo(&site, alias.change).await.expect("undone");
    assert_eq!((apart.kept, apart.restored), (DeviceId(1), DeviceId(2)));
    assert_eq!(shown(&site).await, ["1 mac 10.0.0.7:80", "2 auto nowhere"]);
    let restored = device(&site, 2).await;
    assert_eq!(
        (
            restored.identifier,
            restored.node,
            restored.facts.model.as_str(),
            restored.last_seen
        ),
        (weak, Some(node.id), "S19", at(30))
    );
    assert_eq!(device(&site, 1).await.aliases, []);
    let trail = site.audited().await;
    assert!(
        trail
            .iter()
            .any(|row| row.entry.action == "device.separate")
    );
}

async fn two_records_become_one_and_are_taken_apart(site: Site) {
    let node = site.node("north").await;
    let known = row(RawDeviceReport {
        ip: "10.0.0.7",
        manufacturer: "Bitmain",
        firmware: "1.2",
        ..blank()
    });
    scan(&site, node, vec![known, with_mac("10.0.0.8", MAC)]).await;
    // The device with this MAC has moved to the endpoint by which another record was identified.
    let bare = row(RawDeviceReport {
        ip: "10.0.0.7",
        mac: MAC,
        model: "",
        ..blank()
    });
    assert_eq!(scan(&site, node, vec![bare]).await, (1, 0));
    assert_eq!(shown(&site).await, ["2 mac 10.0.0.7:80"]);
    let one = device(&site, 2).await;
    assert_eq!(
        (
            one.facts.manufacturer.as_str(),
            one.facts.firmware.as_str(),
            one.facts.model.as_str()
        ),
        ("Bitmain", "1.2", "S19"),
        "what only the other record knew is not lost"
    );
    let alias = one.aliases[0].clone();
    assert_eq!(
        (alias.merged, alias.reason.as_str()),
        (Some(DeviceId(1)), "showed a mac")
    );
    let apart = undo(&site, alias.change).await.expect("undone");
    assert_eq!((apart.kept, apart.restored), (DeviceId(2), DeviceId(1)));
    assert_eq!(shown(&site).await, ["1 auto nowhere", "2 mac 10.0.0.7:80"]);
    assert_eq!(device(&site, 1).await.facts.firmware, "1.2");
}

async fn separated_devices_stay_separate(site: Site) {
    let node = site.node("north").await;
    scan(
        &site,
        node,
        vec![plain("10.0.0.7", "80"), with_mac("10.0.0.8", MAC)],
    )
    .await;
    scan(&site, node, vec![with_mac("10.0.0.7", MAC)]).await;
    let change = device(&site, 2).await.aliases[0].change;
    undo(&site, change).await.expect("undone");
    for rows in [
        vec![with_mac("10.0.0.7", MAC)],
        vec![with_mac("10.0.0.9", MAC), plain("10.0.0.7", "80")],
        vec![with_mac("10.0.0.7", MAC)],
    ] {
        scan(&site, node, rows).await;
        assert_eq!(site.devices().await.len(), 2, "{:?}", shown(&site).await);
    }
    assert_eq!(shown(&site).await, ["1 auto nowhere", "2 mac 10.0.0.7:80"]);
    // The weaker record's endpoint now reports another MAC, which is new evidence.
    scan(
        &site,
        node,
        vec![with_mac("10.0.0.9", MAC), plain("10.0.0.7", "80")],
    )
    .await;
    scan(&site, node, vec![with_mac("10.0.0.7", "02:00:5E:00:00:02")]).await;
    assert_eq!(
        shown(&site).await,
        ["1 mac 10.0.0.7:80", "2 mac 10.0.0.9:80"]
    );
}

async fn a_binding_goes_over_with_its_record_and_back(site: Site) {
    let node = site.node("north").await;
    scan(
        &site,
        node,
        vec![plain("10.0.0.7", "80"), with_mac("10.0.0.8", MAC)],
    )
    .await;
    bind(&site, 1, node.id).await;
    scan(&site, node, vec![with_mac("10.0.0.7", MAC)]).await;
    assert_eq!(site.number("SELECT device_id FROM binding").await, 2);
    let change = device(&site, 2).await.aliases[0].change;
    undo(&site, change).await.expect("undone");
    assert_eq!(site.number("SELECT device_id FROM binding").await, 1);
    assert_eq!(site.number("SELECT count(*) FROM binding").await, 1);
}

async fn a_record_that_ended_is_found_by_its_id_and_names(site: Site) {
    let node = site.node("north").await;
    scan(
        &site,
        node,
        vec![plain("10.0.0.7", "80"), with_mac("10.0.0.8", MAC)],
    )
    .await;
    let weak = device(&site, 1).await.identifier;
    scan(&site, node, vec![with_mac("10.0.0.7", MAC)]).await;
    let strong = device(&site, 2).await;
    for name in [
        DeviceName::Id(DeviceId(1)),
        DeviceName::Id(DeviceId(2)),
        DeviceName::Identifier(weak),
        DeviceName::Identifier(strong.identifier.clone()),
    ] {
        let found = site
            .store
            .device(site.org, name.clone())
            .await
            .expect("read");
        assert_eq!(found.as_ref(), Some(&strong), "{name:?}");
    }
    let other = site.other_org().await;
    for name in [DeviceName::Id(DeviceId(1)), DeviceName::Id(DeviceId(2))] {
        assert_eq!(site.store.device(other, name).await.expect("read"), None);
    }
}

async fn a_change_is_taken_back_once_and_by_its_own_organization(site: Site) {
    let node = site.node("north").await;
    scan(&site, node, vec![plain("10.0.0.7", "80")]).await;
    scan(&site, node, vec![with_mac("10.0.0.7", MAC)]).await;
    let change = device(&site, 1).await.aliases[0].change;
    let other = site.other_org().await;
    let foreign = site
        .store
        .undo_identity_change(other, change, site.actor(), at(80))
        .await;
    assert!(
        matches!(foreign, Err(UndoError::NotFound(_))),
        "{foreign:?}"
    );
    undo(&site, change).await.expect("undone");
    let again = undo(&site, change).await;
    assert!(matches!(again, Err(UndoError::Refused(_))), "{again:?}");
    // Another record now has the former name, so it is the other device.
    scan(&site, node, vec![plain("10.0.0.9", "80")]).await;
    scan(&site, node, vec![with_mac("10.0.0.9", "02:00:5E:00:00:09")]).await;
    scan(
        &site,
        node,
        vec![with_mac("10.0.0.10", "02:00:5E:00:00:09")],
    )
    .await;
    scan(&site, node, vec![plain("10.0.0.9", "80")]).await;
    let moved = site
        .devices()
        .await
        .into_iter()
        .find(|device| !device.aliases.is_empty())
        .expect("renamed");
    let taken = undo(&site, moved.aliases[0].change).await;
    assert!(matches!(taken, Err(UndoError::Refused(_))), "{taken:?}");
}

async fn a_replacement_takes_over_the_revoked_nodes_record_of_endpoint_and_type(site: Site) {
    let north = site.node("north").await;
    let other_type = row(RawDeviceReport {
        ip: "10.0.0.8",
        model: "S21",
        ..blank()
    });
    scan(
        &site,
        north,
        vec![plain("10.0.0.7", "80"), other_type, plain("10.0.0.9", "80")],
    )
    .await;
    site.store
        .revoke_node(site.org, north.id, None, site.actor(), at(50))
        .await
        .expect("revoked");
    let outsider = site.node("outsider").await;
    scan(&site, outsider, vec![plain("10.0.0.9", "80")]).await;
    assert_eq!(
        device(&site, 3).await.node,
        Some(north.id),
        "never by guess"
    );
    let heir = site.replacement("heir", north.id).await;
    let listed = site
        .store
        .node(site.org, heir.id)
        .await
        .expect("read")
        .expect("there");
    assert_eq!(listed.replaces, Some(north.id));
    scan(
        &site,
        heir,
        vec![
            plain("10.0.0.7", "80"),
            plain("10.0.0.8", "80"),
            with_mac("10.0.0.9", MAC),
        ],
    )
    .await;
    let inherited = device(&site, 1).await;
    assert_eq!(inherited.node, Some(heir.id));
    assert_eq!(inherited.aliases[0].reason.as_str(), "replacement node");
    assert_eq!(
        device(&site, 2).await.node,
        Some(north.id),
        "of another type"
    );
    let upgraded = device(&site, 3).await;
    assert_eq!(
        (upgraded.node, upgraded.identifier.to_string()),
        (Some(heir.id), format!("mac:{MAC}"))
    );
    // After the undo, the record belongs to the revoked node again and keeps that owner.
    undo(&site, inherited.aliases[0].change)
        .await
        .expect("undone");
    scan(&site, heir, vec![plain("10.0.0.7", "80")]).await;
    let theirs: Vec<_> = site
        .devices()
        .await
        .into_iter()
        .filter(|device| device.node == Some(north.id))
        .collect();
    assert_eq!(theirs.len(), 2);
    assert_eq!(device(&site, 1).await.node, Some(heir.id));
}

async fn only_a_revoked_node_is_replaced_and_by_one(site: Site) {
    let north = site.confirmed("north").await;
    let code = |name: &str, node: NodeId| NewCode {
        replaces: Some(node),
        ..site.new_code(site.org, name)
    };
    let alive = site.store.create_code(code("a", north)).await;
    assert!(
        matches!(alive, Err(CreateCodeError::NotRevoked(_))),
        "{alive:?}"
    );
    let unknown = site.store.create_code(code("b", NodeId(99))).await;
    assert!(
        matches!(unknown, Err(CreateCodeError::NotFound(_))),
        "{unknown:?}"
    );
    site.store
        .revoke_node(site.org, north, None, site.actor(), at(5))
        .await
        .expect("revoked");
    let other = site.other_org().await;
    let foreign = NewCode {
        org: other,
        ..code("c", north)
    };
    let foreign = site.store.create_code(foreign).await;
    assert!(
        matches!(foreign, Err(CreateCodeError::NotFound(_))),
        "{foreign:?}"
    );
    // Two codes exist for one replaced node. The second registration is rejected, and its code stays usable.
    for name in ["one", "two"] {
        site.store
            .create_code(code(name, north))
            .await
            .expect("a code");
    }
    let open = site
        .store
        .list_codes(site.org, fleet_store::ListPage::FIRST)
        .await
        .expect("read");
    assert!(open.iter().all(|code| code.replaces == Some(north)));
    let first = site
        .store
        .register_node(Site::newcomer("one", "one"))
        .await
        .expect("registered");
    let second = site.store.register_node(Site::newcomer("two", "two")).await;
    assert!(
        matches!(second, Err(RegisterError::ReplacementTaken { by, .. }) if by == first.node),
        "{second:?}"
    );
    let third = site.store.create_code(code("three", north)).await;
    assert!(
        matches!(third, Err(CreateCodeError::Replaced { .. })),
        "{third:?}"
    );
    site.store
        .revoke_node(
            site.org,
            first.node,
            Some(first.invitation),
            site.actor(),
            at(6),
        )
        .await
        .expect("revoked");
    site.store
        .register_node(Site::newcomer("two", "two"))
        .await
        .expect("registered");
    let revoked = site
        .store
        .list_revoked_nodes(site.org, fleet_store::ListPage::FIRST)
        .await
        .expect("read");
    assert_eq!(
        revoked.iter().map(|node| node.id).collect::<Vec<_>>(),
        [first.node, north]
    );
}

async fn endpoints_stay_stored_after_changes_of_their_records(site: Site) {
    let node = site.node("north").await;
    scan(
        &site,
        node,
        vec![plain("10.0.0.7", "80"), with_mac("10.0.0.8", MAC)],
    )
    .await;
    scan(&site, node, vec![with_mac("10.0.0.7", MAC)]).await;
    scan(&site, node, vec![with_mac("10.0.0.9", MAC)]).await;
    let change = device(&site, 2).await.aliases[0].change;
    undo(&site, change).await.expect("undone");
    site.store
        .revoke_node(site.org, node.id, None, site.actor(), at(90))
        .await
        .expect("revoked");
    assert_eq!(site.number("SELECT count(*) FROM node_endpoint").await, 3);
}

async fn refusals(site: &Site) -> Vec<RefusedDevice> {
    let (rows, next) = site
        .store
        .list_refused_devices(site.org, None, 0, 100)
        .await
        .expect("read");
    assert_eq!(next, None);
    rows
}

async fn a_conflict_with_another_record_is_shown_until_it_is_resolved(site: Site) {
    let (north, south) = (site.node("north").await, site.node("south").await);
    scan(&site, north, vec![with_mac("10.0.0.7", MAC)]).await;
    for _ in 0..2 {
        assert_eq!(
            scan(&site, south, vec![with_mac("10.0.0.70", MAC)]).await,
            (0, 1)
        );
    }
    let listed = refusals(&site).await;
    let [refused] = &listed[..] else {
        panic!("one row per endpoint")
    };
    assert_eq!(
        (
            refused.reporter,
            refused.endpoint.to_string(),
            refused.reason.as_str(),
            refused.count
        ),
        (south.id, "10.0.0.70:80".into(), "owned by another node", 2)
    );
    assert_eq!(
        (refused.device, refused.owner, refused.bound_to),
        (DeviceId(1), Some(north.id), None)
    );
    // Another organization sees nothing.
    let other = site.other_org().await;
    let foreign = site.store.list_refused_devices(other, None, 0, 100).await;
    assert_eq!(foreign.expect("read").0, []);
    bind(&site, 1, north.id).await;
    assert_eq!(
        refusals(&site).await[0].reason.as_str(),
        "bound to another node"
    );
    // After a revocation, a MAC at another endpoint is still no claim.
    site.store
        .revoke_node(site.org, north.id, None, site.actor(), at(50))
        .await
        .expect("revoked");
    assert_eq!(
        refusals(&site).await[0].reason.as_str(),
        "owned by a revoked node"
    );
    // An operator's decision clears refused devices: they are hidden at once, and the next sweep deletes them.
    bind(&site, 1, south.id).await;
    assert_eq!(refusals(&site).await, []);
    let sweep = site.store.sweep_refused_devices(0, at(60)).await;
    assert_eq!(sweep.expect("swept"), None);
    assert_eq!(site.number("SELECT count(*) FROM refused_device").await, 0);
    assert_eq!(
        scan(&site, south, vec![with_mac("10.0.0.70", MAC)]).await,
        (1, 0)
    );
}

async fn refused_devices_of_a_node_are_bounded(site: Site) {
    let (north, south) = (site.node("north").await, site.node("south").await);
    scan(&site, north, vec![with_mac("10.0.0.7", MAC)]).await;
    let most = limits::REFUSED_DEVICES_A_NODE;
    let old: Vec<String> = (0..most)
        .map(|n| {
            format!(
                "({}, {}, '10.1.{}.{}', 80, 'mac:{MAC}', 'owned by another node', 1, 1, 1, {n})",
                site.org,
                south.id,
                n / 256,
                n % 256
            )
        })
        .collect();
    let sql = format!(
        "INSERT INTO refused_device (org_id, node_id, ip, port, identifier, reason, device_id, count, first_seen, last_seen) VALUES {}",
        old.join(", ")
    );
    site.raw()
        .await
        .execute_unprepared(&sql)
        .await
        .expect("inserted");
    scan(
        &site,
        south,
        vec![with_mac("10.0.0.70", MAC), with_mac("10.0.0.71", MAC)],
    )
    .await;
    let kept = site.number("SELECT count(*) FROM refused_device").await;
    assert_eq!(kept, most as i64);
    let oldest = site
        .number("SELECT min(last_seen) FROM refused_device")
        .await;
    assert_eq!(oldest, 2, "the ones not seen for longest went");
    // Refused devices without recent reports are deleted too.
    site.store
        .sweep_refused_devices(0, at(60))
        .await
        .expect("swept");
    let after = site.number("SELECT count(*) FROM refused_device").await;
    assert_eq!(after, most as i64 - 1_000, "a sweep takes a part");
}

async fn an_unreadable_refused_device_hides_no_other(site: Site) {
    let (north, south) = (site.node("north").await, site.node("south").await);
    let rows = || (7..10).map(|n| with_mac(&format!("10.0.0.{n}"), &mac(n)));
    scan(&site, north, rows().collect()).await;
    scan(&site, south, rows().collect()).await;
    assert_eq!(refusals(&site).await.len(), 3);
    for sql in [
        "UPDATE refused_device SET identifier = 'unreadable' WHERE ip = '10.0.0.7'",
        "UPDATE device SET mac = 'unreadable' WHERE ip = '10.0.0.8'",
    ] {
        site.raw().await.execute_unprepared(sql).await.expect(sql);
    }
    assert_eq!(refusals(&site).await.len(), 1);
    // The sweep comes past both, and forgets the third.
    let late = at(60 + limits::REFUSED_DEVICE_KEPT.as_secs() * 2);
    let swept = site.store.sweep_refused_devices(0, late).await;
    assert_eq!(swept.expect("swept"), None);
    assert_eq!(site.number("SELECT count(*) FROM refused_device").await, 2);
}

async fn evidence_of_a_former_name_is_kept(site: Site) {
    let node = site.node("north").await;
    let unknown = row(RawDeviceReport {
        ip: "10.0.0.7",
        identifier: "uuid:1234",
        evidence: "title Antminer",
        ..blank()
    });
    scan(&site, node, vec![unknown]).await;
    let shown = row(RawDeviceReport {
        ip: "10.0.0.7",
        mac: MAC,
        evidence: "MAC of its API",
        ..blank()
    });
    scan(&site, node, vec![shown]).await;
    let device = device(&site, 1).await;
    assert_eq!(device.facts.evidence, "MAC of its API");
    assert_eq!(
        device.aliases[0].evidence,
        "title Antminer; identifier uuid:1234"
    );
}
