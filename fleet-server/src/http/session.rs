//! Sign-in of browsers: a key is exchanged for a cookie that no script can read. The key is never in a
//! URL, the cookie never leaves this origin.

use std::{net::IpAddr, time::Duration};

use fleet_core::{Permission, SecretHash, SecretKind};
use fleet_store::{Actor, Who};
use fleet_wire::RpcError;
use http::{HeaderValue, Method, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde_json::json;

use fleet_wire::server::Body;

use super::{json, known, respond};
use crate::{app::App, audit::Attempt, auth, failure::Refusal, limiter};

/// A browser's session ends a working day later.
const SESSION_LIFE: Duration = Duration::from_secs(12 * 3_600);
/// A key in JSON fits many times.
const BODY_MOST: usize = 4_096;
/// A key takes one packet.
const BODY_WITHIN: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignIn {
    key: String,
}

/// Exchanges a key for a session cookie.
pub(super) async fn sign_in(
    app: &App,
    tls: bool,
    from: IpAddr,
    parts: &Parts,
    body: Body,
) -> Result<Response<Body>, RpcError> {
    // No form can send this type: another site cannot sign a browser in as somebody else.
    if !is_json(parts) {
        return Err(RpcError::invalid_argument(
            "a sign-in needs `content-type: application/json`",
        ));
    }
    if let Some(limits) = &app.limiters {
        limits
            .sign_ins
            .take(limiter::source(from))
            .map_err(|wait| {
                RpcError::resource_exhausted(format!(
                    "too many sign-ins: try again in {} s",
                    wait.as_secs() + 1
                ))
                .with_retry_after(wait)
            })?;
    }
    let unreadable = || RpcError::invalid_argument("expected {\"key\": \"fok_...\"} as JSON");
    let whole = tokio::time::timeout(BODY_WITHIN, Limited::new(body, BODY_MOST).collect())
        .await
        .map_err(|_| RpcError::deadline_exceeded("the request did not arrive in time"))?;
    let bytes = whole.map_err(|_| unreadable())?.to_bytes();
    let SignIn { key } = serde_json::from_slice(&bytes).map_err(|_| unreadable())?;
    let now = app.environment.now();
    let Some(identity) = app
        .store
        .operator_by_key(SecretHash::of(&key))
        .await
        .map_err(Refusal::refusal)?
    else {
        let attempt = Attempt {
            org: None,
            actor: Actor {
                who: Who::Anonymous,
                from: Some(from),
            },
            action: "operator.sign_in",
            subject: String::new(),
        };
        let refusal = RpcError::unauthenticated(
            "this key is not valid: check that it was copied whole, or make a new one with `fleetd admin create-key`",
        );
        return Err(attempt.refused(app, refusal).await);
    };
    let token = app.environment.secret(SecretKind::OperatorSession);
    let actor = Actor {
        who: Who::Operator(identity.operator),
        from: Some(from),
    };
    app.store
        .open_operator_session(&identity, token.hash(), now.plus(SESSION_LIFE), actor, now)
        .await
        .map_err(Refusal::refusal)?;
    Ok(with_cookie(app, tls, token.expose(), SESSION_LIFE))
}

fn is_json(parts: &Parts) -> bool {
    let value = parts.headers.get(header::CONTENT_TYPE);
    let media = value
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next());
    media.is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"))
}

/// Who is signed in.
pub(super) async fn show(app: &App, parts: &Parts) -> Result<Response<Body>, RpcError> {
    let operator = auth::operator(app, &Method::GET, &parts.headers).await?;
    known(parts);
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

/// Ends the session and takes the cookie back.
pub(super) async fn sign_out(
    app: &App,
    tls: bool,
    parts: &Parts,
) -> Result<Response<Body>, RpcError> {
    if !parts.headers.contains_key(auth::CSRF_HEADER) {
        return Err(RpcError::unauthenticated(format!(
            "signing out needs the header `{}: 1`",
            auth::CSRF_HEADER
        )));
    }
    if let Some(token) = auth::cookie(&parts.headers) {
        app.store
            .close_operator_session(SecretHash::of(token))
            .await
            .map_err(Refusal::refusal)?;
    }
    Ok(with_cookie(app, tls, "", Duration::ZERO))
}

/// 204 with the session cookie: unreadable for scripts (HttpOnly), never sent from another site
/// (SameSite=Strict), never over plain HTTP where https is spoken.
fn with_cookie(app: &App, tls: bool, value: &str, life: Duration) -> Response<Body> {
    let secure = if tls || app.config.public_https {
        "; Secure"
    } else {
        ""
    };
    let cookie = format!(
        "{}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{secure}",
        auth::COOKIE,
        life.as_secs()
    );
    let mut response = respond(StatusCode::NO_CONTENT, "text/plain", Body::empty());
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}
