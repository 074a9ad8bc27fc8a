//! Adds a driver for a device of your own, here one that greets with `BOILER <model> rev <version>`:
//! `custom_driver 10.0.0.0/24`
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::{env, error::Error, sync::Arc};

use fleet_core::{DeviceFacts, Port};
use fleet_scan::{
    Answer, BoxFuture, Driver, DriverError, DriverSet, FoundDevice, Probe, ScanEvent, ScanJob,
    ScanOptions, Scanner,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let targets: Vec<String> = env::args().skip(1).collect();
    for device in find(ScanJob::parse(&targets.join(" "))?).await? {
        println!("{} boiler {}", device.endpoint, device.facts.model);
    }
    Ok(())
}

/// Scans with the built-in drivers and [`Boiler`].
pub(crate) async fn find(job: ScanJob) -> Result<Vec<FoundDevice>, Box<dyn Error>> {
    let boiler: Arc<dyn Driver> = Arc::new(Boiler);
    let drivers = DriverSet::built_in().with([boiler])?;
    let scanner = Scanner::new(ScanOptions::default(), Arc::new(drivers));
    let mut scan = scanner.scan(job)?;
    let mut boilers = Vec::new();
    while let Some(event) = scan.next().await {
        if let ScanEvent::Found(device) = event
            && device.facts.driver == "boiler"
        {
            boilers.push(device);
        }
    }
    Ok(boilers)
}

struct Boiler;

impl Driver for Boiler {
    fn name(&self) -> &str {
        "boiler"
    }

    fn default_ports(&self) -> Vec<Port> {
        Port::new(2_323).into_iter().collect()
    }

    fn precedence(&self) -> u8 {
        60
    }

    fn identify<'a>(
        &'a self,
        probe: &'a mut Probe<'_>,
    ) -> BoxFuture<'a, Result<Answer, DriverError>> {
        Box::pin(async move {
            // The probe limits the size of the reply and the time for it.
            let reply = probe.ask(&[], |bytes| bytes.contains(&b'\n')).await?;
            let greeting = String::from_utf8_lossy(&reply.bytes);
            let words: Vec<&str> = greeting.split_whitespace().collect();
            let ["BOILER", model, "rev", firmware, ..] = words[..] else {
                return Ok(Answer::Foreign);
            };
            Ok(Answer::Named(Box::new(DeviceFacts {
                driver: "boiler".to_owned(),
                scheme: "tcp".to_owned(),
                model: model.to_owned(),
                firmware: firmware.to_owned(),
                evidence: greeting.trim().to_owned(),
                ..DeviceFacts::default()
            })))
        })
    }
}
