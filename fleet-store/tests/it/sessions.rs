//! Handshakes, sessions and heartbeats of nodes.

use fleet_core::{KeyId, NodeId, ReplicaId, limits};
use fleet_store::*;

use crate::site::{Site, at, secret};

contract! {
    a_handshake_needs_key_and_identity
    a_challenge_is_consumed_once
    the_newest_challenge_replaces
    a_challenge_past_its_time_is_consumed_too
    a_session_identifies_its_node
    rotation_leaves_the_previous_session_a_minute
    a_session_needs_a_live_key
    heartbeats_move_last_seen
    a_refused_handshake_is_recorded_for_a_node_without_a_stream
    the_sweep_deletes_ended_sessions
}

fn identity(name: &str) -> [u8; 32] {
    Site::newcomer("", name).identity_key
}

async fn a_handshake_needs_key_and_identity(site: Site) {
    let node = site.confirmed("north").await;
    let begin = |key: &'static str, identity| {
        site.store
            .begin_handshake(secret(key), identity, secret("c"), at(60))
    };
    assert!(matches!(
        begin("wrong", identity("north")).await,
        Err(BeginError::Credentials)
    ));
    assert!(matches!(
        begin("north's key", identity("south")).await,
        Err(BeginError::Credentials)
    ));
    assert_eq!(
        begin("north's key", identity("north"))
            .await
            .expect("begun"),
        node
    );
}

async fn begin(site: &Site, challenge: &str, expires: u64) {
    site.store
        .begin_handshake(
            secret("north's key"),
            identity("north"),
            secret(challenge),
            at(expires),
        )
        .await
        .expect("begun");
}

async fn a_challenge_is_consumed_once(site: Site) {
    let node = site.confirmed("north").await;
    begin(&site, "c", 30).await;
    assert_eq!(
        site.store
            .take_challenge(secret("unknown"), at(1))
            .await
            .expect("read"),
        None
    );
    let taken = site
        .store
        .take_challenge(secret("c"), at(29))
        .await
        .expect("read")
        .expect("there");
    assert_eq!(
        (taken.node, taken.identity_key, taken.alive),
        (node, identity("north"), true)
    );
    assert_eq!(
        site.store
            .take_challenge(secret("c"), at(29))
            .await
            .expect("read"),
        None
    );
}

async fn the_newest_challenge_replaces(site: Site) {
    site.confirmed("north").await;
    begin(&site, "first", 30).await;
    begin(&site, "second", 30).await;
    assert_eq!(
        site.store
            .take_challenge(secret("first"), at(1))
            .await
            .expect("read"),
        None
    );
    assert!(
        site.store
            .take_challenge(secret("second"), at(1))
            .await
            .expect("read")
            .is_some()
    );
}

async fn a_challenge_past_its_time_is_consumed_too(site: Site) {
    site.confirmed("north").await;
    begin(&site, "c", 30).await;
    let taken = site
        .store
        .take_challenge(secret("c"), at(30))
        .await
        .expect("read")
        .expect("there");
    assert!(!taken.alive);
    assert_eq!(
        site.store
            .take_challenge(secret("c"), at(1))
            .await
            .expect("read"),
        None
    );
}

async fn key_of(site: &Site) -> KeyId {
    begin(site, "for the key", 30).await;
    site.store
        .take_challenge(secret("for the key"), at(1))
        .await
        .expect("read")
        .expect("there")
        .key
}

async fn open(site: &Site, node: NodeId, token: &str, now: u64) {
    let key = key_of(site).await;
    let expires = at(now).plus(limits::SESSION_LIFE);
    site.store
        .open_session(node, key, secret(token), expires, site.actor(), at(now))
        .await
        .expect("opened");
}

async fn is_live(site: &Site, token: &str, now: u64) -> bool {
    site.store
        .node_by_session(secret(token), at(now))
        .await
        .expect("read")
        .is_some()
}

async fn a_session_identifies_its_node(site: Site) {
    let node = site.confirmed("north").await;
    assert!(
        !site
            .store
            .has_live_session(node, at(10))
            .await
            .expect("read")
    );
    open(&site, node, "token", 10).await;
    let found = site
        .store
        .node_by_session(secret("token"), at(11))
        .await
        .expect("read")
        .expect("there");
    assert_eq!(
        (found.node, found.org, found.name.as_str(), found.expires_at),
        (node, site.org, "north", at(86_410))
    );
    assert!(!is_live(&site, "token", 86_410).await);
    assert!(!is_live(&site, "other", 11).await);
    assert!(
        site.store
            .has_live_session(node, at(11))
            .await
            .expect("read")
    );
    assert!(
        !site
            .store
            .has_live_session(node, at(86_410))
            .await
            .expect("read")
    );
    assert!(
        site.audited()
            .await
            .iter()
            .any(|row| row.entry.action == "node.sign_in")
    );
}

