//! Nodes that share a site, MACs at two addresses, and records of revoked nodes.

use std::collections::BTreeSet;

use fleet_core::{DeviceId, NodeId, ScanId, SiteId, outcome::AckCode};
use fleet_discovery::{Ledger, LogEvent};
use fleet_store::*;

use crate::site::{Node, Row, Site, at, mac, plain, with_mac};

contract! {
    two_nodes_on_one_network_see_the_same_devices
    nodes_of_two_sites_with_one_range_stay_apart
    a_node_moves_only_to_a_site_of_its_organization
    a_mac_at_two_addresses_of_one_scan_is_two_devices_and_a_warning
    clones_in_two_reports_and_two_chunks_stay_separate
    a_mac_alone_claims_no_record_of_a_revoked_node
    a_claimed_device_gets_credentials_only_after_an_operator_bound_it
}

const DEVICES: usize = 400;
/// The devices without MAC and serial. Two nodes with a site each have a record of their own for every one of them.
const PLAIN: usize = 203;
const NETWORK: &str = "10.0.0.0/22";

/// The devices of one network.
fn devices() -> Vec<Row> {
    (0..DEVICES)
        .map(|n| {
            let ip = format!("10.0.{}.{}", n / 200, n % 200 + 1);
            if n < PLAIN {
                plain(&ip, "80")
            } else {
                with_mac(&ip, &mac(n))
            }
        })
        .collect()
}

impl Site {
    /// Moves a node to the site of another one.
    pub(crate) async fn shares_site(&self, node: NodeId, with: NodeId) {
        let rows = self
            .store
            .list_nodes(self.org, fleet_store::ListPage::FIRST)
            .await
            .expect("read");
        let site = rows.iter().find(|row| row.id == with).expect("a node").site;
        self.store
            .move_node(self.org, node, Some(site), self.actor(), at(4))
            .await
            .expect("moved");
    }

    /// Scans with reports of these rows. Returns the scan and the number of accepted and rejected rows.
    async fn scanned(&self, node: Node, reports: &[&[Row]]) -> (ScanId, (u64, u64)) {
        let command = self.running(node, NETWORK).await;
        let mut counts = (0, 0);
        for rows in reports {
            let (accepted, rejected) = self.reported(node, command.command, rows.to_vec()).await;
            counts = (counts.0 + accepted, counts.1 + rejected);
        }
        self.acked(node, command.command, AckCode::Ok).await;
        (command.scan, counts)
    }

    async fn ledger(&self, scan: ScanId) -> Ledger {
        self.look(scan).await.ledger.expect("ended")
    }

    async fn warnings(&self, scan: ScanId) -> Vec<String> {
        let warning = |event| match event {
            LogEvent::Warning { text } => Some(text),
            LogEvent::Device(_) | LogEvent::Host(_) | LogEvent::Ended(_) => None,
        };
        self.log(scan)
            .await
            .into_iter()
            .filter_map(warning)
            .collect()
    }
}

/// The nodes that have or see a device.
fn seers(device: &DeviceRow) -> BTreeSet<NodeId> {
    let others = device.seen_by.iter().map(|sighting| sighting.node);
    device.node.into_iter().chain(others).collect()
}

async fn two_nodes_on_one_network_see_the_same_devices(site: Site) {
    let (first, second) = (site.node("barn-1").await, site.node("barn-2").await);
    let rows = devices();
    assert_eq!(site.scanned(first, &[&rows]).await.1, (400, 0));

    // Two sites: a MAC shows which device it is, and nothing else does.
    let (scan, counts) = site.scanned(second, &[&rows]).await;
    assert_eq!(counts, (203, 197));
    let ledger = site.ledger(scan).await;
    assert!(ledger.adds_up(), "{ledger:?}");
    assert_eq!(
        (
            ledger.identified,
            ledger.owned_elsewhere,
            ledger.unidentified
        ),
        (203, 197, 0)
    );
    let [owner] = &ledger.owned_elsewhere_reasons[..] else {
        panic!("one owner: {ledger:?}")
    };
    let expected = format!("belongs to node {} (barn-1)", first.id);
    assert_eq!((owner.reason.as_str(), owner.count), (&*expected, 197));
    assert_eq!(site.devices().await.len(), DEVICES + PLAIN);
    let both = BTreeSet::from([first.id, second.id]);
    let seen_twice = |devices: &[DeviceRow]| {
        let by_both = devices.iter().filter(|device| seers(device) == both);
        by_both.count()
    };
    assert_eq!(seen_twice(&site.devices().await), DEVICES - PLAIN);

    // One site: the next scan joins what the nodes knew separately.
    site.shares_site(second.id, first.id).await;
    for node in [second, first, second] {
        let (scan, counts) = site.scanned(node, &[&rows]).await;
        assert_eq!(counts, (400, 0));
        let ledger = site.ledger(scan).await;
        assert_eq!((ledger.identified, ledger.owned_elsewhere), (400, 0));
        let devices = site.devices().await;
        assert_eq!((devices.len(), seen_twice(&devices)), (DEVICES, DEVICES));
    }
    let listed = |node: Node| {
        let (store, org) = (site.store.clone(), site.org);
        async move {
            let devices = store.list_devices(org, Some(node.id), DeviceId(0), 1_000);
            devices.await.expect("read").len()
        }
    };
    assert_eq!((listed(first).await, listed(second).await), (400, 400));
    // A MAC that one node found first stays with it.
    let strong = |device: &&DeviceRow| device.identifier.is_strong();
    let devices = site.devices().await;
    assert!(
        devices
            .iter()
            .filter(strong)
            .all(|device| device.node == Some(first.id))
    );
}

