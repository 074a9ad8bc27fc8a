//! The web page: the files of `web/`, embedded in the program.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::Write,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use fleet_wire::server::Body;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use rust_embed::{EmbeddedFile, RustEmbed};

use super::response::respond;

#[derive(RustEmbed)]
#[folder = "web/"]
struct Web;

/// More than the files of the page.
const FILES_MOST: usize = 256;

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
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|known| known.to_str().ok())
        .any(|known| is_listed(&tag, known));
    let compressed = accepts_gzip(&parts.headers).then(|| compressed(path, &file));
    let zipped = compressed.is_some();
    let status = if current {
        StatusCode::NOT_MODIFIED
    } else {
        StatusCode::OK
    };
    let body = if current || parts.method == Method::HEAD {
        Body::empty()
    } else {
        Body::from(compressed.unwrap_or_else(|| match file.data {
            Cow::Borrowed(data) => Bytes::from_static(data),
            Cow::Owned(data) => Bytes::from(data),
        }))
    };
    let mut response = respond(status, content_type(path), body);
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if zipped && !current {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
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

/// Whether `If-None-Match` lists the tag. Tags are compared weakly (RFC 9110, 13.1.2), because proxies that compress
/// make them weak.
fn is_listed(tag: &str, known: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    known
        .split(',')
        .any(|known| known.trim() == "*" || opaque(known) == opaque(tag))
}

/// Whether the client takes gzip (RFC 9110, 12.5.3).
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let refused = matches!(weight.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000");
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

/// The file in gzip. Each version of a file is compressed once.
fn compressed(path: &str, file: &EmbeddedFile) -> Bytes {
    static DONE: Mutex<BTreeMap<[u8; 32], Bytes>> = Mutex::new(BTreeMap::new());
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    // In debug builds, files can change while the server runs.
    if done.len() > FILES_MOST {
        done.clear();
    }
    let zip = || {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        match encoder
            .write_all(&file.data)
            .and_then(|()| encoder.finish())
        {
            Ok(zipped) => Bytes::from(zipped),
            Err(error) => {
                // Writing to memory does not fail.
                tracing::error!(path, %error, "a file cannot be compressed");
                Bytes::new()
            }
        }
    };
    done.entry(file.metadata.sha256_hash())
        .or_insert_with(zip)
        .clone()
}

/// A tag that changes with the content. It is weak: the file and its compressed form have the same.
fn tag(file: &EmbeddedFile) -> String {
    let digits: String = file
        .metadata
        .sha256_hash()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("W/\"{digits}\"")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_weakly() {
        for known in [r#""a""#, r#"W/"a""#, r#""x", W/"a""#, "*"] {
            assert!(is_listed(r#"W/"a""#, known), "{known}");
        }
        assert!(!is_listed(r#"W/"a""#, r#""b", W/"c""#));
    }

    #[test]
    fn gzip_is_sent_only_to_clients_that_take_it() {
        for (accepted, expected) in [
            ("gzip, deflate, br", true),
            ("br, GZIP;q=0.5", true),
            ("gzip;q=0, br", false),
            ("identity", false),
        ] {
            let value = HeaderValue::from_static(accepted);
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, value)]);
            assert_eq!(accepts_gzip(&headers), expected, "{accepted}");
        }
    }
}
