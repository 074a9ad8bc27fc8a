//! `fleetctl devices` and `whoami`.

use fleet_wire::fleet::{Device, ListDevicesRequest, WhoAmIRequest, WhoAmIResponse};

use crate::{
    cli::{Devices, Format},
    failure::Failure,
    output::{self, Rows},
    server::Server,
    times,
};

pub(crate) async fn run(server: &Server, format: Format, command: Devices) -> Result<u8, Failure> {
    let Devices::List { node } = command;
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
        // Pages go on upwards; a server that repeats itself ends the listing.
        if page.next_cursor <= cursor {
            break;
        }
        cursor = page.next_cursor;
    }
    output::rows(format, &devices)?;
    Ok(0)
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
        "Last seen",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.device_id.to_string(),
            self.identifier.clone(),
            self.ip.clone(),
            self.port.to_string(),
            self.driver.clone(),
            self.manufacturer.clone(),
            self.model.clone(),
            self.firmware.clone(),
            self.fleet_node_id.to_string(),
            times::moment(self.last_seen.as_ref()),
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
