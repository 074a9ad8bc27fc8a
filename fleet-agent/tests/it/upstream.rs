//! Under an upstream server: reports equal those of upstream's own node, column by column.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::mpsc,
};

use fleet_agent::{AgentOptions, SitePolicy};
use fleet_core::{Endpoint, NodeId, Port, auto_identifier};
use fleet_sim::{
    Device, DeviceLogin, Lab, Make, Manner, Namespace, Protocol, RunningSite, Service, Site,
};
use fleet_wire::{
    gateway::{DiscoveredDeviceReport, FleetNodePairResult, PairOutcome},
    pairing::{Credentials, FleetNodePairRequest, FleetNodePairTarget},
};

use crate::{NODE, Running, gateway::Gateway, options, start};

const PORT: u16 = 4028;
const WEB_PORT: u16 = 18_082;

fn device(make: Make, model: &str, firmware: &str, protocol: Protocol, port: u16) -> Device {
    Device {
        address: Ipv4Addr::LOCALHOST.into(),
        make,
        model: model.to_owned(),
        firmware: firmware.to_owned(),
        mac: None,
        serial: None,
        services: vec![Service {
            port,
            protocol,
            manner: Manner::Proper,
            delay_ms: 0,
        }],
        login: Some(DeviceLogin::new("root", "root")),
    }
}

fn site() -> Site {
    let api = |make, model, firmware| device(make, model, firmware, Protocol::Cgminer, PORT);
    Site {
        seed: 1,
        devices: vec![
            api(Make::Vnish, "Antminer S21 Pro", "1.2.7"),
            api(Make::Whatsminer, "M60SVK40", "20240624.18.REL"),
            api(Make::Antminer, "Antminer S19", "1.0.0"),
            device(
                Make::Antminer,
                "Antminer S19",
                "1.0.0",
                Protocol::Http,
                WEB_PORT,
            ),
        ],
    }
}

/// The columns that upstream's server stores.
fn columns(row: &DiscoveredDeviceReport) -> [&str; 6] {
    [
        &row.driver_name,
        &row.manufacturer,
        &row.model,
        &row.firmware_version,
        &row.port,
        &row.url_scheme,
    ]
}

#[tokio::test]
async fn devices_are_named_as_upstreams_node_names_them_and_ours_keep_their_names() {
    let site = start(site(), 50).await;
    let addresses = site.site().addresses();
    for (capabilities, vnish, whatsminer) in [
        (
            &[][..],
            ["asicrs", "VNish", "S21Pro", "1.2.7", "80", "http"],
            [
                "asicrs",
                "Whatsminer",
                "M60SVK40",
                "20240624.18.REL",
                "4028",
                "http",
            ],
        ),
        (
            &["progress"][..],
            [
                "asicrs",
                "Bitmain",
                "Antminer S21 Pro",
                "VNish 1.2.7",
                "4028",
                "http",
            ],
            [
                "asicrs",
                "MicroBT",
                "M60SVK40",
                "20240624.18.REL",
                "4028",
                "http",
            ],
        ),
    ] {
        let gateway = Gateway::start().await;
        let _node = Running::start(&gateway, 5_000);
        let mut stream = gateway.stream().await;
        stream.hello().await;
        stream.accept(capabilities);
        stream.discover("c", &addresses[..3], &[PORT, 80]);
        stream.ack().await;
        let seen = gateway.seen();
        let of = |ip: &IpAddr| {
            let mut rows = seen.rows();
            let row = rows.find(|row| row.ip_address == ip.to_string());
            columns(row.expect("it is reported"))
        };
        let antminer = [
            "antminer",
            "Bitmain",
            "Antminer S19",
            "1.0.0",
            "4028",
            "http",
        ];
        assert_eq!(of(&addresses[0]), vnish);
        assert_eq!(of(&addresses[1]), whatsminer);
        assert_eq!(of(&addresses[2]), antminer);
    }
}

/// Everything stays on the thread, because other threads are not in its namespace.
fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

/// Scans one device for a server with these capabilities, and returns the identifier in the report.
async fn identifier(ip: IpAddr, capabilities: &[&str]) -> String {
    let gateway = Gateway::start().await;
    let options = AgentOptions {
        site: SitePolicy::default(),
        ..options(5_000)
    };
    let _node = Running::with(&gateway, options);
    let mut stream = gateway.stream().await;
    stream.hello().await;
    stream.accept(capabilities);
    stream.discover("c", &[ip], &[PORT]);
    stream.ack().await;
    let seen = gateway.seen();
    let row = seen.rows().next().expect("it is reported");
    row.device_identifier.clone()
}

