//! `DiscoverOnFleetNode`: a scan in the upstream format, which never queues.

use std::time::Duration;

use fleet_core::Role;
use fleet_wire::{
    Code, RpcError,
    admin::{DiscoverOnFleetNodeRequest, DiscoverOnFleetNodeResponse},
    client::Incoming,
    gateway::AckCode,
    pairing::DiscoverRequest,
};

use crate::harness::{
    Enrolled, Operator, Profile, Started, World, device, eventually, list, refused, soon,
    stream_refused, target,
};

async fn try_discover(
    operator: &Operator,
    node: &Enrolled,
    request: DiscoverRequest,
) -> Result<Incoming<DiscoverOnFleetNodeResponse>, RpcError> {
    let request = DiscoverOnFleetNodeRequest {
        fleet_node_id: node.id.0,
        request: Some(request),
    };
    operator
        .admin()
        .discover_on_fleet_node(&request, operator.options())
        .await
}

async fn discover(
    operator: &Operator,
    node: &Enrolled,
    request: DiscoverRequest,
) -> Incoming<DiscoverOnFleetNodeResponse> {
    try_discover(operator, node, request).await.expect("opens")
}

async fn not_discovered(
    operator: &Operator,
    node: &Enrolled,
    request: DiscoverRequest,
    code: Code,
) -> RpcError {
    let opened = try_discover(operator, node, request).await;
    stream_refused(opened.map(Incoming::into_stream), code).await
}

fn scan_id(stream: &Incoming<DiscoverOnFleetNodeResponse>) -> String {
    let header = stream.headers().and_then(|h| h.get("fleet-scan-id"));
    let header = header.expect("names its scan").to_str().expect("is text");
    header.to_owned()
}

/// The next message: its addresses and its error.
async fn next(
    stream: &mut Incoming<DiscoverOnFleetNodeResponse>,
) -> Result<Option<(Vec<String>, String)>, RpcError> {
    let message = soon(stream.message()).await?;
    Ok(message.map(|message| {
        let response = message.response.expect("is never empty");
        let addresses = response.devices.into_iter().map(|d| d.ip_address);
        (addresses.collect(), response.error)
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_come_as_they_are_stored_and_the_header_names_the_scan() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::upstream()).await;
    let asked = list(&["10.0.0.1", "10.0.0.2"], &["4028"]);
    let mut found = discover(&operator, &enrolled, asked).await;
    let scan = scan_id(&found);
    let (command, _) = node.command().await;
    for ip in ["10.0.0.1", "10.0.0.2"] {
        // What the server refuses is not among the devices.
        node.report(&command, vec![device(ip), device("10.9.9.9")])
            .await
            .expect("is taken");
        let (addresses, error) = next(&mut found)
            .await
            .expect("continues")
            .expect("continues");
        assert_eq!((addresses, error.as_str()), (vec![ip.to_owned()], ""));
    }
    node.ack(&command, AckCode::Ok).await;
    assert_eq!(next(&mut found).await.expect("ends well"), None);
    let row = Started::known(&operator, &scan).get().await;
    assert_eq!(row.state().as_str_name(), "SCAN_STATE_COMPLETED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_scan_ends_with_ok_after_a_last_message_with_the_reason() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::upstream()).await;
    let mut found = discover(&operator, &enrolled, list(&["10.0.0.1"], &["4028"])).await;
    let (command, _) = node.command().await;
    node.ack_with(&command, AckCode::Partial, "the switch was rebooted")
        .await;
    let (addresses, error) = next(&mut found)
        .await
        .expect("continues")
        .expect("continues");
    assert_eq!(addresses, [""; 0]);
    assert!(error.contains("the switch was rebooted"), "{error}");
    assert_eq!(next(&mut found).await.expect("ends well"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn discover_on_fleet_node_never_queues() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let asked = || list(&["10.0.0.1"], &["4028"]);
    let error = not_discovered(&operator, &enrolled, asked(), Code::FailedPrecondition).await;
    assert!(error.message.contains("not connected"), "{error}");
    assert!(error.message.contains("StartScan"), "{error}");

    let mut node = enrolled.connect(&world, Profile::upstream()).await;
    // The node says that it is busy with something the server does not know of.
    let mut busy = discover(&operator, &enrolled, asked()).await;
    let (command, _) = node.command().await;
    node.ack(&command, AckCode::Busy).await;
    let error = refused(next(&mut busy).await, Code::ResourceExhausted);
    assert!(error.message.contains("busy"), "{error}");

    // The server knows that it is busy.
    let _running = discover(&operator, &enrolled, asked()).await;
    node.command().await;
    let error = not_discovered(&operator, &enrolled, asked(), Code::ResourceExhausted).await;
    assert!(error.message.contains("busy, retry shortly"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_is_refused_before_a_disconnected_node() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let bad = target("8.8.8.8", &[]);
    let error = not_discovered(&operator, &enrolled, bad, Code::InvalidArgument).await;
    assert!(error.message.contains("8.8.8.8"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_the_stream_never_cancels_the_scan() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let found = discover(&operator, &enrolled, list(&["10.0.0.1"], &["4028"])).await;
    let scan = scan_id(&found);
    let (command, _) = node.command().await;
    drop(found);
    node.report(&command, vec![device("10.0.0.1")])
        .await
        .expect("is taken");
    node.ack(&command, AckCode::Ok).await;
    let row = Started::known(&operator, &scan)
        .is("SCAN_STATE_COMPLETED")
        .await;
    assert_eq!(row.ledger.expect("has ended").accepted, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_ends_when_the_node_is_disconnected_for_two_minutes_while_the_scan_continues() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let profile = Profile::ours();
    let mut node = enrolled.connect(&world, profile.clone()).await;
    let mut found = discover(&operator, &enrolled, list(&["10.0.0.1"], &["4028"])).await;
    let scan = scan_id(&found);
    let (command, _) = node.command().await;
    drop(node);
    eventually(|| async {
        let row = fleet_store::Enrollment::node(&world.store, operator.org, enrolled.id).await;
        row.expect("it reads").expect("it is there").stream_ended()
    })
    .await;
    // Time passes until the server has looked twice: at the absence, and at its length.
    let error = soon(async {
        loop {
            world.clock.pass(Duration::from_secs(61));
            match tokio::time::timeout(Duration::from_millis(1_500), next(&mut found)).await {
                Ok(Err(error)) => break error,
                Ok(Ok(Some((addresses, _)))) => assert_eq!(addresses, [""; 0], "a sign of life"),
                Ok(Ok(None)) => panic!("ended well"),
                Err(_) => {}
            }
        }
    })
    .await;
    assert_eq!(error.code, Code::FailedPrecondition, "{error}");
    assert!(error.message.contains(&scan), "{error}");
    let mut back = enrolled.connect(&world, profile.running(&command)).await;
    back.ack(&command, AckCode::Ok).await;
    Started::known(&operator, &scan)
        .is("SCAN_STATE_COMPLETED")
        .await;
}
