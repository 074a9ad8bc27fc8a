//! `fleetctl direct`: scans and pairing in the networks of the server itself.

use std::io;

use fleet_wire::{
    common::DeviceIdentifierList,
    fleet::ScanOwnNetworkRequest,
    minercommand::{DeviceFilter, DeviceSelector, device_selector::SelectionType},
    pairing::PairRequest,
};
use serde::Serialize;

use crate::{
    cli::{Direct, Format},
    failure::Failure,
    output::{self, Rows},
    pair, scans,
    server::Server,
    watch,
};

pub(crate) async fn run(server: &Server, format: Format, command: Direct) -> Result<u8, Failure> {
    match command {
        Direct::Scan(targets) => {
            let request = ScanOwnNetworkRequest {
                request: Some(scans::request(targets)?),
            };
            watch::own_network(server, format, &request).await
        }
        Direct::Pair {
            devices,
            all,
            login,
        } => {
            let selection = if all {
                SelectionType::AllDevices(DeviceFilter::default())
            } else {
                SelectionType::IncludeDevices(DeviceIdentifierList {
                    device_identifiers: devices,
                })
            };
            let request = PairRequest {
                credentials: pair::credentials(&login)?,
                device_selector: Some(DeviceSelector {
                    selection_type: Some(selection),
                }),
            };
            let answer = server.own_network.pair(&request, server.call()?).await?;
            let complete = answer.failed_device_ids.is_empty();
            match format {
                Format::Json => output::document(&mut io::stdout(), &answer)?,
                Format::Ndjson => output::line(&mut io::stdout(), &answer)?,
                Format::Table | Format::Wide if complete => {}
                Format::Table | Format::Wide | Format::Csv => {
                    let failed = answer.failed_device_ids.into_iter();
                    let failed: Vec<NotPaired> = failed.map(NotPaired).collect();
                    output::rows(format, &failed)?;
                }
            }
            Ok(if complete { 0 } else { 2 })
        }
    }
}

/// A device that was not paired. The API does not return the reason; the server logs it.
#[derive(Serialize)]
struct NotPaired(String);

impl Rows for NotPaired {
    const HEAD: &'static [&'static str] = &["Not paired"];

    fn cells(&self) -> Vec<String> {
        vec![self.0.clone()]
    }
}
