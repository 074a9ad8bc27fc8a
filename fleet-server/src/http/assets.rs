//! The web page: the files of `web/`, embedded in the program.

use std::borrow::Cow;

use bytes::Bytes;
use fleet_wire::server::Body;
use http::{HeaderValue, Method, Response, StatusCode, header, request::Parts};
use rust_embed::{EmbeddedFile, RustEmbed};

use super::response::respond;

#[derive(RustEmbed)]
#[folder = "web/"]
struct Web;

/// Only files of this origin may run, and no page may frame them.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The file of a path, if there is one.
pub(super) fn asset(parts: &Parts) -> Option<Response<Body>> {
    let path = match parts.uri.path().trim_start_matches('/') {
        "" => "index.html",
        path => path,
    };
    let file = Web::get(path)?;
    let tag = tag(&file);
    let current = parts
        .headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = if current {
        respond(StatusCode::NOT_MODIFIED, content_type(path), Body::empty())
    } else if parts.method == Method::HEAD {
        respond(StatusCode::OK, content_type(path), Body::empty())
    } else {
        respond(
            StatusCode::OK,
            content_type(path),
            Body::from(match file.data {
                Cow::Borrowed(data) => Bytes::from_static(data),
                Cow::Owned(data) => Bytes::from(data),
            }),
        )
    };
    let headers = response.headers_mut();
    // Browsers ask at every load, so no page runs old scripts against a new server.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(POLICY),
    );
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    Some(response)
}

/// A tag that changes with the content.
fn tag(file: &EmbeddedFile) -> String {
    let digits: String = file
        .metadata
        .sha256_hash()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("\"{digits}\"")
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("webmanifest") => "application/manifest+json",
        _ => "application/octet-stream",
    }
}
