//! Sign-in through an OpenID provider: the authorization code flow with PKCE (OpenID Connect Core 1.0, RFC 7636). Start
//! with [`Provider::begin`] and [`Provider::finish`]; `http::sign_in` connects them with browsers.

mod attempt;
mod document;
mod token;

use std::{fmt, time::Instant};

pub(crate) use attempt::{Attempt, LIFE};
use base64::{Engine, prelude::BASE64_STANDARD};
use document::{Documents, Endpoints, secure};
use fleet_core::{
    Timestamp,
    sso::{ExpectedToken, SignInPolicy, TokenClaims},
};
use fleet_wire::client::Roots;
use http::{HeaderName, HeaderValue, header};
use serde::Deserialize;
use token::{ClaimNames, Unverified};
use zeroize::Zeroizing;

use crate::convert::printable;

/// The path to which the provider sends browsers back.
const CALLBACK: &str = "/api/sign-in/callback";
/// The claim of OpenID Connect Core (5.1) that says whether an e-mail is verified.
pub const EMAIL_VERIFIED: &str = "email_verified";
/// The longest authorization code.
const CODE_MOST: usize = 4_096;

/// An OpenID provider through which operators sign in.
#[derive(Clone)]
pub struct SignInProvider {
    /// The issuer, exactly as the provider writes it.
    pub issuer: String,
    /// The client id of this server at the provider.
    pub client_id: String,
    /// The client secret.
    pub client_secret: Zeroizing<String>,
    /// The name on the button of the sign-in page.
    pub name: String,
    /// The URL at which browsers reach this server, without a slash at the end.
    pub public_url: String,
    /// The name of the organization whose operators the provider signs in. Without it, there must be only one.
    pub organization: Option<String>,
    /// Scopes besides `openid` and `email`.
    pub scopes: Vec<String>,
    /// The claim of the ID token with the groups; a path with dots is possible.
    pub group_claim: String,
    /// The claim of the ID token that says whether the e-mail is verified: `email_verified` for most providers.
    pub verified_claim: String,
    /// Who may sign in.
    pub policy: SignInPolicy,
    /// The authorities that sign the provider's certificate.
    pub roots: Roots,
}

impl SignInProvider {
    /// Checks the URLs.
    ///
    /// # Errors
    ///
    /// Which one is not usable, and why.
    pub fn check(&self) -> Result<(), String> {
        secure("oidc.issuer", &self.issuer)?;
        if self.issuer.contains(['?', '#']) {
            return Err("oidc.issuer has a query or a fragment".to_owned());
        }
        secure("public-url", &self.public_url)?;
        // The meaning of another claim is the provider's own. The domains limit what a misunderstanding could open.
        if self.verified_claim != EMAIL_VERIFIED && self.policy.domains.is_empty() {
            return Err(format!(
                "oidc.email-verified-claim is `{}` but oidc.domains is empty: list the domains whose e-mails this claim may verify",
                self.verified_claim
            ));
        }
        Ok(())
    }
}

impl fmt::Debug for SignInProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignInProvider")
            .field("issuer", &self.issuer)
            .field("client_id", &self.client_id)
            .field("organization", &self.organization)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// Why the provider's answer cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProviderFailure {
    /// The provider cannot be reached, or does not work.
    #[error("the sign-in provider does not answer: {0}")]
    Unavailable(String),
    /// The provider has refused.
    #[error("the sign-in provider refused: {0}")]
    Denied(String),
    /// The answer breaks a rule.
    #[error("{0}")]
    Invalid(String),
}

/// The parameters of the provider's answer.
#[derive(Debug, Default)]
pub(crate) struct Callback {
    pub(crate) state: Option<String>,
    pub(crate) code: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) issuer: Option<String>,
}

impl Callback {
    /// Reads a query. A parameter that is there twice has no value, because it is not clear which one counts.
    pub(crate) fn read(query: &str) -> Self {
        let mut read = Self::default();
        let mut seen = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()).take(32) {
            let into = match &*name {
                "state" => &mut read.state,
                "code" => &mut read.code,
                "error" => &mut read.error,
                "iss" => &mut read.issuer,
                _ => continue,
            };
            *into = (!seen.contains(&name)).then(|| value.into_owned());
            seen.push(name);
        }
        read
    }
}

/// The answer of the token endpoint. The access token is not used, and therefore not read.
#[derive(Deserialize)]
struct Tokens {
    id_token: Zeroizing<String>,
}

#[derive(Deserialize)]
struct TokenError {
    error: String,
}

/// A provider with its documents.
#[derive(Debug)]
pub(crate) struct Provider {
    pub(crate) settings: SignInProvider,
    documents: Documents,
}

