//! One hostile node with many connections. It sends as many calls as the connections take: large reports that are
//! stored, plain and compressed, broken ones, results of pairings and heartbeats. Meanwhile another node and an operator
//! work. Their calls must stay fast, and the memory of the server must not grow with the attack.
//!
//! The attacker is a process of its own ([`hostile`]), so its messages are not part of the server's memory. It runs only
//! when a processor is idle (SCHED_IDLE), because it has its own machine in reality: what is measured is the time that the
//! server takes for others, not the processors that the attacker's own program takes from it.
//!
//! Calls alone and during the attack are measured in turns, so that other work of the machine affects both alike. The
//! limit of the percentile holds for release builds. Development builds take several times as long for the same work,
//! and only print it.

pub(crate) mod hostile;

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use fleet_wire::{
    Timestamp,
    fleet::{ListDevicesRequest, ListNodesRequest},
    gateway::{DiscoveredDeviceReport, ReportDiscoveredDevicesRequest, UploadHeartbeatRequest},
    pairing::{DiscoverRequest, NmapModeRequest, discover_request::Mode},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::{
    database::Scratch,
    live::{Live, Node},
};

/// Rounds of the honest callers, alone and during the attack. `FLEET_PROVE_ROUNDS` replaces it.
const ROUNDS: usize = 400;
/// The honest calls of a round, in their order.
const KINDS: [&str; 4] = [
    "heartbeat",
    "report of a device",
    "list of nodes",
    "list of devices",
];
/// How often the attack begins and ends.
const TURNS: usize = 8;
/// Rounds that are not measured after the attack has ended: the server may still store its last report.
const SETTLE: usize = 10;
/// How often the 99th percentile may become worse.
const TIMES: f64 = 2.0;
/// How much the memory of the server may grow: the share that one caller has for its bodies (108 MiB), as much again
/// for messages that are decoded from it, and the buffers of 64 connections.
const GROWTH_KB: u64 = 320 << 10;
/// The network of the hostile node's scan. Its reports name hosts in it.
pub(crate) const NETWORK: [u8; 2] = [10, 30];

pub(crate) fn run() -> Result<Vec<String>> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut figures = Vec::new();
        for scratch in Scratch::both().await? {
            figures.extend(attack(&scratch).await.context(scratch.engine)?);
            scratch.remove().await?;
        }
        Ok(figures)
    })
}

async fn attack(scratch: &Scratch) -> Result<Vec<String>> {
    let live = Live::start_limited(&scratch.store).await?;
    let hostile = Caller::new(&live, "hostile", "10.30.0.0/20").await?;
    let mut honest = Caller::new(&live, "honest", "10.31.0.0/20").await?;
    let count = std::env::var("FLEET_PROVE_ROUNDS").ok();
    let count = count.map_or(Ok(ROUNDS), |count| count.parse())?;
    // Once before the measurement: the first calls open connections and prepare statements.
    honest.rounds(&live, 20).await?;
    let (mut alone, mut attacked) = (Vec::new(), Vec::new());
    let (mut before, mut during, mut done, mut refused) = (0, 0, 0, 0);
    for turn in 0..TURNS {
        alone.extend(honest.rounds(&live, count.div_ceil(TURNS)).await?);
        if turn == 0 {
            before = peak_kb()?;
        }
        let attacker = Attacker::start(&live, &hostile).await?;
        attacked.extend(honest.rounds(&live, count.div_ceil(TURNS)).await?);
        during = peak_kb()?;
        let counts = attacker.stop().await?;
        done += counts.0;
        refused += counts.1;
        honest.rounds(&live, SETTLE).await?;
    }
    hostile.heartbeat().await.ok();
    live.stop().await?;

    let (first, second) = (percentile(&alone), percentile(&attacked));
    let ratio = second.as_secs_f64() / first.as_secs_f64();
    let growth = during.saturating_sub(before);
    let of_kind = |times: &[Duration], kind: usize| {
        let of_kind: Vec<Duration> = times
            .iter()
            .skip(kind)
            .step_by(KINDS.len())
            .copied()
            .collect();
        percentile(&of_kind).as_secs_f64() * 1e3
    };
    let by_kind = KINDS.iter().enumerate().map(|(kind, name)| {
        let (alone, attacked) = (of_kind(&alone, kind), of_kind(&attacked, kind));
        format!("{name} {alone:.1} ms and {attacked:.1} ms")
    });
    let by_kind: Vec<String> = by_kind.collect();
    let figures = vec![
        format!(
            "{}: {} connections x {} calls of one node: {done} calls done, {refused} refused",
            scratch.engine,
            hostile::CONNECTIONS,
            hostile::CALLS
        ),
        format!(
            "p99 of {} honest calls: {:.1} ms alone, {:.1} ms during the attack: {ratio:.2} times, limit {TIMES} (medians {:.1} and {:.1} ms)",
            attacked.len(),
            first.as_secs_f64() * 1e3,
            second.as_secs_f64() * 1e3,
            quantile(&alone, 50).as_secs_f64() * 1e3,
            quantile(&attacked, 50).as_secs_f64() * 1e3,
        ),
        format!(
            "p99 by call, alone and during the attack: {}",
            by_kind.join(", ")
        ),
        format!(
            "peak memory of the server: {before} KB before, {during} KB during the attack: {growth} KB more, limit {GROWTH_KB}"
        ),
    ];
    let is_fair = ratio <= TIMES || cfg!(debug_assertions);
    ensure!(
        is_fair && growth <= GROWTH_KB && refused > 0 && done > 0,
        "{}",
        figures.join("; ")
    );
    Ok(figures)
}

