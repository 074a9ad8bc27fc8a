//! Commands: from dispatch to ack, cancel or deadline, and the reports in between.

use std::{collections::BTreeSet, time::Duration};

use fleet_core::Role;
use fleet_wire::{Code, gateway::AckCode, pairing::discover_request::Mode};

use crate::harness::{
    Enrolled, Node, Operator, Profile, Started, World, device, eventually, list, range, refused,
    start, target,
};

async fn connected(world: &World, profile: Profile) -> (Operator, Enrolled, Node) {
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(world, &operator).await;
    let node = enrolled.connect(world, profile).await;
    (operator, enrolled, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_ack_determines_the_outcome_of_the_scan() {
    let world = World::new().await;
    let (operator, enrolled, mut node) = connected(&world, Profile::upstream()).await;
    for (code, state, reported) in [
        (AckCode::Ok, "SCAN_STATE_COMPLETED", "ok"),
        (AckCode::Partial, "SCAN_STATE_PARTIAL", "ok"),
        (AckCode::BadRequest, "SCAN_STATE_FAILED", "invalid_argument"),
        (
            AckCode::AgentIncapable,
            "SCAN_STATE_FAILED",
            "failed_precondition",
        ),
        (AckCode::ReportFailed, "SCAN_STATE_FAILED", "internal"),
        (AckCode::ScanFailed, "SCAN_STATE_FAILED", "internal"),
        (AckCode::Forbidden, "SCAN_STATE_FAILED", "internal"),
        (AckCode::Unspecified, "SCAN_STATE_FAILED", "internal"),
    ] {
        let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &["80"])).await;
        let (command, _) = node.command().await;
        node.ack_with(&command, code, "the node's \u{1b}[31m words")
            .await;
        let ended = scan.is(state).await;
        assert_eq!(ended.code, reported, "{code:?}: {}", ended.reason);
        assert!(!ended.reason.contains('\u{1b}'), "{:?}", ended.reason);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_node_gets_forms_that_it_supports_and_ours_gets_literals() {
    let world = World::new().await;
    let (operator, upstream, mut node) = connected(&world, Profile::upstream()).await;
    start(&operator, &upstream, target("10.0.0.0/22", &["80"])).await;
    let (_, request) = node.command().await;
    match request.mode {
        Some(Mode::Nmap(asked)) => assert_eq!(asked.target, "10.0.0.0/22"),
        other => panic!("not as a target: {other:?}"),
    }
    let ours = Enrolled::new(&world, &operator).await;
    let mut node = ours.connect(&world, Profile::ours()).await;
    start(&operator, &ours, range("10.0.0.0", "10.0.0.4", &["80"])).await;
    let (_, request) = node.command().await;
    match request.mode {
        Some(Mode::IpList(asked)) => {
            let all = [0, 1, 2, 3, 4].map(|host| format!("10.0.0.{host}"));
            assert_eq!(asked.ip_addresses, all);
            assert_eq!(asked.ports, ["80"]);
        }
        other => panic!("not as a list: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_accepted_only_from_the_commands_node_while_it_is_in_flight() {
    let world = World::new().await;
    let (operator, enrolled, mut node) = connected(&world, Profile::ours()).await;
    let other = Enrolled::new(&world, &operator).await;
    let liar = other.connect(&world, Profile::ours()).await;
    let scan = start(
        &operator,
        &enrolled,
        list(&["10.0.0.1", "10.0.0.2"], &["4028"]),
    )
    .await;
    let (command, _) = node.command().await;
    let lie = liar.report(&command, vec![device("10.0.0.1")]).await;
    refused(lie, Code::FailedPrecondition);
    refused(
        node.report("no command of ours", vec![device("10.0.0.1")])
            .await,
        Code::FailedPrecondition,
    );
    // One inside the scope, one outside; the same again changes nothing.
    for _ in 0..2 {
        let rows = vec![device("10.0.0.1"), device("10.0.0.9"), device("8.8.8.8")];
        let answer = node.report(&command, rows).await.expect("is taken");
        assert_eq!((answer.accepted_count, answer.rejected_count), (1, 2));
    }
    node.ack(&command, AckCode::Ok).await;
    let ended = scan.is("SCAN_STATE_COMPLETED").await;
    let ledger = ended.ledger.expect("has ended");
    assert_eq!(
        (ledger.accepted, ledger.rejected, ledger.identified),
        (1, 2, 1)
    );
    let late = node.report(&command, vec![device("10.0.0.2")]).await;
    refused(late, Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn exceeding_the_quota_is_refused_without_a_retry_hint() {
    let world = World::new().await;
    let (operator, enrolled, mut node) = connected(&world, Profile::ours()).await;
    start(&operator, &enrolled, list(&["10.0.0.1"], &["4028"])).await;
    let (command, _) = node.command().await;
    let mut rows = vec![device("10.0.0.1")];
    node.report(&command, rows.clone()).await.expect("is taken");
    // The same endpoint again, under another identity: a second row for one quota slot.
    rows[0].device_identifier = "serial:another".into();
    rows[0].mac_address = String::new();
    rows[0].serial_number = "another".into();
    match node.report(&command, rows).await {
        Ok(answer) => assert_eq!((answer.accepted_count, answer.rejected_count), (0, 1)),
        Err(error) => {
            assert_eq!(error.code, Code::ResourceExhausted, "{error}");
            assert_eq!(error.retry_after(), None);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_floods_refused_rows_loses_its_command_and_gets_the_next() {
    let world = World::new().await;
    let (operator, enrolled, mut node) = connected(&world, Profile::ours()).await;
    start(&operator, &enrolled, list(&["10.0.0.1"], &["4028"])).await;
    let (command, _) = node.command().await;
    let mut ended = None;
    for report in 0..12 {
        let outside = |row: i32| device(&format!("10.{}.{}.{}", report + 1, row / 256, row % 256));
        if let Err(error) = node
            .report(&command, (0..1_024).map(outside).collect())
            .await
        {
            ended = Some(error);
            break;
        }
    }
    let error = ended.expect("is cut off");
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    assert_eq!(error.retry_after(), None);
    assert_eq!(node.cancel().await, command);
    start(&operator, &enrolled, list(&["10.0.0.2"], &["4028"])).await;
    node.command().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn canceling_stops_a_node_that_understands_it_and_keeps_its_results() {
    let world = World::new().await;
    let (operator, enrolled, mut node) = connected(&world, Profile::ours()).await;
    let scan = start(
        &operator,
        &enrolled,
        list(&["10.0.0.1", "10.0.0.2"], &["4028"]),
    )
    .await;
    let (command, _) = node.command().await;
    node.report(&command, vec![device("10.0.0.1")])
        .await
        .expect("is taken");
    let reported = async {
        assert_eq!(node.cancel().await, command);
        node.report(&command, vec![device("10.0.0.2")])
            .await
            .expect("is taken still");
        node.ack(&command, AckCode::Partial).await;
    };
    let (canceled, ()) = tokio::join!(scan.cancel(), reported);
    assert_eq!(canceled.state().as_str_name(), "SCAN_STATE_CANCELED");
    assert_eq!(canceled.code, "canceled");
    assert_eq!(canceled.ledger.expect("has ended").accepted, 2);
    // Once more changes nothing.
    assert_eq!(scan.cancel().await.last_sequence, canceled.last_sequence);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canceled_scan_ends_without_a_node_that_does_not_stop_and_releases_its_permit() {
    let world = World::new().await;
    let (operator, enrolled, mut node) = connected(&world, Profile::ours()).await;
    let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &["4028"])).await;
    let (command, _) = node.command().await;
    let pending = scan.cancel().await;
    assert_eq!(pending.state().as_str_name(), "SCAN_STATE_RUNNING");
    node.cancel().await;
    world.clock.pass(Duration::from_secs(11));
    scan.is("SCAN_STATE_CANCELED").await;
    let late = node.report(&command, vec![device("10.0.0.1")]).await;
    refused(late, Code::FailedPrecondition);
    start(&operator, &enrolled, list(&["10.0.0.2"], &["4028"])).await;
    node.command().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_nodes_scan_is_canceled_at_once_while_its_command_keeps_the_permit_and_its_reports()
 {
    let world = World::new().await;
    let (operator, enrolled, mut node) = connected(&world, Profile::upstream()).await;
    let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &["4028"])).await;
    let (command, _) = node.command().await;
    let canceled = scan.cancel().await;
    assert_eq!(canceled.state().as_str_name(), "SCAN_STATE_CANCELED");
    let next = start(&operator, &enrolled, list(&["10.0.0.2"], &["4028"])).await;
    let answer = node.report(&command, vec![device("10.0.0.1")]).await;
    assert_eq!(answer.expect("is stored").accepted_count, 1);
    assert_eq!(next.get().await.state().as_str_name(), "SCAN_STATE_QUEUED");
    node.ack(&command, AckCode::Ok).await;
    let (second, _) = node.command().await;
    assert_ne!(second, command);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_node_gets_the_command_again_later() {
    let world = World::new().await;
    let (operator, enrolled, mut node) = connected(&world, Profile::upstream()).await;
    let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &["80"])).await;
    let (first, _) = node.command().await;
    node.ack(&first, AckCode::Busy).await;
    world.clock.pass(Duration::from_secs(3));
    let (second, _) = node.command().await;
    assert_ne!(first, second, "another command of the same chunk");
    node.ack(&second, AckCode::Ok).await;
    scan.is("SCAN_STATE_COMPLETED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_without_an_ack_ends_at_its_deadline_and_its_chunk_is_sent_again() {
    let world = World::new().await;
    let (operator, enrolled, mut node) = connected(&world, Profile::upstream()).await;
    let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &["80"])).await;
    let mut commands = BTreeSet::new();
    for _ in 0..3 {
        commands.insert(node.command().await.0);
        // The server's own sweep has to find the deadline, because it also releases the node.
        world.serve_for(Duration::from_secs(719)).await;
    }
    assert_eq!(commands.len(), 3, "each under a new id");
    let ended = scan.is("SCAN_STATE_FAILED").await;
    assert_eq!(ended.code, "deadline_exceeded");
    let next = start(&operator, &enrolled, list(&["10.0.0.2"], &["80"])).await;
    let (command, _) = node.command().await;
    node.ack(&command, AckCode::Ok).await;
    next.is("SCAN_STATE_COMPLETED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_outlasts_an_outage_of_the_server_and_a_step_of_the_clock() {
    let mut world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &["4028"]))
        .await
        .id;
    let (command, _) = node.command().await;
    world.serve_for(Duration::from_secs(30)).await;
    world.stop().await;
    world.clock.pass(Duration::from_secs(780));
    world.start().await;
    // The first sweeps come before the node.
    world.serve_for(Duration::from_secs(60)).await;
    let mut node = enrolled
        .connect(&world, Profile::ours().running(&command))
        .await;
    let kept = node.report(&command, vec![device("10.0.0.1")]).await;
    assert_eq!(kept.expect("is stored").accepted_count, 1);
    world.clock.pass(Duration::from_secs(780));
    world.serve_for(Duration::from_secs(60)).await;
    node.ack(&command, AckCode::Ok).await;
    let operator = operator.at(&world);
    Started::known(&operator, &scan)
        .is("SCAN_STATE_COMPLETED")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_the_next_hello_lists_continues() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let profile = Profile::ours();
    let mut node = enrolled.connect(&world, profile.clone()).await;
    let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &["4028"])).await;
    let (command, _) = node.command().await;
    drop(node);
    let mut back = enrolled.connect(&world, profile.running(&command)).await;
    back.report(&command, vec![device("10.0.0.1")])
        .await
        .expect("is taken");
    back.ack(&command, AckCode::Ok).await;
    let ended = scan.is("SCAN_STATE_COMPLETED").await;
    assert_eq!(ended.ledger.expect("has ended").accepted, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_the_next_hello_omits_ends_and_its_chunk_is_issued_again() {
    let world = World::new().await;
    let (operator, enrolled, mut node) = connected(&world, Profile::upstream()).await;
    let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &["4028"])).await;
    let (lost, _) = node.command().await;
    drop(node);
    let mut back = enrolled.connect(&world, Profile::upstream()).await;
    let (again, _) = back.command().await;
    assert_ne!(lost, again);
    refused(
        back.report(&lost, vec![device("10.0.0.1")]).await,
        Code::FailedPrecondition,
    );
    back.ack(&again, AckCode::Ok).await;
    scan.is("SCAN_STATE_COMPLETED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_reaches_a_node_that_was_disconnected() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let profile = Profile::ours();
    let mut node = enrolled.connect(&world, profile.clone()).await;
    let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &["4028"])).await;
    let (command, _) = node.command().await;
    drop(node);
    eventually(|| async {
        let row = fleet_store::Enrollment::node(&world.store, operator.org, enrolled.id).await;
        row.expect("it reads").expect("it is there").stream_ended()
    })
    .await;
    let canceled = scan.cancel().await;
    assert_eq!(canceled.state().as_str_name(), "SCAN_STATE_CANCELED");
    let mut back = enrolled.connect(&world, profile.running(&command)).await;
    assert_eq!(back.cancel().await, command);
}
