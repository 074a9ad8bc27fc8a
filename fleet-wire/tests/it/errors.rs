//! Every error states its reason in each protocol, also those that the RPC engine raises by itself.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD},
};
use bytes::Bytes;
use fleet_wire::{
    Code, Message, Protocol,
    fleet::{ScanClient, WatchScanRequest},
    gateway::FleetNodeGatewayClient,
    limits,
};
use http::{Method, Request};
use tokio::net::TcpStream;

use crate::harness::{Server, TOKEN, heartbeat, register, signed_in};

/// A protocol and a procedure that is called by it.
struct Call {
    protocol: &'static str,
    path: &'static str,
    content_type: &'static str,
    /// The header that names the compression.
    encoding: &'static str,
    /// Whether envelopes precede messages.
    framed: bool,
    message: Vec<u8>,
    limit: usize,
}

fn calls() -> [Call; 4] {
    let unary = |protocol, content_type, encoding, framed| Call {
        protocol,
        path: FleetNodeGatewayClient::REGISTER.path(),
        content_type,
        encoding,
        framed,
        message: register("a").encode_to_vec(),
        limit: limits::request_limit(&FleetNodeGatewayClient::REGISTER),
    };
    [
        unary("connect", "application/proto", "content-encoding", false),
        Call {
            protocol: "connect stream",
            path: ScanClient::WATCH_SCAN.path(),
            content_type: "application/connect+proto",
            encoding: "connect-content-encoding",
            framed: true,
            message: WatchScanRequest::default().encode_to_vec(),
            limit: limits::request_limit(&ScanClient::WATCH_SCAN),
        },
        unary("grpc", "application/grpc", "grpc-encoding", true),
        unary("grpc-web", "application/grpc-web", "grpc-encoding", true),
    ]
}

impl Call {
    fn body(&self, flags: u8, message: &[u8]) -> Vec<u8> {
        if !self.framed {
            return message.to_vec();
        }
        let length = u32::try_from(message.len()).expect("a short message");
        [&[flags], &length.to_be_bytes()[..], message].concat()
    }
}

