//! A scan as server-sent events (WHATWG HTML, 9.2). Each event is one JSON object whose id is the sequence, which lets a
//! browser resume by itself.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use fleet_core::Permission;
use fleet_wire::{RpcError, lines, server::Body};
use futures::StreamExt;
use http::{HeaderValue, Response, StatusCode, request::Parts};
use http_body::Frame;
use http_body_util::StreamBody;

use super::{caller, response::respond};
use crate::{
    app::App,
    auth, convert,
    failure::Refusal,
    scans,
    watch::{self, Item, WatchError},
};

/// Streams a scan's events after `Last-Event-ID`, or after the query's `after`.
pub(super) async fn stream(
    app: &Arc<App>,
    from: IpAddr,
    parts: &Parts,
    scan: &str,
) -> Result<Response<Body>, RpcError> {
    let operator = caller::operator(app, parts, from).await?;
    caller::mark_known(parts, &operator);
    auth::permit(app, &operator, Permission::NodeRead, parts.uri.path(), from).await?;
    let permit = auth::count_operator(app, &operator, true)?;
    let scan = convert::id("scan_id", scan)?;
    let after = cursor(parts)?;
    let row = scans::get(app, operator.org, scan).await?;
    if after > row.last_sequence {
        // Refused before the stream begins, because a browser retries a broken stream forever.
        let ahead = WatchError::Ahead {
            scan,
            after,
            newest: row.last_sequence,
        };
        return Err(ahead.refusal());
    }
    if row.state.is_terminal() && after == row.last_sequence {
        // No content, which browsers do not reconnect to (WHATWG HTML, 9.2.3).
        return Ok(respond(
            StatusCode::NO_CONTENT,
            "text/event-stream",
            Body::empty(),
        ));
    }
    let items = watch::watch(app.clone(), operator.org, scan, after);
    let items = items.map(|item| item.map_err(Refusal::refusal));
    let items = auth::while_permitted(app.clone(), &operator, Permission::NodeRead, items);
    let pieces = items.map(move |item| match item {
        Ok(item) => piece(item),
        // The stream ends without an error event. The browser reconnects with its last id and gets the error then.
        Err(error) => {
            tracing::debug!(%scan, %error, "an event stream ended early");
            Bytes::new()
        }
    });
    let begin = futures::stream::iter([Bytes::from_static(b": scan events\nretry: 1000\n\n")]);
    let pieces = begin.chain(pieces.take_while(|piece| std::future::ready(!piece.is_empty())));
    let frames = pieces.map(move |piece| {
        // Counted until the stream is dropped.
        let _ = &permit;
        Ok::<_, std::convert::Infallible>(Frame::data(piece))
    });
    let mut response = respond(
        StatusCode::OK,
        "text/event-stream",
        Body::new(StreamBody::new(frames)),
    );
    // nginx and others would hold events back until their buffer is full.
    let headers = response.headers_mut();
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// The sequence to start after.
fn cursor(parts: &Parts) -> Result<i64, RpcError> {
    let header = parts
        .headers
        .get("last-event-id")
        .map(|value| value.to_str().unwrap_or("?"));
    let query = parts
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .find_map(|pair| pair.strip_prefix("after="));
    let text = header.or(query).unwrap_or("0");
    text.parse()
        .ok()
        .filter(|after| *after >= 0)
        .ok_or_else(|| {
            RpcError::invalid_argument(format!(
                "`{}` is not the sequence of an event: give 0 or the id of an event",
                text.escape_debug().take(32).collect::<String>()
            ))
            .with_reason("INVALID_FIELD")
            .with_fact("field", "after")
            .with_fact("value", convert::printable(text, 32))
        })
}

fn piece(item: Item) -> Bytes {
    let message = watch::message(item);
    match lines::line(&message) {
        None => Bytes::from_static(b": alive\n\n"),
        // Progress is not part of the log: it must not change the id from which a browser resumes.
        Some(line) if message.sequence == 0 => Bytes::from(format!("data: {line}\n\n")),
        Some(line) => Bytes::from(format!("id: {}\ndata: {line}\n\n", message.sequence)),
    }
}
