//! `fleetctl` as scripts use it: its exit status and its output.

use std::{net::TcpListener, time::Duration};

use fleet_core::Role;
use fleet_sim::{Device, Lab, Truth};
use serde_json::Value;

use crate::harness::{Expected, Operator, PORTS, World, eventually};

on_both_databases! {
    fleetctl_exits_with_the_documented_status
    fleetctl_prints_a_scan_as_lines
    fleetctl_prints_an_unidentified_host_once
}

async fn fleetctl_exits_with_the_documented_status(world: World) {
    let mut node = world.node("barn", &["--rate", "30"]).await;
    let site = world.range.crowd(200, Duration::from_millis(50));
    let _lab = Lab::start(site).await.expect("a site");
    let id = node.id.to_string();
    let at = |number| world.range.address(number).to_string();
    let start = ["scan", "start", "--node", &id, "--port", "4028"];
    let scan = |more: &[&str]| {
        [&start, more]
            .concat()
            .iter()
            .map(|a| (*a).to_owned())
            .collect::<Vec<_>>()
    };

    let one = at(1);
    let completed = fleetctl(&world, &world.operator, &scan(&[&one])).await;
    assert_eq!(completed.0, 0, "{completed:?}");

    // Seven seconds of work, canceled as soon as the scan runs.
    let many = format!("{}..{}", at(1), at(200));
    let arguments = scan(&[&many]);
    let (canceled, ()) = futures::join!(fleetctl(&world, &world.operator, &arguments), async {
        let running = eventually("a running scan", async || {
            let listed = world
                .fleetctl(&["scan", "list", "-o", "ndjson", "--limit", "1"])
                .await
                .succeeded();
            let newest: Value = serde_json::from_str(&listed).expect("one line");
            (newest["state"] == "SCAN_STATE_RUNNING")
                .then(|| newest["scanId"].as_str().expect("an id").to_owned())
        })
        .await;
        world
            .fleetctl(&["scan", "cancel", &running])
            .await
            .succeeded();
    });
    assert_eq!(canceled.0, 130, "{canceled:?}");

    let viewer = world.another_operator(Role::Viewer).await;
    let refused = fleetctl(&world, &viewer, &scan(&[&one])).await;
    assert_eq!(refused.0, 77, "{refused:?}");
    assert!(refused.1.contains("fleetnode:manage"), "{refused:?}");
    assert_eq!(
        world.fleetctl_as(&viewer, &["nodes", "list"]).await.status,
        0
    );
    let outsider = Operator::new(&world.server.url(), "fok_unknown");
    let refused = world.fleetctl_as(&outsider, &["nodes", "list"]).await;
    assert_eq!(
        refused.status, 64,
        "no key is sent that cannot be one: {refused:?}"
    );

    let wrong = fleetctl(&world, &world.operator, &scan(&["8.8.8.8"])).await;
    assert_eq!(wrong.0, 64, "{wrong:?}");
    assert!(wrong.1.contains("8.8.8.8"), "{wrong:?}");
    let unknown = world
        .fleetctl(&["scan", "start", "--node", "999", &one])
        .await;
    assert_eq!(unknown.status, 1, "{unknown:?}");

    assert!(node.terminate().await.success());
    let expired = fleetctl(&world, &world.operator, &scan(&["--queue-for", "1", &one])).await;
    assert_eq!(expired.0, 75, "{expired:?}");

    let nobody = TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("an address");
    let nowhere = format!("http://{nobody}");
    let unavailable = world
        .fleetctl(&["--server", &nowhere, "nodes", "list"])
        .await;
    assert_eq!(unavailable.status, 69, "{unavailable:?}");
}

/// Runs `fleetctl` and returns its exit status and standard error.
async fn fleetctl(world: &World, operator: &Operator, arguments: &[String]) -> (i32, String) {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = world.fleetctl_as(operator, &arguments).await;
    (done.status, done.stderr)
}

/// Returns the id of the newest scan.
async fn operator_scan(world: &World) -> String {
    let listed = world.fleetctl(&["scan", "list", "-o", "json"]).await;
    let listed: Value = serde_json::from_str(&listed.succeeded()).expect("one JSON document");
    listed[0]["scanId"].as_str().expect("an id").to_owned()
}

