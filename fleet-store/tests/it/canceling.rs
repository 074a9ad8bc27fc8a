//! Canceling: immediate cancellation, the grace period for connected nodes, and concurrent operations.

use std::time::Duration;

use fleet_core::{
    ScanId, ScanState,
    outcome::{AckCode, Code},
};
use fleet_discovery::LogEvent;
use fleet_store::*;

use crate::site::{Site, at, plain};

contract! {
    a_waiting_scan_ends_at_once
    a_command_gets_its_grace_and_its_ack_ends_the_scan
    the_sweep_ends_a_scan_past_its_grace
    a_upstream_node_keeps_its_slot_and_its_reports_are_kept
    canceling_again_changes_nothing
    a_busy_answer_to_a_canceled_command_ends_it
    another_tenants_scan_is_not_found
}

const GRACE: Option<Duration> = Some(Duration::from_secs(5));

/// The time to stop, for all nodes of a scan or for none.
async fn for_all(site: &Site, scan: ScanId, grace: Option<Duration>) -> Grace {
    let shares = site.look(scan).await.shares;
    grace.map_or(Grace::NONE, |time| Grace {
        time,
        nodes: shares.iter().map(|share| share.node).collect(),
    })
}

async fn cancel(site: &Site, scan: ScanId, grace: Option<Duration>) -> Canceled {
    let grace = for_all(site, scan, grace).await;
    site.store
        .cancel_scan(site.org, scan, grace, site.actor(), at(40))
        .await
        .expect("canceled")
}

async fn a_waiting_scan_ends_at_once(site: Site) {
    let node = site.node("north").await;
    for grace in [None, GRACE] {
        let scan = site.scan(node, "10.0.0.0/24").await;
        let canceled = cancel(&site, scan, grace).await;
        assert_eq!(
            (canceled.scan.state, canceled.in_flight),
            (ScanState::Canceled, vec![])
        );
        assert_eq!(
            canceled.scan.conclusion.map(|ended| ended.code),
            Some(Code::Canceled)
        );
        site.log(scan).await;
    }
    assert_eq!(site.issue(node).await, None);
    assert_eq!(
        site.audited()
            .await
            .iter()
            .filter(|row| row.entry.action == "scan.cancel")
            .count(),
        2
    );
}

async fn a_command_gets_its_grace_and_its_ack_ends_the_scan(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/20").await;
    let canceled = cancel(&site, command.scan, GRACE).await;
    assert_eq!(
        (canceled.scan.state, canceled.in_flight),
        (ScanState::Running, vec![command.command])
    );
    assert_eq!(site.issue(node).await, None);
    assert_eq!(
        site.reported(node, command.command, vec![plain("10.0.0.7", "80")])
            .await,
        (1, 0),
        "what was found is kept"
    );
    let acked = site.acked(node, command.command, AckCode::Partial).await;
    assert_eq!(
        acked,
        Acked::Chunk {
            scan: command.scan,
            ended: true
        }
    );
    let row = site.look(command.scan).await;
    assert_eq!(row.state, ScanState::Canceled);
    assert_eq!(
        row.ledger
            .map(|ledger| (ledger.adds_up(), ledger.identified)),
        Some((true, 1))
    );
    site.log(command.scan).await;
}

async fn the_sweep_ends_a_scan_past_its_grace(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/20").await;
    cancel(&site, command.scan, GRACE).await;
    assert_eq!(
        site.store.sweep_commands(at(44)).await.expect("swept"),
        Expired::default()
    );
    let swept = site.store.sweep_commands(at(45)).await.expect("swept");
    assert_eq!(
        swept,
        Expired {
            commands: vec![(node.id, command.command)],
            scans: vec![command.scan],
            pairings: Vec::new(),
        }
    );
    assert_eq!(site.look(command.scan).await.state, ScanState::Canceled);
    let late = site
        .store
        .record_report(site.report(node, command.command, vec![plain("10.0.0.7", "80")]))
        .await;
    assert!(matches!(late, Err(ReportError::NotInFlight(_))));
    assert_eq!(
        site.acked(node, command.command, AckCode::Ok).await,
        Acked::Stale
    );
    let next = site.scan(node, "10.0.0.0/24").await;
    assert_eq!(
        site.issue(node).await.map(|command| command.scan),
        Some(next),
        "the slot is free"
    );
}