/// A node with a scan, in whose network it reports devices.
struct Caller {
    node: Node,
    command: String,
    reported: u32,
}

impl Caller {
    async fn new(live: &Live, name: &str, network: &str) -> Result<Self> {
        let mut node = live.node(name).await?;
        let request = DiscoverRequest {
            mode: Some(Mode::Nmap(NmapModeRequest {
                target: network.to_owned(),
                ports: vec!["4028".to_owned()],
            })),
            ..DiscoverRequest::default()
        };
        live.scan(&node, request).await?;
        let command = node.command().await?;
        Ok(Self {
            node,
            command,
            reported: 0,
        })
    }

    async fn heartbeat(&self) -> Result<()> {
        self.node
            .gateway
            .upload_heartbeat(&heartbeat(), self.node.options()?)
            .await?;
        Ok(())
    }

    /// Returns the times of honest calls: a heartbeat and a report of a node, and two lists of an operator.
    async fn rounds(&mut self, live: &Live, rounds: usize) -> Result<Vec<Duration>> {
        let (nodes, devices) = (live.nodes()?, live.devices()?);
        let mut times = Vec::new();
        for _ in 0..rounds {
            let start = Instant::now();
            self.heartbeat().await.context("a heartbeat")?;
            times.push(start.elapsed());
            self.reported += 1;
            let report = ReportDiscoveredDevicesRequest {
                devices: vec![device(31, self.reported % 4_000, 16)],
                command_id: self.command.clone(),
                ..ReportDiscoveredDevicesRequest::default()
            };
            let start = Instant::now();
            self.node
                .gateway
                .report_discovered_devices(&report, self.node.options()?)
                .await
                .context("a report")?;
            times.push(start.elapsed());
            let start = Instant::now();
            nodes
                .list_nodes(&ListNodesRequest::default(), live.operator()?)
                .await
                .context("a list of nodes")?;
            times.push(start.elapsed());
            let request = ListDevicesRequest {
                limit: 50,
                ..ListDevicesRequest::default()
            };
            let start = Instant::now();
            devices
                .list_devices(&request, live.operator()?)
                .await
                .context("a list of devices")?;
            times.push(start.elapsed());
        }
        Ok(times)
    }
}

/// The process of the hostile node.
struct Attacker {
    process: Child,
    stop: ChildStdin,
    lines: tokio::io::Lines<BufReader<ChildStdout>>,
}

impl Attacker {
    /// Starts the attack and waits until its first call is answered.
    async fn start(live: &Live, caller: &Caller) -> Result<Self> {
        let mut process = Command::new("chrt")
            .args(["--idle", "0"])
            .arg(std::env::current_exe()?)
            .arg(hostile::ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting the hostile node")?;
        let mut stop = process.stdin.take().context("its input")?;
        let output = process.stdout.take().context("its output")?;
        let order = format!(
            "{} {} {}\n",
            live.address(),
            caller.node.token(),
            caller.command
        );
        stop.write_all(order.as_bytes()).await?;
        let mut lines = BufReader::new(output).lines();
        let started = tokio::time::timeout(Duration::from_secs(120), lines.next_line()).await;
        let line = started.context("the attack did not start within 120 s")??;
        ensure!(line.as_deref() == Some("started"), "it printed {line:?}");
        Ok(Self {
            process,
            stop,
            lines,
        })
    }

    /// Ends the attack and returns how many calls were done and refused.
    async fn stop(mut self) -> Result<(u64, u64)> {
        drop(self.stop);
        let line = tokio::time::timeout(Duration::from_secs(60), self.lines.next_line());
        let line = line.await.context("the attack did not end")??;
        let line = line.context("the hostile node printed no counts")?;
        let mut counts = line.split(' ').map(str::parse);
        let (done, refused) = (counts.next(), counts.next());
        self.process.wait().await?;
        Ok((done.context("a count")??, refused.context("a count")??))
    }
}

/// The 99th percentile.
fn percentile(times: &[Duration]) -> Duration {
    quantile(times, 99)
}

fn quantile(times: &[Duration], percent: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    let at = (times.len() * percent).div_ceil(100).saturating_sub(1);
    times.get(at).copied().unwrap_or_default()
}

pub(crate) fn heartbeat() -> UploadHeartbeatRequest {
    UploadHeartbeatRequest {
        sent_at: Some(Timestamp {
            seconds: 1_700_000_000,
            nanos: 0,
        }),
        ..UploadHeartbeatRequest::default()
    }
}

/// A device at the address of this number in 10.`octet`.0.0/16, with texts of this length.
pub(crate) fn device(octet: u8, number: u32, length: usize) -> DiscoveredDeviceReport {
    let [_, _, high, low] = (number + 2).to_be_bytes();
    let mac = format!("02:00:5E:{octet:02X}:{high:02X}:{low:02X}");
    DiscoveredDeviceReport {
        device_identifier: format!("mac:{mac}"),
        ip_address: format!("10.{octet}.{high}.{low}"),
        port: "4028".to_owned(),
        url_scheme: "http".to_owned(),
        driver_name: "antminer".to_owned(),
        model: "m".repeat(length),
        manufacturer: "n".repeat(length),
        firmware_version: "f".repeat(length),
        mac_address: mac,
        evidence: "e".repeat(2 * length),
        ..DiscoveredDeviceReport::default()
    }
}

/// The largest resident memory of this process so far, in KB.
fn peak_kb() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("VmHWM in /proc/self/status")?.parse()?)
}
