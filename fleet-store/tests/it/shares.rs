//! Scans over several nodes: one lifecycle, and one share for each node. A node that fails does not fail the others.

use std::time::Duration;

use fleet_core::{
    NodeId, ScanId, ScanState, SiteId, limits,
    outcome::{AckCode, Code},
};
use fleet_discovery::{
    ChunkCommand, LogEvent, Mode, NodeChoice, NodeProfile, Participant, PlanPolicy, ScanRequest,
    plan_over,
};
use fleet_store::*;

use crate::site::{Node, Site, at, plain};

contract! {
    two_nodes_scan_one_result
    a_fatal_answer_ends_the_share_of_its_node_only
    a_revoked_node_fails_its_share_only
    a_node_that_never_comes_expires_alone
    no_node_has_a_result_so_the_scan_fails
    a_busy_node_waits_alone
    a_lost_command_runs_again_on_its_node
    a_cancel_ends_the_scan_when_the_last_node_has_stopped
    a_node_that_cannot_be_asked_to_stop_ends_at_once
    the_grace_of_a_cancel_ends_all_commands
    a_node_without_room_fails_its_share_only
    a_scan_belongs_to_all_its_nodes
    a_later_scan_is_compared_with_an_earlier_one_of_the_same_sites
    a_schedule_keeps_the_nodes_as_they_were_named
}

pub(crate) fn ready(site: &Site, nodes: &[(Node, &str)], target: &str) -> NewScan {
    let participants: Vec<Participant> = nodes
        .iter()
        .map(|(node, subnet)| Participant {
            node: node.id,
            name: format!("node {}", node.id),
            connected: true,
            profile: NodeProfile {
                local_subnets: vec![subnet.parse().expect("a subnet")],
                ..NodeProfile::upstream()
            },
            exclusions: Vec::new(),
        })
        .collect();
    let request = ScanRequest {
        mode: Mode::Target(target.to_owned()),
        ports: vec!["80".to_owned()],
        rate: 0,
    };
    let joint = plan_over(&request, &participants, &PlanPolicy::default()).expect("a plan");
    let shares = joint.shares.iter();
    let choice = NodeChoice::of_nodes(nodes.iter().map(|(node, _)| node.id));
    NewScan {
        choice: choice.expect("nodes"),
        shares: shares
            .map(|share| NewShare::of(share.node, &share.plan))
            .collect(),
        request,
        plan: joint.plan,
        ..site.new_scan(nodes[0].0.id, "10.0.0.0/30", &["80"])
    }
}

/// Two nodes, and a scan of a /24 on each.
async fn two(site: &Site) -> (Node, Node, ScanId) {
    let (a, b) = (site.node("north").await, site.node("south").await);
    let new = ready(
        site,
        &[(a, "10.0.0.0/24"), (b, "10.0.1.0/24")],
        "10.0.0.0/24 10.0.1.0/24",
    );
    let scan = site.create(new).await;
    (a, b, scan.id)
}

impl Site {
    /// The states of a scan and of its shares, by node.
    async fn states(&self, scan: ScanId) -> (ScanState, Vec<ScanState>) {
        let row = self.look(scan).await;
        let shares = row.shares.iter().map(|share| share.state).collect();
        (row.state, shares)
    }

    /// The reason of a node's share.
    async fn reason(&self, scan: ScanId, node: Node) -> String {
        let shares = self.look(scan).await.shares;
        let share = shares.into_iter().find(|share| share.node == node.id);
        let ended = share.expect("a share").conclusion;
        ended.map(|ended| ended.reason).unwrap_or_default()
    }
}

/// The first target of a command.
fn first(command: &IssuedCommand) -> &str {
    match &command.request {
        ChunkCommand::List(targets) => targets.first().map_or("", String::as_str),
        ChunkCommand::Target(target) => target,
        ChunkCommand::Mdns(_) => "",
    }
}

