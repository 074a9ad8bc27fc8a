//! Sign-in of browsers: an e-mail and password, or a key, is exchanged for a cookie that no script can read. No
//! credential is ever in a URL, and the cookie never leaves this origin.

use std::{net::IpAddr, sync::Arc, time::Duration};

use fleet_core::{
    OperatorId, OrgId, Password, Permission, SecretHash, SecretKind, Timestamp, limits,
};
use fleet_store::{
    Account, Actor, Credential, MemberError, NewBrowserSession, OpenBrowserSessionError,
    PasswordHash, Principal, Proof,
};
use fleet_wire::{RpcError, server::Body};
use http::{HeaderValue, Method, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    caller,
    response::{json, respond},
};
use crate::{
    app::App,
    audit::Attempt,
    auth,
    convert::printable,
    failure::{self, Answered},
    limiter,
    passwords::{PASSWORDS, Source, chosen},
};

/// Two passwords in JSON fit, even if every byte is escaped.
const BODY_MOST: usize = 16 * 1_024;
/// A sign-in fits in one packet.
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// Longest stored `User-Agent`.
const AGENT_MOST: usize = 160;
/// The longest e-mail (RFC 5321, 4.5.3.1.3).
const EMAIL_MOST: usize = 254;

/// The body of a sign-in. It has no `Debug`, because its fields are secret. It is no enum, because serde copies the
/// fields of an untagged one, and the copies are not wiped.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SignIn {
    key: Option<Zeroizing<String>>,
    email: Option<String>,
    password: Option<Zeroizing<String>>,
    /// Replaces a one-time password.
    new_password: Option<Zeroizing<String>>,
    /// Which account is meant, where several organizations have one with this e-mail. Without it, the oldest one is.
    organization: Option<String>,
}

/// The account that a password is tried for.
struct Name {
    email: String,
    organization: Option<String>,
}

/// Where a sign-in comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// The address in the audit trail.
    pub(super) from: IpAddr,
    /// The client that an undeclared proxy names.
    pub(super) claimed: Option<IpAddr>,
}

impl Origin {
    /// The source whose sign-ins are limited. Clients of an undeclared proxy must not share one limit, because anybody
    /// could exhaust it for all. Such a client is named by its proxy as well as by its address: a peer that invents a
    /// proxy must not use the allowance of the address that it names.
    fn source(self) -> IpAddr {
        match self.claimed {
            Some(claimed) => limiter::source_behind(self.from, claimed),
            None => limiter::source(self.from),
        }
    }

    /// Takes one sign-in from the allowance of the source.
    ///
    /// # Errors
    ///
    /// RESOURCE_EXHAUSTED with a retry hint.
    pub(super) fn allow(self, app: &App) -> Result<(), RpcError> {
        let Some(limits) = &app.limiters else {
            return Ok(());
        };
        let now = app.environment.instant();
        limits.sign_ins.allow(self.source(), "sign-ins", now)?;
        if self.claimed.is_some() {
            // A peer can claim any address.
            let peer = limiter::source(self.from);
            limits.claimed_sign_ins.allow(peer, "sign-ins", now)?;
        }
        Ok(())
    }
}

