//! Searches of the inventory: every field, every order page by page, and the time of a page of 100,000 devices.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use fleet_core::{PairingStatus, RawDeviceReport, outcome::AckCode};
use fleet_store::*;
use sea_orm::ConnectionTrait;

use crate::site::{Node, Row, Site, at, blank, mac, row};

contract! {
    every_field_selects_its_devices
    pages_of_every_order_hold_each_device_once
    a_page_of_a_large_inventory_is_fast
}

fn miner(ip: &str, number: usize, model: &str, firmware: &str) -> Row {
    row(RawDeviceReport {
        ip,
        mac: &mac(number),
        model,
        firmware,
        manufacturer: "Bitmain",
        ..blank()
    })
}

async fn scan(site: &Site, node: Node, rows: Vec<Row>) {
    let command = site.running(node, "10.0.0.0/22").await.command;
    site.reported(node, command, rows).await;
    site.acked(node, command, AckCode::Ok).await;
}

fn query(search: &str) -> DeviceQuery {
    DeviceQuery {
        search: search.parse().expect(search),
        node: None,
        order: DeviceOrder::Id,
        descending: false,
        after: None,
        limit: 100,
        now: at(30 + 7_200),
    }
}

async fn found(site: &Site, search: &str) -> Vec<String> {
    let page = site.store.search_devices(site.org, query(search)).await;
    let devices = page.expect("read").devices;
    let ip = |device: DeviceRow| device.endpoint.expect("an endpoint").ip.to_string();
    devices.into_iter().map(ip).collect()
}

async fn every_field_selects_its_devices(site: Site) {
    let north = site.node("north").await;
    let barn = site.node("barn 50%").await;
    let rows = vec![
        miner("10.0.0.1", 1, "Antminer S19", "1.0"),
        miner("10.0.0.2", 2, "Antminer S21", "1.1"),
        miner("10.0.1.1", 3, "Antminer S19 Pro", "Braiins 24.09"),
    ];
    scan(&site, north, rows).await;
    scan(&site, barn, vec![miner("10.0.0.9", 9, "Whats_Miner", "")]).await;
    let all = ["10.0.0.1", "10.0.0.2", "10.0.1.1", "10.0.0.9"];
    for (search, expected) in [
        ("", &all[..]),
        ("s19", &["10.0.0.1", "10.0.1.1"]),
        ("s19 braiins", &["10.0.1.1"]),
        ("10.0.1.1", &["10.0.1.1"]),
        ("*s19", &["10.0.0.1"]),
        ("s_1", &[]),
        // Two texts of a device are not one.
        ("s191.0", &[]),
        ("model:s19", &["10.0.0.1", "10.0.1.1"]),
        ("model:*s19", &["10.0.0.1"]),
        ("model:S19 model:S21", &["10.0.0.1", "10.0.0.2", "10.0.1.1"]),
        ("model:S19 firmware:1.0", &["10.0.0.1"]),
        ("model:\"s19 pro\"", &["10.0.1.1"]),
        ("model:s_1", &[]),
        ("model:s_m", &["10.0.0.9"]),
        ("make:BITMAIN", &all),
        ("mac:02:00:5e:00:00:03", &["10.0.1.1"]),
        ("02:00:5e:00:00:03", &["10.0.1.1"]),
        ("mac:02*:0*9", &["10.0.0.9"]),
        ("id:mac:02*02", &["10.0.0.2"]),
        ("node:barn", &["10.0.0.9"]),
        ("node:50%", &["10.0.0.9"]),
        ("node:5%0", &[]),
        ("site:north", &["10.0.0.1", "10.0.0.2", "10.0.1.1"]),
        ("ip:10.0.0.0/24", &["10.0.0.1", "10.0.0.2", "10.0.0.9"]),
        ("ip:10.0.0.0/30", &["10.0.0.1", "10.0.0.2"]),
        ("ip:10.0.1.*", &["10.0.1.1"]),
        ("ip:10.0.0.1", &["10.0.0.1"]),
        ("ip:192.168.0.0/16", &[]),
        ("ip:10.0.0.8/29", &["10.0.0.9"]),
        ("ip:10.0.0.0/22 ip:192.168.0.0/16", &all),
        ("ip:0.0.0.0/0", &all),
        ("ip:fd00::1", &[]),
        ("port:80", &all),
        ("port:81", &[]),
        ("pairing:unpaired", &all),
        ("pairing:failed", &[]),
        // They were seen two hours before the time of the query.
        ("seen:<1h", &[]),
        ("seen:<3h", &all),
        ("first:>1h", &all),
        ("first:>3h", &[]),
    ] {
        assert_eq!(found(&site, search).await, expected, "{search}");
    }
    let other = site.other_org().await;
    let foreign = site.store.search_devices(other, query("")).await;
    assert_eq!(foreign.expect("read").devices, []);

    let search = "s19".parse().expect("a search");
    let facets = site.store.device_facets(site.org, &search, None, at(40));
    let facets = facets.await.expect("read");
    assert_eq!(facets.total, 2);
    assert_eq!(facets.makes, [("Bitmain".to_owned(), 2)]);
    assert_eq!(facets.models.len(), 2);
    assert_eq!(facets.nodes, [(Some(north.id), 2)]);
    assert_eq!(facets.pairing, [(PairingStatus::Unpaired, 2)]);
    // The counts of the whole inventory and those of a search come from different queries.
    let facets = async |search: &str| {
        let search = search.parse().expect("a search");
        let facets = site.store.device_facets(site.org, &search, None, at(40));
        facets.await.expect("read")
    };
    let whole = facets("").await;
    assert_eq!((whole.total, whole.firmware.len()), (4, 4));
    assert_eq!(whole.nodes, [(Some(north.id), 3), (Some(barn.id), 1)]);
    assert_eq!(facets("port:80").await, whole);
    assert_eq!(facets("port:81").await, DeviceFacets::default());
}

