//! What a crash or a restart costs in mid-scan: at most the command in flight, never a device. In mid-scan
//! means: of at least four commands some are done and some are not, devices were accepted, the end was not
//! told, and slow devices and a rate cap make the whole a matter of at least five seconds.

use std::{net::Ipv4Addr, time::Duration};

use fleet_sim::{Lab, RunningSite};
use fleet_wire::{fleet::WatchScanResponse, lines::line};
use serde_json::Value;

use crate::harness::{Expected, Node, ScanState, World, adds_up, devices, eventually, target};

on_both_databases! {
    a_killed_server_that_comes_back_finishes_the_scan_and_loses_nothing
    a_killed_node_that_comes_back_finishes_the_scan_and_loses_nothing
    a_server_and_a_node_killed_at_once_come_back_and_lose_nothing
    a_server_that_is_told_to_end_hands_its_node_over_to_the_next_start
    a_node_that_is_told_to_end_leaves_the_rest_to_its_next_start
    a_command_lost_three_times_is_given_up_and_the_scan_ends_partial
}

/// Devices in the scanned network.
const DEVICES: u16 = 60;
/// From one device to the next: they are spread over all commands.
const STEP: u16 = 67;
/// 4,094 addresses, 8,188 probes: four commands of 1,024 targets, seven seconds at this rate.
const PREFIX: u8 = 20;
const FLAGS: [&str; 4] = ["--max-targets", "1024", "--rate", "1200"];
/// The shortest time in which such a scan can be done.
const AT_LEAST: Duration = Duration::from_secs(5);
/// Devices of the second command that are accepted before anything is interrupted, of some fifteen: when it
/// is carried out again they are met again.
const IN_FLIGHT: usize = 4;
/// What the server's log says for every command that it hands out.
const ISSUED: &str = "command issued";

/// A scan in its middle.
struct MidScan {
    node: Node,
    lab: RunningSite,
    scan: String,
    /// Everything that an operator had seen.
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

    /// The scan ends as if nothing had happened: what was seen before stands, and the simulator's own
    /// record knows of no device that is not stored exactly once.
    async fn ends_without_a_loss(self, world: &World) {
        let asked = (1..4095).map(|number| world.range.address(number));
        let expected = Expected::of(self.lab.site(), self.node.id, asked).skipping(2);
        assert_eq!(expected.devices(), usize::from(DEVICES));
        let log = expected.is_what_came_of(&world.operator, &self.scan).await;
        assert_eq!(log.events()[..self.seen.len()], self.seen);
        assert_eq!(
            self.lab.journal().touched_addresses().len(),
            expected.devices()
        );
        let issued = world.server.said(ISSUED);
        assert!((4..=5).contains(&issued), "{issued} commands for four");
        let ledger = log.ended_as(ScanState::Completed);
        let elapsed = Duration::from_millis(ledger.elapsed_ms.cast_unsigned());
        assert!(
            elapsed >= AT_LEAST,
            "too quick to be interrupted: {ledger:?}"
        );
    }
}

async fn a_killed_server_that_comes_back_finishes_the_scan_and_loses_nothing(mut world: World) {
    let mid_scan = MidScan::reach(&world).await;
    let arguments = ["scan", "watch", &mid_scan.scan, "-o", "ndjson"];
    let watching = world.fleetctl_in_background(&arguments).await;
    world.server.kill().await;
    world.server.go_on().await;
    let (scan, operator) = (mid_scan.scan.clone(), &world.operator);
    mid_scan.ends_without_a_loss(&world).await;

    // Whoever watched through it all has seen every event, and each once.
    let watched = watching.end().await.well();
    let lines = watched
        .lines()
        .map(|line| -> Value { serde_json::from_str(line).expect("a line of JSON") });
    let lines: Vec<Value> = lines.filter(|line| line["type"] != "progress").collect();
    let log = operator.history(&scan).await;
    let logged: Vec<Value> = log.events().iter().filter_map(line).collect();
    assert_eq!(lines, logged);
}

async fn a_killed_node_that_comes_back_finishes_the_scan_and_loses_nothing(world: World) {
    let mut mid_scan = MidScan::reach(&world).await;
    mid_scan.node.kill().await;
    mid_scan.node.start(&world.server).await;
    mid_scan.ends_without_a_loss(&world).await;
}

async fn a_server_and_a_node_killed_at_once_come_back_and_lose_nothing(mut world: World) {
    let mut mid_scan = MidScan::reach(&world).await;
    futures::join!(world.server.kill(), mid_scan.node.kill());
    // The node comes first, and waits for its server.
    mid_scan.node.spawn();
    world.server.go_on().await;
    mid_scan.ends_without_a_loss(&world).await;
}

async fn a_server_that_is_told_to_end_hands_its_node_over_to_the_next_start(mut world: World) {
    let mid_scan = MidScan::reach(&world).await;
    let ended = world.server.terminate().await;
    assert!(ended.success(), "{ended}");
    assert!(
        mid_scan
            .node
            .logged()
            .contains("the server is shutting down"),
        "the node was told when to come back"
    );
    world.server.go_on().await;
    mid_scan.ends_without_a_loss(&world).await;
}

async fn a_node_that_is_told_to_end_leaves_the_rest_to_its_next_start(world: World) {
    let mut mid_scan = MidScan::reach(&world).await;
    let ended = mid_scan.node.terminate().await;
    assert!(ended.success(), "{ended}");
    mid_scan.node.start(&world.server).await;
    mid_scan.ends_without_a_loss(&world).await;
}

async fn a_command_lost_three_times_is_given_up_and_the_scan_ends_partial(world: World) {
    let mut node = world.node("barn", &["--max-targets", "1024"]).await;
    // Two commands; the devices of the second think for so long that it cannot end before it is lost.
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
