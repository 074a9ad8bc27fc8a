//! How acknowledgments end commands, chunks and scans, and how progress is computed until then.

use std::time::Duration;

use fleet_core::{
    ScanState,
    outcome::{AckCode, Code, Conclusion},
};
use fleet_discovery::LogEvent;
use fleet_store::*;

use crate::site::{Site, at, command_id, plain};

contract! {
    the_last_ack_ends_the_scan_with_its_ledger
    outcome_bytes_count_in_the_ledger
    a_second_ack_is_stale
    another_nodes_ack_is_stale
    a_fatal_chunk_ends_the_scan_at_once
    other_failures_do_not_stop_the_rest
    busy_waits_longer_each_time_until_the_queue_time_is_over
    busy_ends_a_scan_that_never_queues
    progress_counts_over_all_chunks
    events_resume_from_a_cursor
    the_history_of_a_node_shows_ended_and_open_scans
}

async fn the_history_of_a_node_shows_ended_and_open_scans(site: Site) {
    let (node, other) = (site.node("north").await, site.node("south").await);
    let command = site.running(node, "10.0.0.0/24").await;
    let rows = (1..=3).map(|n| plain(&format!("10.0.0.{n}"), "80"));
    let reported = site.reported(node, command.command, rows.collect()).await;
    assert_eq!(reported, (3, 0));
    site.acked(node, command.command, AckCode::Ok).await;
    // A scan that fails shows nothing.
    let failing = site.running(node, "10.0.1.0/24").await;
    site.acked(node, failing.command, AckCode::BadRequest).await;
    site.running(node, "10.0.2.0/24").await;
    let waiting = site.new_scan(node.id, "10.0.4.0/21", &["80"]);
    let estimate = waiting.plan.estimate;
    site.create(waiting).await;
    let history = site.store.scan_history(site.org, node.id).await;
    let history = history.expect("read");
    let [past] = history.past.as_slice() else {
        panic!("{history:?}");
    };
    let addresses: Vec<String> = past.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.1-10.0.0.254"]);
    let ports: Vec<u16> = past.ports.iter().map(|port| port.number()).collect();
    assert_eq!((ports, past.commands, past.answered), (vec![80], 1, 3));
    assert_eq!(past.duration, Duration::from_secs(40));
    let open: Vec<_> = history
        .open
        .iter()
        .map(|scan| (scan.is_running, scan.commands))
        .collect();
    assert_eq!((open.len(), history.open.len()), (2, 2));
    assert!(
        open.contains(&(true, 1)) && open.contains(&(false, 2)),
        "{open:?}"
    );
    let longest = history.open.iter().map(|scan| scan.estimate).max();
    assert_eq!(longest, Some(estimate));
    let none = site.store.scan_history(site.org, other.id).await;
    assert_eq!(none.expect("read"), ScanHistory::default());
}

async fn the_last_ack_ends_the_scan_with_its_ledger(site: Site) {
    let node = site.node("north").await;
    let scan = site.scan(node, "10.0.0.0/21").await;
    for (chunk, net) in ["10.0.0", "10.0.4"].into_iter().enumerate() {
        let command = site.issue(node).await.expect("a chunk");
        let rows = (1..=10)
            .map(|n| plain(&format!("{net}.{n}"), "80"))
            .chain([plain("10.99.0.1", "80")])
            .collect();
        assert_eq!(site.reported(node, command.command, rows).await, (10, 1));
        let ack = Ack {
            notes: vec!["slowed down".into()],
            ..Site::ack(node, command.command, AckCode::Ok)
        };
        let acked = site.store.record_ack(ack).await.expect("acked");
        assert_eq!(
            acked,
            Acked::Chunk {
                scan,
                ended: chunk == 1
            }
        );
    }
    let row = site.look(scan).await;
    assert_eq!(
        (row.state, row.chunks_done, row.ended_at),
        (ScanState::Completed, 2, Some(at(60)))
    );
    assert_eq!(
        row.conclusion,
        Some(Conclusion::new(ScanState::Completed, Code::Ok, ""))
    );
    assert_eq!((row.progress.done, row.progress.total), (2_048, 2_048));
    let ledger = row.ledger.clone().expect("ended");
    assert!(ledger.adds_up(), "{ledger:?}");
    assert_eq!(
        (
            ledger.targets,
            ledger.identified,
            ledger.skipped,
            ledger.unknown,
            ledger.reported,
            ledger.accepted,
            ledger.rejected
        ),
        (2_048, 20, 2, 2_026, 22, 20, 2)
    );
    assert_eq!(ledger.rejected_reasons.len(), 1);
    assert_eq!(
        (
            ledger.rejected_reasons[0].reason.as_str(),
            ledger.rejected_reasons[0].count
        ),
        ("address out of scope", 2)
    );
    assert_eq!(
        (ledger.first_device_ms, ledger.elapsed_ms),
        (Some(10_000), 40_000)
    );
    let log = site.log(scan).await;
    let Some(LogEvent::Ended(ended)) = log.last() else {
        panic!("{log:?}")
    };
    assert_eq!(
        (Some(&ended.ledger), Some(&ended.conclusion)),
        (row.ledger.as_ref(), row.conclusion.as_ref())
    );
    assert_eq!(
        log.iter()
            .filter(|event| matches!(event, LogEvent::Warning { text } if text == "slowed down"))
            .count(),
        2
    );
}

