//! Several servers on one database: every operator call has the same effect through each of them, and all of them agree
//! on which nodes are connected. `cargo xtask prove faults replicas` measures how soon.

use std::time::Duration;

use fleet_core::Role;
use fleet_server::Environment as _;
use fleet_store::{Actor, Completion as _};
use fleet_wire::{
    Code, Timestamp,
    admin::{DiscoverOnFleetNodeRequest, RevokeFleetNodeRequest},
    client::CallOptions,
    fleet::{
        CancelPairingRequest, CreateKeyRequest, KeyClient, ListNodesRequest, Node as ListedNode,
        RevokeKeyRequest, StartPairingRequest, WatchScanRequest,
    },
    gateway::{
        AckCode, BeginAuthHandshakeRequest, GoodbyeReason, ReportDiscoveredDevicesRequest,
        UploadHeartbeatRequest,
    },
    pairing::Credentials,
};

use crate::harness::{
    Enrolled, Node, Operator, Profile, Started, World, bearer, device, eventually, heartbeat_with,
    list, on_both_databases, soon, start, uncounted,
};

on_both_databases! {
    a_cancel_through_another_server_stops_the_node_and_keeps_its_results
    a_cancel_without_a_notification_reaches_the_node
    a_revocation_through_another_server_ends_the_stream
    a_pairing_is_started_and_canceled_through_another_server
    discovery_through_another_server_finds_the_node
    a_watch_at_another_server_shows_the_same_events
    a_revoked_key_ends_its_watch_at_another_server
    nodes_of_a_server_that_hangs_are_not_connected
    a_server_that_starts_takes_no_node_of_its_predecessor_for_connected
    a_node_whose_stream_ends_is_offline_at_every_server
    a_node_that_returns_to_a_server_is_not_fenced_by_its_stream_elsewhere
    a_flood_that_another_server_received_is_stopped_on_the_node
    a_node_that_reaches_a_server_without_a_stream_is_listed_with_its_reason
    a_node_without_a_stream_is_shown_after_its_server_was_killed
}

/// Two servers, and a node that is connected to the first one.
struct Pair {
    near: World,
    far: World,
    operator: Operator,
    /// The same operator, at the server that does not hold the stream.
    remote: Operator,
    enrolled: Enrolled,
    node: Node,
}

async fn pair(url: &str, profile: Profile) -> Pair {
    let near = World::at(url).await;
    let far = near.another().await;
    let operator = near.operator(Role::Admin).await;
    let enrolled = Enrolled::new(&near, &operator).await;
    let node = enrolled.connect(&near, profile).await;
    let remote = operator.clone().at(&far);
    // The far server has to observe one heartbeat of the near one.
    eventually(|| async { listed(&remote, &enrolled).await.connected }).await;
    Pair {
        near,
        far,
        operator,
        remote,
        enrolled,
        node,
    }
}

async fn listed(operator: &Operator, enrolled: &Enrolled) -> ListedNode {
    let nodes = operator
        .nodes()
        .list_nodes(&ListNodesRequest::default(), operator.options())
        .await
        .expect("lists")
        .nodes;
    let is_it = |node: &ListedNode| node.fleet_node_id == enrolled.id.0;
    nodes.into_iter().find(is_it).expect("is listed")
}

async fn a_cancel_through_another_server_stops_the_node_and_keeps_its_results(url: &str) {
    let mut pair = pair(url, Profile::ours()).await;
    let targets = list(&["10.0.0.1", "10.0.0.2"], &["4028"]);
    let scan = start(&pair.remote, &pair.enrolled, targets).await;
    let (command, _) = pair.node.command().await;
    let first = pair.node.report(&command, vec![device("10.0.0.1")]).await;
    first.expect("is accepted");
    let node = async {
        assert_eq!(pair.node.cancel().await, command);
        let last = pair.node.report(&command, vec![device("10.0.0.2")]).await;
        last.expect("is still accepted");
        pair.node.ack(&command, AckCode::Partial).await;
    };
    tokio::join!(scan.cancel(), node);
    let ended = scan.is("SCAN_STATE_CANCELED").await;
    assert_eq!(ended.ledger.clone().expect("has ended").accepted, 2);
    let near = Started::known(&pair.operator, &scan.id).get().await;
    let (near, ended) = (uncounted(near), uncounted(ended));
    assert_eq!(near, ended, "both servers report the same");
}

/// Time to stop for the node of a pair.
fn grace_of(pair: &Pair) -> fleet_store::Grace {
    fleet_store::Grace {
        time: Duration::from_secs(10),
        nodes: vec![pair.enrolled.id],
    }
}

