//! The end of whole scans: which are removed, in which parts, what stays, and that one server removes at a time.

use fleet_core::{HostReport, OrgId, RawHostReport, ScanId, outcome::AckCode};
use fleet_store::*;
use sea_orm::{ConnectionTrait, TransactionTrait};

use crate::{
    shares::ready,
    site::{Node, Site, at, plain},
};

contract! {
    an_old_scan_is_hidden_at_once_and_deleted_in_parts
    the_last_result_of_the_same_targets_stays
    a_scan_that_has_not_ended_stays
    one_server_at_a_time_removes_scans
}

/// Every table with rows of scans, with the column of the scan.
const TABLES: [&str; 10] = [
    "scan WHERE id",
    "scan_request WHERE scan_id",
    "scan_share WHERE scan_id",
    "chunk WHERE scan_id",
    "command WHERE scan_id",
    "report_row WHERE scan_id",
    "report_refusal WHERE scan_id",
    "scan_event WHERE scan_id",
    "scan_host WHERE scan_id",
    "alert_scan WHERE scan_id",
];

impl Site {
    /// A scan of 14 addresses with four devices and two unidentified hosts, which ended at 60 s.
    async fn old(&self, node: Node, net: u8) -> ScanId {
        let command = self.running(node, &format!("10.0.{net}.0/28")).await;
        let rows = (1..=4).map(|host| plain(&format!("10.0.{net}.{host}"), "80"));
        let host = |host: u8| {
            let ip = format!("10.0.{net}.{host}");
            let raw = RawHostReport {
                ip: &ip,
                open_ports: &[80],
                ..RawHostReport::default()
            };
            HostReport::parse(raw).map_err(|reason| (reason, ip.clone()))
        };
        let report = NewReport {
            hosts: vec![host(8), host(9)],
            ..self.report(node, command.command, rows.collect())
        };
        self.store.record_report(report).await.expect("recorded");
        self.acked(node, command.command, AckCode::Ok).await;
        command.scan
    }

    async fn remove(&self, ended_before: u64, keeps_last: bool, limit: u32) -> RemovedScans {
        let policy = ScanRetention {
            ended_before: at(ended_before),
            keeps_last,
        };
        let removed = self.store.remove_old_scans(policy, limit, at(1_000));
        removed.await.expect("removed")
    }

    /// Removes until nothing is left to remove. Returns the number of calls.
    async fn remove_all(&self, keeps_last: bool, limit: u32) -> usize {
        for calls in 1..1_000 {
            if self.remove(500, keeps_last, limit).await.rows < u64::from(limit) {
                return calls;
            }
        }
        panic!("it never ends");
    }

    /// The rows of a scan in each table.
    async fn rows_of(&self, scan: ScanId) -> Vec<i64> {
        let mut rows = Vec::new();
        for table in TABLES {
            let sql = format!("SELECT count(*) FROM {table} = '{scan}'");
            rows.push(self.number(&sql).await);
        }
        rows
    }

    async fn listed(&self) -> Vec<ScanId> {
        let listed = self.store.list_scans(self.org, None, None, 100, at(1_000));
        let rows = listed.await.expect("read");
        rows.into_iter().map(|row| row.id).collect()
    }

    async fn is_removed(&self, org: OrgId, scan: ScanId) -> bool {
        let removed = self.store.removed_scan(org, scan).await;
        removed.expect("read").is_some()
    }
}

