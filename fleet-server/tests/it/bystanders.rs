//! What goes wrong for one is nobody else's trouble.

use std::time::Duration;

use fleet_core::Role;
use fleet_wire::{Code, admin::CreateEnrollmentCodeRequest, gateway::AckCode};

use crate::harness::{Enrolled, Profile, World, bearer, heartbeat, list, refused, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_ends_its_request_only() {
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
async fn background_work_that_panics_starts_anew() {
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
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.clock.break_randomness(false);
    let (command, _) = node.command().await;
    node.ack(&command, AckCode::Ok).await;
    second.is("SCAN_STATE_COMPLETED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_have_eight_calls_at_a_time_on_a_connection() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let token = enrolled.sign_in(&world).await;
    let gateway = world.gateway();
    let mut streams = Vec::new();
    for _ in 0..8 {
        let (up, mut down) = gateway.control_stream(bearer(&token)).await.expect("opens");
        // Opened for sure: whatever comes on this connection after it is its neighbor.
        tokio::select! {
            ended = down.message() => panic!("ended: {ended:?}"),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
        streams.push((up, down));
    }
    let error = refused(heartbeat(&gateway, &token).await, Code::ResourceExhausted);
    assert!(error.message.contains("wait for one to end"), "{error}");
    heartbeat(&world.gateway(), &token)
        .await
        .expect("another connection has room");
}
