//! Sign-in of browsers through an OpenID provider. A browser goes to the provider and comes back by redirects, so that a
//! failure is shown by the sign-in page: its address names the reason, and never contains text of a request.

use fleet_core::{
    OrgId, SecretKind, limits,
    sso::{SignInProblem, TokenClaims},
};
use fleet_store::{Actor, Principal, ProviderSignIn, ProviderSignInError};
use fleet_wire::{RpcError, server::Body};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header, request::Parts};
use serde_json::json;

use super::{
    not_served,
    response::{json, respond},
    session::{self, Origin, agent, set_cookie},
};
use crate::{
    app::App,
    auth::cookies,
    convert::printable,
    provider::{Attempt, Callback, LIFE, Provider, ProviderFailure},
};

/// The cookie of an attempt, and the same behind https. The provider sends browsers back, so that it must be sent with
/// requests that another site starts (SameSite=Lax).
const PLAIN_COOKIE: &str = "fleet_sign_in";
const SECURE_COOKIE: &str = "__Host-fleet_sign_in";

/// Shows how operators sign in.
pub(super) fn methods(app: &App) -> Response<Body> {
    let provider = app.provider.as_ref();
    let provider = provider.map(|provider| json!({"name": provider.settings.name}));
    let value = json!({"passwords": app.config.password_sign_in, "provider": provider});
    json(StatusCode::OK, &value)
}

/// Sends the browser to the provider.
///
/// # Errors
///
/// NOT_FOUND without a provider.
pub(super) async fn begin(
    app: &App,
    https: bool,
    origin: Origin,
    parts: &Parts,
) -> Result<Response<Body>, RpcError> {
    let provider = app.provider.as_ref().ok_or_else(|| not_served(parts))?;
    let attempt = Attempt::begin(app.environment.random(), app.environment.now());
    let begun = match origin.allow(app) {
        Ok(()) => {
            let begun = provider.begin(&attempt, app.environment.instant()).await;
            begun.map_err(Failure::Provider)
        }
        Err(_) => Err(Failure::Limited),
    };
    match begun {
        Ok(url) => {
            let mut response = redirect(&url);
            let life = LIFE.as_secs();
            set_attempt(&mut response, https, &attempt.cookie(), life);
            Ok(response)
        }
        Err(failure) => {
            app.metrics.sign_in(false);
            Ok(redirect(
                &failure.reported(app, provider, origin, None).await,
            ))
        }
    }
}

/// Signs the browser in with the provider's answer. Every answer ends the attempt of the browser.
///
/// # Errors
///
/// NOT_FOUND without a provider.
pub(super) async fn finish(
    app: &std::sync::Arc<App>,
    https: bool,
    origin: Origin,
    parts: &Parts,
) -> Result<Response<Body>, RpcError> {
    let provider = app.provider.as_ref().ok_or_else(|| not_served(parts))?;
    let token = app.environment.secret(SecretKind::OperatorSession);
    let mut account = None;
    let opened = open(app, provider, https, origin, parts, &token, &mut account).await;
    app.metrics.sign_in(opened.is_ok());
    let mut response = match opened {
        Ok(()) => {
            let mut response = redirect("/");
            let life = limits::BROWSER_SESSION_LIFE;
            set_cookie(&mut response, https, token.expose(), life);
            response
        }
        Err(failure) => {
            let account = account.as_ref();
            redirect(&failure.reported(app, provider, origin, account).await)
        }
    };
    set_attempt(&mut response, https, "", 0);
    Ok(response)
}

/// Opens a session. `account` is the account of a valid ID token, for the record of a refusal.
async fn open(
    app: &std::sync::Arc<App>,
    provider: &Provider,
    https: bool,
    origin: Origin,
    parts: &Parts,
    token: &fleet_core::Secret,
    account: &mut Option<TokenClaims>,
) -> Result<(), Failure> {
    origin.allow(app).map_err(|_| Failure::Limited)?;
    let now = app.environment.now();
    let cookie = attempt_cookie(&parts.headers, https).ok_or(Failure::NoAttempt)?;
    let attempt = Attempt::read(cookie, now).ok_or(Failure::OldAttempt)?;
    let callback = Callback::read(parts.uri.query().unwrap_or_default());
    if !callback
        .state
        .as_deref()
        .is_some_and(|state| attempt.has_state(state))
    {
        return Err(Failure::OldAttempt);
    }
    let times = (now, app.environment.instant());
    let claims = provider.finish(&attempt, callback, times).await;
    let claims = claims.map_err(Failure::Provider)?;
    *account = Some(claims.clone());
    // The exchange took some time.
    let now = app.environment.now();
    let settings = &provider.settings;
    let new = ProviderSignIn {
        org: settings.organization.clone(),
        claims,
        policy: settings.policy.clone(),
        attempt: attempt.hash(),
        attempt_expires: attempt.expires(),
        token: token.hash(),
        expires: now.plus(limits::BROWSER_SESSION_LIFE),
        agent: agent(parts),
    };
    let actor = Actor {
        principal: Principal::Anonymous,
        from: Some(origin.from),
    };
    let signed_in = app.store.sign_in_by_provider(new, actor, now).await;
    let signed_in = signed_in.map_err(Failure::Store)?;
    if signed_in.role_changed {
        app.notify_credentials(signed_in.org);
    }
    Ok(())
}

