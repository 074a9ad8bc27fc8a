//! A hostile node floods a running server with malformed devices. Every report also contains valid devices, and
//! exactly the valid ones must be stored.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::{Context, Result, bail, ensure};
use fleet_core::{DeviceId, ScanId};
use fleet_store::{Audit as _, Inventory as _, Scans as _};
use fleet_wire::{
    Code,
    gateway::{DiscoveredDeviceReport, ReportDiscoveredDevicesRequest},
    pairing::{DiscoverRequest, NmapModeRequest, discover_request::Mode},
};

use crate::{
    database::Scratch,
    live::{Live, Node},
    random::Random,
};

/// Number of malformed devices per database.
const MALFORMED: u64 = 1_000_000;
/// Number of devices per report, the maximum.
const REPORT: u64 = 1_024;
/// Number of valid devices per report.
const GOOD: u64 = 16;
/// The scanned network: 16,382 addresses, one command.
const NETWORK: (&str, Ipv4Addr) = ("10.20.0.0/18", Ipv4Addr::new(10, 20, 0, 0));
/// Ten ports. The server ends a command when its rejected rows exceed ten times its quota of targets x ports.
const PORTS: [&str; 10] = [
    "80", "443", "4028", "4029", "4030", "8080", "8443", "8888", "9090", "50051",
];
/// Seed for the choice of faults.
const SEED: u64 = 0x5eed_0003;

pub(crate) fn run() -> Result<Vec<String>> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut figures = Vec::new();
        for scratch in Scratch::both().await? {
            figures.extend(flood(&scratch).await.context(scratch.engine)?);
            scratch.remove().await?;
        }
        Ok(figures)
    })
}

async fn flood(scratch: &Scratch) -> Result<Vec<String>> {
    let live = Live::start(&scratch.store).await?;
    let mut node = live.node("hostile").await?;
    let scan = live.scan(&node, wanted()).await?;
    let command = node.command().await?;
    let mut random = Random::new(SEED);
    let (mut malformed, mut good, mut calls) = (0, BTreeMap::new(), 0_u64);
    let mut kinds = BTreeMap::new();
    while malformed < MALFORMED {
        let first = random.below(REPORT - GOOD);
        let mut devices = Vec::new();
        for number in 0..REPORT {
            if (first..first + GOOD).contains(&number) {
                let device = device(good.len());
                good.insert(device.device_identifier.clone(), device.ip_address.clone());
                devices.push(device);
            } else {
                let (kind, device) = broken(&mut random);
                *kinds.entry(kind).or_insert(0_u64) += 1;
                devices.push(device);
            }
        }
        let answer = report(&node, &command, devices).await?;
        if answer != (GOOD, REPORT - GOOD) {
            let records = scratch.store.list_audit(live.org, None, 40).await?;
            bail!("report {calls} was answered {answer:?}; the audit trail contains {records:#?}");
        }
        malformed += REPORT - GOOD;
        calls += 1;
    }
    let envelopes = break_envelopes(&node, &command).await?;
    let stored = scratch
        .store
        .list_devices(live.org, None, DeviceId(0), u32::MAX >> 1)
        .await?;
    let stored: BTreeMap<String, String> = stored
        .into_iter()
        .map(|row| {
            let endpoint = row.endpoint.map(|endpoint| endpoint.ip.to_string());
            (row.identifier.to_string(), endpoint.unwrap_or_default())
        })
        .collect();
    let id: ScanId = scan.parse()?;
    let events = scratch
        .store
        .read_events(
            live.org,
            id,
            0,
            u32::MAX >> 1,
            fleet_core::Timestamp::from_micros(0),
        )
        .await?
        .context("the scan")?
        .events
        .len();
    live.stop().await?;
    let bad = stored
        .iter()
        .filter(|(id, endpoint)| good.get(*id) != Some(*endpoint))
        .count();
    let lost = good.keys().filter(|id| !stored.contains_key(*id)).count();
    ensure!(
        bad == 0 && lost == 0 && events == good.len(),
        "{bad} malformed stored, {lost} good lost, {events} events for {} devices",
        good.len()
    );
    let fewest = kinds.iter().min_by_key(|(_, count)| **count);
    let fewest = fewest.map_or_else(String::new, |(kind, count)| format!("{count} of `{kind}`"));
    Ok(vec![
        format!(
            "{}: {malformed} malformed devices of {} kinds (at least {fewest}) in {calls} reports, {bad} stored; {envelopes} broken reports, none taken",
            scratch.engine,
            kinds.len(),
        ),
        format!(
            "{}: {} good neighbors of them, {lost} lost",
            scratch.engine,
            good.len()
        ),
    ])
}

fn wanted() -> DiscoverRequest {
    DiscoverRequest {
        mode: Some(Mode::Nmap(NmapModeRequest {
            target: NETWORK.0.to_owned(),
            ports: PORTS.map(str::to_owned).to_vec(),
        })),
        max_rate: 0,
    }
}

/// Sends a report and returns the numbers of accepted and rejected devices.
async fn report(
    node: &Node,
    command: &str,
    devices: Vec<DiscoveredDeviceReport>,
) -> Result<(u64, u64)> {
    let request = ReportDiscoveredDevicesRequest {
        hosts: Vec::new(),
        devices,
        command_id: command.to_owned(),
    };
    let answer = node
        .gateway
        .report_discovered_devices(&request, node.options()?)
        .await?;
    Ok((
        answer.accepted_count.try_into()?,
        answer.rejected_count.try_into()?,
    ))
}