async fn an_old_scan_is_hidden_at_once_and_deleted_in_parts(site: Site) {
    let node = site.node("north").await;
    let old = site.old(node, 1).await;
    let newer = site.old(node, 1).await;
    let rows = site.rows_of(old).await;
    assert!(rows[..6].iter().all(|rows| *rows > 0), "{rows:?}");
    assert_eq!((rows[5], rows[8]), (4, 2));
    let devices = site.devices().await;

    assert_eq!(site.remove(60, true, 100).await, RemovedScans::default());
    let first = site.remove(500, true, 1).await;
    assert_eq!(first.scans, 1);
    assert!(site.rows_of(old).await[0] == 1, "its rows end in parts");
    assert_eq!(site.listed().await, [newer]);
    let gone = site.store.scan(site.org, old, at(1_000)).await;
    assert_eq!(gone.expect("read"), None);
    let events = site
        .store
        .read_events(site.org, old, 0, 10, at(1_000))
        .await;
    assert_eq!(events.expect("read"), None);
    assert!(site.is_removed(site.org, old).await);
    let store = &site.store;
    let found = store.scan_difference(site.org, newer, Against::Previous, at(1_000));
    assert_eq!(found.await.expect("compared").against, None);
    let chosen = store.scan_difference(site.org, newer, Against::Scan(old), at(1_000));
    let refused = chosen.await.expect_err("it is hidden");
    assert!(matches!(refused, DifferenceError::NotFound(id) if id == old));

    assert!(site.remove_all(true, 1).await > 3, "in parts");
    assert_eq!(site.rows_of(old).await, [0; 10]);
    assert_eq!(site.rows_of(newer).await[5], 4);
    assert_eq!(site.devices().await, devices);
    let audited = site.audited().await.into_iter();
    let removals: Vec<String> = audited
        .filter(|row| row.entry.action == "scan.remove")
        .map(|row| row.entry.subject)
        .collect();
    assert_eq!(
        removals,
        [format!("scan {old} with its results, by retention")]
    );
    // Only its own organization learns that it existed.
    let other = site.other_org().await;
    assert!(site.is_removed(site.org, old).await && !site.is_removed(other, old).await);
}

async fn the_last_result_of_the_same_targets_stays(site: Site) {
    let north = site.node("north").await;
    let south = site.node("south").await;
    let first = site.old(north, 1).await;
    let other_targets = site.old(north, 2).await;
    let other_site = site.old(south, 1).await;
    let canceled = site.scan(north, "10.0.1.0/28").await;
    let grace = Grace {
        time: std::time::Duration::ZERO,
        nodes: Vec::new(),
    };
    let cancel = site
        .store
        .cancel_scan(site.org, canceled, grace, site.actor(), at(70));
    cancel.await.expect("canceled");
    // A scan over both sites is compared with one of either, but a later scan of one site is not compared with it.
    let nodes = [(north, "10.0.1.0/28"), (south, "10.0.2.0/28")];
    let both = site
        .create(ready(&site, &nodes, "10.0.1.0/28 10.0.2.0/28"))
        .await
        .id;
    for node in [north, south] {
        let command = site.issue(node).await.expect("a chunk").command;
        site.acked(node, command, AckCode::Ok).await;
    }
    site.remove_all(true, 100).await;
    assert_eq!(
        site.listed().await,
        [both, other_site, other_targets, first]
    );

    let second = site.old(north, 1).await;
    site.remove_all(true, 100).await;
    assert_eq!(
        site.listed().await,
        [second, both, other_site, other_targets]
    );
    site.remove_all(false, 100).await;
    assert_eq!(site.listed().await, []);
}

async fn a_scan_that_has_not_ended_stays(site: Site) {
    let node = site.node("north").await;
    let running = site.running(node, "10.0.0.0/28").await.scan;
    let queued = site.scan(node, "10.0.1.0/28").await;
    assert_eq!(
        site.remove(100_000, false, 100).await,
        RemovedScans::default()
    );
    assert_eq!(site.listed().await, [queued, running]);
}

async fn one_server_at_a_time_removes_scans(site: Site) {
    let node = site.node("north").await;
    let scan = site.old(node, 1).await;
    let raw = site.raw().await;
    if raw.get_database_backend() == sea_orm::DbBackend::Sqlite {
        // Its file is open at one server only.
        return;
    }
    let busy = raw.begin().await.expect("a transaction");
    let lock = "SELECT id FROM sweep WHERE id = 2 FOR UPDATE";
    busy.execute_unprepared(lock).await.expect("locked");
    assert_eq!(site.remove(500, false, 100).await, RemovedScans::default());
    assert_eq!(site.listed().await, [scan]);
    busy.rollback().await.expect("ended");
    assert_eq!(site.remove(500, false, 100).await.scans, 1);
}
