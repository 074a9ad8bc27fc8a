//! The metrics endpoint: what it counts, and what it does not serve.

use fleet_core::Role;
use fleet_wire::{Code, admin::CreateEnrollmentCodeRequest};

use crate::harness::{Enrolled, Profile, World, on_both_databases, refused, request};

on_both_databases! {
    metrics_show_nodes_calls_and_the_database
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_port_serves_nothing_else() {
    let world = World::new().await;
    let metrics = world.metrics().await;
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/api/session", 404),
        ("POST", "/metrics", 405),
        ("POST", "/fleet.v1.AccountService/WhoAmI", 501),
        ("POST", "/grpc.health.v1.Health/Check", 501),
        ("GET", "/metrics", 200),
    ] {
        let json = [("content-type", "application/json")];
        let answer = request(metrics, method, path, &json, "{}").await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
    }
}

async fn metrics_show_nodes_calls_and_the_database(url: &str) {
    let world = World::at(url).await;
    let metrics = world.metrics().await;
    let viewer = world.operator(Role::Viewer).await;
    let operator = world.operator(Role::Operator).await;
    let node = Enrolled::new(&world, &operator).await;
    let _stream = node.connect(&world, Profile::ours()).await;
    let create = CreateEnrollmentCodeRequest::default();
    let denied = viewer
        .admin()
        .create_enrollment_code(&create, viewer.options())
        .await;
    refused(denied, Code::PermissionDenied);
    let wrong = r#"{"email": "nobody@acme.example", "password": "wrong password"}"#;
    let json = [("content-type", "application/json")];
    request(world.address(), "POST", "/api/session", &json, wrong).await;

    let page = request(metrics, "GET", "/metrics", &[], "").await;
    assert_eq!(page.status, 200);
    assert!(
        page.header("content-type")
            .starts_with("application/openmetrics-text")
    );
    let procedure = "/fleetnodeadmin.v1.FleetNodeAdminService/CreateEnrollmentCode";
    for line in [
        "fleet_connected_nodes 1".to_owned(),
        "fleet_database_up 1".to_owned(),
        "fleet_devices 0".to_owned(),
        "fleet_nodes{state=\"confirmed\"} 1".to_owned(),
        format!("fleet_rpc_calls_total{{procedure=\"{procedure}\",outcome=\"refused\"}} 1"),
        format!("fleet_rpc_calls_total{{procedure=\"{procedure}\",outcome=\"admitted\"}} 1"),
        "fleet_sign_ins_total{outcome=\"refused\"} 1".to_owned(),
    ] {
        assert!(
            page.body.lines().any(|l| l == line),
            "{line}:\n{}",
            page.body
        );
    }
    for foreign in ["node-", "acme.example"] {
        assert!(!page.body.contains(foreign), "{foreign}:\n{}", page.body);
    }
}