/// Sends reports that are invalid as a whole but contain valid devices.
async fn break_envelopes(node: &Node, command: &str) -> Result<usize> {
    let fresh = |count: usize| (0..count).map(|n| device(20_000 + n)).collect::<Vec<_>>();
    let broken = [
        (command.to_owned(), fresh(1_025), Code::InvalidArgument),
        (String::new(), fresh(1), Code::InvalidArgument),
        ("x".repeat(129), fresh(1), Code::InvalidArgument),
        (
            "not a command".to_owned(),
            fresh(1),
            Code::FailedPrecondition,
        ),
        (
            "01a208ec-434b-777d-a405-a673cdd63546".to_owned(),
            fresh(1),
            Code::FailedPrecondition,
        ),
    ];
    let count = broken.len();
    for (command_id, devices, expected) in broken {
        let request = ReportDiscoveredDevicesRequest {
            hosts: Vec::new(),
            devices,
            command_id,
        };
        let answer = node
            .gateway
            .report_discovered_devices(&request, node.options()?)
            .await;
        let code = answer.err().map(|error| error.code);
        ensure!(
            code == Some(expected),
            "a broken report was answered {code:?} and not {expected:?}"
        );
    }
    Ok(count)
}

/// Returns valid device number `n`.
fn device(n: usize) -> DiscoveredDeviceReport {
    let n = u32::try_from(n).unwrap_or(u32::MAX);
    // The network address and the first address are not scanned.
    let ip = Ipv4Addr::from(u32::from(NETWORK.1) + 2 + n);
    let [_, b, c, d] = n.to_be_bytes();
    DiscoveredDeviceReport {
        device_identifier: format!("mac:02:00:5E:{b:02X}:{c:02X}:{d:02X}"),
        ip_address: ip.to_string(),
        port: "4028".to_owned(),
        url_scheme: "http".to_owned(),
        driver_name: "antminer".to_owned(),
        model: "S19".to_owned(),
        ..DiscoveredDeviceReport::default()
    }
}

/// Introduces one fault.
type Breakage = fn(&mut Random, &mut DiscoveredDeviceReport);

/// The possible faults of a device.
const BREAKAGES: [(&str, Breakage); 24] = [
    ("no identifier", |_, d| d.device_identifier.clear()),
    ("long identifier", |r, d| {
        d.device_identifier = "x".repeat(256 + r.size(64))
    }),
    ("control in identifier", |r, d| {
        d.device_identifier = format!("serial:A{}B", r.control())
    }),
    ("no address", |_, d| d.ip_address.clear()),
    ("octal address", |r, d| {
        d.ip_address = format!("10.20.0{}.{}", r.below(64), 1 + r.below(254))
    }),
    ("integer address", |r, d| {
        d.ip_address = (0x0a14_0000 + r.below(16_384)).to_string()
    }),
    ("hexadecimal address", |r, d| {
        d.ip_address = format!("0x0a14{:04x}", r.below(16_384))
    }),
    ("short address", |r, d| {
        d.ip_address = format!("10.20.{}", r.below(16_384))
    }),
    ("zoned address", |r, d| {
        d.ip_address = format!("fd00::{:x}%eth0", 1 + r.below(65_534))
    }),
    ("name as address", |r, d| {
        d.ip_address = format!("miner{}.lan", r.next())
    }),
    ("public address", |r, d| {
        d.ip_address = format!("8.8.{}.{}", r.below(256), r.below(256))
    }),
    ("loopback address", |r, d| {
        d.ip_address = format!("127.{}.0.{}", r.below(256), r.below(256))
    }),
    ("metadata address", |_, d| {
        "169.254.169.254".clone_into(&mut d.ip_address)
    }),
    ("NAT64 of a private address", |r, d| {
        d.ip_address = format!("64:ff9b::10.20.1.{}", r.below(256))
    }),
    ("address out of scope", |r, d| {
        d.ip_address = format!("10.20.{}.{}", 64 + r.below(192), r.below(256))
    }),
    ("skipped address", |_, d| {
        NETWORK.1.to_string().clone_into(&mut d.ip_address)
    }),
    ("no port", |_, d| d.port.clear()),
    ("port out of range", |r, d| {
        d.port = (65_536 + r.below(1 << 40)).to_string()
    }),
    ("port with a zero in front", |r, d| {
        d.port = format!("0{}", 1 + r.below(65_535))
    }),
    ("port out of scope", |r, d| {
        d.port = (10_000 + r.below(40_000)).to_string()
    }),
    ("not a scheme", |r, d| {
        d.url_scheme = ["java script", "1http", "http:", "хттп", "http\n"][r.size(5)].to_owned()
    }),
    ("no driver", |_, d| d.driver_name.clear()),
    ("control in text", |r, d| {
        d.model = format!("S19{}", r.control())
    }),
    ("long text", |r, d| {
        d.firmware_version = "é".repeat(256 + r.size(64))
    }),
];

/// Returns a device with one fault, and the name of the fault.
fn broken(random: &mut Random) -> (&'static str, DiscoveredDeviceReport) {
    // The address is above all valid devices, so only a faulty row can have created such a record.
    let mut device = device(16_300 + usize::try_from(random.below(64)).unwrap_or(0));
    device.device_identifier = format!("serial:BAD-{}", random.next());
    let (kind, break_it) = BREAKAGES[random.size(BREAKAGES.len())];
    break_it(random, &mut device);
    (kind, device)
}
