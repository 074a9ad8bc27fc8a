//! Accounts: sign-in by password, keys, sessions, operators.

use std::{num::NonZeroU32, time::Duration};

use fleet_core::Role;
use fleet_server::{Rates, ServerConfig};
use fleet_wire::{
    Code,
    client::CallOptions,
    fleet::{
        ChangePasswordRequest, CreateKeyRequest, CreateOperatorRequest, EndSessionRequest,
        KeyClient, ListKeysRequest, ListOperatorsRequest, ListSessionsRequest, OperatorClient,
        RemoveOperatorRequest, ResetOperatorPasswordRequest, RevokeKeyRequest, RotateKeyRequest,
        SetOperatorRoleRequest, WatchScanRequest, WhoAmIRequest,
    },
    gateway::AckCode,
};

use crate::harness::{
    Enrolled, Http, Operator, Profile, World, bearer, list, refused, request, soon, start,
};

const JSON: (&str, &str) = ("content-type", "application/json");
const PASSWORD: &str = "correct horse battery staple";

fn keys(world: &World) -> KeyClient {
    KeyClient::new(world.channel())
}

fn operators(world: &World) -> OperatorClient {
    OperatorClient::new(world.channel())
}

/// Signs in from an address, as a trusted proxy tells it.
async fn sign_in_from(world: &World, address: &str, body: serde_json::Value) -> Http {
    let headers = [JSON, ("x-forwarded-for", address)];
    let body = body.to_string();
    request(world.address(), "POST", "/api/session", &headers, &body).await
}

async fn sign_in(world: &World, email: &str, password: &str) -> Http {
    let body = serde_json::json!({ "email": email, "password": password });
    sign_in_from(world, "198.51.100.1", body).await
}

async fn session(world: &World, cookie: &str) -> Http {
    request(
        world.address(),
        "GET",
        "/api/session",
        &[("cookie", cookie)],
        "",
    )
    .await
}

/// An operator with a password, made as an administrator does it: the one-time password is exchanged.
async fn with_password(world: &World, admin: &Operator, email: &str, role: &str) -> i64 {
    let create = CreateOperatorRequest {
        email: email.to_owned(),
        role: role.to_owned(),
    };
    let made = operators(world)
        .create_operator(&create, admin.options())
        .await
        .expect("is made");
    let body = serde_json::json!({ "email": email, "password": made.one_time_password, "newPassword": PASSWORD });
    let answer = sign_in_from(world, "198.51.100.1", body).await;
    assert_eq!(answer.status, 204, "{}", answer.body);
    made.operator_id
}

