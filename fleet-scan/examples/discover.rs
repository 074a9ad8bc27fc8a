//! Discovers the devices of a network: `discover CIDR [PORT]...`
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::{env, error::Error, sync::Arc};

use fleet_core::Port;
use fleet_scan::{DriverSet, ScanEvent, ScanJob, ScanOptions, Scanner};
use ipnetwork::IpNetwork;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = env::args().skip(1);
    let network: IpNetwork = words.next().ok_or("name a network in CIDR form")?.parse()?;
    let mut job = ScanJob::new(network.iter().collect());
    job.ports = words
        .map(|port| port.parse::<Port>())
        .collect::<Result<_, _>>()?;
    // Polite by default, and reads only: no driver logs in anywhere.
    let scanner = Scanner::new(ScanOptions::default(), Arc::new(DriverSet::built_in()));
    let (sink, mut events) = mpsc::channel(64);
    let scan = tokio::spawn(async move { scanner.run(job, sink, CancellationToken::new()).await });
    // Devices come as they are found; the channel closes with the scan.
    while let Some(event) = events.recv().await {
        if let ScanEvent::Found(found) = event {
            println!(
                "{} {} {}",
                found.endpoint, found.facts.manufacturer, found.facts.model
            );
        }
    }
    let summary = scan.await??;
    println!(
        "# {} devices at {} addresses",
        summary.found,
        summary.outcomes.len()
    );
    Ok(())
}
