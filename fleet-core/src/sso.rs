//! Rules of sign-in by OpenID Connect: which ID tokens are accepted, who may sign in, and with which role.
//!
//! Signatures are verified before. Start with [`TokenClaims::check`], then [`SignInPolicy::admit`].

use std::{collections::BTreeMap, time::Duration};

use crate::{Role, Timestamp};

/// Clocks of providers may differ from ours by this much.
const LEEWAY: Duration = Duration::from_secs(60);
/// The longest subject (OpenID Connect Core, 2: 255 ASCII characters).
const SUBJECT_MOST: usize = 255;
/// The longest e-mail (RFC 5321, 4.5.3.1.3).
const EMAIL_MOST: usize = 254;

/// The claims of an ID token whose signature is valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenClaims {
    /// `iss`.
    pub issuer: String,
    /// `sub`: the account at the provider. With the issuer it is unique and never used for somebody else.
    pub subject: String,
    /// `aud`.
    pub audiences: Vec<String>,
    /// `azp`.
    pub authorized_party: Option<String>,
    /// `nonce`.
    pub nonce: Option<String>,
    /// `exp`, in seconds since the Unix epoch.
    pub expires_at: i64,
    /// `iat`, in seconds since the Unix epoch.
    pub issued_at: i64,
    /// `nbf`, in seconds since the Unix epoch.
    pub not_before: Option<i64>,
    /// `email`.
    pub email: Option<String>,
    /// Whether the provider has verified the e-mail: the claim `email_verified`, or the one that the administrator names;
    /// false if it is absent.
    pub email_verified: bool,
    /// The values of the claim that the roles are mapped from.
    pub groups: Vec<String>,
}

/// What an ID token must contain.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedToken<'a> {
    /// The configured issuer.
    pub issuer: &'a str,
    /// The client id of this server.
    pub client: &'a str,
    /// The nonce of the browser's attempt.
    pub nonce: &'a str,
}

/// Why an ID token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenProblem {
    /// `iss` is another one.
    #[error("the ID token is from another issuer")]
    Issuer,
    /// `aud` does not contain this server, or `azp` names another client.
    #[error("the ID token is for another client")]
    Audience,
    /// `nonce` is not that of the attempt.
    #[error("the ID token belongs to another attempt")]
    Nonce,
    /// `exp` has passed.
    #[error("the ID token has expired")]
    Expired,
    /// `iat` or `nbf` lies in the future.
    #[error("the ID token is not valid yet: compare the clocks of the provider and the server")]
    NotYetValid,
    /// `sub` is empty or too long.
    #[error("the ID token names no account")]
    Subject,
}

impl TokenClaims {
    /// Checks the claims of a token (OpenID Connect Core, 3.1.3.7).
    ///
    /// # Errors
    ///
    /// The first rule that the token breaks.
    pub fn check(&self, expected: &ExpectedToken<'_>, now: Timestamp) -> Result<(), TokenProblem> {
        let seconds = |time: Timestamp| time.to_seconds_and_nanos().0;
        let client = expected.client;
        if self.issuer != expected.issuer {
            return Err(TokenProblem::Issuer);
        }
        let is_ours = self.audiences.iter().any(|audience| audience == client);
        let others = self.audiences.len() > 1;
        let party = self.authorized_party.as_deref();
        // A token for several clients says which one asked for it.
        if !is_ours || party.map_or(others, |party| party != client) {
            return Err(TokenProblem::Audience);
        }
        if self.nonce.as_deref() != Some(expected.nonce) {
            return Err(TokenProblem::Nonce);
        }
        if self.expires_at <= seconds(now.minus(LEEWAY)) {
            return Err(TokenProblem::Expired);
        }
        let latest = seconds(now.plus(LEEWAY));
        if self.issued_at > latest || self.not_before.is_some_and(|time| time > latest) {
            return Err(TokenProblem::NotYetValid);
        }
        if self.subject.is_empty() || self.subject.len() > SUBJECT_MOST {
            return Err(TokenProblem::Subject);
        }
        Ok(())
    }