impl Provider {
    pub(crate) fn new(settings: SignInProvider) -> Self {
        Self {
            settings,
            documents: Documents::default(),
        }
    }

    /// The URL at the provider to which a browser is sent.
    ///
    /// # Errors
    ///
    /// The provider does not answer.
    pub(crate) async fn begin(
        &self,
        attempt: &Attempt,
        now: Instant,
    ) -> Result<String, ProviderFailure> {
        let endpoints = self.endpoints(now).await?;
        let settings = &self.settings;
        let scope = ["openid", "email"]
            .into_iter()
            .chain(settings.scopes.iter().map(String::as_str))
            .collect::<Vec<_>>()
            .join(" ");
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("response_type", "code")
            .append_pair("client_id", &settings.client_id)
            .append_pair("redirect_uri", &self.redirect_uri())
            .append_pair("scope", &scope)
            .append_pair("state", &attempt.state())
            .append_pair("nonce", &attempt.nonce())
            .append_pair("code_challenge", &attempt.challenge())
            .append_pair("code_challenge_method", "S256")
            .finish();
        let url = &endpoints.authorization;
        let separator = if url.contains('?') { '&' } else { '?' };
        Ok(format!("{url}{separator}{query}"))
    }

    /// Exchanges the code of an answer, and returns the checked claims of the ID token. The caller has compared the
    /// state.
    ///
    /// # Errors
    ///
    /// Why there is no valid ID token.
    pub(crate) async fn finish(
        &self,
        attempt: &Attempt,
        callback: Callback,
        now: (Timestamp, Instant),
    ) -> Result<TokenClaims, ProviderFailure> {
        let settings = &self.settings;
        let endpoints = self.endpoints(now.1).await?;
        let another = match &callback.issuer {
            Some(issuer) => *issuer != settings.issuer,
            None => endpoints.names_issuer,
        };
        if another {
            return Err(ProviderFailure::Invalid(
                "the answer is from another issuer".to_owned(),
            ));
        }
        if let Some(error) = &callback.error {
            return Err(ProviderFailure::Denied(printable(error, 64)));
        }
        let code = callback.code.filter(|code| code.len() <= CODE_MOST);
        let code =
            code.ok_or_else(|| ProviderFailure::Invalid("the answer contains no code".to_owned()))?;
        let token = self.exchange(&endpoints, attempt, &code).await?;
        let claims = self.verify(&endpoints, &token, now.1).await?;
        let nonce = attempt.nonce();
        let expected = ExpectedToken {
            issuer: &settings.issuer,
            client: &settings.client_id,
            nonce: &nonce,
        };
        claims
            .check(&expected, now.0)
            .map_err(|problem| ProviderFailure::Invalid(problem.to_string()))?;
        Ok(claims)
    }

    async fn endpoints(&self, now: Instant) -> Result<std::sync::Arc<Endpoints>, ProviderFailure> {
        let SignInProvider { issuer, roots, .. } = &self.settings;
        let endpoints = self.documents.endpoints(issuer, roots, now).await;
        endpoints.map_err(ProviderFailure::Unavailable)
    }

    /// Only the configured URL: no header of a request has a part in it.
    fn redirect_uri(&self) -> String {
        format!("{}{CALLBACK}", self.settings.public_url)
    }

    async fn exchange(
        &self,
        endpoints: &Endpoints,
        attempt: &Attempt,
        code: &str,
    ) -> Result<Zeroizing<String>, ProviderFailure> {
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        if endpoints.basic {
            headers.push((header::AUTHORIZATION, self.basic()?));
        }
        let form = self.form(endpoints, attempt, code);
        let roots = &self.settings.roots;
        let answer = document::exchange(&endpoints.token, headers, form, roots).await;
        let answer = answer.map_err(ProviderFailure::Unavailable)?;
        match answer.status {
            200 => {
                let tokens: Tokens = serde_json::from_slice(&answer.body).map_err(|_| {
                    ProviderFailure::Invalid("the answer contains no ID token".to_owned())
                })?;
                Ok(tokens.id_token)
            }
            400..500 => {
                let error: Option<TokenError> = serde_json::from_slice(&answer.body).ok();
                let error = error.map_or_else(
                    || format!("HTTP {}", answer.status),
                    |answer| printable(&answer.error, 64),
                );
                Err(ProviderFailure::Denied(error))
            }
            status => Err(ProviderFailure::Unavailable(format!(
                "{} answered with HTTP {status}",
                endpoints.token
            ))),
        }
    }