async fn outcome_bytes_count_in_the_ledger(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/29").await;
    site.reported(node, command.command, vec![plain("10.0.0.2", "80")])
        .await;
    let ack = Ack {
        outcomes: Some(vec![1, 4, 2, 3, 0, 5]),
        ..Site::ack(node, command.command, AckCode::Partial)
    };
    site.store.record_ack(ack).await.expect("acked");
    let row = site.look(command.scan).await;
    assert_eq!(row.state, ScanState::Partial);
    let ledger = row.ledger.expect("ended");
    assert!(ledger.adds_up());
    assert_eq!(
        (
            ledger.silent,
            ledger.identified,
            ledger.refused,
            ledger.unidentified,
            ledger.not_reached,
            ledger.skipped
        ),
        (1, 1, 1, 1, 1, 3)
    );
}

async fn a_second_ack_is_stale(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    site.acked(node, command.command, AckCode::Ok).await;
    let events = site.log(command.scan).await;
    for code in [AckCode::Ok, AckCode::Busy, AckCode::BadRequest] {
        assert_eq!(site.acked(node, command.command, code).await, Acked::Stale);
    }
    assert_eq!(
        site.acked(node, command_id(), AckCode::Ok).await,
        Acked::Stale
    );
    assert_eq!(site.log(command.scan).await, events);
}

async fn another_nodes_ack_is_stale(site: Site) {
    let (north, south) = (site.node("north").await, site.node("south").await);
    let command = site.running(north, "10.0.0.0/24").await;
    assert_eq!(
        site.acked(south, command.command, AckCode::Ok).await,
        Acked::Stale
    );
    assert_eq!(site.look(command.scan).await.state, ScanState::Running);
}

async fn a_fatal_chunk_ends_the_scan_at_once(site: Site) {
    let node = site.node("north").await;
    for (code, expected) in [
        (AckCode::BadRequest, Code::InvalidArgument),
        (AckCode::AgentIncapable, Code::FailedPrecondition),
    ] {
        let command = site.running(node, "10.0.0.0/20").await;
        let acked = site.acked(node, command.command, code).await;
        assert_eq!(
            acked,
            Acked::Chunk {
                scan: command.scan,
                ended: true
            }
        );
        let row = site.look(command.scan).await;
        assert_eq!(
            row.conclusion.map(|ended| (ended.state, ended.code)),
            Some((ScanState::Failed, expected))
        );
        assert_eq!(
            row.ledger
                .map(|ledger| (ledger.adds_up(), ledger.not_reached)),
            Some((true, 4_094))
        );
        assert_eq!(site.issue(node).await, None, "nothing of it is left");
        site.log(command.scan).await;
    }
}

async fn other_failures_do_not_stop_the_rest(site: Site) {
    let node = site.node("north").await;
    let scan = site.scan(node, "10.0.0.0/20").await;
    for code in [
        AckCode::ReportFailed,
        AckCode::Ok,
        AckCode::Internal,
        AckCode::ScanFailed,
    ] {
        let command = site.issue(node).await.expect("the next chunk");
        site.acked(node, command.command, code).await;
    }
    let ended = site.look(scan).await.conclusion.expect("ended");
    assert_eq!((ended.state, ended.code), (ScanState::Partial, Code::Ok));
    assert!(
        ended.reason.contains("chunk 1") && ended.reason.contains("chunk 4"),
        "{}",
        ended.reason
    );
}