async fn a_cancel_without_a_notification_reaches_the_node(url: &str) {
    let mut pair = pair(url, Profile::ours()).await;
    let scan = start(
        &pair.operator,
        &pair.enrolled,
        list(&["10.0.0.1"], &["4028"]),
    )
    .await;
    let (command, _) = pair.node.command().await;
    let id = scan.id.parse().expect("an id");
    let grace = grace_of(&pair);
    let (org, now) = (pair.operator.org, pair.near.clock.now());
    let stored = pair
        .far
        .store
        .cancel_scan(org, id, grace, Actor::SYSTEM, now);
    stored.await.expect("is stored");
    assert_eq!(pair.node.cancel().await, command);
}

async fn a_revocation_through_another_server_ends_the_stream(url: &str) {
    let mut pair = pair(url, Profile::ours()).await;
    let request = RevokeFleetNodeRequest {
        fleet_node_id: pair.enrolled.id.0,
        pending_enrollment_id: None,
    };
    let admin = pair.remote.admin();
    let revoked = admin.revoke_fleet_node(&request, pair.remote.options());
    revoked.await.expect("is revoked");
    assert_eq!(pair.node.goodbye().await.reason(), GoodbyeReason::Revoked);
    pair.node.end().await.expect("ends cleanly");
}

async fn a_pairing_is_started_and_canceled_through_another_server(url: &str) {
    let mut pair = pair(url, Profile::ours()).await;
    let targets = list(&["10.0.0.1"], &["4028"]);
    let scan = start(&pair.operator, &pair.enrolled, targets).await;
    let (command, _) = pair.node.command().await;
    let found = pair.node.report(&command, vec![device("10.0.0.1")]).await;
    found.expect("is accepted");
    pair.node.ack(&command, AckCode::Ok).await;
    scan.is("SCAN_STATE_COMPLETED").await;
    let credentials = Credentials {
        username: "root".to_owned(),
        password: Some("correct horse".to_owned()),
        ..Credentials::default()
    };
    let request = StartPairingRequest {
        fleet_node_id: pair.enrolled.id.0,
        device_identifiers: vec![device("10.0.0.1").device_identifier],
        credentials: Some(credentials.clone()),
        ..StartPairingRequest::default()
    };
    let far = pair.remote.device_pairing();
    let started = far.start_pairing(&request, pair.remote.options()).await;
    let (command, received) = pair.node.pairing().await;
    assert_eq!(received.credentials, Some(credentials));
    assert_eq!(received.targets.len(), 1);
    let cancel = CancelPairingRequest {
        pairing_id: started.expect("starts").pairing_id,
    };
    let canceled = far.cancel_pairing(&cancel, pair.remote.options()).await;
    canceled.expect("is canceled");
    assert_eq!(pair.node.cancel().await, command);
}

async fn discovery_through_another_server_finds_the_node(url: &str) {
    let mut pair = pair(url, Profile::upstream()).await;
    let request = DiscoverOnFleetNodeRequest {
        fleet_node_id: pair.enrolled.id.0,
        request: Some(list(&["10.0.0.1"], &["4028"])),
    };
    let admin = pair.remote.admin();
    let found = admin.discover_on_fleet_node(&request, pair.remote.options());
    let mut found = found.await.expect("starts");
    let (command, _) = pair.node.command().await;
    let reported = pair.node.report(&command, vec![device("10.0.0.1")]).await;
    reported.expect("is accepted");
    let message = soon(found.message()).await.expect("continues");
    let response = message.and_then(|message| message.response);
    assert_eq!(response.expect("a message").devices.len(), 1);
    pair.node.ack(&command, AckCode::Ok).await;
    assert_eq!(soon(found.message()).await.expect("ends with OK"), None);
}

async fn a_watch_at_another_server_shows_the_same_events(url: &str) {
    let mut pair = pair(url, Profile::ours()).await;
    let targets = list(&["10.0.0.1", "10.0.0.2"], &["4028"]);
    let here = start(&pair.operator, &pair.enrolled, targets).await;
    let there = Started::known(&pair.remote, &here.id);
    let node = async {
        let (command, _) = pair.node.command().await;
        for ip in ["10.0.0.1", "10.0.0.2"] {
            let reported = pair.node.report(&command, vec![device(ip)]).await;
            reported.expect("is accepted");
        }
        pair.node.ack(&command, AckCode::Ok).await;
    };
    let (near, far, ()) = tokio::join!(here.log(0), there.log(0), node);
    assert_eq!(near, far);
    let (near, far) = (here.get().await, there.get().await);
    assert_eq!(uncounted(near), uncounted(far));
}