    fn form(&self, endpoints: &Endpoints, attempt: &Attempt, code: &str) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code")
            .append_pair("code", code)
            .append_pair("redirect_uri", &self.redirect_uri())
            .append_pair("code_verifier", &attempt.verifier());
        if !endpoints.basic {
            form.append_pair("client_id", &self.settings.client_id)
                .append_pair("client_secret", &self.settings.client_secret);
        }
        form.finish()
    }

    /// Id and secret as RFC 6749 (2.3.1) wants them in the header.
    fn basic(&self) -> Result<HeaderValue, ProviderFailure> {
        let encoded = |text: &str| {
            Zeroizing::new(form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>())
        };
        let (id, secret) = (
            encoded(&self.settings.client_id),
            encoded(&self.settings.client_secret),
        );
        let both = Zeroizing::new(format!("{}:{}", *id, *secret));
        let value = Zeroizing::new(format!("Basic {}", BASE64_STANDARD.encode(both.as_bytes())));
        let mut value = HeaderValue::from_str(&value)
            .map_err(|_| ProviderFailure::Invalid("the client secret cannot be sent".to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    async fn verify(
        &self,
        endpoints: &Endpoints,
        token: &str,
        now: Instant,
    ) -> Result<TokenClaims, ProviderFailure> {
        let SignInProvider {
            roots,
            group_claim,
            verified_claim,
            ..
        } = &self.settings;
        let names = ClaimNames {
            groups: group_claim,
            verified: verified_claim,
        };
        let mut renew = false;
        loop {
            let keys = self.documents.keys(endpoints, roots, renew, now).await;
            let keys = keys.map_err(ProviderFailure::Unavailable)?;
            match token::verify(token, &keys, names) {
                Ok(claims) => return Ok(claims),
                // The provider may have new keys since they were fetched.
                Err(Unverified::UnknownKey) if !renew => renew = true,
                Err(problem) => return Err(ProviderFailure::Invalid(problem.to_string())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> SignInProvider {
        SignInProvider {
            issuer: "https://id.test".to_owned(),
            client_id: "fleet id".to_owned(),
            client_secret: "p:s%".to_owned().into(),
            name: "Test".to_owned(),
            public_url: "https://fleet.test".to_owned(),
            organization: None,
            scopes: Vec::new(),
            group_claim: "groups".to_owned(),
            verified_claim: EMAIL_VERIFIED.to_owned(),
            policy: SignInPolicy::default(),
            roots: Roots::System,
        }
    }

    #[test]
    fn the_urls_of_the_configuration_must_be_secure_and_secrets_do_not_print() {
        assert_eq!(settings().check(), Ok(()));
        assert!(!format!("{:?}", settings()).contains("p:s"));
        for (issuer, public_url) in [
            ("http://id.test", "https://fleet.test"),
            ("https://id.test?x=1", "https://fleet.test"),
            ("id.test", "https://fleet.test"),
            ("https://id.test", "http://fleet.test"),
        ] {
            let settings = SignInProvider {
                issuer: issuer.to_owned(),
                public_url: public_url.to_owned(),
                ..settings()
            };
            assert!(settings.check().is_err(), "{settings:?}");
        }
    }

    #[test]
    fn another_claim_than_email_verified_needs_domains() {
        let settings = |domains: &[&str]| SignInProvider {
            verified_claim: "xms_edov".to_owned(),
            policy: SignInPolicy {
                domains: domains.iter().map(|&domain| domain.to_owned()).collect(),
                ..SignInPolicy::default()
            },
            ..settings()
        };
        assert_eq!(settings(&["acme.test"]).check(), Ok(()));
        let refused = settings(&[]).check().expect_err("no domains");
        assert!(
            refused.contains("xms_edov") && refused.contains("oidc.domains"),
            "{refused}"
        );
    }

    #[test]
    fn a_header_keeps_the_parts_of_id_and_secret_apart() {
        let header = Provider::new(settings()).basic().expect("is sendable");
        // base64 of `fleet+id:p%3As%25`
        assert_eq!(header, "Basic ZmxlZXQraWQ6cCUzQXMlMjU=");
        assert!(header.is_sensitive());
    }

    #[test]
    fn a_parameter_that_is_there_twice_has_no_value() {
        let read = Callback::read("code=a%20b&state=s&iss=https%3A%2F%2Fid.test&other=1");
        assert_eq!(read.code.as_deref(), Some("a b"));
        assert_eq!(read.state.as_deref(), Some("s"));
        assert_eq!(read.issuer.as_deref(), Some("https://id.test"));
        assert_eq!(read.error, None);
        for query in ["code=a&code=b", "code=a&code=b&code=c", ""] {
            assert_eq!(Callback::read(query).code, None, "{query}");
        }
    }
}
