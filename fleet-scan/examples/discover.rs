//! Discovers the devices of a network: `discover 10.0.0.0/24 10.1.0.5-40`
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::{env, error::Error, sync::Arc};

use fleet_scan::{DriverSet, ScanEvent, ScanJob, ScanOptions, Scanner};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let targets: Vec<String> = env::args().skip(1).collect();
    let found = discover(ScanJob::parse(&targets.join(" "))?).await?;
    println!("{found} devices");
    Ok(())
}

/// Prints devices as they are found. The built-in drivers only read, and never log in.
pub(crate) async fn discover(job: ScanJob) -> Result<u64, Box<dyn Error>> {
    let scanner = Scanner::new(ScanOptions::default(), Arc::new(DriverSet::built_in()));
    let mut scan = scanner.scan(job)?;
    while let Some(event) = scan.next().await {
        match event {
            ScanEvent::Found(device) => println!("{} {}", device.endpoint, device.facts.model),
            ScanEvent::Ended(summary) => return Ok(summary.found),
            ScanEvent::Unidentified(_) | ScanEvent::Note(_) | ScanEvent::Progress(_) => {}
        }
    }
    Err("the scan crashed".into())
}
