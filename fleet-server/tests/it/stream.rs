//! Control streams: Hello, eviction, takeover, revocation.

use std::time::Duration;

use fleet_core::Role;
use fleet_wire::{
    Code,
    admin::RevokeFleetNodeRequest,
    fleet::ListNodesRequest,
    gateway::{AckCode, ControlAck, GoodbyeReason, control_stream_request},
};

use crate::harness::{Enrolled, Node, Profile, World, eventually, heartbeat, list, refused, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_have_a_few_silent_streams_and_each_ends_without_its_hello() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let noisy = Enrolled::new(&world, &operator).await;
    let token = noisy.sign_in(&world).await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(Node::dial(&world, &token).await);
    }
    let mut codes = Vec::new();
    for stream in &mut streams {
        codes.push(stream.end().await.expect_err("is refused").code);
    }
    codes.sort_by_key(|code| code.as_str());
    let mut expected = vec![Code::FailedPrecondition; 8];
    expected.extend([Code::ResourceExhausted; 2]);
    assert_eq!(codes, expected);
    // Their slots are free again.
    noisy.connect(&world, Profile::ours()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_message_must_be_a_hello_within_its_bounds() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let token = enrolled.sign_in(&world).await;

    let mut node = Node::dial(&world, &token).await;
    node.ack("0199d2c0-5b1e-7c3a-9f00-1234567890ab", AckCode::Ok)
        .await;
    let error = refused(node.end().await, Code::InvalidArgument);
    assert!(error.message.contains("Hello"), "{error}");

    let mut profile = Profile::ours();
    profile.0.version = "v".repeat(65);
    let error = Node::try_connect(&world, &token, profile).await;
    assert_eq!(error.code, Code::InvalidArgument, "{error}");
    assert!(error.message.contains("version"), "{error}");

    let mut node = Node::dial(&world, &token).await;
    node.hang_up();
    refused(node.end().await, Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_stream_wins_and_our_node_gets_a_goodbye() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let profile = Profile::ours();
    let mut older = enrolled.connect(&world, profile.clone()).await;
    let mut newer = Node::dial(&world, &older.token).await;
    newer
        .say(control_stream_request::Kind::Hello(profile.0))
        .await;
    assert!(newer.accepted().await > 1, "a greater epoch");
    assert_eq!(older.goodbye().await.reason(), GoodbyeReason::Replaced);
    older.end().await.expect("ends cleanly");
    // The end of the old stream has not unregistered the new one.
    start(&operator, &enrolled, list(&["10.0.0.1"], &["80"])).await;
    newer.command().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_stream_of_an_upstream_node_ends_cleanly_without_a_message() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut older = enrolled.connect(&world, Profile::upstream()).await;
    let _newer = enrolled.connect(&world, Profile::upstream()).await;
    assert_eq!(older.next().await.expect("ends cleanly"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_messages_are_dropped_and_the_stream_continues() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    node.ack("0199d2c0-5b1e-7c3a-9f00-1234567890ab", AckCode::Ok)
        .await;
    node.ack("not an id of ours", AckCode::Ok).await;
    node.say(control_stream_request::Kind::Hello(Profile::ours().0))
        .await;
    node.say(control_stream_request::Kind::Ack(ControlAck {
        command_id: "oversized".into(),
        error_message: "e".repeat(4_097),
        ..ControlAck::default()
    }))
    .await;
    let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &["80"])).await;
    let (command, _) = node.command().await;
    node.ack(&command, AckCode::Ok).await;
    scan.is("SCAN_STATE_COMPLETED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_of_another_nodes_command_changes_nothing() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let (victim, liar) = (
        Enrolled::new(&world, &operator).await,
        Enrolled::new(&world, &operator).await,
    );
    let mut node = victim.connect(&world, Profile::ours()).await;
    let mut other = liar.connect(&world, Profile::ours()).await;
    let scan = start(&operator, &victim, list(&["10.0.0.1"], &["80"])).await;
    let (command, _) = node.command().await;
    other.ack(&command, AckCode::ScanFailed).await;
    // Messages are processed in order: the end of the second scan proves that the false report was judged.
    let second = start(&operator, &liar, list(&["10.0.0.1"], &["80"])).await;
    let (of_liar, _) = other.command().await;
    other.ack(&of_liar, AckCode::Ok).await;
    second.is("SCAN_STATE_COMPLETED").await;
    node.ack(&command, AckCode::Ok).await;
    scan.is("SCAN_STATE_COMPLETED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_third_takeover_between_two_machines_is_refused_shown_and_later_cleared() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let (here, there) = (Profile::ours(), Profile::ours());
    let _first = enrolled.connect(&world, here.clone()).await;
    let _second = enrolled.connect(&world, there.clone()).await;
    let mut incumbent = enrolled.connect(&world, here.clone()).await;
    assert!(!world.is_flagged(&operator, &enrolled).await);
    let token = enrolled.sign_in(&world).await;
    for _ in 0..2 {
        let error = Node::try_connect(&world, &token, there.clone()).await;
        assert_eq!(error.code, Code::ResourceExhausted, "{error}");
        assert!(error.message.contains("stop one of them"), "{error}");
        assert!(error.retry_after().is_some(), "{error:?}");
    }
    assert!(world.is_flagged(&operator, &enrolled).await);
    assert_eq!(
        world
            .audited(operator.org, "node.duplicate_identity")
            .await
            .len(),
        1
    );
    // The incumbent stays and works.
    let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &["80"])).await;
    incumbent.command().await;
    // Connecting again while the other is still held off clears nothing; ten quiet minutes later it does.
    let mut again = enrolled.connect(&world, here.clone()).await;
    let (command, _) = again.command().await;
    again.ack(&command, AckCode::Ok).await;
    scan.is("SCAN_STATE_COMPLETED").await;
    assert!(world.is_flagged(&operator, &enrolled).await);
    world.clock.pass(Duration::from_secs(601));
    let _later = enrolled.connect(&world, here).await;
    eventually(|| async { !world.is_flagged(&operator, &enrolled).await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_machines_at_two_servers_do_not_evict_each_other_in_a_loop() {
    let world = World::new().await;
    let other_world = world.another().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let (here, there) = (Profile::ours(), Profile::ours());
    let mut first = enrolled.connect(&world, here.clone()).await;
    let mut second = enrolled.connect(&other_world, there.clone()).await;
    // The other server's claim is followed within a second or two, so that the older machine learns of it.
    assert_eq!(first.goodbye().await.reason(), GoodbyeReason::Replaced);
    let mut incumbent = enrolled.connect(&world, here).await;
    assert_eq!(second.goodbye().await.reason(), GoodbyeReason::Replaced);
    assert!(!world.is_flagged(&operator, &enrolled).await);
    let token = enrolled.sign_in(&other_world).await;
    let error = Node::try_connect(&other_world, &token, there.clone()).await;
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    let wait = error.retry_after().expect("has a retry hint");
    assert!(wait > Duration::from_secs(590), "{wait:?}");
    assert!(world.is_flagged(&operator, &enrolled).await);
    // Held off at the first server too, and the incumbent works.
    let error = Node::try_connect(&world, &token, there).await;
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &["80"])).await;
    let (command, _) = incumbent.command().await;
    incumbent.ack(&command, AckCode::Ok).await;
    scan.is("SCAN_STATE_COMPLETED").await;
    let found = world.audited(operator.org, "node.duplicate_identity").await;
    assert_eq!(found.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_a_node_ends_its_stream_at_once_and_its_session() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &["80"])).await;
    node.command().await;
    let request = RevokeFleetNodeRequest {
        fleet_node_id: enrolled.id.0,
        pending_enrollment_id: None,
    };
    operator
        .admin()
        .revoke_fleet_node(&request, operator.options())
        .await
        .expect("is revoked");
    assert_eq!(node.goodbye().await.reason(), GoodbyeReason::Revoked);
    node.end().await.expect("ends cleanly");
    let dead = heartbeat(&world.gateway(), &node.token).await;
    refused(dead, Code::Unauthenticated);
    let ended = scan.is("SCAN_STATE_FAILED").await;
    assert_eq!(ended.code, "failed_precondition");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_up_while_connecting_is_disconnected_and_can_reconnect() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let token = enrolled.sign_in(&world).await;
    let profile = Profile::ours();
    for _ in 0..20 {
        let mut node = Node::dial(&world, &token).await;
        node.say(control_stream_request::Kind::Hello(profile.0.clone()))
            .await;
    }
    eventually(|| async {
        let nodes = operator
            .nodes()
            .list_nodes(&ListNodesRequest::default(), operator.options())
            .await;
        !nodes.expect("lists").nodes[0].connected
    })
    .await;
    let mut node = enrolled.connect(&world, profile).await;
    start(&operator, &enrolled, list(&["10.0.0.1"], &["80"])).await;
    node.command().await;
}
