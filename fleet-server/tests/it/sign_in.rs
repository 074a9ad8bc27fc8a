//! Sign-in through an OpenID provider, which a stand-in plays.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use fleet_core::{Password, Role, sso::SignInPolicy};
use fleet_server::{Environment as _, Rates, ServerConfig, hash_password};
use fleet_store::{Accounts as _, Actor, AuditResult, NewOperator, Operators as _, PasswordHash};
use fleet_wire::{
    Code,
    fleet::{
        CreateOperatorRequest, ListOperatorsRequest, ListSessionsRequest, Operator as Listed,
        OperatorClient, RemoveOperatorRequest, ResetOperatorPasswordRequest, UnlinkOperatorRequest,
    },
};
use serde_json::{Value, json};

use crate::harness::{
    Begun, Http, Operator, PUBLIC, StandIn, World, on_both_databases, refused, request,
};

on_both_databases! {
    an_operator_is_linked_once_by_a_verified_email_and_then_is_the_account
    accounts_without_an_operator_stay_out
    roles_follow_the_groups_at_each_sign_in
    an_answer_may_arrive_at_another_server_and_opens_one_session
}

const JSON: (&str, &str) = ("content-type", "application/json");

/// A server with the provider, an administrator with a key, and the operator Ann.
async fn world(url: &str, provider: &StandIn, policy: SignInPolicy) -> (World, Operator) {
    let world = World::at_with(url, provider.config(policy)).await;
    let admin = world.operator_of("Acme", Role::Admin).await;
    create(&world, "ann@acme.example", Role::Viewer).await;
    (world, admin)
}

async fn create(world: &World, email: &str, role: Role) {
    let new = NewOperator {
        org: "Acme".to_owned(),
        email: email.to_owned(),
        role,
        now: world.clock.now(),
    };
    let created = world.store.create_operator(new, Actor::SYSTEM).await;
    created.expect("an operator");
}

/// The operator of a session.
async fn session(world: &World, signed_in: &Http) -> Http {
    assert_eq!(signed_in.header("location"), "/", "{signed_in:?}");
    let cookie = signed_in.cookie();
    let headers = [("cookie", cookie.as_str())];
    request(world.address(), "GET", "/api/session", &headers, "").await
}

/// The word for the page.
fn problem(answer: &Http) -> &str {
    assert_eq!(answer.status, 303, "{answer:?}");
    let cookie = answer.header("set-cookie");
    assert!(
        cookie.starts_with("__Host-fleet_sign_in=;") && cookie.contains("Max-Age=0"),
        "no session: {cookie}"
    );
    let word = answer.header("location").strip_prefix("/#/sign-in/");
    word.unwrap_or_else(|| panic!("{answer:?}"))
}

async fn operators(world: &World, admin: &Operator) -> Vec<Listed> {
    let listed = OperatorClient::new(world.channel())
        .list_operators(&ListOperatorsRequest::default(), admin.options())
        .await;
    listed.expect("a list").operators
}

async fn named(world: &World, admin: &Operator, email: &str) -> Listed {
    let listed = operators(world, admin).await;
    let found = listed.into_iter().find(|of| of.email == email);
    found.expect(email)
}

