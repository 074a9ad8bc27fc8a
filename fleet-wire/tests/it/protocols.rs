//! Unary calls, errors and plain requests, in every protocol.

use std::time::Duration;

use fleet_wire::{
    Code, Message, Protocol,
    client::{CallOptions, Channel, ChannelConfig, ChannelError, Roots},
    fleet::{GetScanRequest, ScanClient},
    gateway::FleetNodeGatewayClient,
    methods,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::harness::{Server, heartbeat, register, signed_in};

const PROTOCOLS: [(Protocol, &str); 3] = [
    (Protocol::Connect, "connect"),
    (Protocol::Grpc, "grpc"),
    (Protocol::GrpcWeb, "grpc-web"),
];

#[tokio::test]
async fn every_protocol_carries_a_unary_call_with_and_without_tls() {
    let server = Server::start().await;
    for (protocol, name) in PROTOCOLS {
        for (scheme, tls) in [("http", false), ("https", true)] {
            let client = FleetNodeGatewayClient::new(server.channel(scheme, protocol));
            let response = client
                .register(&register("a"), CallOptions::new())
                .await
                .expect("registered");
            assert_eq!(response.identity_fingerprint, format!("{name} tls={tls}"));
            assert_eq!(response.fleet_node_id, 7);
        }
    }
}

#[tokio::test]
async fn calls_are_also_served_under_the_prefix_of_upstreams_installations() {
    let server = Server::start().await;
    let url = format!("http://{}/api-proxy", server.address);
    for (protocol, name) in PROTOCOLS {
        let config = ChannelConfig {
            protocol,
            ..ChannelConfig::default()
        };
        let channel = Channel::new(&url, &config).expect("a channel");
        let client = FleetNodeGatewayClient::new(channel);
        let response = client
            .register(&register("a"), CallOptions::new())
            .await
            .expect("registered");
        assert_eq!(response.identity_fingerprint, format!("{name} tls=false"));
        client
            .upload_heartbeat(&heartbeat(), CallOptions::new())
            .await
            .expect_err("credentials are required there, too");
        client
            .upload_heartbeat(&heartbeat(), signed_in())
            .await
            .expect("signed in");
    }
    let page = server.http1("GET /api-proxy/healthz HTTP/1.1", "").await;
    assert!(page.body.contains("/api-proxy/healthz"), "{page:?}");
}

#[tokio::test]
async fn every_protocol_carries_code_message_and_details_of_an_error() {
    let server = Server::start().await;
    for (protocol, _) in PROTOCOLS {
        let client = FleetNodeGatewayClient::new(server.channel("http", protocol));
        let error = client
            .register(&register("refused"), CallOptions::new())
            .await
            .expect_err("scripted to fail");
        assert_eq!(
            (error.code, error.message.as_str()),
            (Code::ResourceExhausted, "not so fast: 100 % \"é\"")
        );
        assert_eq!(error.retry_after(), Some(Duration::from_millis(1_500)));
        assert!(!error.is_not_active());
        let error = client
            .register(&register("inactive"), CallOptions::new())
            .await
            .expect_err("scripted to fail");
        assert!(error.is_not_active(), "{error:?}");
    }
}

#[tokio::test]
async fn an_error_of_connect_is_the_mapped_status_with_a_json_body() {
    let server = Server::start().await;
    let body = r#"{"enrollmentToken":"fnc_0123456789abcdefghij","name":"inactive","identityPubkey":"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=","encryptionPubkey":"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="}"#;
    let answer = server.http1("POST /fleetnodegateway.v1.FleetNodeGatewayService/Register HTTP/1.1\r\ncontent-type: application/json", body).await;
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.body,
        r#"{"code":"unavailable","message":"another server serves","details":[{"type":"common.v1.FleetErrorDetails","value":"CAE"},{"type":"google.rpc.ErrorInfo","value":"CgtVTkFWQUlMQUJMRRIFZmxlZXQ"}]}"#
    );
}

