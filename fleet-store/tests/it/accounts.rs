//! Passwords, browser sessions, keys and members.

use std::net::IpAddr;

use fleet_core::{KeyId, OperatorId, Role};
use fleet_store::*;

use crate::site::{Site, at, secret};

contract! {
    a_password_signs_in_as_long_as_it_is_the_one
    sources_that_were_used_are_known_and_bounded
    another_password_ends_the_other_sessions
    a_reset_wins_over_a_password_change_that_began_before_it
    of_concurrent_exchanges_of_a_one_time_password_one_succeeds
    of_many_sessions_the_oldest_end
    a_session_is_ended_by_its_owner_alone
    a_revoked_key_ends_its_sessions
    a_rotated_key_lives_for_its_grace_and_not_longer
    a_key_never_outlives_the_key_that_made_it
    keys_made_by_a_key_belong_to_the_key_that_replaces_it
    keys_of_others_end_with_the_key_of_a_removed_operator
    a_key_is_over_at_its_end
    keys_are_within_reach_of_their_owner_and_the_administrator
    a_keys_use_is_remembered_to_the_minute
    an_operator_has_a_bounded_number_of_keys
    the_last_administrator_stays
    a_removed_operator_leaves_the_email_and_nothing_that_opens
    another_tenants_operators_are_not_found
}

fn phc(text: &str) -> PasswordHash {
    PasswordHash {
        phc: text.to_owned(),
        one_time_until: None,
    }
}

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().expect("an address"))
}

async fn set(site: &Site, text: &str) {
    let set = site
        .store
        .set_password(None, site.operator, phc(text), None, site.actor(), at(1));
    set.await.expect("set");
}

async fn open(
    site: &Site,
    token: &str,
    proof: Proof,
) -> Result<fleet_core::BrowserSessionId, OpenBrowserSessionError> {
    let new = NewBrowserSession {
        operator: site.operator,
        proof,
        token: secret(token),
        expires: at(1_000),
        agent: "a browser".into(),
    };
    site.store
        .open_browser_session(new, site.actor(), at(2))
        .await
}

fn by_password(text: &str, source: Option<IpAddr>) -> Proof {
    Proof::Password {
        phc: text.to_owned(),
        source,
    }
}

async fn is_open(site: &Site, token: &str) -> bool {
    let found = site.store.operator_by_session(secret(token), at(3)).await;
    found.expect("read").is_some()
}

async fn key(site: &Site, name: &str, expires: Option<u64>) -> KeyId {
    made_by(site, None, name, expires).await.expect("made").id
}

async fn made_by(
    site: &Site,
    maker: Option<Credential>,
    name: &str,
    expires: Option<u64>,
) -> Result<CreatedKey, KeyError> {
    let new = NewKey {
        operator: site.operator,
        name: name.to_owned(),
        hash: secret(name),
        expires_at: expires.map(at),
        maker,
    };
    let made = site.store.create_key(site.org, new, site.actor(), at(1));
    made.await
}

async fn is_good(site: &Site, text: &str, now: u64) -> bool {
    let found = site.store.operator_by_key(secret(text), at(now)).await;
    found.expect("read").is_some()
}

async fn member(site: &Site, email: &str, role: Role) -> OperatorId {
    let new = NewOperator {
        org: "acme".into(),
        email: email.into(),
        role,
        now: at(1),
    };
    let created = site
        .store
        .create_operator_with(new, Some(phc("p")), site.actor());
    created.await.expect("created")
}

async fn a_password_signs_in_as_long_as_it_is_the_one(site: Site) {
    let account = |email: &'static str| site.store.account(email, None);
    let unset = account(" ANN@acme.test ")
        .await
        .expect("read")
        .expect("known");
    assert_eq!((unset.operator, unset.org), (site.operator, site.org));
    assert!(unset.password.is_none());
    assert!(account("eve@acme.test").await.expect("read").is_none());
    set(&site, "first").await;
    let stored = account("ann@acme.test")
        .await
        .expect("read")
        .expect("known");
    assert_eq!(stored.password.expect("set").phc, "first");
    open(&site, "one", by_password("first", None))
        .await
        .expect("opened");
    assert!(is_open(&site, "one").await);
    // The password was verified before the change, and the session is opened after it.
    set(&site, "second").await;
    let late = open(&site, "two", by_password("first", None)).await;
    assert!(
        matches!(late, Err(OpenBrowserSessionError::Refused)),
        "{late:?}"
    );
    let sign_in = site
        .audited()
        .await
        .into_iter()
        .find(|row| row.entry.action == "operator.sign_in");
    assert!(
        sign_in
            .expect("recorded")
            .entry
            .subject
            .ends_with("by password")
    );
}

