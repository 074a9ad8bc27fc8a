//! Races: concurrent operations must preserve the invariants. The tests do not depend on timing. Every order of events
//! is valid, so they assert only the invariants.

use std::sync::Arc;

use fleet_core::{InstanceId, OrgId, Role, ScanState, outcome::AckCode};
use fleet_store::*;
use tokio::{sync::Barrier, task::JoinSet};

use crate::site::{Site, at, command_id, mac, plain, secret, with_mac};

contract! {
    of_many_with_one_code_one_registers
    of_many_with_one_name_one_registers
    a_challenge_is_taken_by_one
    epochs_of_racing_streams_are_distinct
    one_command_is_issued_however_many_ask
    the_same_report_delivered_at_once_counts_once
    a_report_races_the_ack
    a_report_races_the_revocation
    two_nodes_find_the_same_device_at_once
    one_request_id_makes_one_scan
    everything_that_ends_a_scan_at_once_ends_it_once
    one_email_makes_one_operator
    administrators_who_remove_each_other_leave_one
    machines_that_fight_for_a_node_leave_one_current
}

/// Runs all futures simultaneously and returns their results.
pub(crate) async fn at_once<T: Send + 'static>(
    tasks: Vec<impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let start = Arc::new(Barrier::new(tasks.len()));
    let mut running = JoinSet::new();
    for task in tasks {
        let start = Arc::clone(&start);
        running.spawn(async move {
            start.wait().await;
            task.await
        });
    }
    running.join_all().await
}

const MANY: u64 = 12;

async fn of_many_with_one_code_one_registers(site: Site) {
    site.code("code").await;
    let register = |n| {
        let store = site.store.clone();
        async move {
            store
                .register_node(Site::newcomer("code", &format!("node {n}")))
                .await
        }
    };
    let answers = at_once((0..MANY).map(register).collect()).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    assert!(
        lost.iter()
            .all(|answer| matches!(answer, Err(RegisterError::Code))),
        "{lost:?}"
    );
    assert_eq!(
        site.store
            .list_nodes(site.org, fleet_store::ListPage::FIRST)
            .await
            .expect("read")
            .len(),
        1
    );
}

async fn of_many_with_one_name_one_registers(site: Site) {
    for n in 0..MANY {
        site.code(&format!("code {n}")).await;
    }
    let register = |n| {
        let store = site.store.clone();
        let new = NewNode {
            identity_key: [n as u8; 32],
            ..Site::newcomer(&format!("code {n}"), "north")
        };
        async move { store.register_node(new).await }
    };
    let answers = at_once((0..MANY).map(register).collect()).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    assert!(
        lost.iter()
            .all(|answer| matches!(answer, Err(RegisterError::NameTaken(_)))),
        "{lost:?}"
    );
    let open = site
        .store
        .list_codes(site.org, fleet_store::ListPage::FIRST)
        .await
        .expect("read");
    assert_eq!(
        open.iter().filter(|code| code.node.is_none()).count() as u64,
        MANY - 1,
        "their codes stay usable"
    );
}

async fn a_challenge_is_taken_by_one(site: Site) {
    site.confirmed("north").await;
    let identity = Site::newcomer("", "north").identity_key;
    site.store
        .begin_handshake(secret("north's key"), identity, secret("c"), at(60))
        .await
        .expect("begun");
    let take = |_| {
        let store = site.store.clone();
        async move {
            store
                .take_challenge(secret("c"), at(1))
                .await
                .expect("read")
        }
    };
    let answers = at_once((0..MANY).map(take).collect()).await;
    assert_eq!(answers.into_iter().flatten().count(), 1);
}

async fn epochs_of_racing_streams_are_distinct(site: Site) {
    let node = site.confirmed("north").await;
    let claim = |_| {
        let store = site.store.clone();
        async move {
            store
                .claim_stream(Site::claim(node, &[], at(3)))
                .await
                .expect("claimed")
                .epoch
        }
    };
    let mut epochs = at_once((0..MANY).map(claim).collect()).await;
    epochs.sort_unstable();
    assert_eq!(
        epochs.iter().map(|epoch| epoch.0).collect::<Vec<_>>(),
        (1..=MANY as i64).collect::<Vec<_>>()
    );
    for epoch in &epochs {
        let current = site.store.is_current(node, *epoch).await.expect("read");
        assert_eq!(current, Some(epoch) == epochs.last());
    }
}

async fn one_command_is_issued_however_many_ask(site: Site) {
    let node = site.node("north").await;
    for _ in 0..3 {
        site.scan(node, "10.0.0.0/20").await;
    }
    let issue = |_| {
        let store = site.store.clone();
        async move {
            store
                .issue_command(node.id, node.epoch, command_id(), at(20))
                .await
                .expect("answered")
        }
    };
    let answers = at_once((0..MANY).map(issue).collect()).await;
    assert_eq!(answers.into_iter().flatten().count(), 1);
    assert_eq!(site.number("SELECT count(*) FROM command").await, 1);
    assert_eq!(
        site.number("SELECT count(*) FROM chunk WHERE attempts > 0")
            .await,
        1
    );
}