/// Sends a request as it is written, and returns its HTTP status and the details of its error, decoded from base64.
async fn answer(
    server: &Server,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> (u16, Vec<u8>) {
    let tcp = TcpStream::connect(server.address).await;
    let (mut client, connection) = h2::client::handshake(tcp.expect("the server listens"))
        .await
        .expect("speaks HTTP/2");
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://{}{path}", server.address))
        .header("authorization", format!("Bearer {TOKEN}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(()).expect("a good request");
    let (response, mut sending) = client.send_request(request, false).expect("sent");
    // The server may have answered already.
    let _ = sending.send_data(Bytes::from(body), true);
    let mut response = response.await.expect("a response");
    let status = response.status().as_u16();
    let mut text = Vec::new();
    while let Some(data) = response.body_mut().data().await {
        let data = data.expect("data");
        let _ = response
            .body_mut()
            .flow_control()
            .release_capacity(data.len());
        text.extend_from_slice(&data);
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    let trailers = response.body_mut().trailers().await.expect("an end");
    let trailer = trailers
        .as_ref()
        .and_then(|all| all.get("grpc-status-details-bin"));
    let encoded = match trailer {
        Some(details) => details.to_str().expect("base64").to_owned(),
        None => {
            let web = text.split_once("grpc-status-details-bin: ");
            let web = web.and_then(|(_, rest)| rest.split_once("\r\n"));
            let json = text.split_once("\"value\":\"");
            let json = json.and_then(|(_, rest)| rest.split_once('"'));
            let found = web.or(json);
            found.map(|(found, _)| found.to_owned()).unwrap_or_default()
        }
    };
    let details = STANDARD_NO_PAD
        .decode(&encoded)
        .or_else(|_| STANDARD.decode(&encoded));
    (status, details.unwrap_or_default())
}

fn has(details: &[u8], word: &str) -> bool {
    details
        .windows(word.len())
        .any(|part| part == word.as_bytes())
}

fn states(server: &Server, what: &str, answer: (u16, Vec<u8>), reason: &str) {
    let (status, details) = answer;
    let shown = String::from_utf8_lossy(&details);
    assert!(
        has(&details, reason) && has(&details, "fleet"),
        "{what}: status {status}, {shown:?} instead of {reason}"
    );
    assert!(!server.running.is_finished());
}

#[tokio::test]
async fn errors_of_the_engine_state_their_reason_in_every_protocol() {
    let server = Server::start().await;
    for call in calls() {
        let kind = ("content-type", call.content_type);
        let good = call.body(0, &call.message);
        let large = call.body(0, &vec![0; call.limit + 1]);
        let mut cases = vec![
            (
                "an unknown compression",
                call.path,
                Some("br"),
                good,
                "ENCODING_UNKNOWN",
            ),
            ("too large", call.path, None, large, "MESSAGE_TOO_LARGE"),
            (
                "not compressed",
                call.path,
                Some("gzip"),
                call.body(1, b"garbage"),
                "INVALID_MESSAGE",
            ),
            (
                "no message",
                call.path,
                None,
                call.body(0, b"\x01garbage"),
                "INVALID_MESSAGE",
            ),
            (
                "an unknown procedure",
                "/fleet.v1.ScanService/Nothing",
                None,
                Vec::new(),
                "UNIMPLEMENTED",
            ),
        ];
        if call.framed {
            let cut = vec![0, 0, 0, 0, 9, 1];
            cases.push(("a cut envelope", call.path, None, cut, "INVALID_MESSAGE"));
            cases.push((
                "an empty body",
                call.path,
                None,
                Vec::new(),
                "INVALID_MESSAGE",
            ));
        }
        for (what, path, encoding, body, reason) in cases {
            let mut headers = vec![kind];
            headers.extend(encoding.map(|encoding| (call.encoding, encoding)));
            let answer = answer(&server, Method::POST, path, &headers, body).await;
            let what = format!("{what}, {}", call.protocol);
            states(&server, &what, answer, reason);
        }
    }
}

#[tokio::test]
async fn requests_that_belong_to_no_protocol_get_a_reason_too() {
    let server = Server::start().await;
    let path = FleetNodeGatewayClient::REGISTER.path();
    for (method, headers, body, status, reason) in [
        (Method::POST, vec![], "{}", 415, "CONTENT_TYPE_UNKNOWN"),
        (
            Method::POST,
            vec![("content-type", "text/html")],
            "{}",
            415,
            "CONTENT_TYPE_UNKNOWN",
        ),
        (
            Method::POST,
            vec![("content-type", "application/grpc+thrift")],
            "",
            200,
            "CONTENT_TYPE_UNKNOWN",
        ),
        (Method::GET, vec![], "", 405, "METHOD_NOT_ALLOWED"),
        (
            Method::POST,
            vec![("content-type", "application/json")],
            "{\"name\": 5",
            400,
            "INVALID_MESSAGE",
        ),
        (
            Method::POST,
            vec![
                ("content-type", "application/json"),
                ("connect-protocol-version", "2"),
            ],
            "{}",
            400,
            "INVALID_MESSAGE",
        ),
    ] {
        let what = format!("{method} {headers:?}");
        let answer = answer(&server, method, path, &headers, body.into()).await;
        assert_eq!(answer.0, status, "{what}");
        states(&server, &what, answer, reason);
    }
}

/// The client reads the reason and its facts from each protocol.
#[tokio::test]
async fn a_client_reads_the_reason_of_a_message_that_is_too_large() {
    let server = Server::start().await;
    let limit = limits::request_limit(&FleetNodeGatewayClient::UPLOAD_HEARTBEAT);
    let mut large = heartbeat();
    large.halt_reason = "x".repeat(limit);
    for protocol in [Protocol::Connect, Protocol::Grpc, Protocol::GrpcWeb] {
        let client = FleetNodeGatewayClient::new(server.channel("http", protocol));
        let refused = client.upload_heartbeat(&large, signed_in()).await;
        let error = refused.expect_err("it is too large");
        assert_eq!(error.code, Code::ResourceExhausted, "{protocol:?}: {error}");
        assert_eq!(error.reason().as_deref(), Some("MESSAGE_TOO_LARGE"));
        assert_eq!(error.facts().get("limit"), Some(&limit.to_string()));
        assert!(!error.message.is_empty());
    }
}
