//! Device bindings: each device has at most one, for any order of events and any race.

use fleet_core::{DeviceId, NodeId, PairingStatus};
use fleet_pairing::{BindRefusal, Binding};
use fleet_store::*;
use sea_orm::ConnectionTrait;

use crate::{
    races::at_once,
    site::{Node, Site, at, plain},
};

contract! {
    a_device_is_bound_to_one_node_and_the_same_again_changes_nothing
    the_refusal_of_a_bound_device_says_to_unpair_first
    binding_moves_the_attribution
    another_tenants_devices_and_nodes_are_not_there
    an_unpaired_device_can_be_paired_again
    revocation_releases_every_bound_device
    after_a_revocation_another_node_can_be_paired
    found_devices_are_listed_page_by_page
    exclusion_that_breaks_after_unpair_and_revoke
    pairing_that_races_the_servers_own_pairing
    binding_races_the_revocation
    two_nodes_race_for_one_device
}

impl Site {
    /// A device that this node found.
    pub(crate) async fn found_by(&self, node: Node, ip: &str) -> DeviceId {
        let command = self.running(node, ip).await;
        let before: Vec<DeviceId> = self.devices().await.iter().map(|row| row.id).collect();
        assert_eq!(
            self.reported(node, command.command, vec![plain(ip, "80")])
                .await,
            (1, 0)
        );
        self.acked(node, command.command, fleet_core::outcome::AckCode::Ok)
            .await;
        let rows = self.devices().await;
        let new = rows.iter().find(|row| !before.contains(&row.id));
        new.expect("a new device").id
    }

    /// A device that the server itself found.
    pub(crate) async fn found_by_server(&self, ip: &str) -> DeviceId {
        let raw = self.raw().await;
        let identifier = format!("serial:OF-{ip}");
        raw.execute_unprepared(&format!(
            "INSERT INTO device (org_id, identifier, ip, port, scheme, driver, model, manufacturer, \
             firmware, serial, evidence, first_seen, last_seen) \
             VALUES ({}, '{identifier}', '{ip}', 80, 'http', 'antminer', '', '', '', '', '', 1, 1)",
            self.org.0
        ))
        .await
        .expect("inserted");
        let rows = self.devices().await;
        let new = rows
            .iter()
            .find(|row| row.identifier.to_string() == identifier);
        new.expect("the device").id
    }

    pub(crate) async fn bind(&self, node: NodeId, device: DeviceId) -> Result<Changed, BindError> {
        self.store
            .bind_device(self.org, node, device, self.actor(), at(200))
            .await
    }

    pub(crate) async fn unbind(&self, device: DeviceId) -> Changed {
        self.store
            .unbind_device(self.org, device, self.actor(), at(210))
            .await
            .expect("released")
    }

    pub(crate) async fn bind_to_server(&self, device: DeviceId) -> Result<Changed, BindError> {
        self.store
            .bind_to_server(
                self.org,
                device,
                PairingStatus::Paired,
                self.actor(),
                at(220),
            )
            .await
    }

    pub(crate) async fn pairing_of(&self, device: DeviceId) -> DevicePairing {
        self.store
            .pairings_of(self.org, &[device])
            .await
            .expect("read")
            .remove(&device)
            .unwrap_or(DevicePairing::NONE)
    }

    pub(crate) async fn owner(&self, device: DeviceId) -> Option<NodeId> {
        let rows = self.devices().await;
        let row = rows.iter().find(|row| row.id == device);
        row.expect("the device").node
    }

    pub(crate) async fn revoke(&self, node: NodeId) {
        self.store
            .revoke_node(self.org, node, None, self.actor(), at(300))
            .await
            .expect("revoked");
    }
}

