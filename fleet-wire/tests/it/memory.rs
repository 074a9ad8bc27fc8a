//! The memory of request bodies over all connections: what a caller that takes too much gets, and what others get.

use std::{convert::Infallible, net::IpAddr};

use bytes::Bytes;
use fleet_wire::{
    Message, Method, Peer,
    gateway::{FleetNodeGatewayClient, ReportDiscoveredDevicesRequest},
    server::{Body, BodyLimits, HttpService},
};
use futures::{StreamExt, channel::mpsc, future};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tower::ServiceExt;

use crate::harness::*;

const LIMITS: BodyLimits = BodyLimits {
    ordinary: 4 << 20,
    ordinary_share: 1 << 20,
    bulk: 3 << 20,
    bulk_share: 2 << 20,
};
const REPORT: Method = FleetNodeGatewayClient::REPORT_DISCOVERED_DEVICES;
const HOSTILE: [u8; 4] = [192, 0, 2, 1];
const OTHER: [u8; 4] = [192, 0, 2, 2];
/// The gzip form of no bytes (RFC 1952).
const NOTHING: [u8; 20] = [
    0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// The requests of one test, which need no connection.
struct Server(HttpService);

impl Server {
    fn new(limits: BodyLimits) -> Self {
        Self(services_within(&Scripted::default(), limits).0)
    }

    /// Starts a call whose body is what the returned sender sends.
    fn call(
        &self,
        from: [u8; 4],
        method: &Method,
        headers: &[(&str, &str)],
    ) -> (
        mpsc::UnboundedSender<Bytes>,
        impl Future<Output = Response<Body>> + Send + use<>,
    ) {
        let (sender, body) = mpsc::unbounded();
        let mut request = Request::post(method.path())
            .header("authorization", format!("Bearer {TOKEN}"))
            .extension(Peer {
                address: (IpAddr::from(from), 1).into(),
                tls: false,
            });
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = StreamBody::new(body.map(|piece| Ok::<_, Infallible>(Frame::data(piece))));
        let request = request.body(body).expect("is a request");
        let service = self.0.clone();
        let answer = async move {
            let Ok(answer) = service.oneshot(request).await;
            answer
        };
        (sender, answer)
    }

    /// The status of a report with this body.
    async fn report(&self, from: [u8; 4], body: Bytes, encoding: &str) -> (u16, String) {
        let headers = [
            ("content-type", "application/proto"),
            ("content-encoding", encoding),
        ];
        let (sender, answer) = self.call(from, &REPORT, &headers);
        sender.unbounded_send(body).expect("is read");
        drop(sender);
        let answer = answer.await;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("is whole");
        (
            status,
            String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        )
    }
}

fn small_report() -> Bytes {
    let report = ReportDiscoveredDevicesRequest {
        command_id: "c-1".to_owned(),
        ..ReportDiscoveredDevicesRequest::default()
    };
    report.encode_to_vec().into()
}

#[tokio::test(start_paused = true)]
async fn one_caller_cannot_take_the_memory_of_all_bodies() {
    let server = Server::new(LIMITS);
    let headers = [("content-type", "application/proto")];
    // Two bodies that arrive and never end. Each takes 1 MiB of bulk memory, which is the caller's whole share.
    let mut held = Vec::new();
    for _ in 0..2 {
        let (sender, answer) = server.call(HOSTILE, &REPORT, &headers);
        let answer = tokio::spawn(answer);
        for _ in 0..80 {
            sender
                .unbounded_send(vec![0; 16 << 10].into())
                .expect("is read");
        }
        held.push((sender, answer));
    }
    while held.iter().any(|(sender, _)| !sender.is_empty()) {
        tokio::task::yield_now().await;
    }
    let large = Bytes::from(vec![0; 512 << 10]);
    let (status, body) = server.report(HOSTILE, large.clone(), "identity").await;
    assert_eq!(status, 429, "{body}");
    assert!(body.contains("all memory for request bodies"), "{body}");
    // What other callers send is judged by its content.
    let (status, _) = server.report(OTHER, large, "identity").await;
    assert_eq!(status, 400, "512 KiB of zeros are no message");
    for from in [HOSTILE, OTHER] {
        assert_eq!(server.report(from, small_report(), "identity").await.0, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_compressed_body_gets_its_memory_before_it_is_unpacked() {
    // An empty message is invalid. With too little memory for the largest report, it is not even unpacked.
    let (status, body) = Server::new(BodyLimits::default())
        .report(OTHER, Bytes::from_static(&NOTHING), "gzip")
        .await;
    assert_eq!(status, 400, "{body}");
    let (status, body) = Server::new(LIMITS)
        .report(OTHER, Bytes::from_static(&NOTHING), "gzip")
        .await;
    assert_eq!(status, 429, "{body}");
}

#[tokio::test(start_paused = true)]
async fn a_compressed_message_of_a_stream_gets_its_memory_too() {
    let stream = FleetNodeGatewayClient::CONTROL_STREAM;
    let headers = [
        ("content-type", "application/grpc+proto"),
        ("grpc-encoding", "gzip"),
    ];
    let mut message = vec![1, 0, 0, 0, 20];
    message.extend(NOTHING);
    for (limits, is_answered) in [(BodyLimits::default(), true), (LIMITS, false)] {
        let server = Server::new(limits);
        let (sender, answer) = server.call(OTHER, &stream, &headers);
        // Many in turn: each returns its memory when the next is read.
        for _ in 0..64 {
            sender
                .unbounded_send(message.clone().into())
                .expect("is read");
        }
        drop(sender);
        let frames = answer.await.into_body().into_data_stream();
        let answers = frames
            .filter(|frame| future::ready(frame.is_ok()))
            .count()
            .await;
        assert_eq!(answers >= 64, is_answered, "{answers}");
    }
}
