//! The server's own scans: which endpoints it may dial, how its findings are stored, and the order between its dials
//! and the reports of nodes.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use fleet_core::{DeviceId, DeviceReport, OrgId, RawDeviceReport, RejectReason, ReplicaId, ScanId};
use fleet_pairing::DirectRefusal;
use fleet_store::*;
use sea_orm::{ConnectionTrait, Statement};
use tokio::{sync::Barrier, task::JoinSet};

use crate::site::{Node, Site, at, blank, mac, plain, row, with_mac};

contract! {
    addresses_that_a_node_ever_had_are_never_released
    exclusion_holds_after_revoke_and_for_the_node_that_comes_after
    another_organizations_devices_are_excluded_by_address_and_not_named
    a_report_of_another_organization_waits_too
    a_report_waits_while_the_server_dials_there
    a_report_elsewhere_does_not_wait
    a_server_that_died_holds_reports_up_for_a_while_only
    one_scan_of_an_organization_dials_at_a_time
    devices_found_by_the_server_are_unattributed_and_not_claimable
    devices_found_again_by_the_server_keep_their_record
    one_default_mac_at_two_addresses_is_two_devices_of_the_server_too
    two_devices_at_one_endpoint_are_never_merged
    a_nodes_device_that_the_server_meets_elsewhere_is_left_alone_and_never_met_again
    only_released_addresses_are_recorded
    a_report_that_races_the_servers_own_dial_comes_before_or_after_it
    one_device_found_by_node_and_server_at_once_has_one_record
    the_alerts_of_a_scan_whose_server_stopped_are_stored_once
    a_scan_that_ended_is_not_ended_again
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

fn run(n: u64) -> ScanId {
    ScanId::new(at(n), [9; 10])
}

/// Devices that the server found.
fn found(rows: impl IntoIterator<Item = crate::site::Row>) -> Vec<DeviceReport> {
    rows.into_iter()
        .map(|row| row.expect("well-formed"))
        .collect()
}

impl Site {
    async fn try_release(
        &self,
        org: OrgId,
        scan: ScanId,
        addresses: &[&str],
        now: u64,
    ) -> Result<Released, ReleaseError> {
        let request = DialRequest {
            org,
            scan,
            addresses: addresses.iter().map(|text| ip(text)).collect(),
            until: at(now + 45),
            now: at(now),
        };
        self.store.release_for_dialing(request).await
    }

    /// The allowed addresses, and the excluded ones with their node.
    async fn release(&self, scan: ScanId, addresses: &[&str]) -> (Vec<String>, Vec<String>) {
        let released = self
            .try_release(self.org, scan, addresses, 40)
            .await
            .expect("released");
        let excluded = |exclusion: &Exclusion| match &exclusion.node {
            Some((_, name)) => format!("{} {name}", exclusion.ip),
            None => format!("{} of another organization", exclusion.ip),
        };
        (
            released.allowed.iter().map(ToString::to_string).collect(),
            released.excluded.iter().map(excluded).collect(),
        )
    }

    async fn give_back(&self, scan: ScanId) {
        self.store
            .give_back(self.org, scan)
            .await
            .expect("given back");
    }

    async fn sighted(&self, scan: ScanId, rows: Vec<DeviceReport>, now: u64) -> Vec<DirectOutcome> {
        let sightings = NewSightings {
            org: self.org,
            scan,
            rows,
            seen: BTreeMap::new(),
            now: at(now),
        };
        let recorded = self.store.record_direct(sightings).await;
        recorded.expect("recorded").outcomes
    }

    /// Stores devices that the server finds in its own scan.
    async fn server_finds(&self, scan: ScanId, rows: Vec<DeviceReport>) -> Vec<DirectOutcome> {
        let addresses: Vec<String> = rows.iter().map(|row| row.endpoint.ip.to_string()).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        self.release(scan, &addresses).await;
        let sighted = self.sighted(scan, rows, 41).await;
        self.give_back(scan).await;
        sighted
    }

    /// A node that has found devices.
    async fn node_with(&self, name: &str, rows: Vec<crate::site::Row>) -> Node {
        let node = self.node(name).await;
        let count = rows.len() as u64;
        let command = self.running(node, "10.0.0.0/24").await;
        assert_eq!(self.reported(node, command.command, rows).await, (count, 0));
        node
    }
}

fn stored(sighted: &DirectOutcome) -> &DeviceRow {
    match sighted {
        DirectOutcome::Stored(row) => row,
        DirectOutcome::OfNode { .. } | DirectOutcome::NotReleased => panic!("{sighted:?}"),
    }
}

async fn addresses_that_a_node_ever_had_are_never_released(site: Site) {
    site.node_with(
        "north",
        vec![plain("10.0.0.7", "80"), plain("10.0.0.9", "80")],
    )
    .await;
    let asked = ["10.0.0.9", "10.0.0.8", "::ffff:10.0.0.7", "10.0.0.8"];
    let (allowed, excluded) = site.release(run(1), &asked).await;
    assert_eq!(allowed, ["10.0.0.8"]);
    assert_eq!(excluded, ["10.0.0.9 north", "10.0.0.7 north"]);
}

/// The record moves, but its former endpoints stay reserved for the first node too.
async fn exclusion_holds_after_revoke_and_for_the_node_that_comes_after(site: Site) {
    let north = site
        .node_with("north", vec![with_mac("10.0.0.7", &mac(1))])
        .await;
    site.store
        .revoke_node(site.org, north.id, None, site.actor(), at(35))
        .await
        .expect("revoked");
    assert_eq!(
        site.release(run(1), &["10.0.0.7"]).await.1,
        ["10.0.0.7 north"]
    );

    // Another node takes over the device, which an operator gave to it, at another address. Both addresses stay
    // excluded.
    let south = site.node("south").await;
    site.store
        .bind_device(site.org, south.id, DeviceId(1), site.actor(), at(36))
        .await
        .expect("bound");
    let command = site.running(south, "10.0.0.0/24").await;
    let moved = vec![with_mac("10.0.0.8", &mac(1))];
    assert_eq!(site.reported(south, command.command, moved).await, (1, 0));
    let (allowed, excluded) = site.release(run(1), &["10.0.0.7", "10.0.0.8"]).await;
    assert!(allowed.is_empty(), "{allowed:?}");
    assert_eq!(excluded, ["10.0.0.7 north", "10.0.0.8 south"]);
}

async fn another_organizations_devices_are_excluded_by_address_and_not_named(site: Site) {
    site.node_with("north", vec![plain("10.0.0.7", "80")]).await;
    let other = site.other_org().await;
    let released = site
        .try_release(other, run(1), &["10.0.0.7", "10.0.0.8"], 40)
        .await
        .expect("released");
    assert_eq!(released.allowed, [ip("10.0.0.8")]);
    let excluded = Exclusion {
        ip: ip("10.0.0.7"),
        node: None,
    };
    assert_eq!(released.excluded, [excluded]);
    // This organization does not wait for the other one's run.
    site.release(run(2), &["10.0.0.9"]).await;
}

async fn a_report_of_another_organization_waits_too(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    let other = site.other_org().await;
    site.try_release(other, run(1), &["10.0.0.7"], 40)
        .await
        .expect("released");
    let report = NewReport {
        now: at(41),
        ..site.report(node, command.command, vec![plain("10.0.0.7", "80")])
    };
    let refused = site.store.record_report(report.clone()).await;
    assert!(
        matches!(refused, Err(ReportError::BeingDialed(waits)) if waits == ip("10.0.0.7")),
        "{refused:?}"
    );
    site.store
        .give_back(other, run(1))
        .await
        .expect("given back");
    site.store.record_report(report).await.expect("recorded");
}

async fn a_report_waits_while_the_server_dials_there(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    site.release(run(1), &["10.0.0.7"]).await;
    let report = NewReport {
        now: at(41),
        ..site.report(
            node,
            command.command,
            vec![plain("10.0.0.6", "80"), plain("10.0.0.7", "80")],
        )
    };
    let refused = site.store.record_report(report.clone()).await;
    let Err(ReportError::BeingDialed(waiting)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(waiting, ip("10.0.0.7"));
    assert!(site.devices().await.is_empty(), "nothing of it is stored");
    assert!(site.stored_events(command.scan).await.is_empty());

    site.give_back(run(1)).await;
    let taken = site.store.record_report(report).await.expect("taken");
    assert_eq!((taken.accepted, taken.rejected), (2, 0));
    assert_eq!(
        site.release(run(1), &["10.0.0.7"]).await.1,
        ["10.0.0.7 north"]
    );
}

async fn a_report_elsewhere_does_not_wait(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    site.release(run(1), &["10.0.0.7"]).await;
    assert_eq!(
        site.reported(node, command.command, vec![plain("10.0.0.8", "80")])
            .await,
        (1, 0)
    );
    // A rejected row attributes nothing.
    let refused = vec![plain("10.9.0.7", "80")];
    assert_eq!(site.reported(node, command.command, refused).await, (0, 1));
}

async fn a_server_that_died_holds_reports_up_for_a_while_only(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    site.release(run(1), &["10.0.0.7"]).await;
    for (seconds, waits) in [(84, true), (85, false)] {
        let report = NewReport {
            now: at(seconds),
            ..site.report(node, command.command, vec![plain("10.0.0.7", "80")])
        };
        let answer = site.store.record_report(report).await;
        assert_eq!(
            matches!(answer, Err(ReportError::BeingDialed(_))),
            waits,
            "{answer:?}"
        );
        assert_eq!(answer.is_ok(), !waits, "{answer:?}");
    }
}

async fn one_scan_of_an_organization_dials_at_a_time(site: Site) {
    site.release(run(1), &["10.0.0.7"]).await;
    // The same run continues to its next addresses and may renew its lease.
    site.release(run(1), &["10.0.0.7", "10.0.0.8"]).await;
    let busy = site.try_release(site.org, run(2), &["10.0.0.9"], 41).await;
    assert!(
        matches!(busy, Err(ReleaseError::Busy(other)) if other == run(1)),
        "{busy:?}"
    );
    site.give_back(run(1)).await;
    assert_eq!(site.release(run(2), &["10.0.0.9"]).await.0, ["10.0.0.9"]);
    // A crashed run blocks others until its lease expires.
    let later = site
        .try_release(site.org, run(3), &["10.0.0.9"], 85)
        .await
        .expect("released");
    assert_eq!(later.allowed, [ip("10.0.0.9")]);
    assert_eq!(site.number("SELECT count(*) FROM direct_lease").await, 1);
}

async fn devices_found_by_the_server_are_unattributed_and_not_claimable(site: Site) {
    let sighted = site
        .server_finds(
            run(1),
            found([with_mac("10.0.0.7", &mac(1)), plain("10.0.0.8", "80")]),
        )
        .await;
    let rows: Vec<&DeviceRow> = sighted.iter().map(stored).collect();
    assert!(rows.iter().all(|row| row.node.is_none()), "{rows:?}");
    let listed = site.devices().await;
    assert_eq!(listed.iter().collect::<Vec<_>>(), rows);
    // In `auto:` identifiers, the server is node 0.
    let report = plain("10.0.0.8", "80").expect("well-formed");
    assert_eq!(rows[1].identifier, report.identifier(fleet_core::NodeId(0)));
    assert_eq!(site.number("SELECT count(*) FROM node_endpoint").await, 0);

    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    assert_eq!(
        site.reported(node, command.command, vec![with_mac("10.0.0.7", &mac(1))])
            .await,
        (0, 1)
    );
    let why = format!(
        "SELECT count(*) FROM report_refusal WHERE reason = '{}'",
        RejectReason::Unattributed
    );
    assert_eq!(site.number(&why).await, 1);
    let mut unchanged = site.devices().await;
    for device in &mut unchanged {
        device.seen_by.clear();
    }
    assert_eq!(unchanged, listed);
    // A rejected row belongs to no node, so the server may still dial the address.
    assert_eq!(site.release(run(1), &["10.0.0.7"]).await.0, ["10.0.0.7"]);
}

async fn devices_found_again_by_the_server_keep_their_record(site: Site) {
    let first = site
        .server_finds(run(1), found([with_mac("10.0.0.7", &mac(1))]))
        .await;
    let again = RawDeviceReport {
        ip: "10.0.0.9",
        mac: &mac(1),
        model: "",
        firmware: "2",
        ..blank()
    };
    site.release(run(2), &["10.0.0.9"]).await;
    let second = site.sighted(run(2), found([row(again)]), 50).await;
    let (first, second) = (stored(&first[0]), stored(&second[0]));
    assert_eq!((first.id, first.first_seen), (second.id, second.first_seen));
    assert_eq!(
        (second.facts.model.as_str(), second.facts.firmware.as_str()),
        ("S19", "2"),
        "a blank erases nothing"
    );
    assert_eq!(second.last_seen, at(50));
    assert_eq!(
        second.endpoint.map(|at| at.to_string()).as_deref(),
        Some("10.0.0.9:80")
    );
    assert_eq!(site.devices().await, std::slice::from_ref(second));
}

async fn one_default_mac_at_two_addresses_is_two_devices_of_the_server_too(site: Site) {
    let addresses = ["10.0.0.7", "10.0.0.8", "10.0.0.9"];
    for (n, order) in [(1, [0, 1, 2]), (2, [2, 1, 0])] {
        site.release(run(n), &addresses).await;
        let mut seen = BTreeMap::new();
        let mut shared = Vec::new();
        // Each in a batch of its own, as they are found.
        for at_address in order {
            let sightings = NewSightings {
                org: site.org,
                scan: run(n),
                rows: found([with_mac(addresses[at_address], &mac(1))]),
                seen: seen.clone(),
                now: at(41),
            };
            let sighted = site.store.record_direct(sightings).await.expect("recorded");
            let row = stored(&sighted.outcomes[0]);
            seen.insert(row.id, row.endpoint.expect("an endpoint").ip);
            shared.extend(sighted.shared);
        }
        site.give_back(run(n)).await;
        let devices = site.devices().await;
        assert_eq!(devices.len(), 3, "scan {n}: {devices:?}");
        let strong = devices.iter().filter(|row| row.identifier.is_strong());
        let holders: Vec<_> = strong
            .map(|row| row.endpoint.expect("an endpoint").ip.to_string())
            .collect();
        assert_eq!(holders, [addresses[0]], "scan {n}: the first keeps it");
        assert_eq!(shared.len(), 2, "scan {n}: {shared:?}");
    }
}

async fn two_devices_at_one_endpoint_are_never_merged(site: Site) {
    site.server_finds(run(1), found([plain("10.0.0.7", "80")]))
        .await;
    site.server_finds(run(2), found([with_mac("10.0.0.7", &mac(1))]))
        .await;
    let listed = site.devices().await;
    let seen: Vec<_> = listed
        .iter()
        .map(|row| (row.endpoint.is_some(), row.identifier.is_strong()))
        .collect();
    assert_eq!(seen, [(false, false), (true, true)], "{listed:?}");
    assert_eq!(site.number("SELECT count(*) FROM device_alias").await, 0);
}

async fn a_nodes_device_that_the_server_meets_elsewhere_is_left_alone_and_never_met_again(
    site: Site,
) {
    let node = site
        .node_with("north", vec![with_mac("10.0.0.7", &mac(1))])
        .await;
    let before = site.devices().await;
    let sighted = site
        .server_finds(run(1), found([with_mac("10.0.0.9", &mac(1))]))
        .await;
    let of_node = DirectOutcome::OfNode {
        refusal: DirectRefusal::Attributed(node.id),
        node_name: "north".into(),
    };
    assert_eq!(sighted, [of_node]);
    assert_eq!(site.devices().await, before);
    assert_eq!(
        site.release(run(2), &["10.0.0.9"]).await.1,
        ["10.0.0.9 north"]
    );
}

async fn only_released_addresses_are_recorded(site: Site) {
    site.release(run(1), &["10.0.0.7"]).await;
    let both = found([plain("10.0.0.7", "80"), plain("10.0.0.8", "80")]);
    assert_eq!(
        site.sighted(run(2), both.clone(), 41).await,
        [DirectOutcome::NotReleased, DirectOutcome::NotReleased]
    );
    let sighted = site.sighted(run(1), both.clone(), 41).await;
    assert!(
        matches!(
            sighted[..],
            [DirectOutcome::Stored(_), DirectOutcome::NotReleased]
        ),
        "{sighted:?}"
    );
    assert_eq!(
        site.sighted(run(1), both, 85).await,
        [DirectOutcome::NotReleased, DirectOutcome::NotReleased],
        "its time is over"
    );
    assert_eq!(site.devices().await.len(), 1);
}

/// How often each side was first at an address.
#[derive(Default)]
struct Firsts {
    node: AtomicU32,
    server: AtomicU32,
}

/// Pairing and scanning by the server race the reports of nodes. When the server dials an address, no node's report of
/// that address has been committed. None is committed until the server has released the address.
async fn a_report_that_races_the_servers_own_dial_comes_before_or_after_it(site: Site) {
    const ROUNDS: u8 = 40;
    let north = site.node("north").await;
    let command = site.running(north, "10.0.0.0/24").await.command;
    let raw = Arc::new(site.raw().await);
    let firsts = Arc::new(Firsts::default());
    for round in 1..=ROUNDS {
        let address = format!("10.0.0.{round}");
        let start = Arc::new(Barrier::new(3));
        let mut racing = JoinSet::new();
        for dialler in 0..2 {
            let (site, raw, start, firsts) = (
                site.clone(),
                Arc::clone(&raw),
                Arc::clone(&start),
                Arc::clone(&firsts),
            );
            let address = address.clone();
            racing.spawn(async move {
                let scan = run(u64::from(round) * 10 + dialler);
                start.wait().await;
                let released = loop {
                    match site.try_release(site.org, scan, &[&address], 40).await {
                        Ok(released) => break released,
                        Err(ReleaseError::Busy(_)) => tokio::task::yield_now().await,
                        Err(error) => panic!("{error}"),
                    }
                };
                // Simulate a dial that takes as long as several statements.
                for _ in 0..released.allowed.len() * 3 {
                    let sql = format!("SELECT count(*) FROM node_endpoint WHERE ip = '{address}'");
                    let statement = Statement::from_string(raw.get_database_backend(), sql);
                    let counted = raw
                        .query_one_raw(statement)
                        .await
                        .expect("read")
                        .expect("a row");
                    let attributed: i64 = counted.try_get_by_index(0).expect("a number");
                    assert_eq!(
                        attributed, 0,
                        "{address} is dialed after a node's report of it"
                    );
                }
                firsts
                    .server
                    .fetch_add(released.allowed.len() as u32, Ordering::Relaxed);
                site.give_back(scan).await;
            });
        }
        let (site, start, firsts) = (site.clone(), Arc::clone(&start), Arc::clone(&firsts));
        racing.spawn(async move {
            let report = site.report(north, command, vec![plain(&address, "80")]);
            let report = NewReport {
                now: at(41),
                ..report
            };
            start.wait().await;
            let mut waited = false;
            loop {
                match site.store.record_report(report.clone()).await {
                    Ok(answer) => break assert_eq!((answer.accepted, answer.rejected), (1, 0)),
                    Err(ReportError::BeingDialed(_)) => waited = true,
                    Err(error) => panic!("{error}"),
                }
                tokio::task::yield_now().await;
            }
            firsts.node.fetch_add(u32::from(!waited), Ordering::Relaxed);
        });
        while let Some(ended) = racing.join_next().await {
            ended.expect("no assertion failed");
        }
    }
    let asked: Vec<String> = (1..=ROUNDS).map(|n| format!("10.0.0.{n}")).collect();
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    let (allowed, excluded) = site.release(run(1_000), &asked).await;
    assert_eq!((allowed.len(), excluded.len()), (0, usize::from(ROUNDS)));
    let (node, server) = (
        firsts.node.load(Ordering::Relaxed),
        firsts.server.load(Ordering::Relaxed),
    );
    assert!(node + server >= u32::from(ROUNDS), "{node} + {server}");
}

/// The address cannot decide here: node and server find one device at two endpoints.
async fn one_device_found_by_node_and_server_at_once_has_one_record(site: Site) {
    let north = site.node("north").await;
    let command = site.running(north, "10.0.0.0/24").await.command;
    for round in 1..=20 {
        let device = mac(round);
        let (here, there) = (format!("10.0.0.{round}"), format!("10.0.0.{}", 100 + round));
        site.release(run(round as u64), &[&there]).await;
        let start = Barrier::new(2);
        let by_node = async {
            start.wait().await;
            site.reported(north, command, vec![with_mac(&here, &device)])
                .await
        };
        let by_server = async {
            start.wait().await;
            site.sighted(run(round as u64), found([with_mac(&there, &device)]), 41)
                .await
        };
        let (reported, sighted) = tokio::join!(by_node, by_server);
        site.give_back(run(round as u64)).await;
        let node_won = reported == (1, 0);
        assert_eq!(
            matches!(sighted[..], [DirectOutcome::OfNode { .. }]),
            node_won,
            "{reported:?} {sighted:?}"
        );
        assert_eq!(
            matches!(sighted[..], [DirectOutcome::Stored(_)]),
            !node_won,
            "{reported:?} {sighted:?}"
        );
        assert_eq!(site.devices().await.len(), round);
    }
}

/// A scan that a server begins, in which it stores devices. The server is killed then.
async fn stopped_scan(site: &Site, number: u64, rows: Vec<crate::site::Row>) -> ScanId {
    let scan = run(number);
    let begun = DirectRun {
        org: site.org,
        scan,
        replica: ReplicaId([number as u8; 16]),
        started: at(41),
    };
    site.store.begin_direct(begun).await.expect("begun");
    assert!(
        site.store
            .direct_runs()
            .await
            .expect("read")
            .contains(&begun)
    );
    site.server_finds(scan, found(rows)).await;
    scan
}

async fn alerting(site: &Site) {
    let channel = site.channel("hook").await;
    for event in ["device.new", "device.firmware", "scan.failed"] {
        site.rule(event, 0, "", channel).await;
    }
}

async fn titles(site: &Site) -> Vec<String> {
    let mut titles: Vec<String> = site
        .messages()
        .await
        .into_iter()
        .map(|row| row.message.title)
        .collect();
    titles.sort();
    titles
}

async fn the_alerts_of_a_scan_whose_server_stopped_are_stored_once(site: Site) {
    alerting(&site).await;
    let new = "2 new devices at the server's own network";
    let failed = "A scan of the server's own network failed";
    let rows = || vec![with_mac("10.0.0.7", &mac(1)), with_mac("10.0.0.8", &mac(2))];
    let scan = stopped_scan(&site, 1, rows()).await;
    assert_eq!(titles(&site).await, [""; 0], "its end was never stored");
    // All servers find it at once.
    let mut tries = Vec::new();
    for _ in 0..8 {
        let store = site.another().await;
        tries.push(async move { store.end_stopped_direct(scan, at(90)).await });
    }
    let ends = crate::races::at_once(tries).await;
    let ends: Vec<u64> = ends
        .into_iter()
        .filter_map(|end| end.expect("ended"))
        .collect();
    assert_eq!(ends, [2], "one message for each rule with a fact");
    assert_eq!(titles(&site).await, [new, failed]);
    assert_eq!(site.store.direct_runs().await.expect("read"), []);

    // Another scan that stops finds the same devices: only its failure is new.
    let scan = stopped_scan(&site, 2, rows()).await;
    let ended = site.store.end_stopped_direct(scan, at(95)).await;
    assert_eq!(ended.expect("ended"), Some(1));
    assert_eq!(titles(&site).await, [new, failed, failed]);
}

async fn a_scan_that_ended_is_not_ended_again(site: Site) {
    alerting(&site).await;
    let scan = stopped_scan(&site, 1, vec![with_mac("10.0.0.7", &mac(1))]).await;
    // Its server was slow and not dead.
    let end = DirectEnd {
        org: site.org,
        scan,
        started: at(41),
        failure: None,
        seen: Vec::new(),
        outcomes: BTreeMap::new(),
        ports: Vec::new(),
        now: at(50),
    };
    assert_eq!(site.store.end_direct(end.clone()).await.expect("ended"), 0);
    let ended = site.store.end_stopped_direct(scan, at(90)).await;
    assert_eq!(ended.expect("read"), None);
    assert_eq!(titles(&site).await, [""; 0]);
    // The other way around, the end of the server that was slow changes nothing either.
    let scan = stopped_scan(&site, 2, vec![with_mac("10.0.0.7", &mac(1))]).await;
    let ended = site.store.end_stopped_direct(scan, at(90)).await;
    assert_eq!(ended.expect("ended"), Some(2));
    let late = DirectEnd { scan, ..end };
    assert_eq!(site.store.end_direct(late).await.expect("ended"), 0);
}