/// Exchanges a credential for a session cookie.
pub(super) async fn sign_in(
    app: &App,
    https: bool,
    origin: Origin,
    parts: &Parts,
    body: Body,
) -> Result<Response<Body>, RpcError> {
    let from = origin.from;
    // No form can send this type: another site cannot sign a browser in as somebody else.
    if !is_json(parts) {
        return Err(
            RpcError::invalid_argument("a sign-in needs `content-type: application/json`")
                .with_reason("INVALID_FIELD")
                .with_fact("field", "content-type"),
        );
    }
    // Before the body is read, so a flood of sign-ins costs no memory.
    origin.allow(app)?;
    let unreadable = || {
        RpcError::invalid_argument(
            "expected {\"email\": \"...\", \"password\": \"...\"} or {\"key\": \"fok_...\"} as JSON",
        ).with_reason("INVALID_MESSAGE")
    };
    let bytes = tokio::time::timeout(BODY_WITHIN, whole(body))
        .await
        .map_err(|_| {
            RpcError::deadline_exceeded("the request did not arrive in time")
                .with_reason("DEADLINE_EXCEEDED")
                .with_fact("limit_s", BODY_WITHIN.as_secs())
        })?;
    let bytes = bytes.ok_or_else(unreadable)?;
    let sign_in: SignIn = serde_json::from_slice(&bytes).map_err(|_| unreadable())?;
    drop(bytes);
    let now = app.environment.now();
    let (operator, proof) = match sign_in {
        SignIn {
            key: Some(key),
            email: None,
            password: None,
            new_password: None,
            organization: None,
        } => by_key(app, from, &key, now).await?,
        SignIn {
            key: None,
            email: Some(email),
            password: Some(password),
            new_password,
            organization,
        } => {
            let name = Name {
                email,
                organization,
            };
            let (account, password) = by_password(app, origin, name, password, now).await?;
            match (password.one_time_until, new_password) {
                (None, None) => {
                    let source = Some(origin.source());
                    let phc = password.phc;
                    (account.operator, Proof::Password { phc, source })
                }
                (Some(_), Some(new)) => {
                    exchange(app, origin, &account, password.phc, new, now).await?
                }
                (Some(_), None) => {
                    return Err(RpcError::failed_precondition(
                        "this is a one-time password: choose a password of your own with it",
                    )
                    .with_reason("ONE_TIME_PASSWORD"));
                }
                (None, Some(_)) => {
                    return Err(RpcError::invalid_argument(
                        "newPassword is valid only with a one-time password: sign in, then change the password",
                    ).with_reason("INVALID_FIELD").with_fact("field", "newPassword"));
                }
            }
        }
        SignIn { .. } => return Err(unreadable()),
    };
    let token = app.environment.secret(SecretKind::OperatorSession);
    let new = NewBrowserSession {
        operator,
        proof,
        token: token.hash(),
        expires: now.plus(limits::BROWSER_SESSION_LIFE),
        agent: agent(parts),
    };
    let opened = app
        .store
        .open_browser_session(new, author(operator, from), now)
        .await;
    opened.map_err(|error| match error {
        OpenBrowserSessionError::Refused => changed_meanwhile(),
        OpenBrowserSessionError::Storage(error) => failure::storage(&error),
    })?;
    Ok(with_cookie(
        https,
        token.expose(),
        limits::BROWSER_SESSION_LIFE,
    ))
}

/// A body within its bound, in memory that is wiped. None if it is longer or breaks off.
async fn whole(body: Body) -> Option<Zeroizing<Vec<u8>>> {
    let mut body = Limited::new(body, BODY_MOST);
    // With its capacity from the start, because growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(BODY_MOST));
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Some(bytes)
}

async fn by_key(
    app: &App,
    from: IpAddr,
    key: &str,
    now: Timestamp,
) -> Result<(OperatorId, Proof), RpcError> {
    let found = app.store.operator_by_key(SecretHash::of(key), now).await;
    if let Some(identity) = found.answered()?
        && let Credential::Key(key) = identity.credential
    {
        return Ok((identity.operator, Proof::Key(key)));
    }
    let refusal = RpcError::unauthenticated(
        "this key is not valid: check that it was copied completely, or create a new one with `fleetctl keys create` or `fleetd admin create-key`",
    ).with_reason("CREDENTIAL_INVALID");
    Err(attempt(None, from, String::new())
        .refused(&app.auditor, refusal)
        .await)
}

