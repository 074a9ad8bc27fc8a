//! Streams: down, both ways, their ends, and what goes wrong in the middle.

use std::time::Duration;

use fleet_wire::{
    Code, Protocol,
    client::{Channel, ChannelConfig, Incoming, Outgoing},
    fleet::{ScanClient, WatchScanRequest, WatchScanResponse},
    gateway::{
        ControlStreamRequest, ControlStreamResponse, FleetNodeGatewayClient,
        control_stream_request, control_stream_response,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::harness::{Server, ack, signed_in};

const PROTOCOLS: [Protocol; 3] = [Protocol::Connect, Protocol::Grpc, Protocol::GrpcWeb];

async fn watch(
    server: &Server,
    scheme: &str,
    protocol: Protocol,
    scan: &str,
) -> Incoming<WatchScanResponse> {
    let request = WatchScanRequest {
        scan_id: scan.to_owned(),
        after_sequence: 0,
    };
    ScanClient::new(server.channel(scheme, protocol))
        .watch_scan(&request, signed_in())
        .await
        .expect("opened")
}

async fn sequences(incoming: &mut Incoming<WatchScanResponse>, count: usize) -> Vec<i64> {
    let mut seen = Vec::new();
    while seen.len() < count {
        seen.push(
            incoming
                .message()
                .await
                .expect("no error yet")
                .expect("no end yet")
                .sequence,
        );
    }
    seen
}

async fn control(
    server: &Server,
    scheme: &str,
) -> (
    Outgoing<ControlStreamRequest>,
    Incoming<ControlStreamResponse>,
) {
    FleetNodeGatewayClient::new(server.channel(scheme, Protocol::Connect))
        .control_stream(signed_in())
        .await
        .expect("opened")
}

/// The id of the next command, and how many bad messages the handler had met.
async fn command(incoming: &mut Incoming<ControlStreamResponse>) -> (String, usize) {
    match incoming
        .message()
        .await
        .expect("no error yet")
        .expect("no end yet")
        .kind
    {
        Some(control_stream_response::Kind::Command(c)) => (c.command_id, c.payload.len()),
        other => panic!("not a command: {other:?}"),
    }
}

#[tokio::test]
async fn every_protocol_carries_a_server_stream_to_its_end() {
    let server = Server::start().await;
    for protocol in PROTOCOLS {
        for scheme in ["http", "https"] {
            let mut incoming = watch(&server, scheme, protocol, "s").await;
            assert_eq!(
                incoming
                    .headers()
                    .and_then(|h| h.get("fleet-scan-id"))
                    .map(|v| v.as_bytes()),
                Some(&b"s-2"[..])
            );
            assert_eq!(sequences(&mut incoming, 3).await, [1, 2, 3]);
            assert_eq!(incoming.message().await.expect("ended well"), None);
        }
    }
}

#[tokio::test]
async fn an_error_in_a_server_stream_comes_after_its_messages_and_stays() {
    let server = Server::start().await;
    for protocol in PROTOCOLS {
        let mut incoming = watch(&server, "http", protocol, "fail").await;
        assert_eq!(sequences(&mut incoming, 3).await, [1, 2, 3]);
        for _ in 0..2 {
            let error = incoming.message().await.expect_err("scripted to fail");
            assert_eq!(
                (error.code, error.message.as_str()),
                (Code::OutOfRange, "older than the log")
            );
        }
    }
}

#[tokio::test]
async fn messages_arrive_while_the_stream_is_open_and_leaving_drops_the_handler() {
    let server = Server::start().await;
    for protocol in PROTOCOLS {
        let mut incoming = watch(&server, "http", protocol, "open").await;
        assert_eq!(sequences(&mut incoming, 3).await, [1, 2, 3]);
        server.scripted.alive.reaches(1).await;
        drop(incoming);
        server.scripted.alive.reaches(0).await;
    }
}

#[tokio::test]
async fn a_deadline_ends_a_stream_and_no_stream_has_one_by_default() {
    let server = Server::start().await;
    for protocol in PROTOCOLS {
        let request = WatchScanRequest {
            scan_id: "open".to_owned(),
            after_sequence: 0,
        };
        let options = signed_in().timeout(Duration::from_millis(100));
        let mut incoming = ScanClient::new(server.channel("http", protocol))
            .watch_scan(&request, options)
            .await
            .expect("opened");
        assert_eq!(sequences(&mut incoming, 3).await, [1, 2, 3]);
        assert_eq!(
            incoming.message().await.expect_err("cut").code,
            Code::DeadlineExceeded
        );
        server.scripted.alive.reaches(0).await;
    }
}

#[tokio::test]
async fn a_bidirectional_stream_answers_each_message_on_arrival() {
    let server = Server::start().await;
    for scheme in ["http", "https"] {
        let (mut outgoing, mut incoming) = control(&server, scheme).await;
        for i in 0..100 {
            outgoing.send(&ack(&i.to_string())).await.expect("sent");
            assert_eq!(command(&mut incoming).await, (i.to_string(), 0));
        }
        drop(outgoing);
        assert_eq!(incoming.message().await.expect("ended well"), None);
        server.scripted.alive.reaches(0).await;
    }
}

#[tokio::test]
async fn a_bad_message_is_an_item_of_its_own_and_the_stream_lives() {
    let server = Server::start().await;
    let (mut outgoing, mut incoming) = control(&server, "http").await;
    let mut oversized = ack("big");
    if let Some(control_stream_request::Kind::Ack(ack)) = &mut oversized.kind {
        ack.payload = vec![0; (1 << 20) + 1].into();
    }
    outgoing.send(&oversized).await.expect("sent");
    outgoing.send(&ack("")).await.expect("sent");
    outgoing.send(&ack(&"é".repeat(129))).await.expect("sent");
    outgoing.send(&ack(&"é".repeat(128))).await.expect("sent");
    assert_eq!(command(&mut incoming).await, ("é".repeat(128), 3));
}

#[tokio::test]
async fn an_error_or_a_panic_in_mid_stream_reaches_the_client() {
    let server = Server::start().await;
    for (id, code, message) in [
        ("refuse", Code::FailedPrecondition, "refused"),
        ("panic", Code::Internal, "internal error"),
    ] {
        let (mut outgoing, mut incoming) = control(&server, "http").await;
        outgoing.send(&ack("1")).await.expect("sent");
        command(&mut incoming).await;
        outgoing.send(&ack(id)).await.expect("sent");
        let error = incoming.message().await.expect_err("scripted to fail");
        assert_eq!((error.code, error.message.as_str()), (code, message));
        server.scripted.alive.reaches(0).await;
    }
}

#[tokio::test]
async fn a_stream_without_a_session_is_refused() {
    let server = Server::start().await;
    let client = FleetNodeGatewayClient::new(server.channel("http", Protocol::Connect));
    let (_outgoing, mut incoming) = client
        .control_stream(fleet_wire::client::CallOptions::new())
        .await
        .expect("opened");
    let error = incoming
        .message()
        .await
        .expect_err("refused while the stream is open");
    assert_eq!(error.code, Code::Unauthenticated);
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_middle_of_an_answer_makes_it_unavailable() {
    // One message of a watch, and then no more: neither its end nor that of the chunked body.
    const BEGUN: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/connect+proto\r\ntransfer-encoding: chunked\r\n\r\n7\r\n\0\0\0\0\x02\x08\x07\r\n";
    // The end of the body, but not that of the stream.
    const CUT: &[u8] = b"0\r\n\r\n";
    for answer in [BEGUN.to_vec(), [BEGUN, CUT].concat()] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let dies = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a call");
            let mut request = [0; 4_096];
            let read = stream.read(&mut request).await.expect("a request");
            assert!(read > 0, "somebody asks");
            stream.write_all(&answer).await.expect("written");
        });
        let channel = Channel::new(&url, &ChannelConfig::default()).expect("a channel");
        let request = WatchScanRequest::default();
        let opened = ScanClient::new(channel)
            .watch_scan(&request, signed_in())
            .await;
        let mut incoming = opened.expect("opened");
        assert_eq!(sequences(&mut incoming, 1).await, [7]);
        dies.await.expect("no panic");
        let error = incoming.message().await.expect_err("no end");
        assert_eq!(error.code, Code::Unavailable, "{error:?}");
    }
}