async fn rotation_leaves_the_previous_session_a_minute(site: Site) {
    let node = site.confirmed("north").await;
    open(&site, node, "first", 10).await;
    open(&site, node, "second", 100).await;
    assert!(is_live(&site, "first", 159).await && is_live(&site, "second", 159).await);
    assert!(!is_live(&site, "first", 160).await);
    open(&site, node, "third", 101).await;
    assert!(!is_live(&site, "first", 102).await, "at most two at a time");
    assert!(is_live(&site, "second", 102).await && is_live(&site, "third", 102).await);
    assert_eq!(site.number("SELECT count(*) FROM node_session").await, 2);
}

async fn a_session_needs_a_live_key(site: Site) {
    let node = site.confirmed("north").await;
    let other = site.confirmed("south").await;
    let key = key_of(&site).await;
    for (node, key) in [(other, key), (node, KeyId(9_999)), (NodeId(9_999), key)] {
        let refused = site
            .store
            .open_session(node, key, secret("t"), at(100), site.actor(), at(1))
            .await;
        assert!(
            matches!(refused, Err(OpenSessionError::Refused)),
            "{node} {key}"
        );
    }
}

async fn a_refused_handshake_is_recorded_for_a_node_without_a_stream(site: Site) {
    let node = site.node("north").await;
    let row = site.store.node(site.org, node.id).await.expect("read");
    let stream = row.and_then(|row| row.stream);
    let holder = stream.expect("a stream").replica;
    let refused_while = async |live: Vec<ReplicaId>, reason: &str| {
        site.store
            .handshake_refused(identity("north"), live, reason.to_owned())
            .await
            .expect("recorded");
        let row = site.store.node(site.org, node.id).await.expect("read");
        row.expect("the node").stream_problem
    };
    let refused = async |reason: &str| refused_while(vec![holder], reason).await;
    assert_eq!(refused("while it is connected").await, None);
    // The server was killed, and another one has started.
    let other = ReplicaId([9; 16]);
    let killed = refused_while(vec![other], "after a kill").await;
    assert_eq!(killed.as_deref(), Some("after a kill"));
    site.store
        .release_stream(node.id, node.epoch, "lost".to_owned(), at(30))
        .await
        .expect("released");
    for reason in ["the key is not valid", "the key is not valid", "too late"] {
        assert_eq!(refused(reason).await.as_deref(), Some(reason));
    }
    // Nobody has this identity.
    site.store
        .handshake_refused([77; 32], Vec::new(), "unknown".to_owned())
        .await
        .expect("nothing to record");
    assert_eq!(refused("too late").await.as_deref(), Some("too late"));
}

async fn heartbeats_move_last_seen(site: Site) {
    let node = site.confirmed("north").await;
    let waiting = site.pending("south").await.node;
    assert!(
        site.store
            .heartbeat(node, Heartbeat::default(), at(77))
            .await
            .expect("written")
    );
    assert!(
        !site
            .store
            .heartbeat(waiting, Heartbeat::default(), at(77))
            .await
            .expect("written"),
        "not confirmed"
    );
    assert!(
        !site
            .store
            .heartbeat(NodeId(9_999), Heartbeat::default(), at(77))
            .await
            .expect("written")
    );
    let row = site
        .store
        .node(site.org, node)
        .await
        .expect("read")
        .expect("there");
    assert_eq!(row.last_seen_at, Some(at(77)));
}

async fn the_sweep_deletes_ended_sessions(site: Site) {
    let node = site.confirmed("north").await;
    open(&site, node, "token", 10).await;
    begin(&site, "c", 40).await;
    assert_eq!(site.store.sweep_sessions(at(39)).await.expect("swept"), 0);
    assert_eq!(site.store.sweep_sessions(at(40)).await.expect("swept"), 1);
    assert_eq!(
        site.store.sweep_sessions(at(86_410)).await.expect("swept"),
        1
    );
}
