//! A process that runs out of descriptors in the middle of a scan. The scanner runs in a child, which is this test again,
//! because the limit applies to the whole process.

use std::{
    fs,
    net::Ipv4Addr,
    process::Command,
    time::{Duration, Instant},
};

use fleet_core::TargetOutcome;
use fleet_scan::{ScanEvent, ScanOptions, ScanSummary};
use fleet_sim::{Lab, Site};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{finish, job, quick, scanner};

const MANNER: &str = "FLEET_TEST_SCAN_DESCRIPTORS";
const DEVICES: usize = 200;
/// A scan of all devices takes two seconds.
const RATE: u32 = 100;

fn site() -> Site {
    Site::slow(DEVICES, Duration::ZERO).starting_at(Ipv4Addr::new(127, 90, 29, 1))
}

/// Lets the process open no further descriptor. Returns the limit before.
fn close_the_supply() -> Rlimit {
    let before = getrlimit(Resource::Nofile);
    let open = fs::read_dir("/proc/self/fd").expect("proc").count() as u64;
    // Descriptors above the limit stay open. The lowest free number must not be below it.
    let current = Some(open.min(3));
    let maximum = before.maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).expect("lower is allowed");
    before
}

/// The child, when it is one.
#[test]
fn child() {
    let Ok(manner) = std::env::var(MANNER) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let summary = runtime.block_on(scan_with_a_shortage(manner == "for ever"));
    let count = |outcome| summary.count(outcome);
    let lost = count(TargetOutcome::NotReached);
    let short = summary
        .notes
        .iter()
        .any(|note| note.contains("connections"));
    assert!(short, "{summary:?}");
    if manner == "for ever" {
        assert!(lost > 0 && lost < DEVICES as u64, "{summary:?}");
        assert_eq!(lost + count(TargetOutcome::Identified), DEVICES as u64);
        assert_eq!(count(TargetOutcome::Silent), 0, "{summary:?}");
    } else {
        assert_eq!(count(TargetOutcome::Identified), DEVICES as u64);
    }
}

async fn scan_with_a_shortage(for_ever: bool) -> ScanSummary {
    let options = ScanOptions {
        rate: RATE,
        ..quick()
    };
    let mut scan = scanner(options).scan(job(&site())).expect("it starts");
    let mut devices = 0;
    while devices < 10 {
        let event = scan.next().await.expect("more devices");
        devices += u32::from(matches!(event, ScanEvent::Found(_)));
    }
    let before = close_the_supply();
    if !for_ever {
        // Shorter than the time after which the scanner gives up.
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            setrlimit(Resource::Nofile, before).expect("the limit before");
        });
    }
    let (summary, ..) = finish(scan).await;
    setrlimit(Resource::Nofile, before).expect("the limit before");
    summary
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_a_process_without_descriptors_cannot_try_are_not_reached() {
    let _running = Lab::start(site()).await.expect("the site starts");
    for manner in ["for ever", "for a second"] {
        let started = Instant::now();
        let child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "descriptors::child", "--nocapture"])
            .env(MANNER, manner)
            .output()
            .expect("the child runs");
        let shown = String::from_utf8_lossy(&child.stdout);
        assert!(
            child.status.success() && shown.contains("1 passed"),
            "{manner}, after {:?}: {shown}{}",
            started.elapsed(),
            String::from_utf8_lossy(&child.stderr)
        );
    }
}