#[tokio::test]
async fn json_ignores_fields_it_does_not_know_and_an_empty_body_is_an_empty_message() {
    let server = Server::start().await;
    let head = format!(
        "authorization: bearer {}\r\ncontent-type: application/json",
        crate::harness::TOKEN
    );
    let answer = server
        .http1(
            &format!("POST /fleet.v1.ScanService/GetScan HTTP/1.1\r\n{head}"),
            r#"{"scanId":"s","fromTheFuture":{"a":[1]}}"#,
        )
        .await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, r#"{"scan":{"scanId":"s"}}"#)
    );
    let answer = server
        .http1(
            &format!("POST /fleet.v1.ScanService/ListScans HTTP/1.1\r\n{head}"),
            "",
        )
        .await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
}

#[tokio::test]
async fn a_method_without_side_effects_can_be_called_by_get() {
    let server = Server::start().await;
    let token = crate::harness::TOKEN;
    let query = "connect=v1&encoding=json&message=%7B%22scanId%22%3A%22s%22%7D";
    let answer = server.http1(&format!("GET /fleet.v1.ScanService/GetScan?{query} HTTP/1.1\r\nauthorization: Bearer {token}"), "").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, r#"{"scan":{"scanId":"s"}}"#)
    );
    let answer = server.http1(&format!("GET /fleet.v1.ScanService/CancelScan?{query} HTTP/1.1\r\nauthorization: Bearer {token}"), "").await;
    assert_eq!(answer.status, 405);
}

#[tokio::test]
async fn the_principal_reaches_the_handler_and_nobody_passes_without_a_session() {
    let server = Server::start().await;
    for (protocol, _) in PROTOCOLS {
        let client = FleetNodeGatewayClient::new(server.channel("http", protocol));
        let response = client
            .upload_heartbeat(&heartbeat(), signed_in())
            .await
            .expect("signed in");
        assert_eq!(response.received_at, heartbeat().sent_at);
        let error = client
            .upload_heartbeat(&heartbeat(), CallOptions::new())
            .await
            .expect_err("not signed in");
        assert_eq!(error.code, Code::Unauthenticated);
        let scans = ScanClient::new(server.channel("http", protocol));
        let error = scans
            .get_scan(
                &GetScanRequest {
                    scan_id: "s".to_owned(),
                },
                CallOptions::new(),
            )
            .await
            .expect_err("not signed in");
        assert_eq!(error.code, Code::Unauthenticated);
    }
}

#[tokio::test]
async fn a_panic_is_internal_and_says_nothing() {
    let server = Server::start().await;
    for (protocol, _) in PROTOCOLS {
        let client = FleetNodeGatewayClient::new(server.channel("http", protocol));
        let error = client
            .register(&register("panic"), CallOptions::new())
            .await
            .expect_err("scripted to panic");
        assert_eq!(
            (error.code, error.message.as_str()),
            (Code::Internal, "internal error")
        );
        let options = CallOptions::new().bearer("panic").expect("fits a header");
        let error = client
            .upload_heartbeat(&heartbeat(), options)
            .await
            .expect_err("scripted to panic");
        assert_eq!(
            (error.code, error.message.as_str()),
            (Code::Internal, "internal error")
        );
    }
    assert_eq!(server.http1("GET /panic HTTP/1.1", "").await.status, 500);
    assert_eq!(server.http1("GET /healthz HTTP/1.1", "").await.status, 200);
}