/// A new key, by another one.
async fn make_key(world: &World, options: CallOptions, name: &str) -> (i64, String) {
    let create = CreateKeyRequest {
        name: name.to_owned(),
        ..CreateKeyRequest::default()
    };
    let made = keys(world).create_key(&create, options).await;
    let made = made.expect("is made");
    (made.key_id, made.key)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_one_time_password_is_exchanged_once_and_the_chosen_one_signs_in() {
    let world = World::new().await;
    let admin = world.operator(Role::Admin).await;
    let create = CreateOperatorRequest {
        email: "ann@example.org".into(),
        role: "viewer".into(),
    };
    let made = operators(&world)
        .create_operator(&create, admin.options())
        .await
        .expect("is made");
    let one_time = made.one_time_password;
    let body = |new: Option<&str>| serde_json::json!({ "email": "Ann@Example.org", "password": &one_time, "newPassword": new });
    let alone = sign_in(&world, "Ann@Example.org", &one_time).await;
    assert_eq!(alone.json()["code"], "failed_precondition");
    for (weak, why) in [
        ("short", "at least 12"),
        ("ann@example.org", "e-mail"),
        (one_time.as_str(), "one-time"),
    ] {
        let answer = sign_in_from(&world, "198.51.100.1", body(Some(weak))).await;
        assert_eq!(answer.status, 400);
        let message = answer.json()["message"].to_string();
        assert!(message.contains(why), "{message}");
        assert!(answer.header("set-cookie").is_empty());
    }
    let answer = sign_in_from(&world, "198.51.100.1", body(Some(PASSWORD))).await;
    assert_eq!(answer.status, 204, "{}", answer.body);
    let set = answer.header("set-cookie");
    for flag in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(set.contains(flag), "{set}");
    }
    let shown = session(&world, &answer.cookie()).await;
    assert_eq!(shown.json()["email"], "ann@example.org");

    let again = sign_in_from(&world, "198.51.100.1", body(Some(PASSWORD))).await;
    assert_eq!(again.status, 401, "it was good once");
    assert_eq!(
        sign_in(&world, " ANN@example.org", PASSWORD).await.status,
        204
    );
    assert_eq!(world.audited(admin.org, "operator.sign_in").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_one_time_password_expires_after_a_day() {
    let world = World::new().await;
    let admin = world.operator(Role::Admin).await;
    let ann = with_password(&world, &admin, "ann@example.org", "viewer").await;
    let reset = ResetOperatorPasswordRequest { operator_id: ann };
    let reset = operators(&world)
        .reset_operator_password(&reset, admin.options())
        .await
        .expect("is reset");
    assert_eq!(
        sign_in(&world, "ann@example.org", PASSWORD).await.status,
        401
    );
    world.clock.pass(Duration::from_secs(24 * 3_600 + 1));
    let late = sign_in(&world, "ann@example.org", &reset.one_time_password).await;
    assert_eq!(late.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_email_and_a_wrong_password_get_the_same_answer() {
    let world = World::new().await;
    let admin = world.operator(Role::Admin).await;
    with_password(&world, &admin, "ann@example.org", "viewer").await;
    let wrong = sign_in(&world, "ann@example.org", "wrong horse battery").await;
    let unknown = sign_in(&world, "eve@example.org", "wrong horse battery").await;
    let keys_only = sign_in(&world, &admin.email, "wrong horse battery").await;
    let endless = sign_in(&world, "ann@example.org", &"x".repeat(2_000)).await;
    for answer in [&wrong, &unknown, &keys_only, &endless] {
        assert_eq!(answer.status, 401);
        assert_eq!(answer.body, wrong.body);
        assert!(answer.header("set-cookie").is_empty());
    }
    let reported = world.audited(admin.org, "operator.sign_in").await;
    let reported = reported.iter().map(|row| row.entry.subject.as_str());
    assert!(
        reported
            .into_iter()
            .any(|subject| subject.contains("ann@example.org"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_by_an_unauthenticated_peer_cannot_lock_the_owner_out() {
    let world = World::with(ServerConfig {
        rates: Some(Rates {
            sign_ins: NonZeroU32::new(1_000).expect("not zero"),
            passwords_of_an_account: NonZeroU32::new(3).expect("not zero"),
            ..Rates::default()
        }),
        trusted_proxies: vec!["127.0.0.0/8".parse().expect("a network")],
        ..ServerConfig::default()
    })
    .await;
    let admin = world.operator(Role::Admin).await;
    with_password(&world, &admin, "ann@example.org", "viewer").await;
    let guess = |address: &'static str, email: &'static str| {
        let body = serde_json::json!({ "email": email, "password": "a guess of many" });
        sign_in_from(&world, address, body)
    };
    // All unknown addresses share one allowance. It is the same for an account that does not exist.
    for email in ["ann@example.org", "eve@example.org"] {
        let mut statuses = Vec::new();
        for address in ["203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4"] {
            let answer = guess(address, email).await;
            if answer.status == 429 {
                assert!(!answer.header("retry-after").is_empty());
            }
            statuses.push(answer.status);
        }
        // One of Ann's allowance went to her own first sign-in, from a source not known then.
        let expected: [u16; 4] = if email == "ann@example.org" {
            [401, 401, 429, 429]
        } else {
            [401, 401, 401, 429]
        };
        assert_eq!(statuses, expected, "{email}");
    }
    let owner = sign_in(&world, "ann@example.org", PASSWORD).await;
    assert_eq!(owner.status, 204, "{}", owner.body);
    // From an unknown address she can sign in with a key, which nobody can guess.
    let (_, key) = make_key(&world, admin.options(), "mine").await;
    let body = serde_json::json!({ "key": key });
    assert_eq!(sign_in_from(&world, "203.0.113.5", body).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_nobody_declared_cannot_use_the_allowance_of_the_address_that_it_names() {
    let world = World::with(ServerConfig {
        rates: Some(Rates {
            sign_ins: NonZeroU32::new(4).expect("not zero"),
            passwords_of_an_account: NonZeroU32::new(2).expect("not zero"),
            ..Rates::default()
        }),
        ..ServerConfig::default()
    })
    .await;
    let admin = world.operator(Role::Admin).await;
    // Ann signs in from 127.0.0.1 without a proxy. Her address is known from now on.
    let create = CreateOperatorRequest {
        email: "ann@example.org".to_owned(),
        role: "viewer".to_owned(),
    };
    let made = operators(&world)
        .create_operator(&create, admin.options())
        .await
        .expect("is made");
    let body = serde_json::json!({
        "email": "ann@example.org", "password": made.one_time_password, "newPassword": PASSWORD
    });
    let own = async |body: serde_json::Value| {
        request(
            world.address(),
            "POST",
            "/api/session",
            &[JSON],
            &body.to_string(),
        )
        .await
    };
    assert_eq!(own(body).await.status, 204);
    // A peer names her address as that of its client, more often than both allowances permit.
    for _ in 0..12 {
        let body = serde_json::json!({ "email": "ann@example.org", "password": "a guess of many" });
        let refused = sign_in_from(&world, "127.0.0.1", body).await;
        assert!(matches!(refused.status, 401 | 429), "{}", refused.body);
    }
    let body = serde_json::json!({ "email": "ann@example.org", "password": PASSWORD });
    let owner = own(body).await;
    assert_eq!(owner.status, 204, "{}", owner.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_operators_are_read_by_cursor_and_keys_name_their_maker() {
    let world = World::new().await;
    let admin = world.operator(Role::Admin).await;
    for name in ["ann", "ben", "cat"] {
        with_password(&world, &admin, &format!("{name}@example.org"), "viewer").await;
    }
    let client = operators(&world);
    let page = async |limit, cursor| {
        let request = ListOperatorsRequest { limit, cursor };
        let listed = client.list_operators(&request, admin.options()).await;
        listed.expect("are listed")
    };
    let all = page(0, 0).await;
    assert_eq!((all.operators.len(), all.next_cursor), (4, 0));
    let first = page(3, 0).await;
    assert_eq!(first.operators, all.operators[..3]);
    assert_eq!(first.next_cursor, all.operators[2].operator_id);
    let last = page(3, first.next_cursor).await;
    assert_eq!(
        (&last.operators[..], last.next_cursor),
        (&all.operators[3..], 0)
    );

    let (made, _) = make_key(&world, admin.options(), "made by the first").await;
    let request = ListKeysRequest {
        all_operators: false,
    };
    let listed = keys(&world).list_keys(&request, admin.options()).await;
    let listed = listed.expect("are listed").keys;
    let by = |id| listed.iter().find(|key| key.key_id == id).expect("it");
    let maker = listed.iter().find(|key| key.current).expect("the caller's");
    assert_eq!(by(made).made_by_key_id, maker.key_id);
    assert_eq!(maker.made_by_key_id, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_the_password_needs_the_current_one_and_ends_other_sessions() {
    let world = World::new().await;
    let admin = world.operator(Role::Admin).await;
    with_password(&world, &admin, "ann@example.org", "viewer").await;
    let here = sign_in(&world, "ann@example.org", PASSWORD).await.cookie();
    let there = sign_in(&world, "ann@example.org", PASSWORD).await.cookie();
    let call = |procedure: &'static str, cookie: String, body: serde_json::Value| {
        let address = world.address();
        async move {
            let headers = [JSON, ("cookie", cookie.as_str()), ("x-fleet-csrf", "1")];
            let path = format!("/fleet.v1.AccountService/{procedure}");
            request(address, "POST", &path, &headers, &body.to_string()).await
        }
    };
    let change = |current: &str, new: &str| {
        let body = serde_json::json!({ "currentPassword": current, "newPassword": new });
        call("ChangePassword", here.clone(), body)
    };
    // Longer than any password in bytes, though not in characters: unreadable, and so wrong.
    for current in ["not the password", &"é".repeat(1_024)] {
        let wrong = change(current, "another horse entirely").await;
        assert_eq!(
            wrong.json()["code"],
            "failed_precondition",
            "{}",
            wrong.body
        );
    }
    let wrong = change("not the password", "another horse entirely").await;
    assert_eq!(
        wrong.json()["code"],
        "failed_precondition",
        "{}",
        wrong.body
    );
    assert!(wrong.body.contains("current password"), "{}", wrong.body);
    let weak = change(PASSWORD, "short").await;
    assert_eq!(weak.json()["code"], "invalid_argument");
    assert_eq!(session(&world, &there).await.status, 200);

    let listed = call("ListSessions", here.clone(), serde_json::json!({}))
        .await
        .json();
    let sessions = listed["sessions"].as_array().expect("a list");
    assert_eq!(sessions.len(), 3, "the first sign-in too: {listed}");
    assert_eq!(
        sessions.iter().filter(|one| one["current"] == true).count(),
        1
    );

    assert_eq!(change(PASSWORD, "another horse entirely").await.status, 200);
    assert_eq!(session(&world, &here).await.status, 200, "this one stays");
    assert_eq!(session(&world, &there).await.status, 401);
    assert_eq!(
        sign_in(&world, "ann@example.org", PASSWORD).await.status,
        401
    );
    let again = sign_in(&world, "ann@example.org", "another horse entirely").await;
    assert_eq!(again.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_sets_no_first_password_and_ends_sessions() {
    let world = World::new().await;
    let viewer = world.operator(Role::Viewer).await;
    let change = ChangePasswordRequest {
        current_password: String::new(),
        new_password: PASSWORD.into(),
    };
    let account = viewer.account();
    let by_key = account.change_password(&change, viewer.options()).await;
    let by_key = refused(by_key, Code::FailedPrecondition);
    assert!(by_key.message.contains("reset-password"), "{by_key}");
    let body = serde_json::json!({ "key": viewer.key });
    let cookie = sign_in_from(&world, "198.51.100.1", body).await.cookie();
    let headers = [JSON, ("cookie", cookie.as_str()), ("x-fleet-csrf", "1")];
    let body = serde_json::json!({ "newPassword": PASSWORD }).to_string();
    let path = "/fleet.v1.AccountService/ChangePassword";
    let by_session = request(world.address(), "POST", path, &headers, &body).await;
    assert_eq!(by_session.json()["code"], "failed_precondition");
    let none = sign_in(&world, &viewer.email, PASSWORD).await;
    assert_eq!(none.status, 401, "no password was set");
    let listed = account
        .list_sessions(&ListSessionsRequest::default(), viewer.options())
        .await
        .expect("lists");
    let end = EndSessionRequest {
        session_id: listed.sessions[0].session_id,
    };
    let other = world.operator(Role::Operator).await;
    let foreign = other.account().end_session(&end, other.options()).await;
    refused(foreign, Code::NotFound);
    account
        .end_session(&end, viewer.options())
        .await
        .expect("ends");
    assert_eq!(session(&world, &cookie).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_made_with_a_key_ends_with_it() {
    let world = World::new().await;
    let viewer = world.operator(Role::Viewer).await;
    let minutes = |minutes: i64| {
        Some(fleet_wire::Duration {
            seconds: 60 * minutes,
            nanos: 0,
        })
    };
    let client = keys(&world);
    let create = |name: &str, expires_in| CreateKeyRequest {
        name: name.into(),
        expires_in,
        operator_id: 0,
    };
    let maker = client
        .create_key(&create("maker", minutes(60)), viewer.options())
        .await
        .expect("is made");
    for expires_in in [None, minutes(90)] {
        let request = create("made", expires_in);
        let made = client.create_key(&request, bearer(&maker.key)).await;
        let made = made.expect("is made");
        assert_eq!(made.expires_at, maker.expires_at, "{expires_in:?}");
    }
    let made = client
        .create_key(&create("short", minutes(5)), bearer(&maker.key))
        .await
        .expect("is made");
    let revoke = RevokeKeyRequest {
        key_id: maker.key_id,
    };
    let who = || viewer.account();
    who()
        .who_am_i(&WhoAmIRequest {}, bearer(&made.key))
        .await
        .expect("is good");
    client
        .revoke_key(&revoke, viewer.options())
        .await
        .expect("is revoked");
    let dead = who().who_am_i(&WhoAmIRequest {}, bearer(&made.key)).await;
    refused(dead, Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_email_in_two_organizations_signs_in_to_the_named_one() {
    let world = World::new().await;
    let first = world.operator_of("Alpha", Role::Admin).await;
    let second = world.operator_of("Beta", Role::Admin).await;
    let email = "ann@example.org";
    let create = |admin: &Operator| {
        let (client, options) = (operators(&world), admin.options());
        async move {
            let create = CreateOperatorRequest {
                email: email.to_owned(),
                role: "viewer".to_owned(),
            };
            client.create_operator(&create, options).await
        }
    };
    let sign_in = async |org: Option<&str>, password: &str, new: Option<&str>| {
        let body = serde_json::json!({
            "email": email, "password": password, "newPassword": new, "organization": org,
        });
        sign_in_from(&world, "198.51.100.1", body).await
    };
    let organization = async |answer: Http| {
        assert_eq!(answer.status, 204, "{}", answer.body);
        let shown = session(&world, &answer.cookie()).await.json();
        shown["organization"].as_str().expect("a name").to_owned()
    };
    let one_time = create(&first).await.expect("is made").one_time_password;
    let alpha = "alpha horse battery staple";
    let signed_in = sign_in(None, &one_time, Some(alpha)).await;
    assert_eq!(organization(signed_in).await, "Alpha");
    // Beta does not learn that the e-mail is in use.
    let one_time = create(&second).await.expect("is made").one_time_password;
    let taken = refused(create(&second).await, Code::FailedPrecondition);
    assert!(taken.message.contains("of this organization"), "{taken}");
    let beta = "beta horse battery staple";
    let signed_in = sign_in(Some("beta"), &one_time, Some(beta)).await;
    assert_eq!(organization(signed_in).await, "Beta");
    // Without a name, the older account is meant, and the newer one changes nothing for it.
    assert_eq!(
        organization(sign_in(None, alpha, None).await).await,
        "Alpha"
    );
    let mut refusals = Vec::new();
    for (org, password) in [
        (None, beta),
        (Some("Alpha"), beta),
        (Some("Beta"), alpha),
        (Some("Gamma"), alpha),
    ] {
        let answer = sign_in(org, password, None).await;
        assert_eq!(answer.status, 401, "{org:?}");
        refusals.push(answer.json()["message"].to_string());
    }
    refusals.dedup();
    assert_eq!(refusals.len(), 1, "no answer shows which accounts exist");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_named_used_rotated_and_revoked() {
    let world = World::new().await;
    let viewer = world.operator(Role::Viewer).await;
    let client = keys(&world);
    let (id, key) = make_key(&world, viewer.options(), "nightly").await;
    viewer
        .account()
        .who_am_i(&WhoAmIRequest {}, bearer(&key))
        .await
        .expect("it is good");
    let listed = client
        .list_keys(&ListKeysRequest::default(), bearer(&key))
        .await
        .expect("lists")
        .keys;
    let shown = listed
        .iter()
        .find(|shown| shown.key_id == id)
        .expect("is there");
    assert_eq!((shown.name.as_str(), shown.current), ("nightly", true));
    assert!(shown.last_used_at.is_some() && shown.expires_at.is_none());
    assert_eq!(listed.len(), 2);

    let rotate = RotateKeyRequest {
        key_id: id,
        grace: Some(fleet_wire::Duration {
            seconds: 60,
            nanos: 0,
        }),
    };
    let rotated = client
        .rotate_key(&rotate, bearer(&key))
        .await
        .expect("rotates");
    for good in [&key, &rotated.key] {
        let me = viewer
            .account()
            .who_am_i(&WhoAmIRequest {}, bearer(good))
            .await;
        me.expect("both are good");
    }
    world.clock.pass(Duration::from_secs(61));
    let old = viewer
        .account()
        .who_am_i(&WhoAmIRequest {}, bearer(&key))
        .await;
    refused(old, Code::Unauthenticated);

    let body = serde_json::json!({ "key": rotated.key });
    let cookie = sign_in_from(&world, "198.51.100.1", body).await.cookie();
    assert_eq!(session(&world, &cookie).await.status, 200);
    let revoke = RevokeKeyRequest {
        key_id: rotated.key_id,
    };
    client
        .revoke_key(&revoke, viewer.options())
        .await
        .expect("revokes");
    assert_eq!(session(&world, &cookie).await.status, 401, "at once");
    refused(
        client.revoke_key(&revoke, viewer.options()).await,
        Code::NotFound,
    );
    for (name, expires, why) in [
        ("", None, "name"),
        ("a\u{1b}[2Jb", None, "U+001B"),
        ("short", Some(1), "expires_in"),
    ] {
        let create = CreateKeyRequest {
            name: name.into(),
            expires_in: expires.map(|seconds| fleet_wire::Duration { seconds, nanos: 0 }),
            operator_id: 0,
        };
        let error = refused(
            client.create_key(&create, viewer.options()).await,
            Code::InvalidArgument,
        );
        assert!(error.message.contains(why), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_administrators_manage_keys_of_others() {
    let world = World::new().await;
    let (admin, operator) = (
        world.operator(Role::Admin).await,
        world.operator(Role::Operator).await,
    );
    let client = keys(&world);
    let (id, _) = make_key(&world, admin.options(), "of the admin").await;
    let everybody = ListKeysRequest {
        all_operators: true,
    };
    let error = refused(
        client.list_keys(&everybody, operator.options()).await,
        Code::PermissionDenied,
    );
    assert!(error.message.contains("org:admin"), "{error}");
    let revoke = RevokeKeyRequest { key_id: id };
    refused(
        client.revoke_key(&revoke, operator.options()).await,
        Code::NotFound,
    );
    let rotate = RotateKeyRequest {
        key_id: id,
        grace: None,
    };
    refused(
        client.rotate_key(&rotate, operator.options()).await,
        Code::NotFound,
    );
    let listed = client
        .list_keys(&everybody, admin.options())
        .await
        .expect("lists")
        .keys;
    assert_eq!(listed.len(), 3);
    let of_operator = listed
        .iter()
        .find(|key| key.email == operator.email)
        .expect("is there");
    let create = CreateKeyRequest {
        name: "for a colleague".into(),
        expires_in: None,
        operator_id: of_operator.operator_id,
    };
    let made = client
        .create_key(&create, admin.options())
        .await
        .expect("is made");
    let me = operator
        .account()
        .who_am_i(&WhoAmIRequest {}, bearer(&made.key))
        .await;
    assert_eq!(me.expect("it is good").email, operator.email);
    let own = CreateKeyRequest {
        operator_id: listed[0].operator_id,
        ..create
    };
    refused(
        client.create_key(&own, operator.options()).await,
        Code::PermissionDenied,
    );
    let revoke = RevokeKeyRequest {
        key_id: of_operator.key_id,
    };
    client
        .revoke_key(&revoke, admin.options())
        .await
        .expect("an administrator may");
    let dead = operator
        .account()
        .who_am_i(&WhoAmIRequest {}, operator.options())
        .await;
    refused(dead, Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_sees_and_ends_the_sessions_of_all_operators() {
    let world = World::new().await;
    let admin = world.operator(Role::Admin).await;
    let stranger = world.operator_of("Other", Role::Admin).await;
    with_password(&world, &admin, "ann@acme.example", "viewer").await;
    let cookie = sign_in(&world, "ann@acme.example", PASSWORD).await.cookie();
    let all = ListSessionsRequest {
        all_operators: true,
    };
    let listed = admin.account().list_sessions(&all, admin.options()).await;
    let sessions = listed.expect("lists").sessions;
    let anns: Vec<_> = sessions
        .iter()
        .filter(|session| session.email == "ann@acme.example")
        .collect();
    assert!(!anns.is_empty(), "{sessions:?}");
    let others = stranger
        .account()
        .list_sessions(&all, stranger.options())
        .await;
    assert_eq!(others.expect("lists").sessions, []);
    // The session of the cookie is the newest, and is ended last.
    for session in anns.into_iter().rev() {
        let end = EndSessionRequest {
            session_id: session.session_id,
        };
        let foreign = stranger
            .account()
            .end_session(&end, stranger.options())
            .await;
        refused(foreign, Code::NotFound);
        assert_eq!(self::session(&world, &cookie).await.status, 200);
        let ended = admin.account().end_session(&end, admin.options()).await;
        ended.expect("is ended");
    }
    assert_eq!(self::session(&world, &cookie).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_within_seconds_of_its_key_and_of_its_session() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let scan = start(&operator, &enrolled, list(&["10.0.0.1"], &["80"])).await;
    let (command, _) = node.command().await;
    let (id, key) = make_key(&world, operator.options(), "watcher").await;
    let body = serde_json::json!({ "key": key });
    let cookie = sign_in_from(&world, "198.51.100.1", body).await.cookie();
    let watch = WatchScanRequest {
        scan_id: scan.id.clone(),
        after_sequence: 0,
    };
    let mut by_key = operator
        .scans()
        .watch_scan(&watch, bearer(&key))
        .await
        .expect("watches");
    let mut by_other = operator
        .scans()
        .watch_scan(&watch, operator.options())
        .await
        .expect("watches");
    by_key
        .message()
        .await
        .expect("lives")
        .expect("says something");
    by_other
        .message()
        .await
        .expect("lives")
        .expect("says something");
    let path = format!("/api/scans/{}/events", scan.id);
    let mut events = request(world.address(), "GET", &path, &[("cookie", &cookie)], "").await;
    assert_eq!(events.status, 200);
    let revoke = RevokeKeyRequest { key_id: id };
    keys(&world)
        .revoke_key(&revoke, operator.options())
        .await
        .expect("revokes");
    let ended = soon(async {
        loop {
            if let Err(error) = by_key
                .message()
                .await
                .map(|message| message.expect("no quiet end"))
            {
                return error;
            }
        }
    })
    .await;
    assert_eq!(ended.code, Code::Unauthenticated, "{ended}");
    events.read_to_end().await;
    // The watch of another key continues.
    node.ack(&command, AckCode::Ok).await;
    let mut over = false;
    while let Some(message) = soon(by_other.message()).await.expect("lives") {
        over |= message.event.is_some();
    }
    assert!(over);
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_change_at_once_and_the_last_administrator_stays() {
    let world = World::new().await;
    let admin = world.operator(Role::Admin).await;
    let client = operators(&world);
    let listed = client
        .list_operators(&ListOperatorsRequest::default(), admin.options())
        .await
        .expect("lists")
        .operators;
    let own = listed[0].operator_id;
    for answer in [
        client
            .set_operator_role(
                &SetOperatorRoleRequest {
                    operator_id: own,
                    role: "viewer".into(),
                },
                admin.options(),
            )
            .await
            .map(|_| ()),
        client
            .remove_operator(&RemoveOperatorRequest { operator_id: own }, admin.options())
            .await
            .map(|_| ()),
    ] {
        let error = refused(answer, Code::FailedPrecondition);
        assert!(error.message.contains("last administrator"), "{error}");
    }
    for (email, role) in [("nobody", "viewer"), ("a b@c", "viewer"), ("a@b.c", "root")] {
        let create = CreateOperatorRequest {
            email: email.into(),
            role: role.into(),
        };
        let answer = client.create_operator(&create, admin.options()).await;
        refused(answer, Code::InvalidArgument);
    }
    let ann = with_password(&world, &admin, "ann@example.org", "viewer").await;
    let taken = CreateOperatorRequest {
        email: "ANN@example.org".into(),
        role: "viewer".into(),
    };
    let taken = client.create_operator(&taken, admin.options()).await;
    refused(taken, Code::FailedPrecondition);
    let cookie = sign_in(&world, "ann@example.org", PASSWORD).await.cookie();
    assert_eq!(session(&world, &cookie).await.json()["role"], "viewer");
    let promote = SetOperatorRoleRequest {
        operator_id: ann,
        role: "admin".into(),
    };
    client
        .set_operator_role(&promote, admin.options())
        .await
        .expect("is set");
    assert_eq!(session(&world, &cookie).await.json()["role"], "admin");
    let remove = RemoveOperatorRequest { operator_id: own };
    client
        .remove_operator(&remove, admin.options())
        .await
        .expect("another one is there");
    let gone = client
        .list_operators(&ListOperatorsRequest::default(), admin.options())
        .await;
    refused(gone, Code::Unauthenticated);
    // The administrator of another organization finds no operator here.
    let foreign = world.operator_of("Other", Role::Admin).await;
    let reset = ResetOperatorPasswordRequest { operator_id: ann };
    let reset = client
        .reset_operator_password(&reset, foreign.options())
        .await;
    refused(reset, Code::NotFound);
}

#[test]
fn messages_that_carry_secrets_do_not_print_them() {
    let secret = "fok_a-canary".to_owned();
    let printed = [
        format!(
            "{:?}",
            fleet_wire::fleet::CreateKeyResponse {
                key: secret.clone(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            fleet_wire::fleet::RotateKeyResponse {
                key: secret.clone(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            fleet_wire::fleet::CreateOperatorResponse {
                one_time_password: secret.clone(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            fleet_wire::fleet::ResetOperatorPasswordResponse {
                one_time_password: secret.clone(),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            ChangePasswordRequest {
                current_password: secret.clone(),
                new_password: secret
            }
        ),
        format!(
            "{:?}",
            fleet_store::PasswordHash {
                phc: "fok_a-canary".to_owned(),
                one_time_until: None
            }
        ),
    ];
    assert!(
        printed.iter().all(|text| !text.contains("canary")),
        "{printed:?}"
    );
}
