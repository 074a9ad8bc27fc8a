//! Finds devices on a network and prints them as they answer: `cargo run --example discover 192.168.1.0/24`.

#![expect(clippy::print_stdout, reason = "a program for people")]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fleet_core::TargetOutcome;
use fleet_scan::{DriverSet, Guard, ScanEvent, ScanJob, ScanOptions, Scanner};
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let network = std::env::args()
        .nth(1)
        .ok_or("usage: discover NETWORK, such as 192.168.1.0/24")?;
    let network: ipnetwork::Ipv4Network = network.parse()?;
    let job = ScanJob {
        targets: network.iter().map(IpAddr::V4).collect(),
        ports: Vec::new(),
        budget: Duration::from_secs(60),
        guard: Guard::default(),
    };
    let scanner = Scanner::new(ScanOptions::default(), Arc::new(DriverSet::built_in()));
    let (sink, mut events) = mpsc::channel(64);
    let scan = tokio::spawn(async move { scanner.run(job, sink, Default::default()).await });
    while let Some(event) = events.recv().await {
        match event {
            ScanEvent::Found(found) => {
                println!("{} {} {}", found.endpoint, found.manufacturer, found.model)
            }
            ScanEvent::Note(note) => println!("note: {note}"),
            ScanEvent::Progress(_) => {}
        }
    }
    let summary = scan.await??;
    println!(
        "{} identified of {}",
        summary.count(TargetOutcome::Identified),
        summary.outcomes.len()
    );
    Ok(())
}
