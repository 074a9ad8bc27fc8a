//! Operators, their keys and browser sessions.

use fleet_core::Role;
use fleet_store::*;

use crate::site::{Site, at, nobody, secret};

contract! {
    an_operator_is_found_by_key_and_by_session
    an_email_is_taken_once_in_any_case
    an_email_has_an_account_in_each_organization
    organizations_never_differ_only_in_case
    a_key_needs_an_operator
    a_session_ends_by_time_and_by_word
    ping_answers
}

/// Opens a browser session by the key of an identity.
async fn open(
    site: &Site,
    identity: &OperatorIdentity,
    token: &str,
    expires: u64,
) -> fleet_core::BrowserSessionId {
    let Credential::Key(key) = identity.credential else {
        panic!("{identity:?}");
    };
    let new = NewBrowserSession {
        operator: identity.operator,
        proof: Proof::Key(key),
        token: secret(token),
        expires: at(expires),
        agent: "a browser".into(),
    };
    site.store
        .open_browser_session(new, site.actor(), at(1))
        .await
        .expect("opened")
}

async fn an_operator_is_found_by_key_and_by_session(site: Site) {
    assert!(site.store.has_operators().await.expect("read"));
    assert_eq!(
        site.store
            .operator_by_key(secret("nobody's"), at(0))
            .await
            .expect("read"),
        None
    );
    let identity = site
        .store
        .operator_by_key(secret("ann's key"), at(0))
        .await
        .expect("read")
        .expect("known");
    assert_eq!(
        (
            identity.operator,
            identity.org,
            identity.org_name.as_str(),
            identity.email.as_str(),
            identity.role
        ),
        (
            site.operator,
            site.org,
            "acme",
            "ann@acme.test",
            Role::Admin
        )
    );
    let id = open(&site, &identity, "token", 100).await;
    let session = site
        .store
        .operator_by_session(secret("token"), at(99))
        .await
        .expect("read");
    let credential = Credential::Session(id);
    let expected = OperatorIdentity {
        credential,
        ..identity.clone()
    };
    assert_eq!(session.as_ref(), Some(&expected));
    for same in [identity, expected] {
        let again = site.store.operator_by_credential(same.credential, at(99));
        assert_eq!(again.await.expect("read"), Some(same));
    }
    let sign_in = site.audited().await.remove(0).entry;
    assert_eq!(
        (sign_in.action.as_ref(), sign_in.actor, sign_in.at),
        ("operator.sign_in", site.actor(), at(1))
    );
}

async fn an_email_is_taken_once_in_any_case(site: Site) {
    let new = |email: &str| NewOperator {
        org: "acme".into(),
        email: email.into(),
        role: Role::Viewer,
        now: at(1),
    };
    let taken = site
        .store
        .create_operator(new(" Ann@ACME.test "), nobody())
        .await;
    assert!(
        matches!(taken, Err(CreateOperatorError::EmailTaken(email)) if email == "ann@acme.test")
    );
    site.store
        .create_operator(new("carl@acme.test"), nobody())
        .await
        .expect("created");
    let key = site
        .store
        .create_operator_key("CARL@acme.test", secret("carl's"), nobody(), at(1))
        .await;
    key.expect("a key");
    let carl = site
        .store
        .operator_by_key(secret("carl's"), at(0))
        .await
        .expect("read")
        .expect("known");
    assert_eq!(
        (carl.org, carl.role),
        (site.org, Role::Viewer),
        "the organization of this name was there"
    );
}

async fn an_email_has_an_account_in_each_organization(site: Site) {
    site.other_org().await;
    let new = NewOperator {
        org: "other".into(),
        email: "Ann@acme.test".into(),
        role: Role::Viewer,
        now: at(1),
    };
    let second = site.store.create_operator(new.clone(), nobody()).await;
    let second = second.expect("another organization's operators are unknown to it");
    let again = site.store.create_operator(new, nobody()).await;
    assert!(matches!(again, Err(CreateOperatorError::EmailTaken(_))));
    let account = async |org| {
        let found = site.store.account_in(org, "ANN@acme.test", None).await;
        found.expect("read").map(|account| account.operator)
    };
    assert_eq!(account(None).await, Some(site.operator), "the oldest");
    assert_eq!(account(Some("ACME")).await, Some(site.operator));
    assert_eq!(account(Some("other")).await, Some(second));
    assert_eq!(account(Some("nowhere")).await, None);
    let orgs = site.store.orgs_of_email("ann@acme.test").await;
    assert_eq!(orgs.expect("read"), ["acme", "other"]);
    let key = |org| {
        let key = secret(org);
        let org = Some(org).filter(|org| !org.is_empty());
        let store = &site.store;
        store.create_operator_key_in(org, "ann@acme.test", key, nobody(), at(1))
    };
    let unclear = key("").await;
    assert!(
        matches!(unclear, Err(CreateKeyError::AmbiguousEmail(_))),
        "{unclear:?}"
    );
    key("other").await.expect("a key");
    let found = site.store.operator_by_key(secret("other"), at(1)).await;
    assert_eq!(found.expect("read").expect("known").operator, second);
    assert!(site.store.has_several_orgs().await.expect("read"));
}

async fn organizations_never_differ_only_in_case(site: Site) {
    let new = |org: &str, email: &str| NewOperator {
        org: org.into(),
        email: email.into(),
        role: Role::Viewer,
        now: at(1),
    };
    let create = async |org, email| site.store.create_operator(new(org, email), nobody()).await;
    let similar = create("ACME", "carl@acme.test").await.expect_err("refused");
    assert!(similar.to_string().contains("`acme`"), "{similar}");
    create("acme", "carl@acme.test").await.expect("created");
    create("Ärzte", "dora@acme.test").await.expect("created");
    create("ÄRZTE", "emil@acme.test")
        .await
        .expect_err("refused");
    assert_eq!(site.number("SELECT count(*) FROM org").await, 2);
}

async fn a_key_needs_an_operator(site: Site) {
    let refused = site
        .store
        .create_operator_key("eve@acme.test", secret("x"), nobody(), at(1))
        .await;
    assert!(
        matches!(refused, Err(CreateKeyError::UnknownEmail(email)) if email == "eve@acme.test")
    );
}

async fn a_session_ends_by_time_and_by_word(site: Site) {
    let identity = site
        .store
        .operator_by_key(secret("ann's key"), at(0))
        .await
        .expect("read")
        .expect("known");
    for (token, expires) in [("short", 50), ("long", 1_000)] {
        open(&site, &identity, token, expires).await;
    }
    let found = |token: &'static str, now| {
        let store = site.store.clone();
        async move {
            store
                .operator_by_session(secret(token), at(now))
                .await
                .expect("read")
                .is_some()
        }
    };
    assert!(found("short", 49).await);
    assert!(!found("short", 50).await);
    assert!(found("long", 999).await);
    let close = || {
        site.store
            .close_browser_session(secret("long"), site.actor(), at(2))
    };
    close().await.expect("closed");
    assert!(!found("long", 2).await);
    close().await.expect("closing again is nothing");
    let signed_out = site.audited().await.into_iter();
    let signed_out = signed_out.filter(|row| row.entry.action == "operator.sign_out");
    assert_eq!(signed_out.count(), 1);
}

async fn ping_answers(site: Site) {
    site.store.ping().await.expect("reachable");
    site.store.close().await;
    let gone = site.store.ping().await;
    assert!(
        matches!(
            gone,
            Err(StoreError::Unavailable {
                operation: "ping",
                ..
            })
        ),
        "{gone:?}"
    );
}