async fn a_upstream_node_keeps_its_slot_and_its_reports_are_kept(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    site.reported(node, command.command, vec![plain("10.0.0.7", "80")])
        .await;
    let canceled = cancel(&site, command.scan, None).await;
    assert_eq!(
        (canceled.scan.state, canceled.in_flight),
        (ScanState::Canceled, vec![])
    );
    let next = site.scan(node, "10.0.0.0/24").await;
    assert_eq!(site.issue(node).await, None, "its slot is taken");
    assert_eq!(
        site.reported(node, command.command, vec![plain("10.0.0.8", "80")])
            .await,
        (1, 0)
    );
    let log = site.log(command.scan).await;
    assert!(
        matches!(
            log.as_slice(),
            [LogEvent::Device(_), LogEvent::Ended(_), LogEvent::Device(_)]
        ),
        "{log:?}"
    );
    let acked = site.acked(node, command.command, AckCode::Ok).await;
    assert_eq!(
        acked,
        Acked::Chunk {
            scan: command.scan,
            ended: false
        }
    );
    assert_eq!(
        site.look(command.scan).await.ledger,
        canceled.scan.ledger,
        "the ledger stays"
    );
    assert_eq!(
        site.issue(node).await.map(|command| command.scan),
        Some(next)
    );
}

async fn canceling_again_changes_nothing(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    cancel(&site, command.scan, GRACE).await;
    let grace = for_all(&site, command.scan, GRACE).await;
    let later = site
        .store
        .cancel_scan(site.org, command.scan, grace, site.actor(), at(44))
        .await
        .expect("canceled");
    assert_eq!(later.in_flight, [command.command], "to be sent again");
    assert_eq!(
        site.expired_scans(at(45)).await,
        [command.scan],
        "the grace is the first one"
    );
    let ended = cancel(&site, command.scan, GRACE).await;
    assert_eq!(
        (ended.scan.state, ended.in_flight),
        (ScanState::Canceled, vec![])
    );
    site.log(command.scan).await;
    let done = site.running(node, "10.0.0.0/24").await;
    site.acked(node, done.command, AckCode::Ok).await;
    assert_eq!(
        cancel(&site, done.scan, None).await.scan.state,
        ScanState::Completed
    );
    // A second cancel does not wait for the node.
    let slow = site.running(node, "10.0.0.0/24").await;
    cancel(&site, slow.scan, GRACE).await;
    assert_eq!(
        cancel(&site, slow.scan, None).await.scan.state,
        ScanState::Canceled
    );
}

async fn a_busy_answer_to_a_canceled_command_ends_it(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    cancel(&site, command.scan, GRACE).await;
    let acked = site.acked(node, command.command, AckCode::Busy).await;
    assert_eq!(
        acked,
        Acked::Chunk {
            scan: command.scan,
            ended: true
        }
    );
    let withdrawn = site.running(node, "10.0.0.0/24").await;
    cancel(&site, withdrawn.scan, GRACE).await;
    site.store
        .withdraw_command(node.id, withdrawn.command, at(41))
        .await
        .expect("withdrawn");
    for scan in [command.scan, withdrawn.scan] {
        assert_eq!(site.look(scan).await.state, ScanState::Canceled);
        site.log(scan).await;
    }
}

async fn another_tenants_scan_is_not_found(site: Site) {
    let node = site.node("north").await;
    let scan = site.scan(node, "10.0.0.0/24").await;
    let other = site.other_org().await;
    let refused = site
        .store
        .cancel_scan(other, scan, Grace::NONE, site.actor(), at(40))
        .await;
    assert!(matches!(refused, Err(CancelScanError::NotFound(id)) if id == scan));
    assert_eq!(site.look(scan).await.state, ScanState::Queued);
}
