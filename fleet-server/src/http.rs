//! Everything on the port that is not an RPC: the web page, sign-in, event streams, health.

mod assets;
mod events;
mod session;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use fleet_wire::{Code, Peer, RpcError, listener::ConnectionGuard, server::Body};
use http::{Method, Request, Response, StatusCode, header, request::Parts};

use crate::{app::App, auth::client_address};

/// What a plain request needs of its connection.
#[derive(Clone, Copy, Debug)]
struct Origin {
    peer: IpAddr,
    tls: bool,
}

impl Origin {
    /// Unspecified where the service is mounted without our listener.
    fn of(request: &Request<Body>) -> Self {
        match request.extensions().get::<Peer>() {
            Some(peer) => Self {
                peer: peer.address.ip(),
                tls: peer.tls,
            },
            None => Self {
                peer: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                tls: false,
            },
        }
    }
}

/// Notes that a request came from somebody who is known, so that its connection may stay.
fn known(parts: &Parts) {
    if let Some(connection) = parts.extensions.get::<ConnectionGuard>() {
        connection.mark_authenticated();
    }
}

/// Answers a plain request. `body` is read by the sign-in only, up to a bound.
pub(crate) async fn answer(app: Arc<App>, request: Request<Body>) -> Response<Body> {
    let origin = Origin::of(&request);
    let (parts, body) = request.into_parts();
    let from = client_address(origin.peer, &parts.headers, &app.config.trusted_proxies);
    let path: Vec<&str> = parts
        .uri
        .path()
        .trim_start_matches('/')
        .split('/')
        .collect();
    let result = match (&parts.method, path.as_slice()) {
        (&Method::GET, ["healthz"]) => Ok(text(StatusCode::OK, "ok\n")),
        (&Method::GET, ["readyz"]) => Ok(ready(&app).await),
        (&Method::POST, ["api", "session"]) => {
            session::sign_in(&app, origin.tls, from, &parts, body).await
        }
        (&Method::GET, ["api", "session"]) => session::show(&app, &parts).await,
        (&Method::DELETE, ["api", "session"]) => {
            session::sign_out(&app, origin.tls, from, &parts).await
        }
        (&Method::GET, ["api", "scans", scan, "events"]) => {
            events::stream(&app, &parts, scan).await
        }
        (&Method::GET | &Method::HEAD, _) => assets::asset(&parts).ok_or_else(|| {
            RpcError::not_found(format!("nothing is served at {}", parts.uri.path()))
        }),
        _ => Err(RpcError::not_found(format!(
            "nothing takes {} at {}",
            parts.method,
            parts.uri.path()
        ))),
    };
    result.unwrap_or_else(|error| failed(&error))
}

/// Ready: the database answers and the server is not going down.
async fn ready(app: &App) -> Response<Body> {
    if app.drain.is_cancelled() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
    }
    match app.store.ping().await {
        Ok(()) => text(StatusCode::OK, "ready\n"),
        Err(error) => {
            tracing::warn!(%error, "not ready");
            text(
                StatusCode::SERVICE_UNAVAILABLE,
                "the database does not answer\n",
            )
        }
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    respond(status, "text/plain; charset=utf-8", Body::from(text))
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    respond(status, "application/json", Body::from(value.to_string()))
}

/// A response that nothing caches and no browser guesses at.
fn respond(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    headers.insert(
        header::CACHE_CONTROL,
        header::HeaderValue::from_static("no-store"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        header::HeaderValue::from_static("nosniff"),
    );
    response
}

/// An error as Connect spells it, so that clients read one shape everywhere.
fn failed(error: &RpcError) -> Response<Body> {
    let status = match error.code {
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::REQUEST_TIMEOUT,
        Code::Canceled
        | Code::Unknown
        | Code::AlreadyExists
        | Code::Aborted
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut response = json(
        status,
        &serde_json::json!({ "code": error.code.as_str(), "message": error.message }),
    );
    if let Some(wait) = error.retry_after() {
        // Whole seconds (RFC 9110, 10.2.3), never too early.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}
