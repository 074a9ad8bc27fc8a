//! Canceling, the time limit, dropped streams and slow consumers.

use std::time::{Duration, Instant};

use fleet_core::TargetOutcome;
use fleet_scan::{Interruption, Scan, ScanEvent, ScanOptions};
use fleet_sim::{RunningSite, Site};

use crate::{finish, found, job, quick, scan, scanner, start};

/// Devices of a site, and the rate at which a scan of it takes two seconds.
const DEVICES: usize = 200;
const RATE: u32 = 100;

/// More devices than a scan buffers for its consumer.
const MORE_THAN_BUFFERED: usize = 100;

fn slow_sweep() -> ScanOptions {
    ScanOptions {
        rate: RATE,
        ..quick()
    }
}

/// Runs another scan, which takes as long as the stopped one would have taken. Had the stopped one continued, its
/// connections would be in its journal afterwards.
async fn outlast(test: u8) {
    let other = start(Site::slow(DEVICES, Duration::ZERO), test).await;
    let (summary, ..) = scan(&scanner(slow_sweep()), job(other.site())).await;
    assert_eq!(summary.found, DEVICES as u64);
}

/// Takes events until this many devices are found.
async fn take(scan: &mut Scan, devices: usize) -> Vec<ScanEvent> {
    let mut events = Vec::new();
    while found(&events).len() < devices {
        events.push(scan.next().await.expect("more devices"));
    }
    events
}

/// Waits until a site has accepted this many connections.
async fn accepted(running: &RunningSite, connections: u64) {
    let limit = Instant::now() + Duration::from_secs(30);
    while running.journal().count() < connections {
        assert!(Instant::now() < limit, "{}", running.journal().count());
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canceled_scan_opens_no_connection_and_keeps_found_devices() {
    let running = start(Site::slow(DEVICES, Duration::from_millis(20)), 20).await;
    let mut scan = scanner(slow_sweep())
        .scan(job(running.site()))
        .expect("it starts");
    let before = take(&mut scan, 10).await;
    scan.cancel();
    let canceled_at = running.journal().now();
    let (summary, after, _) = finish(scan).await;
    assert_eq!(summary.interrupted, Some(Interruption::Canceled));
    assert!(!summary.is_complete());
    let devices = found(&before).len() + after.len();
    assert_eq!(summary.found, devices as u64);
    assert_eq!(summary.count(TargetOutcome::Identified), summary.found);
    assert_eq!(summary.outcomes.len(), DEVICES);
    assert!(summary.count(TargetOutcome::NotReached) > 0);
    outlast(25).await;
    let late = running
        .journal()
        .connections_since(canceled_at + Duration::from_secs(1));
    assert!(late.is_empty(), "{late:?}");
    assert!(running.journal().count() < DEVICES as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_stream_stops_its_scan_within_a_second() {
    let running = start(Site::slow(DEVICES, Duration::ZERO), 22).await;
    let mut scan = scanner(slow_sweep())
        .scan(job(running.site()))
        .expect("it starts");
    take(&mut scan, 10).await;
    drop(scan);
    let dropped_at = running.journal().now();
    outlast(26).await;
    let late = running
        .journal()
        .connections_since(dropped_at + Duration::from_secs(1));
    assert!(late.is_empty(), "{late:?}");
    assert!(running.journal().count() < DEVICES as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_ends_with_its_results_when_its_time_is_over() {
    let running = start(Site::slow(DEVICES, Duration::from_millis(1)), 21).await;
    let mut job = job(running.site());
    job.budget = Duration::from_millis(400);
    let (summary, found, _) = scan(&scanner(slow_sweep()), job).await;
    assert_eq!(summary.interrupted, Some(Interruption::BudgetSpent));
    assert!((1..DEVICES).contains(&found.len()), "{}", found.len());
    assert_eq!(found.len() as u64, summary.found);
    assert!(summary.count(TargetOutcome::NotReached) > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identification_that_is_cut_off_leaves_a_gap() {
    let running = start(Site::slow(2, Duration::from_secs(60)), 27).await;
    let options = ScanOptions {
        identify_timeout: Duration::from_millis(200),
        ..ScanOptions::default()
    };
    let (summary, found, _) = scan(&scanner(options), job(running.site())).await;
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(summary.count(TargetOutcome::Unidentified), 2);
    assert_eq!(summary.gaps.cut_off, 2);
    assert!(!summary.is_complete(), "{summary:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_comes_late_gets_every_device_once() {
    let running = start(Site::slow(MORE_THAN_BUFFERED, Duration::ZERO), 23).await;
    let scan = scanner(quick())
        .scan(job(running.site()))
        .expect("it starts");
    accepted(&running, MORE_THAN_BUFFERED as u64).await;
    let (summary, devices, _) = finish(scan).await;
    let mut endpoints: Vec<_> = devices.iter().map(|device| device.endpoint).collect();
    endpoints.sort();
    endpoints.dedup();
    assert_eq!(
        (endpoints.len(), devices.len()),
        (MORE_THAN_BUFFERED, MORE_THAN_BUFFERED)
    );
    assert!(summary.is_complete(), "{summary:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_a_scan_that_waits_for_its_consumer() {
    let running = start(Site::slow(MORE_THAN_BUFFERED, Duration::ZERO), 24).await;
    let scan = scanner(quick())
        .scan(job(running.site()))
        .expect("it starts");
    // The scan cannot end before the cancel, because it cannot deliver this many devices.
    accepted(&running, MORE_THAN_BUFFERED as u64).await;
    scan.cancel();
    let (summary, devices, _) = finish(scan).await;
    assert_eq!(summary.interrupted, Some(Interruption::Canceled));
    assert_eq!(devices.len() as u64, summary.found);
}
