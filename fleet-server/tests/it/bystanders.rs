//! A failure or a flood of one caller does not affect others.

use fleet_core::Role;
use fleet_wire::{Code, admin::CreateEnrollmentCodeRequest, gateway::AckCode};

use crate::harness::{
    Enrolled, Profile, World, bearer, eventually, heartbeat, list, refused, start,
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
async fn a_node_may_have_eight_calls_at_a_time_on_a_connection() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let token = enrolled.sign_in(&world).await;
    let gateway = world.gateway();
    let mut streams = Vec::new();
    for opened in 0..8 {
        assert!(heartbeat(&gateway, &token).await.is_ok(), "{opened} calls");
        streams.push(gateway.control_stream(bearer(&token)).await.expect("opens"));
        // With the heartbeat this is one call more than there are streams.
        if opened == 7 {
            let is_full = || async { heartbeat(&gateway, &token).await.is_err() };
            eventually(is_full).await;
        }
    }
    let error = refused(heartbeat(&gateway, &token).await, Code::ResourceExhausted);
    assert!(error.message.contains("wait for one to end"), "{error}");
    heartbeat(&world.gateway(), &token)
        .await
        .expect("another connection has room");
}