async fn a_revoked_key_ends_its_watch_at_another_server(url: &str) {
    let mut pair = pair(url, Profile::ours()).await;
    let targets = list(&["10.0.0.1"], &["4028"]);
    let scan = start(&pair.operator, &pair.enrolled, targets).await;
    pair.node.command().await;
    let keys = KeyClient::new(pair.near.channel());
    let create = CreateKeyRequest {
        name: "watcher".to_owned(),
        ..CreateKeyRequest::default()
    };
    let key = keys.create_key(&create, pair.operator.options()).await;
    let key = key.expect("is created");
    let watch = WatchScanRequest {
        scan_id: scan.id.clone(),
        after_sequence: 0,
    };
    let watching = pair.remote.scans();
    let watching = watching.watch_scan(&watch, bearer(&key.key)).await;
    let mut watching = watching.expect("watches");
    soon(watching.message()).await.expect("continues");
    let revoke = RevokeKeyRequest { key_id: key.key_id };
    let revoked = keys.revoke_key(&revoke, pair.operator.options()).await;
    revoked.expect("is revoked");
    let error = soon(async {
        loop {
            if let Err(error) = watching.message().await {
                return error;
            }
        }
    });
    assert_eq!(error.await.code, Code::Unauthenticated);
}

async fn nodes_of_a_server_that_hangs_are_not_connected(url: &str) {
    let mut pair = pair(url, Profile::ours()).await;
    // The stream stays open, but the server does nothing any more.
    let _streams = pair.near.hang();
    let is_offline = || async {
        let node = listed(&pair.remote, &pair.enrolled).await;
        !node.connected && !node.online
    };
    eventually(is_offline).await;
    let node = listed(&pair.remote, &pair.enrolled).await;
    let reason = &node.disconnected_reason;
    assert!(reason.contains("stopped or hangs"), "{reason}");
    let _back = pair.enrolled.connect(&pair.far, Profile::ours()).await;
    let node = listed(&pair.remote, &pair.enrolled).await;
    assert!(node.connected && node.online, "{node:?}");
}

async fn a_server_that_starts_takes_no_node_of_its_predecessor_for_connected(url: &str) {
    let mut pair = pair(url, Profile::ours()).await;
    drop(pair.far);
    // A server that is killed stores no end of its streams.
    let _streams = pair.near.hang();
    pair.near.start().await;
    let operator = pair.operator.at(&pair.near);
    let node = listed(&operator, &pair.enrolled).await;
    assert!(!node.connected && !node.online, "{node:?}");
    let _back = pair.enrolled.connect(&pair.near, Profile::ours()).await;
    let node = listed(&operator, &pair.enrolled).await;
    assert!(node.connected && node.online, "{node:?}");
}

async fn a_node_whose_stream_ends_is_offline_at_every_server(url: &str) {
    let pair = pair(url, Profile::ours()).await;
    assert!(listed(&pair.operator, &pair.enrolled).await.online);
    drop(pair.node);
    for operator in [&pair.operator, &pair.remote] {
        let is_offline = || async {
            let node = listed(operator, &pair.enrolled).await;
            !node.online && !node.connected
        };
        eventually(is_offline).await;
        let node = listed(operator, &pair.enrolled).await;
        assert!(!node.disconnected_reason.is_empty(), "{node:?}");
        assert!(node.disconnected_at.is_some(), "{node:?}");
    }
}

async fn a_node_that_reaches_a_server_without_a_stream_is_listed_with_its_reason(url: &str) {
    let mut pair = pair(url, Profile::ours()).await;
    let connected = listed(&pair.remote, &pair.enrolled).await;
    assert_eq!(connected.disconnected_reason, "");
    let token = pair.node.token.clone();
    pair.node.hang_up();
    pair.node.end().await.expect("ends cleanly");
    let ended = || async {
        let node = listed(&pair.remote, &pair.enrolled).await;
        node.disconnected_reason == "the node closed the stream"
    };
    eventually(ended).await;
    let problem = "the route to the server does not carry HTTP/2";
    let heartbeat = UploadHeartbeatRequest {
        sent_at: Some(Timestamp::default()),
        stream_problem: problem.to_owned(),
        ..UploadHeartbeatRequest::default()
    };
    let gateway = pair.far.gateway();
    let sent = gateway.upload_heartbeat(&heartbeat, bearer(&token)).await;
    sent.expect("is stored");
    let node = listed(&pair.operator, &pair.enrolled).await;
    assert!(node.online && !node.connected, "{node:?}");
    assert_eq!(node.disconnected_reason, problem);
    let _back = pair.enrolled.connect(&pair.near, Profile::ours()).await;
    let node = listed(&pair.operator, &pair.enrolled).await;
    assert_eq!(node.disconnected_reason, "");
}

