//! `fleetctl devices` and `whoami`.

use std::io::{self, Write};

use fleet_wire::{
    admin::{PairDeviceToFleetNodeRequest, UnpairDeviceRequest},
    fleet::{
        DeleteDevicesRequest, Device, DeviceAlias, GetDeviceRequest, ListDevicesRequest,
        ListRefusedDevicesRequest, RefusedDevice, UndoIdentityChangeRequest, WhoAmIRequest,
        WhoAmIResponse,
    },
};

use crate::{
    again,
    ask::agreed,
    cli::{Devices, Format},
    details,
    failure::Failure,
    nodes,
    output::{self, Rows},
    pair, search,
    server::Server,
    times,
};

pub(crate) async fn run(server: &Server, format: Format, command: Devices) -> Result<u8, Failure> {
    match command {
        Devices::List { node, search } => {
            let node = nodes::resolve_filter(server, node.as_deref()).await?;
            search::run(server, format, node, search).await?
        }
        Devices::Show { device } => show(server, format, &device).await?,
        Devices::Delete {
            devices,
            reason,
            yes,
        } => {
            if !yes {
                let question = format!("Delete {} devices from the inventory?", devices.len());
                agreed(&question, "use --yes")?;
            }
            let request = DeleteDevicesRequest {
                device_ids: devices,
                reason,
            };
            server
                .devices
                .delete_devices(&request, server.call()?)
                .await?;
        }
        Devices::History { device } => details::history(server, format, device).await?,
        Devices::Label {
            devices,
            add,
            remove,
        } => details::label(server, devices, add, remove).await?,
        Devices::Note { device, text } => details::note(server, device, text).await?,
        Devices::Undo { change } => {
            let request = UndoIdentityChangeRequest {
                identity_change_id: change,
            };
            let apart = server
                .devices
                .undo_identity_change(&request, server.call()?)
                .await?;
            let both: Vec<_> = apart.kept.into_iter().chain(apart.restored).collect();
            output::rows(format, &both)?;
        }
        Devices::Refused { node } => {
            let node = nodes::resolve_filter(server, node.as_deref()).await?;
            refused(server, format, node).await?
        }
        Devices::Bind { devices, node } => {
            let node = nodes::resolve(server, &node).await?;
            for device in devices {
                let request = PairDeviceToFleetNodeRequest {
                    fleet_node_id: node,
                    device_id: device,
                };
                server
                    .admin
                    .pair_device_to_fleet_node(&request, server.call()?)
                    .await?;
            }
        }
        Devices::Pair {
            devices,
            search,
            how,
        } => {
            let names = match search {
                None => devices,
                Some(terms) => {
                    let node = nodes::resolve(server, &how.node).await?;
                    let found = search::matching(server, node, terms).await?;
                    found.into_iter().map(|device| device.identifier).collect()
                }
            };
            return pair::run(server, format, &names, false, &how).await;
        }
        Devices::PairAll { how } => return pair::run(server, format, &[], true, &how).await,
        Devices::CancelPairing { pairing } => return pair::cancel(server, pairing).await,
        Devices::Rescan { devices, search } => {
            let chosen = search::chosen(server, devices, search).await?;
            again::rescan(server, format, &chosen).await?
        }
        Devices::Unpair {
            devices,
            search,
            yes,
        } => {
            let devices = match search {
                None => devices,
                Some(terms) => {
                    let found = search::matching(server, 0, terms).await?;
                    let bound = |device: &Device| {
                        device.bound_to_server || device.bound_to_fleet_node_id != 0
                    };
                    let found: Vec<i64> = found
                        .iter()
                        .filter(|device| bound(device))
                        .map(|device| device.device_id)
                        .collect();
                    if !yes {
                        agreed(&format!("Unpair {} devices?", found.len()), "use --yes")?;
                    }
                    found
                }
            };
            for device in devices {
                let request = UnpairDeviceRequest { device_id: device };
                server.admin.unpair_device(&request, server.call()?).await?;
            }
        }
    }
    Ok(0)
}

/// Loads all devices of a node; 0 means all nodes.
pub(crate) async fn all(server: &Server, node: i64) -> Result<Vec<Device>, Failure> {
    let mut devices = Vec::new();
    let mut cursor = 0;
    loop {
        let request = ListDevicesRequest {
            fleet_node_id: node,
            limit: 0,
            cursor,
        };
        let page = server
            .devices
            .list_devices(&request, server.call()?)
            .await?;
        devices.extend(page.devices);
        // The cursor must grow: a faulty server that repeats a page must not cause an endless loop.
        if page.next_cursor <= cursor {
            break;
        }
        cursor = page.next_cursor;
    }
    Ok(devices)
}

/// Shows one device. A table lists its former identifiers below.
async fn show(server: &Server, format: Format, device: &str) -> Result<(), Failure> {
    let request = match device.parse() {
        Ok(device_id) => GetDeviceRequest {
            device_id,
            identifier: String::new(),
        },
        Err(_) => GetDeviceRequest {
            device_id: 0,
            identifier: device.to_owned(),
        },
    };
    let found = server.devices.get_device(&request, server.call()?).await?;
    let Some(shown) = found.device else {
        return Ok(());
    };
    if request.device_id != 0 && request.device_id != shown.device_id {
        writeln!(
            io::stderr(),
            "device {} was merged into device {}",
            request.device_id,
            shown.device_id
        )?;
    }
    output::one(format, &shown)?;
    if format.is_table() && !shown.aliases.is_empty() {
        writeln!(io::stdout())?;
        output::rows(format, &shown.aliases)?;
    }
    Ok(())
}

