//! The scanner that `cargo xtask prove engine` measures: `measured [--rate PROBES_PER_SECOND] CIDR [PORT]...`
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::{env, error::Error, sync::Arc};

use fleet_core::{Port, TargetOutcome, limits::DEFAULT_RATE};
use fleet_scan::{DriverSet, FoundDevice, ScanEvent, ScanJob, ScanOptions, Scanner};
use ipnetwork::IpNetwork;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let (rate, words) = match words.as_slice() {
        [flag, rate, words @ ..] if flag == "--rate" => (rate.parse()?, words),
        words => (DEFAULT_RATE, words),
    };
    let (network, ports) = words.split_first().ok_or("name a network in CIDR form")?;
    let job = ScanJob {
        ports: ports
            .iter()
            .map(|port| port.parse::<Port>())
            .collect::<Result<_, _>>()?,
        ..ScanJob::new(network.parse::<IpNetwork>()?.iter().collect())
    };
    let options = ScanOptions {
        rate,
        ..ScanOptions::default()
    };
    let scanner = Scanner::new(options, Arc::new(DriverSet::built_in()));
    let mut scan = scanner.scan(job)?;
    while let Some(event) = scan.next().await {
        match event {
            ScanEvent::Found(FoundDevice {
                endpoint, facts, ..
            }) => println!(
                "{endpoint} {} {} {} ({})",
                facts.manufacturer, facts.model, facts.firmware, facts.evidence
            ),
            ScanEvent::Note(note) => println!("# {note}"),
            ScanEvent::Progress(_) | ScanEvent::Unidentified(_) => {}
            ScanEvent::Ended(summary) => println!(
                "# {} of {} identified, {} not reached",
                summary.found,
                summary.outcomes.len(),
                summary.count(TargetOutcome::NotReached)
            ),
        }
    }
    Ok(())
}
