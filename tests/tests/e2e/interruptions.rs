//! Crashes and restarts while a scan runs. They cost at most the command in flight, and never a device. Each
//! test interrupts a scan of at least four commands after the first ones are done and devices were accepted. Slow
//! devices and a rate limit make the whole scan take at least five seconds.

use std::{net::Ipv4Addr, time::Duration};

use fleet_sim::{Lab, RunningSite};
use fleet_wire::fleet::WatchScanResponse;
use serde_json::Value;

use crate::harness::{Expected, Node, ScanState, World, adds_up, devices, eventually, target};

on_both_databases! {
    a_restarted_server_finishes_the_scan_without_loss_after_a_kill
    a_restarted_node_finishes_the_scan_without_loss_after_a_kill
    a_server_and_a_node_killed_together_finish_the_scan_without_loss
    a_terminated_server_finishes_the_scan_after_its_next_start
    a_terminated_node_finishes_the_scan_after_its_next_start
    a_scan_ends_partial_after_a_command_was_lost_three_times
}

/// Number of devices in the scanned network.
const DEVICES: u16 = 60;
/// Distance between two devices, so that every command has some.
const STEP: u16 = 67;
/// 4,094 addresses are 8,188 probes: four commands of 1,024 targets, seven seconds at this rate.
const PREFIX: u8 = 20;
const FLAGS: [&str; 4] = ["--max-targets", "1024", "--rate", "1200"];
/// Minimum duration of such a scan.
const AT_LEAST: Duration = Duration::from_secs(5);
/// Number of accepted devices of the second command, of about fifteen, before the interruption. They are found
/// again when the command is repeated.
const IN_FLIGHT: usize = 4;
/// Server log line for every issued command.
const ISSUED: &str = "command issued";

/// A scan that is partially done.
struct MidScan {
    node: Node,
    lab: RunningSite,
    scan: String,
    /// All events before the interruption.
    seen: Vec<WatchScanResponse>,
}

impl MidScan {
    async fn reach(world: &World) -> Self {
        let node = world.node("barn", &FLAGS).await;
        let site = world
            .range
            .spread(DEVICES, STEP, Duration::from_millis(400));
        let lab = Lab::start(site).await.expect("a site");
        let request = target(world.range.network(PREFIX));
        let scan = world.operator.start(node.id, request).await;
        assert!(scan.commands >= 4, "{scan:?}");
        let scan = scan.scan_id;

        let second: Vec<String> = (1_025..2_049)
            .map(|number| world.range.address(number).to_string())
            .collect();
        let mut watch = world.operator.watch(&scan, 0).await;
        let mut seen = Vec::new();
        while devices(&seen)
            .filter(|device| second.contains(&device.ip))
            .count()
            < IN_FLIGHT
        {
            seen.push(watch.next_device().await);
        }
        let now = world.operator.scan(&scan).await;
        assert_eq!(now.state(), ScanState::Running, "{now:?}");
        assert_eq!(now.commands_done, 1, "{now:?}");
        Self {
            node,
            lab,
            scan,
            seen,
        }
    }

    /// Asserts that the scan completes: earlier events are unchanged, and every device of the simulator is stored
    /// exactly once.
    async fn ends_without_a_loss(self, world: &World) {
        let asked = (1..4095).map(|number| world.range.address(number));
        let expected = Expected::of(self.lab.site(), self.node.id, asked).skipping(2);
        assert_eq!(expected.devices(), usize::from(DEVICES));
        let log = expected.is_history_of(&world.operator, &self.scan).await;
        assert_eq!(log.events()[..self.seen.len()], self.seen);
        assert_eq!(
            self.lab.journal().touched_addresses().len(),
            expected.devices()
        );
        let issued = world.server.log_count(ISSUED);
        assert!((4..=5).contains(&issued), "{issued} commands for four");
        let ledger = log.ended_as(ScanState::Completed);
        let elapsed = Duration::from_millis(ledger.elapsed_ms.cast_unsigned());
        assert!(
            elapsed >= AT_LEAST,
            "too quick to be interrupted: {ledger:?}"
        );
    }
}

