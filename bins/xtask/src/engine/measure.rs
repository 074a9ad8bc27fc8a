//! Measures one run of a program: time, time to the first finding, CPU, memory.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How often memory is read. The kernel keeps the peak, and only the last moments can be missed.
const LOOK: Duration = Duration::from_millis(5);

/// On Linux, /proc always counts 100 ticks per second.
const TICK: Duration = Duration::from_millis(10);

/// The figures of one run.
#[derive(Debug, Clone)]
pub(super) struct Figures {
    pub(super) wall: Duration,
    /// Until the first finding was printed.
    pub(super) first: Option<Duration>,
    pub(super) cpu: Duration,
    /// Peak of resident memory, in KiB.
    pub(super) memory: u64,
    pub(super) found: BTreeSet<Ipv4Addr>,
    /// Lines that begin with `#`: remarks of our scanner.
    pub(super) remarks: Vec<String>,
}

impl Figures {
    /// The median of each figure, without findings and remarks.
    pub(super) fn median(runs: &[Self]) -> Self {
        fn middle<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
            let mut values: Vec<T> = values.collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied()
        }
        Self {
            wall: middle(runs.iter().map(|run| run.wall)).unwrap_or_default(),
            first: middle(runs.iter().filter_map(|run| run.first)),
            cpu: middle(runs.iter().map(|run| run.cpu)).unwrap_or_default(),
            memory: middle(runs.iter().map(|run| run.memory)).unwrap_or_default(),
            found: BTreeSet::new(),
            remarks: Vec::new(),
        }
    }
}

/// Runs a program to its end. `found` parses the address in a line of its output.
pub(super) fn measure(
    command: &mut Command,
    limit: Duration,
    found: impl Fn(&str) -> Option<Ipv4Addr>,
) -> Result<Figures> {
    // After `netns exec NAMESPACE`.
    let program = command.get_args().nth(3).unwrap_or_default().to_owned();
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("starting `ip netns exec`")?;
    let pid = child.id();
    let output = child.stdout.take().context("standard output is piped")?;
    let (lines, received) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = lines.send((Instant::now(), line));
        }
    });
    let (mut memory, mut cpu) = (0, Duration::ZERO);
    let wall = loop {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        cpu = cpu_time(&stat).unwrap_or(cpu);
        // The program has ended, but /proc keeps its times until `wait`.
        if is_zombie(&stat) {
            break began.elapsed();
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        memory = most_resident(&status).unwrap_or(0).max(memory);
        if began.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!("{} did not end within {limit:?}", program.display());
        }
        thread::sleep(LOOK);
    };
    let status = child.wait()?;
    if !status.success() {
        bail!("{} failed: {status}", program.display());
    }
    reader
        .join()
        .map_err(|_| anyhow::anyhow!("the reader of its output crashed"))?;
    let mut findings: Vec<(Instant, Ipv4Addr)> = Vec::new();
    let mut remarks = Vec::new();
    for (at, line) in received {
        findings.extend(found(&line).map(|address| (at, address)));
        if line.starts_with('#') {
            remarks.push(line);
        }
    }
    Ok(Figures {
        wall,
        first: findings
            .first()
            .map(|(at, _)| at.saturating_duration_since(began)),
        cpu,
        memory,
        found: findings.into_iter().map(|(_, address)| address).collect(),
        remarks,
    })
}

/// The fields of /proc/PID/stat after the name, which may contain any character.
fn after_name(stat: &str) -> impl Iterator<Item = &str> {
    let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
    fields.split_whitespace()
}

fn is_zombie(stat: &str) -> bool {
    after_name(stat).next() == Some("Z")
}

/// Fields 14 and 15: user and system time of all threads.
fn cpu_time(stat: &str) -> Option<Duration> {
    let mut times = after_name(stat).skip(11).map(str::parse::<u32>);
    match (times.next(), times.next()) {
        (Some(Ok(user)), Some(Ok(system))) => Some(TICK * (user + system)),
        _ => None,
    }
}

/// In KiB.
fn most_resident(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_parsed_from_proc() {
        let stat = "7 (a) b) Z 1 7 7 0 -1 4 5 6 7 8 150 50 0 0 20 0 1 0 9\n";
        assert!(is_zombie(stat));
        assert_eq!(cpu_time(stat), Some(Duration::from_secs(2)));
        assert_eq!(cpu_time(""), None);
        assert_eq!(most_resident("VmPeak:\t 9 kB\nVmHWM:\t  8 kB\n"), Some(8));
    }

    #[test]
    fn each_figure_has_its_own_median() {
        let run = |wall, first: Option<u64>, memory| Figures {
            wall: Duration::from_secs(wall),
            first: first.map(Duration::from_secs),
            cpu: Duration::ZERO,
            memory,
            found: BTreeSet::new(),
            remarks: Vec::new(),
        };
        let runs = [run(9, None, 1), run(1, Some(1), 3), run(2, Some(2), 2)];
        let median = Figures::median(&runs);
        assert_eq!((median.wall.as_secs(), median.memory), (2, 2));
        assert_eq!(median.first, Some(Duration::from_secs(2)));
    }
}
