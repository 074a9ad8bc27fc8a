//! How commands and scans end without a message from the node: deadlines, queue times, revocation.

use fleet_core::{
    ScanState, limits,
    outcome::{AckCode, Code, Conclusion},
};
use fleet_store::*;
use sea_orm::ConnectionTrait;

use crate::site::{Site, at, plain};

contract! {
    a_deadline_ends_the_chunk_of_a_scan_that_never_queues
    an_expired_chunk_is_issued_again_while_attempts_are_left
    deadlines_do_not_run_during_an_interruption
    deadlines_move_when_the_clock_is_set_back
    an_unreadable_row_does_not_stop_a_sweep
    a_scan_queued_for_too_long_expires
    a_scan_that_ran_and_was_left_waiting_ends_by_its_chunks
    the_queue_time_limits_waiting_and_not_running
    an_abandoned_scan_that_is_never_queued_is_expired
    end_scan_ends_once
    revoking_ends_scans_and_keeps_results
}

async fn a_deadline_ends_the_chunk_of_a_scan_that_never_queues(site: Site) {
    let node = site.node("north").await;
    let never = NewScan {
        queueing: Queueing::Never,
        ..site.new_scan(node.id, "10.0.0.0/21", &["80"])
    };
    let scan = site.create(never).await.id;
    let first = site.issue(node).await.expect("a chunk");
    site.reported(node, first.command, vec![plain("10.0.0.7", "80")])
        .await;
    site.sweep_until(20, 740).await;
    let swept = site.store.sweep_commands(at(740)).await.expect("swept");
    assert_eq!(
        swept,
        Expired {
            commands: vec![(node.id, first.command)],
            scans: vec![scan],
            pairings: Vec::new(),
        }
    );
    assert_eq!(
        site.store.sweep_commands(at(741)).await.expect("swept"),
        Expired::default()
    );
    let late = site
        .store
        .record_report(site.report(node, first.command, vec![plain("10.0.0.8", "80")]))
        .await;
    assert!(matches!(late, Err(ReportError::NotInFlight(_))));
    assert_eq!(
        site.acked(node, first.command, AckCode::Ok).await,
        Acked::Stale
    );
    let second = site
        .issue_at(node, at(741))
        .await
        .expect("the rest goes on");
    site.acked(node, second.command, AckCode::Ok).await;
    let ended = site.look(scan).await.conclusion.expect("ended");
    assert_eq!(ended.state, ScanState::Partial);
    assert!(
        ended.reason.contains("no answer within 12 minutes"),
        "{}",
        ended.reason
    );
}

async fn an_expired_chunk_is_issued_again_while_attempts_are_left(site: Site) {
    let node = site.node("north").await;
    let scan = site.scan(node, "10.0.0.0/24").await;
    let mut now = 20;
    for attempt in 1..=limits::CHUNK_ATTEMPTS {
        assert_eq!(site.look(scan).await.conclusion, None, "{attempt}");
        let issued = site.issue_at(node, at(now)).await.expect("a command");
        assert_eq!(issued.scan, scan);
        site.sweep_until(now, now + 720).await;
        now += 720;
        let swept = site.store.sweep_commands(at(now)).await.expect("swept");
        assert_eq!(swept.commands, [(node.id, issued.command)]);
    }
    assert_eq!(site.issue_at(node, at(now)).await, None);
    let ended = site.look(scan).await.conclusion.expect("ended");
    assert_eq!(
        (ended.state, ended.code),
        (ScanState::Failed, Code::DeadlineExceeded)
    );
}

async fn deadlines_do_not_run_during_an_interruption(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await.command;
    let offline = site.confirmed("offline").await;
    let queued = site
        .create(NewScan {
            queueing: Queueing::Until(at(500)),
            ..site.new_scan(offline, "10.0.0.0/24", &["80"])
        })
        .await
        .id;
    site.sweep_until(20, 401).await;
    // No server sweeps for 20 minutes: all servers or the database are away, or the clock is set forward.
    let swept = site.store.sweep_commands(at(1_600)).await.expect("swept");
    assert_eq!(swept, Expired::default());
    let kept = vec![plain("10.0.0.7", "80")];
    assert_eq!(site.reported(node, command, kept).await, (1, 0));
    // The queue had 100 s left, which is less than the time for nodes to return. The command had 340 s left.
    let end = |seconds: u64| 1_600 + seconds;
    site.sweep_until(1_601, end(120)).await;
    let swept = site
        .store
        .sweep_commands(at(end(120)))
        .await
        .expect("swept");
    assert_eq!((swept.commands, swept.scans), (vec![], vec![queued]));
    site.sweep_until(end(121), end(340)).await;
    let swept = site
        .store
        .sweep_commands(at(end(340)))
        .await
        .expect("swept");
    assert_eq!(swept.commands, [(node.id, command)]);
}

