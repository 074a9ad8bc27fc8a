//! No secret appears in a log or in the database. The test runs every operation with secrets while all processes
//! log at TRACE, and then searches for every secret in every encoding. A new secret of the product must be added
//! to [`life`].

mod canary;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
};

use canary::Canaries;
use ed25519_dalek::{Signer, SigningKey};
use fleet_core::Role;
use fleet_sim::{DeviceLogin, Lab, Make, Site};
use fleet_wire::{
    client::{CallOptions, Channel, ChannelConfig},
    gateway::{
        BeginAuthHandshakeRequest, CompleteAuthHandshakeRequest, FleetNodeGatewayClient,
        RegisterRequest, UploadHeartbeatRequest,
    },
};

use crate::{
    harness::{Node, World, confirm, list, new_code, within},
    pairing::device,
};

on_both_databases! {
    no_secret_is_in_a_log_or_in_the_database
}

/// Start of a TRACE log line.
const TRACE: &[u8] = b" TRACE ";

async fn no_secret_is_in_a_log_or_in_the_database(mut world: World) {
    world.server.terminate().await;
    world.server.set_log("trace");
    world.server.restart().await;
    let mut canaries = Canaries::default();
    let node = life(&mut world, &mut canaries).await;
    // Stopping the server flushes the database and the log.
    drop(node);
    world.server.terminate().await;

    let mut found = Vec::new();
    let (mut places, mut traced) = (0, Vec::new());
    for (place, bytes) in canary::files(world.folder()) {
        places += 1;
        found.extend(canaries.found_in(&place, &bytes));
        if bytes.windows(TRACE.len()).any(|window| window == TRACE) {
            traced.push(place);
        }
    }
    let traces = |name: &str| traced.iter().any(|place| place.contains(name));
    assert!(traces("fleetd") && traces("barn"), "{traced:?}");
    for (table, bytes) in canary::tables(world.server.database_url()).await {
        places += 1;
        found.extend(canaries.found_in(&table, &bytes));
    }
    assert!(places > 20, "logs and tables were read: {places}");
    assert_eq!(found, Vec::<String>::new());
    canaries.would_be_found();
}

/// Runs every operation that handles a secret.
async fn life(world: &mut World, canaries: &mut Canaries) -> Node {
    canaries.text("an administrator's key", world.operator.key());
    let viewer = world.another_operator(Role::Viewer).await;
    canaries.text("a viewer's key", viewer.key());

    let cookie = sign_in(world, world.operator.key());
    canaries.text("a browser's session", &cookie);
    passwords(world, canaries).await;

    let code = new_code(world).await;
    canaries.text("an enrollment code", &code);
    let mut dialogue = Node::begin(world, "barn");
    dialogue.write_line(&code).await;
    let fingerprint = dialogue
        .read_after("Fingerprint: ")
        .await
        .expect("a fingerprint");
    let id = world.operator.node_named("barn").await.fleet_node_id;
    let key = confirm(world, id, &fingerprint).await;
    canaries.text("a node's API key", &key);
    dialogue.write_line(&key).await;
    let enrolled = dialogue.end().await;
    assert_eq!(
        canaries.found_in("fleetnode enroll", enrolled.stderr.as_bytes()),
        Vec::<String>::new()
    );

    let mut node = Node::enrolled(world, "barn", id);
    let kept = fs::read_to_string(node.state().join("node.json")).expect("a state");
    let kept: serde_json::Value = serde_json::from_str(&kept).expect("JSON");
    for key in ["identity_key", "encryption_key"] {
        canaries.hex(key, kept[key].as_str().expect("a key"));
    }
    node.set_log("trace");
    node.start(&world.server).await;
    let lab = Lab::start(world.range.mixed(4)).await.expect("a site");
    let targets = [world.range.address(1), world.range.address(2)];
    let scan = world.operator.start(node.id, list(targets)).await;
    let watch = ["scan", "watch", &scan.scan_id];
    world.fleetctl(&watch).await.succeeded();
    drop(lab);
    pairing(world, canaries, node.id).await;

    by_hand(world, canaries).await;
    mistakes(world, canaries).await;
    let revoked = world
        .fleetctl(&["nodes", "revoke", &id.to_string(), "--yes"])
        .await;
    revoked.succeeded();
    within("the node's end", node.ended()).await;
    node
}

/// Signs in with a wrong password, a one-time password and a chosen password.
async fn passwords(world: &World, canaries: &mut Canaries) {
    let email = "canary@example.org";
    let create = ["operators", "create", "--email", email, "--role", "viewer"];
    let made = world.fleetctl(&create).await.succeeded();
    let one_time = made.trim();
    canaries.text("a one-time password", one_time);
    let (wrong, own) = ("no horse battery staple", "canary battery staple");
    canaries.text("a wrong password", wrong);
    canaries.text("a password", own);
    let with = |password: &str, new: &str| {
        let mut body = serde_json::json!({"email": email, "password": password});
        if !new.is_empty() {
            body["newPassword"] = new.into();
        }
        post(world, "/api/session", &body.to_string())
    };
    let refused = with(wrong, "");
    assert!(refused.contains("401"), "{refused}");
    for answer in [with(one_time, own), with(own, "")] {
        canaries.text("a session by password", cookie_of(&answer));
    }
}