async fn sources_that_were_used_are_known_and_bounded(site: Site) {
    set(&site, "p").await;
    let is_known = |address: String| {
        let store = site.store.clone();
        async move {
            let account = store.account("ann@acme.test", ip(&address)).await;
            account.expect("read").expect("known").known_source
        }
    };
    for n in 0..20 {
        let address = format!("198.51.100.{n}");
        assert!(!is_known(address.clone()).await);
        open(&site, &address, by_password("p", ip(&address)))
            .await
            .expect("opened");
        assert!(is_known(address).await);
    }
    assert_eq!(
        site.number("SELECT count(*) FROM operator_source").await,
        16
    );
    assert!(is_known("198.51.100.19".into()).await);
}

async fn another_password_ends_the_other_sessions(site: Site) {
    set(&site, "p").await;
    let kept = open(&site, "kept", by_password("p", None))
        .await
        .expect("opened");
    open(&site, "other", by_password("p", None))
        .await
        .expect("opened");
    let org = Some(site.org);
    site.store
        .set_password(
            org,
            site.operator,
            phc("q"),
            Some(kept),
            site.actor(),
            at(2),
        )
        .await
        .expect("set");
    assert!(is_open(&site, "kept").await && !is_open(&site, "other").await);
    let sessions = site
        .store
        .list_browser_sessions(site.operator, at(3))
        .await
        .expect("read");
    assert_eq!(sessions.len(), 1);
    assert_eq!(
        (sessions[0].id, sessions[0].agent.as_str(), sessions[0].key),
        (kept, "a browser", None)
    );
    set(&site, "r").await;
    assert!(!is_open(&site, "kept").await);
}

async fn replace(site: &Site, verified: &str, new: &str) -> Result<(), MemberError> {
    let verified = Some(verified.to_owned());
    site.store
        .replace_password(site.operator, verified, phc(new), None, site.actor(), at(2))
        .await
}

async fn stored_password(site: &Site) -> Option<String> {
    let account = site.store.account("ann@acme.test", None).await;
    let password = account.expect("read").expect("known").password;
    password.map(|password| password.phc)
}

async fn a_reset_wins_over_a_password_change_that_began_before_it(site: Site) {
    set(&site, "old").await;
    set(&site, "reset").await;
    let late = replace(&site, "old", "own").await;
    assert!(
        matches!(late, Err(MemberError::PasswordChanged(_))),
        "{late:?}"
    );
    assert_eq!(stored_password(&site).await.as_deref(), Some("reset"));
    // In both orders the reset remains.
    for _ in 0..20 {
        set(&site, "old").await;
        let (_, ()) = tokio::join!(replace(&site, "old", "own"), set(&site, "reset"));
        assert_eq!(stored_password(&site).await.as_deref(), Some("reset"));
    }
}

async fn of_concurrent_exchanges_of_a_one_time_password_one_succeeds(site: Site) {
    for _ in 0..20 {
        set(&site, "one-time").await;
        let (one, other) = tokio::join!(
            replace(&site, "one-time", "mine"),
            replace(&site, "one-time", "yours")
        );
        let expected = match (&one, &other) {
            (Ok(()), Err(MemberError::PasswordChanged(_))) => "mine",
            (Err(MemberError::PasswordChanged(_)), Ok(())) => "yours",
            _ => panic!("{one:?} {other:?}"),
        };
        assert_eq!(stored_password(&site).await.as_deref(), Some(expected));
    }
}

async fn of_many_sessions_the_oldest_end(site: Site) {
    set(&site, "p").await;
    for n in 0..33 {
        open(&site, &n.to_string(), by_password("p", None))
            .await
            .expect("opened");
    }
    assert!(!is_open(&site, "0").await && is_open(&site, "1").await && is_open(&site, "32").await);
    assert_eq!(
        site.number("SELECT count(*) FROM browser_session").await,
        32
    );
}

async fn a_session_is_ended_by_its_owner_alone(site: Site) {
    set(&site, "p").await;
    let session = open(&site, "one", by_password("p", None))
        .await
        .expect("opened");
    let other = member(&site, "carl@acme.test", Role::Admin).await;
    let end = |operator| {
        site.store
            .end_browser_session(operator, session, site.actor(), at(3))
    };
    assert!(!end(other).await.expect("read"));
    assert!(is_open(&site, "one").await);
    assert!(end(site.operator).await.expect("ended"));
    assert!(!end(site.operator).await.expect("read"));
    assert!(!is_open(&site, "one").await);
}

