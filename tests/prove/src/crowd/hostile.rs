//! The hostile node as a process of its own. It reads one line with the server's address, its session token and a command
//! id, attacks until its input ends, and prints how many of its calls were done and how many refused.

use std::{
    io::{BufRead as _, Write as _},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use fleet_wire::{
    Message as _, Method,
    gateway::{
        FleetNodeGatewayClient, FleetNodePairResult, PairOutcome, ReportDiscoveredDevicesRequest,
        ReportPairedDevicesRequest,
    },
};
use http::Request;
use http_body_util::Full;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, task::JoinSet};

use super::{NETWORK, device, heartbeat};

/// Connections of the hostile node, and its calls on each.
pub(super) const CONNECTIONS: usize = 64;
pub(super) const CALLS: usize = 8;
/// The argument that starts this process.
pub(crate) const ARGUMENT: &str = "hostile-node";
/// The largest number of devices in a report.
const DEVICES: u32 = 1_024;
/// Variants of a report. Repeating the same one would store nothing.
const VARIANTS: u32 = 8;

/// A request that the node sends again and again.
#[derive(Clone)]
struct Call {
    method: Method,
    body: Bytes,
    is_compressed: bool,
}

/// Calls that were done, and those that were refused.
#[derive(Default)]
struct Counts {
    done: AtomicU64,
    refused: AtomicU64,
}

pub(crate) fn run() -> Result<()> {
    let mut input = std::io::stdin().lock();
    let mut line = String::new();
    input.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let mut word = || words.next().context("a line with address, token, command");
    let (address, token, command) = (word()?.parse()?, word()?.to_owned(), word()?.to_owned());
    let calls: Arc<[Call]> = calls(&command)?.into();
    let counts = Arc::new(Counts::default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut attack = runtime.block_on(start(address, &token, &calls, &counts));
    println!("started");
    std::io::stdout().flush()?;
    // The input ends when the attack is over.
    while input.read_line(&mut line)? > 0 {}
    runtime.block_on(attack.shutdown());
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!("{} {}", of(&counts.done), of(&counts.refused));
    Ok(())
}

/// Starts every call and waits until the first is answered: the measurement includes the beginning of the attack.
async fn start(
    address: SocketAddr,
    token: &str,
    calls: &Arc<[Call]>,
    counts: &Arc<Counts>,
) -> JoinSet<()> {
    let mut attack = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let (calls, counts, token) = (calls.clone(), counts.clone(), token.to_owned());
        attack.spawn(async move {
            loop {
                let Ok(sender) = connect(address).await else {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                };
                let mut slots = JoinSet::new();
                for slot in 0..CALLS {
                    let (calls, counts) = (calls.clone(), counts.clone());
                    let (sender, token) = (sender.clone(), token.clone());
                    let first = connection * CALLS + slot;
                    slots.spawn(repeat(sender, token, calls, counts, first));
                }
                // They end when the server cuts the connection.
                while slots.join_next().await.is_some() {}
            }
        });
    }
    while counts.done.load(Ordering::Relaxed) + counts.refused.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    attack
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>> {
    let socket = TcpStream::connect(address).await?;
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(socket)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Makes one call after the other until the connection fails.
async fn repeat(
    mut sender: SendRequest<Full<Bytes>>,
    token: String,
    calls: Arc<[Call]>,
    counts: Arc<Counts>,
    first: usize,
) {
    for call in calls.iter().cycle().skip(first) {
        let mut request = Request::post(format!("http://server{}", call.method.path()))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/proto");
        if call.is_compressed {
            request = request.header("content-encoding", "gzip");
        }
        let Ok(request) = request.body(Full::new(call.body.clone())) else {
            return;
        };
        if sender.ready().await.is_err() {
            return;
        }
        let is_done = match sender.send_request(request).await {
            Ok(response) => response.status().is_success(),
            // The server refuses with a reset before it has read the body.
            Err(_) => false,
        };
        let counter = if is_done {
            &counts.done
        } else {
            &counts.refused
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The calls: heartbeats, reports that are stored, reports with an unknown or illegal command, and results of a pairing
/// that does not exist. The large ones are sent plain and compressed.
fn calls(command: &str) -> Result<Vec<Call>> {
    let mut calls = Vec::new();
    let result = FleetNodePairResult {
        device_identifier: "mac:02:00:5E:00:00:01".to_owned(),
        outcome: PairOutcome::Error.into(),
        error_message: "\u{1F980}".repeat(4_096),
        ..FleetNodePairResult::default()
    };
    let results = ReportPairedDevicesRequest {
        command_id: command.to_owned(),
        results: vec![result; DEVICES as usize],
    };
    let results = large(
        FleetNodeGatewayClient::REPORT_PAIRED_DEVICES,
        &results.encode_to_vec(),
    )?;
    let (broken, unknown) = ("x".repeat(129), "01a208ec-434b-777d-a405-a673cdd63546");
    for variant in 0..VARIANTS {
        let command = match variant % 4 {
            0 => unknown,
            1 => broken.as_str(),
            _ => command,
        };
        let report = ReportDiscoveredDevicesRequest {
            devices: (0..DEVICES)
                .map(|number| device(NETWORK[1], number, 200 + variant as usize))
                .collect(),
            command_id: command.to_owned(),
            ..ReportDiscoveredDevicesRequest::default()
        };
        calls.extend(large(
            FleetNodeGatewayClient::REPORT_DISCOVERED_DEVICES,
            &report.encode_to_vec(),
        )?);
        calls.extend(results.iter().cloned());
        calls.push(Call {
            method: FleetNodeGatewayClient::UPLOAD_HEARTBEAT,
            body: Bytes::from(heartbeat().encode_to_vec()),
            is_compressed: false,
        });
    }
    Ok(calls)
}

/// A large request, compressed and plain.
fn large(method: Method, body: &[u8]) -> Result<[Call; 2]> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body)?;
    let call = |body: Vec<u8>, is_compressed| Call {
        method,
        body: Bytes::from(body),
        is_compressed,
    };
    Ok([call(encoder.finish()?, true), call(body.to_vec(), false)])
}