/// Pairs a device with a password, which the node then seals.
async fn pairing(world: &World, canaries: &mut Canaries, node: i64) {
    let password = "canary-of-a-device-password";
    canaries.text("a device's password", password);
    let login = Some(DeviceLogin::new("root", password));
    let site = Site {
        seed: 1,
        devices: vec![device(world, 9, Make::Antminer, login)],
    };
    let _lab = Lab::start(site).await.expect("a site");
    let scan = world
        .operator
        .start(node, list([world.range.address(9)]))
        .await;
    world.operator.history(&scan.scan_id).await;
    // The test wrote this file itself.
    let folder = world.folder().join("given.state");
    fs::create_dir(&folder).expect("a folder");
    let file = folder.join("password");
    fs::write(&file, password).expect("a file");
    let (node, file) = (node.to_string(), file.display().to_string());
    let pair = [
        "devices",
        "pair-all",
        "--node",
        &node,
        "--password-file",
        &file,
    ];
    let paired = world.fleetctl(&pair).await;
    assert!(paired.stderr.contains("1 of"), "{paired:?}");
    assert_eq!(
        canaries.found_in("fleetctl", paired.stderr.as_bytes()),
        Vec::<String>::new()
    );
}

/// Connects a node whose handshake is known byte by byte.
async fn by_hand(world: &World, canaries: &mut Canaries) {
    let code = new_code(world).await;
    canaries.text("a second enrollment code", &code);
    let signing = SigningKey::from_bytes(&[0x5a; 32]);
    let identity = signing.verifying_key().to_bytes().to_vec();
    let channel = Channel::new(&world.server.url(), &ChannelConfig::default()).expect("a URL");
    let gateway = FleetNodeGatewayClient::new(channel);
    let register = RegisterRequest {
        enrollment_token: code,
        name: "by hand".to_owned(),
        identity_pubkey: identity.clone().into(),
        encryption_pubkey: vec![9; 32].into(),
        identity_proof: Vec::new().into(),
    };
    let registered = gateway.register(&register, CallOptions::new()).await;
    let registered = registered.expect("registers");
    let key = confirm(
        world,
        registered.fleet_node_id,
        &registered.identity_fingerprint,
    )
    .await;
    canaries.text("a second node's API key", &key);
    let begin = BeginAuthHandshakeRequest {
        api_key: key,
        identity_pubkey: identity.into(),
    };
    let begun = gateway
        .begin_auth_handshake(&begin, CallOptions::new())
        .await;
    let challenge = begun.expect("begins").challenge;
    canaries.raw("a challenge", &challenge[16..]);
    let signature = signing.sign(&challenge).to_bytes();
    canaries.raw("a challenge's signature", &signature);
    let complete = CompleteAuthHandshakeRequest {
        challenge,
        signature: signature.to_vec().into(),
    };
    let completed = gateway
        .complete_auth_handshake(&complete, CallOptions::new())
        .await;
    let token = completed.expect("completes").session_token;
    canaries.text("a node's session", &token);
    let beat = UploadHeartbeatRequest {
        sent_at: Some(fleet_wire::Timestamp::default()),
        ..UploadHeartbeatRequest::default()
    };
    let options = CallOptions::new().bearer(&token).expect("a header");
    gateway
        .upload_heartbeat(&beat, options)
        .await
        .expect("beats");
}

/// Sends secrets that the server refuses: they must not be logged either.
async fn mistakes(world: &World, canaries: &mut Canaries) {
    let never = |kind, byte| {
        fleet_core::Secret::new(kind, &[byte; 32])
            .expose()
            .to_owned()
    };
    let key = never(fleet_core::SecretKind::OperatorKey, 3);
    canaries.text("a key that opens nothing", &key);
    let nobody = crate::harness::Operator::new(&world.server.url(), &key);
    let refused = world.fleetctl_as(&nobody, &["nodes", "list"]).await;
    assert_eq!(refused.status, 77, "{refused:?}");
    assert_eq!(
        canaries.found_in("fleetctl", refused.stderr.as_bytes()),
        Vec::<String>::new()
    );
    let answer = post(world, "/api/session", &format!(r#"{{"key":"{key}"}}"#));
    assert!(answer.contains("401"), "{answer}");
    let code = never(fleet_core::SecretKind::EnrollmentCode, 4);
    canaries.text("a code that opens nothing", &code);
    let mut dialogue = Node::begin(world, "nobody");
    dialogue.write_line(&code).await;
    let refused = dialogue.end().await;
    assert_eq!(
        canaries.found_in("fleetnode enroll", refused.stderr.as_bytes()),
        Vec::<String>::new()
    );
}

/// Signs in as a browser and returns the value of the cookie.
fn sign_in(world: &World, key: &str) -> String {
    let answer = post(world, "/api/session", &format!(r#"{{"key":"{key}"}}"#));
    cookie_of(&answer).to_owned()
}

fn cookie_of(answer: &str) -> &str {
    let (_, cookie) = answer.split_once("fleet_session=").expect(answer);
    let (value, _) = cookie.split_once(';').expect("with attributes");
    value
}

fn post(world: &World, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(world.server.address()).expect("connects");
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: fleet\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("is answered");
    answer
}

/// Returns whether a file may contain secrets: a node keeps its own in its state directory.
fn keeps_secrets(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "state")
}