async fn the_same_report_delivered_at_once_counts_once(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    let rows = (1..=50)
        .map(|n| plain(&format!("10.0.0.{n}"), "80"))
        .chain([plain("10.9.0.1", "80")])
        .collect();
    let report = site.report(node, command.command, rows);
    let deliver = |n| {
        let store = site.store.clone();
        // Half of the copies have another digest: the same rows in other envelopes.
        let mut report = report.clone();
        if n % 2 == 0 {
            report.digest = [n as u8; 32];
        }
        async move { store.record_report(report).await.expect("answered") }
    };
    let answers = at_once((0..MANY).map(deliver).collect()).await;
    assert!(
        answers
            .iter()
            .all(|answer| (answer.accepted, answer.rejected) == (50, 1)),
        "{answers:?}"
    );
    assert_eq!(site.stored_events(command.scan).await.len(), 50);
    assert_eq!(site.devices().await.len(), 50);
    assert_eq!(site.number("SELECT rows FROM command").await, 50);
}

async fn a_report_races_the_ack(site: Site) {
    let node = site.node("north").await;
    for round in 0..8 {
        let command = site.running(node, "10.0.0.0/24").await;
        let (store, ack) = (
            site.store.clone(),
            Site::ack(node, command.command, AckCode::Ok),
        );
        let acking = tokio::spawn(async move { store.record_ack(ack).await.expect("acked") });
        let report = site.report(
            node,
            command.command,
            vec![plain(&format!("10.0.0.{}", round + 1), "80")],
        );
        let stored = match site.store.record_report(report).await {
            Ok(answer) => answer.accepted,
            Err(ReportError::NotInFlight(_)) => 0,
            Err(error) => panic!("{error:?}"),
        };
        assert_eq!(
            acking.await.expect("ran"),
            Acked::Chunk {
                scan: command.scan,
                ended: true
            }
        );
        let ledger = site.look(command.scan).await.ledger.expect("ended");
        assert_eq!(
            (ledger.accepted, ledger.identified),
            (stored, stored),
            "accepted is in the ledger, or refused"
        );
        assert_eq!(site.stored_events(command.scan).await.len() as u64, stored);
    }
}

async fn a_report_races_the_revocation(site: Site) {
    for round in 0..6 {
        let node = site.node(&format!("node {round}")).await;
        let command = site.running(node, "10.0.0.0/24").await;
        let (store, actor, org) = (site.store.clone(), site.actor(), site.org);
        let revoking = tokio::spawn(async move {
            store
                .revoke_node(org, node.id, None, actor, at(40))
                .await
                .expect("revoked")
        });
        let report = site.report(node, command.command, vec![plain("10.0.0.7", "80")]);
        let stored = match site.store.record_report(report).await {
            Ok(answer) => answer.accepted,
            Err(ReportError::NotInFlight(_)) => 0,
            Err(error) => panic!("{error:?}"),
        };
        assert_eq!(revoking.await.expect("ran").scans, [command.scan]);
        let row = site.look(command.scan).await;
        assert_eq!(
            (row.state, row.ledger.map(|ledger| ledger.accepted)),
            (ScanState::Failed, Some(stored))
        );
        assert_eq!(site.stored_events(command.scan).await.len() as u64, stored);
    }
}

async fn two_nodes_find_the_same_device_at_once(site: Site) {
    let (north, south) = (site.node("north").await, site.node("south").await);
    for round in 0..6_usize {
        let mut deliveries = Vec::new();
        for node in [north, south] {
            let command = site.running(node, "10.0.0.0/24").await;
            // The reports have opposite row order. They would deadlock if locks were taken in that order.
            let mut numbers: Vec<usize> = (1..=40).collect();
            if node.id == south.id {
                numbers.reverse();
            }
            let rows = numbers
                .iter()
                .map(|n| with_mac(&format!("10.0.0.{n}"), &mac(round / 2 * 100 + n)))
                .collect();
            let report = site.report(node, command.command, rows);
            let store = site.store.clone();
            deliveries.push(async move {
                let answer = store.record_report(report).await.expect("answered");
                store
                    .record_ack(Site::ack(node, command.command, AckCode::Ok))
                    .await
                    .expect("acked");
                (answer.accepted, answer.rejected)
            });
        }
        let mut answers = at_once(deliveries).await;
        answers.sort_unstable();
        assert_eq!(
            answers,
            [(0, 40), (40, 0)],
            "one of them owns all or, in later rounds, all still"
        );
    }
    assert_eq!(site.devices().await.len(), 120);
}

