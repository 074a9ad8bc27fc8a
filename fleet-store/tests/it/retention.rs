//! The end of old events: which are deleted, in which parts, and what readers see.

use fleet_core::{ScanId, outcome::AckCode};
use fleet_store::*;

use crate::site::{Site, at, plain};

contract! {
    events_of_old_scans_are_deleted_in_parts_and_their_scans_stay
    events_of_running_scans_are_kept
}

impl Site {
    async fn delete_old(&self, ended_before: u64, limit: u32) -> u64 {
        let deleted = self
            .store
            .delete_old_events(at(ended_before), limit, at(1_000));
        deleted.await.expect("deleted")
    }

    /// The sequences after a cursor, and whether earlier ones are missing.
    async fn sequences(&self, scan: ScanId, after: i64) -> (Vec<i64>, bool) {
        let page = self
            .store
            .read_events(self.org, scan, after, 1_000, at(1_000))
            .await
            .expect("read")
            .expect("there");
        let sequences = page.events.iter().map(|event| event.sequence).collect();
        (sequences, page.is_deleted)
    }
}

async fn events_of_old_scans_are_deleted_in_parts_and_their_scans_stay(site: Site) {
    let node = site.node("north").await;
    let mut scans = Vec::new();
    for octet in 1..=2 {
        let command = site.running(node, &format!("10.0.{octet}.0/28")).await;
        let rows = (1..=4).map(|host| plain(&format!("10.0.{octet}.{host}"), "80"));
        site.reported(node, command.command, rows.collect()).await;
        site.acked(node, command.command, AckCode::Ok).await;
        scans.push(command.scan);
    }
    let (log, is_deleted) = site.sequences(scans[0], 0).await;
    assert_eq!((log.as_slice(), is_deleted), (&[1, 2, 3, 4, 5][..], false));
    let ended = site.look(scans[0]).await;
    let audited = site.audited().await.len();

    assert_eq!(site.delete_old(1, 100).await, 0, "none ended before");
    assert_eq!(site.delete_old(500, 3).await, 3);
    assert_eq!(site.sequences(scans[0], 0).await, (vec![4, 5], true));
    assert_eq!(site.sequences(scans[0], 3).await, (vec![4, 5], false));
    assert_eq!(site.delete_old(500, 4).await, 4, "two of each");
    assert_eq!(site.sequences(scans[0], 0).await, (vec![], true));
    assert_eq!(site.sequences(scans[0], 5).await, (vec![], false));
    assert_eq!(site.sequences(scans[1], 0).await, (vec![3, 4, 5], true));
    assert_eq!(site.delete_old(500, 100).await, 3);
    assert_eq!(site.delete_old(500, 100).await, 0);

    let after = site.look(scans[0]).await;
    assert_eq!(after.last_sequence, ended.last_sequence);
    assert_eq!(after.ledger, ended.ledger);
    assert_eq!(site.audited().await.len(), audited, "the audit trail stays");
}

async fn events_of_running_scans_are_kept(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/28").await;
    site.reported(node, command.command, vec![plain("10.0.0.7", "80")])
        .await;
    assert_eq!(site.delete_old(100_000, 100).await, 0);
    assert_eq!(site.sequences(command.scan, 0).await, (vec![1], false));
}
