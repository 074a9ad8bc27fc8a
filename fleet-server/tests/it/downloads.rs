//! Downloads end with the credential that began them, also while their caller does not read.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use fleet_core::Role;
use fleet_wire::{
    fleet::{
        CreateKeyRequest, KeyClient, ListOperatorsRequest, OperatorClient, RemoveOperatorRequest,
        RevokeKeyRequest,
    },
    gateway::{AckCode, DiscoveredDeviceReport, UnidentifiedHostReport},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::harness::{
    Enrolled, NarrowPort, Operator, PATIENCE, Profile, World, device, list, request, soon, start,
};

/// More than a page of an export, and with long texts more than all buffers hold.
const ROWS: usize = 600;

/// An organization with devices, unidentified hosts, and scans with long requests.
struct Scene {
    world: World,
    port: NarrowPort,
    operator: Operator,
    /// A scan with devices and hosts.
    scan: String,
}

async fn scene() -> Scene {
    let world = World::new().await;
    let port = world.narrow_port();
    let operator = world.operator(Role::Admin).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let mut node = enrolled.connect(&world, Profile::ours()).await;
    let asked = list(&["10.0.0.0-10.0.7.255"], &["4028"]);
    let scan = start(&operator, &enrolled, asked).await;
    let (command, _) = node.command().await;
    let address = |n: usize| format!("10.0.{}.{}", n / 256, n % 256);
    let devices: Vec<DiscoveredDeviceReport> = (0..ROWS)
        .map(|n| DiscoveredDeviceReport {
            model: "m".repeat(200),
            firmware_version: "f".repeat(200),
            ..device(&address(n))
        })
        .collect();
    let hosts: Vec<UnidentifiedHostReport> = (ROWS..2 * ROWS)
        .map(|n| UnidentifiedHostReport {
            ip_address: address(n),
            open_ports: vec![4028],
            reply_port: 4028,
            reply: "r".repeat(500),
            requests: vec!["GET /".to_owned()],
            ..UnidentifiedHostReport::default()
        })
        .collect();
    for (devices, hosts) in devices.chunks(60).zip(hosts.chunks(60)) {
        let answer = node.report_with(&command, devices.to_vec(), hosts.to_vec());
        assert_eq!(answer.await.expect("answered").rejected_count, 0);
    }
    node.ack(&command, AckCode::Ok).await;
    scan.is("SCAN_STATE_COMPLETED").await;
    let scan = scan.id;
    let many: Vec<String> = (0..4_000)
        .map(|n| format!("10.1.{}.{}", n / 256, n % 256))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for _ in 0..8 {
        start(&operator, &enrolled, list(&many, &["4028"])).await;
    }
    Scene {
        world,
        port,
        operator,
        scan,
    }
}

/// Makes a key; returns its id, and the header with it.
async fn key(scene: &Scene) -> (i64, String) {
    let create = CreateKeyRequest {
        name: "download".to_owned(),
        ..CreateKeyRequest::default()
    };
    let keys = KeyClient::new(scene.world.channel());
    let made = keys.create_key(&create, scene.operator.options()).await;
    let made = made.expect("is made");
    (made.key_id, format!("Bearer {}", made.key))
}

async fn revoke(scene: &Scene, key_id: i64) {
    let keys = KeyClient::new(scene.world.channel());
    let revoked = keys
        .revoke_key(&RevokeKeyRequest { key_id }, scene.operator.options())
        .await;
    revoked.expect("is revoked");
}

/// A connection whose peer buffers little.
async fn connected(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("is set");
    soon(socket.connect(address)).await.expect("connects")
}

/// A download by HTTP/1.1, of which only the first bytes were read.
struct Paused(TcpStream);

impl Paused {
    async fn begin(port: &NarrowPort, path: &str, header: (&str, &str)) -> Self {
        let mut stream = connected(port.address).await;
        let (name, value) = header;
        let head = format!("GET {path} HTTP/1.1\r\nhost: fleet\r\n{name}: {value}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("is sent");
        let mut status = [0; 12];
        let read = soon(stream.read_exact(&mut status)).await;
        read.expect("an answer");
        assert_eq!(&status, b"HTTP/1.1 200", "{path}");
        Self(stream)
    }

    /// Whether the server keeps the connection open. Its peer cannot see the end behind data that it has not read.
    fn is_open(&self) -> bool {
        let hex = |address: SocketAddr| {
            let IpAddr::V4(ip) = address.ip() else {
                panic!("{address} is not of IPv4");
            };
            // As the kernel prints it: the bytes of the address as a number of the machine.
            let ip = u32::from_ne_bytes(ip.octets());
            format!("{ip:08X}:{:04X}", address.port())
        };
        let server = hex(self.0.peer_addr().expect("an address"));
        let client = hex(self.0.local_addr().expect("an address"));
        let established = format!(" {server} {client} 01 ");
        let table = std::fs::read_to_string("/proc/self/net/tcp");
        table.expect("Linux").contains(&established)
    }

    /// Waits until the server has closed the connection.
    async fn ends(&self, path: &str) {
        let begun = Instant::now();
        while self.is_open() {
            assert!(begun.elapsed() < PATIENCE, "{path}: the download goes on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Reads what still comes.
    async fn rest(mut self) -> usize {
        let mut rest = Vec::new();
        // A connection that is closed with data to send may end with a reset.
        let _ = soon(self.0.read_to_end(&mut rest)).await;
        rest.len()
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
/// The window of a stream and of a connection (RFC 9113, section 6.9.2), of which this client gives none back.
const WINDOW: usize = 65_535;

/// HTTP/2 by hand: no library gives back the window of what it has read.
struct Http2 {
    stream: TcpStream,
    path: String,
    /// The kinds and streams of the frames that came.
    frames: Vec<(u8, u32)>,
}

impl Http2 {
    async fn connect(port: &NarrowPort, path: &str) -> Self {
        let mut stream = connected(port.address).await;
        let preface = fleet_sim::attack::preface();
        stream.write_all(&preface).await.expect("is sent");
        Self {
            stream,
            path: path.to_owned(),
            frames: Vec::new(),
        }
    }

    /// Sends a request without a body.
    async fn get(&mut self, stream: u32, path: &str, authorization: &str) {
        // Method 2, scheme 6, path 4, authorization 23 (RFC 7541, appendix A).
        let mut block = vec![0x82, 0x86, 0x04];
        for (index, text) in [(&[][..], path), (&[0x0f, 8], authorization)] {
            block.extend(index);
            block.push(u8::try_from(text.len()).expect("is short"));
            block.extend(text.as_bytes());
        }
        let (end_stream, end_headers) = (0x1, 0x4);
        let frame = fleet_sim::attack::frame(HEADERS, end_stream | end_headers, stream, &block);
        self.stream.write_all(&frame).await.expect("is sent");
    }

    /// The next frame: its kind, stream, and length.
    async fn frame(&mut self) -> (u8, u32, usize) {
        let mut head = [0; 9];
        self.read(&mut head).await;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        self.frames.push((head[3], stream));
        self.read(&mut vec![0; length]).await;
        (head[3], stream, length)
    }

    async fn read(&mut self, bytes: &mut [u8]) {
        let read = soon(self.stream.read_exact(bytes)).await;
        if let Err(error) = read {
            let (path, frames) = (&self.path, &self.frames);
            panic!("{path}: the connection ends after {frames:?}: {error}");
        }
    }

    /// Reads until a frame of this kind and stream. Returns how much data came before it.
    async fn until(&mut self, kind: u8, stream: u32) -> usize {
        let mut data = 0;
        loop {
            match self.frame().await {
                (found, of, _) if (found, of) == (kind, stream) => return data,
                (DATA, _, length) => data += length,
                _ => {}
            }
        }
    }

    /// Begins a download and reads until the window is used up.
    async fn begin(port: &NarrowPort, path: &str, authorization: &str) -> Self {
        let mut http2 = Self::connect(port, path).await;
        http2.get(1, path, authorization).await;
        let mut data = 0;
        while data < WINDOW {
            if let (DATA, 1, length) = http2.frame().await {
                data += length;
            }
        }
        http2
    }
}

/// Revokes the key of a download by each protocol, and expects its end, without the rest of the body.
async fn ends_with_its_key(scene: &Scene, path: &str) {
    let (id, authorization) = key(scene).await;
    let header = ("authorization", authorization.as_str());
    let paused = Paused::begin(&scene.port, path, header).await;
    let own = format!("Bearer {}", scene.operator.key);
    let other = Paused::begin(&scene.port, path, ("authorization", &own)).await;
    revoke(scene, id).await;
    paused.ends(path).await;
    assert!(other.is_open(), "{path}: the download of another key");
    // It is never read, and would count as stalled at last.
    drop(other);
    let credential = [("authorization", own.as_str())];
    let address = scene.world.address();
    let whole = request(address, "GET", path, &credential, "");
    let mut whole = whole.await;
    whole.read_to_end().await;
    let rest = paused.rest().await;
    assert!(
        2 * rest < whole.body.len(),
        "{path}: {rest} of {}",
        whole.body.len()
    );

    let (id, authorization) = key(scene).await;
    let mut paused = Http2::begin(&scene.port, path, &authorization).await;
    revoke(scene, id).await;
    let data = paused.until(RST_STREAM, 1).await;
    assert_eq!(data, 0, "{path}");
    // The connection may be that of a proxy with many callers.
    paused.get(3, "/healthz", &own).await;
    paused.until(HEADERS, 3).await;
    // Not because of a peer that did not read for long.
    assert_eq!(scene.port.counts.stalled(), 0, "{path}");
}

async fn end_with_their_key(scene: &Scene, paths: &[String]) {
    for path in paths {
        ends_with_its_key(scene, path).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_end_with_their_key() {
    let scene = scene().await;
    let scan = &scene.scan;
    let mut paths = vec!["/api/prometheus/targets".to_owned()];
    for format in ["csv", "json", "ndjson"] {
        paths.push(format!("/api/export/devices.{format}"));
        paths.push(format!("/api/scans/{scan}/hosts.{format}"));
        paths.push(format!("/api/scans/{scan}/difference.{format}"));
    }
    for format in ["json", "ndjson"] {
        // A line of CSV has no request, so that these few scans would fit into the buffers.
        paths.push(format!("/api/export/scans.{format}"));
    }
    end_with_their_key(&scene, &paths).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_end_with_their_session_and_with_their_operator() {
    let scene = scene().await;
    let devices = "/api/export/devices.json".to_owned();
    let difference = format!("/api/scans/{}/difference.json", scene.scan);
    for path in [devices, difference] {
        let reader = scene.world.operator(Role::Viewer).await;
        let body = serde_json::json!({ "key": reader.key }).to_string();
        let json = ("content-type", "application/json");
        let address = scene.world.address();
        let signed_in = request(address, "POST", "/api/session", &[json], body).await;
        let cookie = signed_in.cookie();
        let by_session = Paused::begin(&scene.port, &path, ("cookie", &cookie)).await;
        let authorization = format!("Bearer {}", reader.key);
        let by_key = Paused::begin(&scene.port, &path, ("authorization", &authorization)).await;

        let headers = [("cookie", cookie.as_str()), ("x-fleet-csrf", "1")];
        let signed_out = request(address, "DELETE", "/api/session", &headers, "").await;
        assert!(signed_out.status < 300, "{}", signed_out.body);
        by_session.ends(&path).await;
        assert!(by_key.is_open(), "{path}: the key is still valid");

        let operators = OperatorClient::new(scene.world.channel());
        let listed = operators
            .list_operators(&ListOperatorsRequest::default(), scene.operator.options())
            .await;
        let listed = listed.expect("lists").operators;
        let found = listed.iter().find(|row| row.email == reader.email);
        let remove = RemoveOperatorRequest {
            operator_id: found.expect("is listed").operator_id,
        };
        let removed = operators.remove_operator(&remove, scene.operator.options());
        removed.await.expect("is removed");
        by_key.ends(&path).await;
        assert_eq!(scene.port.counts.stalled(), 0, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_is_read_is_whole_while_its_credential_changes_elsewhere() {
    let scene = scene().await;
    let path = "/api/export/devices.ndjson";
    let own = format!("Bearer {}", scene.operator.key);
    let header = [("authorization", own.as_str())];
    let (id, _) = key(&scene).await;
    let mut read = request(scene.port.address, "GET", path, &header, "").await;
    // Wakes all downloads of the organization, whose credentials are then checked.
    revoke(&scene, id).await;
    read.read_to_end().await;
    assert!(read.body.ends_with("0\r\n\r\n"), "the last chunk");
    assert_eq!(read.body.matches("\"deviceId\"").count(), ROWS);
}