    /// The e-mail in the form in which operators have it. A character that only becomes an ASCII letter in lower case, such
    /// as the Kelvin sign, makes another mailbox look like this one, and no e-mail contains it.
    fn canonical_email(&self) -> Option<String> {
        let email = self.email.as_deref()?.trim();
        let imitates = |c: char| !c.is_ascii() && c.to_lowercase().any(|c| c.is_ascii());
        if email.contains(imitates) {
            return None;
        }
        let email = email.to_lowercase();
        let (name, domain) = email.rsplit_once('@')?;
        let unusual = |c: char| c.is_control() || c.is_whitespace();
        let is_email = !name.is_empty()
            && !domain.is_empty()
            && email.len() <= EMAIL_MOST
            && !email.contains(unusual);
        is_email.then_some(email)
    }
}

/// Who may sign in through the provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignInPolicy {
    /// The domains of allowed e-mails, in lower case; empty allows every domain.
    pub domains: Vec<String>,
    /// Whether an operator is created for an unknown e-mail.
    pub creates: bool,
    /// The role of each group; empty leaves the roles to the administrators.
    pub roles: BTreeMap<String, Role>,
}

/// What is known about the account of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownAccount {
    /// An operator is linked to it.
    Linked(Role),
    /// No operator is linked to it, but one has its e-mail.
    SameEmail {
        /// The role of this operator.
        role: Role,
        /// Whether the operator is linked to another account.
        linked: bool,
    },
    /// An operator with this account or e-mail was removed.
    Removed,
    /// Nobody.
    Unknown,
}

/// What a permitted sign-in changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// The linked operator signs in.
    Linked {
        /// The operator's role from now on.
        role: Role,
    },
    /// The operator with this e-mail is linked.
    Link {
        /// The e-mail in lower case.
        email: String,
        /// The operator's role from now on.
        role: Role,
    },
    /// An operator is created and linked.
    Create {
        /// The e-mail in lower case.
        email: String,
        /// The operator's role.
        role: Role,
    },
}

/// Why an account may not sign in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignInProblem {
    /// The token contains no usable e-mail.
    #[error("the provider sent no e-mail for this account")]
    EmailMissing,
    /// The provider did not verify the e-mail.
    #[error("the provider has not verified the e-mail of this account")]
    EmailUnverified,
    /// The domain is not allowed.
    #[error("the domain of this e-mail is not allowed")]
    Domain,
    /// No group of the account has a role.
    #[error("no group of this account has a role")]
    NoRole,
    /// The operator with this e-mail is linked to another account.
    #[error("the operator with this e-mail is linked to another account of the provider")]
    LinkedToAnother,
    /// No operator has this e-mail.
    #[error("no operator has this e-mail")]
    Unknown,
    /// The operator was removed.
    #[error("the operator of this account was removed")]
    Removed,
}

impl SignInPolicy {
    /// Whether an account with these claims may look for an operator, and its e-mail.
    fn email(&self, claims: &TokenClaims) -> Result<Option<String>, SignInProblem> {
        let email = claims.canonical_email();
        if self.domains.is_empty() {
            return Ok(email);
        }
        let email = email.ok_or(SignInProblem::EmailMissing)?;
        let allowed = email
            .rsplit_once('@')
            .is_some_and(|(_, domain)| self.domains.iter().any(|allowed| allowed == domain));
        if allowed {
            Ok(Some(email))
        } else {
            Err(SignInProblem::Domain)
        }
    }

    /// The role of an account: the highest one of its groups, or `current` if no roles are configured.
    fn role(&self, claims: &TokenClaims, current: Role) -> Result<Role, SignInProblem> {
        if self.roles.is_empty() {
            return Ok(current);
        }
        let groups = claims.groups.iter();
        let role = groups.filter_map(|group| self.roles.get(group)).max();
        role.copied().ok_or(SignInProblem::NoRole)
    }

    /// The e-mail with which an operator may be found: a verified one of an allowed domain.
    ///
    /// # Errors
    ///
    /// Why there is no such e-mail.
    pub fn verified_email(&self, claims: &TokenClaims) -> Result<String, SignInProblem> {
        let email = self.email(claims)?.ok_or(SignInProblem::EmailMissing)?;
        if claims.email_verified {
            Ok(email)
        } else {
            Err(SignInProblem::EmailUnverified)
        }
    }

