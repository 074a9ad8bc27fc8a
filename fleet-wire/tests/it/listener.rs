//! The port: what is spoken, who is shown out, and how it closes. Waiting is done on virtual time over pipes.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use fleet_wire::{
    Protocol,
    client::CallOptions,
    fleet::{ScanClient, WatchScanRequest},
    gateway::FleetNodeGatewayClient,
    listener::{self, Drained, ListenerConfig, TlsError, TlsIdentity},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpStream,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    harness::{Answer, Server, TOKEN, heartbeat, register, signed_in},
    pipes::{Piped, http2, post},
};

/// Waits until the server closes, and returns what it received and when.
async fn closed(mut pipe: DuplexStream) -> (Duration, Vec<u8>) {
    let (start, mut received) = (Instant::now(), Vec::new());
    // A reset is an end as good as any.
    let _ = pipe.read_to_end(&mut received).await;
    (start.elapsed(), received)
}

#[tokio::test(start_paused = true)]
async fn silence_and_half_a_preface_end_after_five_seconds() {
    let server = Piped::start(ListenerConfig::plaintext());
    for opening in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n"] {
        let mut pipe = server.connect();
        pipe.write_all(opening).await.expect("sent");
        let (after, received) = closed(pipe).await;
        assert_eq!(
            (after, received),
            (Duration::from_secs(5), Vec::new()),
            "{opening:?}"
        );
    }
    assert_eq!(server.config.counts.silent(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_only_says_its_preface_ends_after_ten_seconds_and_a_grace() {
    let server = Piped::start(ListenerConfig::plaintext());
    let mut pipe = server.connect();
    pipe.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .expect("sent");
    let (after, _) = closed(pipe).await;
    assert!(
        (Duration::from_secs(10)..=Duration::from_secs(15)).contains(&after),
        "{after:?}"
    );
    assert_eq!(server.config.counts.unestablished(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_never_ends_is_not_waited_for() {
    let server = Piped::start(ListenerConfig::plaintext());
    let mut pipe = server.connect();
    pipe.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ")
        .await
        .expect("sent");
    let (after, _) = closed(pipe).await;
    assert!(after <= Duration::from_secs(15), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn an_authenticated_call_makes_a_connection_stay_and_a_refused_one_does_not() {
    let server = Piped::start(ListenerConfig::plaintext());
    let path = FleetNodeGatewayClient::UPLOAD_HEARTBEAT.path();

    let (mut known, mut open) = http2(server.connect()).await;
    assert_eq!(post(&mut known, path, Some(TOKEN)).await, 200);
    let (mut unknown, refused) = http2(server.connect()).await;
    assert_eq!(post(&mut unknown, path, Some("guessed")).await, 401);

    let start = Instant::now();
    refused.await.expect("closed");
    assert!(
        start.elapsed() <= Duration::from_secs(15),
        "{:?}",
        start.elapsed()
    );
    tokio::time::timeout(Duration::from_secs(120), &mut open)
        .await
        .expect_err("still open");
    assert_eq!(post(&mut known, path, Some(TOKEN)).await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_answer_pings_is_gone_within_forty_five_seconds() {
    let server = Piped::start(ListenerConfig::plaintext());
    let mut pipe = server.connect();
    // Preface, empty SETTINGS, and GET / as HEADERS from the static table (RFC 7541, appendix A).
    let opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x03\x01\x05\0\0\0\x01\x82\x86\x84";
    pipe.write_all(opening).await.expect("sent");
    let (after, _) = closed(pipe).await;
    assert!(
        (Duration::from_secs(30)..=Duration::from_secs(45)).contains(&after),
        "{after:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_body_that_stalls_is_given_up_and_the_connection_serves_on() {
    let server = Piped::start(ListenerConfig::plaintext());
    let (client, _open) = http2(server.connect()).await;
    let mut client = client.ready().await.expect("open");
    let path = FleetNodeGatewayClient::UPLOAD_HEARTBEAT.path();
    let request = http::Request::post(format!("http://x{path}"))
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {TOKEN}"))
        .body(())
        .expect("a good request");
    let (response, _stalled) = client.send_request(request, false).expect("sent");
    let start = Instant::now();
    assert_eq!(response.await.expect("answered").status(), 504);
    assert_eq!(start.elapsed(), Duration::from_secs(20));
    assert_eq!(post(&mut client, path, Some(TOKEN)).await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_lack_of_descriptors_slows_the_loop_down_and_passes() {
    const EMFILE: i32 = 24;
    let server = Piped::start(ListenerConfig::plaintext());
    let start = Instant::now();
    for _ in 0..10 {
        server
            .connect
            .send(Err(io::Error::from_raw_os_error(EMFILE)))
            .expect("the server runs");
    }
    server
        .connect
        .send(Err(io::ErrorKind::ConnectionAborted.into()))
        .expect("the server runs");
    let (mut client, _open) = http2(server.connect()).await;
    assert_eq!(
        post(
            &mut client,
            FleetNodeGatewayClient::UPLOAD_HEARTBEAT.path(),
            Some(TOKEN)
        )
        .await,
        200
    );
    // 10 ms doubling seven times, then twice a second: 10 + 20 + ... + 640 + 1,000 x 3.
    assert_eq!(start.elapsed().as_millis(), 1_270 + 3_000);
    assert_eq!(server.config.counts.accept_errors(), 11);
}

#[tokio::test(start_paused = true)]
async fn a_full_port_keeps_its_reserved_slots_for_known_peers() {
    let server = Piped::start(ListenerConfig {
        max_connections: 3,
        reserved: 1,
        ..ListenerConfig::plaintext()
    });
    let path = FleetNodeGatewayClient::UPLOAD_HEARTBEAT.path();
    let (mut first, _open1) = http2(server.connect()).await;
    assert_eq!(post(&mut first, path, Some(TOKEN)).await, 200);
    let (mut second, _open2) = http2(server.connect()).await;
    assert_eq!(post(&mut second, path, Some(TOKEN)).await, 200);
    let (mut third, _open3) = http2(server.connect()).await;
    assert_eq!(post(&mut third, path, Some(TOKEN)).await, 200);
    // Three known peers fill it.
    assert_eq!(closed(server.connect()).await, (Duration::ZERO, Vec::new()));
    assert_eq!(server.config.counts.full(), 1);

    let server = Piped::start(ListenerConfig {
        max_connections: 3,
        reserved: 1,
        ..ListenerConfig::plaintext()
    });
    let (oldest, _quiet) = (server.connect(), server.connect());
    // Two unknown peers take all that unknown peers may have; the next comes in place of the oldest.
    let (mut known, _open) = http2(server.connect()).await;
    assert_eq!(closed(oldest).await, (Duration::ZERO, Vec::new()));
    assert_eq!(post(&mut known, path, Some(TOKEN)).await, 200);
    assert_eq!(server.config.counts.evicted(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_silent_peers_keep_nobody_out() {
    let server = Piped::start(ListenerConfig {
        max_connections: 100,
        reserved: 10,
        ..ListenerConfig::plaintext()
    });
    let path = FleetNodeGatewayClient::UPLOAD_HEARTBEAT.path();
    let (mut before, _open1) = http2(server.connect()).await;
    assert_eq!(post(&mut before, path, Some(TOKEN)).await, 200);
    let mut silent = Vec::new();
    for _ in 0..1_000 {
        silent.push(server.connect());
        tokio::task::yield_now().await;
    }
    let (mut after, _open2) = http2(server.connect()).await;
    assert_eq!(post(&mut after, path, Some(TOKEN)).await, 200);
    assert_eq!(post(&mut before, path, Some(TOKEN)).await, 200);
    let counts = &server.config.counts;
    assert!(counts.evicted() >= 900, "{counts:?}");
    assert_eq!((counts.full(), counts.silent()), (0, 0));
    for pipe in silent {
        closed(pipe).await;
    }
    assert!(counts.silent() <= 90, "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_source_has_its_share_and_known_peers_of_it_have_more() {
    let server = Piped::start(ListenerConfig {
        per_source: 4,
        anonymous_per_source: 2,
        exempt: vec!["192.0.2.99/32".parse().expect("a network")],
        ..ListenerConfig::plaintext()
    });
    let path = FleetNodeGatewayClient::UPLOAD_HEARTBEAT.path();
    // Known peers do not count as unknown ones of their site.
    let mut known = Vec::new();
    for _ in 0..3 {
        let (mut client, open) = http2(server.connect()).await;
        assert_eq!(post(&mut client, path, Some(TOKEN)).await, 200);
        known.push((client, open));
    }
    let _fourth = server.connect();
    assert_eq!(closed(server.connect()).await, (Duration::ZERO, Vec::new()));
    assert_eq!(server.config.counts.crowded(), 1);

    // Addresses of one /64 are one source: the third shows the first out.
    let from = |text: &str| server.connect_from(text.parse().expect("an address"));
    let first = from("2001:db8::1");
    let _second = from("2001:db8::2");
    let _third = from("2001:db8::3");
    let _elsewhere = from("2001:db8:0:1::1");
    assert_eq!(closed(first).await, (Duration::ZERO, Vec::new()));
    assert_eq!(server.config.counts.evicted(), 1);

    // A proxy speaks for everybody.
    let proxied: Vec<_> = (0..20).map(|_| from("192.0.2.99")).collect();
    for pipe in proxied {
        assert!(closed(pipe).await.1.is_empty());
    }
    let counts = &server.config.counts;
    assert_eq!((counts.crowded(), counts.evicted()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_evicted_before_those_with_calls() {
    let server = Piped::start(ListenerConfig {
        max_connections: 2,
        reserved: 0,
        ..ListenerConfig::plaintext()
    });
    let (mut busy, _open) = http2(server.connect()).await;
    busy = busy.ready().await.expect("open");
    let request = http::Request::post(format!(
        "http://x{}",
        FleetNodeGatewayClient::REGISTER.path()
    ))
    .header("content-type", "application/proto");
    let (_answer, _body) = busy
        .send_request(request.body(()).expect("a good request"), false)
        .expect("sent");
    // Later answers prove that it arrived before them.
    let mut other = busy.clone();
    assert_eq!(
        post(
            &mut other,
            FleetNodeGatewayClient::UPLOAD_HEARTBEAT.path(),
            None
        )
        .await,
        401
    );
    let idle = server.connect();
    let _next = server.connect();
    assert_eq!(closed(idle).await, (Duration::ZERO, Vec::new()));
    assert_eq!(
        post(
            &mut other,
            FleetNodeGatewayClient::UPLOAD_HEARTBEAT.path(),
            None
        )
        .await,
        401
    );
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_stalls_ends_after_five_seconds() {
    let certificate = listener::dev_certificate(&["localhost".to_owned()]).expect("a good name");
    let identity = TlsIdentity::from_pem(&certificate.cert_pem, &certificate.key_pem)
        .expect("a certificate with its key");
    let server = Piped::start(ListenerConfig::tls(identity));
    let mut pipe = server.connect();
    // A handshake record of 512 bytes, of which two come.
    pipe.write_all(&[0x16, 3, 1, 2, 0, 1, 0])
        .await
        .expect("sent");
    assert_eq!(closed(pipe).await, (Duration::from_secs(5), Vec::new()));
    assert_eq!(server.config.counts.tls_failed(), 1);
}

#[tokio::test(start_paused = true)]
async fn idle_page_connections_are_closed() {
    let server = Piped::start(ListenerConfig::plaintext());
    let (client, open) = http2(server.connect()).await;
    let start = Instant::now();
    for wait in [0, 60, 60] {
        tokio::time::sleep(Duration::from_secs(wait)).await;
        let mut client = client.clone().ready().await.expect("open");
        let request = http::Request::get("http://x/page").body(());
        let (response, _) = client
            .send_request(request.expect("a good request"), true)
            .expect("sent");
        assert_eq!(response.await.expect("answered").status(), 200);
    }
    open.await.expect("closed");
    // Looked at after 10 s and then every 75 s.
    assert!(
        (195..=240).contains(&start.elapsed().as_secs()),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(server.config.counts.idle(), 1);
}

#[tokio::test(start_paused = true)]
async fn peers_that_do_not_read_are_disconnected_after_forty_seconds() {
    let server = Piped::start(ListenerConfig::plaintext());
    // The answer is larger than the pipe.
    let mut pipe = server.connect_through(64);
    pipe.write_all(b"GET /a-long-way-to-go HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("sent");
    let start = Instant::now();
    while server.config.counts.broken() == 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(
        (40..=42).contains(&start.elapsed().as_secs()),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(server.config.counts.stalled(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_requests_end_and_cuts_the_others() {
    let server = Piped::start(ListenerConfig::plaintext());
    let (client, _open) = http2(server.connect()).await;
    let mut client = client.ready().await.expect("open");
    let request = http::Request::post(format!("http://x{}", ScanClient::WATCH_SCAN.path()))
        .header("content-type", "application/connect+json")
        .header("authorization", format!("Bearer {TOKEN}"));
    let (response, mut body) = client
        .send_request(request.body(()).expect("a good request"), false)
        .expect("sent");
    body.send_data(
        b"\0\0\0\0\x11{\"scanId\":\"open\"}"[..].to_vec().into(),
        true,
    )
    .expect("sent");
    assert_eq!(response.await.expect("answered").status(), 200);
    server.alive.reaches(1).await;

    let (start, alive) = (Instant::now(), server.alive.clone());
    server.shutdown.cancel();
    assert_eq!(server.running.await.expect("ended"), Drained { cut: 1 });
    assert_eq!(start.elapsed(), Duration::from_secs(10));
    alive.reaches(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_silent_peers() {
    let server = Piped::start(ListenerConfig::plaintext());
    let silent = server.connect();
    let (start, shutdown) = (Instant::now(), server.shutdown.clone());
    tokio::task::yield_now().await;
    shutdown.cancel();
    assert_eq!(server.running.await.expect("ended"), Drained { cut: 0 });
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(closed(silent).await.1.is_empty());
}

#[tokio::test]
async fn a_drain_without_open_requests_is_over_at_once_even_with_idle_connections() {
    let server = Server::start().await;
    let client = FleetNodeGatewayClient::new(server.channel("http", Protocol::Grpc));
    client
        .upload_heartbeat(&heartbeat(), signed_in())
        .await
        .expect("signed in");
    server.shutdown.cancel();
    assert_eq!(server.running.await.expect("ended"), Drained { cut: 0 });
}

#[tokio::test]
async fn a_drain_is_over_as_soon_as_the_last_stream_is() {
    let server = Server::start().await;
    let request = WatchScanRequest {
        scan_id: "open".to_owned(),
        after_sequence: 0,
    };
    let mut incoming = ScanClient::new(server.channel("https", Protocol::Grpc))
        .watch_scan(&request, signed_in())
        .await
        .expect("opened");
    incoming.message().await.expect("an event");
    server.shutdown.cancel();
    drop(incoming);
    assert_eq!(server.running.await.expect("ended"), Drained { cut: 0 });
}

#[tokio::test]
async fn plaintext_on_a_tls_port_gets_an_explanation() {
    let server = Server::with(|config| config.plaintext = false).await;
    let mut stream = TcpStream::connect(server.address)
        .await
        .expect("the server listens");
    stream.write_all(b"G").await.expect("sent");
    let answer = Answer::read(stream).await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (400, "this port speaks https only.\n")
    );
    assert_eq!(server.config.counts.plaintext_refused(), 1);
    let client = FleetNodeGatewayClient::new(server.channel("https", Protocol::Connect));
    client
        .register(&register("a"), CallOptions::new())
        .await
        .expect("over TLS");
}

#[tokio::test]
async fn tls_where_none_is_spoken_is_closed() {
    let server = Server::with(|config| config.tls = None).await;
    let client = FleetNodeGatewayClient::new(server.channel("https", Protocol::Connect));
    client
        .register(&register("a"), CallOptions::new())
        .await
        .expect_err("no TLS here");
    assert!(server.config.counts.tls_failed() > 0);
}

#[tokio::test]
async fn headers_are_bounded_in_number_and_in_size() {
    let server = Server::start().await;
    let many: String = (0..60).map(|i| format!("\r\nx-{i}: y")).collect();
    assert_eq!(
        server
            .http1(&format!("GET /healthz HTTP/1.1{many}"), "")
            .await
            .status,
        200
    );
    let more: String = (0..65).map(|i| format!("\r\nx-{i}: y")).collect();
    assert_eq!(
        server
            .http1(&format!("GET /healthz HTTP/1.1{more}"), "")
            .await
            .status,
        431
    );
    let long = "y".repeat(9_000);
    assert_eq!(
        server
            .http1(&format!("GET /healthz HTTP/1.1\r\nx-long: {long}"), "")
            .await
            .status,
        431
    );

    let tcp = TcpStream::connect(server.address)
        .await
        .expect("the server listens");
    let (client, connection) = h2::client::handshake(tcp).await.expect("speaks HTTP/2");
    tokio::spawn(connection);
    for (headers, size, expected) in [(60, 1, 200), (65, 1, 431), (9, 1_000, 431)] {
        let mut client = client.clone().ready().await.expect("open");
        let mut request = http::Request::get("http://x/healthz");
        for i in 0..headers {
            request = request.header(format!("x-{i}"), "y".repeat(size));
        }
        let (response, _) = client
            .send_request(request.body(()).expect("a good request"), true)
            .expect("sent");
        assert_eq!(
            response.await.expect("answered").status().as_u16(),
            expected,
            "{headers} of {size}"
        );
    }
}

#[tokio::test]
async fn a_connection_has_thirty_two_streams() {
    let server = Server::start().await;
    let tcp = TcpStream::connect(server.address)
        .await
        .expect("the server listens");
    let (client, mut connection) = h2::client::handshake(tcp).await.expect("speaks HTTP/2");
    let ping = connection.ping_pong().expect("the first");
    tokio::spawn(connection);
    let mut ping = ping;
    ping.ping(h2::Ping::opaque()).await.expect("settled");
    assert_eq!(client.current_max_send_streams(), 32);
}

#[tokio::test]
async fn a_connection_can_be_closed_from_inside() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let address = socket.local_addr().expect("bound");
    let service = tower::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
        CALLS.fetch_add(1, Ordering::SeqCst);
        request
            .extensions()
            .get::<listener::ConnectionGuard>()
            .expect("ours")
            .close();
        std::future::pending::<Result<http::Response<String>, std::convert::Infallible>>().await
    });
    let config = ListenerConfig::plaintext();
    tokio::spawn(async move {
        listener::serve(socket, service, &config, CancellationToken::new()).await
    });
    let mut stream = TcpStream::connect(address)
        .await
        .expect("the server listens");
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("sent");
    let mut received = Vec::new();
    let _ = stream.read_to_end(&mut received).await;
    assert_eq!((received, CALLS.load(Ordering::SeqCst)), (Vec::new(), 1));
}

#[test]
fn errors_of_certificates_name_their_file() {
    let folder = std::env::temp_dir().join(format!("fleet-wire-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let made = listener::dev_certificate(&["localhost".to_owned()]).expect("a good name");
    let other = listener::dev_certificate(&["localhost".to_owned()]).expect("a good name");
    let (cert, key, empty) = (
        folder.join("cert.pem"),
        folder.join("key.pem"),
        folder.join("empty.pem"),
    );
    std::fs::write(&cert, &made.cert_pem).expect("written");
    std::fs::write(&key, &made.key_pem).expect("written");
    std::fs::write(&empty, "").expect("written");

    TlsIdentity::load(&cert, &key).expect("fits");
    let absent = folder.join("absent.pem");
    for (cert, key, culprit) in [
        (&absent, &key, &absent),
        (&empty, &key, &empty),
        (&cert, &absent, &absent),
        (&cert, &cert, &cert),
        (&cert, &empty, &empty),
    ] {
        let error = TlsIdentity::load(cert, key)
            .expect_err("unusable")
            .to_string();
        assert!(error.contains(&culprit.display().to_string()), "{error}");
    }
    std::fs::write(&key, &other.key_pem).expect("written");
    assert!(matches!(
        TlsIdentity::load(&cert, &key),
        Err(TlsError::Pair { .. })
    ));
    assert!(matches!(
        listener::dev_certificate(&["not\u{e9}ascii".to_owned()]),
        Err(TlsError::Development { .. })
    ));
    std::fs::remove_dir_all(&folder).expect("removed");
}
