//! The product across a real network boundary. `cargo xtask lab` puts server, node and devices into separate
//! network namespaces; most addresses of the site are unused. The record of the lab is the reference.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use fleet_core::NodeId;
use fleet_sim::Truth;
use fleet_wire::fleet::Ledger;
use serde_json::Value;

use crate::harness::{Done, Reported, adds_up, binary, run};

/// Name of the lab of this test. A lab that a killed run left behind is replaced.
const NAME: &str = "fleet-test";
const DEVICES: usize = 120;
/// The network of the site, a /22.
const TARGETS: u64 = 1_024;
/// Source address of the node in the network of the devices.
const NODE: Ipv4Addr = Ipv4Addr::new(10, 77, 255, 1);

#[tokio::test]
#[ignore = "needs root and network namespaces: run by cargo xtask test as its step lab"]
async fn lab_finds_every_device_across_a_real_boundary() {
    let lab = Lab::up().await;
    let truth = lab.truth();
    assert_eq!(truth.len(), DEVICES);
    let node = lab.node();
    let identified: BTreeMap<IpAddr, Reported> = truth
        .iter()
        .filter_map(|(ip, truth)| match truth {
            Truth::Identified(identity) => Some((*ip, Reported::truth(node, *ip, identity))),
            Truth::Unidentified | Truth::Refused => None,
        })
        .collect();
    let (ip, device) = identified.first_key_value().expect("a device");
    lab.only_the_node_reaches(*ip, device.port).await;

    let events = lab.scan().await;
    let (ended, devices) = events.split_last().expect("a scan has an end");
    let devices = devices.iter().map(|line| &line["device"]);
    let devices = devices.filter(|device| device.is_object());
    let found: Vec<_> = devices
        .map(|line| (address(line, "ip"), reported(line)))
        .collect();
    assert_eq!(
        found.len(),
        identified.len(),
        "each device is reported once"
    );
    assert_eq!(BTreeMap::from_iter(found), identified);

    let ended = &ended["ended"];
    assert_eq!(ended["state"], "SCAN_STATE_COMPLETED", "{ended}");
    let ledger = ledger(&ended["ledger"]);
    adds_up(&ledger);
    let live = DEVICES as u64;
    let expected = Ledger {
        targets: TARGETS,
        identified: identified.len() as u64,
        unidentified: live - identified.len() as u64,
        // The network address and the broadcast address.
        skipped: 2,
        // Unused addresses do not answer, not even with a refusal.
        silent: TARGETS - 2 - live,
        reported: identified.len() as u64,
        accepted: identified.len() as u64,
        ..Ledger::default()
    };
    assert_eq!(ledger, expected);
    assert!(
        count(&ended["ledger"], "firstDeviceMs") < count(&ended["ledger"], "elapsedMs"),
        "{ended}"
    );

    let touched = lab.touched();
    assert!(truth.keys().eq(touched.keys()), "every device was asked");
    let others = touched.values().flatten().filter(|peer| peer.ip() != NODE);
    assert_eq!(others.count(), 0, "only the node was at the devices");

    lab.down().await;
}

fn reported(line: &Value) -> Reported {
    Reported {
        identifier: text(line, "identifier"),
        port: u32::try_from(count(line, "port")).expect("a port"),
        scheme: text(line, "scheme"),
        driver: text(line, "driver"),
        model: text(line, "model"),
        manufacturer: text(line, "manufacturer"),
        firmware: text(line, "firmware"),
    }
}

fn address(line: &Value, field: &str) -> IpAddr {
    text(line, field).parse().expect("an address")
}

fn text(line: &Value, field: &str) -> String {
    // The JSON of the API omits empty texts.
    line.get(field).map_or_else(String::new, |text| {
        text.as_str().expect("a text").to_owned()
    })
}

fn count(line: &Value, field: &str) -> u64 {
    // The JSON of the API omits zeros and encodes 64-bit integers as strings.
    line.get(field).map_or(0, |number| {
        let text = number.as_str().map(|text| text.parse().expect("a number"));
        text.unwrap_or_else(|| number.as_u64().expect("a number"))
    })
}

/// Returns the counts of a ledger line.
fn ledger(line: &Value) -> Ledger {
    let count = |field| count(line, field);
    Ledger {
        targets: count("targets"),
        identified: count("identified"),
        unidentified: count("unidentified"),
        refused: count("refused"),
        silent: count("silent"),
        skipped: count("skipped"),
        not_reached: count("notReached"),
        unknown: count("unknown"),
        reported: count("reported"),
        accepted: count("accepted"),
        rejected: count("rejected"),
        ..Ledger::default()
    }
}

/// A running lab. Dropping it removes it.
struct Lab {
    standing: bool,
}

impl Lab {
    async fn up() -> Self {
        let lab = Self { standing: true };
        xtask(&["up", "--devices", &DEVICES.to_string()])
            .await
            .succeeded();
        lab
    }

    /// Returns the simulated devices by address.
    fn truth(&self) -> BTreeMap<IpAddr, Truth> {
        let line = |line: &Value| {
            let truth = serde_json::from_value(line["truth"].clone());
            (address(line, "address"), truth.expect("a truth"))
        };
        lines(&self.read("truth.ndjson")).iter().map(line).collect()
    }

    /// Returns the id of the enrolled node.
    fn node(&self) -> NodeId {
        NodeId(self.read("node").parse().expect("the id of a node"))
    }

    /// Returns which peers connected to which device.
    fn touched(&self) -> BTreeMap<IpAddr, Vec<SocketAddr>> {
        let mut touched = BTreeMap::<_, Vec<_>>::new();
        for line in lines(&self.read("journal.ndjson")) {
            let peers = touched.entry(address(&line, "address")).or_default();
            peers.push(text(&line, "peer").parse().expect("address and port"));
        }
        touched
    }

    /// Proves the boundary: the node's side can open a connection to a device, and the server's side cannot.
    async fn only_the_node_reaches(&self, device: IpAddr, port: u32) {
        let dial = format!("exec 3<>/dev/tcp/{device}/{port}");
        let from = async |place| xtask(&["exec", place, "bash", "-c", &dial]).await;
        from("node").await.succeeded();
        let hub = from("hub").await;
        assert!(hub.status != 0, "the server reaches {device}");
        assert!(hub.stderr.contains("unreachable"), "{}", hub.stderr);
    }

    /// Scans the whole site and returns the output lines.
    async fn scan(&self) -> Vec<Value> {
        lines(&xtask(&["scan", "-o", "ndjson"]).await.succeeded())
    }

    async fn down(mut self) {
        xtask(&["down"]).await.succeeded();
        self.standing = false;
        assert!(!Self::folder().exists(), "keys and logs are left behind");
        for place in ["hub", "node", "site"] {
            let exec = xtask(&["exec", place, "true"]).await;
            assert!(exec.stderr.contains("there is no lab"), "{exec:?}");
        }
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(Self::folder().join(file)).expect("the lab keeps its records")
    }

    fn folder() -> PathBuf {
        PathBuf::from(format!("/run/{NAME}-lab"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.standing {
            // The test has already failed for a more important reason.
            let _ = xtask_command(&["down"]).as_std_mut().status();
        }
    }
}

async fn xtask(words: &[&str]) -> Done {
    run(xtask_command(words)).await
}

fn xtask_command(words: &[&str]) -> tokio::process::Command {
    let mut command = binary("xtask", &std::env::temp_dir());
    command.args(["lab", "--name", NAME]).args(words);
    command
}

fn lines(text: &str) -> Vec<Value> {
    let line = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    text.lines().map(line).collect()
}
