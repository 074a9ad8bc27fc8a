//! Measurements that need no other scanner: packet loss, a neighbor table that is too small, an idle node, a scan
//! through a server.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    ROUNDS,
    cases::{Case, Extra, FIRST_SEEN, THROUGH_SERVER},
    measure::{Figures, measure},
    tools::{FULL_RATE, Tool},
};
use crate::{
    lab::{IdleNode, Layout, Site, TestBed},
    proc, session,
};

/// Time limit of one run. The unprivileged one takes about seven minutes.
pub(super) const LIMIT: Duration = Duration::from_secs(900);

/// Endpoints that must be found under loss, of 204.
const ENDPOINTS: usize = 203;

/// Scans under loss.
const LOSSY_RUNS: usize = 5;

/// Target for the memory of an idle node, in KiB.
const AT_REST: u64 = 15 * 1024;

/// How long a node is idle before its memory is read.
const REST: Duration = Duration::from_secs(20);

/// Runs one measurement and returns whether its threshold holds.
pub(super) fn run(extra: Extra, quick: bool) -> Result<bool> {
    println!("\n=== {}", extra.name());
    match extra {
        Extra::Unprivileged | Extra::Idle | Extra::Server if quick => {
            println!("    not measured: --quick");
            Ok(true)
        }
        Extra::Unprivileged => unprivileged(),
        Extra::Loss => loss(),
        Extra::Idle => idle(),
        Extra::Server => through_server(),
    }
}

/// Scans a /16 of neighbors through a table of 1,024 entries. Everything is found, or the scan reports its uncertainty.
fn unprivileged() -> Result<bool> {
    let subnet = "10.76.0.0/16";
    let bed = bed(subnet, 655, Layout::OnLink)?;
    let figures = scan(&bed, Tool::OursUnprivileged, subnet, &[4028])?;
    let missed = missed(&bed, &figures);
    let uncertain = figures
        .remarks
        .iter()
        .any(|remark| reports_uncertainty(remark));
    println!(
        "    {} of {} in {:.1} s, {:.2} s CPU, {:.1} MiB",
        bed.devices().len() - missed,
        bed.devices().len(),
        figures.wall.as_secs_f64(),
        figures.cpu.as_secs_f64(),
        figures.memory as f64 / 1024.0
    );
    figures
        .remarks
        .iter()
        .for_each(|remark| println!("        {remark}"));
    let holds = missed == 0 || uncertain;
    println!(
        "    everything found, or uncertainty reported: {}",
        if holds { "holds" } else { "FAILS" }
    );
    Ok(holds)
}

/// Whether a remark of our scanner reports targets as uncertain because the neighbor table was full.
fn reports_uncertainty(remark: &str) -> bool {
    remark.contains("the neighbor table of this machine had no room")
}

fn loss() -> Result<bool> {
    let subnet = "10.77.0.0/22";
    let bed = bed(subnet, 102, Layout::Routed)?;
    if let Err(error) = bed.lose() {
        println!("    not measured: {error:#} (apt-get install nftables)");
        return Ok(true);
    }
    let truth: BTreeSet<Ipv4Addr> = bed.devices().iter().copied().collect();
    let (mut devices, mut endpoints) = (Vec::new(), Vec::new());
    for _ in 0..LOSSY_RUNS {
        // The devices have one port each. Two scans represent two ports.
        let one = scan(&bed, Tool::Ours, subnet, &[4028])?.found;
        let other = scan(&bed, Tool::Ours, subnet, &[4028])?.found;
        let both: BTreeSet<Ipv4Addr> = one.union(&other).copied().collect();
        devices.push(both.intersection(&truth).count());
        endpoints.push(one.intersection(&truth).count() + other.intersection(&truth).count());
    }
    endpoints.sort_unstable();
    let every = devices.iter().all(|found| *found == truth.len());
    let enough = endpoints[LOSSY_RUNS / 2] >= ENDPOINTS;
    println!(
        "    devices {devices:?} of {}: {}",
        bed.devices().len(),
        if every { "holds" } else { "FAILS" }
    );
    println!(
        "    endpoints {endpoints:?} of {}, threshold of the median {ENDPOINTS}: {}",
        bed.devices().len() * 2,
        if enough { "holds" } else { "FAILS" }
    );
    Ok(every && enough)
}

fn build_programs() -> Result<()> {
    let mut build = session::cargo();
    build.args(["build", "--release"]);
    for package in ["fleetd", "fleetnode", "fleetctl", "fleet-sim"] {
        build.args(["--package", package]);
    }
    proc::capture(&mut build).map(drop)
}

