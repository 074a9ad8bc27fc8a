//! The load on the network, according to the simulator's journal.

use std::time::{Duration, Instant};

use fleet_core::{Port, TargetOutcome};
use fleet_scan::{Guard, ScanOptions};
use fleet_sim::Site;

use crate::{job, quick, scan, scanner, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rate_is_kept_on_average() {
    let running = start(Site::slow(100, Duration::ZERO), 10).await;
    let began = Instant::now();
    let options = ScanOptions {
        rate: 100,
        ..quick()
    };
    let (summary, found, _) = scan(&scanner(options), job(running.site())).await;
    assert_eq!(found.len(), 100);
    assert!(summary.is_complete());
    // A burst of 16 goes at once. The other 84 take ten milliseconds each.
    assert!(
        began.elapsed() >= Duration::from_millis(800),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_with_many_ports_never_has_more_than_two_connections() {
    let mut site = Site::slow(20, Duration::from_millis(30));
    for device in &mut site.devices {
        let first = device.services[0].clone();
        device.services = (14_000..14_008)
            .map(|port| fleet_sim::Service {
                port,
                ..first.clone()
            })
            .collect();
    }
    let running = start(site, 11).await;
    let (_, found, _) = scan(&scanner(quick()), job(running.site())).await;
    assert_eq!(found.len(), 20, "a device is reported once");
    assert_eq!(running.journal().max_concurrent_per_host(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forbidden_host_is_never_touched() {
    let running = start(Site::slow(10, Duration::ZERO), 12).await;
    let mut job = job(running.site());
    let spared = job.targets[3];
    job.guard = Guard::new(move |endpoint| {
        if endpoint.ip == spared {
            Err(format!("{} is not ours", endpoint.ip))
        } else {
            Ok(())
        }
    });
    let (summary, found, _) = scan(&scanner(quick()), job).await;
    assert_eq!(found.len(), 9);
    assert_eq!(summary.outcomes[3], TargetOutcome::Skipped);
    assert!(
        summary
            .notes
            .iter()
            .any(|note| note.contains("is not ours")),
        "{:?}",
        summary.notes
    );
    assert!(!running.journal().touched_addresses().contains(&spared));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_guard_refuses_loopback() {
    let running = start(Site::slow(2, Duration::ZERO), 13).await;
    let mut job = job(running.site());
    job.guard = Guard::default();
    let (summary, found, _) = scan(&scanner(quick()), job).await;
    assert!(found.is_empty());
    assert_eq!(summary.count(TargetOutcome::Skipped), 2);
    assert_eq!(running.journal().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_requested_raw_port_of_a_printer_gets_a_connection_and_no_data() {
    let mut site = Site::slow(1, Duration::ZERO);
    site.devices[0].services[0].port = 9100;
    let running = start(site, 14).await;
    let mut job = job(running.site());
    job.ports = Port::new(9100).into_iter().collect();
    let (summary, _, _) = scan(&scanner(quick()), job).await;
    assert_eq!(summary.outcomes, [TargetOutcome::Unidentified]);
    let journal = running.journal().clone();
    running.shutdown().await;
    assert_eq!(journal.count(), 1);
    assert!(
        journal
            .connections()
            .iter()
            .all(|connection| connection.bytes_read == 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_at_a_time_finds_everything() {
    let running = start(Site::slow(60, Duration::from_millis(5)), 15).await;
    let options = ScanOptions {
        connections: 1,
        ..quick()
    };
    let (_, found, _) = scan(&scanner(options), job(running.site())).await;
    assert_eq!(found.len(), 60);
}