async fn one_request_id_makes_one_scan(site: Site) {
    let node = site.node("north").await;
    let create = |_| {
        let new = NewScan {
            request_id: Some("once".into()),
            ..site.new_scan(node.id, "10.0.0.0/24", &["80"])
        };
        let (store, actor) = (site.store.clone(), site.actor());
        async move { store.create_scan(new, actor).await.expect("answered") }
    };
    let answers = at_once((0..MANY).map(create).collect()).await;
    assert_eq!(answers.iter().filter(|answer| !answer.existing).count(), 1);
    assert!(
        answers
            .iter()
            .all(|answer| answer.scan.id == answers[0].scan.id)
    );
    assert_eq!(site.number("SELECT count(*) FROM scan").await, 1);
}

async fn everything_that_ends_a_scan_at_once_ends_it_once(site: Site) {
    for round in 0..6 {
        let node = site.node(&format!("node {round}")).await;
        let command = site.running(node, "10.0.0.0/24").await;
        let org: OrgId = site.org;
        let ending = |way: u64| {
            let (store, actor) = (site.store.clone(), site.actor());
            async move {
                match way {
                    0 => drop(
                        store
                            .record_ack(Site::ack(node, command.command, AckCode::Ok))
                            .await
                            .expect("acked"),
                    ),
                    1 => drop(
                        store
                            .cancel_scan(org, command.scan, Grace::NONE, actor, at(41))
                            .await
                            .expect("canceled"),
                    ),
                    2 => drop(store.sweep_commands(at(1_000_000)).await.expect("swept")),
                    3 => drop(
                        store
                            .revoke_node(org, node.id, None, actor, at(42))
                            .await
                            .expect("revoked"),
                    ),
                    _ => drop(store.claim_stream(Site::claim(node.id, &[], at(43))).await),
                }
            }
        };
        at_once((0..5).map(ending).collect()).await;
        let row = site.look(command.scan).await;
        assert!(row.state.is_terminal() && row.ledger.is_some_and(|ledger| ledger.adds_up()));
        site.log(command.scan).await;
        assert_eq!(
            site.number("SELECT count(*) FROM command WHERE state = 'issued'")
                .await,
            0
        );
    }
}

async fn one_email_makes_one_operator(site: Site) {
    let create = |n| {
        let new = NewOperator {
            org: "new org".into(),
            email: format!("new{}@acme.test", n / 2),
            role: fleet_core::Role::Viewer,
            now: at(1),
        };
        let store = site.store.clone();
        async move { store.create_operator(new, Actor::SYSTEM).await }
    };
    let answers = at_once((0..MANY).map(create).collect()).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((won.len() as u64, lost.len() as u64), (MANY / 2, MANY / 2));
    assert!(
        lost.iter()
            .all(|answer| matches!(answer, Err(CreateOperatorError::EmailTaken(_)))),
        "{lost:?}"
    );
    assert_eq!(site.number("SELECT count(*) FROM org").await, 2);
}

async fn administrators_who_remove_each_other_leave_one(site: Site) {
    let mut admins = vec![site.operator];
    for n in 1..MANY {
        let new = NewOperator {
            org: "acme".into(),
            email: format!("admin{n}@acme.test"),
            role: Role::Admin,
            now: at(1),
        };
        let created = site.store.create_operator(new, Actor::SYSTEM).await;
        admins.push(created.expect("created"));
    }
    let leave = admins.into_iter().zip(0..).map(|(admin, n)| {
        let (store, org, actor) = (site.store.clone(), site.org, site.actor());
        async move {
            if n % 2 == 0 {
                store.remove_member(org, admin, actor, at(2)).await
            } else {
                store.set_role(org, admin, Role::Viewer, actor, at(2)).await
            }
        }
    });
    let answers = at_once(leave.collect()).await;
    let refused: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    assert!(
        matches!(refused[..], [MemberError::LastAdmin(_)]),
        "{refused:?}"
    );
    let members = site
        .store
        .list_members(site.org, fleet_store::ListPage::FIRST, at(3))
        .await
        .expect("read");
    let admins = members.iter().filter(|member| member.role == Role::Admin);
    assert_eq!(admins.count(), 1);
}

async fn machines_that_fight_for_a_node_leave_one_current(site: Site) {
    let node = site.confirmed("north").await;
    let claim = |n: u64| {
        let claim = StreamClaim {
            instance: Some(InstanceId([u8::try_from(n % 2).expect("small"); 16])),
            ..Site::claim(node, &[], at(10))
        };
        let store = site.store.clone();
        async move { store.claim_stream(claim).await }
    };
    let answers = at_once((0..MANY).map(claim).collect()).await;
    let mut current = 0;
    for answer in answers {
        match answer {
            Ok(claimed) => {
                let is_current = site.store.is_current(node, claimed.epoch).await;
                current += usize::from(is_current.expect("read"));
            }
            Err(error) => assert!(matches!(error, ClaimError::Duplicate { .. }), "{error}"),
        }
    }
    assert_eq!(current, 1);
}