async fn nodes_of_two_sites_with_one_range_stay_apart(site: Site) {
    let (first, second) = (site.node("north").await, site.node("south").await);
    for node in [first, second] {
        site.scanned(node, &[&[plain("10.0.0.7", "80")]]).await;
    }
    assert_eq!(site.devices().await.len(), 2);
    // A node that leaves a shared site takes what it found along.
    site.shares_site(second.id, first.id).await;
    let own = site
        .store
        .move_node(site.org, second.id, None, site.actor(), at(5))
        .await;
    own.expect("moved");
    site.scanned(second, &[&[plain("10.0.0.7", "80")]]).await;
    let devices = site.devices().await;
    assert_eq!(devices.len(), 2);
    assert!(devices.iter().all(|device| device.seen_by.is_empty()));
}

async fn a_node_moves_only_to_a_site_of_its_organization(site: Site) {
    let node = site.confirmed("north").await;
    let other = site.other_org().await;
    let stranger = site.confirmed_in(other, "elsewhere").await;
    let theirs = site
        .store
        .list_nodes(other, fleet_store::ListPage::FIRST)
        .await
        .expect("read")[0]
        .site;
    let moved = |node, to| {
        let store = site.store.clone();
        let (org, actor) = (site.org, site.actor());
        async move { store.move_node(org, node, to, actor, at(5)).await }
    };
    for nowhere in [theirs, SiteId(0), SiteId(9_999)] {
        let refused = moved(node, Some(nowhere)).await;
        assert!(
            matches!(refused, Err(MoveNodeError::NoSite(_))),
            "{refused:?}"
        );
    }
    let refused = moved(stranger, None).await;
    assert!(
        matches!(refused, Err(MoveNodeError::NotFound(_))),
        "{refused:?}"
    );
    let own = moved(node, None).await.expect("moved");
    let rows = site
        .store
        .list_nodes(site.org, fleet_store::ListPage::FIRST)
        .await
        .expect("read");
    assert_eq!((rows[0].site, rows[0].site_name.as_str()), (own, "north"));
    let audited = site.audited().await;
    let moves = audited.iter().filter(|row| row.entry.action == "node.move");
    assert_eq!(moves.count(), 1);
}

const CLONE: &str = "00:0A:35:00:00:00";

/// Where each device is.
fn addresses(devices: &[DeviceRow]) -> Vec<(DeviceId, String)> {
    let address = |device: &DeviceRow| {
        let endpoint = device.endpoint.map(|endpoint| endpoint.ip.to_string());
        (device.id, endpoint.unwrap_or_default())
    };
    devices.iter().map(address).collect()
}

async fn a_mac_at_two_addresses_of_one_scan_is_two_devices_and_a_warning(site: Site) {
    let node = site.node("north").await;
    let clones = ["10.0.0.5", "10.0.0.6", "10.0.0.7"].map(|ip| with_mac(ip, CLONE));
    let (scan, counts) = site.scanned(node, &[&clones]).await;
    assert_eq!(counts, (3, 0));
    let warnings = site.warnings(scan).await;
    let [warning] = &warnings[..] else {
        panic!("one warning: {warnings:?}")
    };
    assert!(
        warning.starts_with("10.0.0.5 and 10.0.0.6 both show mac:00:0A:35:00:00:00"),
        "{warning}"
    );
    let found = addresses(&site.devices().await);
    assert_eq!(found.len(), 3);
    // Later scans find them in any order. Nothing moves, and each scan warns once.
    for order in [[2, 0, 1], [1, 2, 0]] {
        let rows: Vec<&[Row]> = order.iter().map(|n| &clones[*n..=*n]).collect();
        let (scan, _) = site.scanned(node, &rows).await;
        assert_eq!(addresses(&site.devices().await), found);
        assert_eq!(site.warnings(scan).await.len(), 1);
    }
    assert_eq!(site.number("SELECT count(*) FROM identity_change").await, 0);
}

