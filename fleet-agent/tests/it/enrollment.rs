//! Enrollment: the messages, the saved state, and the failures.

use ed25519_dalek::{Signature, Verifier, VerifyingKey};
use fleet_agent::{
    ConfigureOptions, EnrollError, EnrollOptions, KeyFetch, SecretText, SessionError, Stage,
    StateDir, configure, fetch_key, finish, refresh, register,
};
use fleet_core::{SecretHash, registration_statement};
use fleet_wire::RpcError;

use crate::{
    NODE,
    gateway::{Gateway, KeyReply},
};

const CODE: &str = "fnc_a-code-of-the-tests";

fn code() -> SecretText {
    SecretText::new(CODE.to_owned())
}

fn key() -> SecretText {
    SecretText::new("fnk_a-key-of-the-tests".to_owned())
}

fn options(gateway: &Gateway) -> EnrollOptions {
    EnrollOptions {
        name: "barn".to_owned(),
        ..EnrollOptions::new(gateway.url())
    }
}

fn folder() -> (tempfile::TempDir, StateDir) {
    let parent = tempfile::tempdir().expect("a folder");
    let dir = StateDir::open(&parent.path().join("node")).expect("a state folder");
    (parent, dir)
}

#[tokio::test]
async fn a_node_enrolls_in_two_steps_and_proves_its_key_in_each() {
    let gateway = Gateway::start().await;
    let (_parent, dir) = folder();
    let registered = register(&dir, options(&gateway), &code())
        .await
        .expect("registers");
    let state = dir.load().expect("reads").expect("was saved");
    assert_eq!(
        (state.stage(), registered.fleet_node_id),
        (Stage::Registered, NODE)
    );
    assert_eq!(registered.fingerprint, state.fingerprint());

    let sent = gateway.seen().registration.expect("a registration");
    let statement = registration_statement(
        &SecretHash::of(CODE),
        "barn",
        &state.identity_public(),
        &state.encryption_public(),
    );
    let identity = VerifyingKey::from_bytes(&state.identity_public()).expect("a key");
    let proof = Signature::from_slice(&sent.identity_proof).expect("a signature");
    identity
        .verify(&statement, &proof)
        .expect("the key was proved");

    assert!(matches!(
        refresh(&dir).await,
        Err(EnrollError::Session(SessionError::NoKey))
    ));
    assert!(matches!(
        register(&dir, options(&gateway), &code()).await,
        Err(EnrollError::AlreadyRegistered { .. })
    ));
    finish(&dir, key()).await.expect("proves the key");
    assert_eq!(
        dir.load().expect("reads").expect("was saved").stage(),
        Stage::Enrolled
    );
    refresh(&dir).await.expect("the key is good");
    assert_eq!(gateway.seen().completed, 2);
}

#[tokio::test]
async fn a_different_fingerprint_stops_the_enrollment() {
    let gateway = Gateway::start().await;
    gateway.behavior().fingerprint = Some("0123456789abcdef".to_owned());
    let (_parent, dir) = folder();
    let stopped = register(&dir, options(&gateway), &code())
        .await
        .expect_err("somebody is in between");
    assert!(
        matches!(&stopped, EnrollError::FingerprintDiffers { theirs, .. } if theirs == "0123456789abcdef"),
        "{stopped}"
    );
    assert!(dir.load().expect("reads").is_none());
    assert!(matches!(
        finish(&dir, key()).await,
        Err(EnrollError::NotRegistered)
    ));
}

#[tokio::test]
async fn an_untagged_challenge_is_signed_only_for_an_upstream_server() {
    let gateway = Gateway::start().await;
    gateway.behavior().tagged = false;
    let (_parent, dir) = folder();
    register(&dir, options(&gateway), &code())
        .await
        .expect("registers");
    let refused = finish(&dir, key()).await.expect_err("is not signed");
    assert!(
        matches!(
            refused,
            EnrollError::Session(SessionError::UntaggedChallenge)
        ),
        "{refused}"
    );
    assert_eq!((gateway.seen().begun, gateway.seen().completed), (1, 0));

    let (_parent, dir) = folder();
    let upstream = EnrollOptions {
        upstream_server: true,
        ..options(&gateway)
    };
    register(&dir, upstream, &code()).await.expect("registers");
    finish(&dir, key())
        .await
        .expect("an upstream server's challenge is signed");

    gateway.behavior().tagged = true;
    let (_parent, dir) = folder();
    let upstream = EnrollOptions {
        upstream_server: true,
        ..options(&gateway)
    };
    register(&dir, upstream, &code()).await.expect("registers");
    let refused = finish(&dir, key())
        .await
        .expect_err("another server's challenge could be relayed");
    assert!(
        matches!(
            refused,
            EnrollError::Session(SessionError::NotUpstream {
                length: 48,
                tagged: true
            })
        ),
        "{refused}"
    );
}