#[test]
#[ignore = "needs root and network namespaces: run by cargo xtask test as its step lab"]
fn lab_a_device_on_the_link_has_the_identifier_that_upstreams_node_gives_it() {
    let (node, lan) = (
        Namespace::new().expect("a namespace"),
        Namespace::new().expect("a namespace"),
    );
    node.cable("lan", &lan, "node").expect("a cable");
    node.ip("addr add 10.7.0.1/24 dev lan").expect("an address");
    lan.ip("addr add 10.7.0.10/24 dev node")
        .expect("an address");
    let address = Ipv4Addr::new(10, 7, 0, 10);
    let (ready, started) = mpsc::channel();
    let (over, end) = tokio::sync::oneshot::channel::<()>();
    let devices = lan.run(move || {
        runtime().block_on(async {
            let antminer = device(
                Make::Antminer,
                "Antminer S19",
                "1.0.0",
                Protocol::Cgminer,
                PORT,
            );
            let site = Site {
                seed: 1,
                devices: vec![antminer],
            };
            let _site = Lab::start(site.starting_at(address))
                .await
                .expect("the device starts");
            ready.send(()).expect("the test waits");
            let _ = end.await;
        });
    });
    started.recv().expect("the device starts");
    let scans = node.run(move || {
        runtime().block_on(async {
            let for_upstream = identifier(address.into(), &[]).await;
            (
                for_upstream,
                identifier(address.into(), &["progress"]).await,
            )
        })
    });
    let (upstream, own) = scans.join().expect("no panic").expect("a namespace");
    let endpoint = Endpoint {
        ip: address.into(),
        port: Port::new(PORT).expect("a port"),
    };
    let auto = auto_identifier(NodeId(NODE), endpoint, "antminer", "Antminer S19");
    assert_eq!(upstream, auto.to_string());
    assert!(own.starts_with("mac:"), "{own}");
    let _ = over.send(());
    devices.join().expect("no panic").expect("a namespace");
}

#[tokio::test]
async fn pairing_knows_upstreams_makes_and_leaves_the_default_password_open() {
    let site = start(site(), 51).await;
    let addresses = site.site().addresses();
    let gateway = Gateway::start().await;
    let _node = Running::start(&gateway, 5_000);
    let mut stream = gateway.stream().await;
    stream.hello().await;
    stream.accept(&[]);
    let target = |id: &str, at: usize, port: u16, make: &str| FleetNodePairTarget {
        device_identifier: id.to_owned(),
        ip_address: addresses[at].to_string(),
        port: port.to_string(),
        driver_name: "asicrs".to_owned(),
        manufacturer: make.to_owned(),
        ..FleetNodePairTarget::default()
    };
    let request = FleetNodePairRequest {
        targets: vec![
            target("test:antminer", 3, WEB_PORT, "Bitmain"),
            target("test:whatsminer", 1, PORT, "Whatsminer"),
            target("test:other", 1, PORT, "Avalonminer"),
        ],
        credentials: Some(Credentials {
            username: "root".to_owned(),
            password: Some("root".to_owned()),
            ..Credentials::default()
        }),
    };
    stream.pair("p", request);
    stream.ack().await;
    let results = gateway.seen().paired;
    let of = |id: &str| {
        let found = results.iter().find(|result| result.device_identifier == id);
        found.unwrap_or_else(|| panic!("no result of {id}: {results:?}"))
    };
    let antminer = of("test:antminer");
    assert_eq!(antminer.outcome(), PairOutcome::Paired, "{antminer:?}");
    assert_eq!(antminer.default_password_active, None);
    let whatsminer = of("test:whatsminer");
    let other = of("test:other");
    assert_eq!(whatsminer.outcome(), PairOutcome::Paired, "{whatsminer:?}");
    assert_eq!(whatsminer.default_password_active, None);
    assert!(other.error_message.contains("another device"), "{other:?}");
}

/// Pairs an Antminer without a password in the request.
async fn paired_without_a_password(
    site: &RunningSite,
    capabilities: &[&str],
    default_passwords: bool,
) -> FleetNodePairResult {
    let gateway = Gateway::start().await;
    let options = AgentOptions {
        default_passwords,
        ..options(5_000)
    };
    let _node = Running::with(&gateway, options);
    let mut stream = gateway.stream().await;
    stream.hello().await;
    stream.accept(capabilities);
    let target = FleetNodePairTarget {
        device_identifier: "test:antminer".to_owned(),
        ip_address: site.site().addresses()[3].to_string(),
        port: WEB_PORT.to_string(),
        driver_name: "asicrs".to_owned(),
        manufacturer: "Bitmain".to_owned(),
        ..FleetNodePairTarget::default()
    };
    let request = FleetNodePairRequest {
        targets: vec![target],
        credentials: None,
    };
    stream.pair("p", request);
    stream.ack().await;
    let mut results = gateway.seen().paired;
    results.pop().expect("a result")
}

#[tokio::test]
async fn an_upstream_servers_request_without_a_password_tries_the_default_passwords() {
    let site = start(site(), 52).await;
    for (capabilities, default_passwords, expected) in [
        (&[][..], true, PairOutcome::Paired),
        (&[][..], false, PairOutcome::AuthNeeded),
        // A server of this project asks for them by a field.
        (&["progress"][..], true, PairOutcome::AuthNeeded),
    ] {
        let result = paired_without_a_password(&site, capabilities, default_passwords).await;
        let case = format!("{capabilities:?}, allowed {default_passwords}: {result:?}");
        assert_eq!(result.outcome(), expected, "{case}");
        let has_stored = result.encrypted_credentials.is_some();
        assert_eq!(has_stored, expected == PairOutcome::Paired, "{case}");
    }
}
