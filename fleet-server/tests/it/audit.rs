//! Audit records of refusals. The store's tests cover records of actions that were done.

use fleet_core::Role;
use fleet_store::{AuditResult, Principal};
use fleet_wire::{
    Code,
    admin::{ConfirmFleetNodeRequest, CreateEnrollmentCodeRequest, RevokeFleetNodeRequest},
};

use crate::harness::{Enrolled, World, list, refused, start_as, target};

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_is_recorded_once_a_minute_and_not_at_every_attempt() {
    let world = World::new().await;
    let viewer = world.operator(Role::Viewer).await;
    for _ in 0..5 {
        let answer = viewer
            .admin()
            .create_enrollment_code(&CreateEnrollmentCodeRequest::default(), viewer.options())
            .await;
        refused(answer, Code::PermissionDenied);
    }
    let rows = world.audited(viewer.org, "operator.call").await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    let entry = &rows[0].entry;
    assert!(
        matches!(entry.actor.principal, Principal::Operator(_)),
        "{entry:?}"
    );
    assert!(
        entry.actor.from.is_some_and(|from| from.is_loopback()),
        "{entry:?}"
    );
    assert!(entry.subject.contains("CreateEnrollmentCode"), "{entry:?}");
    match &entry.result {
        AuditResult::Refused(reason) => assert!(reason.contains("fleetnode:manage"), "{reason}"),
        AuditResult::Done => panic!("was refused: {entry:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_by_guards_are_recorded() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let (_, invitation, node) = Enrolled::register(&world, &operator).await;
    let confirm = ConfirmFleetNodeRequest {
        fleet_node_id: node.fleet_node_id,
        pending_enrollment_id: invitation + 1,
    };
    let answer = operator
        .admin()
        .confirm_fleet_node(&confirm, operator.options())
        .await;
    refused(answer, Code::FailedPrecondition);
    let revoke = RevokeFleetNodeRequest {
        fleet_node_id: 4_711,
        pending_enrollment_id: None,
    };
    let answer = operator
        .admin()
        .revoke_fleet_node(&revoke, operator.options())
        .await;
    refused(answer, Code::NotFound);
    let waiting = Enrolled {
        id: fleet_core::NodeId(node.fleet_node_id),
        signing: crate::harness::identity(),
        api_key: String::new(),
    };
    let answer = start_as(&operator, &waiting, list(&["10.0.0.1"], &[]), "one").await;
    refused(answer, Code::FailedPrecondition);
    for action in ["node.confirm", "node.revoke", "scan.start"] {
        let rows = world.audited(operator.org, action).await;
        assert_eq!(rows.len(), 1, "{action}: {rows:?}");
        assert!(
            matches!(rows[0].entry.result, AuditResult::Refused(_)),
            "{rows:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_request_leaves_no_record() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let answer = start_as(&operator, &enrolled, target("10.0.0.0/8", &[]), "one").await;
    refused(answer, Code::InvalidArgument);
    assert_eq!(world.audited(operator.org, "scan.start").await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_trail_contains_no_secret() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let token = enrolled.sign_in(&world).await;
    let rows = fleet_store::Audit::list_audit(&world.store, operator.org, None, 1_000).await;
    let trail = format!("{:?}", rows.expect("it reads"));
    assert!(trail.contains("node.sign_in"), "{trail}");
    for secret in [&operator.key, &enrolled.api_key, &token] {
        assert!(!trail.contains(secret.as_str()));
    }
    for prefix in ["fnc_", "fnk_", "fns_", "fok_", "fos_"] {
        assert!(!trail.contains(prefix), "{trail}");
    }
}
