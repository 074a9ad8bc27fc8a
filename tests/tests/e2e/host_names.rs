//! Names of what a scan found, from the site's name server and from the hosts themselves. Loopback addresses have no
//! lookups, so the test has a network of its own.

use std::{collections::BTreeMap, net::Ipv4Addr, panic::resume_unwind, sync::mpsc, time::Duration};

use fleet_sim::{Lab, Manner, NameServer, Namespace, Site};
use fleet_wire::fleet::watch_scan_response::Event;
use serde_json::Value;

use crate::harness::{EventSource, Kind, Node, World, on, ports};

/// Three devices and a host that no rule identifies.
const HOSTS: u8 = 4;

fn host(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 3, 0, 10 + number)
}

/// The site: its hosts, one of which answers for its own name.
async fn serve(ready: mpsc::Sender<()>, end: tokio::sync::oneshot::Receiver<()>) {
    let mut site = Site::slow(usize::from(HOSTS), Duration::ZERO).starting_at(host(1));
    for service in &mut site.devices[3].services {
        service.manner = Manner::Garbage;
    }
    let _lab = Lab::start(site).await.expect("the devices start");
    let own = NameServer::start_at((host(2), 5353).into()).await;
    let own = own.expect("a responder");
    own.set_reverse(host(2), "bitaxe.local");
    ready.send(()).expect("the test waits");
    let _ = end.await;
}

#[test]
#[ignore = "needs root and network namespaces: run by cargo xtask test as its step lab"]
fn lab_devices_and_hosts_are_shown_with_their_name_and_its_source() {
    let node = Namespace::new().expect("a namespace");
    let site = Namespace::new().expect("a namespace");
    node.cable("lan", &site, "node").expect("a cable");
    node.ip("addr add 10.3.0.1/24 dev lan").expect("an address");
    for number in 1..=HOSTS {
        let add = format!("addr add {}/24 dev node", host(number));
        site.ip(&add).expect("an address");
    }
    let (ready, started) = mpsc::channel();
    let (over, end) = tokio::sync::oneshot::channel();
    let serving = site.run(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        runtime.block_on(serve(ready, end));
    });
    started.recv().expect("the site starts");
    let name = concat!(module_path!(), "::lab_devices_and_hosts_are_shown");
    let tested = node.run(move || on(Kind::Sqlite, name, shown_with_names));
    let tested = tested.join();
    let _ = over.send(());
    let served = serving.join();
    match tested {
        Ok(inside) => inside.expect("a namespace"),
        Err(panic) => resume_unwind(panic),
    }
    served.expect("no panic").expect("a namespace");
}

async fn shown_with_names(world: World) {
    let dns = NameServer::start().await.expect("a name server");
    dns.set_reverse(host(1), "Rig-1.lan");
    // A name that is no text for a terminal or a page.
    dns.set_reverse(host(3), "<b>rig\u{1b}[31m</b>.lan");
    dns.set_reverse(host(4), "printer.lan");
    let mut node = Node::enroll(&world, "barn").await;
    node.set_network("--allow-network=10.3.0.0/24");
    let address = dns.address().to_string();
    node.set_flags(&["--dns-server", &address]);
    node.start(&world.server).await;

    let (id, ports) = (node.id.to_string(), ports().join(","));
    let start = ["scan", "start", "--node", &id, "--port", &ports];
    let started = [&start[..], &["10.3.0.11-14"]].concat();
    let printed = world.fleetctl(&started).await;
    assert_eq!(printed.status, 0, "{printed:?}");
    for (text, name) in [
        (&printed.stdout, "rig-1.lan (dns)"),
        (&printed.stdout, "bitaxe.local (mdns)"),
        (&printed.stderr, "printer.lan (dns)"),
    ] {
        assert!(text.contains(name), "{name}: {printed:?}");
    }

    let expected = BTreeMap::from([
        (host(1).to_string(), ("rig-1.lan".into(), "dns".into())),
        (host(2).to_string(), ("bitaxe.local".into(), "mdns".into())),
        (host(3).to_string(), (String::new(), String::new())),
        (host(4).to_string(), ("printer.lan".into(), "dns".into())),
    ]);
    let listed = world.fleetctl(&["scan", "list", "-o", "json"]).await;
    let listed: Value = serde_json::from_str(&listed.succeeded()).expect("one document");
    let scan = listed[0]["scanId"].as_str().expect("an id").to_owned();
    let history = world.operator.history(&scan).await;
    let events = history.events().iter().filter_map(|event| {
        let (ip, name, source) = match event.event.as_ref()? {
            Event::Device(one) => (&one.ip, &one.host_name, &one.host_name_source),
            Event::Host(one) => {
                let one = one.host.as_ref()?;
                (&one.ip, &one.host_name, &one.host_name_source)
            }
            Event::Progress(_) | Event::Warning(_) | Event::Ended(_) => return None,
        };
        Some((ip.clone(), (name.clone(), source.clone())))
    });
    assert_eq!(BTreeMap::from_iter(events), expected);

    // The page shows the rows of this stream.
    let source = EventSource::open(world.server.address(), world.operator.key(), &scan, 0).await;
    let mut source = source.expect("events");
    let mut rows = BTreeMap::new();
    while let Some(sent) = source.next().await {
        let text = |key: &str| sent.data[key].as_str().unwrap_or_default().to_owned();
        if sent.data["type"] == "device" || sent.data["type"] == "host" {
            rows.insert(text("ip"), (text("host_name"), text("host_name_source")));
        }
    }
    assert_eq!(rows, expected);

    let devices = world.operator.devices().await;
    let devices: BTreeMap<_, _> = devices
        .into_iter()
        .map(|device| (device.ip, (device.host_name, device.host_name_source)))
        .collect();
    let mut identified = expected;
    identified.remove(&host(4).to_string());
    assert_eq!(devices, identified);
    let csv = world.fleetctl(&["devices", "list", "-o", "csv"]).await;
    let csv = csv.succeeded();
    assert!(csv.contains("bitaxe.local (mdns)"), "{csv}");
    let hosts = world.fleetctl(&["scan", "hosts", &scan, "-o", "csv"]).await;
    let hosts = hosts.succeeded();
    assert!(hosts.contains("printer.lan"), "{hosts}");
}
