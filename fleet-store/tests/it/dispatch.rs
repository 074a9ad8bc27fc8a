//! Creating scans, and issuing their chunks one by one.

use std::time::Duration;

use fleet_core::{NodeId, Port, Priority, ScanState, SiteId};
use fleet_discovery::{ChunkCommand, LogEvent, Mode, NodeChoice, NodeProfile};
use fleet_store::*;

use crate::site::{Node, Site, at, command_id};

contract! {
    a_scan_reads_back_as_it_was_asked
    the_same_request_is_the_same_scan
    a_scan_needs_a_confirmed_node_of_its_tenant
    sixteen_scans_wait_for_a_node_and_no_more
    a_scan_that_never_queues_needs_an_idle_node
    notes_of_the_plan_are_the_first_events
    a_plan_without_targets_ends_at_once
    a_command_is_stored_before_it_is_sent
    one_command_is_in_flight_a_node
    a_person_goes_first_and_equals_take_turns
    a_withdrawn_command_is_no_attempt
    nodes_with_work_are_those_that_could_start
    scans_are_listed_newest_first
}

async fn a_scan_reads_back_as_it_was_asked(site: Site) {
    let node = site.node("north").await;
    for (mode, ports) in [
        (
            Mode::List(vec!["10.0.0.7".into(), "10.0.0.9".into()]),
            vec!["80", "4028"],
        ),
        (
            Mode::Range {
                start: "10.0.0.1".into(),
                end: "10.0.0.9".into(),
            },
            vec!["80"],
        ),
        (Mode::Target("10.0.0.0/24".into()), vec![]),
    ] {
        let (request, plan) = Site::plan(mode, &ports, &NodeProfile::upstream());
        let new = NewScan {
            request: request.clone(),
            plan: plan.clone(),
            shares: vec![NewShare::of(node.id, &plan)],
            ..site.new_scan(node.id, "10.0.0.0/30", &[])
        };
        let row = site.create(new.clone()).await;
        assert_eq!(row, site.look(new.id).await);
        assert_eq!(
            (row.id, row.org, &row.choice),
            (new.id, site.org, &NodeChoice::Node(node.id))
        );
        assert_eq!(
            (row.state, row.priority, row.started_by.as_str()),
            (ScanState::Queued, Priority::Interactive, "ann@acme.test")
        );
        assert_eq!(
            (&row.request, row.created_at, row.queued_until),
            (&request, at(10), Some(at(86_400)))
        );
        assert_eq!(
            (row.started_at, row.ended_at, &row.conclusion, &row.ledger),
            (None, None, &None, &None)
        );
        assert_eq!(
            (row.progress.total, row.chunks as usize, row.chunks_done),
            (plan.targets, plan.chunks.len(), 0)
        );
        assert_eq!(row.open_scope, plan.open_scope);
        let skipped: u64 = plan.skipped.iter().map(|tally| tally.count).sum();
        let share = ShareRow {
            node: node.id,
            node_name: "north".to_owned(),
            site: SiteId(1),
            site_name: "north".to_owned(),
            state: ScanState::Queued,
            targets: plan.targets - skipped,
            done: 0,
            chunks: u32::try_from(plan.chunks.len()).expect("small"),
            chunks_done: 0,
            conclusion: None,
        };
        assert_eq!(row.shares, [share]);
    }
    assert_eq!(
        site.audited()
            .await
            .iter()
            .filter(|row| row.entry.action == "scan.start")
            .count(),
        3
    );
    assert_eq!(
        site.store
            .node(site.org, node.id)
            .await
            .expect("read")
            .expect("there")
            .open_scans,
        3
    );
}

fn asked_as(new: NewScan, request_id: &str) -> NewScan {
    NewScan {
        request_id: Some(request_id.into()),
        ..new
    }
}

async fn the_same_request_is_the_same_scan(site: Site) {
    let node = site.node("north").await;
    let first = site
        .create(asked_as(
            site.new_scan(node.id, "10.0.0.0/24", &["80"]),
            "once",
        ))
        .await;
    let again = asked_as(site.new_scan(node.id, "10.9.0.0/24", &["81"]), "once");
    let again = site
        .store
        .create_scan(again, site.actor())
        .await
        .expect("answered");
    assert!(again.existing);
    assert_eq!(again.scan, first);
    let other = site
        .create(asked_as(
            site.new_scan(node.id, "10.0.0.0/24", &["80"]),
            "twice",
        ))
        .await;
    assert_ne!(other.id, first.id);
    // The retry returns the same scan even if the node has been revoked.
    site.store
        .revoke_node(site.org, node.id, None, site.actor(), at(11))
        .await
        .expect("revoked");
    let late = site
        .store
        .create_scan(
            asked_as(site.new_scan(node.id, "10.0.0.0/24", &["80"]), "once"),
            site.actor(),
        )
        .await;
    assert_eq!(late.expect("answered").scan.id, first.id);
    // Idempotency keys are scoped to the organization.
    let org = site.other_org().await;
    let theirs = Site {
        org,
        ..site.clone()
    };
    let node = site.confirmed_in(org, "their node").await;
    let created = site
        .store
        .create_scan(
            asked_as(theirs.new_scan(node, "10.0.0.0/24", &["80"]), "once"),
            site.actor(),
        )
        .await;
    assert!(!created.expect("created").existing);
}

