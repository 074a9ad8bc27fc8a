//! Accounts of a sign-in provider and their operators, under races. The rules are in `fleet_core::sso`, and whole sign-ins
//! in fleet-server/tests/it/sign_in.rs.

use fleet_core::sso::{SignInPolicy, SignInProblem, TokenClaims};
use fleet_store::*;

use crate::{
    races::at_once,
    site::{Site, at, secret},
};

contract! {
    an_attempt_opens_one_session_however_many_servers_get_its_answer
    of_many_accounts_with_one_email_one_is_linked
    first_sign_ins_of_one_account_at_once_create_one_operator
    without_a_name_the_provider_belongs_to_the_only_organization
}

fn sign_in(subject: &str, email: &str, attempt: &str) -> ProviderSignIn {
    ProviderSignIn {
        org: None,
        claims: TokenClaims {
            issuer: "https://id.test".to_owned(),
            subject: subject.to_owned(),
            email: Some(email.to_owned()),
            email_verified: true,
            ..TokenClaims::default()
        },
        policy: SignInPolicy::default(),
        attempt: secret(attempt),
        attempt_expires: at(100),
        token: secret(&format!("token of {attempt}")),
        expires: at(1_000),
        agent: "a browser".to_owned(),
    }
}

/// All sign-ins at once.
async fn run(
    site: &Site,
    all: impl Iterator<Item = ProviderSignIn>,
) -> Vec<Result<ProviderSignedIn, ProviderSignInError>> {
    let one = |new| {
        let store = site.store.clone();
        async move { store.sign_in_by_provider(new, Actor::SYSTEM, at(1)).await }
    };
    at_once(all.map(one).collect()).await
}

async fn an_attempt_opens_one_session_however_many_servers_get_its_answer(site: Site) {
    let all = (0..12).map(|number| ProviderSignIn {
        token: secret(&format!("token {number}")),
        ..sign_in("7", "ann@acme.test", "one attempt")
    });
    let (done, refused): (Vec<_>, Vec<_>) =
        run(&site, all).await.into_iter().partition(Result::is_ok);
    assert_eq!(done.len(), 1);
    for refused in refused {
        assert!(
            matches!(refused, Err(ProviderSignInError::Used)),
            "{refused:?}"
        );
    }
    let open = site.store.list_browser_sessions(site.operator, at(2)).await;
    assert_eq!(open.expect("read").len(), 1);
}

async fn of_many_accounts_with_one_email_one_is_linked(site: Site) {
    let all = (0..12).map(|number| {
        let (subject, attempt) = (format!("account {number}"), format!("attempt {number}"));
        sign_in(&subject, "ann@acme.test", &attempt)
    });
    let (done, refused): (Vec<_>, Vec<_>) =
        run(&site, all).await.into_iter().partition(Result::is_ok);
    assert_eq!(done.len(), 1);
    for refused in refused {
        let Err(ProviderSignInError::Refused { why, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(why, SignInProblem::LinkedToAnother);
    }
}

async fn first_sign_ins_of_one_account_at_once_create_one_operator(site: Site) {
    let policy = SignInPolicy {
        creates: true,
        ..SignInPolicy::default()
    };
    let all = (0..12).map(|number| ProviderSignIn {
        policy: policy.clone(),
        ..sign_in("9", "bob@acme.test", &format!("attempt {number}"))
    });
    let mut operators: Vec<_> = run(&site, all)
        .await
        .into_iter()
        .map(|done| done.expect("signed in").operator)
        .collect();
    operators.dedup();
    assert_eq!(operators.len(), 1);
    let members = site.store.list_members(site.org, ListPage::FIRST, at(2));
    let members = members.await.expect("read");
    let issuers: Vec<_> = members.iter().map(|of| of.issuer.as_deref()).collect();
    assert_eq!(issuers, [None, Some("https://id.test")]);
}

async fn without_a_name_the_provider_belongs_to_the_only_organization(site: Site) {
    let one = |org: Option<&str>, attempt: &str| {
        let new = ProviderSignIn {
            org: org.map(str::to_owned),
            ..sign_in("7", "ann@acme.test", attempt)
        };
        site.store.sign_in_by_provider(new, Actor::SYSTEM, at(1))
    };
    one(None, "first").await.expect("there is one");
    let other = NewOperator {
        org: "other".to_owned(),
        email: "ann@acme.test".to_owned(),
        role: fleet_core::Role::Admin,
        now: at(1),
    };
    let other = site.store.create_operator(other, Actor::SYSTEM).await;
    let other = other.expect("created");
    for unknown in [None, Some("third")] {
        let refused = one(unknown, "second").await;
        assert!(
            matches!(refused, Err(ProviderSignInError::NoOrganization)),
            "{refused:?}"
        );
    }
    let ours = one(Some("ACME"), "third").await.expect("ours");
    assert_eq!(ours.operator, site.operator);
    // Another configuration links the same account in the other organization.
    let theirs = one(Some("other"), "fourth").await.expect("theirs");
    assert_eq!(theirs.operator, other);
}
