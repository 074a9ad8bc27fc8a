//! Enrollment of nodes: the guards of every step.

use std::time::Duration;

use ed25519_dalek::Signer;
use fleet_core::{Role, SecretHash, registration_statement};
use fleet_wire::{
    Code, RpcError,
    admin::{
        ConfirmFleetNodeRequest, ConfirmFleetNodeResponse, CreateEnrollmentCodeRequest,
        CreateEnrollmentCodeResponse, ListFleetNodesRequest, RevokeFleetNodeRequest,
        RevokeFleetNodeResponse,
    },
    client::CallOptions,
    fleet::{
        CancelEnrollmentCodeRequest, ListEnrollmentCodesRequest, ListNodesRequest,
        ListRevokedNodesRequest,
    },
    gateway::{EnrollmentStatus, RegisterRequest, RegisterResponse, UploadHeartbeatRequest},
};

use crate::harness::{
    Enrolled, Operator, Profile, World, eventually, heartbeat, heartbeat_with, identity, list,
    refused, registration,
};

async fn code(operator: &Operator) -> CreateEnrollmentCodeResponse {
    operator
        .admin()
        .create_enrollment_code(&CreateEnrollmentCodeRequest::default(), operator.options())
        .await
        .expect("a code")
}

async fn register(world: &World, request: &RegisterRequest) -> Result<RegisterResponse, RpcError> {
    world.gateway().register(request, CallOptions::new()).await
}

async fn confirm(
    operator: &Operator,
    node: i64,
    invitation: i64,
) -> Result<ConfirmFleetNodeResponse, RpcError> {
    let request = ConfirmFleetNodeRequest {
        fleet_node_id: node,
        pending_enrollment_id: invitation,
    };
    operator
        .admin()
        .confirm_fleet_node(&request, operator.options())
        .await
}