async fn two_nodes_scan_one_result(site: Site) {
    use ScanState::{Completed, Queued, Running};
    let (a, b, scan) = two(&site).await;
    let row = site.look(scan).await;
    assert_eq!(row.choice, NodeChoice::Nodes(vec![a.id, b.id]));
    let shares: Vec<_> = row
        .shares
        .iter()
        .map(|share| {
            (
                share.node,
                share.node_name.as_str(),
                share.targets,
                share.done,
            )
        })
        .collect();
    assert_eq!(shares, [(a.id, "north", 254, 0), (b.id, "south", 254, 0)]);
    assert_eq!(site.states(scan).await, (Queued, vec![Queued, Queued]));
    let on_a = site.issue(a).await.expect("a chunk");
    assert_eq!(site.states(scan).await, (Running, vec![Running, Queued]));
    // Another server issues the chunk of the other node, while the first one is in flight.
    let elsewhere = site.another().await;
    let id = crate::site::command_id();
    let on_b = elsewhere.issue_command(b.id, b.epoch, id, at(20)).await;
    let on_b = on_b.expect("issued").expect("a chunk");
    assert_eq!((on_a.scan, on_b.scan), (scan, scan));
    assert!(first(&on_a).starts_with("10.0.0."), "{on_a:?}");
    assert!(first(&on_b).starts_with("10.0.1."), "{on_b:?}");
    for (node, command, done) in [(a, &on_a, 100), (b, &on_b, 50)] {
        let store = &site.store;
        let stored = store.record_progress(node.id, node.epoch, command.command, done, "sweep");
        assert_eq!(stored.await.expect("stored"), Some(scan));
    }
    let row = site.look(scan).await;
    let skipped = row.progress.total - 508;
    assert_eq!(row.progress.done, skipped + 150);
    assert_eq!((row.shares[0].done, row.shares[1].done), (100, 50));
    for (node, command, ip) in [(a, &on_a, "10.0.0.7"), (b, &on_b, "10.0.1.7")] {
        let reported = site.reported(node, command.command, vec![plain(ip, "80")]);
        assert_eq!(reported.await, (1, 0));
    }
    // A node may not report a target of the other one.
    let foreign = site.reported(a, on_a.command, vec![plain("10.0.1.9", "80")]);
    assert_eq!(foreign.await, (0, 1));
    let acked = site.acked(b, on_b.command, AckCode::Ok).await;
    assert_eq!(acked, Acked::Chunk { scan, ended: false });
    assert_eq!(site.states(scan).await, (Running, vec![Running, Completed]));
    assert_eq!(site.issue(b).await, None);
    let acked = site.acked(a, on_a.command, AckCode::Ok).await;
    assert_eq!(acked, Acked::Chunk { scan, ended: true });
    let expected = (Completed, vec![Completed, Completed]);
    assert_eq!(site.states(scan).await, expected);
    let row = site.look(scan).await;
    assert_eq!((row.chunks, row.chunks_done), (2, 2));
    let ledger = row.ledger.expect("a summary");
    assert_eq!((ledger.identified, ledger.rejected), (2, 1));
    let found: Vec<_> = site
        .log(scan)
        .await
        .into_iter()
        .filter_map(|event| match event {
            LogEvent::Device(found) => Some((found.endpoint.ip.to_string(), found.node)),
            LogEvent::Host(_) | LogEvent::Warning { .. } | LogEvent::Ended(_) => None,
        })
        .collect();
    let expected = [("10.0.0.7", a.id), ("10.0.1.7", b.id)];
    assert_eq!(
        found,
        expected.map(|(ip, node)| (ip.to_owned(), Some(node)))
    );
    let started = site.audited().await.into_iter();
    let started = started.map(|row| row.entry.subject);
    let nodes = format!("nodes {},{} (nodes {}, {})", a.id, b.id, a.id, b.id);
    assert!(started.into_iter().any(|subject| subject.contains(&nodes)));
}

async fn a_fatal_answer_ends_the_share_of_its_node_only(site: Site) {
    use ScanState::{Completed, Failed, Partial, Running};
    let (a, b) = (site.node("north").await, site.node("south").await);
    // The upstream node takes 1,024 addresses in a command, so its share has several chunks.
    let new = ready(
        &site,
        &[(a, "10.0.0.0/20"), (b, "10.1.0.0/24")],
        "10.0.0.0/20 10.1.0.0/24",
    );
    assert!(new.shares[0].chunks > 1, "{:?}", new.shares);
    let scan = site.create(new).await.id;
    let (on_a, on_b) = (site.issue(a).await, site.issue(b).await);
    let on_a = on_a.expect("a chunk").command;
    site.acked(a, on_a, AckCode::AgentIncapable).await;
    assert_eq!(site.states(scan).await, (Running, vec![Failed, Running]));
    assert_eq!(site.issue(a).await, None, "its other chunks are not issued");
    let on_b = on_b.expect("a chunk").command;
    site.acked(b, on_b, AckCode::Ok).await;
    assert_eq!(site.states(scan).await, (Partial, vec![Failed, Completed]));
    let ended = site.look(scan).await.conclusion.expect("an end");
    let expected = format!("node {} (north): this node cannot do it", a.id);
    assert!(ended.reason.starts_with(&expected), "{}", ended.reason);
    assert_eq!(ended.code, Code::Ok);
    site.log(scan).await;
}