async fn a_scan_needs_a_confirmed_node_of_its_tenant(site: Site) {
    let waiting = site.pending("waiting").await.node;
    let foreign = site.confirmed_in(site.other_org().await, "foreign").await;
    let create = |node| {
        site.store
            .create_scan(site.new_scan(node, "10.0.0.0/24", &["80"]), site.actor())
    };
    assert!(
        matches!(create(waiting).await, Err(CreateScanError::NotConfirmed(id)) if id == waiting)
    );
    for node in [foreign, NodeId(9_999)] {
        assert!(matches!(create(node).await, Err(CreateScanError::NodeNotFound(id)) if id == node));
    }
}

async fn sixteen_scans_wait_for_a_node_and_no_more(site: Site) {
    let node = site.node("north").await;
    for _ in 0..16 {
        site.scan(node, "10.0.0.0/24").await;
    }
    let refused = site
        .store
        .create_scan(site.new_scan(node.id, "10.0.0.0/24", &["80"]), site.actor())
        .await;
    assert!(
        matches!(refused, Err(CreateScanError::QueueFull { most: 16, .. })),
        "{refused:?}"
    );
    site.issue(node).await.expect("one runs");
    site.scan(node, "10.0.0.0/24").await;
}

fn never(new: NewScan) -> NewScan {
    NewScan {
        queueing: Queueing::Never,
        ..new
    }
}

async fn a_scan_that_never_queues_needs_an_idle_node(site: Site) {
    let node = site.node("north").await;
    let create = || {
        site.store.create_scan(
            never(site.new_scan(node.id, "10.0.0.0/24", &["80"])),
            site.actor(),
        )
    };
    let first = create().await.expect("idle").scan;
    assert_eq!(first.queued_until, None);
    assert!(
        matches!(create().await, Err(CreateScanError::Busy(id)) if id == node.id),
        "one is open"
    );
    let command = site.issue(node).await.expect("issued");
    site.store
        .cancel_scan(site.org, first.id, Grace::NONE, site.actor(), at(22))
        .await
        .expect("ended");
    assert!(
        matches!(create().await, Err(CreateScanError::Busy(_))),
        "its command is in flight still"
    );
    site.acked(node, command.command, fleet_core::outcome::AckCode::Ok)
        .await;
    create().await.expect("idle again");
}

async fn notes_of_the_plan_are_the_first_events(site: Site) {
    let node = site.node("north").await;
    let mut new = site.new_scan(node.id, "10.0.0.0/24", &["80"]);
    new.plan.notes = vec!["first".into(), "second".into()];
    let scan = site.create(new).await;
    assert_eq!(scan.last_sequence, 2);
    let warning = |text: &str| LogEvent::Warning { text: text.into() };
    assert_eq!(
        site.log(scan.id).await,
        [warning("first"), warning("second")]
    );
}

async fn a_plan_without_targets_ends_at_once(site: Site) {
    let node = site.node("north").await;
    let mut new = site.new_scan(node.id, "10.0.0.0/30", &["80"]);
    new.plan.chunks.clear();
    new.shares = vec![NewShare::of(node.id, &new.plan)];
    let skipped: u64 = new.plan.skipped.iter().map(|tally| tally.count).sum();
    let scan = site.create(new).await;
    assert_eq!(scan.state, ScanState::Completed);
    assert_eq!(scan.ledger.expect("ended").skipped, skipped);
    site.log(scan.id).await;
}

async fn a_command_is_stored_before_it_is_sent(site: Site) {
    let node = site.node("north").await;
    let scan = site.scan(node, "10.0.0.0/21").await;
    let command = site.issue(node).await.expect("issued");
    assert_eq!(
        (command.scan, command.priority, command.deadline),
        (scan, Priority::Interactive, at(20 + 720))
    );
    assert_eq!(command.request, ChunkCommand::Target("10.0.0.0/22".into()));
    assert_eq!(command.ports, [Port::new(80).expect("a port")]);
    let row = site.look(scan).await;
    assert_eq!(
        (row.state, row.started_at),
        (ScanState::Running, Some(at(20)))
    );
    assert_eq!(row.progress.elapsed, Duration::from_secs(80));
    assert_eq!(
        site.number("SELECT count(*) FROM command WHERE state = 'issued'")
            .await,
        1
    );
}