async fn revoke(
    operator: &Operator,
    node: i64,
    invitation: Option<i64>,
) -> Result<RevokeFleetNodeResponse, RpcError> {
    let request = RevokeFleetNodeRequest {
        fleet_node_id: node,
        pending_enrollment_id: invitation,
    };
    operator
        .admin()
        .revoke_fleet_node(&request, operator.options())
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_used_canceled_and_expired_codes_get_the_same_answer() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let used = code(&operator).await;
    register(&world, &registration(&used.code, "first", &identity()))
        .await
        .expect("registers");
    let canceled = code(&operator).await;
    operator
        .nodes()
        .cancel_enrollment_code(
            &CancelEnrollmentCodeRequest {
                pending_enrollment_id: canceled.pending_enrollment_id,
            },
            operator.options(),
        )
        .await
        .expect("is canceled");
    let expired = code(&operator).await;
    world.clock.pass(Duration::from_secs(3_601));
    let mut answers = Vec::new();
    let unknown = "fnc_never-made-by-this-server".to_owned();
    for code in [unknown, used.code, canceled.code, expired.code] {
        let answer = register(&world, &registration(&code, "second", &identity())).await;
        answers.push(refused(answer, Code::Unauthenticated));
    }
    assert!(answers.iter().all(|a| *a == answers[0]), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_or_key_that_is_taken_leaves_the_code_usable() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let first = identity();
    let used = code(&operator).await;
    register(&world, &registration(&used.code, "barn", &first))
        .await
        .expect("registers");
    let code = code(&operator).await.code;
    let answer = register(&world, &registration(&code, "barn", &identity())).await;
    let error = refused(answer, Code::FailedPrecondition);
    assert!(error.message.contains("`barn`"), "{error}");
    let answer = register(&world, &registration(&code, "shed", &first)).await;
    refused(answer, Code::FailedPrecondition);
    register(&world, &registration(&code, "shed", &identity()))
        .await
        .expect("the code is good still");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_taken_within_its_organization_only() {
    let world = World::new().await;
    for org in ["Acme", "Other"] {
        let operator = world.operator_of(org, Role::Operator).await;
        let code = code(&operator).await.code;
        register(&world, &registration(&code, "barn", &identity()))
            .await
            .expect("registers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_control_characters_is_refused_and_shown_escaped() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let code = code(&operator).await.code;
    let answer = register(&world, &registration(&code, "b\u{1b}[2Jarn", &identity())).await;
    let error = refused(answer, Code::InvalidArgument);
    assert!(!error.message.contains('\u{1b}'), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn weak_keys_are_refused_and_leave_the_code_usable() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let code = code(&operator).await.code;
    let good = registration(&code, "barn", &identity());
    let mut of_low_order = [0; 32];
    of_low_order[0] = 1;
    for weak in [[0; 32], of_low_order] {
        let request = RegisterRequest {
            identity_pubkey: weak.to_vec().into(),
            ..good.clone()
        };
        let error = refused(register(&world, &request).await, Code::InvalidArgument);
        assert!(error.message.contains("identity_pubkey"), "{error}");
        let request = RegisterRequest {
            encryption_pubkey: weak.to_vec().into(),
            ..good.clone()
        };
        let error = refused(register(&world, &request).await, Code::InvalidArgument);
        assert!(error.message.contains("encryption_pubkey"), "{error}");
    }
    register(&world, &good).await.expect("registers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_of_the_identity_key_is_verified_if_present() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let code = code(&operator).await.code;
    let signing = identity();
    let mut request = registration(&code, "barn", &signing);
    let public = signing.verifying_key().to_bytes();
    let statement =
        |name: &str| registration_statement(&SecretHash::of(&code), name, &public, &[9; 32]);
    for wrong in [
        signing.sign(&statement("shed")),
        identity().sign(&statement("barn")),
    ] {
        request.identity_proof = wrong.to_bytes().to_vec().into();
        let error = refused(register(&world, &request).await, Code::InvalidArgument);
        assert!(error.message.contains("identity_proof"), "{error}");
    }
    request.identity_proof = signing.sign(&statement("barn")).to_bytes().to_vec().into();
    let registered = register(&world, &request).await.expect("registers");
    assert_eq!(registered.enrollment_status(), EnrollmentStatus::Pending);
    let fingerprint = fleet_core::Fingerprint::of_both(&public, &[9; 32]).to_string();
    assert_eq!(registered.identity_fingerprint, fingerprint);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_confirmed_once_by_its_own_ids() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let (_, invitation, node) = Enrolled::register(&world, &operator).await;
    let (_, other_invitation, other) = Enrolled::register(&world, &operator).await;
    let unknown = confirm(&operator, 4_711, invitation).await;
    refused(unknown, Code::NotFound);
    for wrong in [other_invitation, 4_711] {
        let error = refused(
            confirm(&operator, node.fleet_node_id, wrong).await,
            Code::FailedPrecondition,
        );
        assert!(error.message.contains(&wrong.to_string()), "{error}");
    }
    let confirmed = confirm(&operator, node.fleet_node_id, invitation).await;
    assert!(confirmed.expect("is confirmed").api_key.starts_with("fnk_"));
    let again = confirm(&operator, node.fleet_node_id, invitation).await;
    refused(again, Code::FailedPrecondition);
    world.clock.pass(Duration::from_secs(3_601));
    let late = confirm(&operator, other.fleet_node_id, other_invitation).await;
    // Refused as expired, or the sweep was there first and the node is gone.
    let error = late.expect_err("is refused");
    assert!(
        matches!(error.code, Code::FailedPrecondition | Code::NotFound),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_needs_the_pending_id_only_before_confirmation() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let (_, invitation, waiting) = Enrolled::register(&world, &operator).await;
    let node = waiting.fleet_node_id;
    refused(revoke(&operator, node, None).await, Code::InvalidArgument);
    refused(
        revoke(&operator, node, Some(invitation + 1)).await,
        Code::FailedPrecondition,
    );
    revoke(&operator, node, Some(invitation))
        .await
        .expect("is revoked");
    refused(
        revoke(&operator, node, Some(invitation)).await,
        Code::NotFound,
    );
    let confirmed = Enrolled::new(&world, &operator).await;
    revoke(&operator, confirmed.id.0, None)
        .await
        .expect("is revoked");
    let error = confirmed.challenge(&world).await.expect_err("is refused");
    assert_eq!(error.code, Code::Unauthenticated, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn scanning_an_unconfirmed_node_is_refused_with_its_fingerprint() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let (_, _, waiting) = Enrolled::register(&world, &operator).await;
    let asked = fleet_wire::fleet::PlanScanRequest {
        fleet_node_id: waiting.fleet_node_id,
        request: Some(list(&["10.0.0.1"], &[])),
        ..fleet_wire::fleet::PlanScanRequest::default()
    };
    let answer = operator.scans().plan_scan(&asked, operator.options()).await;
    let error = refused(answer, Code::FailedPrecondition);
    assert!(
        error.message.contains(&waiting.identity_fingerprint),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn open_codes_and_nodes_are_listed_with_their_state() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let pending = code(&operator).await;
    let node = Enrolled::new(&world, &operator).await;
    let stream = node.connect(&world, Profile::ours()).await;
    let codes = operator
        .nodes()
        .list_enrollment_codes(&ListEnrollmentCodesRequest::default(), operator.options())
        .await
        .expect("lists")
        .codes;
    assert_eq!(codes.len(), 1);
    assert_eq!(
        codes[0].pending_enrollment_id,
        pending.pending_enrollment_id
    );
    assert_eq!(
        (codes[0].state.as_str(), &codes[0].created_by),
        ("pending", &operator.email)
    );
    let nodes = || async {
        let listed = operator
            .nodes()
            .list_nodes(&ListNodesRequest::default(), operator.options())
            .await;
        listed.expect("lists").nodes.remove(0)
    };
    let shown = nodes().await;
    assert!(shown.online && shown.connected, "{shown:?}");
    assert_eq!(
        (shown.enrollment.as_str(), shown.version.as_str()),
        ("confirmed", "test")
    );
    let upstream = operator
        .admin()
        .list_fleet_nodes(&ListFleetNodesRequest {}, operator.options())
        .await
        .expect("lists");
    assert_eq!(
        upstream.fleet_nodes[0].identity_fingerprint,
        shown.identity_fingerprint
    );
    let token = stream.token.clone();
    drop(stream);
    eventually(|| async { !nodes().await.connected }).await;
    assert!(!nodes().await.online, "its stream has ended");
    let alive = heartbeat(&world.gateway(), &token).await;
    alive.expect("is accepted");
    assert!(nodes().await.online, "it lives, but cannot open a stream");
    world.clock.pass(Duration::from_secs(121));
    assert!(!nodes().await.online);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_halted_node_is_listed_with_its_reason_until_it_is_resumed() {
    let world = World::new().await;
    let operator = world.operator(Role::Viewer).await;
    let admin = world.operator(Role::Admin).await;
    let enrolled = Enrolled::new(&world, &admin).await;
    let node = enrolled.connect(&world, Profile::ours()).await;
    let say = async |halted: Option<bool>, reason: &str| {
        let status = UploadHeartbeatRequest {
            halted,
            halt_reason: reason.to_owned(),
            ..UploadHeartbeatRequest::default()
        };
        heartbeat_with(&world.gateway(), &node.token, status)
            .await
            .expect("is accepted");
        let listed = operator
            .nodes()
            .list_nodes(&ListNodesRequest::default(), operator.options())
            .await;
        let node = listed.expect("lists").nodes.remove(0);
        (node.halted, node.halt_reason)
    };
    let halted = |reason: &str| (true, reason.to_owned());
    assert_eq!(say(Some(false), "").await, (false, String::new()));
    assert_eq!(say(Some(true), "new switch").await, halted("new switch"));
    // A heartbeat of an upstream node says nothing about it.
    assert_eq!(say(None, "").await, halted("new switch"));
    assert_eq!(say(Some(true), "a\u{1b}b").await, halted("a\\u{1b}b"));
    assert_eq!(say(Some(true), "").await, halted(""));
    assert_eq!(say(Some(false), "").await, (false, String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_replaces_only_a_revoked_node() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let replacing = |node: i64| {
        let request = CreateEnrollmentCodeRequest {
            replaces_fleet_node_id: node,
        };
        let admin = operator.admin();
        let options = operator.options();
        async move { admin.create_enrollment_code(&request, options).await }
    };
    let alive = refused(replacing(enrolled.id.0).await, Code::FailedPrecondition);
    assert!(alive.message.contains("revoke it first"), "{alive:?}");
    refused(replacing(4_711).await, Code::NotFound);
    let trail = world.audited(operator.org, "code.create").await;
    assert!(
        trail
            .iter()
            .any(|row| matches!(row.entry.result, fleet_store::AuditResult::Refused(_))),
        "{trail:?}"
    );
    revoke(&operator, enrolled.id.0, None)
        .await
        .expect("revoked");
    replacing(enrolled.id.0).await.expect("a code");
    let open = operator
        .nodes()
        .list_enrollment_codes(&ListEnrollmentCodesRequest::default(), operator.options())
        .await
        .expect("lists")
        .codes;
    assert_eq!(open[0].replaces_fleet_node_id, enrolled.id.0);
    let gone = operator
        .nodes()
        .list_revoked_nodes(&ListRevokedNodesRequest::default(), operator.options())
        .await
        .expect("lists")
        .nodes;
    assert_eq!(
        (gone[0].fleet_node_id, gone[0].enrollment.as_str()),
        (enrolled.id.0, "revoked")
    );
    // Nodes of another organization can be neither replaced nor listed.
    let outsider = world.operator_of("other", Role::Operator).await;
    let request = CreateEnrollmentCodeRequest {
        replaces_fleet_node_id: enrolled.id.0,
    };
    let answer = outsider
        .admin()
        .create_enrollment_code(&request, outsider.options())
        .await;
    refused(answer, Code::NotFound);
}
