//! `fleetctl devices list`: searching the inventory.

use std::io::Write;

use clap::{Args, ValueEnum};
use fleet_wire::fleet::{
    Device, DeviceOrder, FacetValue, GetDeviceFacetsRequest, GetDeviceRequest, SearchDevicesRequest,
};

use crate::{cli::Format, failure::Failure, output, pair, server::Server};

/// Maximum number of devices per page.
const PAGE: u32 = 1_000;

/// A search with its order.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// Terms that devices must match, such as "model:S19 site:barn pairing:failed seen:<1d mac:02*". Fields: model,
    /// make, firmware, mac, serial, id, label, node, site, ip, port, pairing, missing, seen, first.
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "TERMS"
    )]
    search: String,
    /// Order of the devices.
    #[arg(long, default_value = "id", value_name = "ORDER")]
    sort: Sort,
    /// Reverse the order.
    #[arg(long)]
    reverse: bool,
    /// Maximum number of devices [default: all].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Print the number of matching devices and their most frequent values instead of the devices.
    #[arg(long)]
    facets: bool,
}

/// The order of a list of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// By id, which is the order of discovery.
    Id,
    /// By the last report.
    Seen,
    /// By the first report.
    First,
    /// By model.
    Model,
    /// By firmware version.
    Firmware,
    /// By address and port.
    Address,
}

impl Sort {
    fn on_wire(self) -> DeviceOrder {
        match self {
            Self::Id => DeviceOrder::Unspecified,
            Self::Seen => DeviceOrder::LastSeen,
            Self::First => DeviceOrder::FirstSeen,
            Self::Model => DeviceOrder::Model,
            Self::Firmware => DeviceOrder::Firmware,
            Self::Address => DeviceOrder::Address,
        }
    }
}

pub(crate) async fn run(
    server: &Server,
    format: Format,
    node: i64,
    arguments: Arguments,
) -> Result<(), Failure> {
    if arguments.facets {
        return facets(server, format, node, arguments.search).await;
    }
    output::rows(format, &all(server, node, arguments).await?)?;
    Ok(())
}

/// Loads the devices that match a search. A node of 0 means every node.
pub(crate) async fn matching(
    server: &Server,
    node: i64,
    search: String,
) -> Result<Vec<Device>, Failure> {
    let arguments = Arguments {
        search,
        sort: Sort::Address,
        reverse: false,
        limit: None,
        facets: false,
    };
    all(server, node, arguments).await
}

/// Loads the devices with these ids, or those that match a search.
pub(crate) async fn chosen(
    server: &Server,
    ids: Vec<i64>,
    search: Option<String>,
) -> Result<Vec<Device>, Failure> {
    if let Some(search) = search {
        return matching(server, 0, search).await;
    }
    let mut devices = Vec::new();
    for device_id in ids {
        let request = GetDeviceRequest {
            device_id,
            identifier: String::new(),
        };
        let found = server.devices.get_device(&request, server.call()?).await?;
        devices.extend(found.device);
    }
    Ok(devices)
}

async fn all(server: &Server, node: i64, arguments: Arguments) -> Result<Vec<Device>, Failure> {
    let most = arguments.limit.unwrap_or(u32::MAX);
    let mut request = SearchDevicesRequest {
        search: arguments.search,
        fleet_node_id: node,
        order: arguments.sort.on_wire().into(),
        descending: arguments.reverse,
        limit: most.min(PAGE),
        cursor: String::new(),
    };
    let mut devices = Vec::new();
    loop {
        let call = server.call()?;
        let page = server.search.search_devices(&request, call).await?;
        // A faulty server that repeats a page must not cause an endless loop.
        let is_stuck = page.devices.is_empty() || page.next_cursor == request.cursor;
        devices.extend(page.devices);
        if page.next_cursor.is_empty() || is_stuck || devices.len() >= most as usize {
            break;
        }
        request.cursor = page.next_cursor;
    }
    devices.truncate(most as usize);
    Ok(devices)
}

async fn facets(server: &Server, format: Format, node: i64, search: String) -> Result<(), Failure> {
    let request = GetDeviceFacetsRequest {
        search,
        fleet_node_id: node,
    };
    let call = server.call()?;
    let found = server.search.get_device_facets(&request, call).await?;
    let mut out = std::io::stdout().lock();
    if !format.is_table() {
        output::document(&mut out, &found)?;
        return Ok(());
    }
    let mut table = output::table(format);
    table.add_row(["devices".to_owned(), String::new(), found.total.to_string()]);
    for (field, values) in [
        ("make", found.makes),
        ("model", found.models),
        ("firmware", found.firmware),
        ("node", found.nodes),
        ("pairing", found.pairing),
    ] {
        for FacetValue { value, count } in values {
            let value = if value.is_empty() {
                "(unknown)".to_owned()
            } else if field == "pairing" {
                pair::word(&value)
            } else {
                output::plain(&value)
            };
            table.add_row([field.to_owned(), value, count.to_string()]);
        }
    }
    writeln!(out, "{table}")?;
    Ok(())
}