async fn a_revoked_key_ends_its_sessions(site: Site) {
    let id = key(&site, "script", None).await;
    set(&site, "p").await;
    open(&site, "by key", Proof::Key(id)).await.expect("opened");
    open(&site, "by password", by_password("p", None))
        .await
        .expect("opened");
    let reach = KeyScope::Own(site.operator);
    let revoke = || {
        site.store
            .revoke_key(site.org, reach, id, site.actor(), at(2))
    };
    revoke().await.expect("revoked");
    assert!(!is_good(&site, "script", 3).await);
    assert!(!is_open(&site, "by key").await && is_open(&site, "by password").await);
    let again = revoke().await;
    assert!(
        matches!(again, Err(KeyError::NotFound(of)) if of == id),
        "{again:?}"
    );
    let late = open(&site, "late", Proof::Key(id)).await;
    assert!(
        matches!(late, Err(OpenBrowserSessionError::Refused)),
        "{late:?}"
    );
}

async fn a_rotated_key_lives_for_its_grace_and_not_longer(site: Site) {
    let id = key(&site, "script", Some(500)).await;
    let reach = KeyScope::Own(site.operator);
    let rotate = |id, hash: &'static str, until| {
        let (store, org, actor) = (site.store.clone(), site.org, site.actor());
        async move {
            let rotation = Rotation {
                key: id,
                hash: secret(hash),
                old_until: at(until),
                maker: None,
            };
            let rotated = store.rotate_key(org, reach, rotation, actor, at(10));
            rotated.await.expect("rotated")
        }
    };
    let second = rotate(id, "second", 100).await;
    assert!(is_good(&site, "script", 99).await && !is_good(&site, "script", 100).await);
    assert!(is_good(&site, "second", 499).await && !is_good(&site, "second", 500).await);
    // A grace period does not extend the lifetime of a key.
    rotate(second, "third", 9_000).await;
    assert!(!is_good(&site, "second", 500).await);
    let keys = site
        .store
        .list_keys(site.org, reach, 10, at(11))
        .await
        .expect("read");
    let names: Vec<_> = keys.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(
        names,
        ["made by fleetd admin", "script", "script", "script"]
    );
}

async fn a_key_is_over_at_its_end(site: Site) {
    let id = key(&site, "short", Some(100)).await;
    open(&site, "by key", Proof::Key(id)).await.expect("opened");
    assert!(is_good(&site, "short", 99).await && !is_good(&site, "short", 100).await);
    let found = |now| site.store.operator_by_session(secret("by key"), at(now));
    assert!(found(99).await.expect("read").is_some());
    assert!(found(100).await.expect("read").is_none(), "its session too");
    let credential = Credential::Key(id);
    let gone = site.store.operator_by_credential(credential, at(100)).await;
    assert_eq!(gone.expect("read"), None);
}

async fn keys_are_within_reach_of_their_owner_and_the_administrator(site: Site) {
    let id = key(&site, "anns", None).await;
    let other = member(&site, "carl@acme.test", Role::Operator).await;
    let foreign = site.other_org().await;
    let revoke = |org, reach| site.store.revoke_key(org, reach, id, site.actor(), at(2));
    for (org, reach) in [
        (site.org, KeyScope::Own(other)),
        (foreign, KeyScope::Org),
        (foreign, KeyScope::Own(site.operator)),
    ] {
        let refused = revoke(org, reach).await;
        assert!(matches!(refused, Err(KeyError::NotFound(_))), "{reach:?}");
    }
    let listed = |reach| site.store.list_keys(site.org, reach, 10, at(2));
    assert_eq!(listed(KeyScope::Own(other)).await.expect("read"), []);
    assert_eq!(listed(KeyScope::Org).await.expect("read").len(), 2);
    let new = NewKey {
        operator: other,
        name: "carls".into(),
        hash: secret("carls"),
        expires_at: None,
        maker: None,
    };
    let foreign = site
        .store
        .create_key(foreign, new, site.actor(), at(2))
        .await;
    assert!(matches!(foreign, Err(KeyError::NoOperator(of)) if of == other));
    revoke(site.org, KeyScope::Org)
        .await
        .expect("an administrator may");
}