async fn clones_in_two_reports_and_two_chunks_stay_separate(site: Site) {
    let mut node = site.node("north").await;
    // Two chunks of a /22 each.
    let scan = site.scan(node, "10.0.0.0/21").await;
    let (mut commands, mut now) = (0, 30);
    while let Some(command) = site.issue_at(node, at(now)).await {
        let third = 4 * commands;
        for host in [5, 6] {
            let row = with_mac(&format!("10.0.{third}.{host}"), CLONE);
            let counts = site.reported(node, command.command, vec![row]).await;
            assert_eq!(counts, (1, 0));
        }
        // The node reconnects between the chunks.
        site.acked(node, command.command, AckCode::Ok).await;
        site.reconnect(&mut node, &[], at(now)).await;
        (commands, now) = (commands + 1, now + 100);
    }
    assert_eq!(commands, 2);
    let devices = site.devices().await;
    let places: BTreeSet<String> = addresses(&devices).into_iter().map(|(_, ip)| ip).collect();
    let expected = ["10.0.0.5", "10.0.0.6", "10.0.4.5", "10.0.4.6"].map(str::to_owned);
    assert_eq!(places, expected.into());
    assert_eq!(site.warnings(scan).await.len(), 1);
}

async fn revoked(site: &Site, node: Node) {
    site.store
        .revoke_node(site.org, node.id, None, site.actor(), at(70))
        .await
        .expect("revoked");
}

async fn a_mac_alone_claims_no_record_of_a_revoked_node(site: Site) {
    let (gone, claimant) = (site.node("gone").await, site.node("claimant").await);
    let here = with_mac("10.0.0.7", &mac(1));
    let elsewhere = with_mac("10.0.0.8", &mac(2));
    site.scanned(gone, &[&[here.clone(), elsewhere]]).await;
    revoked(&site, gone).await;

    // The claimant names both MACs. It has only one of them at the address where the device was.
    let copied = with_mac("10.0.0.9", &mac(2));
    let (scan, counts) = site.scanned(claimant, &[&[here, copied.clone()]]).await;
    assert_eq!(counts, (1, 1));
    let ledger = site.ledger(scan).await;
    let reasons: Vec<_> = ledger
        .rejected_reasons
        .iter()
        .map(|tally| &*tally.reason)
        .collect();
    assert_eq!(reasons, ["owned by a revoked node"]);
    let devices = site.devices().await;
    let [claimed, kept] = &devices[..] else {
        panic!("two devices: {devices:?}")
    };
    assert_eq!(
        (claimed.node, claimed.claimed_from),
        (Some(claimant.id), Some(gone.id))
    );
    assert_eq!((kept.node, kept.claimed_from), (Some(gone.id), None));
    let audited = site.audited().await;
    let claims: Vec<_> = audited
        .iter()
        .filter(|row| row.entry.action == "device.claim")
        .map(|row| (row.entry.actor.principal.clone(), row.count))
        .collect();
    assert_eq!(claims, [(Principal::Node(claimant.id), 1)]);

    // The refusal is listed with its record. An operator's decision moves it.
    let (refused, _) = site
        .store
        .list_refused_devices(site.org, None, 0, 10)
        .await
        .expect("read");
    assert_eq!(
        refused
            .iter()
            .map(|row| (row.device, row.reporter))
            .collect::<Vec<_>>(),
        [(kept.id, claimant.id)]
    );
    site.store
        .bind_device(site.org, claimant.id, kept.id, site.actor(), at(80))
        .await
        .expect("bound");
    let (_, counts) = site.scanned(claimant, &[&[copied]]).await;
    assert_eq!(counts, (1, 0));
    let devices = site.devices().await;
    assert_eq!(
        (devices[1].node, devices[1].claimed_from),
        (Some(claimant.id), None)
    );
}

async fn a_claimed_device_gets_credentials_only_after_an_operator_bound_it(site: Site) {
    let (gone, claimant) = (site.node("gone").await, site.node("claimant").await);
    let row = with_mac("10.0.0.7", &mac(1));
    site.scanned(gone, &[std::slice::from_ref(&row)]).await;
    revoked(&site, gone).await;
    site.scanned(claimant, &[&[row]]).await;
    let device = site.devices().await.remove(0);
    let selections = [
        PairSelection {
            identifiers: vec![device.identifier.to_string()],
            all_unpaired: false,
            with_password: true,
        },
        PairSelection {
            identifiers: Vec::new(),
            all_unpaired: true,
            with_password: true,
        },
    ];
    for selection in &selections {
        let wanted = site
            .store
            .pair_targets(site.org, claimant.id, selection.clone())
            .await;
        let wanted = wanted.expect("read");
        assert!(wanted.targets.is_empty(), "{wanted:?}");
        let [(_, why)] = &wanted.refused[..] else {
            panic!("one refusal: {wanted:?}")
        };
        assert!(why.contains("revoked node"), "{why}");
    }
    site.store
        .bind_device(site.org, claimant.id, device.id, site.actor(), at(80))
        .await
        .expect("bound");
    for selection in selections {
        let wanted = site
            .store
            .pair_targets(site.org, claimant.id, selection)
            .await;
        assert_eq!(wanted.expect("read").targets.len(), 1);
    }
}
