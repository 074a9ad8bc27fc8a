//! Tests with plugin processes: a Python plugin that identifies the devices of `tests/plugins/acme.py`, and scripts with
//! every kind of misbehavior.

mod bad;
mod hosted;
mod life;

#[path = "../../../tests/plugins/hosted.rs"]
mod plugins;

use std::{
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use fleet_core::{AddressPolicy, Port};
use fleet_plugin::{HostOptions, PluginHost, Timing};
use fleet_scan::{
    DriverSet, FoundDevice, Guard, ScanEvent, ScanJob, ScanOptions, ScanSummary, Scanner,
};

/// Time limit of a step on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time limits with a short restart delay.
fn quick() -> Timing {
    Timing {
        first_backoff: Duration::from_millis(100),
        ..Timing::default()
    }
}

fn options(folder: &Path, timing: Timing) -> HostOptions {
    HostOptions {
        timing,
        ..HostOptions::new(folder, env!("CARGO_BIN_EXE_fleet-plugin-guard"))
    }
}

/// Starts the plugins of a folder and waits for them.
async fn start(options: HostOptions) -> PluginHost {
    let host = PluginHost::start(options).expect("a safe folder");
    host.wait_started(PATIENCE).await;
    host
}

/// Polls until `look` returns a value.
async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < until, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A temporary folder that only this user can write.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    plugins::private(folder.path());
    folder
}

fn address(test: u8, host: u8) -> IpAddr {
    [127, 94, test, host].into()
}

fn drivers(host: &PluginHost) -> Arc<DriverSet> {
    let set = DriverSet::built_in().with(host.drivers());
    Arc::new(set.expect("a set of drivers"))
}

fn quick_scan() -> ScanOptions {
    ScanOptions {
        reply_timeout: Duration::from_secs(2),
        ..ScanOptions::default()
    }
}

fn job(targets: Vec<IpAddr>, port: u16) -> ScanJob {
    ScanJob {
        ports: Port::new(port).into_iter().collect(),
        guard: Guard::policy(AddressPolicy::DEMO),
        ..ScanJob::new(targets)
    }
}

/// Scans at the port of the plugins' devices.
async fn scan(host: &PluginHost, targets: &[IpAddr]) -> (ScanSummary, Vec<FoundDevice>) {
    scan_with(host, job(targets.to_vec(), plugins::PORT)).await
}

async fn scan_with(host: &PluginHost, job: ScanJob) -> (ScanSummary, Vec<FoundDevice>) {
    let scanner = Scanner::new(quick_scan(), drivers(host));
    let mut scan = scanner.scan(job).expect("the scan starts");
    let mut found = Vec::new();
    while let Some(event) = scan.next().await {
        match event {
            ScanEvent::Found(device) => found.push(device),
            ScanEvent::Ended(summary) => return (summary, found),
            ScanEvent::Unidentified(_) | ScanEvent::Note(_) | ScanEvent::Progress(_) => {}
        }
    }
    panic!("the scan crashed");
}

/// The problem of the only plugin, if it is down.
fn problem(host: &PluginHost) -> Option<String> {
    host.drivers().first().and_then(|driver| driver.trouble())
}

/// Whether a process runs. A zombie does not.
fn runs(pid: &str) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    !state.starts_with('Z')
}
