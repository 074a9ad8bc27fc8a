//! A node fetches its API key itself: what it proves, what it gets, and how often.

use std::{num::NonZeroU32, time::Duration};

use fleet_core::{NodeId, Role, key_statement};
use fleet_server::{Rates, ServerConfig};
use fleet_store::AuditResult;
use fleet_wire::{
    Code, RpcError,
    admin::ConfirmFleetNodeRequest,
    fleet::{
        ConfirmFetchingNodeRequest, ConfirmFetchingNodeResponse, FetchNodeKeyResponse,
        ListNodesRequest, Node, NodeConfirmationClient, NodeKeyState,
    },
};
use hpke::{
    Deserializable, OpModeR, aead::ChaCha20Poly1305, kdf::HkdfSha256, kem::X25519HkdfSha256,
};

use crate::harness::{ENCRYPTION, Enrolled, Operator, World, fetch_key, identity, refused};

async fn confirm(
    world: &World,
    operator: &Operator,
    node: i64,
    code: i64,
) -> Result<ConfirmFetchingNodeResponse, RpcError> {
    let request = ConfirmFetchingNodeRequest {
        fleet_node_id: node,
        pending_enrollment_id: code,
    };
    let nodes = NodeConfirmationClient::new(world.channel());
    nodes
        .confirm_fetching_node(&request, operator.options())
        .await
}

async fn listed(operator: &Operator, node: i64) -> Node {
    let nodes = operator.nodes();
    let listed = nodes
        .list_nodes(&ListNodesRequest::default(), operator.options())
        .await;
    let mut nodes = listed.expect("are listed").nodes.into_iter();
    nodes.find(|one| one.fleet_node_id == node).expect("it")
}

/// Opens a sealed key as the node does.
fn opened(answer: &FetchNodeKeyResponse, node: i64, sequence: i64) -> Option<String> {
    type Kem = X25519HkdfSha256;
    let (ephemeral, sealed) = answer.sealed_key.split_at_checked(32)?;
    let key = <Kem as hpke::Kem>::PrivateKey::from_bytes(&ENCRYPTION).ok()?;
    let ephemeral = <Kem as hpke::Kem>::EncappedKey::from_bytes(ephemeral).ok()?;
    let text = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Kem>(
        &OpModeR::Base,
        &key,
        &ephemeral,
        b"fleet node api key 1",
        sealed,
        &key_statement(NodeId(node), sequence),
    );
    String::from_utf8(text.ok()?).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_node_fetches_its_key_until_it_has_used_one() {
    let world = World::new().await;
    let operator = world.operator(Role::Admin).await;
    let (signing, code, registered) = Enrolled::register_proved(&world, &operator).await;
    let id = registered.fleet_node_id;
    let fetch = async |sequence| fetch_key(&world, &signing, id, sequence).await;
    // Before it has asked, the server does not know that it fetches its key.
    assert!(!listed(&operator, id).await.fetches_key);
    refused(
        confirm(&world, &operator, id, code).await,
        Code::FailedPrecondition,
    );
    let waits = fetch(10).await.expect("answers");
    assert_eq!(waits.state(), NodeKeyState::AwaitingConfirmation);
    assert!(waits.sealed_key.is_empty());
    assert!(listed(&operator, id).await.fetches_key);
    confirm(&world, &operator, id, code)
        .await
        .expect("is confirmed");
    assert_eq!(listed(&operator, id).await.key_fetched_at, None);
    // An older request, as an eavesdropper could repeat it, has no effect.
    refused(fetch(10).await, Code::FailedPrecondition);
    // The first answer is lost, so the node asks again.
    let lost = fetch(11).await.expect("answers");
    let lost_key = opened(&lost, id, 11).expect("is sealed to the node");
    assert_eq!(opened(&lost, id, 12), None, "it is sealed for this request");
    let fetched = fetch(12).await.expect("answers");
    assert_eq!(fetched.state(), NodeKeyState::Fetched);
    let node = |api_key| Enrolled {
        id: NodeId(id),
        signing: signing.clone(),
        api_key,
    };
    let lost = node(lost_key).challenge(&world).await;
    refused(lost, Code::Unauthenticated);
    let enrolled = node(opened(&fetched, id, 12).expect("is sealed to the node"));
    enrolled.sign_in(&world).await;
    assert!(listed(&operator, id).await.key_fetched_at.is_some());
    refused(fetch(13).await, Code::FailedPrecondition);
    enrolled.sign_in(&world).await;
    let records = world.audited(operator.org, "node.fetch_key").await;
    let done = records
        .iter()
        .filter(|row| row.entry.result == AuditResult::Done);
    assert_eq!(done.count(), 2, "{records:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_fetches_the_key_and_a_pasted_one_is_not_replaced() {
    let world = World::new().await;
    let operator = world.operator(Role::Admin).await;
    let (signing, code, registered) = Enrolled::register_proved(&world, &operator).await;
    let id = registered.fleet_node_id;
    fetch_key(&world, &signing, id, 1).await.expect("announced");
    confirm(&world, &operator, id, code)
        .await
        .expect("is confirmed");
    let other = fetch_key(&world, &identity(), id, 2).await;
    let unknown = fetch_key(&world, &identity(), 987_654, 2).await;
    let other = refused(other, Code::Unauthenticated).message;
    assert_eq!(other, refused(unknown, Code::Unauthenticated).message);
    world.clock.pass(Duration::from_secs(3_601));
    let late = fetch_key(&world, &signing, id, 3).await;
    assert!(
        refused(late, Code::FailedPrecondition)
            .message
            .contains("is over")
    );

    let (signing, code, registered) = Enrolled::register_proved(&world, &operator).await;
    let id = registered.fleet_node_id;
    fetch_key(&world, &signing, id, 1).await.expect("announced");
    let request = ConfirmFleetNodeRequest {
        fleet_node_id: id,
        pending_enrollment_id: code,
    };
    let admin = operator.admin();
    let confirmed = admin.confirm_fleet_node(&request, operator.options()).await;
    assert!(!confirmed.expect("is confirmed").api_key.is_empty());
    let pasted = fetch_key(&world, &signing, id, 2).await.expect("answers");
    assert_eq!(pasted.state(), NodeKeyState::Pasted);

    // A node that has not proved its encryption key could have had it exchanged on the way.
    let (signing, _, registered) = Enrolled::register(&world, &operator).await;
    let unproved = fetch_key(&world, &signing, registered.fleet_node_id, 1).await;
    refused(unproved, Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_nodes_use_none_of_the_handshakes_of_their_address() {
    let of = |n| NonZeroU32::new(n).expect("not zero");
    let world = World::with(ServerConfig {
        rates: Some(Rates {
            handshakes: of(3),
            key_fetches: of(4),
            ..Rates::default()
        }),
        ..ServerConfig::default()
    })
    .await;
    let operator = world.operator(Role::Admin).await;
    let (signing, _, registered) = Enrolled::register_proved(&world, &operator).await;
    let id = registered.fleet_node_id;
    for sequence in 1..=4 {
        let waits = fetch_key(&world, &signing, id, sequence).await;
        assert_eq!(
            waits.expect("answers").state(),
            NodeKeyState::AwaitingConfirmation
        );
    }
    let limited = refused(
        fetch_key(&world, &signing, id, 5).await,
        Code::ResourceExhausted,
    );
    assert!(limited.retry_after().is_some(), "{limited}");
    let other = Enrolled::new(&world, &operator).await;
    other.challenge(&world).await.expect("a challenge");
}
