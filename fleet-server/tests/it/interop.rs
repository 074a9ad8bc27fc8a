//! Nodes and clients of other versions: a node that is too old for a request, renamed fields, lists that are part of a
//! network, and handshakes with credentials that are not valid.

use ed25519_dalek::{Signer, SigningKey};
use fleet_core::Role;
use fleet_wire::{
    Code,
    admin::{DiscoverOnFleetNodeRequest, DiscoverOnFleetNodeResponse},
    client::{CallOptions, Incoming},
    fleet::{ListNodesRequest, Node, PlanScanRequest},
    gateway::{
        AckCode, BeginAuthHandshakeRequest, CommandProtocolVersion, CompleteAuthHandshakeRequest,
        ControlHello,
    },
    pairing::discover_request::Mode,
};

use crate::harness::{
    Enrolled, Operator, Profile, World, eventually, list, mdns, range, refused, request, soon,
    start, start_as, stream_refused, target,
};

async fn listed(operator: &Operator, node: &Enrolled) -> Node {
    let nodes = operator
        .nodes()
        .list_nodes(&ListNodesRequest::default(), operator.options())
        .await
        .expect("nodes")
        .nodes;
    let found = nodes.into_iter().find(|one| one.fleet_node_id == node.id.0);
    found.expect("the node")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_too_old_for_a_request_is_named_with_what_it_lacks_and_the_remedy() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let v1 = Profile(ControlHello {
        max_command_protocol_version: CommandProtocolVersion::V1.into(),
        ..ControlHello::default()
    });
    let mut older = Profile::ours();
    older.0.version = "0.0.9".into();
    let mut newest = Profile::ours();
    for name in ["pins", "mdns", "hosts"] {
        newest.0.capabilities.push(name.into());
    }
    let all = "progress cancel goodbye pins outcomes mdns big-commands hosts default-passwords";
    for (profile, missing, described) in [
        (None, "", "has never connected"),
        (Some(Profile::upstream()), all, "is an upstream node"),
        (Some(v1), all, "is an upstream node"),
        (Some(older), "pins mdns hosts", "has version 0.0.9"),
        (Some(newest), "", ""),
    ] {
        let enrolled = Enrolled::new(&world, &operator).await;
        let _node = match profile {
            Some(profile) => Some(enrolled.connect(&world, profile).await),
            None => None,
        };
        let node = listed(&operator, &enrolled).await;
        assert_eq!(node.missing_capabilities.join(" "), missing, "{described}");
        for (request, capability) in [
            (list(&["10.0.0.1", "miner.example"], &["4028"]), "pins"),
            (mdns(""), "mdns"),
        ] {
            let plan = PlanScanRequest {
                fleet_node_id: enrolled.id.0,
                request: Some(request.clone()),
                ..PlanScanRequest::default()
            };
            let planned = operator.scans().plan_scan(&plan, operator.options()).await;
            if described.is_empty() {
                // An mDNS scan needs subnets, which this node does not announce.
                let other = planned.err().and_then(|error| error.reason());
                assert_ne!(other.as_deref(), Some("UPGRADE_REQUIRED"));
                continue;
            }
            let started = start_as(&operator, &enrolled, request.clone(), "old").await;
            let discover = DiscoverOnFleetNodeRequest {
                fleet_node_id: enrolled.id.0,
                request: Some(request),
            };
            let opened = operator
                .admin()
                .discover_on_fleet_node(&discover, operator.options())
                .await
                .map(Incoming::<DiscoverOnFleetNodeResponse>::into_stream);
            for error in [
                refused(planned, Code::FailedPrecondition),
                refused(started, Code::FailedPrecondition),
                stream_refused(opened, Code::FailedPrecondition).await,
            ] {
                assert_eq!(error.reason().as_deref(), Some("UPGRADE_REQUIRED"));
                let facts = error.facts();
                assert_eq!(facts["capability"], capability);
                assert_eq!(facts["node_id"], enrolled.id.to_string());
                for part in [
                    "upgrade required",
                    &format!("node {} ", enrolled.id),
                    described,
                    &format!("`{capability}`"),
                    "an upgrade to fleetnode ",
                ] {
                    assert!(error.message.contains(part), "{part}: {}", error.message);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_node_of_protocol_v1_gets_commands_of_4096_targets_and_an_older_one_of_1024() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    for (version, most) in [
        (CommandProtocolVersion::Unspecified, "10.0.0.0/22"),
        (CommandProtocolVersion::V1, "10.0.0.0/20"),
    ] {
        let enrolled = Enrolled::new(&world, &operator).await;
        let profile = Profile(ControlHello {
            max_command_protocol_version: version.into(),
            ..ControlHello::default()
        });
        let mut node = enrolled.connect(&world, profile).await;
        let scan = start(&operator, &enrolled, target("10.0.0.0/20", &["80"])).await;
        let (_, request) = node.command().await;
        let Some(Mode::Nmap(nmap)) = request.mode else {
            panic!("not as a network: {request:?}");
        };
        assert_eq!(nmap.target, most);
        scan.cancel().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_names_of_the_network_mode_are_accepted() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let bearer = format!("Bearer {}", operator.key);
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    for name in ["nmap", "networkScan", "network_scan"] {
        let body = serde_json::json!({
            "fleetNodeId": enrolled.id.0,
            "request": { name: { "target": "10.0.0.0/30", "ports": ["80"] } },
        });
        let path = "/fleet.v1.ScanService/PlanScan";
        let answer = request(world.address(), "POST", path, &headers, body.to_string()).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.body);
        assert_eq!(answer.json()["targets"], "4", "{name}: {}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_for_a_node_is_marked_as_explicit_unless_it_is_part_of_a_network() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    for (request, explicit) in [
        (list(&["10.0.0.1", "10.0.0.7"], &["80"]), true),
        (range("10.0.0.1", "10.0.0.9", &["80"]), true),
        (target("10.0.0.1-9", &["80"]), true),
        (target("10.0.0.0/29", &["80"]), false),
        (list(&["10.0.0.1", "10.0.1.0/30"], &["80"]), false),
    ] {
        let scan = start(&operator, &enrolled, request.clone()).await;
        let (command, sent) = node.command().await;
        let Some(Mode::IpList(sent)) = sent.mode else {
            panic!("not as a list: {sent:?}");
        };
        assert_eq!(sent.explicit, explicit, "{request:?}");
        node.ack(&command, AckCode::Ok).await;
        scan.is("SCAN_STATE_COMPLETED").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_handshake_is_shown_in_the_list_until_the_node_connects() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let why = || async { listed(&operator, &enrolled).await.disconnected_reason };
    assert_eq!(why().await, "");

    let begin = |api_key: &str, identity: &SigningKey| BeginAuthHandshakeRequest {
        api_key: api_key.to_owned(),
        identity_pubkey: identity.verifying_key().to_bytes().to_vec().into(),
    };
    let gateway = world.gateway();
    let wrong = begin("fnk_0123456789abcdefghijklmnop", &enrolled.signing);
    let refusal = gateway
        .begin_auth_handshake(&wrong, CallOptions::new())
        .await;
    let refusal = refused(refusal, Code::Unauthenticated);
    assert_eq!(refusal.reason().as_deref(), Some("NODE_KEY_INVALID"));
    let reason = why().await;
    assert!(reason.contains("its API key is not valid"), "{reason}");

    // The right key, and a signature of another identity.
    let right = begin(&enrolled.api_key, &enrolled.signing);
    let begun = gateway
        .begin_auth_handshake(&right, CallOptions::new())
        .await;
    let challenge = begun.expect("a challenge").challenge;
    let other = SigningKey::from_bytes(&[7; 32]);
    let forged = CompleteAuthHandshakeRequest {
        signature: other.sign(&challenge).to_bytes().to_vec().into(),
        challenge,
    };
    let refusal = gateway
        .complete_auth_handshake(&forged, CallOptions::new())
        .await;
    let refusal = refused(refusal, Code::Unauthenticated);
    assert_eq!(refusal.reason().as_deref(), Some("CHALLENGE_INVALID"));
    let reason = why().await;
    assert!(reason.contains("the signature is not"), "{reason}");

    let mut node = enrolled.connect(&world, Profile::ours()).await;
    assert_eq!(why().await, "");
    // Nobody can change the state of a node that has a stream, or blame one that lost it.
    let refusal = gateway
        .begin_auth_handshake(&wrong, CallOptions::new())
        .await;
    refused(refusal, Code::Unauthenticated);
    node.hang_up();
    drop(soon(node.next()).await);
    eventually(|| async { why().await == "the node closed the stream" }).await;
}