async fn deadlines_move_when_the_clock_is_set_back(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await.command;
    site.sweep_until(20, 501).await;
    let other = site.node("south").await;
    let busy = site.running(other, "10.0.0.0/24").await;
    let verdict = Site::ack(other, busy.command, AckCode::Busy);
    let waits = Ack {
        now: at(500),
        ..verdict
    };
    let waits = site.store.record_ack(waits).await.expect("acked");
    assert!(matches!(waits, Acked::Waits { .. }), "{waits:?}");
    // The clock goes back by 480 s. Of its 720 s, the command has 240 s left.
    site.sweep_until(20, 260).await;
    assert!(
        site.issue_at(other, at(23)).await.is_some(),
        "its wait is over"
    );
    let swept = site.store.sweep_commands(at(260)).await.expect("swept");
    assert_eq!(swept.commands, [(node.id, command)]);
}

async fn an_unreadable_row_does_not_stop_a_sweep(site: Site) {
    let (bad, good) = (site.node("bad").await, site.node("good").await);
    let broken = site.running(bad, "10.0.0.0/24").await;
    let fine = site.running(good, "10.0.0.0/24").await;
    let mut queued = Vec::new();
    for name in ["bad-queue", "good-queue"] {
        let offline = site.confirmed(name).await;
        let new = NewScan {
            queueing: Queueing::Until(at(500)),
            ..site.new_scan(offline, "10.0.0.0/24", &["80"])
        };
        queued.push(site.create(new).await.id);
    }
    let short = if site.url.starts_with("sqlite") {
        "x'00'"
    } else {
        "'\\x00'"
    };
    let codes = [site.code("one").await, site.code("two").await];
    for sql in [
        format!(
            "UPDATE command SET scope = 'unreadable' WHERE id = '{}'",
            broken.command
        ),
        format!(
            "UPDATE scan SET priority = 'unreadable' WHERE id = '{}'",
            queued[0]
        ),
        format!(
            "UPDATE invitation SET hash = {} WHERE id = {}",
            short, codes[0]
        ),
        "UPDATE node SET duplicate_identity = TRUE".to_owned(),
        format!(
            "UPDATE node_stream SET takeovers = 'unreadable' WHERE node_id = {}",
            bad.id
        ),
    ] {
        site.raw().await.execute_unprepared(&sql).await.expect(&sql);
    }
    site.sweep_until(20, 499).await;
    let swept = site.store.sweep_commands(at(500)).await.expect("swept");
    assert_eq!(swept.scans, [queued[1]]);
    site.sweep_until(501, 740).await;
    let swept = site.store.sweep_commands(at(740)).await.expect("swept");
    assert_eq!(swept.commands, [(good.id, fine.command)]);
    let expired = site.store.sweep_enrollments(at(10_000)).await;
    assert_eq!(expired.expect("swept"), 1);
    let cleared = site.store.sweep_duplicates(at(10_000)).await;
    assert!(cleared.expect("swept") > 0);
    let open = "SELECT count(*) FROM node WHERE duplicate_identity";
    assert_eq!(site.number(open).await, 1, "only the unreadable one");
}

async fn a_scan_queued_for_too_long_expires(site: Site) {
    let offline = site.confirmed("offline").await;
    let scan = site
        .create(NewScan {
            queueing: Queueing::Until(at(500)),
            ..site.new_scan(offline, "10.0.0.0/24", &["80"])
        })
        .await
        .id;
    assert_eq!(site.expired_scans(at(499)).await, []);
    assert_eq!(site.expired_scans(at(500)).await, [scan]);
    let row = site.look(scan).await;
    assert_eq!((row.state, row.started_at), (ScanState::Expired, None));
    assert_eq!(row.conclusion.expect("ended").code, Code::DeadlineExceeded);
    let ledger = row.ledger.expect("ended");
    assert_eq!(
        (
            ledger.adds_up(),
            ledger.not_reached,
            ledger.skipped,
            ledger.elapsed_ms
        ),
        (true, 254, 2, 0)
    );
    site.log(scan).await;
}

async fn a_scan_that_ran_and_was_left_waiting_ends_by_its_chunks(site: Site) {
    let mut node = site.node("north").await;
    let scan = site
        .create(NewScan {
            queueing: Queueing::Until(at(500)),
            ..site.new_scan(node.id, "10.0.0.0/21", &["80"])
        })
        .await
        .id;
    let first = site.issue(node).await.expect("a chunk");
    site.acked(node, first.command, AckCode::Ok).await;
    let second = site.issue_at(node, at(499)).await.expect("a chunk");
    assert_eq!(
        site.expired_scans(at(501)).await,
        [],
        "a command in flight has its own deadline"
    );
    site.reconnect(&mut node, &[], at(502)).await;
    // Its commands were in flight for 40 s and for 3 s, which is no waiting.
    for (now, expired) in [
        (503, Vec::new()),
        (522, Vec::new()),
        (542, Vec::new()),
        (543, vec![scan]),
    ] {
        let swept = site.store.sweep_commands(at(now)).await.expect("swept");
        assert_eq!(swept.scans, expired, "{now}");
    }
    assert_eq!(site.look(scan).await.state, ScanState::Partial);
    assert_eq!(
        site.acked(node, second.command, AckCode::Ok).await,
        Acked::Stale
    );
}

