//! Devices whose IP report buttons are pressed while a scan listens.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use fleet_sim::{Button, ButtonMake, Lab};
use serde_json::Value;

use crate::harness::{EventSource, World, eventually};

on_both_databases! {
    devices_appear_in_the_order_of_their_buttons
}

/// Every test of this machine receives it, and takes only the addresses of its own range.
const LOOPBACK: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 255);

fn button(make: ButtonMake, ip: IpAddr) -> Button {
    let IpAddr::V4(ip) = ip else { panic!("{ip}") };
    Button {
        make,
        ip,
        to: LOOPBACK,
        offset: 0,
        pause: Duration::from_millis(20),
    }
}

async fn devices_appear_in_the_order_of_their_buttons(world: World) {
    let network = world.range.network(27);
    let flags = ["--listen-announcements", "--local-subnet", &network];
    let node = world.node("barn", &flags).await;
    let site = world.range.crowd(12, Duration::from_millis(100));
    let lab = Lab::start(site).await.expect("a site");
    let addresses = lab.site().addresses();
    let id = node.id.to_string();
    let start = [
        "scan",
        "start",
        "--node",
        &id,
        "--announcements",
        "--listen",
        "10",
    ];
    let presses = [7, 1, 10, 4, 0, 5, 11, 3, 8];
    // Nothing shows from outside when the ports are open, except that a pressed button has an effect.
    let first = 2;
    let pressing = async {
        eventually("the first device", async || {
            let pressed = button(ButtonMake::IceRiver, addresses[first]).press().await;
            pressed.expect("it is sent");
            (!world.operator.devices().await.is_empty()).then_some(())
        })
        .await;
        for (make, host) in ButtonMake::ALL.into_iter().zip(presses) {
            let answers = button(make, addresses[host]).press().await;
            assert_eq!(answers.expect("it is sent"), 0, "no answer");
        }
    };
    let (printed, ()) = futures::join!(world.fleetctl(&start), pressing);
    let order = std::iter::once(first).chain(presses);
    let expected: Vec<String> = order.map(|host| addresses[host].to_string()).collect();
    let in_rows = |text: &str| -> Vec<String> {
        let endpoints = text.lines().filter_map(|line| line.split_once(":4028 "));
        endpoints.map(|(ip, _)| ip.to_owned()).collect()
    };
    assert_eq!(in_rows(&printed.stdout), expected, "{printed:?}");
    assert_eq!(printed.status, 0, "{printed:?}");

    let listed = world.fleetctl(&["scan", "list", "-o", "json"]).await;
    let listed: Value = serde_json::from_str(&listed.succeeded()).expect("one document");
    let scan = listed[0]["scanId"].as_str().expect("an id").to_owned();
    let watched = world.fleetctl(&["scan", "watch", &scan]).await;
    assert_eq!(in_rows(&watched.stdout), expected, "{watched:?}");

    // The page appends a row for each device of this stream.
    let source = EventSource::open(world.server.address(), world.operator.key(), &scan, 0).await;
    let mut source = source.expect("events");
    let mut rows = Vec::new();
    while let Some(sent) = source.next().await {
        if sent.data["type"] == "device" {
            rows.push(sent.data["ip"].as_str().expect("an address").to_owned());
        }
    }
    assert_eq!(rows, expected);
    let touched = lab.journal().touched_addresses();
    assert_eq!(touched.len(), expected.len(), "no other device is dialed");
}
