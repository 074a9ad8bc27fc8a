//! A failure or a flood of one caller does not affect others.

use fleet_core::Role;
use fleet_wire::{
    Code,
    admin::CreateEnrollmentCodeRequest,
    fleet::{ScanClient, WatchScanRequest},
    gateway::{AckCode, FleetNodeGatewayClient},
};
use tokio::task::JoinSet;

use crate::harness::{
    Enrolled, Profile, World, bearer, eventually, heartbeat, list, refused, soon, start,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_ends_only_its_request() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let admin = operator.admin();
    let request = CreateEnrollmentCodeRequest::default();
    world.clock.break_randomness(true);
    let answer = admin
        .create_enrollment_code(&request, operator.options())
        .await;
    let error = refused(answer, Code::Internal);
    assert!(!error.message.contains("randomness"), "{error}");
    world.clock.break_randomness(false);
    admin
        .create_enrollment_code(&request, operator.options())
        .await
        .expect("the connection is good still");
    start(&operator, &enrolled, list(&["10.0.0.1"], &["80"])).await;
    node.command().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_background_task_that_panics_is_restarted() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &["80"])).await;
    let mut node = enrolled.connect(&world, Profile::upstream()).await;
    let (command, _) = node.command().await;
    let second = start(&operator, &enrolled, list(&["10.0.0.2"], &["80"])).await;
    world.clock.break_randomness(true);
    // The next command needs an id, which cannot be made.
    node.ack(&command, AckCode::Ok).await;
    scan.is("SCAN_STATE_COMPLETED").await;
    eventually(|| async { world.clock.panics() > 0 }).await;
    world.clock.break_randomness(false);
    let (command, _) = node.command().await;
    node.ack(&command, AckCode::Ok).await;
    second.is("SCAN_STATE_COMPLETED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_nodes_and_watchers_share_one_connection_of_a_proxy() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let shared = world.channel();
    let (gateway, scans) = (
        FleetNodeGatewayClient::new(shared.clone()),
        ScanClient::new(shared),
    );
    let mut tokens = Vec::new();
    let mut open = JoinSet::new();
    for _ in 0..20 {
        let enrolled = Enrolled::new(&world, &operator).await;
        let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &["80"])).await;
        let request = WatchScanRequest {
            scan_id: scan.id,
            after_sequence: 0,
        };
        let watch = scans.watch_scan(&request, operator.options()).await;
        let mut watch = watch.expect("opens");
        assert!(soon(watch.message()).await.expect("is served").is_some());
        let token = enrolled.sign_in(&world).await;
        let (up, mut down) = gateway.control_stream(bearer(&token)).await.expect("opens");
        open.spawn(async move {
            let ended = tokio::join!(down.message(), watch.message());
            drop(up);
            ended
        });
        tokens.push(token);
        for token in &tokens {
            heartbeat(&gateway, token)
                .await
                .expect("calls of others do not count");
        }
    }
    drop(open);
}