/// Why a browser is not signed in.
enum Failure {
    /// No attempt was begun in this browser.
    NoAttempt,
    /// The attempt is too old, or the answer belongs to another one.
    OldAttempt,
    Provider(ProviderFailure),
    Store(ProviderSignInError),
    /// Too many sign-ins.
    Limited,
}

impl Failure {
    /// Records the failure, and returns the address at which the sign-in page explains it.
    async fn reported(
        self,
        app: &App,
        provider: &Provider,
        origin: Origin,
        account: Option<&TokenClaims>,
    ) -> String {
        let (word, refusal) = self.explained();
        let name = &provider.settings.name;
        match refusal {
            Some((org, text)) => {
                let subject = match account {
                    Some(claims) => format!(
                        "account {} ({}) of {}",
                        printable(&claims.subject, 64),
                        printable(claims.email.as_deref().unwrap_or("no e-mail"), 100),
                        claims.issuer
                    ),
                    None => format!("sign-in provider {name}"),
                };
                let refusal = RpcError::unauthenticated(text).with_reason("PROVIDER_SIGN_IN");
                let attempt = session::attempt(org, origin.from, subject);
                attempt.refused(&app.auditor, refusal).await;
            }
            None => tracing::debug!(word, "a sign-in through the provider failed"),
        }
        format!("/#/sign-in/{word}")
    }

    /// The word for the page, and the text for the audit trail: nothing is recorded for a caller who brings nothing, nor
    /// for a failure that is not a refusal.
    fn explained(self) -> (&'static str, Option<(Option<OrgId>, String)>) {
        match self {
            Self::NoAttempt => ("attempt", None),
            Self::OldAttempt => {
                let text = "the attempt is too old, or was begun in another browser";
                ("attempt", Some((None, text.to_owned())))
            }
            Self::Provider(failure) => {
                let text = failure.to_string();
                match failure {
                    ProviderFailure::Unavailable(_) => {
                        tracing::warn!(error = text, "the sign-in provider does not answer");
                        ("unavailable", None)
                    }
                    ProviderFailure::Denied(_) => ("denied", Some((None, text))),
                    ProviderFailure::Invalid(_) => ("invalid", Some((None, text))),
                }
            }
            Self::Store(error) => {
                let text = error.to_string();
                match error {
                    ProviderSignInError::Used => ("attempt", Some((None, text))),
                    ProviderSignInError::NoOrganization => {
                        tracing::error!("{text}");
                        ("organization", Some((None, text)))
                    }
                    ProviderSignInError::Refused { org, why } => {
                        (word(why), Some((Some(org), text)))
                    }
                    ProviderSignInError::Storage(error) => {
                        // It logs the error.
                        let _ = crate::failure::storage(&error);
                        ("storage", None)
                    }
                }
            }
            Self::Limited => ("limited", None),
        }
    }
}

/// The word by which the page knows a problem.
fn word(problem: SignInProblem) -> &'static str {
    match problem {
        SignInProblem::EmailMissing => "email-missing",
        SignInProblem::EmailUnverified => "email-unverified",
        SignInProblem::Domain => "domain",
        SignInProblem::NoRole => "no-role",
        SignInProblem::LinkedToAnother => "linked-to-another",
        SignInProblem::Unknown => "unknown",
        SignInProblem::Removed => "removed",
    }
}

/// A redirect to a URL of the provider, or to a path of this server.
fn redirect(to: &str) -> Response<Body> {
    let mut response = respond(StatusCode::SEE_OTHER, "text/plain", Body::empty());
    let headers = response.headers_mut();
    if let Ok(to) = HeaderValue::from_str(to) {
        headers.insert(header::LOCATION, to);
    }
    // The address of the callback contains the code.
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    response
}

fn cookie_name(https: bool) -> &'static str {
    if https { SECURE_COOKIE } else { PLAIN_COOKIE }
}

/// Sets the cookie of an attempt for some seconds; 0 removes it.
fn set_attempt(response: &mut Response<Body>, https: bool, value: &str, life: u64) {
    let name = cookie_name(https);
    let secure = if https { "; Secure" } else { "" };
    let cookie = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={life}{secure}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

fn attempt_cookie(headers: &HeaderMap, https: bool) -> Option<&str> {
    cookies(headers)
        .find(|(name, value)| *name == cookie_name(https) && !value.is_empty())
        .map(|(_, value)| value)
}