async fn a_node_without_a_stream_is_shown_after_its_server_was_killed(url: &str) {
    let mut pair = pair(url, Profile::ours()).await;
    drop(pair.far);
    // A server that is killed stores no end of its streams.
    let _streams = pair.near.hang();
    pair.near.start().await;
    let operator = pair.operator.at(&pair.near);
    let gateway = pair.near.gateway();
    let wrong = BeginAuthHandshakeRequest {
        api_key: "fnk_0123456789abcdefghijklmnop".to_owned(),
        identity_pubkey: pair
            .enrolled
            .signing
            .verifying_key()
            .to_bytes()
            .to_vec()
            .into(),
    };
    let refusal = gateway.begin_auth_handshake(&wrong, CallOptions::new());
    refusal.await.expect_err("the key is not the node's");
    let node = listed(&operator, &pair.enrolled).await;
    let reason = &node.disconnected_reason;
    assert!(reason.contains("its API key is not valid"), "{reason}");
    assert!(!node.connected && !node.online, "{node:?}");

    // It signs in, but its route carries no streams.
    pair.near.clock.pass(Duration::from_secs(60));
    let problem = "the route to the server does not carry HTTP/2";
    let token = pair.enrolled.sign_in(&pair.near).await;
    let status = UploadHeartbeatRequest {
        stream_problem: problem.to_owned(),
        ..UploadHeartbeatRequest::default()
    };
    let sent = heartbeat_with(&gateway, &token, status).await;
    sent.expect("is stored");
    let node = listed(&operator, &pair.enrolled).await;
    assert!(node.online && !node.connected, "{node:?}");
    assert_eq!(node.disconnected_reason, problem);
}

async fn a_flood_that_another_server_received_is_stopped_on_the_node(url: &str) {
    let mut pair = pair(url, Profile::ours()).await;
    let targets = |ip: &str| list(&[ip], &["4028"]);
    start(&pair.operator, &pair.enrolled, targets("10.0.0.1")).await;
    let (command, _) = pair.node.command().await;
    let gateway = pair.far.gateway();
    let mut refused = false;
    for report in 0..12 {
        let outside = |row: i32| device(&format!("10.{}.{}.{}", report + 1, row / 256, row % 256));
        let request = ReportDiscoveredDevicesRequest {
            devices: (0..1_024).map(outside).collect(),
            command_id: command.clone(),
            ..ReportDiscoveredDevicesRequest::default()
        };
        let sent = gateway.report_discovered_devices(&request, bearer(&pair.node.token));
        refused = sent.await.is_err();
        if refused {
            break;
        }
    }
    assert!(refused, "the flood is cut off");
    assert_eq!(pair.node.cancel().await, command);
    // The node is free again, at the server that holds its stream.
    start(&pair.remote, &pair.enrolled, targets("10.0.0.2")).await;
    pair.node.command().await;
}

async fn a_node_that_returns_to_a_server_is_not_fenced_by_its_stream_elsewhere(url: &str) {
    let mut pair = pair(url, Profile::ours()).await;
    let profile = Profile::ours();
    for _ in 0..5 {
        let _there = pair.enrolled.connect(&pair.far, profile.clone()).await;
        pair.node = pair.enrolled.connect(&pair.near, profile.clone()).await;
    }
    // The near server has read the far one's claims several times when this order has passed.
    for _ in 0..2 {
        let targets = list(&["10.0.0.1"], &["4028"]);
        let scan = start(&pair.remote, &pair.enrolled, targets).await;
        let (command, _) = pair.node.command().await;
        let id = scan.id.parse().expect("an id");
        let (org, now) = (pair.operator.org, pair.near.clock.now());
        let grace = grace_of(&pair);
        let stored = pair
            .far
            .store
            .cancel_scan(org, id, grace, Actor::SYSTEM, now);
        stored.await.expect("is stored");
        assert_eq!(pair.node.cancel().await, command);
        pair.node.ack(&command, AckCode::Partial).await;
        scan.is("SCAN_STATE_CANCELED").await;
    }
}