async fn an_operator_is_linked_once_by_a_verified_email_and_then_is_the_account(url: &str) {
    let provider = StandIn::start().await;
    let (world, admin) = world(url, &provider, SignInPolicy::default()).await;
    // The e-mail finds the operator in any case, and only once.
    let first = provider
        .sign_in(&world, |claims| claims["email"] = json!("Ann@ACME.example"))
        .await;
    let shown = session(&world, &first).await;
    assert_eq!(shown.json()["email"], "ann@acme.example");
    assert_eq!(shown.json()["role"], "viewer");
    let set = first.header("set-cookie");
    for flag in [
        "__Host-fleet_session=",
        "HttpOnly",
        "SameSite=Strict",
        "Secure",
    ] {
        assert!(set.contains(flag), "{set}");
    }
    let ann = named(&world, &admin, "ann@acme.example").await;
    assert_eq!(ann.sign_in_issuer, provider.issuer);
    // From then on the account counts, with any e-mail and with none.
    let renamed = provider
        .sign_in(&world, |claims| {
            claims["email"] = Value::Null;
            claims["email_verified"] = json!(false);
        })
        .await;
    assert_eq!(
        session(&world, &renamed).await.json()["email"],
        "ann@acme.example"
    );
    let other = provider
        .sign_in(&world, |claims| claims["sub"] = json!("8"))
        .await;
    assert_eq!(problem(&other), "linked-to-another");
    let all = ListSessionsRequest {
        all_operators: true,
    };
    let listed = admin.account().list_sessions(&all, admin.options()).await;
    let sessions = listed.expect("a list").sessions;
    assert_eq!(sessions.len(), 2);
    assert!(
        sessions
            .iter()
            .all(|of| of.sign_in_issuer == provider.issuer)
    );

    let unlink = UnlinkOperatorRequest {
        operator_id: ann.operator_id,
    };
    let client = OperatorClient::new(world.channel());
    let unlinked = client.unlink_operator(&unlink, admin.options()).await;
    unlinked.expect("was linked");
    let again = client.unlink_operator(&unlink, admin.options()).await;
    refused(again, Code::FailedPrecondition);
    for ended in [&first, &renamed] {
        assert_eq!(session(&world, ended).await.status, 401);
    }
    let linked = provider
        .sign_in(&world, |claims| claims["sub"] = json!("8"))
        .await;
    assert_eq!(session(&world, &linked).await.status, 200);

    let count = async |action: &str| world.audited(admin.org, action).await.len();
    assert_eq!(count("operator.link").await, 2);
    assert_eq!(count("operator.unlink").await, 2, "one was refused");
    let rows = world.audited(admin.org, "operator.sign_in").await;
    let refused: Vec<_> = rows
        .iter()
        .filter(|row| matches!(row.entry.result, AuditResult::Refused(_)))
        .map(|row| row.entry.subject.as_str())
        .collect();
    let subject = format!("account 8 (ann@acme.example) of {}", provider.issuer);
    assert_eq!(refused, [subject.as_str()]);
}

async fn accounts_without_an_operator_stay_out(url: &str) {
    let provider = StandIn::start().await;
    let (mut world, admin) = world(url, &provider, SignInPolicy::default()).await;
    let as_bob = |claims: &mut Value| {
        claims["sub"] = json!("9");
        claims["email"] = json!("bob@acme.example");
    };
    let unknown = provider.sign_in(&world, as_bob).await;
    assert_eq!(problem(&unknown), "unknown");
    for claim in [json!(false), Value::Null] {
        let unverified = provider
            .sign_in(&world, |claims| claims["email_verified"] = claim)
            .await;
        assert_eq!(problem(&unverified), "email-unverified");
    }
    let without = provider
        .sign_in(&world, |claims| claims["email"] = Value::Null)
        .await;
    assert_eq!(problem(&without), "email-missing");
    // An operator of another organization is not found by the e-mail.
    let new = NewOperator {
        org: "Other".to_owned(),
        email: "bob@acme.example".to_owned(),
        role: Role::Admin,
        now: world.clock.now(),
    };
    let created = world.store.create_operator(new, Actor::SYSTEM).await;
    created.expect("an operator");
    let unknown = provider.sign_in(&world, as_bob).await;
    assert_eq!(problem(&unknown), "unknown");

    // A server that creates operators, of one domain.
    let policy = SignInPolicy {
        creates: true,
        domains: vec!["acme.example".to_owned()],
        ..SignInPolicy::default()
    };
    world.stop().await;
    world.configure(provider.config(policy));
    world.start().await;
    let foreign = provider
        .sign_in(&world, |claims| {
            as_bob(claims);
            claims["email"] = json!("bob@evil-acme.example");
        })
        .await;
    assert_eq!(problem(&foreign), "domain");
    let created = provider.sign_in(&world, as_bob).await;
    let shown = session(&world, &created).await.json();
    assert_eq!(
        (&shown["email"], &shown["role"]),
        (&json!("bob@acme.example"), &json!("viewer"))
    );
    assert_eq!(shown["organization"], "Acme");
    let bob = named(&world, &admin, "bob@acme.example").await;
    assert!(!bob.has_password);

    // A removed operator stays out, even where operators are created.
    let remove = RemoveOperatorRequest {
        operator_id: bob.operator_id,
    };
    let client = OperatorClient::new(world.channel());
    let removed = client.remove_operator(&remove, admin.options()).await;
    removed.expect("is removed");
    assert_eq!(session(&world, &created).await.status, 401);
    let late = provider.sign_in(&world, as_bob).await;
    assert_eq!(problem(&late), "removed");
    let with_another_email = provider
        .sign_in(&world, |claims| {
            as_bob(claims);
            claims["email"] = json!("rob@acme.example");
        })
        .await;
    assert_eq!(problem(&with_another_email), "removed");
    // Until an administrator creates the operator again.
    create(&world, "bob@acme.example", Role::Operator).await;
    let back = provider.sign_in(&world, as_bob).await;
    assert_eq!(session(&world, &back).await.json()["role"], "operator");
}

