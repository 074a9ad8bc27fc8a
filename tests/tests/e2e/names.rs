//! Host names from the command line to the device, with a name server that the test controls.

use std::net::{IpAddr, Ipv4Addr};

use fleet_sim::{Lab, NameRecord, NameServer};
use fleet_wire::fleet::watch_scan_response::Event;
use serde_json::Value;

use crate::harness::{Code, Expected, World, list, ports, target};

on_both_databases! {
    a_host_name_is_scanned_at_the_addresses_that_the_node_pinned_it_to
}

async fn a_host_name_is_scanned_at_the_addresses_that_the_node_pinned_it_to(world: World) {
    let server = NameServer::start().await.expect("a name server");
    let dns = server.address().to_string();
    let node = world.node("barn", &["--dns-server", &dns]).await;
    let lab = Lab::start(world.range.mixed(40)).await.expect("a site");
    let at = |number| world.range.address(number);
    let address = |ip: Ipv4Addr| NameRecord::Address(ip.into());
    server.set("rigs.lan", [3, 1, 2].map(at).map(address));
    server.set("shed.lan", [2, 9].map(at).map(address));
    server.set("mixed.lan", [at(5), Ipv4Addr::new(8, 8, 8, 8)].map(address));

    let asked: Vec<IpAddr> = [1, 2, 3, 9].map(|n| at(n).into()).to_vec();
    let expected = Expected::of(lab.site(), node.id, asked.clone()).skipping(2);
    let request = list(["rigs.lan", "shed.lan", "mixed.lan", "gone.lan"]);
    let scan = world.operator.start(node.id, request).await.scan_id;
    let history = expected.is_history_of(&world.operator, &scan).await;
    let warnings: Vec<&str> = history
        .events()
        .iter()
        .filter_map(|event| match &event.event {
            Some(Event::Warning(warning)) => Some(warning.text.as_str()),
            Some(Event::Device(_) | Event::Host(_) | Event::Progress(_) | Event::Ended(_))
            | None => None,
        })
        .collect();
    let pinned = |name, numbers: &[u16]| {
        let addresses: Vec<String> = numbers.iter().map(|n| at(*n).to_string()).collect();
        format!("`{name}` is pinned to {}", addresses.join(", "))
    };
    for warning in [
        pinned("rigs.lan", &[3, 1, 2]),
        pinned("shed.lan", &[2, 9]),
        "`mixed.lan` is left out: the node left it out: it resolves to 8.8.8.8, a public address"
            .to_owned(),
        "`gone.lan` is left out: the node left it out: it resolves to no address".to_owned(),
    ] {
        assert!(
            warnings.contains(&warning.as_str()),
            "{warning}: {warnings:?}"
        );
    }
    let touched = lab.journal().touched_addresses();
    assert!(touched.iter().all(|ip| asked.contains(ip)), "{touched:?}");

    let (id, ports) = (node.id.to_string(), ports().join(","));
    let start = ["scan", "start", "--node", &id, "--port", &ports];
    let printed = world
        .fleetctl(&[&start[..], &["-o", "ndjson", "rigs.lan"]].concat())
        .await
        .succeeded();
    let lines: Vec<Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    let last = lines.last().expect("a last line");
    assert_eq!(last["ended"]["ledger"]["targets"], "3", "{last}");
    assert_eq!(server.asked("rigs.lan"), 2, "once a scan");

    for name in ["localhost", "rig.localhost", "0x7f.1", "2130706433"] {
        let refused = world.operator.is_refused(node.id, target(name)).await;
        assert_eq!(refused.code, Code::InvalidArgument, "{name}");
    }
}
