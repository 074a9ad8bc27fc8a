//! Claims of control streams: epochs that only grow, and what becomes of commands in flight.

use fleet_core::{Epoch, NodeId, ScanState, outcome::AckCode};
use fleet_discovery::ScanEvent;
use fleet_store::*;

use crate::site::{Site, at, command_id, plain};

contract! {
    an_epoch_only_grows_and_one_is_current
    a_stale_release_changes_nothing
    only_a_confirmed_node_can_claim
    what_the_node_announced_is_remembered
    commands_that_still_run_are_adopted
    a_forgotten_command_is_issued_again_under_a_new_id
    a_chunk_lost_three_times_is_not_reached
    an_older_stream_has_no_effect
    a_cancelled_command_is_adopted_as_cancelled
}

async fn an_epoch_only_grows_and_one_is_current(site: Site) {
    let mut node = site.node("north").await;
    let mut last = node.epoch;
    for n in 0..5 {
        if n % 2 == 0 {
            site.store
                .release_stream(node.id, node.epoch, at(4))
                .await
                .expect("released");
        }
        site.reconnect(&mut node, &[], at(4 + n)).await;
        assert!(node.epoch > last);
        assert!(
            site.store
                .is_current(node.id, node.epoch)
                .await
                .expect("read")
        );
        assert!(!site.store.is_current(node.id, last).await.expect("read"));
        last = node.epoch;
    }
    assert!(
        !site
            .store
            .is_current(node.id, Epoch(last.0 + 1))
            .await
            .expect("read")
    );
    assert!(
        !site
            .store
            .is_current(NodeId(9_999), Epoch(1))
            .await
            .expect("read")
    );
}

async fn a_stale_release_changes_nothing(site: Site) {
    let mut node = site.node("north").await;
    let old = node.epoch;
    site.reconnect(&mut node, &[], at(5)).await;
    site.store
        .release_stream(node.id, old, at(6))
        .await
        .expect("ignored");
    assert!(
        site.store
            .is_current(node.id, node.epoch)
            .await
            .expect("read")
    );
    assert!(
        site.store
            .node(site.org, node.id)
            .await
            .expect("read")
            .expect("there")
            .connected
    );
    site.store
        .release_stream(node.id, node.epoch, at(7))
        .await
        .expect("released");
    assert!(
        !site
            .store
            .is_current(node.id, node.epoch)
            .await
            .expect("read")
    );
    assert!(
        !site
            .store
            .node(site.org, node.id)
            .await
            .expect("read")
            .expect("there")
            .connected
    );
}

async fn only_a_confirmed_node_can_claim(site: Site) {
    let waiting = site.pending("north").await.node;
    for node in [waiting, NodeId(9_999)] {
        let refused = site.store.claim_stream(Site::claim(node, &[], at(3))).await;
        assert!(matches!(refused, Err(ClaimError::NotFound(id)) if id == node));
    }
}

async fn what_the_node_announced_is_remembered(site: Site) {
    let node = site.confirmed("north").await;
    let hello = Hello {
        version: "1.2.3".into(),
        capabilities: vec!["big-commands".into(), "cancel".into()],
        default_ports: vec!["4028".into()],
        local_subnets: vec!["10.0.0.0/24".into()],
        max_targets: 4_096,
        max_ports: 32,
    };
    let claim = StreamClaim {
        hello: hello.clone(),
        ..Site::claim(node, &[], at(9))
    };
    site.store.claim_stream(claim).await.expect("claimed");
    let row = site
        .store
        .node(site.org, node)
        .await
        .expect("read")
        .expect("there");
    assert_eq!(
        (row.hello.as_ref(), row.last_seen_at, row.connected),
        (Some(&hello), Some(at(9)), true)
    );
    let profile = row.hello.expect("there").profile();
    assert_eq!(
        (profile.max_targets, profile.max_ports, profile.cancel),
        (4_096, 32, true)
    );
}

async fn commands_that_still_run_are_adopted(site: Site) {
    let mut node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    let claimed = site
        .reconnect(&mut node, &[command_id(), command.command], at(25))
        .await;
    assert_eq!(
        claimed.adopted,
        [AdoptedCommand {
            command: command.command,
            lane: command.lane,
            deadline: command.deadline,
            cancelled: false
        }]
    );
    assert_eq!(claimed.ended, []);
    assert_eq!(site.issue(node).await, None, "its lane is taken");
    assert_eq!(
        site.reported(node, command.command, vec![plain("10.0.0.7", "80")])
            .await,
        (1, 0)
    );
    let acked = site.acked(node, command.command, AckCode::Ok).await;
    assert_eq!(
        acked,
        Acked::Chunk {
            scan: command.scan,
            ended: true
        }
    );
}

