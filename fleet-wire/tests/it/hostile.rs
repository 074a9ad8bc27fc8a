//! Peers that do not keep to the rules: sizes, open streams that ask for nothing known, bodies that never come.

use std::time::Duration;

use fleet_wire::{
    Code, Message, Protocol,
    gateway::{
        DiscoveredDeviceReport, FleetNodeGatewayClient, ReportDiscoveredDevicesRequest,
        UploadHeartbeatRequest,
    },
    limits, methods,
};
use http::Request;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::harness::{Answer, Server, TOKEN, signed_in};

/// Opens a stream by hand, sends its head and nothing else, and returns the status and `grpc-status` that come.
async fn open_stream(server: &Server, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let tcp = TcpStream::connect(server.address)
        .await
        .expect("the server listens");
    let (mut client, connection) = h2::client::handshake(tcp).await.expect("speaks HTTP/2");
    tokio::spawn(connection);
    let mut request = Request::post(format!("http://{}{path}", server.address));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (response, _open) = client
        .send_request(request.body(()).expect("a good request"), false)
        .expect("sent");
    // Without an early answer this would wait for ever; the bound only turns that into a failure.
    let mut response = tokio::time::timeout(Duration::from_secs(30), response)
        .await
        .expect("answered while the request is open")
        .expect("a response");
    let mut grpc_status = response.headers().get("grpc-status").cloned();
    if grpc_status.is_none() {
        while let Some(data) = response.body_mut().data().await {
            data.expect("data");
        }
        grpc_status = response
            .body_mut()
            .trailers()
            .await
            .expect("trailers")
            .and_then(|t| t.get("grpc-status").cloned());
    }
    let grpc_status = grpc_status
        .and_then(|v| v.to_str().ok().map(str::to_owned))
        .unwrap_or_default();
    (response.status().as_u16(), grpc_status)
}

#[tokio::test]
async fn an_open_stream_that_asks_for_nothing_known_is_answered_at_once() {
    let server = Server::start().await;
    let bearer = format!("Bearer {TOKEN}");
    let grpc = ("content-type", "application/grpc");
    let control = FleetNodeGatewayClient::CONTROL_STREAM.path();
    assert_eq!(
        open_stream(&server, "/a.B/C", &[grpc]).await,
        (200, "12".to_owned())
    );
    assert_eq!(
        open_stream(
            &server,
            "/fleetnodegateway.v1.FleetNodeGatewayService/UploadEvents",
            &[grpc]
        )
        .await,
        (200, "12".to_owned())
    );
    assert_eq!(
        open_stream(
            &server,
            control,
            &[grpc, ("grpc-encoding", "br"), ("authorization", &bearer)]
        )
        .await,
        (200, "12".to_owned())
    );
    assert_eq!(
        open_stream(&server, control, &[grpc]).await,
        (200, "16".to_owned())
    );
    assert_eq!(
        open_stream(
            &server,
            control,
            &[
                ("content-type", "application/grpc+thrift"),
                ("authorization", &bearer)
            ]
        )
        .await,
        (200, "12".to_owned())
    );
    assert_eq!(
        open_stream(
            &server,
            control,
            &[("content-type", "text/html"), ("authorization", &bearer)]
        )
        .await
        .0,
        415
    );
}