async fn a_revoked_node_fails_its_share_only(site: Site) {
    use ScanState::{Completed, Failed, Partial, Running};
    let (a, b, scan) = two(&site).await;
    let on_a = site.issue(a).await.expect("a chunk").command;
    let on_b = site.issue(b).await.expect("a chunk").command;
    site.reported(a, on_a, vec![plain("10.0.0.7", "80")]).await;
    let revoked = site
        .store
        .revoke_node(site.org, a.id, None, site.actor(), at(40));
    revoked.await.expect("revoked");
    assert_eq!(site.states(scan).await, (Running, vec![Failed, Running]));
    site.acked(b, on_b, AckCode::Ok).await;
    assert_eq!(site.states(scan).await, (Partial, vec![Failed, Completed]));
    let row = site.look(scan).await;
    let reason = row.conclusion.expect("an end").reason;
    assert!(
        reason.contains("was revoked; what was found is kept"),
        "{reason}"
    );
    assert_eq!(row.ledger.expect("a summary").identified, 1);
    site.log(scan).await;
}

async fn a_node_that_never_comes_expires_alone(site: Site) {
    use ScanState::{Completed, Expired, Partial, Queued};
    let (a, b) = (site.node("north").await, site.node("south").await);
    let new = NewScan {
        queueing: Queueing::Until(at(300)),
        ..ready(
            &site,
            &[(a, "10.0.0.0/24"), (b, "10.0.1.0/24")],
            "10.0.0.0/24 10.0.1.0/24",
        )
    };
    let scan = site.create(new).await.id;
    let on_b = site.issue(b).await.expect("a chunk").command;
    let ack = Ack {
        now: at(250),
        ..Site::ack(b, on_b, AckCode::Ok)
    };
    site.store.record_ack(ack).await.expect("acked");
    // The 230 s for which the other node was busy do not extend the wait of this one.
    site.sweep_until(250, 300).await;
    assert_eq!(site.look(scan).await.shares[0].state, Queued);
    let swept = site.store.sweep_commands(at(300)).await.expect("swept");
    assert_eq!(swept.scans, [scan]);
    assert_eq!(site.states(scan).await, (Partial, vec![Expired, Completed]));
    let reason = site.reason(scan, a).await;
    assert!(reason.contains("did not come"), "{reason}");
    site.log(scan).await;
}

async fn no_node_has_a_result_so_the_scan_fails(site: Site) {
    let (a, b, scan) = two(&site).await;
    for (node, code) in [(a, AckCode::ScanFailed), (b, AckCode::AgentIncapable)] {
        let command = site.issue(node).await.expect("a chunk").command;
        site.acked(node, command, code).await;
    }
    let ended = site.look(scan).await.conclusion.expect("an end");
    assert_eq!(
        (ended.state, ended.code),
        (ScanState::Failed, Code::Internal)
    );
    for node in [a, b] {
        let named = format!("node {} (", node.id);
        assert!(ended.reason.contains(&named), "{}", ended.reason);
    }
}

async fn a_busy_node_waits_alone(site: Site) {
    let (a, b, scan) = two(&site).await;
    let on_a = site.issue(a).await.expect("a chunk").command;
    let acked = site.acked(a, on_a, AckCode::Busy).await;
    assert!(
        matches!(acked, Acked::Waits { scan: of, .. } if of == scan),
        "{acked:?}"
    );
    assert_eq!(site.issue_at(a, at(61)).await, None, "it waits");
    let ready = site.store.nodes_with_work(at(61)).await.expect("read");
    assert_eq!(ready, [b.id]);
    assert!(site.issue_at(b, at(61)).await.is_some());
    assert!(site.issue_at(a, at(62)).await.is_some());
}

async fn a_lost_command_runs_again_on_its_node(site: Site) {
    let (mut a, b, scan) = two(&site).await;
    let on_a = site.issue(a).await.expect("a chunk");
    let on_b = site.issue(b).await.expect("a chunk");
    site.reconnect(&mut a, &[], at(30)).await;
    assert_eq!(site.issue_at(b, at(31)).await, None, "its own is in flight");
    let again = site.issue_at(a, at(31)).await.expect("the chunk again");
    assert_eq!((again.scan, first(&again)), (scan, first(&on_a)));
    site.acked(b, on_b.command, AckCode::Ok).await;
    site.acked(a, again.command, AckCode::Ok).await;
    assert_eq!(site.look(scan).await.state, ScanState::Completed);
    site.log(scan).await;
}

fn grace(nodes: &[Node]) -> Grace {
    Grace {
        time: Duration::from_secs(10),
        nodes: nodes.iter().map(|node| node.id).collect(),
    }
}

