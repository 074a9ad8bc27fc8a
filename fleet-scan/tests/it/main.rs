//! The scanner against simulated devices on loopback: what it finds is compared with the simulator's truth, what it
//! does with the simulator's record.

mod corpus;
mod drivers;
mod identification;
mod logins;
mod mdns;
mod names;
mod outside;
mod pairing;
mod politeness;
mod recorded;
mod stopping;
mod strangers;

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use fleet_core::{AddressPolicy, Port};
use fleet_scan::{
    DriverSet, FoundDevice, Guard, ScanEvent, ScanJob, ScanOptions, ScanSummary, Scanner,
};
use fleet_sim::{Lab, RunningSite, Site};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Starts a site on a part of 127/8 of its own, so that tests run side by side.
async fn start(site: Site, test: u8) -> RunningSite {
    Lab::start(site.starting_at(Ipv4Addr::new(127, 90, test, 1)))
        .await
        .expect("the site starts")
}

fn ports(site: &Site) -> Vec<Port> {
    site.ports().into_iter().filter_map(Port::new).collect()
}

/// A scan of every device of a site on every port that is in use there.
fn job(site: &Site) -> ScanJob {
    ScanJob {
        ports: ports(site),
        guard: Guard::policy(AddressPolicy::DEMO),
        budget: Duration::from_secs(120),
        ..ScanJob::new(site.addresses())
    }
}

/// Short waits where nothing slow is expected.
fn quick() -> ScanOptions {
    ScanOptions {
        reply_timeout: Duration::from_secs(2),
        ..ScanOptions::default()
    }
}

fn scanner(options: ScanOptions) -> Scanner {
    Scanner::new(options, Arc::new(DriverSet::built_in()))
}

/// Runs a scan to its end and gathers what it told.
async fn scan(scanner: &Scanner, job: ScanJob) -> (ScanSummary, Vec<FoundDevice>, Vec<ScanEvent>) {
    let (sink, mut events) = mpsc::channel(16);
    let running = scanner.run(job, sink, CancellationToken::new());
    let gathering = async {
        let mut gathered = Vec::new();
        while let Some(event) = events.recv().await {
            gathered.push(event);
        }
        gathered
    };
    let (summary, events) = tokio::join!(running, gathering);
    (summary.expect("the scan begins"), found(&events), events)
}

fn found(events: &[ScanEvent]) -> Vec<FoundDevice> {
    events
        .iter()
        .filter_map(|event| match event {
            ScanEvent::Found(device) => Some(device.clone()),
            ScanEvent::Progress(_) | ScanEvent::Note(_) => None,
        })
        .collect()
}
