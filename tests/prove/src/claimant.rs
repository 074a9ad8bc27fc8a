//! A hostile site claims the devices of a revoked node: another node of the organization reports their MACs and serials
//! from its own network. It must get no record, no history and no password.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use fleet_core::DeviceId;
use fleet_store::Inventory as _;
use fleet_wire::{
    admin::RevokeFleetNodeRequest,
    gateway::{DiscoveredDeviceReport, ReportDiscoveredDevicesRequest},
    pairing::{DiscoverRequest, NmapModeRequest, discover_request::Mode},
};

use crate::{
    database::Scratch,
    live::{Live, Node},
};

/// Devices of the revoked node.
const DEVICES: u32 = 500;

pub(crate) fn run() -> Result<Vec<String>> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut figures = Vec::new();
        for scratch in Scratch::both().await? {
            figures.push(claim(&scratch).await.context(scratch.engine)?);
            scratch.remove().await?;
        }
        Ok(figures)
    })
}

async fn claim(scratch: &Scratch) -> Result<String> {
    let live = Live::start(&scratch.store).await?;
    let mut victim = live.node("victim").await?;
    report(&live, &mut victim, "10.20.0.0/22", 20).await?;
    let before = records(scratch, &live).await?;
    ensure!(before.len() == DEVICES as usize, "{} stored", before.len());
    let revoke = RevokeFleetNodeRequest {
        fleet_node_id: victim.id.0,
        ..RevokeFleetNodeRequest::default()
    };
    live.admin()?
        .revoke_fleet_node(&revoke, live.operator()?)
        .await?;

    let mut hostile = live.node("hostile").await?;
    let taken = report(&live, &mut hostile, "10.30.0.0/22", 30).await?;
    let after = records(scratch, &live).await?;
    let moved = before
        .iter()
        .filter(|(id, record)| after.get(*id) != Some(*record))
        .count();
    let hostile = Some(hostile.leave());
    let owned = before
        .keys()
        .filter(|id| after.get(*id).is_some_and(|(_, node)| *node == hostile))
        .count();
    live.stop().await?;
    ensure!(
        moved == 0 && owned == 0,
        "{moved} records changed, {owned} went to the claimant"
    );
    Ok(format!(
        "{}: {DEVICES} devices of a revoked node reported from another network by MAC and serial: {owned} records went to the claimant, {moved} changed, {taken} reports were accepted as other devices",
        scratch.engine
    ))
}

/// The identifier, endpoint and owner of each record.
type Records = BTreeMap<DeviceId, (String, Option<fleet_core::NodeId>)>;

async fn records(scratch: &Scratch, live: &Live) -> Result<Records> {
    let rows = scratch
        .store
        .list_devices(live.org, None, DeviceId(0), u32::MAX >> 1)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let endpoint = row.endpoint.map(|endpoint| endpoint.to_string());
            let named = format!("{} {}", row.identifier, endpoint.unwrap_or_default());
            (row.id, (named, row.node))
        })
        .collect())
}

/// Scans a network and reports every device in it. Returns how many were accepted.
async fn report(live: &Live, node: &mut Node, network: &str, octet: u8) -> Result<i64> {
    let request = DiscoverRequest {
        mode: Some(Mode::Nmap(NmapModeRequest {
            target: network.to_owned(),
            ports: vec!["4028".to_owned()],
        })),
    };
    live.scan(node, request).await?;
    let command = node.command().await?;
    let request = ReportDiscoveredDevicesRequest {
        devices: (0..DEVICES).map(|number| device(number, octet)).collect(),
        command_id: command,
    };
    let answer = node
        .gateway
        .report_discovered_devices(&request, node.options()?)
        .await?;
    Ok(answer.accepted_count)
}

fn device(number: u32, octet: u8) -> DiscoveredDeviceReport {
    let [_, _, high, low] = (number + 2).to_be_bytes();
    let mac = format!("02:00:5E:00:{high:02X}:{low:02X}");
    DiscoveredDeviceReport {
        device_identifier: format!("mac:{mac}"),
        ip_address: format!("10.{octet}.{high}.{low}"),
        port: "4028".to_owned(),
        url_scheme: "http".to_owned(),
        driver_name: "antminer".to_owned(),
        model: "S19".to_owned(),
        mac_address: mac,
        serial_number: format!("SN-{number}"),
        ..DiscoveredDeviceReport::default()
    }
}