async fn cancel(site: &Site, scan: ScanId, grace: Grace) -> Canceled {
    let canceled = site
        .store
        .cancel_scan(site.org, scan, grace, site.actor(), at(40));
    canceled.await.expect("canceled")
}

async fn a_cancel_ends_the_scan_when_the_last_node_has_stopped(site: Site) {
    use ScanState::{Canceled, Running};
    let (a, b, scan) = two(&site).await;
    let on_a = site.issue(a).await.expect("a chunk").command;
    let on_b = site.issue(b).await.expect("a chunk").command;
    let canceled = cancel(&site, scan, grace(&[a, b])).await;
    assert_eq!(canceled.in_flight, [on_a, on_b]);
    let orders = site
        .store
        .orders(Site::claim(a.id, &[], at(0)).replica, at(41));
    let orders = orders.await.expect("read").canceled;
    assert_eq!(orders.len(), 2, "{orders:?}");
    site.acked(a, on_a, AckCode::Partial).await;
    assert_eq!(site.states(scan).await, (Running, vec![Canceled, Running]));
    // What the other node found before it stopped is kept.
    let reported = site.reported(b, on_b, vec![plain("10.0.1.7", "80")]);
    assert_eq!(reported.await, (1, 0));
    let acked = site.acked(b, on_b, AckCode::Partial).await;
    assert_eq!(acked, Acked::Chunk { scan, ended: true });
    assert_eq!(
        site.states(scan).await,
        (Canceled, vec![Canceled, Canceled])
    );
    let log = site.log(scan).await;
    assert!(
        matches!(log.last(), Some(LogEvent::Ended(ended)) if ended.conclusion.code == Code::Canceled)
    );
}

async fn a_node_that_cannot_be_asked_to_stop_ends_at_once(site: Site) {
    use ScanState::{Canceled, Running};
    let (a, b, scan) = two(&site).await;
    let on_a = site.issue(a).await.expect("a chunk").command;
    let on_b = site.issue(b).await.expect("a chunk").command;
    let canceled = cancel(&site, scan, grace(&[b])).await;
    assert_eq!(canceled.in_flight, [on_b]);
    assert_eq!(site.states(scan).await, (Running, vec![Canceled, Running]));
    site.acked(a, on_a, AckCode::Ok).await;
    assert_eq!(site.look(scan).await.shares[0].state, Canceled);
    site.acked(b, on_b, AckCode::Partial).await;
    assert_eq!(
        site.states(scan).await,
        (Canceled, vec![Canceled, Canceled])
    );
    site.log(scan).await;
}

async fn the_grace_of_a_cancel_ends_all_commands(site: Site) {
    let (a, b, scan) = two(&site).await;
    let on_a = site.issue(a).await.expect("a chunk").command;
    let on_b = site.issue(b).await.expect("a chunk").command;
    cancel(&site, scan, grace(&[a, b])).await;
    site.sweep_until(40, 50).await;
    let swept = site.store.sweep_commands(at(50)).await.expect("swept");
    assert_eq!(swept.commands, [(a.id, on_a), (b.id, on_b)]);
    assert_eq!(swept.scans, [scan]);
    assert_eq!(site.look(scan).await.state, ScanState::Canceled);
    site.log(scan).await;
}

async fn a_node_without_room_fails_its_share_only(site: Site) {
    use ScanState::{Failed, Queued};
    let (a, b) = (site.node("north").await, site.node("south").await);
    for _ in 0..limits::QUEUED_SCANS {
        site.scan(a, "10.0.0.0/24").await;
    }
    let wanted = || {
        let nodes = [(a, "10.0.0.0/24"), (b, "10.0.1.0/24")];
        ready(&site, &nodes, "10.0.0.0/24 10.0.1.0/24")
    };
    let scan = site.create(wanted()).await.id;
    assert_eq!(site.states(scan).await, (Queued, vec![Failed, Queued]));
    let reason = site.reason(scan, a).await;
    assert!(reason.contains("scans wait for node"), "{reason}");
    for _ in 0..limits::QUEUED_SCANS - 1 {
        site.scan(b, "10.0.1.0/24").await;
    }
    let full = site.store.create_scan(wanted(), site.actor()).await;
    assert!(
        matches!(full, Err(CreateScanError::QueueFull { .. })),
        "{full:?}"
    );
    site.log(scan).await;
}