async fn a_keys_use_is_remembered_to_the_minute(site: Site) {
    let used = || async {
        let keys = site
            .store
            .list_keys(site.org, KeyScope::Org, 10, at(2))
            .await;
        keys.expect("read")[0].last_used_at
    };
    // The test site itself has looked up the key.
    assert_eq!(used().await, Some(at(0)));
    for (now, expected) in [(59, 0), (60, 60), (100, 60), (121, 121)] {
        assert!(is_good(&site, "ann's key", now).await);
        assert_eq!(used().await, Some(at(expected)), "{now}");
    }
}

async fn an_operator_has_a_bounded_number_of_keys(site: Site) {
    for n in 1..KEYS_OF_AN_OPERATOR {
        key(&site, &format!("key {n}"), None).await;
    }
    let new = NewKey {
        operator: site.operator,
        name: "one more".into(),
        hash: secret("one more"),
        expires_at: None,
        maker: None,
    };
    let refused = site
        .store
        .create_key(site.org, new, site.actor(), at(1))
        .await;
    assert!(matches!(refused, Err(KeyError::TooMany(_))), "{refused:?}");
    let by_admin = site
        .store
        .create_operator_key("ann@acme.test", secret("x"), Actor::SYSTEM, at(1))
        .await;
    assert!(
        matches!(by_admin, Err(CreateKeyError::TooMany(of)) if of == site.operator),
        "{by_admin:?}"
    );
}

async fn a_key_never_outlives_the_key_that_made_it(site: Site) {
    let maker = key(&site, "maker", Some(500)).await;
    let by = |id| Some(Credential::Key(id));
    let child = made_by(&site, by(maker), "child", None)
        .await
        .expect("made");
    assert_eq!(child.expires_at, Some(at(500)), "not without an end");
    let later = made_by(&site, by(maker), "later", Some(900)).await;
    assert_eq!(later.expect("made").expires_at, Some(at(500)));
    let sooner = made_by(&site, by(maker), "sooner", Some(100)).await;
    assert_eq!(sooner.expect("made").expires_at, Some(at(100)));
    // A session that a key opened makes keys like the key itself.
    let session = open(&site, "by child", Proof::Key(child.id)).await;
    let session = Some(Credential::Session(session.expect("opened")));
    let grandchild = made_by(&site, session, "grandchild", None).await;
    assert_eq!(grandchild.expect("made").expires_at, Some(at(500)));
    for name in ["child", "later", "grandchild"] {
        assert!(is_good(&site, name, 3).await, "{name}");
    }
    let reach = KeyScope::Own(site.operator);
    let revoked = site
        .store
        .revoke_key(site.org, reach, maker, site.actor(), at(2));
    revoked.await.expect("revoked");
    for name in ["maker", "child", "later", "sooner", "grandchild"] {
        assert!(!is_good(&site, name, 3).await, "{name}");
    }
    assert!(!is_open(&site, "by child").await);
    assert!(is_good(&site, "ann's key", 3).await, "made by nobody");
    let late = made_by(&site, by(maker), "late", None).await;
    assert!(matches!(late, Err(KeyError::MakerEnded)), "{late:?}");
}

async fn keys_made_by_a_key_belong_to_the_key_that_replaces_it(site: Site) {
    let maker = key(&site, "maker", None).await;
    let child = made_by(&site, Some(Credential::Key(maker)), "child", None).await;
    let child = child.expect("made");
    assert_eq!(child.expires_at, None);
    let child = child.id;
    let short = key(&site, "short", Some(300)).await;
    let reach = KeyScope::Own(site.operator);
    let rotate = |key, hash: &'static str, maker| {
        let rotation = Rotation {
            key,
            hash: secret(hash),
            old_until: at(10),
            maker: Some(Credential::Key(maker)),
        };
        site.store
            .rotate_key(site.org, reach, rotation, site.actor(), at(3))
    };
    let by_its_child = rotate(maker, "loop", child).await;
    assert!(
        matches!(by_its_child, Err(KeyError::MadeByIt(key)) if key == maker),
        "{by_its_child:?}"
    );
    let second = rotate(maker, "second", maker).await.expect("rotated");
    assert!(is_good(&site, "second", 9_000).await, "it replaces itself");
    assert!(is_good(&site, "child", 9_000).await, "it has a new maker");
    // A key that ends cannot make one without an end of one that it can rotate.
    rotate(second, "third", short).await.expect("rotated");
    for name in ["third", "child"] {
        assert!(is_good(&site, name, 299).await, "{name}");
        assert!(!is_good(&site, name, 300).await, "{name}");
    }
    let revoked = site
        .store
        .revoke_key(site.org, reach, short, site.actor(), at(5));
    revoked.await.expect("revoked");
    for name in ["third", "child"] {
        assert!(!is_good(&site, name, 6).await, "{name}");
    }
}

