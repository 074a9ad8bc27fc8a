//! `prove engine`: our scan engine beside nmap, zmap and RustScan, in one run, on the same simulated site.
//!
//! A lab of network namespaces holds the site ([`crate::lab::Bed`]); [`tools`] knows the scanners, [`mod@measure`] what one
//! run costs. Ratios decide, since they hold on any machine; absolute figures are printed beside what is aimed at.

mod measure;
mod tools;

use std::{collections::BTreeSet, net::Ipv4Addr, process::Command, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{
    lab::{Bed, Site},
    proc, session,
};
use measure::{Figures, measure};
use tools::Tool;

/// How often each scanner runs; medians are compared.
const ROUNDS: usize = 5;

/// The longest that one run may take.
const LIMIT: Duration = Duration::from_secs(300);

/// What one run may take of memory on our side, in KiB.
const MEMORY: u64 = 40 * 1024;

/// One site and who scans it.
struct Case {
    name: &'static str,
    what: &'static str,
    subnet: &'static str,
    devices: usize,
    ports: &'static [u16],
    tools: &'static [Tool],
    /// What our wall time is aimed at, by tool.
    aims: &'static [(Tool, Duration)],
    /// Our full rate is to be so many times as fast as somebody else.
    ratios: &'static [(Tool, f64)],
}

const CASES: &[Case] = &[
    Case {
        name: "B",
        what: "/22 x 3 ports, 10 % live, the rest dark, routed",
        subnet: "10.77.0.0/22",
        devices: 102,
        ports: &[4028, 80, 8080],
        tools: &[
            Tool::Ours,
            Tool::OursPolite,
            Tool::NmapRoot,
            Tool::Nmap,
            Tool::RustScan,
        ],
        aims: &[
            (Tool::Ours, Duration::from_millis(500)),
            (Tool::OursPolite, Duration::from_secs(2)),
        ],
        ratios: &[(Tool::NmapRoot, 12.0), (Tool::Nmap, 8.0)],
    },
    Case {
        name: "C",
        what: "/22 x 1 port, all live",
        subnet: "10.77.0.0/22",
        devices: 1_021,
        ports: &[4028],
        tools: &[Tool::Ours, Tool::RustScan],
        aims: &[(Tool::Ours, Duration::from_millis(400))],
        ratios: &[],
    },
    Case {
        name: "D",
        what: "/16 x 1 port, 1 % live, the rest dark, routed",
        subnet: "10.76.0.0/16",
        devices: 655,
        ports: &[4028],
        tools: &[Tool::Ours, Tool::Zmap, Tool::RustScan],
        aims: &[(Tool::Ours, Duration::from_secs(3))],
        ratios: &[(Tool::Zmap, 1.0 / 3.0)],
    },
];

/// Runs the cases, all or those that are named; says whether every ratio holds and nothing was missed.
pub(crate) fn prove(names: &[&str]) -> Result<bool> {
    if let Some(unknown) = names
        .iter()
        .find(|name| CASES.iter().all(|case| case.name != **name))
    {
        bail!("prove engine `{unknown}`: the cases are B, C and D");
    }
    if !proc::is_root() {
        bail!("prove engine makes network namespaces, which takes root");
    }
    tools::required()?;
    let root = session::root();
    proc::capture(Command::new("cargo").current_dir(&root).args([
        "build",
        "--release",
        "--package",
        "fleet-scan",
        "--example",
        "discover",
        "--package",
        "fleet-sim",
        "--bin",
        "fleet-sim",
    ]))?;
    println!(
        "load before the run: {}",
        std::fs::read_to_string("/proc/loadavg")?.trim()
    );
    let mut holds = true;
    for case in CASES {
        if names.is_empty() || names.contains(&case.name) {
            holds &= case.run()?;
        }
    }
    println!(
        "not measured yet: B and D on-link, 1 % loss, 32 at a time with 10 s each, D through a server, an idle node"
    );
    println!(
        "{}",
        if holds {
            "every ratio holds"
        } else {
            "NOT every ratio holds"
        }
    );
    Ok(holds)
}

impl Case {
    fn run(&self) -> Result<bool> {
        println!("\n=== {}: {}", self.name, self.what);
        let bed = Bed::up(&Site {
            subnet: self.subnet,
            devices: self.devices,
            simulator: &session::release_dir()?.join("fleet-sim"),
        })?;
        let truth: BTreeSet<Ipv4Addr> = bed.devices().iter().copied().collect();
        let mut runs: Vec<(Tool, Vec<Figures>)> = Vec::new();
        for tool in self.tools {
            if tool.is_there() {
                runs.push((*tool, Vec::new()));
            }
        }
        for _ in 0..ROUNDS {
            for (tool, figures) in &mut runs {
                let mut command = tool.command(&bed, self.subnet, self.ports)?;
                figures.push(measure(&mut command, LIMIT, |line| tool.found(line))?);
            }
        }
        println!(
            "    {:<28} {:>9} {:>9} {:>9} {:>9} {:>12} {:>8}",
            "median of 5", "wall s", "first s", "CPU s", "MiB", "found (min)", "missed"
        );
        let mut holds = true;
        let mut walls = Vec::new();
        for tool in self.tools {
            let Some((_, figures)) = runs.iter().find(|(ran, _)| ran == tool) else {
                println!("    {:<28} not measured: not installed", tool.name());
                continue;
            };
            let median = Figures::median(figures);
            let found = figures
                .iter()
                .map(|figures| figures.found.intersection(&truth).count())
                .min()
                .context("every tool ran")?;
            let invented = figures
                .iter()
                .any(|figures| !figures.found.is_subset(&truth));
            println!(
                "    {:<28} {:>9.3} {:>9} {:>9.2} {:>9.1} {:>12} {:>8}",
                tool.name(),
                median.wall.as_secs_f64(),
                median.first.map_or("-".to_owned(), |first| format!(
                    "{:.3}",
                    first.as_secs_f64()
                )),
                median.cpu.as_secs_f64(),
                median.memory as f64 / 1024.0,
                found,
                truth.len() - found,
            );
            if tool.is_ours() && (found < truth.len() || invented) {
                println!("        not exactly what is there");
                holds = false;
            }
            if tool.is_ours() && median.memory > MEMORY {
                println!("        more than 40 MiB");
            }
            walls.push((*tool, median.wall));
        }
        let wall = |tool: Tool| {
            walls
                .iter()
                .find(|(ran, _)| *ran == tool)
                .map(|(_, wall)| *wall)
        };
        for (tool, aim) in self.aims {
            if let Some(wall) = wall(*tool) {
                let met = if wall <= *aim { "met" } else { "not met" };
                println!(
                    "    {} is to take {:.1} s at most: {met}",
                    tool.name(),
                    aim.as_secs_f64()
                );
            }
        }
        for (tool, wanted) in self.ratios {
            let (Some(ours), Some(theirs)) = (wall(Tool::Ours), wall(*tool)) else {
                continue;
            };
            let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
            let held = ratio >= *wanted;
            holds &= held;
            println!(
                "    {ratio:.2} times as fast as {} (wanted {wanted:.2}): {}",
                tool.name(),
                if held { "holds" } else { "FAILS" }
            );
        }
        Ok(holds)
    }
}