async fn the_queue_time_limits_waiting_and_not_running(site: Site) {
    let node = site.node("north").await;
    let scan = site
        .create(NewScan {
            queueing: Queueing::Until(at(80)),
            ..site.new_scan(node.id, "10.0.0.0/20", &["80"])
        })
        .await
        .id;
    let mut now = 20;
    for chunk in 1..=4 {
        let issued = site.issue_at(node, at(now)).await.expect("a chunk");
        now += 50;
        let ack = Ack {
            now: at(now),
            ..Site::ack(node, issued.command, AckCode::Ok)
        };
        site.store.record_ack(ack).await.expect("acked");
        let swept = site.store.sweep_commands(at(now)).await.expect("swept");
        assert_eq!(swept.scans, [], "after chunk {chunk}");
    }
    assert_eq!(site.look(scan).await.state, ScanState::Completed);
}

async fn an_abandoned_scan_that_is_never_queued_is_expired(site: Site) {
    let offline = site.confirmed("offline").await;
    let scan = site
        .create(NewScan {
            queueing: Queueing::Never,
            ..site.new_scan(offline, "10.0.0.0/24", &["80"])
        })
        .await
        .id;
    assert_eq!(site.expired_scans(at(129)).await, []);
    assert_eq!(site.expired_scans(at(130)).await, [scan]);
    let ended = site.look(scan).await.conclusion.expect("ended");
    assert_eq!(
        (ended.state, ended.code),
        (ScanState::Failed, Code::FailedPrecondition)
    );
}

async fn end_scan_ends_once(site: Site) {
    let offline = site.confirmed("offline").await;
    let scan = site
        .create(NewScan {
            queueing: Queueing::Never,
            ..site.new_scan(offline, "10.0.0.0/24", &["80"])
        })
        .await
        .id;
    let conclusion = Conclusion::new(ScanState::Failed, Code::FailedPrecondition, "no stream");
    assert!(
        site.store
            .end_scan(scan, conclusion.clone(), at(11))
            .await
            .expect("ended")
    );
    let other = Conclusion::new(ScanState::Canceled, Code::Canceled, "late");
    assert!(
        !site
            .store
            .end_scan(scan, other, at(12))
            .await
            .expect("ignored")
    );
    assert_eq!(site.look(scan).await.conclusion, Some(conclusion));
    let unknown = fleet_core::ScanId::new(at(1), [9; 10]);
    assert!(
        !site
            .store
            .end_scan(
                unknown,
                Conclusion::new(ScanState::Failed, Code::Internal, ""),
                at(12)
            )
            .await
            .expect("ignored")
    );
}

async fn revoking_ends_scans_and_keeps_results(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/21").await;
    let queued = site.scan(node, "10.0.0.0/24").await;
    site.reported(node, command.command, vec![plain("10.0.0.7", "80")])
        .await;
    let revoked = site
        .store
        .revoke_node(site.org, node.id, None, site.actor(), at(40))
        .await
        .expect("revoked");
    assert_eq!(revoked.scans, [command.scan, queued]);
    for scan in [command.scan, queued] {
        let ended = site.look(scan).await.conclusion.expect("ended");
        assert_eq!(
            (ended.state, ended.code),
            (ScanState::Failed, Code::FailedPrecondition)
        );
        site.log(scan).await;
    }
    assert_eq!(
        site.look(command.scan)
            .await
            .ledger
            .map(|ledger| ledger.identified),
        Some(1)
    );
    assert_eq!(site.stored_events(command.scan).await.len(), 1);
    assert_eq!(
        site.devices().await[0].node,
        Some(node.id),
        "attribution is never cleared"
    );
    let late = site
        .store
        .record_report(site.report(node, command.command, vec![plain("10.0.0.8", "80")]))
        .await;
    assert!(matches!(late, Err(ReportError::NotInFlight(_))));
    assert_eq!(
        site.acked(node, command.command, AckCode::Ok).await,
        Acked::Stale
    );
    assert_eq!(
        site.number("SELECT count(*) FROM command WHERE state = 'issued'")
            .await,
        0
    );
    assert_eq!(
        site.store.sweep_commands(at(90_000)).await.expect("swept"),
        Expired::default()
    );
}
