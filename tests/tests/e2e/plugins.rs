//! Driver plugins on a running node: the devices they find, crashes, and their end with the node.

use std::{fs, net::IpAddr, os::unix::fs::PermissionsExt, path::PathBuf};

use fleet_wire::{
    fleet::watch_scan_response::Event,
    pairing::{DiscoverRequest, NmapModeRequest, discover_request::Mode},
};
use hosted::{Device, PORT, private, put, put_acme, python};

use crate::harness::{History, ScanState, World, eventually};

#[path = "../../plugins/hosted.rs"]
mod hosted;

on_both_databases! {
    a_plugin_finds_devices_and_its_crash_is_a_warning_and_a_gap
    plugins_end_with_a_killed_node
}

/// Creates a plugin directory that only this user can write to.
fn folder(world: &World) -> PathBuf {
    let folder = world.folder().join("plugins");
    fs::create_dir(&folder).expect("a folder");
    private(&folder);
    folder
}

/// Requests one address on the default ports of the node, which include those of its plugins.
fn at_default_ports(address: IpAddr) -> DiscoverRequest {
    DiscoverRequest {
        mode: Some(Mode::Nmap(NmapModeRequest {
            target: address.to_string(),
            ports: Vec::new(),
        })),
        max_rate: 0,
    }
}

fn warnings(history: &History) -> Vec<&str> {
    let texts = history
        .events()
        .iter()
        .filter_map(|event| match &event.event {
            Some(Event::Warning(warning)) => Some(&*warning.text),
            Some(Event::Device(_) | Event::Host(_) | Event::Progress(_) | Event::Ended(_))
            | None => None,
        });
    texts.collect()
}

async fn a_plugin_finds_devices_and_its_crash_is_a_warning_and_a_gap(world: World) {
    let Some(python) = python("plugins::a_plugin_finds_devices") else {
        return;
    };
    let plugins = folder(&world);
    put_acme(&plugins, "acme", &python);
    put(&plugins, "refused", "#!/bin/sh\n");
    let open = fs::Permissions::from_mode(0o777);
    fs::set_permissions(plugins.join("refused"), open).expect("chmod");
    let dir = plugins.to_string_lossy();
    let node = world.node("barn", &["--plugin-dir", &dir]).await;
    let log = node.logged();
    assert!(log.contains("a plugin is serving"), "{log}");
    assert!(log.contains("skipped a plugin file"), "{log}");
    let announced = world.operator.node_named("barn").await.default_ports;
    assert!(announced.contains(&PORT.to_string()), "{announced:?}");

    let address: IpAddr = world.range.address(7).into();
    let reply = "ACME X1 S-1 02:00:5E:00:00:07";
    let device = Device::start(address, &[reply, "CRASH", reply]);
    let mut histories = Vec::new();
    for (state, crashes) in [
        (ScanState::Completed, 0),
        (ScanState::Partial, 0),
        (ScanState::Completed, 1),
    ] {
        eventually("the plugin", async || {
            let log = node.logged();
            let count = |text| log.matches(text).count();
            let is_back =
                count("a plugin is down") == crashes && count("a plugin is serving") == crashes + 1;
            is_back.then_some(())
        })
        .await;
        let request = at_default_ports(address);
        let scan = world.operator.start(node.id, request).await.scan_id;
        let history = world.operator.history(&scan).await;
        assert_eq!(history.ended_as(state).targets, 1);
        histories.push(history);
    }
    let found: Vec<_> = histories[0].devices().collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].driver, "acme");
    assert_eq!(found[0].port, u32::from(PORT));
    assert_eq!(found[0].identifier, "mac:02:00:5E:00:00:07");
    let warned = warnings(&histories[1]).concat();
    assert!(warned.contains("driver plugin:acme crashed"), "{warned}");
    assert_eq!(histories[1].devices().count(), 0);
    assert_eq!(device.asked(), 3);
    let devices = world.operator.devices().await;
    assert_eq!(devices.len(), 1, "{devices:?}");
}

async fn plugins_end_with_a_killed_node(world: World) {
    let plugins = folder(&world);
    let pids = world.folder().join("pids");
    // The plugin has a child process; both ignore SIGTERM, and the plugin never completes its handshake.
    let script = format!(
        "#!/bin/sh\ntrap '' INT TERM HUP PIPE\nsleep 600 &\necho $PPID $$ $! > {0}.new\nmv {0}.new {0}\nwait\nsleep 600\n",
        pids.display()
    );
    put(&plugins, "stubborn", &script);
    let dir = plugins.to_string_lossy().into_owned();
    let mut node = crate::harness::Node::enroll(&world, "barn").await;
    node.set_flags(&["--plugin-dir", &dir]);
    node.spawn();
    let text = eventually("the plugin", async || fs::read_to_string(&pids).ok()).await;
    let pids: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(pids.len(), 3, "guard, plugin, child: {text}");
    assert!(pids.iter().all(|pid| runs(pid)), "{text}");
    node.kill().await;
    eventually("the plugin's end", async || {
        (!pids.iter().any(|pid| runs(pid))).then_some(())
    })
    .await;
}

/// Returns whether a process runs. A zombie does not.
fn runs(pid: &str) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    !state.starts_with('Z')
}
