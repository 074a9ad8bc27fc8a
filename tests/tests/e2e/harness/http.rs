//! A plain HTTP client: readiness, and a scan as server-sent events (WHATWG HTML, 9.2).

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::within;

/// Returns the status of a GET; `None` if the server does not respond.
pub(crate) async fn status(address: SocketAddr, path: &str) -> Option<StatusCode> {
    get(address, path, &[])
        .await
        .map(|response| response.status())
}

async fn get(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
) -> Option<Response<Incoming>> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .ok()?;
    tokio::spawn(connection);
    let mut request = Request::get(path).header(header::HOST, address.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .expect("a well-formed request");
    sender.send_request(request).await.ok()
}

/// One server-sent event.
#[derive(Debug)]
pub(crate) struct Sent {
    /// `None` for progress events, from which no browser resumes.
    pub(crate) id: Option<i64>,
    pub(crate) data: Value,
}

/// A stream of server-sent events.
#[derive(Debug)]
pub(crate) struct EventSource {
    body: Incoming,
    /// Received bytes that are not parsed yet.
    buffer: Vec<u8>,
}

impl EventSource {
    /// Opens the stream as a browser does that has received the events up to `last`. Returns `None` if the server
    /// responds that there will be no more events.
    pub(crate) async fn open(
        address: SocketAddr,
        key: &str,
        scan: &str,
        last: i64,
    ) -> Option<Self> {
        let path = format!("/api/scans/{scan}/events");
        let bearer = format!("Bearer {key}");
        let last = last.to_string();
        let headers = [
            ("authorization", bearer.as_str()),
            ("accept", "text/event-stream"),
            ("last-event-id", last.as_str()),
        ];
        let response = get(address, &path, &headers)
            .await
            .expect("the server answers");
        if response.status() == StatusCode::NO_CONTENT {
            return None;
        }
        assert_eq!(response.status(), StatusCode::OK, "GET {path}");
        Some(Self {
            body: response.into_body(),
            buffer: Vec::new(),
        })
    }

    /// Returns the next event; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Sent> {
        loop {
            while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let piece: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let sent = parse(std::str::from_utf8(&piece).expect("events are UTF-8"));
                if sent.is_some() {
                    return sent;
                }
            }
            let frame = within("the next piece of the event stream", self.body.frame()).await?;
            let data = frame.expect("the stream holds").into_data();
            self.buffer.extend(data.expect("there are no trailers"));
        }
    }
}

/// A block of comments or `retry` lines is not an event.
fn parse(piece: &str) -> Option<Sent> {
    let field = |name: &str| {
        piece
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    Some(Sent {
        id: field("id").map(|id| id.parse().expect("ids are sequences")),
        data: serde_json::from_str(field("data")?).expect("data is one line of JSON"),
    })
}