/// The account and its stored password, if the password matches. An unknown e-mail, an account without a password, an
/// expired one-time password and a wrong password get the same answer, after the same work.
async fn by_password(
    app: &App,
    origin: Origin,
    name: Name,
    password: Zeroizing<String>,
    now: Timestamp,
) -> Result<(Account, PasswordHash), RpcError> {
    let (from, source) = (origin.from, origin.source());
    let org = name.organization.as_deref().map(str::trim);
    let org = org.filter(|org| !org.is_empty() && !org.contains('\0'));
    let email: String = name
        .email
        .trim()
        .to_lowercase()
        .chars()
        // PostgreSQL refuses a text with NUL.
        .filter(|c| *c != '\0')
        .take(EMAIL_MOST)
        .collect();
    // Before the limit, which depends on whether the owner has signed in from here.
    let account = app.store.account_in(org, &email, Some(source));
    let account = account.await.answered()?;
    if let Some(limits) = &app.limiters {
        // An address from which the owner has signed in before has its own allowance.
        let own = account
            .as_ref()
            .is_some_and(|account| account.known_source)
            .then_some(source);
        limits.passwords_of_an_account.allow(
            (&email, own),
            PASSWORDS,
            app.environment.instant(),
        )?;
    }
    let stored = account
        .as_ref()
        .and_then(|account| account.password.clone());
    let presented = Password::presented(password);
    let phc = stored
        .as_ref()
        .filter(|_| presented.is_some())
        .map(|stored| stored.phc.clone());
    let presented = match presented {
        Some(presented) => presented,
        // A text that cannot be a password costs a hash too, so its refusal takes as long.
        None => Password::one_time(&[0; 20]),
    };
    let caller = match &account {
        Some(account) if account.known_source => Source::Known,
        Some(_) | None => Source::New,
    };
    let is_right = app.passwords.verify(presented, phc, caller).await?;
    let accepts = app.config.password_sign_in;
    let is_valid = stored
        .as_ref()
        .is_some_and(|stored| stored.one_time_until.map_or(accepts, |until| until > now));
    let (org, subject) = match &account {
        Some(account) => (
            Some(account.org),
            format!("operator {} ({})", account.operator, account.email),
        ),
        None => (None, format!("e-mail {}", printable(&email, 200))),
    };
    match (account, stored) {
        (Some(account), Some(stored)) if is_right && is_valid => Ok((account, stored)),
        _ => {
            // The same for a right and a wrong password.
            let refusal = if !accepts {
                RpcError::unauthenticated(
                    "this server accepts only one-time passwords of `fleetd admin`: sign in through the sign-in provider, or with a key",
                ).with_reason("PASSWORDS_OFF")
            } else {
                RpcError::unauthenticated(
                "e-mail or password is not right: if the password is forgotten, an administrator can reset it; if several organizations use your e-mail, name yours",
            ).with_reason("SIGN_IN_WRONG")
            };
            Err(attempt(org, from, subject)
                .refused(&app.auditor, refusal)
                .await)
        }
    }
}

/// The refusal of a credential that was valid when it was verified.
fn changed_meanwhile() -> RpcError {
    RpcError::unauthenticated("the credential was changed meanwhile: sign in again")
        .with_reason("CREDENTIAL_INVALID")
}

/// Replaces a one-time password by a chosen one, if nobody has replaced it since it was verified.
async fn exchange(
    app: &App,
    origin: Origin,
    account: &Account,
    one_time: String,
    new: Zeroizing<String>,
    now: Timestamp,
) -> Result<(OperatorId, Proof), RpcError> {
    let new = chosen(new, &account.email)?;
    let verified = app
        .passwords
        .verify(new.clone(), Some(one_time.clone()), Source::Known);
    if verified.await? {
        return Err(RpcError::invalid_argument(
            "the new password is the one-time password: choose another one",
        )
        .with_reason("INVALID_FIELD")
        .with_fact("field", "newPassword"));
    }
    let phc = app.passwords.hash(new, app.environment.random()).await?;
    let password = PasswordHash {
        phc: phc.clone(),
        one_time_until: None,
    };
    let (operator, actor) = (account.operator, author(account.operator, origin.from));
    let replaced = app
        .store
        .replace_password(operator, Some(one_time), password, None, actor, now);
    match replaced.await {
        Err(MemberError::PasswordChanged(_)) => return Err(changed_meanwhile()),
        replaced => replaced.answered()?,
    }
    let source = Some(origin.source());
    Ok((operator, Proof::Password { phc, source }))
}

