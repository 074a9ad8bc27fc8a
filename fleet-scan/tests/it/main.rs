//! The scanner against simulated devices on loopback. The results are compared with the simulator's truth, the
//! connections with the simulator's journal.

mod corpus;
mod descriptors;
mod drivers;
mod examples;
mod external;
mod host_names;
mod identification;
mod ip_reports;
mod logins;
mod mdns;
mod names;
mod namespaces;
mod other_hosts;
mod pairing;
mod password_proofs;
mod politeness;
mod recorded;
mod stopping;
mod unidentified;
mod upstream_devices;

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use fleet_core::{AddressPolicy, Port};
use fleet_scan::{
    DriverSet, FoundDevice, Guard, Scan, ScanEvent, ScanJob, ScanOptions, ScanSummary, Scanner,
};
use fleet_sim::{Lab, RunningSite, Site};

/// Starts a site in its own part of 127.0.0.0/8, so that tests can run in parallel.
async fn start(site: Site, test: u8) -> RunningSite {
    Lab::start(site.starting_at(Ipv4Addr::new(127, 90, test, 1)))
        .await
        .expect("the site starts")
}

fn ports(site: &Site) -> Vec<Port> {
    site.ports().into_iter().filter_map(Port::new).collect()
}

/// A scan of every device of a site, on every port in use there.
fn job(site: &Site) -> ScanJob {
    ScanJob {
        ports: ports(site),
        guard: Guard::policy(AddressPolicy::DEMO),
        budget: Duration::from_secs(120),
        ..ScanJob::new(site.addresses())
    }
}

/// Short waits, for sites without slow devices.
fn quick() -> ScanOptions {
    ScanOptions {
        reply_timeout: Duration::from_secs(2),
        ..ScanOptions::default()
    }
}

fn scanner(options: ScanOptions) -> Scanner {
    Scanner::new(options, Arc::new(DriverSet::built_in()))
}

/// Runs a scan to its end.
async fn scan(scanner: &Scanner, job: ScanJob) -> (ScanSummary, Vec<FoundDevice>, Vec<ScanEvent>) {
    finish(scanner.scan(job).expect("the scan starts")).await
}

/// Takes the remaining events of a scan.
async fn finish(mut scan: Scan) -> (ScanSummary, Vec<FoundDevice>, Vec<ScanEvent>) {
    let mut events = Vec::new();
    while let Some(event) = scan.next().await {
        if let ScanEvent::Ended(summary) = event {
            assert_eq!(scan.next().await, None, "the summary is the last event");
            return (summary, found(&events), events);
        }
        events.push(event);
    }
    panic!("the scan ended without a summary");
}

fn found(events: &[ScanEvent]) -> Vec<FoundDevice> {
    events
        .iter()
        .filter_map(|event| match event {
            ScanEvent::Found(device) => Some(device.clone()),
            ScanEvent::Unidentified(_)
            | ScanEvent::Progress(_)
            | ScanEvent::Note(_)
            | ScanEvent::Ended(_) => None,
        })
        .collect()
}