async fn roles_follow_the_groups_at_each_sign_in(url: &str) {
    let provider = StandIn::start().await;
    let roles = [
        ("ops", Role::Operator),
        ("chiefs", Role::Admin),
        ("all", Role::Viewer),
    ];
    let policy = SignInPolicy {
        roles: roles.map(|(group, role)| (group.to_owned(), role)).into(),
        ..SignInPolicy::default()
    };
    let (world, admin) = world(url, &provider, policy).await;
    for (groups, expected) in [
        (json!(["all", "ops"]), "operator"),
        (json!("chiefs"), "admin"),
        (json!(["all"]), "viewer"),
    ] {
        let signed_in = provider
            .sign_in(&world, |claims| claims["groups"] = groups.clone())
            .await;
        let shown = session(&world, &signed_in).await.json();
        assert_eq!(shown["role"], expected, "{groups}");
    }
    for groups in [
        json!(["others"]),
        json!([]),
        Value::Null,
        json!([{"ops": 1}]),
    ] {
        let refused = provider
            .sign_in(&world, |claims| claims["groups"] = groups.clone())
            .await;
        assert_eq!(problem(&refused), "no-role", "{groups}");
    }
    assert_eq!(world.audited(admin.org, "operator.set_role").await.len(), 3);
    // The last administrator keeps the role, because nobody could give it back.
    let signed_in = provider
        .sign_in(&world, |claims| {
            claims["sub"] = json!("1");
            claims["email"] = json!(admin.email);
            claims["groups"] = json!("all");
        })
        .await;
    let shown = session(&world, &signed_in).await.json();
    assert_eq!(shown["role"], "admin");
}