#[tokio::test]
async fn a_deadline_cuts_the_call_on_both_sides() {
    let server = Server::start().await;
    for (protocol, _) in PROTOCOLS {
        let client = FleetNodeGatewayClient::new(server.channel("http", protocol));
        let options = CallOptions::new().timeout(Duration::from_millis(50));
        let error = client
            .register(&register("slow"), options)
            .await
            .expect_err("never answers");
        assert_eq!(error.code, Code::DeadlineExceeded);
        server.scripted.alive.reaches(0).await;
    }
    let answer = server
        .http1("POST /fleetnodegateway.v1.FleetNodeGatewayService/Register HTTP/1.1\r\ncontent-type: application/json\r\nconnect-timeout-ms: 50", &serde_json::to_string(&register("slow")).expect("has a JSON form"))
        .await;
    assert_eq!(
        answer.status, 504,
        "the server itself enforces the deadline"
    );
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented_in_every_protocol() {
    let server = Server::start().await;
    for (content_type, sign) in [
        ("application/json", "\"code\":\"unimplemented\""),
        ("application/proto", "\"code\":\"unimplemented\""),
        ("application/grpc-web+proto", "grpc-status:12"),
        ("application/connect+json", "\"code\":\"unimplemented\""),
    ] {
        let head = format!(
            "POST /fleetnodegateway.v1.FleetNodeGatewayService/UploadTelemetry HTTP/1.1\r\ncontent-type: {content_type}"
        );
        let answer = server.http1(&head, "").await;
        let text =
            format!("{}\r\n{}", answer.head, answer.body).replace("grpc-status: ", "grpc-status:");
        assert!(text.contains(sign), "{content_type}: {text}");
        let unary = content_type.ends_with("/json") || content_type.ends_with("/proto");
        assert!(!unary || text.contains(" 501 "), "{content_type}: {text}");
    }
}

#[tokio::test]
async fn requests_that_are_not_calls_go_to_the_plain_service() {
    let server = Server::start().await;
    for path in [
        "/",
        "/healthz",
        "/api/scans",
        "/assets/a.b/c.d/e.js",
        "/v1.2/app.js",
        "/fleet.v1.ScanService",
    ] {
        let answer = server.http1(&format!("GET {path} HTTP/1.1"), "").await;
        assert_eq!((answer.status, answer.body), (200, format!("page {path}")));
    }
}

#[tokio::test]
async fn health_follows_the_state_of_the_server() {
    let server = Server::start().await;
    let ask = "POST /grpc.health.v1.Health/Check HTTP/1.1\r\ncontent-type: application/json";
    for (body, before, after) in [
        ("{}", "SERVING", "NOT_SERVING"),
        (
            r#"{"service":"fleet.v1.ScanService"}"#,
            "SERVING",
            "NOT_SERVING",
        ),
    ] {
        server.health.set_serving(true);
        assert_eq!(
            server.http1(ask, body).await.body,
            format!(r#"{{"status":"{before}"}}"#)
        );
        server.health.set_serving(false);
        assert_eq!(
            server.http1(ask, body).await.body,
            format!(r#"{{"status":"{after}"}}"#)
        );
    }
    assert_eq!(
        server.http1(ask, r#"{"service":"nobody"}"#).await.status,
        404
    );
}

#[tokio::test]
async fn reflection_names_the_services() {
    let server = Server::start().await;
    let message = r#"{"listServices":""}"#;
    let envelope = format!(
        "\0\0\0\0{}{message}",
        char::from(u8::try_from(message.len()).expect("short"))
    );
    let head = "POST /grpc.reflection.v1.ServerReflection/ServerReflectionInfo HTTP/1.1\r\ncontent-type: application/connect+json";
    let answer = server.http1(head, &envelope).await;
    for service in [
        "fleetnodegateway.v1.FleetNodeGatewayService",
        "fleetnodeadmin.v1.FleetNodeAdminService",
        "pairing.v1.PairingService",
        "fleet.v1.ScanService",
    ] {
        assert!(
            answer.body.contains(service),
            "{service} in {}",
            answer.body
        );
    }
}

#[test]
fn every_method_of_the_definitions_is_listed() {
    let descriptors = prost_types::FileDescriptorSet::decode(fleet_wire::DESCRIPTORS)
        .expect("descriptors decode");
    let mut defined: Vec<String> = Vec::new();
    // Health is the engine's own; its definition is there for reflection.
    for file in descriptors
        .file
        .iter()
        .filter(|file| !file.package().starts_with("grpc."))
    {
        for service in &file.service {
            defined.extend(
                service
                    .method
                    .iter()
                    .map(|m| format!("/{}.{}/{}", file.package(), service.name(), m.name())),
            );
        }
    }
    let mut listed: Vec<String> = methods().map(|m| m.path().to_owned()).collect();
    assert!(methods().all(|m| m.path() == format!("/{}/{}", m.service(), m.name())));
    defined.sort();
    listed.sort();
    assert_eq!(defined, listed);
}

/// Answers every request alike, and returns the first request's line.
async fn one_answer(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!(
        "http://{}/behind/a/proxy/",
        socket.local_addr().expect("bound")
    );
    let served = tokio::spawn(async move {
        let (mut stream, _) = socket.accept().await.expect("a client");
        let mut request = vec![0; 4_096];
        let length = stream.read(&mut request).await.expect("a request");
        stream.write_all(answer.as_bytes()).await.expect("answered");
        String::from_utf8_lossy(&request[..length])
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    });
    (url, served)
}

#[tokio::test]
async fn the_prefix_of_the_url_is_kept() {
    let (url, served) = one_answer(
        "HTTP/1.1 200 OK\r\ncontent-type: application/proto\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let client = FleetNodeGatewayClient::new(
        Channel::new(&url, &ChannelConfig::default()).expect("a good URL"),
    );
    client
        .register(&register("a"), CallOptions::new())
        .await
        .expect("an empty message is one");
    assert_eq!(
        served.await.expect("served"),
        "POST /behind/a/proxy/fleetnodegateway.v1.FleetNodeGatewayService/Register HTTP/1.1"
    );
}

#[tokio::test]
async fn a_redirect_is_an_error_that_names_its_goal() {
    let (url, served) = one_answer("HTTP/1.1 307 Temporary Redirect\r\nlocation: http://elsewhere.example/\r\ncontent-length: 0\r\n\r\n").await;
    let client = FleetNodeGatewayClient::new(
        Channel::new(&url, &ChannelConfig::default()).expect("a good URL"),
    );
    let error = client
        .register(&register("a"), CallOptions::new())
        .await
        .expect_err("not followed");
    assert_eq!(error.code, Code::Unknown);
    assert!(
        error.message.contains("http://elsewhere.example/"),
        "{error}"
    );
    served.await.expect("served once");
}

#[tokio::test]
async fn a_server_of_an_unknown_authority_is_not_trusted_and_an_absent_one_is_unavailable() {
    let server = Server::start().await;
    let other =
        fleet_wire::listener::dev_certificate(&["127.0.0.1".to_owned()]).expect("a good name");
    let config = ChannelConfig {
        roots: Roots::Pem(other.cert_pem),
        ..ChannelConfig::default()
    };
    let client = FleetNodeGatewayClient::new(
        Channel::new(&server.url("https"), &config).expect("a good URL"),
    );
    let error = client
        .register(&register("a"), CallOptions::new())
        .await
        .expect_err("not trusted");
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.contains("certificate"), "{error}");

    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", socket.local_addr().expect("bound"));
    drop(socket);
    let client = FleetNodeGatewayClient::new(
        Channel::new(&url, &ChannelConfig::default()).expect("a good URL"),
    );
    let error = client
        .register(&register("a"), CallOptions::new())
        .await
        .expect_err("nobody listens");
    assert_eq!(error.code, Code::Unavailable);
}

#[test]
fn a_url_that_is_none_of_a_server_is_refused_with_its_reason() {
    for (url, reason) in [
        ("", "empty"),
        ("10.0.0.1:8420", "scheme"),
        ("ftp://a", "scheme"),
        ("http://a?b=c", "query"),
        ("http://user:hunter2@a", "user"),
        ("https://a b", "invalid"),
    ] {
        let error = Channel::new(url, &ChannelConfig::default()).expect_err(url);
        assert!(
            matches!(&error, ChannelError::Url { .. }),
            "{url}: {error:?}"
        );
        assert!(error.to_string().contains(reason), "{url}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let config = ChannelConfig {
        roots: Roots::File("/nowhere/ca.pem".into()),
        ..ChannelConfig::default()
    };
    let error = Channel::new("https://a", &config)
        .expect_err("no such file")
        .to_string();
    assert!(error.contains("/nowhere/ca.pem"), "{error}");
}