/// An operator as the author of an action that begins without a credential.
fn author(operator: OperatorId, from: IpAddr) -> Actor {
    Actor {
        principal: Principal::Operator(operator),
        from: Some(from),
    }
}

pub(super) fn attempt(org: Option<OrgId>, from: IpAddr, subject: String) -> Attempt {
    Attempt {
        org,
        ..Attempt::anonymous(from, "operator.sign_in", subject)
    }
}

/// The browser's `User-Agent`, escaped and bounded.
pub(super) fn agent(parts: &Parts) -> String {
    let agent = parts.headers.get(header::USER_AGENT);
    let agent = agent.and_then(|agent| agent.to_str().ok());
    printable(agent.unwrap_or_default(), AGENT_MOST)
}

fn is_json(parts: &Parts) -> bool {
    let value = parts.headers.get(header::CONTENT_TYPE);
    let media = value
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next());
    media.is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"))
}

/// Shows the signed-in operator.
pub(super) async fn show(
    app: &App,
    from: IpAddr,
    parts: &Parts,
) -> Result<Response<Body>, RpcError> {
    let operator = auth::operator(app, &Method::GET, &parts.headers, from).await?;
    caller::mark_known(parts, &operator);
    let _permit = auth::count_operator(app, &operator, false)?;
    let permissions: Vec<_> = Permission::ALL
        .into_iter()
        .filter(|p| operator.role.may(*p))
        .map(Permission::as_str)
        .collect();
    let value = json!({
        "email": operator.email, "organization": operator.org_name, "role": operator.role.as_str(), "permissions": permissions,
        "serverVersion": app.config.version,
    });
    Ok(json(StatusCode::OK, &value))
}

/// Ends the session and clears the cookie.
pub(super) async fn sign_out(
    app: &Arc<App>,
    https: bool,
    from: IpAddr,
    parts: &Parts,
) -> Result<Response<Body>, RpcError> {
    if !parts.headers.contains_key(auth::CSRF_HEADER) {
        return Err(RpcError::unauthenticated(format!(
            "signing out needs the header `{}: 1`",
            auth::CSRF_HEADER
        ))
        .with_reason("CSRF_HEADER_MISSING")
        .with_fact("header", auth::CSRF_HEADER));
    }
    if let Some(token) = auth::cookie(&parts.headers, &app.config) {
        let now = app.environment.now();
        let find = async |hash| app.store.operator_by_session(hash, now).await;
        if let Some(identity) = auth::look_up(app, token, from, find).await? {
            let token = SecretHash::of(token);
            let actor = author(identity.operator, from);
            let closed = app.store.close_browser_session(token, actor, now).await;
            closed.answered()?;
            app.notify_credentials(identity.org);
        }
    }
    Ok(with_cookie(https, "", Duration::ZERO))
}

/// 204 with the session cookie: not readable by scripts (HttpOnly), not sent from other sites (SameSite=Strict), and not
/// sent over plain HTTP where the page uses https.
fn with_cookie(https: bool, value: &str, life: Duration) -> Response<Body> {
    let mut response = respond(StatusCode::NO_CONTENT, "text/plain", Body::empty());
    set_cookie(&mut response, https, value, life);
    response
}

/// Sets the session cookie.
pub(super) fn set_cookie(response: &mut Response<Body>, https: bool, value: &str, life: Duration) {
    let (name, secure) = if https {
        (auth::SECURE_COOKIE, "; Secure")
    } else {
        (auth::PLAIN_COOKIE, "")
    };
    let cookie = format!(
        "{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{secure}",
        life.as_secs()
    );
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}