async fn one_command_is_in_flight_a_node(site: Site) {
    let (north, south) = (site.node("north").await, site.node("south").await);
    for node in [north, north, south] {
        site.scan(node, "10.0.0.0/24").await;
    }
    assert!(site.issue(north).await.is_some());
    assert_eq!(site.issue(north).await, None);
    assert!(
        site.issue(south).await.is_some(),
        "another node's permit is its own"
    );
    site.store
        .release_stream(south.id, south.epoch, "ended".to_owned(), at(21))
        .await
        .expect("released");
    assert_eq!(site.issue(south).await, None, "no stream");
}

async fn a_person_goes_first_and_equals_take_turns(site: Site) {
    let node = site.node("north").await;
    let nightly = site
        .create(NewScan {
            priority: Priority::Scheduled,
            ..site.new_scan(node.id, "10.4.0.0/21", &["80"])
        })
        .await
        .id;
    let big = site.scan(node, "10.0.0.0/20").await;
    let mut served = Vec::new();
    let mut small = None;
    for turn in 0..8 {
        if turn == 1 {
            small = Some(site.scan(node, "10.9.0.0/24").await);
        }
        let now = at(20 + turn);
        let command = site.issue_at(node, now).await.expect("work is left");
        served.push(command.scan);
        site.acked(node, command.command, fleet_core::outcome::AckCode::Ok)
            .await;
        if turn == 6 {
            break;
        }
    }
    let small = small.expect("started");
    assert_eq!(served, [big, small, big, big, big, nightly, nightly]);
}

async fn a_withdrawn_command_is_no_attempt(site: Site) {
    let mut node = site.node("north").await;
    let scan = site.scan(node, "10.0.0.0/24").await;
    for _ in 0..5 {
        let command = site.issue(node).await.expect("issued");
        site.store
            .withdraw_command(node.id, command.command, at(21))
            .await
            .expect("withdrawn");
        site.store
            .withdraw_command(node.id, command.command, at(21))
            .await
            .expect("nothing more");
    }
    assert_eq!(site.number("SELECT attempts FROM chunk").await, 0);
    for _ in 0..2 {
        site.issue(node).await.expect("issued");
        site.reconnect(&mut node, &[], at(22)).await;
    }
    assert_eq!(
        site.look(scan).await.state,
        ScanState::Running,
        "two of three attempts"
    );
    site.store
        .withdraw_command(node.id, command_id(), at(23))
        .await
        .expect("unknown ones are nothing");
}

async fn with_work(site: &Site, now: u64) -> Vec<NodeId> {
    site.store.nodes_with_work(at(now)).await.expect("read")
}

async fn nodes_with_work_are_those_that_could_start(site: Site) {
    let north: Node = site.node("north").await;
    let south = site.node("south").await;
    let offline = site.confirmed("offline").await;
    assert_eq!(with_work(&site, 20).await, []);
    site.scan(north, "10.0.0.0/21").await;
    site.scan(north, "10.0.0.0/24").await;
    site.scan(south, "10.0.0.0/24").await;
    site.create(site.new_scan(offline, "10.0.0.0/24", &["80"]))
        .await;
    assert_eq!(with_work(&site, 20).await, [north.id, south.id]);
    site.issue(south).await.expect("issued");
    assert_eq!(
        with_work(&site, 20).await,
        [north.id],
        "the other's permit is taken"
    );
    site.store
        .release_stream(north.id, north.epoch, "ended".to_owned(), at(20))
        .await
        .expect("released");
    assert_eq!(with_work(&site, 20).await, []);
}

async fn scans_are_listed_newest_first(site: Site) {
    let (north, south) = (site.node("north").await, site.node("south").await);
    let mut ids = Vec::new();
    for node in [north, south, north] {
        ids.push(site.scan(node, "10.0.0.0/24").await);
    }
    ids.reverse();
    let listed = |node, before, limit| {
        let site = site.clone();
        async move {
            let rows = site
                .store
                .list_scans(site.org, node, before, limit, at(100))
                .await
                .expect("read");
            rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
        }
    };
    assert_eq!(listed(None, None, 10).await, ids);
    assert_eq!(listed(None, Some(ids[0]), 1).await, ids[1..2]);
    assert_eq!(listed(Some(south.id), None, 10).await, ids[1..2]);
    let other = site.other_org().await;
    assert_eq!(
        site.store
            .list_scans(other, None, None, 10, at(100))
            .await
            .expect("read"),
        []
    );
    assert_eq!(
        site.store.scan(other, ids[0], at(100)).await.expect("read"),
        None
    );
    assert_eq!(
        site.store
            .read_events(other, ids[0], 0, 10, at(100))
            .await
            .expect("read"),
        None
    );
}
