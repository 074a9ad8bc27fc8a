//! `prove engine`: our scan engine beside nmap, zmap and RustScan, in one run, on the same simulated site.
//!
//! Network namespaces hold the site ([`crate::lab::TestBed`]). [`cases`] lists sites and thresholds, [`tools`] the
//! scanners, [`mod@measure`] measures one run, and [`extras`] has the measurements without a competitor. Ratios decide,
//! because they hold on any machine. Absolute figures are printed beside their targets.

mod cases;
mod extras;
mod measure;
mod patient;
mod tools;

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, bail};
use cases::{CASES, Case, Extra, FIRST, MEMORY};
use measure::Figures;
pub(crate) use patient::dial as dial_patiently;
use tools::Tool;

use crate::{proc, session};

/// Runs of each scanner. Medians are compared.
const ROUNDS: usize = 5;

/// Runs all cases, or the named ones. Returns whether every ratio holds and nothing was missed. `--quick` runs our
/// engine no more often than the others, and leaves out the measurements that take minutes.
pub(crate) fn prove(arguments: &[&str]) -> Result<bool> {
    let (quick, names) = match arguments {
        ["--quick", names @ ..] => (true, names),
        names => (false, names),
    };
    let known = cases::names();
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        bail!(
            "prove engine: `{unknown}` is not a case; the cases are {}",
            known.join(", ")
        );
    }
    if !proc::is_root() {
        bail!("prove engine creates network namespaces, which needs root");
    }
    tools::required()?;
    proc::capture(session::cargo().args([
        "build",
        "--release",
        "--package",
        "fleet-scan",
        "--example",
        "measured",
        "--package",
        "fleet-sim",
        "--bin",
        "fleet-sim",
    ]))?;
    println!(
        "load before the run: {}",
        std::fs::read_to_string("/proc/loadavg")?.trim()
    );
    let wanted = |name: &str| names.is_empty() || names.contains(&name);
    let mut holds = true;
    for case in CASES.iter().filter(|case| wanted(case.name)) {
        holds &= case.run(quick)?;
    }
    for extra in Extra::ALL.into_iter().filter(|extra| wanted(extra.name())) {
        holds &= extras::run(extra, quick)?;
    }
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

/// All runs of one tool.
struct Runs {
    tool: Tool,
    figures: Vec<Figures>,
    /// Runs that found exactly the devices of the site.
    exact: usize,
    /// The fewest devices found in a run.
    fewest: usize,
    median: Figures,
}

impl Runs {
    fn new(tool: Tool, figures: Vec<Figures>, truth: &BTreeSet<Ipv4Addr>) -> Result<Self> {
        let found = figures.iter().map(|run| run.found.intersection(truth));
        Ok(Self {
            tool,
            exact: figures.iter().filter(|run| run.found == *truth).count(),
            fewest: found.map(Iterator::count).min().context("every tool ran")?,
            median: Figures::median(&figures),
            figures,
        })
    }

    fn print(&self, truth: usize) {
        let first = self.median.first.map(|first| first.as_secs_f64());
        println!(
            "    {:<28} {:>9.3} {:>9} {:>9.2} {:>9.1} {:>12} {:>8}",
            self.tool.name(),
            self.median.wall.as_secs_f64(),
            first.map_or("-".to_owned(), |first| format!("{first:.3}")),
            self.median.cpu.as_secs_f64(),
            self.median.memory as f64 / 1024.0,
            self.fewest,
            truth - self.fewest,
        );
    }
}

impl Case {
    fn run(&self, quick: bool) -> Result<bool> {
        println!("\n=== {}: {}", self.name, self.what);
        let runs = self.measure(quick)?;
        println!(
            "    {:<28} {:>9} {:>9} {:>9} {:>9} {:>12} {:>8}",
            "median", "wall s", "first s", "CPU s", "MiB", "found (min)", "missed"
        );
        let mut holds = true;
        for run in &runs {
            run.print(self.devices);
            if run.tool.is_ours() {
                let (exact, all) = (run.exact, run.figures.len());
                println!("        {exact} of {all} runs found exactly the devices of the site");
                holds &= exact == all;
            }
        }
        for tool in self.tools.iter().filter(|tool| !tool.is_installed()) {
            println!("    {:<28} not measured: not installed", tool.name());
        }
        if let Some(ours) = runs.iter().find(|run| run.tool == Tool::Ours) {
            self.print_aims(&runs, &ours.median);
            holds &= self.judge_ratios(&runs, ours.median.wall)?;
        }
        Ok(holds)
    }

    /// Runs the tools alternately, because other load on the machine then affects all of them. The additional runs of
    /// our engine follow.
    fn measure(&self, quick: bool) -> Result<Vec<Runs>> {
        let bed = extras::bed(self.subnet, self.devices, self.layout)?;
        let truth: BTreeSet<Ipv4Addr> = bed.devices().iter().copied().collect();
        let there = self.tools.iter().filter(|tool| tool.is_installed());
        let mut runs: Vec<(Tool, Vec<Figures>)> = there.map(|tool| (*tool, Vec::new())).collect();
        let most = if quick { ROUNDS } else { self.runs };
        for round in 0..most.max(ROUNDS) {
            for (tool, figures) in &mut runs {
                if round < ROUNDS || *tool == Tool::Ours {
                    figures.push(extras::scan(&bed, *tool, self.subnet, self.ports)?);
                }
            }
        }
        let runs = runs.into_iter();
        runs.map(|(tool, figures)| Runs::new(tool, figures, &truth))
            .collect()
    }

    fn print_aims(&self, runs: &[Runs], ours: &Figures) {
        let aim = |what: &str, is: Duration, aim: Duration| {
            let met = if is <= aim { "met" } else { "not met" };
            println!("    {what}: {is:.3?}, target {aim:?}: {met}");
        };
        for (tool, wall) in self.aims {
            if let Some(run) = runs.iter().find(|run| run.tool == *tool) {
                aim(tool.name(), run.median.wall, *wall);
            }
        }
        if let Some(first) = ours.first {
            aim("first device", first, FIRST);
        }
        if let (Some(cpu), Ok(devices)) = (self.cpu, u32::try_from(self.devices)) {
            aim("CPU per device", ours.cpu / devices, cpu);
        }
        if ours.memory > MEMORY {
            println!("    more than {} MiB", MEMORY / 1024);
        }
    }

    fn judge_ratios(&self, runs: &[Runs], ours: Duration) -> Result<bool> {
        let mut holds = true;
        let mut judge = |who: &str, theirs: Duration, wanted: f64| {
            let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
            let held = ratio >= wanted;
            holds &= held;
            println!(
                "    {ratio:.2} times as fast as {who} (threshold {wanted:.2}): {}",
                if held { "holds" } else { "FAILS" }
            );
        };
        for (tool, wanted) in self.ratios {
            if let Some(run) = runs.iter().find(|run| run.tool == *tool) {
                judge(tool.name(), run.median.wall, *wanted);
            }
        }
        if let Some(wanted) = self.than_patience {
            let theirs = extras::patience(self)?;
            judge("32 at a time with 10 s each (scaled)", theirs, wanted);
        }
        Ok(holds)
    }
}
