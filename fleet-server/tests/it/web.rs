//! Requests that are not RPCs: health, the page, sign-in, event streams.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use fleet_core::Role;
use fleet_server::{Environment as _, Rates, ServerConfig};
use fleet_store::AuditChain as _;
use fleet_wire::gateway::AckCode;

use crate::harness::{Enrolled, Http, Profile, World, device, eventually, list, request, start};

const JSON: (&str, &str) = ("content-type", "application/json");

async fn get(world: &World, path: &str, headers: &[(&str, &str)]) -> Http {
    request(world.address(), "GET", path, headers, "").await
}

async fn sign_in(world: &World, key: &str) -> Http {
    let body = serde_json::json!({ "key": key }).to_string();
    request(world.address(), "POST", "/api/session", &[JSON], &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_plain_text_and_unknown_paths_are_not_found() {
    let world = World::new().await;
    let health = get(&world, "/healthz", &[]).await;
    assert_eq!((health.status, health.body.as_str()), (200, "ok\n"));
    let ready = get(&world, "/readyz", &[]).await;
    assert_eq!((ready.status, ready.body.as_str()), (200, "ready\n"));
    for path in [
        "/nothing",
        "/api",
        "/api/nothing",
        "/js/../index.html",
        "/index.htm%6c/",
    ] {
        let answer = get(&world, path, &[]).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.json()["code"], "not_found");
    }
    let answer = request(world.address(), "PUT", "/healthz", &[], "").await;
    assert_eq!(answer.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_fails_with_the_database() {
    let world = World::new().await;
    assert_eq!(get(&world, "/readyz", &[]).await.status, 200);
    world.store.close().await;
    let failed = Instant::now();
    eventually(|| async { get(&world, "/readyz", &[]).await.status == 503 }).await;
    assert!(
        failed.elapsed() < Duration::from_secs(3),
        "{:?}",
        failed.elapsed()
    );
    let asked = Instant::now();
    let ready = get(&world, "/readyz", &[]).await;
    assert!(
        asked.elapsed() < Duration::from_secs(1),
        "{:?}",
        asked.elapsed()
    );
    assert!(ready.body.contains("database"), "{}", ready.body);
    let health = get(&world, "/healthz", &[]).await;
    assert_eq!(health.status, 200, "the process itself is well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_failure_is_unavailable_and_reveals_nothing_of_the_database() {
    let world = World::new().await;
    let admin = world.operator(Role::Admin).await;
    world.store.close().await;
    let bearer = format!("Bearer {}", admin.key);
    let path = "/fleet.v1.AccountService/WhoAmI";
    let headers = [JSON, ("authorization", bearer.as_str())];
    let answer = request(world.address(), "POST", path, &headers, "{}").await;
    assert_eq!(
        answer.json()["code"],
        "unavailable",
        "never unauthenticated"
    );
    let message = answer.json()["message"].to_string();
    assert!(message.contains("incident"), "{message}");
    assert!(!message.to_lowercase().contains("sql"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_runs_only_its_own_files() {
    let world = World::new().await;
    let page = get(&world, "/", &[]).await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let policy = page.header("content-security-policy");
    for rule in [
        "default-src 'none'",
        "script-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ] {
        assert!(policy.contains(rule), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    assert_eq!(page.header("referrer-policy"), "no-referrer");
    let tag = page.header("etag").to_owned();
    let again = get(&world, "/", &[("if-none-match", &tag)]).await;
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    let head = request(world.address(), "HEAD", "/", &[], "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_becomes_a_cookie_that_no_script_can_read() {
    let world = World::new().await;
    let viewer = world.operator(Role::Viewer).await;
    let answer = sign_in(&world, &viewer.key).await;
    assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    let set = answer.header("set-cookie");
    for flag in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(set.contains(flag), "{set}");
    }
    assert!(!set.contains("Secure"), "plain HTTP on loopback: {set}");
    assert_eq!(answer.header("strict-transport-security"), "");
    assert!(!set.contains(&viewer.key));

    let cookie = answer.cookie();
    let shown = get(&world, "/api/session", &[("cookie", &cookie)]).await;
    assert_eq!(shown.status, 200);
    assert_eq!(shown.json()["email"], viewer.email);
    assert_eq!(shown.json()["role"], "viewer");
    assert_eq!(
        shown.json()["permissions"],
        serde_json::json!(["fleetnode:read"])
    );
    let nobody = get(&world, "/api/session", &[]).await;
    assert_eq!(nobody.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_https_only_the_secure_cookie_of_this_host_counts() {
    let world = World::with(ServerConfig {
        rates: None,
        public_https: true,
        ..ServerConfig::default()
    })
    .await;
    let viewer = world.operator(Role::Viewer).await;
    let answer = sign_in(&world, &viewer.key).await;
    let set = answer.header("set-cookie");
    assert!(set.starts_with("__Host-fleet_session="), "{set}");
    assert!(set.contains("; Secure"), "{set}");
    assert!(!set.contains("Domain"), "browsers refuse it: {set}");

    let cookie = answer.cookie();
    let shown = get(&world, "/api/session", &[("cookie", &cookie)]).await;
    assert_eq!(shown.status, 200);
    assert_eq!(
        shown.header("strict-transport-security"),
        "max-age=31536000"
    );
    let from_a_neighbor = cookie.replace("__Host-", "");
    let refused = get(&world, "/api/session", &[("cookie", &from_a_neighbor)]).await;
    assert_eq!(refused.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_sign_ins_are_refused() {
    let world = World::new().await;
    let viewer = world.operator(Role::Viewer).await;
    let wrong = sign_in(&world, "fok_wrong").await;
    assert_eq!(wrong.status, 401);
    assert!(wrong.header("set-cookie").is_empty());
    let good = serde_json::json!({ "key": viewer.key }).to_string();
    for (headers, body, why) in [
        (vec![JSON], "nonsense".to_owned(), "no JSON"),
        (
            vec![JSON],
            r#"{"key":"x","more":1}"#.to_owned(),
            "unknown field",
        ),
        (
            vec![JSON],
            format!(r#"{{{}"key":"x"}}"#, " ".repeat(20_000)),
            "too long",
        ),
        (
            vec![("content-type", "text/plain")],
            good.clone(),
            "a form's type",
        ),
        (vec![], good, "no type"),
    ] {
        let answer = request(world.address(), "POST", "/api/session", &headers, &body).await;
        assert_eq!(answer.status, 400, "{why}: {}", answer.body);
        assert!(answer.header("set-cookie").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_ins_are_limited_with_a_retry_hint() {
    let rates = Rates {
        sign_ins: NonZeroU32::new(2).expect("not zero"),
        ..Rates::default()
    };
    let world = World::with(ServerConfig {
        rates: Some(rates),
        ..ServerConfig::default()
    })
    .await;
    for _ in 0..2 {
        assert_eq!(sign_in(&world, "fok_wrong").await.status, 401);
    }
    let limited = sign_in(&world, "fok_wrong").await;
    assert_eq!(limited.status, 429);
    let wait: u64 = limited.header("retry-after").parse().expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_without_the_csrf_header_changes_nothing() {
    let world = World::new().await;
    let admin = world.operator(Role::Admin).await;
    let cookie = sign_in(&world, &admin.key).await.cookie();
    let path = "/fleetnodeadmin.v1.FleetNodeAdminService/CreateEnrollmentCode";
    let create = async |headers: &[(&str, &str)]| {
        request(world.address(), "POST", path, headers, "{}").await
    };
    let refused = create(&[JSON, ("cookie", &cookie)]).await;
    assert_eq!(refused.status, 401);
    let message = refused.json()["message"].to_string();
    assert!(message.contains("x-fleet-csrf"), "{message}");
    let taken = create(&[JSON, ("cookie", &cookie), ("x-fleet-csrf", "1")]).await;
    assert_eq!(taken.status, 200, "{}", taken.body);
    // A bearer token is no ambient authority: it needs no such header.
    let bearer = format!("Bearer {}", admin.key);
    assert_eq!(
        create(&[JSON, ("authorization", &bearer)]).await.status,
        200
    );
    // A wrong bearer is not saved by a good cookie.
    let both = create(&[
        JSON,
        ("authorization", "Bearer fok_wrong"),
        ("cookie", &cookie),
        ("x-fleet-csrf", "1"),
    ])
    .await;
    assert_eq!(both.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_out_ends_the_session_and_clears_the_cookie() {
    let world = World::new().await;
    let viewer = world.operator(Role::Viewer).await;
    let cookie = sign_in(&world, &viewer.key).await.cookie();
    let with = [("cookie", cookie.as_str())];
    let refused = request(world.address(), "DELETE", "/api/session", &with, "").await;
    assert_eq!(refused.status, 401, "without the header nothing changes");
    assert_eq!(get(&world, "/api/session", &with).await.status, 200);
    let with_header = [("cookie", cookie.as_str()), ("x-fleet-csrf", "1")];
    let out = request(world.address(), "DELETE", "/api/session", &with_header, "").await;
    assert_eq!(out.status, 204);
    assert!(out.header("set-cookie").contains("Max-Age=0"));
    assert_eq!(get(&world, "/api/session", &with).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_session_expires_after_a_working_day() {
    let world = World::new().await;
    let viewer = world.operator(Role::Viewer).await;
    let cookie = sign_in(&world, &viewer.key).await.cookie();
    world
        .clock
        .pass(std::time::Duration::from_secs(12 * 3_600 + 1));
    let over = get(&world, "/api/session", &[("cookie", &cookie)]).await;
    assert_eq!(over.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_resumes_where_the_browser_was() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let cookie = sign_in(&world, &operator.key).await.cookie();
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let scan = start(
        &operator,
        &enrolled,
        list(&["10.0.0.1", "10.0.0.2"], &["4028"]),
    )
    .await;
    let (command, _) = node.command().await;
    let path = format!("/api/scans/{}/events", scan.id);
    let mut live = get(&world, &path, &[("cookie", &cookie)]).await;
    assert_eq!(live.status, 200);
    assert_eq!(live.header("content-type"), "text/event-stream");
    node.report(&command, vec![device("10.0.0.1")])
        .await
        .expect("is taken");
    live.read_until("id: 1\ndata: ").await;
    live.read_until("10.0.0.1").await;
    drop(live);
    node.report(&command, vec![device("10.0.0.2")])
        .await
        .expect("is taken");
    node.ack(&command, AckCode::Ok).await;
    scan.is("SCAN_STATE_COMPLETED").await;

    let resumed = [("cookie", cookie.as_str()), ("last-event-id", "1")];
    let mut rest = get(&world, &path, &resumed).await;
    rest.read_to_end().await;
    assert!(!rest.body.contains("id: 1\n"), "{}", rest.body);
    assert!(rest.body.contains("id: 2\n"), "{}", rest.body);
    assert!(rest.body.contains("10.0.0.2"), "{}", rest.body);
    assert!(rest.body.contains("id: 3\n"), "{}", rest.body);
    assert!(rest.body.contains(r#""type":"ledger""#), "{}", rest.body);
    // The header of a browser that reconnects counts more than the address it began with.
    let mut both = get(&world, &format!("{path}?after=0"), &resumed).await;
    both.read_to_end().await;
    assert!(!both.body.contains("id: 1\n"), "{}", both.body);

    // Nothing is left: a browser must not reconnect.
    let done = get(&world, &format!("{path}?after=3"), &[("cookie", &cookie)]).await;
    assert_eq!(done.status, 204);
    let ahead = get(&world, &format!("{path}?after=4"), &[("cookie", &cookie)]).await;
    assert_eq!(
        (ahead.status, ahead.json()["code"].as_str()),
        (400, Some("out_of_range"))
    );
    for wrong in ["-1", "x", ""] {
        let answer = get(
            &world,
            &format!("{path}?after={wrong}"),
            &[("cookie", &cookie)],
        )
        .await;
        assert_eq!(answer.status, 400, "{wrong}");
    }
    assert_eq!(get(&world, &path, &[]).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_routes_record_refused_credentials() {
    let world = World::new().await;
    for path in [
        "/api/export/devices.csv",
        "/api/prometheus/targets",
        "/api/scans/0190a1b2-0000-7000-8000-000000000000/events",
        "/api/scans/0190a1b2-0000-7000-8000-000000000000/difference.json",
    ] {
        let guessed = [("authorization", "Bearer fok_guess")];
        assert_eq!(get(&world, path, &guessed).await.status, 401, "{path}");
        // A call without a credential leaves no record, as everywhere.
        assert_eq!(get(&world, path, &[]).await.status, 401, "{path}");
        // Refusals of one source and minute are counted together.
        world.clock.pass(Duration::from_secs(61));
    }
    let sealed = world.store.seal_audit(world.clock.now()).await;
    sealed.expect("is sealed");
    let links = world.store.audit_links(None, 0, 100).await.expect("read");
    let records = links.into_iter().filter_map(|link| link.record);
    let subjects: Vec<String> = records
        .filter(|record| record.action == "operator.call")
        .map(|record| record.subject)
        .collect();
    for named in ["export", "prometheus", "events", "difference"] {
        let count = subjects.iter().filter(|subject| subject.contains(named));
        assert_eq!(count.count(), 1, "{named}: {subjects:?}");
    }
}
