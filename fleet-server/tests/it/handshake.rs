//! Proof of identity: challenges, sessions, rotation, rate limits.

use std::{num::NonZeroU32, time::Duration};

use ed25519_dalek::Signer;
use fleet_core::{Role, is_domain_separated};
use fleet_server::{Rates, ServerConfig};
use fleet_wire::{Code, admin::RevokeFleetNodeRequest, client::CallOptions, gateway::AckCode};

use crate::harness::{
    Enrolled, Profile, World, complete, heartbeat, identity, list, refused, registration, request,
    start,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_contains_the_tag_and_is_consumed_by_every_result() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let node = Enrolled::new(&world, &operator).await;
    let challenge = node.challenge(&world).await.expect("a challenge");
    assert!(is_domain_separated(&challenge));
    let wrong = complete(&world, &challenge, &[1; 64]).await;
    refused(wrong, Code::Unauthenticated);
    let right_but_late = node.answer(&world, &challenge).await;
    refused(right_but_late, Code::Unauthenticated);

    let challenge = node.challenge(&world).await.expect("a challenge");
    let token = node.answer(&world, &challenge).await.expect("a session");
    assert!(token.starts_with("fns_"));
    refused(node.answer(&world, &challenge).await, Code::Unauthenticated);
    heartbeat(&world.gateway(), &token)
        .await
        .expect("the session is good");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_challenge_of_a_node_replaces_the_older_one() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let node = Enrolled::new(&world, &operator).await;
    let older = node.challenge(&world).await.expect("a challenge");
    let newer = node.challenge(&world).await.expect("a challenge");
    refused(node.answer(&world, &older).await, Code::Unauthenticated);
    node.answer(&world, &newer).await.expect("a session");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_expires_after_thirty_seconds() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let node = Enrolled::new(&world, &operator).await;
    let challenge = node.challenge(&world).await.expect("a challenge");
    world.clock.pass(Duration::from_secs(31));
    refused(node.answer(&world, &challenge).await, Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_key_and_the_identity_together_begin_a_handshake() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let node = Enrolled::new(&world, &operator).await;
    let mut other_identity = node.clone();
    other_identity.signing = identity();
    let mut other_key = node.clone();
    other_key.api_key = "fnk_not-a-key-of-anybody".into();
    for wrong in [other_identity, other_key] {
        let answer = wrong.challenge(&world).await;
        refused(answer, Code::Unauthenticated);
    }
    // Another's signature over the right challenge.
    let challenge = node.challenge(&world).await.expect("a challenge");
    let signature = identity().sign(&challenge).to_bytes();
    refused(
        complete(&world, &challenge, &signature).await,
        Code::Unauthenticated,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tampered_challenge_or_token_opens_nothing() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let node = Enrolled::new(&world, &operator).await;
    let challenge = node.challenge(&world).await.expect("a challenge");
    for at in [0, 15, 16, challenge.len() - 1] {
        let mut tampered = challenge.clone();
        tampered[at] ^= 1;
        let answer = node.answer(&world, &tampered).await;
        refused(answer, Code::Unauthenticated);
    }
    // What was tried with others' bytes took nothing from the true one.
    let token = node.answer(&world, &challenge).await.expect("a session");
    for at in 0..token.len() {
        let mut tampered = token.clone().into_bytes();
        tampered[at] = if tampered[at] == b'x' { b'y' } else { b'x' };
        let tampered = String::from_utf8(tampered).expect("ASCII");
        let answer = heartbeat(&world.gateway(), &tampered).await;
        refused(answer, Code::Unauthenticated);
    }
    heartbeat(&world.gateway(), &token)
        .await
        .expect("the session is good");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_revoked_between_challenge_and_answer_gets_no_session() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let node = Enrolled::new(&world, &operator).await;
    let challenge = node.challenge(&world).await.expect("a challenge");
    let revoke = RevokeFleetNodeRequest {
        fleet_node_id: node.id.0,
        ..RevokeFleetNodeRequest::default()
    };
    let admin = operator.admin();
    let revoked = admin.revoke_fleet_node(&revoke, operator.options());
    revoked.await.expect("is revoked");
    refused(node.answer(&world, &challenge).await, Code::Unauthenticated);
    refused(node.challenge(&world).await, Code::Unauthenticated);
}

/// An upstream node takes UNAUTHENTICATED for the end of its enrollment.
#[tokio::test(flavor = "multi_thread")]
async fn a_storage_failure_is_never_unauthenticated() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let node = Enrolled::new(&world, &operator).await;
    let token = node.sign_in(&world).await;
    let challenge = node.challenge(&world).await.expect("a challenge");
    world.store.close().await;
    refused(node.challenge(&world).await, Code::Unavailable);
    refused(node.answer(&world, &challenge).await, Code::Unavailable);
    refused(heartbeat(&world.gateway(), &token).await, Code::Unavailable);
    let request = registration("fnc_not-a-code-of-anybody", "barn", &identity());
    let gateway = world.gateway();
    let registered = gateway.register(&request, CallOptions::new()).await;
    refused(registered, Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_expires_after_a_day() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let token = Enrolled::new(&world, &operator).await.sign_in(&world).await;
    world.clock.pass(Duration::from_secs(24 * 3_600 + 1));
    let dead = heartbeat(&world.gateway(), &token).await;
    refused(dead, Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_keeps_the_stream_and_its_scan_while_the_old_token_expires_within_a_minute() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &["80"])).await;
    let (command, _) = node.command().await;
    let old = node.token.clone();
    let new = enrolled.sign_in(&world).await;
    heartbeat(&world.gateway(), &old)
        .await
        .expect("lives on for a moment");
    world.clock.pass(Duration::from_secs(61));
    refused(
        heartbeat(&world.gateway(), &old).await,
        Code::Unauthenticated,
    );
    heartbeat(&world.gateway(), &new)
        .await
        .expect("the new one is good");
    node.ack(&command, AckCode::Ok).await;
    scan.is("SCAN_STATE_COMPLETED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_a_credential_are_limited_with_a_retry_hint() {
    let of = |n| NonZeroU32::new(n).expect("not zero");
    let world = World::with(ServerConfig {
        rates: Some(Rates {
            register: of(2),
            handshakes: of(8),
            key_fetches: of(2),
            handshakes_of_a_key: of(3),
            sign_ins: of(30),
            passwords_of_an_account: of(10),
            unknown_credentials: of(2),
            calls_of_a_caller: of(6_000),
        }),
        ..ServerConfig::default()
    })
    .await;
    let operator = world.operator(Role::Operator).await;
    let node = Enrolled::new(&world, &operator).await;

    let with_key = async |key: &str| {
        let headers = [("authorization", key)];
        request(world.address(), "GET", "/api/session", &headers, "").await
    };
    for status in [401, 401, 429, 429] {
        let answer = with_key("Bearer fok_guess").await;
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    // The guesses come from the operator's own address.
    let valid = format!("Bearer {}", operator.key);
    assert_eq!(with_key(&valid).await.status, 200);

    // One registration was used to enroll.
    let gateway = world.gateway();
    let unknown = registration("fnc_not-a-code-of-anybody", "barn", &identity());
    let register = || gateway.register(&unknown, CallOptions::new());
    refused(register().await, Code::Unauthenticated);
    let limited = refused(register().await, Code::ResourceExhausted);
    assert!(limited.retry_after().is_some(), "{limited}");
    assert!(limited.message.contains("try again in"), "{limited}");

    for _ in 0..3 {
        node.challenge(&world).await.expect("a challenge");
    }
    let limited = refused(node.challenge(&world).await, Code::ResourceExhausted);
    assert!(limited.message.contains("with this key"), "{limited}");
    assert!(limited.retry_after().is_some(), "{limited}");

    // Four of the eight calls of this address are used up.
    for _ in 0..4 {
        let answer = complete(&world, &[1; 48], &[1; 64]).await;
        refused(answer, Code::Unauthenticated);
    }
    let answer = complete(&world, &[1; 48], &[1; 64]).await;
    let limited = refused(answer, Code::ResourceExhausted);
    assert!(limited.retry_after().is_some(), "{limited}");
}
