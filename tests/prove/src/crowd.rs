//! One hostile node with many connections. It sends as many calls as the connections take: full reports, compressed
//! ones, broken ones and heartbeats. Meanwhile another node and an operator work. Their calls must stay fast, and the
//! memory of the process must not grow with the attack.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use fleet_wire::{
    Timestamp,
    fleet::{ListDevicesRequest, ListNodesRequest},
    gateway::{
        DiscoveredDeviceReport, FleetNodeGatewayClient, ReportDiscoveredDevicesRequest,
        UploadHeartbeatRequest,
    },
};
use tokio::task::JoinSet;

use crate::{
    database::Scratch,
    live::{Live, Node},
};

/// Connections of the hostile node, and its calls on each.
const CONNECTIONS: usize = 64;
const CALLS: usize = 8;
/// Rounds of the honest callers, alone and during the attack.
const ROUNDS: usize = 150;
/// How often a percentile may become worse, and a floor below which it does not count: the attacker runs in the same
/// process and shares its processors, which a server does not do.
const TIMES: f64 = 2.0;
const FLOOR: Duration = Duration::from_millis(20);
/// The memory that the server may take for bodies, and the attacker for its own messages.
const GROWTH_KB: u64 = 400 << 10;

pub(crate) fn run() -> Result<Vec<String>> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let scratch = Scratch::sqlite().await?;
        let figures = attack(&scratch).await?;
        scratch.remove().await?;
        Ok(figures)
    })
}

async fn attack(scratch: &Scratch) -> Result<Vec<String>> {
    let live = Live::start_limited(&scratch.store).await?;
    let (hostile, honest) = (live.node("hostile").await?, live.node("honest").await?);
    // Once before the measurement: the first calls open connections and prepare statements.
    rounds(&live, &honest, 20).await?;
    let alone = rounds(&live, &honest, ROUNDS).await?;
    let before = resident_kb()?;
    let over = Arc::new(AtomicBool::new(false));
    let counts = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
    let mut attackers = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let gateway = FleetNodeGatewayClient::new(live.channel()?);
        for call in 0..CALLS {
            let options = hostile.options()?;
            let (gateway, over, counts) = (gateway.clone(), over.clone(), counts.clone());
            attackers.spawn(async move {
                let kind = (connection + call) % 3;
                while !over.load(Ordering::Relaxed) {
                    let answered = match kind {
                        0 => gateway
                            .upload_heartbeat(&heartbeat(), options.clone())
                            .await
                            .is_ok(),
                        kind => gateway
                            .report_discovered_devices(&full_report(kind == 1), options.clone())
                            .await
                            .is_ok(),
                    };
                    let counter = if answered { &counts.0 } else { &counts.1 };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }
    // Until every call of the attack has begun.
    while counts.0.load(Ordering::Relaxed) + counts.1.load(Ordering::Relaxed) < 1_000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let attacked = rounds(&live, &honest, ROUNDS).await?;
    let during = resident_kb()?;
    over.store(true, Ordering::Relaxed);
    attackers.shutdown().await;
    let (done, refused) = (
        counts.0.load(Ordering::Relaxed),
        counts.1.load(Ordering::Relaxed),
    );
    live.stop().await?;

    let (alone, attacked) = (percentile(alone), percentile(attacked));
    let ratio = attacked.as_secs_f64() / alone.max(FLOOR).as_secs_f64();
    let growth = during.saturating_sub(before);
    ensure!(
        ratio <= TIMES && growth <= GROWTH_KB && refused > done,
        "p99 of honest calls went from {alone:?} to {attacked:?} ({ratio:.2} times), memory grew by {growth} KB, {done} hostile calls were done and {refused} refused"
    );
    Ok(vec![
        format!(
            "{CONNECTIONS} connections x {CALLS} calls of one node: {done} calls done, {refused} refused"
        ),
        format!(
            "p99 of honest calls: {:.1} ms alone, {:.1} ms during the attack ({ratio:.2} times the larger of {FLOOR:?} and the former)",
            alone.as_secs_f64() * 1e3,
            attacked.as_secs_f64() * 1e3
        ),
        format!("memory: {before} KB before, {during} KB during the attack"),
    ])
}

/// The times of honest calls: a heartbeat of a node, and two lists of an operator.
async fn rounds(live: &Live, honest: &Node, rounds: usize) -> Result<Vec<Duration>> {
    let (nodes, devices) = (live.nodes()?, live.devices()?);
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        honest
            .gateway
            .upload_heartbeat(&heartbeat(), honest.options()?)
            .await?;
        times.push(start.elapsed());
        let start = Instant::now();
        nodes
            .list_nodes(&ListNodesRequest::default(), live.operator()?)
            .await?;
        times.push(start.elapsed());
        let start = Instant::now();
        devices
            .list_devices(&ListDevicesRequest::default(), live.operator()?)
            .await?;
        times.push(start.elapsed());
    }
    Ok(times)
}

fn percentile(mut times: Vec<Duration>) -> Duration {
    times.sort();
    let at = (times.len() * 99).div_ceil(100).saturating_sub(1);
    times.get(at).copied().unwrap_or_default()
}

fn heartbeat() -> UploadHeartbeatRequest {
    UploadHeartbeatRequest {
        sent_at: Some(Timestamp {
            seconds: 1_700_000_000,
            nanos: 0,
        }),
        ..UploadHeartbeatRequest::default()
    }
}

/// The largest number of devices, with long texts. With a command id that does not exist, or one that is too long.
fn full_report(is_legal: bool) -> ReportDiscoveredDevicesRequest {
    let device = DiscoveredDeviceReport {
        device_identifier: "x".repeat(255),
        ip_address: "10.0.0.7".to_owned(),
        port: "4028".to_owned(),
        url_scheme: "http".to_owned(),
        driver_name: "antminer".to_owned(),
        model: "m".repeat(255),
        evidence: "e".repeat(512),
        ..DiscoveredDeviceReport::default()
    };
    ReportDiscoveredDevicesRequest {
        devices: vec![device; 1_024],
        command_id: if is_legal {
            "01a208ec-434b-777d-a405-a673cdd63546".to_owned()
        } else {
            "x".repeat(129)
        },
    }
}

/// The resident memory of this process, in KB.
fn resident_kb() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("VmRSS in /proc/self/status")?.parse()?)
}