fn refusal(answer: Result<Changed, BindError>) -> BindRefusal {
    match answer {
        Err(BindError::Refused { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

async fn a_device_is_bound_to_one_node_and_the_same_again_changes_nothing(site: Site) {
    let north = site.node("north").await;
    let device = site.found_by(north, "10.0.0.7").await;
    assert_eq!(site.pairing_of(device).await, DevicePairing::NONE);
    assert_eq!(
        site.bind(north.id, device).await.expect("bound"),
        Changed::Yes
    );
    assert_eq!(
        site.bind(north.id, device).await.expect("bound"),
        Changed::No
    );
    let known = site.pairing_of(device).await;
    assert_eq!(known.binding, Binding::Node(north.id));
    assert_eq!(
        known.status,
        PairingStatus::Unpaired,
        "binding and status are separate"
    );
    let bound = site
        .store
        .list_bound_devices(site.org, Some(north.id), fleet_store::ListPage::FIRST)
        .await
        .expect("read");
    assert_eq!(bound.len(), 1);
    assert_eq!(
        (
            bound[0].device.id,
            bound[0].node,
            bound[0].assigned_by,
            bound[0].since
        ),
        (device, north.id, Some(site.operator), at(200))
    );
    let records = site.audited().await;
    let pairs = records
        .iter()
        .filter(|row| row.entry.action == "device.pair")
        .count();
    assert_eq!(pairs, 1, "what changes nothing leaves no record");
}

async fn the_refusal_of_a_bound_device_says_to_unpair_first(site: Site) {
    let (north, south) = (site.node("north").await, site.confirmed("south").await);
    let device = site.found_by(north, "10.0.0.7").await;
    site.bind(north.id, device).await.expect("bound");
    let refused = site.bind(south, device).await.expect_err("refused");
    assert!(refused.to_string().contains("unpair it first"), "{refused}");
    assert_eq!(
        refusal(site.bind(south, device).await),
        BindRefusal::BoundToNode(north.id)
    );
    let own = site.found_by_server("192.168.7.7").await;
    site.bind_to_server(own).await.expect("bound");
    assert_eq!(site.bind_to_server(own).await.expect("bound"), Changed::No);
    assert_eq!(
        refusal(site.bind(south, own).await),
        BindRefusal::BoundToServer
    );
    let pending = site.pending("west").await.node;
    let free = site.found_by(north, "10.0.0.8").await;
    assert_eq!(
        refusal(site.bind(pending, free).await),
        BindRefusal::NotConfirmed(pending)
    );
}

async fn binding_moves_the_attribution(site: Site) {
    let (north, south) = (site.node("north").await, site.confirmed("south").await);
    let device = site.found_by(north, "10.0.0.7").await;
    site.bind(south, device).await.expect("bound");
    assert_eq!(site.owner(device).await, Some(south));
    let endpoints = "SELECT count(*) FROM node_endpoint WHERE ip = '10.0.0.7'";
    assert_eq!(
        site.number(endpoints).await,
        2,
        "the endpoint was attributed to both"
    );
    assert_eq!(site.unbind(device).await, Changed::Yes);
    assert_eq!(site.owner(device).await, Some(south), "never cleared");
}

async fn another_tenants_devices_and_nodes_are_not_there(site: Site) {
    let other = site.other_org().await;
    let north = site.node("north").await;
    let device = site.found_by(north, "10.0.0.7").await;
    let theirs = site.confirmed_in(other, "theirs").await;
    assert!(matches!(
        site.bind(theirs, device).await,
        Err(BindError::NodeNotFound(node)) if node == theirs
    ));
    let across = site
        .store
        .bind_device(other, theirs, device, site.actor(), at(200));
    assert!(matches!(
        across.await,
        Err(BindError::DeviceNotFound(id)) if id == device
    ));
    let across = site
        .store
        .unbind_device(other, device, site.actor(), at(200));
    assert!(matches!(across.await, Err(UnbindError::NotFound(_))));
    site.bind(north.id, device).await.expect("bound");
    let seen = site
        .store
        .list_bound_devices(other, None, fleet_store::ListPage::FIRST)
        .await
        .expect("read");
    assert_eq!(seen, []);
    let seen = site.store.pairings_of(other, &[device]).await;
    assert!(seen.expect("read").is_empty());
}

async fn an_unpaired_device_can_be_paired_again(site: Site) {
    let (north, south) = (site.node("north").await, site.confirmed("south").await);
    let device = site.found_by(north, "10.0.0.7").await;
    assert_eq!(site.unbind(device).await, Changed::No);
    for node in [north.id, south, north.id] {
        assert_eq!(site.bind(node, device).await.expect("bound"), Changed::Yes);
        assert_eq!(site.unbind(device).await, Changed::Yes);
        assert_eq!(site.pairing_of(device).await, DevicePairing::NONE);
    }
}

async fn revocation_releases_every_bound_device(site: Site) {
    let (north, south) = (site.node("north").await, site.node("south").await);
    let mut devices = Vec::new();
    for n in 7..10 {
        let device = site.found_by(north, &format!("10.0.0.{n}")).await;
        site.bind(north.id, device).await.expect("bound");
        devices.push(device);
    }
    let kept = site.found_by(south, "10.1.0.7").await;
    site.bind(south.id, kept).await.expect("bound");
    site.revoke(north.id).await;
    for device in devices {
        assert_eq!(site.pairing_of(device).await, DevicePairing::NONE);
        assert_eq!(site.owner(device).await, Some(north.id), "never cleared");
    }
    let bound = site
        .store
        .list_bound_devices(site.org, None, fleet_store::ListPage::FIRST)
        .await
        .expect("read");
    assert_eq!(
        bound.iter().map(|row| row.device.id).collect::<Vec<_>>(),
        [kept]
    );
}

async fn after_a_revocation_another_node_can_be_paired(site: Site) {
    let (north, south) = (site.node("north").await, site.confirmed("south").await);
    let device = site.found_by(north, "10.0.0.7").await;
    site.bind(north.id, device).await.expect("bound");
    site.revoke(north.id).await;
    assert!(matches!(
        site.bind(north.id, device).await,
        Err(BindError::NodeNotFound(_))
    ));
    site.bind(south, device).await.expect("bound");
    assert_eq!(site.owner(device).await, Some(south));
}

async fn found_devices_are_listed_page_by_page(site: Site) {
    let (north, south) = (site.node("north").await, site.node("south").await);
    let mut ids = Vec::new();
    for n in 1..6 {
        ids.push(site.found_by(north, &format!("10.0.0.{n}")).await);
        site.found_by_server(&format!("192.168.0.{n}")).await;
    }
    let other = site.found_by(south, "10.1.0.1").await;
    let page = async |node, after, limit| {
        let rows = site
            .store
            .list_found_devices(site.org, node, after, limit)
            .await
            .expect("read");
        rows.iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(page(Some(north.id), DeviceId(0), 3).await, ids[..3]);
    assert_eq!(page(Some(north.id), ids[2], 3).await, ids[3..]);
    ids.push(other);
    assert_eq!(
        page(None, DeviceId(0), 1_000).await,
        ids,
        "the server's own finds are not among them"
    );
}

/// One of four known failures: a device that a node found must stay excluded from the server's dials. This holds after
/// the device was unpaired, its node revoked, its record moved, or another record took its endpoint.
async fn exclusion_that_breaks_after_unpair_and_revoke(site: Site) {
    let (north, south) = (site.node("north").await, site.confirmed("south").await);
    let device = site.found_by(north, "10.0.0.7").await;
    let excluded = async |by: NodeId| {
        assert_eq!(
            refusal(site.bind_to_server(device).await),
            BindRefusal::FoundByNode(by)
        );
    };
    excluded(north.id).await;
    site.bind(north.id, device).await.expect("bound");
    excluded(north.id).await;
    site.unbind(device).await;
    excluded(north.id).await;
    site.bind(south, device).await.expect("bound");
    site.unbind(device).await;
    excluded(south).await;
    site.revoke(south).await;
    excluded(south).await;
    site.revoke(north.id).await;
    excluded(south).await;
    // The exclusion is not tied to the record. It also covers devices that the server finds later at an endpoint of a
    // node.
    let again = site.found_by_server("10.0.0.7").await;
    assert_eq!(
        refusal(site.bind_to_server(again).await),
        BindRefusal::FoundByNode(north.id)
    );
    // This device was assigned to a node by an operator, and no node found it. Its endpoint still belongs to the node.
    let (east, own) = (
        site.confirmed("east").await,
        site.found_by_server("192.168.7.7").await,
    );
    site.bind(east, own).await.expect("bound");
    site.unbind(own).await;
    site.revoke(east).await;
    assert_eq!(
        refusal(site.bind_to_server(own).await),
        BindRefusal::FoundByNode(east)
    );
}

/// One of four known failures: the server pairs a device while an operator binds it to a node. Only the first of them
/// may succeed.
async fn pairing_that_races_the_servers_own_pairing(site: Site) {
    let north = site.confirmed("north").await;
    let (mut by_node, mut by_server) = (0, 0);
    for n in 0..24 {
        let device = site.found_by_server(&format!("192.168.1.{n}")).await;
        let contest = |server: bool| {
            let site = site.clone();
            async move {
                if server {
                    site.bind_to_server(device).await
                } else {
                    site.bind(north, device).await
                }
            }
        };
        let order = [n % 2 == 0, n % 2 == 1];
        let answers = at_once(order.map(contest).into()).await;
        let won = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(won, 1, "{answers:?}");
        assert!(
            answers
                .iter()
                .all(|answer| matches!(answer, Ok(Changed::Yes) | Err(BindError::Refused { .. }))),
            "{answers:?}"
        );
        match site.pairing_of(device).await.binding {
            Binding::Server => {
                by_server += 1;
                assert_eq!(site.owner(device).await, None);
            }
            Binding::Node(node) => {
                by_node += 1;
                assert_eq!((node, site.owner(device).await), (north, Some(north)));
            }
            Binding::Free => panic!("neither has it"),
        }
        let twice = "SELECT count(*) FROM binding GROUP BY device_id ORDER BY 1 DESC LIMIT 1";
        assert_eq!(site.number(twice).await, 1);
    }
    assert_eq!(by_node + by_server, 24);
}

async fn binding_races_the_revocation(site: Site) {
    for n in 0..6 {
        let north = site.node(&format!("north {n}")).await;
        let device = site.found_by(north, &format!("10.0.{n}.7")).await;
        let contest = |revokes: bool| {
            let site = site.clone();
            async move {
                if revokes {
                    site.revoke(north.id).await;
                } else {
                    // Rejected if the revocation came first.
                    let _ = site.bind(north.id, device).await;
                }
            }
        };
        at_once(vec![contest(n % 2 == 0), contest(n % 2 == 1)]).await;
        assert_eq!(
            site.pairing_of(device).await,
            DevicePairing::NONE,
            "nothing is bound to a revoked node"
        );
    }
}

async fn two_nodes_race_for_one_device(site: Site) {
    let finder = site.node("finder").await;
    let device = site.found_by(finder, "10.0.0.7").await;
    let mut nodes = Vec::new();
    for n in 0..8 {
        nodes.push(site.confirmed(&format!("north {n}")).await);
    }
    let contest = |node| {
        let site = site.clone();
        async move { site.bind(node, device).await }
    };
    let answers = at_once(nodes.iter().copied().map(contest).collect()).await;
    assert_eq!(
        answers.iter().filter(|answer| answer.is_ok()).count(),
        1,
        "{answers:?}"
    );
    let bound = site.pairing_of(device).await.binding;
    assert!(matches!(bound, Binding::Node(node) if site.owner(device).await == Some(node)));
}