/// Scans the same site with the engine alone and through a node at the same rate, alternately.
fn through_server() -> Result<bool> {
    build_programs()?;
    let (subnet, port, devices) = ("10.76.0.0/16", 4028, 655);
    let bed = bed(subnet, devices, Layout::Routed)?;
    let programs = session::release_dir()?;
    bed.serve(&programs, &["--rate", FULL_RATE])?;
    let truth: BTreeSet<Ipv4Addr> = bed.devices().iter().copied().collect();
    let (mut alone, mut through) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.push(scan(&bed, Tool::Ours, subnet, &[port])?);
        let mut command = bed.scan_through_server(&programs)?;
        command.args(["--ports", &port.to_string(), subnet]);
        through.push(measure(&mut command, LIMIT, |line| Tool::Ours.found(line))?);
    }
    let exact = through.iter().filter(|run| run.found == truth).count();
    let (alone, seen) = (Figures::median(&alone), Figures::median(&through));
    let ratio = seen.wall.as_secs_f64() / alone.wall.as_secs_f64();
    println!(
        "    alone {:.3?}, through the server {:.3?}, {exact} of {ROUNDS} runs exact",
        alone.wall, seen.wall
    );
    println!(
        "    first device at the operator: {:.3?}, target {FIRST_SEEN:?}: {}",
        seen.first.unwrap_or(seen.wall),
        if seen.first.is_some_and(|first| first <= FIRST_SEEN) {
            "met"
        } else {
            "not met"
        }
    );
    let holds = ratio <= THROUGH_SERVER && exact == ROUNDS;
    println!(
        "    {ratio:.2} times as long as alone, and everything found (threshold {THROUGH_SERVER:.2}): {}",
        if holds { "holds" } else { "FAILS" }
    );
    Ok(holds)
}

fn idle() -> Result<bool> {
    build_programs()?;
    let node = IdleNode::up(&session::release_dir()?)?;
    thread::sleep(REST);
    let resident = node.resident()?;
    println!(
        "    {:.1} MiB, target {}: {}",
        resident as f64 / 1024.0,
        AT_REST / 1024,
        if resident <= AT_REST {
            "met"
        } else {
            "not met"
        }
    );
    Ok(true)
}

/// Time that 32 connections at a time, waiting 10 s each, would need for a case: measured on a /27 of the same site
/// and scaled by the rounds for its dark endpoints.
pub(super) fn patience(case: &Case) -> Result<Duration> {
    let bed = bed("10.77.0.0/27", 3, Layout::Routed)?;
    let mut command = bed.exec(crate::lab::Zone::Node, std::env::current_exe()?);
    command.args(["dial-patiently", "10.77.0.0/27"]);
    command.args(case.ports.iter().map(u16::to_string));
    let began = Instant::now();
    proc::capture(&mut command)?;
    let hosts = 1_usize
        << (32
            - case
                .subnet
                .rsplit('/')
                .next()
                .unwrap_or("32")
                .parse::<u32>()?);
    let here = rounds(32 - 3, case.ports.len());
    let there = rounds(hosts - case.devices, case.ports.len());
    Ok(began.elapsed() * there / here)
}

/// Rounds of 32 dark endpoints.
fn rounds(dark: usize, ports: usize) -> u32 {
    u32::try_from((dark * ports).div_ceil(super::patient::AT_A_TIME)).unwrap_or(u32::MAX)
}

pub(super) fn bed(subnet: &str, devices: usize, layout: Layout) -> Result<TestBed> {
    TestBed::up(&Site {
        subnet,
        devices,
        layout,
        simulator: &session::release_dir()?.join("fleet-sim"),
    })
}

pub(super) fn scan(bed: &TestBed, tool: Tool, subnet: &str, ports: &[u16]) -> Result<Figures> {
    let mut command = tool.command(bed, subnet, ports)?;
    measure(&mut command, LIMIT, |line| tool.found(line))
}

fn missed(bed: &TestBed, figures: &Figures) -> usize {
    let truth: BTreeSet<Ipv4Addr> = bed.devices().iter().copied().collect();
    truth.difference(&figures.found).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dark_endpoints_wait_in_rounds_of_32() {
        for (dark, ports, expected) in [(0, 3, 0), (32, 1, 1), (29, 3, 3), (922, 3, 87)] {
            assert_eq!(rounds(dark, ports), expected);
        }
    }

    #[test]
    fn doubt_is_read_from_the_scanners_messages() {
        let remark =
            "# the neighbor table of this machine had no room for some targets: 9 (10.76.0.9)";
        assert!(reports_uncertainty(remark));
        assert!(!reports_uncertainty(
            "# 655 of 65536 identified, 0 not reached"
        ));
    }
}