    /// Decides about the account of a checked token. An operator without a link is found by a verified e-mail, once;
    /// from then on, only the linked account is this operator.
    ///
    /// # Errors
    ///
    /// Why the account may not sign in.
    pub fn admit(
        &self,
        claims: &TokenClaims,
        known: KnownAccount,
    ) -> Result<Admitted, SignInProblem> {
        match known {
            KnownAccount::Linked(current) => {
                self.email(claims)?;
                let role = self.role(claims, current)?;
                Ok(Admitted::Linked { role })
            }
            KnownAccount::SameEmail { role, linked } => {
                let email = self.verified_email(claims)?;
                if linked {
                    return Err(SignInProblem::LinkedToAnother);
                }
                let role = self.role(claims, role)?;
                Ok(Admitted::Link { email, role })
            }
            KnownAccount::Removed => Err(SignInProblem::Removed),
            KnownAccount::Unknown => {
                let email = self.verified_email(claims)?;
                if !self.creates {
                    return Err(SignInProblem::Unknown);
                }
                let role = self.role(claims, Role::Viewer)?;
                Ok(Admitted::Create { email, role })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn now() -> Timestamp {
        Timestamp::from_micros(NOW * 1_000_000)
    }

    fn claims() -> TokenClaims {
        TokenClaims {
            issuer: "https://id.test".to_owned(),
            subject: "7".to_owned(),
            audiences: vec!["fleet".to_owned()],
            nonce: Some("n".to_owned()),
            expires_at: NOW + 300,
            issued_at: NOW,
            email: Some("Ann@Acme.test".to_owned()),
            email_verified: true,
            ..TokenClaims::default()
        }
    }

    fn changed(change: impl FnOnce(&mut TokenClaims)) -> TokenClaims {
        let mut claims = claims();
        change(&mut claims);
        claims
    }

    fn check(claims: &TokenClaims) -> Result<(), TokenProblem> {
        let expected = ExpectedToken {
            issuer: "https://id.test",
            client: "fleet",
            nonce: "n",
        };
        claims.check(&expected, now())
    }

    #[test]
    fn a_token_is_accepted_only_from_this_issuer_for_this_client_attempt_and_time() {
        use TokenProblem::*;
        let list = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(check(&claims()), Ok(()));
        for (claims, expected) in [
            (
                changed(|c| c.issuer = "https://id.test/".into()),
                Err(Issuer),
            ),
            (changed(|c| c.audiences = list(&[])), Err(Audience)),
            (changed(|c| c.audiences = list(&["other"])), Err(Audience)),
            // Several clients need `azp`.
            (
                changed(|c| c.audiences = list(&["fleet", "other"])),
                Err(Audience),
            ),
            (
                changed(|c| {
                    c.audiences = list(&["fleet", "other"]);
                    c.authorized_party = Some("fleet".into());
                }),
                Ok(()),
            ),
            (
                changed(|c| c.authorized_party = Some("other".into())),
                Err(Audience),
            ),
            (changed(|c| c.nonce = None), Err(Nonce)),
            (changed(|c| c.nonce = Some("m".into())), Err(Nonce)),
            (changed(|c| c.expires_at = NOW - 59), Ok(())),
            (changed(|c| c.expires_at = NOW - 60), Err(Expired)),
            (changed(|c| c.issued_at = NOW + 60), Ok(())),
            (changed(|c| c.issued_at = NOW + 61), Err(NotYetValid)),
            (changed(|c| c.not_before = Some(NOW + 61)), Err(NotYetValid)),
            (changed(|c| c.subject = String::new()), Err(Subject)),
            (changed(|c| c.subject = "s".repeat(256)), Err(Subject)),
        ] {
            assert_eq!(check(&claims), expected, "{claims:?}");
        }
    }

    #[test]
    fn an_operator_is_found_once_by_a_verified_e_mail_and_then_by_the_link() {
        use KnownAccount::*;
        use SignInProblem as Problem;
        let policy = SignInPolicy::default();
        let creating = SignInPolicy {
            creates: true,
            ..SignInPolicy::default()
        };
        let viewer = Role::Viewer;
        let free = SameEmail {
            role: Role::Admin,
            linked: false,
        };
        let taken = SameEmail {
            role: Role::Admin,
            linked: true,
        };
        let email = || "ann@acme.test".to_owned();
        let unverified = changed(|c| c.email_verified = false);
        let without = changed(|c| c.email = None);
        for (policy, claims, known, expected) in [
            (
                &policy,
                &without,
                Linked(viewer),
                Ok(Admitted::Linked { role: viewer }),
            ),
            (
                &policy,
                &claims(),
                free,
                Ok(Admitted::Link {
                    email: email(),
                    role: Role::Admin,
                }),
            ),
            (&policy, &unverified, free, Err(Problem::EmailUnverified)),
            (&policy, &without, free, Err(Problem::EmailMissing)),
            (&policy, &claims(), taken, Err(Problem::LinkedToAnother)),
            (&policy, &claims(), Unknown, Err(Problem::Unknown)),
            (
                &creating,
                &claims(),
                Unknown,
                Ok(Admitted::Create {
                    email: email(),
                    role: viewer,
                }),
            ),
            (
                &creating,
                &unverified,
                Unknown,
                Err(Problem::EmailUnverified),
            ),
            (&creating, &claims(), Removed, Err(Problem::Removed)),
        ] {
            assert_eq!(
                policy.admit(claims, known),
                expected,
                "{claims:?} {known:?}"
            );
        }
    }

    #[test]
    fn domains_are_compared_as_a_whole() {
        let policy = SignInPolicy {
            domains: vec!["acme.test".to_owned()],
            ..SignInPolicy::default()
        };
        for (email, expected) in [
            ("ann@acme.test", Ok(())),
            ("ANN@ACME.TEST", Ok(())),
            ("ann@evil-acme.test", Err(SignInProblem::Domain)),
            ("ann@acme.test.evil.test", Err(SignInProblem::Domain)),
            ("acme.test@evil.test", Err(SignInProblem::Domain)),
            ("ann@acme.test@evil.test", Err(SignInProblem::Domain)),
            ("ann", Err(SignInProblem::EmailMissing)),
            ("", Err(SignInProblem::EmailMissing)),
            ("ann smith@acme.test", Err(SignInProblem::EmailMissing)),
        ] {
            let claims = changed(|c| c.email = Some(email.to_owned()));
            let admitted = policy.admit(&claims, KnownAccount::Linked(Role::Viewer));
            assert_eq!(admitted.map(drop), expected, "{email}");
        }
    }

    #[test]
    fn an_email_that_imitates_another_one_in_lower_case_finds_nobody() {
        for (email, expected) in [
            ("Mike@acme.test", Some("mike@acme.test")),
            ("M\u{dc}LLER@acme.test", Some("m\u{fc}ller@acme.test")),
            // Kelvin sign, and I with a dot above.
            ("mi\u{212a}e@acme.test", None),
            ("m\u{130}ke@acme.test", None),
        ] {
            let claims = changed(|c| c.email = Some(email.to_owned()));
            let found = SignInPolicy::default().verified_email(&claims).ok();
            assert_eq!(found.as_deref(), expected, "{email}");
        }
    }

    fn roles() -> impl Strategy<Value = BTreeMap<String, Role>> {
        let role = prop_oneof![Just(Role::Viewer), Just(Role::Operator), Just(Role::Admin)];
        proptest::collection::btree_map("[a-d]", role, 0..4)
    }

    proptest! {
        #[test]
        fn the_highest_role_of_the_groups_applies_and_no_group_gives_more(
            roles in roles(),
            groups in proptest::collection::vec("[a-e]", 0..5),
        ) {
            let policy = SignInPolicy { roles: roles.clone(), ..SignInPolicy::default() };
            let claims = changed(|c| c.groups = groups.clone());
            let admitted = policy.admit(&claims, KnownAccount::Linked(Role::Operator));
            let mapped: Vec<Role> = groups.iter().filter_map(|group| roles.get(group).copied()).collect();
            let expected = match (roles.is_empty(), mapped.into_iter().max()) {
                (true, _) => Ok(Role::Operator),
                (false, Some(role)) => Ok(role),
                (false, None) => Err(SignInProblem::NoRole),
            };
            prop_assert_eq!(admitted, expected.map(|role| Admitted::Linked { role }));
        }

        #[test]
        fn nobody_is_linked_or_created_without_a_verified_e_mail(
            email in proptest::option::of("\\PC{0,20}"),
            linked in any::<bool>(),
            creates in any::<bool>(),
        ) {
            let policy = SignInPolicy { creates, ..SignInPolicy::default() };
            let claims = changed(|c| { c.email = email.clone(); c.email_verified = false; });
            for known in [KnownAccount::Unknown, KnownAccount::SameEmail { role: Role::Admin, linked }] {
                prop_assert!(policy.admit(&claims, known).is_err());
            }
        }
    }
}