async fn refused(server: &Server, format: Format, node: i64) -> Result<(), Failure> {
    let mut devices = Vec::new();
    let mut cursor = 0;
    loop {
        let request = ListRefusedDevicesRequest {
            fleet_node_id: node,
            limit: 0,
            cursor,
        };
        let page = server
            .devices
            .list_refused_devices(&request, server.call()?)
            .await?;
        devices.extend(page.devices);
        if page.next_cursor <= cursor {
            break;
        }
        cursor = page.next_cursor;
    }
    output::rows(format, &devices)?;
    Ok(())
}

pub(crate) async fn whoami(server: &Server, format: Format) -> Result<u8, Failure> {
    let me = server
        .account
        .who_am_i(&WhoAmIRequest {}, server.call()?)
        .await?;
    output::one(format, &me)?;
    Ok(0)
}

impl Rows for Device {
    const HEAD: &'static [&'static str] = &[
        "Device",
        "Identifier",
        "Address",
        "Port",
        "Driver",
        "Manufacturer",
        "Model",
        "Firmware",
        "Node",
        "Seen by",
        "Pairing",
        "Bound to",
        "Last seen",
        "Formerly",
        "Host name",
        "Evidence",
    ];
    const OPTIONAL: &'static [&'static str] = &[
        "Evidence",
        "Formerly",
        "Host name",
        "Seen by",
        "Driver",
        "Bound to",
        "Port",
        "Identifier",
        "Node",
        "Last seen",
        "Firmware",
        "Manufacturer",
    ];
    const WHOLE: &'static [&'static str] = &["Device", "Identifier"];

    fn cells(&self) -> Vec<String> {
        device_cells(self, pair::word)
    }

    fn record(&self) -> Vec<String> {
        device_cells(self, str::to_owned)
    }
}

/// The cells of a device, with its pairing state as `state` writes it.
fn device_cells(device: &Device, state: impl Fn(&str) -> String) -> Vec<String> {
    vec![
        device.device_id.to_string(),
        device.identifier.clone(),
        device.ip.clone(),
        device.port.to_string(),
        device.driver.clone(),
        device.manufacturer.clone(),
        device.model.clone(),
        device.firmware.clone(),
        device.fleet_node_id.to_string(),
        device
            .seen_by
            .iter()
            .map(|sighting| sighting.fleet_node_id.to_string())
            .collect::<Vec<_>>()
            .join(" "),
        match device.claimed_from_fleet_node_id {
            0 => state(&device.pairing_status),
            node => format!(
                "{}, claimed from revoked node {node}",
                state(&device.pairing_status)
            ),
        },
        match device.bound_to_fleet_node_id {
            _ if device.bound_to_server => "server".to_owned(),
            0 => String::new(),
            node => format!("node {node}"),
        },
        times::timestamp(device.last_seen.as_ref()),
        device
            .aliases
            .iter()
            .map(|alias| alias.identifier.as_str())
            .collect::<Vec<_>>()
            .join(" "),
        match device.host_name_source.as_str() {
            "" => String::new(),
            source => format!("{} ({source})", device.host_name),
        },
        device.evidence.clone(),
    ]
}

impl Rows for DeviceAlias {
    const HEAD: &'static [&'static str] = &[
        "Change",
        "Formerly",
        "Since",
        "Reason",
        "Former device",
        "Evidence",
    ];
    const OPTIONAL: &'static [&'static str] = &["Evidence", "Former device"];
    const WHOLE: &'static [&'static str] = &["Change", "Formerly"];

    fn cells(&self) -> Vec<String> {
        let merged = (self.merged_device_id != 0).then(|| self.merged_device_id.to_string());
        vec![
            self.identity_change_id.to_string(),
            self.identifier.clone(),
            times::timestamp(self.since.as_ref()),
            self.reason.clone(),
            merged.unwrap_or_default(),
            self.evidence.clone(),
        ]
    }
}

impl Rows for RefusedDevice {
    const HEAD: &'static [&'static str] = &[
        "Node",
        "Address",
        "Port",
        "Identifier",
        "Reason",
        "Remedy",
        "Device",
        "Times",
        "Last seen",
    ];
    const OPTIONAL: &'static [&'static str] = &["Times", "Port", "Device", "Last seen"];
    const WHOLE: &'static [&'static str] = &["Node", "Identifier"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.fleet_node_id.to_string(),
            self.ip.clone(),
            self.port.to_string(),
            self.identifier.clone(),
            self.reason.clone(),
            self.remedy.clone(),
            self.device_id.to_string(),
            self.count.to_string(),
            times::timestamp(self.last_seen.as_ref()),
        ]
    }
}

impl Rows for WhoAmIResponse {
    const HEAD: &'static [&'static str] = &[
        "E-mail",
        "Organization",
        "Role",
        "Permissions",
        "Server version",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.email.clone(),
            self.organization.clone(),
            self.role.clone(),
            self.permissions.join(" "),
            self.server_version.clone(),
        ]
    }
}