async fn an_answer_may_arrive_at_another_server_and_opens_one_session(url: &str) {
    let provider = StandIn::start().await;
    let (world, _) = world(url, &provider, SignInPolicy::default()).await;
    let another = world.another().await;
    let begun = Begun::at(&world).await;
    provider.answers(&world, &begun, |_| {});
    let answer = begun.answer();
    let signed_in = begun.finish(&another, &answer).await;
    assert_eq!(session(&world, &signed_in).await.status, 200);
    // The stand-in accepts the code again. The attempt was used.
    for server in [&world, &another] {
        let replayed = begun.finish(server, &answer).await;
        assert_eq!(problem(&replayed), "attempt");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_another_browser_attempt_or_time_opens_nothing() {
    let provider = StandIn::start().await;
    let world = World::with(provider.config(SignInPolicy::default())).await;
    create(&world, "ann@acme.example", Role::Viewer).await;
    let (mine, other) = (Begun::at(&world).await, Begun::at(&world).await);
    provider.answers(&world, &mine, |_| {});
    let wrong_state = mine.finish(&world, &other.answer()).await;
    assert_eq!(problem(&wrong_state), "attempt");
    for answer in ["code=abc", "code=abc&state=", "state=x&state=y", ""] {
        assert_eq!(problem(&mine.finish(&world, answer).await), "attempt");
    }
    let path = format!("/api/sign-in/callback?{}", mine.answer());
    let plain = mine.cookie.replace("__Host-", "");
    let garbled = mine.cookie.replace("fleet_sign_in=", "fleet_sign_in=x");
    for cookie in [
        "",
        plain.as_str(),
        garbled.as_str(),
        "__Host-fleet_sign_in=",
    ] {
        let answer = request(world.address(), "GET", &path, &[("cookie", cookie)], "").await;
        assert_eq!(problem(&answer), "attempt", "{cookie}");
    }
    assert_eq!(provider.requested("/token"), 0, "no code was exchanged");
    let state = &mine.query["state"];
    let denied = mine
        .finish(&world, &format!("error=access_denied&state={state}"))
        .await;
    assert_eq!(problem(&denied), "denied");
    for query in [
        format!("state={state}"),
        format!("state={state}&code=a&code=b"),
        format!("state={state}&code=abc&iss=https%3A%2F%2Fevil.test"),
    ] {
        assert_eq!(
            problem(&mine.finish(&world, &query).await),
            "invalid",
            "{query}"
        );
    }
    let wrong_code = mine
        .finish(&world, &format!("code=guess&state={state}"))
        .await;
    assert_eq!(problem(&wrong_code), "denied");
    world.clock.pass(Duration::from_secs(10 * 60 + 1));
    provider.answers(&world, &mine, |_| {});
    let late = mine.finish(&world, &mine.answer()).await;
    assert_eq!(problem(&late), "attempt");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_breaks_a_rule_opens_nothing() {
    let provider = StandIn::start().await;
    let world = World::with(provider.config(SignInPolicy::default())).await;
    create(&world, "ann@acme.example", Role::Viewer).await;
    let now = world.clock.now().to_seconds_and_nanos().0;
    for (claim, value) in [
        ("nonce", json!("another")),
        ("nonce", Value::Null),
        ("iss", json!("http://127.0.0.1:1/realm")),
        ("aud", json!("another")),
        ("aud", json!(["fleet", "another"])),
        ("azp", json!("another")),
        ("exp", json!(now - 3_600)),
        ("exp", Value::Null),
        ("iat", json!(now + 3_600)),
        ("sub", json!("")),
        ("sub", Value::Null),
    ] {
        let answer = provider
            .sign_in(&world, |claims| claims[claim] = value.clone())
            .await;
        assert_eq!(problem(&answer), "invalid", "{claim} {value}");
    }
    for algorithm in ["none", "HS256", "RS256"] {
        provider.change(|behavior| behavior.algorithm = algorithm);
        let answer = provider.sign_in(&world, |_| {}).await;
        assert_eq!(problem(&answer), "invalid", "{algorithm}");
    }
    provider.change(|behavior| {
        behavior.algorithm = "EdDSA";
        behavior.key = ([9; 32], "k1");
    });
    let forged = provider.sign_in(&world, |_| {}).await;
    assert_eq!(problem(&forged), "invalid", "the key has only the name");
    provider.change(|behavior| behavior.key = ([7; 32], "k1"));
    let valid = provider.sign_in(&world, |_| {}).await;
    assert_eq!(session(&world, &valid).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_keys_of_the_provider_are_fetched_when_a_token_names_one() {
    let provider = StandIn::start().await;
    let world = World::with(provider.config(SignInPolicy::default())).await;
    create(&world, "ann@acme.example", Role::Viewer).await;
    for _ in 0..2 {
        let signed_in = provider.sign_in(&world, |_| {}).await;
        assert_eq!(session(&world, &signed_in).await.status, 200);
    }
    assert_eq!(provider.requested("/keys"), 1, "they are kept");
    provider.change(|behavior| {
        behavior.key = ([8; 32], "k2");
        behavior.published = vec![([8; 32], "k2")];
    });
    let signed_in = provider.sign_in(&world, |_| {}).await;
    assert_eq!(session(&world, &signed_in).await.status, 200);
    assert_eq!(provider.requested("/keys"), 2);
    // The key that was withdrawn is refused.
    provider.change(|behavior| behavior.key = ([7; 32], "k1"));
    assert_eq!(problem(&provider.sign_in(&world, |_| {}).await), "invalid");
    assert_eq!(
        provider.requested("/realm/.well-known/openid-configuration"),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_down_or_sends_nonsense_stops_nothing_else() {
    let provider = StandIn::start().await;
    let world = World::with(provider.config(SignInPolicy::default())).await;
    let admin = world.operator_of("Acme", Role::Admin).await;
    let begin = async || {
        let begun = request(world.address(), "GET", "/api/sign-in/provider", &[], "").await;
        begun.header("location").to_owned()
    };
    for instead in [
        "HTTP/1.1 500 Down\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        "nonsense\r\n\r\n",
        "",
    ] {
        provider.change(|behavior| behavior.instead = Some(instead));
        assert_eq!(begin().await, "/#/sign-in/unavailable", "{instead}");
        let requested = provider.requested("/realm/.well-known/openid-configuration");
        assert_eq!(begin().await, "/#/sign-in/unavailable", "{instead}");
        assert_eq!(
            provider.requested("/realm/.well-known/openid-configuration"),
            requested,
            "a failure is remembered for some seconds"
        );
        world.clock.pass(Duration::from_secs(6));
    }
    let ready = request(world.address(), "GET", "/readyz", &[], "").await;
    assert_eq!(ready.status, 200);
    let body = json!({ "key": admin.key }).to_string();
    let by_key = request(world.address(), "POST", "/api/session", &[JSON], &body).await;
    assert_eq!(by_key.status, 204);
    provider.change(|behavior| behavior.instead = None);
    assert!(begin().await.starts_with("http://127.0.0.1:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_chooses_where_a_browser_is_sent() {
    let provider = StandIn::start().await;
    let world = World::with(provider.config(SignInPolicy::default())).await;
    create(&world, "ann@acme.example", Role::Viewer).await;
    let headers = [
        ("x-forwarded-host", "evil.test"),
        ("forwarded", "host=evil.test"),
        ("origin", "https://evil.test"),
        ("referer", "https://evil.test/"),
    ];
    let query = "?next=//evil.test&redirect_uri=https://evil.test&return_to=https://evil.test";
    let begun = Begun::with(&world, query, &headers).await;
    let at_provider = begun.location.split_once('?').expect("a query").0;
    assert!(
        provider
            .issuer
            .starts_with(at_provider.trim_end_matches("/auth"))
    );
    assert!(!begun.location.contains("evil"), "{}", begun.location);
    assert_eq!(
        begun.query["redirect_uri"],
        format!("{PUBLIC}/api/sign-in/callback")
    );
    let expected = [
        ("client_id", "fleet"),
        ("code_challenge_method", "S256"),
        ("response_type", "code"),
        ("scope", "openid email"),
    ];
    for (name, value) in expected {
        assert_eq!(begun.query[name], value);
    }
    provider.answers(&world, &begun, |_| {});
    let more = "&next=//evil.test&redirect_uri=https://evil.test&RelayState=//evil.test";
    let signed_in = begun.finish(&world, &(begun.answer() + more)).await;
    assert_eq!(signed_in.header("location"), "/");
    assert_eq!(signed_in.header("referrer-policy"), "no-referrer");
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_ins_through_the_provider_use_the_allowance_of_their_source() {
    let provider = StandIn::start().await;
    let rates = Rates {
        sign_ins: NonZeroU32::new(2).expect("not zero"),
        ..Rates::default()
    };
    let world = World::with(ServerConfig {
        rates: Some(rates),
        ..provider.config(SignInPolicy::default())
    })
    .await;
    create(&world, "ann@acme.example", Role::Viewer).await;
    let begun = Begun::at(&world).await;
    provider.answers(&world, &begun, |_| {});
    let signed_in = begun.finish(&world, &begun.answer()).await;
    assert_eq!(session(&world, &signed_in).await.status, 200);
    let limited = begun.finish(&world, &begun.answer()).await;
    assert_eq!(problem(&limited), "limited");
    let path = "/api/sign-in/provider";
    let limited = request(world.address(), "GET", path, &[], "").await;
    assert_eq!(limited.header("location"), "/#/sign-in/limited");
    let body = json!({"email": "ann@acme.example", "password": "wrong horse battery"});
    let body = body.to_string();
    let by_password = request(world.address(), "POST", "/api/session", &[JSON], &body).await;
    assert_eq!(by_password.status, 429, "passwords share it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_learns_how_operators_sign_in() {
    let world = World::new().await;
    let methods = request(world.address(), "GET", "/api/sign-in", &[], "").await;
    assert_eq!(methods.json(), json!({"passwords": true, "provider": null}));
    for path in [
        "/api/sign-in/provider",
        "/api/sign-in/callback?code=a&state=b",
    ] {
        let absent = request(world.address(), "GET", path, &[], "").await;
        assert_eq!(absent.status, 404, "{path}");
    }
    let provider = StandIn::start().await;
    let world = World::with(provider.config(SignInPolicy::default())).await;
    let methods = request(world.address(), "GET", "/api/sign-in", &[], "").await;
    assert_eq!(methods.json()["provider"], json!({"name": "Test"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_passwords_only_one_time_passwords_of_the_administrator_are_accepted() {
    const OWN: &str = "correct horse battery staple";
    let provider = StandIn::start().await;
    let world = World::with(ServerConfig {
        password_sign_in: false,
        ..provider.config(SignInPolicy::default())
    })
    .await;
    let admin = world.operator_of("Acme", Role::Admin).await;
    let client = OperatorClient::new(world.channel());
    let new = CreateOperatorRequest {
        email: "bob@acme.example".to_owned(),
        role: "viewer".to_owned(),
    };
    let bob = client.create_operator(&new, admin.options()).await;
    let bob = bob.expect("is created");
    assert_eq!((bob.one_time_password.as_str(), bob.expires_at), ("", None));
    let reset = ResetOperatorPasswordRequest {
        operator_id: bob.operator_id,
    };
    let reset = client
        .reset_operator_password(&reset, admin.options())
        .await;
    let reset = refused(reset, Code::FailedPrecondition);
    assert_eq!(reset.reason().as_deref(), Some("PASSWORDS_OFF"));
    let sign_in = async |body: Value| {
        let body = body.to_string();
        request(world.address(), "POST", "/api/session", &[JSON], &body).await
    };
    let set = async |password: &Password, until| {
        let account = world.store.account("bob@acme.example", None).await;
        let account = account.expect("reads").expect("exists");
        let hash = PasswordHash {
            phc: hash_password(password, &[7; 16]).expect("hashes"),
            one_time_until: until,
        };
        let now = world.clock.now();
        let set = world
            .store
            .set_password(None, account.operator, hash, None, Actor::SYSTEM, now);
        set.await.expect("is set");
    };
    let own = Password::presented(OWN.to_owned().into()).expect("is short");
    set(&own, None).await;
    let mut answers = BTreeMap::new();
    for password in [OWN, "wrong horse battery staple"] {
        let answer = sign_in(json!({"email": "bob@acme.example", "password": password})).await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.json()["reason"], "PASSWORDS_OFF");
        answers.insert(password, answer.body);
    }
    assert_eq!(answers[OWN], answers["wrong horse battery staple"]);

    let once = Password::one_time(&[7; 20]);
    set(&once, Some(world.clock.now().plus(Duration::from_secs(60)))).await;
    let body = json!({"email": "bob@acme.example", "password": once.expose(), "newPassword": OWN});
    let signed_in = sign_in(body.clone()).await;
    assert_eq!(signed_in.status, 204, "{}", signed_in.body);
    assert_eq!(sign_in(body).await.status, 401, "it was valid once");
    let again = sign_in(json!({"email": "bob@acme.example", "password": OWN})).await;
    assert_eq!(again.status, 401, "nor is the new one valid later");
}