async fn a_restarted_server_finishes_the_scan_without_loss_after_a_kill(mut world: World) {
    let mid_scan = MidScan::reach(&world).await;
    let arguments = ["scan", "watch", &mid_scan.scan, "-o", "ndjson"];
    let watching = world.fleetctl_in_background(&arguments).await;
    world.server.kill().await;
    world.server.restart().await;
    let (scan, operator) = (mid_scan.scan.clone(), &world.operator);
    mid_scan.ends_without_a_loss(&world).await;

    // The watch that ran through the restart has printed every event once.
    let watched = watching.end().await.succeeded();
    let printed: Vec<Value> = watched
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .filter(|line: &Value| line.get("progress").is_none())
        .collect();
    let log = operator.history(&scan).await;
    let logged: Vec<Value> = log
        .events()
        .iter()
        .map(|event| serde_json::to_value(event).expect("JSON"))
        .collect();
    assert_eq!(printed, logged);
}

async fn a_restarted_node_finishes_the_scan_without_loss_after_a_kill(world: World) {
    let mut mid_scan = MidScan::reach(&world).await;
    mid_scan.node.kill().await;
    mid_scan.node.start(&world.server).await;
    mid_scan.ends_without_a_loss(&world).await;
}

async fn a_server_and_a_node_killed_together_finish_the_scan_without_loss(mut world: World) {
    let mut mid_scan = MidScan::reach(&world).await;
    futures::join!(world.server.kill(), mid_scan.node.kill());
    // The node starts first and waits for its server.
    mid_scan.node.spawn();
    world.server.restart().await;
    mid_scan.ends_without_a_loss(&world).await;
}

async fn a_terminated_server_finishes_the_scan_after_its_next_start(mut world: World) {
    let mid_scan = MidScan::reach(&world).await;
    let ended = world.server.terminate().await;
    assert!(ended.success(), "{ended}");
    assert!(
        mid_scan
            .node
            .logged()
            .contains("the server is shutting down"),
        "the node received the time to reconnect"
    );
    world.server.restart().await;
    mid_scan.ends_without_a_loss(&world).await;
}

async fn a_terminated_node_finishes_the_scan_after_its_next_start(world: World) {
    let mut mid_scan = MidScan::reach(&world).await;
    let ended = mid_scan.node.terminate().await;
    assert!(ended.success(), "{ended}");
    mid_scan.node.start(&world.server).await;
    mid_scan.ends_without_a_loss(&world).await;
}

async fn a_scan_ends_partial_after_a_command_was_lost_three_times(world: World) {
    let mut node = world.node("barn", &["--max-targets", "1024"]).await;
    // Two commands. The devices of the second reply so late that the command cannot end before it is lost.
    let mut site = world.range.spread(12, 150, Duration::ZERO);
    let second: Vec<Ipv4Addr> = (1025..2047).map(|n| world.range.address(n)).collect();
    for device in &mut site.devices {
        if second.iter().any(|ip| device.address == *ip) {
            device
                .services
                .iter_mut()
                .for_each(|service| service.delay_ms = 4_000);
        }
    }
    let lab = Lab::start(site).await.expect("a site");
    let journal = lab.journal();
    let request = target(world.range.network(21));
    let scan = world.operator.start(node.id, request).await.scan_id;
    for _ in 0..3 {
        let since = journal.now();
        eventually("a connection of the second command", async || {
            let dialed = journal.connections_since(since);
            let of_second = |ip| second.iter().any(|other| ip == *other);
            dialed
                .iter()
                .any(|dialed| of_second(dialed.address))
                .then_some(())
        })
        .await;
        node.kill().await;
        node.start(&world.server).await;
    }

    let log = world.operator.history(&scan).await;
    let ledger = log.ended_as(ScanState::Partial);
    adds_up(ledger);
    let first = (1..1025).map(|number| world.range.address(number));
    let found = Expected::of(lab.site(), node.id, first).devices() as u64;
    assert_eq!((ledger.targets, ledger.skipped), (2_048, 2), "{ledger:?}");
    assert_eq!(ledger.identified, found, "{ledger:?}");
    assert_eq!(ledger.refused, 1_024 - found, "{ledger:?}");
    assert_eq!(ledger.not_reached, 1_022, "{ledger:?}");
    assert_eq!(log.devices().count() as u64, found);

    let watched = world.fleetctl(&["scan", "watch", &scan]).await;
    assert_eq!(watched.status, 2, "{watched:?}");
    assert!(watched.stdout.contains("partial"), "{watched:?}");
}