const ORDERS: [DeviceOrder; 6] = [
    DeviceOrder::Id,
    DeviceOrder::LastSeen,
    DeviceOrder::FirstSeen,
    DeviceOrder::Model,
    DeviceOrder::Firmware,
    DeviceOrder::Address,
];

/// The octets of an IPv4 address in a form that sorts.
fn octets(ip: Option<std::net::IpAddr>) -> String {
    let text = ip.map(|ip| ip.to_string()).unwrap_or_default();
    let octets = text.split('.').map(|octet| format!("{octet:0>3}"));
    octets.collect::<Vec<_>>().join(".")
}

async fn pages_of_every_order_hold_each_device_once(site: Site) {
    let north = site.node("north").await;
    let model = |n: usize| ["S19", "S21", ""][n % 3];
    let rows = (1..=25).map(|n| miner(&format!("10.0.0.{n}"), n, model(n), model(n / 3)));
    scan(&site, north, rows.collect()).await;
    for order in ORDERS {
        for descending in [false, true] {
            let mut seen = Vec::new();
            let mut after = None;
            loop {
                let wanted = DeviceQuery {
                    order,
                    descending,
                    after,
                    limit: 4,
                    ..query("")
                };
                let page = site.store.search_devices(site.org, wanted).await;
                let page = page.expect("read");
                seen.extend(page.devices);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            let ids: BTreeSet<_> = seen.iter().map(|device| device.id).collect();
            assert_eq!((seen.len(), ids.len()), (25, 25), "{order:?} {descending}");
            let mut keys: Vec<_> = seen
                .iter()
                .map(|device| match order {
                    DeviceOrder::Id | DeviceOrder::LastSeen | DeviceOrder::FirstSeen => {
                        (String::new(), device.id)
                    }
                    DeviceOrder::Model => (device.facts.model.clone(), device.id),
                    DeviceOrder::Firmware => (device.facts.firmware.clone(), device.id),
                    DeviceOrder::Address => {
                        let ip = device.endpoint.as_ref().map(|endpoint| endpoint.ip);
                        (format!("{:>15}", octets(ip)), device.id)
                    }
                })
                .collect();
            if descending {
                keys.reverse();
            }
            assert!(keys.is_sorted(), "{order:?} {descending}: {keys:?}");
        }
    }
}

/// Devices with these numbers. The times of their reports differ, and so do models and firmware.
async fn insert_devices(site: &Site, node: Node, first: u32, last: u32) {
    let raw = site.raw().await;
    let insert = format!(
        "WITH RECURSIVE numbers (n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM numbers WHERE n < {last})
        INSERT INTO device (org_id, identifier, node_id, ip, port, scheme, driver, model, manufacturer, firmware, mac, serial, evidence, first_seen, last_seen, address_key, search_text)
        SELECT {org}, 'serial:SN' || n, {node}, '10.' || (n / 65536) || '.' || (n / 256 % 256) || '.' || (n % 256), 80, 'http', 'antminer',
        'Antminer S' || (n % 40), 'Bitmain', 'firmware ' || (n % 200), NULL, 'SN' || n, 'page title of the device', n, 1000000 - n, '4010' || substr(CAST(1000 + n / 65536 AS TEXT), 2) || substr(CAST(1000 + n / 256 % 256 AS TEXT), 2) || substr(CAST(1000 + n % 256 AS TEXT), 2) || '00080', 'serial:sn' || n || ' bitmain antminer s' || (n % 40) || ' firmware ' || (n % 200) FROM numbers",
        org = site.org.0,
        node = node.id.0,
    );
    raw.execute_unprepared(&insert).await.expect("inserted");
}

#[expect(clippy::print_stderr, reason = "the measured times are shown")]
async fn a_page_of_a_large_inventory_is_fast(site: Site) {
    let north = site.node("north").await;
    let raw = site.raw().await;
    insert_devices(&site, north, 1, 100_000).await;
    raw.execute_unprepared("ANALYZE").await.expect("analyzed");
    let mut slowest = Duration::ZERO;
    let mut times = Vec::new();
    for search in [
        "",
        "model:S19",
        "S19 firmware:\"firmware 19\"",
        "serial:SN99999",
        "nothing",
        "ip:10.1.0.0/20",
        "pairing:failed",
        "seen:<1d",
        "mac:02*",
    ] {
        for order in ORDERS {
            for descending in [false, true] {
                let mut after = None;
                for _ in 0..3 {
                    let wanted = DeviceQuery {
                        order,
                        descending,
                        after: after.clone(),
                        ..query(search)
                    };
                    let began = Instant::now();
                    let page = site.store.search_devices(site.org, wanted).await;
                    let took = began.elapsed();
                    times.push(took);
                    if took > slowest {
                        slowest = took;
                        eprintln!("{took:?} {search:?} {order:?} descending {descending}");
                    }
                    after = page.expect("read").next;
                    if after.is_none() {
                        break;
                    }
                }
            }
        }
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    let began = Instant::now();
    let search = "model:S19".parse().expect("a search");
    let facets = site.store.device_facets(site.org, &search, None, at_now());
    let total = facets.await.expect("read").total;
    eprintln!(
        "{} pages: p50 {:?}, p99 {:?}, slowest {slowest:?}; facets of {total} devices {:?}",
        times.len(),
        at(50),
        at(99),
        began.elapsed()
    );
    // A debug build on a busy machine is much slower than a server. A missing index is slower still.
    assert!(at(50) < Duration::from_secs(1), "{:?}", at(50));
}

fn at_now() -> fleet_core::Timestamp {
    at(100)
}
