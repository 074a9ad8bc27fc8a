//! Hostile sites claim the devices of a revoked node: two other nodes of the organization, on two servers of one
//! database, report their MACs and serials from their own networks at the same time. They must get no record, no history
//! and no password.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use fleet_core::{DeviceId, NodeId};
use fleet_store::Inventory as _;
use fleet_wire::{
    Code,
    admin::RevokeFleetNodeRequest,
    fleet::{DevicePairingClient, StartPairingRequest},
    gateway::{
        AckCode, ControlAck, DiscoveredDeviceReport, ReportDiscoveredDevicesRequest, agent_command,
    },
    pairing::{Credentials, DiscoverRequest, NmapModeRequest, discover_request::Mode},
};

use crate::{
    database::Scratch,
    live::{Live, Node},
};

/// Devices of the revoked node. A third has a MAC and a serial, a third only a MAC, and a third only a serial.
const DEVICES: u32 = 600;

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
    let first = Live::start(&scratch.store).await?;
    let second = Live::serve(&scratch.open_again().await?, first.key()).await?;
    let mut victim = first.node("victim").await?;
    let stored = report(&first, &mut victim, 20).await?;
    let before = records(scratch, &first).await?;
    ensure!(
        before.len() == DEVICES as usize && stored == i64::from(DEVICES),
        "{} stored",
        before.len()
    );
    let revoke = RevokeFleetNodeRequest {
        fleet_node_id: victim.id.0,
        ..RevokeFleetNodeRequest::default()
    };
    first
        .admin()?
        .revoke_fleet_node(&revoke, first.operator()?)
        .await?;

    let mut near = first.node("near").await?;
    let mut far = second.node("far").await?;
    let (taken, taken_far) =
        tokio::try_join!(report(&first, &mut near, 30), report(&second, &mut far, 40))?;
    let after = records(scratch, &first).await?;
    let moved = before
        .iter()
        .filter(|(id, record)| after.get(*id) != Some(*record))
        .count();
    let claimants = [Some(near.id), Some(far.id)];
    let owned = before
        .keys()
        .filter(|id| {
            after
                .get(*id)
                .is_some_and(|row| claimants.contains(&row.node))
        })
        .count();
    let names: Vec<String> = before.values().map(|row| row.identifier.clone()).collect();
    let sent =
        passwords(&first, &mut near, &names).await? + passwords(&second, &mut far, &names).await?;
    // Their real site reports the same endpoints. It gets the records, but no password before an operator binds them.
    let mut heir = second.node("heir").await?;
    report(&second, &mut heir, 20).await?;
    let kept = records(scratch, &first).await?;
    let inherited = kept.values().filter(|row| row.node == Some(heir.id));
    let inherited = inherited.count();
    let early = passwords(&second, &mut heir, &names).await?;
    first.stop().await?;
    second.stop().await?;
    ensure!(
        moved == 0 && owned == 0 && sent == 0 && early == 0 && inherited == DEVICES as usize,
        "{moved} records changed, {owned} went to a claimant, {sent} passwords were sent to one; {inherited} went to their own site, which got {early} passwords"
    );
    Ok(format!(
        "{}: two nodes on two servers reported the {DEVICES} devices of a revoked node by MAC and serial from other networks: {owned} records went to them, {moved} changed, {sent} passwords were sent; {} reports were stored as other devices; a node at their endpoints got {inherited} records and {early} passwords",
        scratch.engine,
        taken + taken_far
    ))
}

/// The identity of a record, and its owner.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    identifier: String,
    endpoint: String,
    node: Option<NodeId>,
}

async fn records(scratch: &Scratch, live: &Live) -> Result<BTreeMap<DeviceId, Record>> {
    let rows = scratch
        .store
        .list_devices(live.org, None, DeviceId(0), u32::MAX >> 1)
        .await?;
    let rows = rows.into_iter().map(|row| {
        let endpoint = row.endpoint.map(|endpoint| endpoint.to_string());
        let record = Record {
            identifier: row.identifier.to_string(),
            endpoint: endpoint.unwrap_or_default(),
            node: row.node,
        };
        (row.id, record)
    });
    Ok(rows.collect())
}

/// Scans 10.`octet`.0.0/20, reports every device in it, and ends the scan. Returns how many were accepted.
async fn report(live: &Live, node: &mut Node, octet: u8) -> Result<i64> {
    live.scan(node, network(octet)).await?;
    let (command_id, _) = node.commanded().await?;
    let request = ReportDiscoveredDevicesRequest {
        devices: (0..DEVICES).map(|number| device(number, octet)).collect(),
        command_id: command_id.clone(),
        ..ReportDiscoveredDevicesRequest::default()
    };
    let answer = node
        .gateway
        .report_discovered_devices(&request, node.options()?)
        .await?;
    let ack = ControlAck {
        command_id,
        succeeded: true,
        code: AckCode::Ok.into(),
        ..ControlAck::default()
    };
    node.ack(ack).await?;
    Ok(answer.accepted_count)
}

/// Has the operator pair the named devices on a node with a password. Returns for how many devices the node got it.
async fn passwords(live: &Live, node: &mut Node, names: &[String]) -> Result<usize> {
    let request = StartPairingRequest {
        fleet_node_id: node.id.0,
        device_identifiers: names.to_vec(),
        all_unpaired: false,
        credentials: Some(Credentials {
            username: "root".to_owned(),
            password: Some("password of the site".to_owned()),
            ..Credentials::default()
        }),
    };
    let pairings = DevicePairingClient::new(live.channel()?);
    match pairings.start_pairing(&request, live.operator()?).await {
        Ok(started) => Ok(names.len() - started.refused.len()),
        // The refusal of every named device.
        Err(error) if error.code == Code::InvalidArgument => {
            // This command would arrive after a pairing.
            live.scan(node, network(70)).await?;
            let (_, command) = node.commanded().await?;
            let is_scan = matches!(command, Some(agent_command::Command::Discover(_)));
            Ok(if is_scan { 0 } else { names.len() })
        }
        Err(error) => Err(error.into()),
    }
}

fn network(octet: u8) -> DiscoverRequest {
    DiscoverRequest {
        mode: Some(Mode::Nmap(NmapModeRequest {
            target: format!("10.{octet}.0.0/20"),
            ports: vec!["4028".to_owned()],
        })),
        max_rate: 0,
    }
}

fn device(number: u32, octet: u8) -> DiscoveredDeviceReport {
    let [_, _, high, low] = (number + 2).to_be_bytes();
    let (has_mac, has_serial) = (number % 3 != 2, number % 3 != 1);
    let mac = format!("02:00:5E:00:{high:02X}:{low:02X}");
    DiscoveredDeviceReport {
        device_identifier: "auto:0000000000000000".to_owned(),
        ip_address: format!("10.{octet}.{high}.{low}"),
        port: "4028".to_owned(),
        url_scheme: "http".to_owned(),
        driver_name: "antminer".to_owned(),
        model: "S19".to_owned(),
        manufacturer: "Bitmain".to_owned(),
        mac_address: if has_mac { mac } else { String::new() },
        serial_number: if has_serial {
            format!("SN-{number}")
        } else {
            String::new()
        },
        ..DiscoveredDeviceReport::default()
    }
}