async fn fleetctl_prints_an_unidentified_host_once(world: World) {
    let node = world.node("barn", &[]).await;
    let mut site = world.range.mixed(12);
    let is_unidentified = |device: &Device| matches!(device.truth(&PORTS), Truth::Unidentified);
    site.devices.retain(is_unidentified);
    let hosts: Vec<String> = site.addresses().iter().map(ToString::to_string).collect();
    assert!(hosts.len() > 1, "{hosts:?}");
    let _lab = Lab::start(site).await.expect("a site");
    let (id, network) = (node.id.to_string(), world.range.network(27));
    let arguments = [
        "scan",
        "start",
        "--node",
        &id,
        "--port",
        "4028,8080",
        &network,
    ];
    let printed = world.fleetctl(&arguments).await;
    for host in &hosts {
        let about = format!("{host},");
        let lines = printed.stderr.lines().chain(printed.stdout.lines());
        let lines: Vec<_> = lines
            .filter(|line| line.contains(&about) || line.ends_with(host.as_str()))
            .collect();
        assert_eq!(lines.len(), 1, "{host}: {printed:?}");
        assert!(lines[0].starts_with("unidentified host "), "{lines:?}");
    }
    assert!(
        !printed.stderr.contains("warning: unidentified"),
        "{printed:?}"
    );
    let scan = operator_scan(&world).await;
    let csv = world
        .fleetctl(&["scan", "hosts", &scan, "-o", "csv"])
        .await
        .succeeded();
    assert_eq!(csv.lines().count(), 1 + hosts.len(), "{csv}");
}

async fn fleetctl_prints_a_scan_as_lines(world: World) {
    let node = world.node("barn", &[]).await;
    let lab = Lab::start(world.range.mixed(12)).await.expect("a site");
    let (id, network) = (node.id.to_string(), world.range.network(27));
    let arguments = [
        "scan",
        "start",
        "--node",
        &id,
        "--port",
        "4028,8080",
        "-o",
        "ndjson",
        &network,
    ];
    let printed = world.fleetctl(&arguments).await.succeeded();
    let lines: Vec<Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    let asked = (1..31).map(|number| world.range.address(number));
    let expected = Expected::of(lab.site(), node.id, asked).skipping(2);
    // The names and types of the API: lowerCamelCase, and 64-bit integers as strings.
    let devices = lines.iter().filter(|line| line["device"].is_object());
    assert_eq!(devices.count(), expected.devices());
    let ended = &lines.last().expect("lines")["ended"];
    assert_eq!(ended["state"], "SCAN_STATE_COMPLETED", "{ended}");
    assert_eq!(
        ended["ledger"]["identified"],
        expected.devices().to_string()
    );
    let scan = operator_scan(&world).await;
    let document = world
        .fleetctl(&["scan", "watch", &scan, "-o", "json"])
        .await
        .succeeded();
    let document: Value = serde_json::from_str(&document).expect("one JSON document");
    let logged: Vec<&Value> = lines
        .iter()
        .filter(|line| line.get("progress").is_none())
        .collect();
    assert_eq!(
        document.as_array().map(|events| events.iter().collect()),
        Some(logged)
    );

    // Tables fit 80 columns, and a node is selected by its name.
    for arguments in [
        &["scan", "list", "--node", "barn"][..],
        &["devices", "list", "--node", "barn"],
        &["nodes", "list"],
        &["audit", "list"],
    ] {
        let table = world.fleetctl(arguments).await.succeeded();
        for line in table.lines() {
            assert!(
                line.trim_end().chars().count() <= 80,
                "{arguments:?}:\n{table}"
            );
        }
        let wide = world
            .fleetctl(&[arguments, &["--wide"]].concat())
            .await
            .succeeded();
        assert!(wide.lines().count() <= table.lines().count(), "{wide}");
    }
    let unknown = world.fleetctl(&["scan", "list", "--node", "shed"]).await;
    assert_eq!(unknown.status, 1, "{unknown:?}");
    assert!(unknown.stderr.contains("`shed`"), "{unknown:?}");

    let listed = world
        .fleetctl(&["devices", "list", "-o", "csv"])
        .await
        .succeeded();
    assert_eq!(listed.lines().count(), 1 + expected.devices(), "{listed}");
}