async fn a_forgotten_command_is_issued_again_under_a_new_id(site: Site) {
    let mut node = site.node("north").await;
    let first = site.running(node, "10.0.0.0/24").await;
    site.reported(
        node,
        first.command,
        vec![plain("10.0.0.7", "80"), plain("10.0.0.8", "80")],
    )
    .await;
    let claimed = site.reconnect(&mut node, &[], at(25)).await;
    assert_eq!((claimed.adopted, claimed.ended), (vec![], vec![]));
    let late = site
        .store
        .record_report(site.report(node, first.command, vec![plain("10.0.0.9", "80")]))
        .await;
    assert!(matches!(late, Err(ReportError::NotInFlight(_))));

    let second = site.issue(node).await.expect("issued again");
    assert_ne!(second.command, first.command);
    assert_eq!(
        (second.scan, &second.request, &second.ports),
        (first.scan, &first.request, &first.ports)
    );
    // It meets the devices that are stored already, and a new one.
    let rows = vec![
        plain("10.0.0.7", "80"),
        plain("10.0.0.8", "80"),
        plain("10.0.0.9", "80"),
    ];
    assert_eq!(site.reported(node, second.command, rows).await, (3, 0));
    site.acked(node, second.command, AckCode::Ok).await;
    assert_eq!(
        site.told(first.scan).await.len(),
        3,
        "nothing is told twice"
    );
    let ledger = site.look(first.scan).await.ledger.expect("ended");
    assert_eq!(
        (ledger.identified, ledger.accepted, ledger.reported),
        (3, 3, 3),
        "counts are not doubled"
    );
    assert_eq!(site.devices().await.len(), 3);
}

async fn a_chunk_lost_three_times_is_not_reached(site: Site) {
    let mut node = site.node("north").await;
    let scan = site.scan(node, "10.0.0.0/21").await;
    let first = site.issue(node).await.expect("the first chunk");
    assert_eq!(
        site.acked(node, first.command, AckCode::Ok).await,
        Acked::Chunk { scan, ended: false }
    );
    for attempt in 1..=3 {
        site.issue(node).await.expect("the second chunk");
        let claimed = site.reconnect(&mut node, &[], at(25)).await;
        assert_eq!(
            claimed.ended,
            if attempt == 3 { vec![scan] } else { vec![] }
        );
    }
    assert_eq!(site.issue(node).await, None);
    let row = site.look(scan).await;
    assert_eq!(row.state, ScanState::Partial);
    let reason = row.conclusion.expect("ended").reason;
    assert!(
        reason.contains("chunk 2") && reason.contains("not reached"),
        "{reason}"
    );
    let ledger = row.ledger.expect("ended");
    assert!(ledger.adds_up());
    assert_eq!((ledger.unknown, ledger.not_reached), (1_023, 1_023));
    site.log(scan).await;
}

async fn an_older_stream_has_no_effect(site: Site) {
    let mut node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    let old = node;
    site.reconnect(&mut node, &[command.command], at(25)).await;
    assert_eq!(
        site.acked(old, command.command, AckCode::Ok).await,
        Acked::Stale
    );
    let progress = site
        .store
        .record_progress(old.id, old.epoch, command.command, 10, "x")
        .await;
    assert_eq!(progress.expect("ignored"), None);
    assert_eq!(
        site.store
            .issue_command(old.id, old.epoch, command_id(), at(26))
            .await
            .expect("ignored"),
        None
    );
    assert_eq!(site.look(command.scan).await.state, ScanState::Running);
    // What came in before a stream ended counts, as long as no newer one was claimed.
    site.store
        .release_stream(node.id, node.epoch, at(27))
        .await
        .expect("released");
    assert_eq!(
        site.acked(node, command.command, AckCode::Ok).await,
        Acked::Chunk {
            scan: command.scan,
            ended: true
        }
    );
}

async fn a_cancelled_command_is_adopted_as_cancelled(site: Site) {
    let mut node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    let grace = Some(std::time::Duration::from_secs(10));
    site.store
        .cancel_scan(site.org, command.scan, grace, site.actor(), at(21))
        .await
        .expect("cancelled");
    let claimed = site.reconnect(&mut node, &[command.command], at(22)).await;
    assert!(claimed.adopted[0].cancelled);
    let claimed = site.reconnect(&mut node, &[], at(23)).await;
    assert_eq!(
        claimed.ended,
        [command.scan],
        "forgotten, so it has stopped"
    );
    assert!(
        matches!(site.log(command.scan).await.last(), Some(ScanEvent::Ended(ended)) if ended.conclusion.state == ScanState::Cancelled)
    );
}
