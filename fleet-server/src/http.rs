//! Requests that are not RPCs: the web page, sign-in, event streams, health.

mod assets;
mod caller;
mod events;
mod exports;
mod lists;
mod response;
mod session;
mod sign_in;

use std::sync::Arc;

use fleet_wire::{Peer, RpcError, server::Body};
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use response::{failed, respond, text};
use session::Origin;

use crate::{
    app::App,
    auth::{self, client_address},
    convert,
};

/// Browsers that reached the page by https use nothing else for a year (RFC 6797). Other hosts under the domain are
/// not this server's to decide for, so that `includeSubDomains` is absent.
const HSTS: &str = "max-age=31536000";

/// Answers a plain request. Only the sign-in reads the body, up to a bound.
pub(crate) async fn answer(app: Arc<App>, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let peer = parts.extensions.get::<Peer>().copied();
    let https = app.config.public_https || peer.is_some_and(|peer| peer.tls);
    let (peer, proxies) = (auth::address(peer), &app.config.trusted_proxies);
    app.undeclared_proxies.check(peer, &parts.headers, proxies);
    let from = client_address(peer, &parts.headers, proxies);
    let claimed = auth::claimed_address(peer, &parts.headers, proxies);
    let path: Vec<&str> = parts
        .uri
        .path()
        .trim_start_matches('/')
        .split('/')
        .collect();
    let result = match (&parts.method, path.as_slice()) {
        (&Method::GET | &Method::HEAD, ["healthz"]) => Ok(text(StatusCode::OK, "ok\n")),
        (&Method::GET | &Method::HEAD, ["readyz"]) => Ok(ready(&app).await),
        (&Method::POST, ["api", "session"]) => {
            let origin = Origin { from, claimed };
            let opened = session::sign_in(&app, https, origin, &parts, body).await;
            app.metrics.sign_in(opened.is_ok());
            opened
        }
        (&Method::GET, ["api", "sign-in"]) => Ok(sign_in::methods(&app)),
        (&Method::GET, ["api", "sign-in", "provider"]) => {
            let origin = Origin { from, claimed };
            sign_in::begin(&app, https, origin, &parts).await
        }
        (&Method::GET, ["api", "sign-in", "callback"]) => {
            let origin = Origin { from, claimed };
            sign_in::finish(&app, https, origin, &parts).await
        }
        (&Method::GET, ["api", "session"]) => session::show(&app, from, &parts).await,
        (&Method::DELETE, ["api", "session"]) => session::sign_out(&app, https, from, &parts).await,
        (&Method::GET, ["api", "scans", scan, "events"]) => {
            events::stream(&app, from, &parts, scan).await
        }
        (&Method::GET, ["api", "export", file]) => lists::export(&app, from, &parts, file).await,
        (&Method::GET, ["api", "openapi.json"]) => Ok(respond(
            StatusCode::OK,
            "application/json",
            Body::from(fleet_wire::OPENAPI),
        )),
        (&Method::GET, ["api", "prometheus", "targets"]) => {
            lists::targets(&app, from, &parts).await
        }
        (
            &Method::GET,
            [
                "api",
                "scans",
                scan,
                file @ ("difference.csv" | "difference.json" | "difference.ndjson"),
            ],
        ) => exports::difference(&app, from, &parts, scan, file).await,
        (
            &Method::GET,
            [
                "api",
                "scans",
                scan,
                file @ ("hosts.csv" | "hosts.json" | "hosts.ndjson"),
            ],
        ) => lists::hosts(&app, from, &parts, scan, file).await,
        (&Method::GET | &Method::HEAD, _) => {
            assets::asset(&parts).ok_or_else(|| not_served(&parts))
        }
        _ => Err(RpcError::not_found(format!(
            "nothing accepts {} at {}",
            parts.method,
            parts.uri.path()
        ))
        .with_reason("PATH_NOT_FOUND")
        .with_fact("path", shown_path(&parts))
        .with_fact("method", &parts.method)),
    };
    let mut response = result.unwrap_or_else(|error| failed(&error));
    if https {
        response.headers_mut().insert(
            header::STRICT_TRANSPORT_SECURITY,
            HeaderValue::from_static(HSTS),
        );
    }
    response
}

/// The refusal of a path that is not served.
fn not_served(parts: &Parts) -> RpcError {
    RpcError::not_found(format!("nothing is served at {}", parts.uri.path()))
        .with_reason("PATH_NOT_FOUND")
        .with_fact("path", shown_path(parts))
}

/// The path of a request for an error, bounded.
fn shown_path(parts: &Parts) -> String {
    convert::printable(parts.uri.path(), 256)
}

/// Ready: the database answers and the server does not shut down.
async fn ready(app: &App) -> Response<Body> {
    if app.drain.is_cancelled() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
    }
    if app.readiness.is_ready().await {
        return text(StatusCode::OK, "ready\n");
    }
    text(
        StatusCode::SERVICE_UNAVAILABLE,
        "the database does not answer\n",
    )
}
