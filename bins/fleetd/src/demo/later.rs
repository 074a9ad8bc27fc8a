//! The second part of the demonstration, which gives every view of the page some content: another node at the site, a
//! schedule, a second scan after the site changed, alerts about the changes, and paired devices. `--once` leaves it out.

use std::net::IpAddr;

use anyhow::{Context, Result};
use fleet_sim::{Device, Lab, Make, Manner, RunningSite, Site};
use fleet_wire::{
    fleet::{
        CreateScheduleRequest, ListNodesRequest, MoveNodeRequest, NodeClient, ScanClient,
        ScheduleClient, ScheduleTiming, StartScanRequest, WatchScanRequest,
    },
    pairing::DiscoverRequest,
};
use ipnetwork::Ipv4Network;

use super::{
    Operator, SEED, alerts::Receiver, network_request, node::DemoNode, pairing, show::Show,
};

/// The firmware version that some devices have at the second scan.
const NEWER: &str = "2026.11";

/// Adds the second node and the schedule, changes the site, scans it again, and pairs its devices. Returns the changed
/// site.
pub(super) async fn run(
    operator: &Operator,
    nodes: (&DemoNode, &DemoNode),
    network: Ipv4Network,
    site: RunningSite,
    receiver: Option<&Receiver>,
    show: &Show,
) -> Result<RunningSite> {
    let (first, second) = nodes;
    share_site(operator, first.id, second.id).await?;
    show.step(&format!("node       {} joined its site", second.id))?;
    schedule(operator, first.id, network).await?;
    show.step("schedule   nightly, at 2:30")?;
    let (later, changes) = changed(site.site(), network);
    site.shutdown().await;
    let site = Lab::start(later).await?;
    scan_again(operator, first.id, network_request(network)).await?;
    show.step(&format!("scan       again: {changes}"))?;
    pairing::run(operator, first.id, show).await?;
    // The first scan led to one message, about its new devices.
    if let Some(receiver) = receiver
        && !receiver.until(1 + changes.kinds()).await
    {
        show.step("alerts     some are late: the page Alerts shows them")?;
    }
    Ok(site)
}

async fn share_site(operator: &Operator, first: i64, second: i64) -> Result<()> {
    let nodes = NodeClient::new(operator.channel.clone());
    let list = nodes
        .list_nodes(&ListNodesRequest::default(), operator.call()?)
        .await?
        .nodes;
    let first = list.iter().find(|node| node.fleet_node_id == first);
    let request = MoveNodeRequest {
        fleet_node_id: second,
        site_id: first.context("the server does not list the node")?.site_id,
    };
    nodes.move_node(&request, operator.call()?).await?;
    Ok(())
}

async fn schedule(operator: &Operator, node: i64, network: Ipv4Network) -> Result<()> {
    let request = CreateScheduleRequest {
        name: "nightly".to_owned(),
        fleet_node_id: node,
        request: Some(network_request(network)),
        timing: Some(ScheduleTiming {
            when: "30 2 * * *".to_owned(),
            time_zone: "UTC".to_owned(),
            ..ScheduleTiming::default()
        }),
        ..CreateScheduleRequest::default()
    };
    let schedules = ScheduleClient::new(operator.channel.clone());
    schedules
        .create_schedule(&request, operator.call()?)
        .await?;
    Ok(())
}

/// Scans the site without showing its rows again.
async fn scan_again(operator: &Operator, node: i64, request: DiscoverRequest) -> Result<()> {
    let scans = ScanClient::new(operator.channel.clone());
    let start = StartScanRequest {
        request_id: "demo-again".to_owned(),
        fleet_node_id: node,
        name: "second look".to_owned(),
        request: Some(request),
        ..StartScanRequest::default()
    };
    let started = scans.start_scan(&start, operator.call()?).await?;
    let watch = WatchScanRequest {
        scan_id: started.scan.unwrap_or_default().scan_id,
        after_sequence: 0,
    };
    let mut events = scans.watch_scan(&watch, operator.call()?).await?;
    while events.message().await?.is_some() {}
    Ok(())
}