#[tokio::test]
async fn a_moved_server_needs_no_new_enrollment() {
    let gateway = Gateway::start().await;
    let (_parent, dir) = folder();
    register(&dir, options(&gateway), &code())
        .await
        .expect("registers");
    finish(&dir, key()).await.expect("proves the key");
    let before = dir.load().expect("reads").expect("was saved");
    let url = |url: &str| ConfigureOptions {
        server_url: Some(url.to_owned()),
        ..ConfigureOptions::default()
    };

    let moved = Gateway::start().await;
    configure(&dir, url(&moved.url())).await.expect("moves");
    assert_eq!(moved.seen().completed, 1, "the key is proved there");
    let after = dir.load().expect("reads").expect("was saved");
    assert_eq!(after.server_url, moved.url());
    assert_eq!(after.fingerprint(), before.fingerprint());
    assert_eq!(after.stage(), Stage::Enrolled);

    moved.behavior().begin = Some(RpcError::unauthenticated("who?"));
    for wrong in [&*moved.url(), "http://fleet.example", "no url"] {
        assert!(configure(&dir, url(wrong)).await.is_err(), "{wrong}");
        let kept = dir.load().expect("reads").expect("was saved");
        assert_eq!(kept.server_url, moved.url());
    }
}

#[tokio::test]
async fn a_key_is_deleted_only_if_the_server_rejects_it() {
    let gateway = Gateway::start().await;
    let (_parent, dir) = folder();
    register(&dir, options(&gateway), &code())
        .await
        .expect("registers");
    let stage = || dir.load().expect("reads").expect("was saved").stage();
    gateway.behavior().begin = Some(RpcError::unauthenticated("who?"));
    let refused = finish(&dir, key()).await.expect_err("is refused");
    assert!(
        matches!(refused, EnrollError::Session(SessionError::KeyRefused)),
        "{refused}"
    );
    assert_eq!(stage(), Stage::Registered);
    gateway.behavior().begin = Some(RpcError::unavailable("later"));
    assert!(finish(&dir, key()).await.is_err());
    assert_eq!(stage(), Stage::Enrolled);
    gateway.behavior().begin = None;
    refresh(&dir).await.expect("the saved key is good");
}

#[tokio::test]
async fn a_confirmed_node_fetches_its_key_and_proves_it() {
    let gateway = Gateway::start().await;
    let (_parent, dir) = folder();
    assert!(matches!(
        fetch_key(&dir, 1).await,
        Err(EnrollError::NotRegistered)
    ));
    register(&dir, options(&gateway), &code())
        .await
        .expect("registers");
    for (reply, expected) in [
        (None, KeyFetch::Unsupported),
        (Some(KeyReply::Awaiting), KeyFetch::AwaitingConfirmation),
        (Some(KeyReply::Pasted), KeyFetch::Pasted),
    ] {
        gateway.behavior().key = reply;
        assert_eq!(fetch_key(&dir, 2).await.expect("answers"), expected);
    }
    gateway.behavior().key = Some(KeyReply::SealedToAnother);
    let stopped = fetch_key(&dir, 3).await;
    assert!(matches!(stopped, Err(EnrollError::Unsealed)), "{stopped:?}");
    let stage = || dir.load().expect("reads").expect("was saved").stage();
    assert_eq!((stage(), gateway.seen().completed), (Stage::Registered, 0));
    gateway.behavior().key = Some(KeyReply::Sealed);
    let fetched = fetch_key(&dir, 4).await.expect("is fetched");
    assert_eq!(fetched, KeyFetch::Enrolled);
    assert_eq!((stage(), gateway.seen().completed), (Stage::Enrolled, 1));
}