#[tokio::test]
async fn a_caller_is_refused_before_its_body_is_read() {
    let server = Server::start().await;
    let path = FleetNodeGatewayClient::REPORT_DISCOVERED_DEVICES.path();
    let mut stream = TcpStream::connect(server.address)
        .await
        .expect("the server listens");
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/proto\r\ncontent-length: 8000000\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let answer = Answer::read(stream).await;
    assert_eq!(answer.status, 401);
    assert!(
        answer.body.contains(r#""code":"unauthenticated""#),
        "{}",
        answer.body
    );
}

fn largest_report() -> ReportDiscoveredDevicesRequest {
    // Four bytes a code point, every text at its bound.
    let text = |n: usize| "𝟜".repeat(n);
    let device = DiscoveredDeviceReport {
        device_identifier: text(255),
        ip_address: text(45),
        port: text(5),
        url_scheme: text(32),
        driver_name: text(50),
        model: text(255),
        manufacturer: text(255),
        firmware_version: text(255),
        mac_address: text(64),
        serial_number: text(255),
        evidence: text(512),
        host_name: text(253),
        host_name_source: text(8),
    };
    ReportDiscoveredDevicesRequest {
        hosts: Vec::new(),
        devices: vec![device; limits::MAX_REPORT],
        command_id: text(128),
    }
}

#[tokio::test]
async fn the_largest_legal_report_passes_in_every_protocol() {
    let server = Server::start().await;
    let report = largest_report();
    assert!(report.encoded_len() > 4 << 20);
    for protocol in [Protocol::Connect, Protocol::Grpc, Protocol::GrpcWeb] {
        let client = FleetNodeGatewayClient::new(server.channel("http", protocol));
        let response = client
            .report_discovered_devices(&report, signed_in())
            .await
            .expect("legal");
        assert_eq!(response.accepted_count, 1_024);
    }
    let json = serde_json::to_string(&report).expect("has a JSON form");
    let head = format!(
        "POST {} HTTP/1.1\r\ncontent-type: application/json\r\nauthorization: Bearer {TOKEN}",
        FleetNodeGatewayClient::REPORT_DISCOVERED_DEVICES.path()
    );
    assert_eq!(server.http1(&head, &json).await.status, 200);
}

#[tokio::test]
async fn messages_above_the_legal_size_are_resource_exhausted() {
    let server = Server::start().await;
    let mut report = largest_report();
    // The limit includes 64 unidentified hosts, which take less room than these devices.
    report.devices.extend_from_within(..256);
    for protocol in [Protocol::Connect, Protocol::Grpc, Protocol::GrpcWeb] {
        let client = FleetNodeGatewayClient::new(server.channel("http", protocol));
        let error = client
            .report_discovered_devices(&report, signed_in())
            .await
            .expect_err("too large");
        assert_eq!(error.code, Code::ResourceExhausted, "{protocol:?}: {error}");
    }
    let unknown = limits::request_limit(&FleetNodeGatewayClient::UPLOAD_HEARTBEAT);
    let body = format!(r#"{{"x":"{}"}}"#, "y".repeat(unknown));
    let head = format!(
        "POST {} HTTP/1.1\r\ncontent-type: application/json\r\nauthorization: Bearer {TOKEN}",
        FleetNodeGatewayClient::UPLOAD_HEARTBEAT.path()
    );
    assert_eq!(server.http1(&head, &body).await.status, 429);
}

#[tokio::test]
async fn a_bound_that_is_broken_is_named_and_a_bad_element_is_not_the_envelopes_affair() {
    let server = Server::start().await;
    let client = FleetNodeGatewayClient::new(server.channel("http", Protocol::Connect));
    let error = client
        .upload_heartbeat(&UploadHeartbeatRequest::default(), signed_in())
        .await
        .expect_err("incomplete");
    assert_eq!(
        (error.code, error.message.as_str()),
        (Code::InvalidArgument, "sent_at: is required")
    );
    let bad = DiscoveredDeviceReport {
        device_identifier: "x".repeat(256),
        ..DiscoveredDeviceReport::default()
    };
    let mut report = ReportDiscoveredDevicesRequest {
        hosts: Vec::new(),
        devices: vec![bad],
        command_id: "c".to_owned(),
    };
    assert_eq!(
        client
            .report_discovered_devices(&report, signed_in())
            .await
            .expect("judged elsewhere")
            .accepted_count,
        1
    );
    report.devices = vec![DiscoveredDeviceReport::default(); 1_025];
    let error = client
        .report_discovered_devices(&report, signed_in())
        .await
        .expect_err("too many");
    assert_eq!(
        (error.code, error.message.as_str()),
        (
            Code::InvalidArgument,
            "devices: at most 1024 elements, found more"
        )
    );
}

#[tokio::test]
async fn a_small_body_cannot_ask_for_a_large_tree() {
    let server = Server::start().await;
    let path = FleetNodeGatewayClient::REPORT_DISCOVERED_DEVICES.path();
    let head = format!("POST {path} HTTP/1.1\r\nauthorization: Bearer {TOKEN}\r\ncontent-type:");
    let objects = format!(
        r#"{{"commandId":"c","devices":[{}{{}}]}}"#,
        "{},".repeat(2_000_000)
    );
    let answer = server
        .http1(&format!("{head} application/json"), &objects)
        .await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("objects"), "{}", answer.body);
    let elements = String::from_utf8([b'\n', 0].repeat(2_000_000)).expect("ASCII");
    let answer = server
        .http1(&format!("{head} application/proto"), &elements)
        .await;
    assert_eq!(answer.status, 400);
    assert!(
        answer
            .body
            .contains("devices: at most 1024 elements, found more"),
        "{}",
        answer.body
    );
}

#[test]
fn no_request_is_read_beyond_its_bounds() {
    for method in methods() {
        let limit = limits::request_limit(method);
        let most = match method.name() {
            "ReportPairedDevices" => 48 << 20,
            "ReportDiscoveredDevices" => 11 << 20,
            "ControlStream" => 4 << 20,
            "DiscoverOnFleetNode"
            | "Discover"
            | "StartScan"
            | "PlanScan"
            | "CreateSchedule"
            | "UpdateSchedule" => 5 << 20,
            "ExcludeTargets" => 300 << 10,
            "PairDiscoveredDevicesOnFleetNode" | "Pair" | "StartPairing" => 2 << 20,
            _ => 16 << 10,
        };
        assert!(limit <= most, "{}: {limit}", method.path());
    }
}

#[tokio::test]
async fn garbage_is_invalid_and_not_internal() {
    let server = Server::start().await;
    let path = FleetNodeGatewayClient::REGISTER.path();
    for (content_type, body) in [
        ("application/proto", "\u{1}garbage"),
        ("application/json", "{\"name\": 5"),
        ("application/json", "[]"),
    ] {
        let answer = server
            .http1(
                &format!("POST {path} HTTP/1.1\r\ncontent-type: {content_type}"),
                body,
            )
            .await;
        assert_eq!(answer.status, 400, "{}", answer.body);
    }
}