/// How many devices changed between the two scans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Changes {
    added: usize,
    off: usize,
    moved: usize,
    updated: usize,
}

impl Changes {
    /// The number of kinds of changes, each of which leads to one alert.
    fn kinds(self) -> usize {
        let counts = [self.added, self.off, self.moved, self.updated];
        counts.iter().filter(|count| **count > 0).count()
    }
}

impl std::fmt::Display for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            added,
            off,
            moved,
            updated,
        } = self;
        write!(
            f,
            "{added} devices are new, {off} are off, {moved} have moved, {updated} have other firmware"
        )
    }
}

/// The site some time later: two devices are off, two have moved, three were updated, and three are new. A small site
/// changes less.
fn changed(site: &Site, network: Ipv4Network) -> (Site, Changes) {
    let mut changes = Changes::default();
    let of = |make: Make| {
        let devices = site.devices.iter().enumerate();
        devices
            .filter(move |(_, device)| device.make == make && is_proper(device))
            .map(|(index, _)| index)
    };
    let taken = site.addresses();
    let mut free = network
        .iter()
        .skip(1)
        .filter(|ip| *ip != network.broadcast())
        .map(IpAddr::from)
        .filter(|ip| !taken.contains(ip));
    let mut later = site.clone();
    // Whatsminers show their MAC without a login, so that a moved one is recognized.
    for index in of(Make::Whatsminer).take(2) {
        if let Some(address) = free.next() {
            later.devices[index].address = address;
            changes.moved += 1;
        }
    }
    for index in of(Make::Antminer).take(3) {
        NEWER.clone_into(&mut later.devices[index].firmware);
        changes.updated += 1;
    }
    let off: Vec<IpAddr> = [of(Make::Whatsminer).nth(2), of(Make::Antminer).nth(3)]
        .into_iter()
        .flatten()
        .map(|index| site.devices[index].address)
        .collect();
    changes.off = off.len();
    later
        .devices
        .retain(|device| !off.contains(&device.address));
    let more = Site::demo(120, SEED + 1).with_logins();
    let more = more.devices.into_iter();
    let added = more.filter(|device| device.make == Make::Antminer && is_proper(device));
    for (device, address) in added.take(3).zip(free) {
        later.devices.push(Device { address, ..device });
        changes.added += 1;
    }
    (later, changes)
}

/// Whether the device is answered and identified in every scan.
fn is_proper(device: &Device) -> bool {
    let mut services = device.services.iter();
    services.all(|service| service.manner == Manner::Proper && service.delay_ms == 0)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::Ipv4Addr};

    use super::*;

    #[test]
    fn the_later_site_has_new_moved_updated_and_missing_devices() {
        let site = Site::demo(250, SEED).with_logins();
        let network = Ipv4Network::new(Ipv4Addr::new(127, 77, 0, 0), 23).expect("a network");
        let (later, changes) = changed(&site, network);
        let expected = Changes {
            added: 3,
            off: 2,
            moved: 2,
            updated: 3,
        };
        assert_eq!((changes, changes.kinds()), (expected, 4));
        later.check().expect("a consistent site");
        let (before, after): (BTreeSet<_>, BTreeSet<_>) = (
            site.addresses().into_iter().collect(),
            later.addresses().into_iter().collect(),
        );
        // Two moved and two are off; two moved and three are new.
        assert_eq!(before.difference(&after).count(), 4);
        assert_eq!(after.difference(&before).count(), 5);
        let updated = later
            .devices
            .iter()
            .filter(|device| device.firmware == NEWER);
        assert_eq!(updated.count(), 3);
        let inside = |ip: &IpAddr| matches!(ip, IpAddr::V4(ip) if network.contains(*ip));
        assert!(after.iter().all(inside));
    }
}
