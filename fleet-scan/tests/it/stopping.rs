//! Cancel, budget, a consumer that leaves or is slow.

use std::time::Duration;

use fleet_core::TargetOutcome;
use fleet_scan::{Interruption, ScanEvent, ScanOptions};
use fleet_sim::Site;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{found, job, quick, scanner, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_cancel_no_connection_is_opened_and_what_was_found_is_kept() {
    let running = start(Site::slow(200, Duration::from_millis(20)), 20).await;
    let cancel = CancellationToken::new();
    let (sink, mut events) = mpsc::channel(16);
    let slow_sweep = ScanOptions {
        rate: 100,
        ..quick()
    };
    let (job, scanner, token) = (job(running.site()), scanner(slow_sweep), cancel.clone());
    let scan = tokio::spawn(async move { scanner.run(job, sink, token).await });
    let mut gathered = Vec::new();
    while found(&gathered).len() < 10 {
        gathered.push(events.recv().await.expect("more devices"));
    }
    cancel.cancel();
    let canceled_at = running.journal().now();
    while let Some(event) = events.recv().await {
        gathered.push(event);
    }
    let summary = scan.await.expect("no panic").expect("the scan began");
    let late = running
        .journal()
        .connections_since(canceled_at + Duration::from_secs(1));
    assert!(late.is_empty(), "{late:?}");
    assert_eq!(summary.interrupted, Some(Interruption::Canceled));
    assert!(!summary.is_complete());
    assert_eq!(summary.found, found(&gathered).len() as u64);
    assert_eq!(summary.count(TargetOutcome::Identified), summary.found);
    assert!(summary.count(TargetOutcome::NotReached) > 0);
    assert_eq!(summary.outcomes.len(), 200);
    // What arrived before the cancel was opened before the scan returned; nothing follows.
    let connections = running.journal().count();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(running.journal().count(), connections);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_ends_with_what_it_has_when_its_budget_is_spent() {
    let running = start(Site::slow(100, Duration::from_millis(1)), 21).await;
    let mut job = job(running.site());
    job.budget = Duration::from_millis(400);
    let (sink, mut events) = mpsc::channel(1_000);
    let options = ScanOptions {
        rate: 50,
        ..quick()
    };
    let summary = scanner(options)
        .run(job, sink, CancellationToken::new())
        .await
        .expect("it begins");
    assert_eq!(summary.interrupted, Some(Interruption::BudgetSpent));
    assert!(
        summary.found > 0 && summary.found < 100,
        "{}",
        summary.found
    );
    let mut gathered = Vec::new();
    while let Ok(event) = events.try_recv() {
        gathered.push(event);
    }
    assert_eq!(found(&gathered).len() as u64, summary.found);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_without_anybody_to_take_its_results_ends() {
    let running = start(Site::slow(50, Duration::from_millis(1)), 22).await;
    let (sink, mut events) = mpsc::channel(1);
    let (job, scanner) = (job(running.site()), scanner(quick()));
    let scan = tokio::spawn(async move { scanner.run(job, sink, CancellationToken::new()).await });
    let first = events.recv().await;
    assert!(first.is_some());
    drop(events);
    let summary = scan.await.expect("no panic").expect("the scan began");
    assert_eq!(summary.interrupted, Some(Interruption::SinkClosed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_consumer_gets_every_device_once() {
    let running = start(Site::slow(80, Duration::ZERO), 23).await;
    let (sink, mut events) = mpsc::channel(1);
    let (job, scanner) = (job(running.site()), scanner(quick()));
    let scan = tokio::spawn(async move { scanner.run(job, sink, CancellationToken::new()).await });
    let mut devices = Vec::new();
    while let Some(event) = events.recv().await {
        if let ScanEvent::Found(device) = event {
            devices.push(device.endpoint);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    let summary = scan.await.expect("no panic").expect("the scan began");
    devices.sort();
    devices.dedup();
    assert_eq!(devices.len(), 80);
    assert!(summary.is_complete(), "{summary:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_reaches_a_scan_that_waits_for_its_consumer() {
    let running = start(Site::slow(80, Duration::ZERO), 24).await;
    let cancel = CancellationToken::new();
    let (sink, mut events) = mpsc::channel(1);
    let (job, scanner, token) = (job(running.site()), scanner(quick()), cancel.clone());
    let scan = tokio::spawn(async move { scanner.run(job, sink, token).await });
    while running.journal().count() < 5 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    cancel.cancel();
    let mut gathered = Vec::new();
    while let Some(event) = events.recv().await {
        gathered.push(event);
    }
    let summary = scan.await.expect("no panic").expect("the scan began");
    assert_eq!(summary.interrupted, Some(Interruption::Canceled));
    assert_eq!(found(&gathered).len() as u64, summary.found);
}
