//! Claims of control streams: increasing epochs, and the effect on commands in flight.

use std::time::Duration;

use fleet_core::{Epoch, InstanceId, NodeId, ReplicaId, ScanState, outcome::AckCode};
use fleet_discovery::LogEvent;
use fleet_store::*;

use crate::site::{Site, at, command_id, plain};

contract! {
    an_epoch_only_grows_and_one_is_current
    a_stale_release_changes_nothing
    only_a_confirmed_node_can_claim
    announced_node_properties_are_stored
    commands_that_still_run_are_adopted
    a_forgotten_command_is_issued_again_under_a_new_id
    a_chunk_lost_three_times_is_not_reached
    an_older_stream_has_no_effect
    a_canceled_command_is_adopted_as_canceled
    two_machines_with_one_identity_are_found_out_over_all_servers
    a_refused_machine_is_forgotten_ten_minutes_after_the_last_refusal
    claims_of_other_servers_are_listed
}

async fn an_epoch_only_grows_and_one_is_current(site: Site) {
    let mut node = site.node("north").await;
    let mut last = node.epoch;
    for n in 0..5 {
        if n % 2 == 0 {
            site.store
                .release_stream(node.id, node.epoch, "ended".to_owned(), at(4))
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
        .release_stream(node.id, old, "ended".to_owned(), at(6))
        .await
        .expect("ignored");
    assert!(
        site.store
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
            .stream_ended()
    );
    site.store
        .release_stream(node.id, node.epoch, "ended".to_owned(), at(7))
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
        site.store
            .node(site.org, node.id)
            .await
            .expect("read")
            .expect("there")
            .stream_ended()
    );
}

async fn only_a_confirmed_node_can_claim(site: Site) {
    let waiting = site.pending("north").await.node;
    for node in [waiting, NodeId(9_999)] {
        let refused = site.store.claim_stream(Site::claim(node, &[], at(3))).await;
        assert!(matches!(refused, Err(ClaimError::NotFound(id)) if id == node));
    }
}

async fn announced_node_properties_are_stored(site: Site) {
    let node = site.confirmed("north").await;
    let hello = Hello {
        version: "1.2.3".into(),
        capabilities: vec!["big-commands".into(), "cancel".into()],
        default_ports: vec!["4028".into()],
        local_subnets: vec!["10.0.0.0/24".into()],
        max_targets: 4_096,
        max_ports: 32,
        rate: 900,
        arp: true,
        denied_ports: vec!["22".into()],
        allowed_networks: vec!["10.0.0.0/16".into()],
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
        (row.hello.as_ref(), row.last_seen_at, !row.stream_ended()),
        (Some(&hello), Some(at(9)), true)
    );
    let profile = row.hello.expect("there").profile();
    assert_eq!(
        (profile.max_targets, profile.max_ports, profile.cancel),
        (4_096, 32, true)
    );
    assert_eq!((profile.rate, profile.arp), (900, true));
    assert_eq!(
        (profile.denied_ports.len(), profile.allowed_networks.len()),
        (1, 1)
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
            priority: command.priority,
            deadline: command.deadline,
            canceled: false
        }]
    );
    assert_eq!(claimed.ended, []);
    assert_eq!(site.issue(node).await, None, "its slot is taken");
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
    // The report contains devices that are already stored, and a new one.
    let rows = vec![
        plain("10.0.0.7", "80"),
        plain("10.0.0.8", "80"),
        plain("10.0.0.9", "80"),
    ];
    assert_eq!(site.reported(node, second.command, rows).await, (3, 0));
    site.acked(node, second.command, AckCode::Ok).await;
    assert_eq!(
        site.stored_events(first.scan).await.len(),
        3,
        "no event is stored twice"
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
    // Messages received before a stream ended count unless a newer stream was claimed.
    site.store
        .release_stream(node.id, node.epoch, "ended".to_owned(), at(27))
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

async fn a_canceled_command_is_adopted_as_canceled(site: Site) {
    let mut node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    let grace = Grace {
        time: std::time::Duration::from_secs(10),
        nodes: vec![node.id],
    };
    site.store
        .cancel_scan(site.org, command.scan, grace, site.actor(), at(21))
        .await
        .expect("canceled");
    let claimed = site.reconnect(&mut node, &[command.command], at(22)).await;
    assert!(claimed.adopted[0].canceled);
    let claimed = site.reconnect(&mut node, &[], at(23)).await;
    assert_eq!(
        claimed.ended,
        [command.scan],
        "forgotten, so it has stopped"
    );
    assert!(
        matches!(site.log(command.scan).await.last(), Some(LogEvent::Ended(ended)) if ended.conclusion.state == ScanState::Canceled)
    );
}

/// A machine's claim at a server.
fn claim_of(node: NodeId, machine: u8, server: u8, now: u64) -> StreamClaim {
    StreamClaim {
        replica: ReplicaId([server; 16]),
        instance: Some(InstanceId([machine; 16])),
        ..Site::claim(node, &[], at(now))
    }
}

async fn is_duplicate(site: &Site, node: NodeId) -> bool {
    let row = site.store.node(site.org, node).await.expect("read");
    row.expect("there").duplicate_identity
}

async fn actions(site: &Site, action: &str) -> usize {
    let rows = site.audited().await.into_iter();
    rows.filter(|row| row.entry.action == action).count()
}

/// Two machines alternately claim the stream at two servers. After the third claim, the current machine keeps it.
async fn fight(site: &Site) -> (NodeId, Epoch) {
    let node = site.confirmed("north").await;
    let mut epoch = Epoch(0);
    for (machine, now) in [(1, 10), (2, 11), (1, 12)] {
        let claimed = site
            .store
            .claim_stream(claim_of(node, machine, machine, now));
        epoch = claimed.await.expect("claimed").epoch;
    }
    assert!(!is_duplicate(site, node).await);
    let refused = site.store.claim_stream(claim_of(node, 2, 2, 13)).await;
    assert!(
        matches!(&refused, Err(ClaimError::Duplicate { node: of, hold }) if *of == node && hold.as_secs() == 600),
        "{refused:?}"
    );
    (node, epoch)
}

async fn two_machines_with_one_identity_are_found_out_over_all_servers(site: Site) {
    let (node, epoch) = fight(&site).await;
    assert!(site.store.is_current(node, epoch).await.expect("read"));
    assert!(is_duplicate(&site, node).await);
    assert_eq!(actions(&site, "node.duplicate_identity").await, 1);
    // Every server rejects the other machine, even after the current one has disconnected. The current machine may
    // reconnect.
    site.store
        .release_stream(node, epoch, "ended".to_owned(), at(14))
        .await
        .expect("released");
    for server in [1, 2, 3] {
        let refused = site
            .store
            .claim_stream(claim_of(node, 2, server, 113))
            .await;
        assert!(
            matches!(&refused, Err(ClaimError::Duplicate { hold, .. }) if *hold == Duration::from_secs(500)),
            "{refused:?}"
        );
    }
    let back = site.store.claim_stream(claim_of(node, 1, 3, 114)).await;
    assert!(back.expect("claimed").epoch > epoch);
    assert_eq!(actions(&site, "node.duplicate_identity").await, 1);
}

async fn a_refused_machine_is_forgotten_ten_minutes_after_the_last_refusal(site: Site) {
    let (node, _) = fight(&site).await;
    let sweep = |now| site.store.sweep_duplicates(at(now));
    assert_eq!(sweep(612).await.expect("swept"), 0);
    assert_eq!(sweep(613).await.expect("swept"), 1);
    assert_eq!(sweep(614).await.expect("swept"), 0);
    assert!(!is_duplicate(&site, node).await);
    assert_eq!(actions(&site, "node.single_identity").await, 1);
    let back = site.store.claim_stream(claim_of(node, 2, 2, 615)).await;
    back.expect("is let in again");
}

async fn claims_of_other_servers_are_listed(site: Site) {
    let (north, south) = (site.confirmed("north").await, site.confirmed("south").await);
    let claim = |node, server, now| site.store.claim_stream(claim_of(node, 1, server, now));
    claim(north, 1, 10).await.expect("claimed");
    claim(south, 1, 10).await.expect("claimed");
    let moved = claim(north, 2, 20).await.expect("claimed").epoch;
    let claims = |server: u8, since| {
        let store = site.store.clone();
        async move {
            let claims = store.claimed_elsewhere(ReplicaId([server; 16]), at(since));
            claims.await.expect("read")
        }
    };
    assert_eq!(claims(1, 15).await, [(north, moved)]);
    assert_eq!(claims(2, 15).await, []);
    assert_eq!(claims(1, 21).await, []);
}