async fn a_scan_belongs_to_all_its_nodes(site: Site) {
    let (a, b, scan) = two(&site).await;
    let elsewhere = site.node("west").await;
    let listed = async |node: NodeId| {
        let store = &site.store;
        let rows = store.list_scans(site.org, Some(node), None, 10, at(30));
        let rows = rows.await.expect("read").into_iter();
        rows.map(|row| row.id).collect::<Vec<_>>()
    };
    let open = async |node: NodeId| {
        let row = site.store.node(site.org, node).await.expect("read");
        row.expect("known").open_scans
    };
    for (node, scans) in [(a, vec![scan]), (b, vec![scan]), (elsewhere, vec![])] {
        assert_eq!(open(node.id).await as usize, scans.len());
        let history = site.store.scan_history(site.org, node.id).await;
        assert_eq!(history.expect("read").open.len(), scans.len());
        assert_eq!(listed(node.id).await, scans);
    }
    for node in [a, b] {
        let command = site.issue(node).await.expect("a chunk").command;
        site.acked(node, command, AckCode::Ok).await;
        assert_eq!(open(node.id).await, 0);
    }
    for (node, network) in [(a, "10.0.0.1-10.0.0.254"), (b, "10.0.1.1-10.0.1.254")] {
        let history = site.store.scan_history(site.org, node.id).await;
        let history = history.expect("read");
        let [past] = history.past.as_slice() else {
            panic!("{history:?}");
        };
        let addresses: Vec<String> = past.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, [network], "its own share");
    }
}

async fn a_later_scan_is_compared_with_an_earlier_one_of_the_same_sites(site: Site) {
    let (a, b, before) = two(&site).await;
    let again = || {
        let nodes = [(a, "10.0.0.0/24"), (b, "10.0.1.0/24")];
        ready(&site, &nodes, "10.0.0.0/24 10.0.1.0/24")
    };
    let finish = async |addresses: [&str; 2]| {
        for (node, ip) in [a, b].into_iter().zip(addresses) {
            let command = site.issue(node).await.expect("a chunk").command;
            site.reported(node, command, vec![plain(ip, "80")]).await;
            site.acked(node, command, AckCode::Ok).await;
        }
    };
    finish(["10.0.0.7", "10.0.1.7"]).await;
    let after = site.create(again()).await.id;
    finish(["10.0.0.7", "10.0.1.8"]).await;
    // One node of another site scans the same targets, which are other hosts there.
    let alone = site.node("west").await;
    let far = site.scan(alone, "10.0.0.0/24 10.0.1.0/24").await;
    let against = async |scan| {
        let store = &site.store;
        let found = store.scan_difference(site.org, scan, Against::Previous, at(90));
        found.await.expect("read").against.map(|row| row.id)
    };
    assert_eq!(against(after).await, Some(before));
    assert_eq!(against(far).await, None);
}

async fn a_schedule_keeps_the_nodes_as_they_were_named(site: Site) {
    use fleet_inventory::{Run, TimingText};
    let node = site.node("north").await;
    let row = site.store.node(site.org, node.id).await.expect("read");
    let of_site = NodeChoice::Site(row.expect("known").site);
    let run = Run {
        due: at(100),
        at: at(100),
    };
    let new = NewSchedule {
        id: fleet_core::ScheduleId::new(at(1), [8; 10]),
        org: site.org,
        operator: site.operator,
        scan: ScheduledScan {
            name: "nightly".to_owned(),
            choice: of_site.clone(),
            node: node.id,
            request: site.new_scan(node.id, "10.0.0.0/24", &["80"]).request,
            timing: TimingText {
                when: "every 1h".to_owned(),
                zone: "UTC".to_owned(),
                jitter: Duration::ZERO,
                blackouts: String::new(),
            },
        },
        next: Some(run),
        now: at(20),
    };
    let schedule = site.store.create_schedule(new, site.actor()).await;
    let schedule = schedule.expect("created");
    assert_eq!(schedule.scan.choice, of_site);
    let settle = async |choice: NodeChoice| {
        let scan = NewScan {
            choice,
            ..site.new_scan(node.id, "10.0.0.0/24", &["80"])
        };
        let run = SettledRun {
            schedule: schedule.id,
            expected: run,
            due: run.due,
            missed: 0,
            next: None,
            scan: Ok(Box::new(scan)),
            now: at(100),
        };
        site.store.settle_run(run).await.expect("settled")
    };
    let other = NodeChoice::Site(SiteId(i64::MAX));
    assert_eq!(settle(other).await, Settled::Stale, "it was changed since");
    let settled = settle(of_site.clone()).await;
    let Settled::Scan(scan, nodes) = settled else {
        panic!("{settled:?}");
    };
    assert_eq!(nodes, [node.id]);
    assert_eq!(site.look(scan).await.choice, of_site);
}