async fn keys_of_others_end_with_the_key_of_a_removed_operator(site: Site) {
    let carl = member(&site, "carl@acme.test", Role::Admin).await;
    let new = |operator, name: &str, maker| NewKey {
        operator,
        name: name.into(),
        hash: secret(name),
        expires_at: None,
        maker,
    };
    let create = |new| site.store.create_key(site.org, new, site.actor(), at(1));
    let carls = create(new(carl, "carls", None)).await.expect("made").id;
    let maker = Some(Credential::Key(carls));
    create(new(site.operator, "for ann", maker))
        .await
        .expect("made");
    assert!(is_good(&site, "for ann", 3).await);
    let removed = site
        .store
        .remove_member(site.org, carl, site.actor(), at(2));
    removed.await.expect("removed");
    assert!(!is_good(&site, "for ann", 3).await);
    assert!(is_good(&site, "ann's key", 3).await);
}

async fn the_last_administrator_stays(site: Site) {
    let demote = |operator, role| {
        site.store
            .set_role(site.org, operator, role, site.actor(), at(2))
    };
    let remove = |operator| {
        site.store
            .remove_member(site.org, operator, site.actor(), at(2))
    };
    for refused in [
        demote(site.operator, Role::Viewer).await,
        remove(site.operator).await,
    ] {
        assert!(
            matches!(refused, Err(MemberError::LastAdmin(_))),
            "{refused:?}"
        );
    }
    let other = member(&site, "carl@acme.test", Role::Viewer).await;
    demote(other, Role::Admin).await.expect("promoted");
    demote(site.operator, Role::Operator)
        .await
        .expect("another one is there");
    let refused = remove(other).await;
    assert!(
        matches!(refused, Err(MemberError::LastAdmin(_))),
        "{refused:?}"
    );
    let members = site
        .store
        .list_members(site.org, fleet_store::ListPage::FIRST, at(2))
        .await
        .expect("read");
    let shown: Vec<_> = members
        .iter()
        .map(|member| (member.id, member.role, member.has_password, member.keys))
        .collect();
    assert_eq!(
        shown,
        [
            (site.operator, Role::Operator, false, 1),
            (other, Role::Admin, true, 0)
        ]
    );
}

async fn a_removed_operator_leaves_the_email_and_nothing_that_opens(site: Site) {
    set(&site, "p").await;
    open(&site, "session", by_password("p", ip("198.51.100.1")))
        .await
        .expect("opened");
    member(&site, "carl@acme.test", Role::Admin).await;
    site.store
        .remove_member(site.org, site.operator, site.actor(), at(2))
        .await
        .expect("removed");
    assert!(!is_open(&site, "session").await && !is_good(&site, "ann's key", 3).await);
    assert!(
        site.store
            .account("ann@acme.test", None)
            .await
            .expect("read")
            .is_none()
    );
    let again = site
        .store
        .remove_member(site.org, site.operator, site.actor(), at(3))
        .await;
    assert!(matches!(again, Err(MemberError::NotFound(_))));
    assert_ne!(
        member(&site, "ann@acme.test", Role::Viewer).await,
        site.operator
    );
    assert!(
        site.store
            .list_codes(site.org, fleet_store::ListPage::FIRST)
            .await
            .is_ok(),
        "what refers to the operator still reads"
    );
}

async fn another_tenants_operators_are_not_found(site: Site) {
    let other = site.other_org().await;
    let (id, actor) = (site.operator, site.actor());
    let role = site
        .store
        .set_role(other, id, Role::Viewer, actor.clone(), at(2))
        .await;
    let removed = site
        .store
        .remove_member(other, id, actor.clone(), at(2))
        .await;
    let password = site
        .store
        .set_password(Some(other), id, phc("p"), None, actor, at(2))
        .await;
    for refused in [role, removed, password] {
        assert!(matches!(refused, Err(MemberError::NotFound(of)) if of == id));
    }
    let members = site
        .store
        .list_members(other, fleet_store::ListPage::FIRST, at(2))
        .await
        .expect("read");
    assert!(
        members
            .iter()
            .all(|member| member.email == "bob@other.test")
    );
}