async fn busy_waits_longer_each_time_until_the_queue_time_is_over(site: Site) {
    let node = site.node("north").await;
    let scan = site
        .create(NewScan {
            queueing: Queueing::Until(at(200)),
            ..site.new_scan(node.id, "10.0.0.0/24", &["80"])
        })
        .await
        .id;
    let mut now = 20;
    for wait in [2, 4, 8, 16, 32, 60] {
        let command = site.issue_at(node, at(now)).await.expect("issued");
        let busy = Ack {
            now: at(now),
            ..Site::ack(node, command.command, AckCode::Busy)
        };
        let acked = site.store.record_ack(busy).await.expect("acked");
        assert_eq!(
            acked,
            Acked::Waits {
                scan,
                until: at(now + wait)
            }
        );
        assert_eq!(site.issue_at(node, at(now + wait - 1)).await, None);
        assert_eq!(
            site.store
                .nodes_with_work(at(now + wait - 1))
                .await
                .expect("read"),
            []
        );
        now += wait;
    }
    assert_eq!(
        site.number("SELECT attempts FROM chunk").await,
        0,
        "BUSY is no attempt"
    );
    assert_eq!(
        site.store.sweep_commands(at(199)).await.expect("swept"),
        Expired::default()
    );
    assert_eq!(site.issue_at(node, at(200)).await, None, "its time is over");
    assert_eq!(site.expired_scans(at(200)).await, [scan]);
    let ended = site.look(scan).await.conclusion.expect("ended");
    assert_eq!(
        (ended.state, ended.code),
        (ScanState::Expired, Code::ResourceExhausted)
    );
}

async fn busy_ends_a_scan_that_never_queues(site: Site) {
    let node = site.node("north").await;
    let new = NewScan {
        queueing: Queueing::Never,
        ..site.new_scan(node.id, "10.0.0.0/20", &["80"])
    };
    let scan = site.create(new).await.id;
    let command = site.issue(node).await.expect("issued");
    assert_eq!(
        site.acked(node, command.command, AckCode::Busy).await,
        Acked::Chunk { scan, ended: true }
    );
    let row = site.look(scan).await;
    let ended = row.conclusion.expect("ended");
    assert_eq!(
        (ended.state, ended.code),
        (ScanState::Failed, Code::ResourceExhausted)
    );
    assert!(row.ledger.expect("ended").adds_up());
    site.log(scan).await;
}

async fn progress_counts_over_all_chunks(site: Site) {
    let node = site.node("north").await;
    let scan = site.scan(node, "10.0.0.0/21").await;
    let first = site.issue(node).await.expect("a chunk");
    let progress = |command, done| {
        site.store
            .record_progress(node.id, node.epoch, command, done, "probing")
    };
    assert_eq!(
        progress(first.command, 100).await.expect("noted"),
        Some(scan)
    );
    let row = site.look(scan).await;
    assert_eq!(
        (row.progress.done, row.progress.phase.as_str()),
        (102, "probing"),
        "two were skipped by the plan"
    );
    progress(first.command, u64::MAX).await.expect("noted");
    assert_eq!(
        site.look(scan).await.progress.done,
        1_025,
        "no more than the chunk has"
    );
    site.acked(node, first.command, AckCode::Ok).await;
    assert_eq!(progress(first.command, 7).await.expect("ignored"), None);
    let second = site.issue(node).await.expect("a chunk");
    progress(second.command, 10).await.expect("noted");
    let page = site
        .store
        .read_events(site.org, scan, 0, 10, at(100))
        .await
        .expect("read")
        .expect("there");
    assert_eq!(
        (page.progress.done, page.progress.total, page.last_sequence),
        (1_035, 2_048, 0)
    );
    assert_eq!(progress(command_id(), 7).await.expect("ignored"), None);
}

async fn events_resume_from_a_cursor(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    let rows = (1..=9)
        .map(|n| plain(&format!("10.0.0.{n}"), "80"))
        .collect();
    site.reported(node, command.command, rows).await;
    let mut after = 0;
    let mut seen = Vec::new();
    loop {
        let page = site
            .store
            .read_events(site.org, command.scan, after, 4, at(100))
            .await
            .expect("read")
            .expect("there");
        assert_eq!((page.last_sequence, page.state), (9, ScanState::Running));
        let Some(last) = page.events.last() else {
            break;
        };
        after = last.sequence;
        seen.extend(page.events.into_iter().map(|event| event.sequence));
    }
    assert_eq!(seen, (1..=9).collect::<Vec<_>>());
    let beyond = site
        .store
        .read_events(site.org, command.scan, 1_000, 4, at(100))
        .await
        .expect("read")
        .expect("there");
    assert_eq!((beyond.events, beyond.last_sequence), (vec![], 9));
}
