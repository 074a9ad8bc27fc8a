//! How long a scan takes and when it starts, from what its node announced and from the node's other scans. Pure. Start
//! with [`estimate`] and [`queue_wait`].
//!
//! A node sends attempts at its rate, command after command. After its last attempt, each command waits for late answers
//! and slow devices: its tail. An earlier scan of the same addresses shows how many of them answer, and how long the tail
//! is. Addresses without one count as a mixture of silent and answering ones ([`ASSUMED_FAR`], [`ASSUMED_NEAR`]).

use std::{collections::BTreeSet, time::Duration};

use fleet_core::{Port, Priority};
use ipnetwork::IpNetwork;

use crate::{AddressList, ChunkCommand, NodeProfile, Plan};

/// Attempts at a port that stays silent.
const PORT_TRIES: f64 = 2.0;

/// ARP requests to a neighbor that stays silent.
const NEIGHBOR_TRIES: f64 = 3.0;

/// Silent neighbors that the kernel resolves at a time: half of Linux's neighbor table.
const NEIGHBOR_WINDOW: f64 = 512.0;

/// How long the kernel asks for a silent neighbor, in seconds.
const NEIGHBOR_WAIT: f64 = 3.0;

/// The share of its rate that a node uses: 0.96 at 400, 0.97 at 100, 0.99 at 5,000. The rest keeps its packets within the
/// rate when timers are late.
const RATE_SHARE: f64 = 0.97;

/// Connections that the identification of a device opens beside those of the sweep. The mixed site of the simulator has
/// 0.66 of them per device.
const IDENTIFICATION: f64 = 0.7;

/// The share of addresses behind a router that is assumed to answer without an earlier scan. An address costs one attempt
/// per port if it answers or refuses, and two if it is silent. With this share, the estimate is 1.38 attempts: at most a
/// factor of 1.45 from each extreme.
const ASSUMED_FAR: f64 = 0.62;

/// The same share of addresses on a link of the node. A silent one costs three requests, and an answering one depends on
/// the number of ports, so the estimate stays near the silent ones.
const ASSUMED_NEAR: f64 = 0.2;

/// The tail of a command in seconds, as long as no earlier scan shows it: between 0.1 if everything answers, and 0.9 if
/// nothing does.
const TAIL: f64 = 0.6;

/// How long after the end of listening a scan ends, in seconds.
const AFTER_LISTENING: f64 = 1.0;

/// The shortest tail: the report of the last device, and the acknowledgment.
const SHORTEST_TAIL: f64 = 0.05;

/// An earlier scan counts if it has this share of its addresses, or of the planned ones, in common with the plan.
const COMMON: f64 = 0.5;

/// Assumed targets of a subnet that an upstream node selects.
const ASSUMED_SUBNET: u64 = 254;

/// Probes that an upstream node runs in parallel, and seconds after which it gives up on one.
const UPSTREAM: (u64, u64) = (32, 10);

/// Ports that drivers of upstream nodes are known to probe: 80, 443 and 4028.
pub(crate) const UPSTREAM_DEFAULT_PORTS: u64 = 3;

/// An ended scan of a node, as far as it shows how long the next one takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastScan {
    /// The addresses that it tried: disjoint lists.
    pub addresses: Vec<AddressList>,
    /// Its ports; empty for the defaults of the node.
    pub ports: Vec<Port>,
    /// The number of its commands.
    pub commands: u64,
    /// Addresses that answered or refused.
    pub answered: u64,
    /// Addresses with an open port.
    pub devices: u64,
    /// Its probes per second; 0 for those of the node now.
    pub rate: u32,
    /// The time of its commands together.
    pub duration: Duration,
}

/// A scan of a node that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenScan {
    /// Its priority.
    pub priority: Priority,
    /// The estimate of its plan.
    pub estimate: Duration,
    /// The number of its commands.
    pub commands: u32,
    /// Whether a command of it was issued.
    pub is_running: bool,
}

/// Estimates how long a plan takes on its node from its first command on. `past` are the node's ended scans, newest first.
pub fn estimate(plan: &Plan, node: &NodeProfile, past: &[PastScan]) -> Duration {
    let listening = plan.chunks.iter().find_map(|chunk| match &chunk.command {
        ChunkCommand::Mdns(listening) => Some(listening),
        ChunkCommand::List(_) | ChunkCommand::Target(_) => None,
    });
    if let Some(listening) = listening {
        // Only hosts that announce the service are dialed.
        return listening.time + Duration::from_secs_f64(AFTER_LISTENING);
    }
    let known = Known::new(plan, node, past);
    if !node.big_commands {
        let load = known.load(plan, node);
        let (parallel, seconds) = UPSTREAM;
        let probes = (load.silent() * load.ports) as u64;
        let dark = Duration::from_secs(probes.div_ceil(parallel) * seconds);
        return known.latest.map_or(dark, |past| past.duration);
    }
    let load = known.assumed(known.load(plan, node));
    let tails = plan.chunks.len() as f64 * known.tail(node);
    let seconds = load.sending(node, node.rate) * known.pace(node) + tails;
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// The packets that a node sends for a plan if nothing answers: attempts at ports, and requests for neighbors.
pub fn packets(plan: &Plan, node: &NodeProfile) -> u64 {
    Known::default().load(plan, node).attempts(node).ceil() as u64
}

/// Estimates how long a new scan waits for the other scans of its node: the command in flight ends first, and each waiting
/// scan that is not less urgent gets one command.
pub fn queue_wait(open: &[OpenScan], priority: Priority) -> Duration {
    let command = |scan: &OpenScan| scan.estimate / scan.commands.max(1);
    let goes_first = |scan: &&OpenScan| scan.is_running || scan.priority <= priority;
    let ahead = open.iter().filter(goes_first);
    ahead.map(command).sum()
}

/// What earlier scans show about the addresses of a plan.
#[derive(Debug, Default)]
struct Known<'a> {
    /// Planned addresses that an earlier scan tried.
    covered: f64,
    /// Planned addresses that answer.
    answering: f64,
    /// Planned addresses with an open port.
    devices: f64,
    /// The earlier scans that count.
    scans: Vec<&'a PastScan>,
    latest: Option<&'a PastScan>,
}

impl<'a> Known<'a> {
    fn new(plan: &Plan, node: &NodeProfile, past: &'a [PastScan]) -> Self {
        let planned = distinct(plan.chunks.iter().map(|chunk| chunk.scope.address_list()));
        let planned = union(&planned);
        let total = planned.len() as f64;
        let mut known = Self::default();
        let mut rest = total;
        let same_ports = past
            .iter()
            .filter(|scan| ports_of(&scan.ports, node) == ports_of(&plan.ports, node));
        for scan in same_ports {
            let size = count(&scan.addresses);
            let common = planned.common(&union(&scan.addresses)) as f64;
            let covered = common.min(rest);
            if size == 0.0 || common < COMMON * size.min(total) || covered < 1.0 {
                continue;
            }
            known.covered += covered;
            known.answering += covered * scan.answered as f64 / size;
            known.devices += covered * scan.devices as f64 / size;
            known.latest.get_or_insert(scan);
            known.scans.push(scan);
            rest -= covered;
        }
        known
    }

    fn load(&self, plan: &Plan, node: &NodeProfile) -> Load {
        let planned = distinct(plan.chunks.iter().map(|chunk| chunk.scope.address_list()));
        let skipped: u64 = plan.skipped.iter().map(|tally| tally.count).sum();
        let targets = plan.targets.saturating_sub(skipped) as f64;
        let known = count(&planned);
        let assumed = if plan.open_scope && targets == 0.0 {
            ASSUMED_SUBNET as f64
        } else {
            0.0
        };
        Load {
            targets: targets.max(known) - known + allowed(&planned, node) + assumed,
            on_link: on_link(&planned, node),
            answering: self.answering,
            devices: self.devices,
            ports: port_count(&plan.ports, node),
        }
    }

    /// Adds the answers that are assumed of addresses without an earlier scan.
    fn assumed(&self, load: Load) -> Load {
        let unknown = (load.targets - self.covered).max(0.0);
        let near = load.share_on_link();
        let answering = unknown * (near * ASSUMED_NEAR + (1.0 - near) * ASSUMED_FAR);
        Load {
            answering: load.answering + answering,
            ..load
        }
    }

    /// The tail of one command: the longest of the earlier scans.
    fn tail(&self, node: &NodeProfile) -> f64 {
        let of = |scan: &&PastScan| {
            let sending = Load::of(scan, node).sending(node, scan.rate);
            let tails = scan.duration.as_secs_f64() - sending;
            (tails / scan.commands.max(1) as f64).max(SHORTEST_TAIL)
        };
        self.scans.iter().map(of).reduce(f64::max).unwrap_or(TAIL)
    }

    /// The part of the expected time of its attempts that the latest of the earlier scans took; 1 if it took longer, which
    /// counts as its tail.
    fn pace(&self, node: &NodeProfile) -> f64 {
        let of = |scan: &PastScan| {
            let sending = Load::of(scan, node).sending(node, scan.rate);
            let shortest = scan.commands as f64 * SHORTEST_TAIL;
            let sent = scan.duration.as_secs_f64() - shortest;
            if sent > 0.0 && sending > sent {
                sent / sending
            } else {
                1.0
            }
        };
        self.latest.map_or(1.0, of)
    }
}

/// The work of a scan, in expected numbers.
#[derive(Clone, Copy, Debug)]
struct Load {
    targets: f64,
    /// Targets on a link of the node.
    on_link: f64,
    answering: f64,
    devices: f64,
    ports: f64,
}

impl Load {
    /// The work of an earlier scan.
    fn of(scan: &PastScan, node: &NodeProfile) -> Self {
        Self {
            targets: count(&scan.addresses),
            on_link: on_link(&scan.addresses, node),
            answering: scan.answered as f64,
            devices: scan.devices as f64,
            ports: port_count(&scan.ports, node),
        }
    }

    fn share_on_link(&self) -> f64 {
        if self.targets > 0.0 {
            self.on_link / self.targets
        } else {
            0.0
        }
    }

    fn silent(&self) -> f64 {
        (self.targets - self.answering).max(0.0)
    }

    /// Silent targets on a link of the node, and the others.
    fn near_and_far(&self) -> (f64, f64) {
        let share = self.share_on_link();
        (self.silent() * share, self.silent() * (1.0 - share))
    }

    /// Attempts at ports, requests for neighbors, and connections of identifications.
    fn attempts(&self, node: &NodeProfile) -> f64 {
        let (near, far) = self.near_and_far();
        let requests = self.on_link + near * (NEIGHBOR_TRIES - 1.0) * f64::from(u8::from(node.arp));
        let ports = (self.answering + far * PORT_TRIES) * self.ports;
        requests + ports + self.devices * IDENTIFICATION
    }

    /// Seconds until the last attempt at this rate, without the tails. 0 stands for the rate of the node.
    fn sending(&self, node: &NodeProfile, rate: u32) -> f64 {
        let (near, _) = self.near_and_far();
        let rate = if rate == 0 { node.rate } else { rate };
        let sending = self.attempts(node) / (f64::from(rate.max(1)) * RATE_SHARE);
        // The kernel resolves neighbors in windows, unless the node does it.
        let windows = if node.arp {
            0.0
        } else {
            (near / NEIGHBOR_WINDOW).ceil()
        };
        sending.max(windows * NEIGHBOR_WAIT)
    }
}

/// The lists, each once: a list is in one command for each share of the ports.
pub(crate) fn distinct(lists: impl Iterator<Item = AddressList>) -> Vec<AddressList> {
    let mut seen = BTreeSet::new();
    lists.filter(|list| seen.insert(list.clone())).collect()
}

/// The addresses of lists. A plan has thousands of lists, and comparing each with each of another plan takes seconds.
pub(crate) fn union(lists: &[AddressList]) -> AddressList {
    lists.iter().flat_map(AddressList::iter).collect()
}

fn count(lists: &[AddressList]) -> f64 {
    lists.iter().map(AddressList::len).sum::<u64>() as f64
}

fn on_link(lists: &[AddressList], node: &NodeProfile) -> f64 {
    within(lists, &node.local_subnets) as f64
}

/// The number of addresses within these networks. Networks that overlap count once at most.
pub(crate) fn within(lists: &[AddressList], networks: &[IpNetwork]) -> u64 {
    let is_part = |network: &&IpNetwork| {
        let mut others = networks
            .iter()
            .filter(|other| other.prefix() < network.prefix());
        others.any(|other| other.contains(network.network()))
    };
    let outermost: Vec<&IpNetwork> = networks.iter().filter(|one| !is_part(one)).collect();
    let of = |list: &AddressList| {
        let counts = outermost
            .iter()
            .map(|one| list.between(one.network(), one.broadcast()));
        counts.sum::<u64>().min(list.len())
    };
    lists.iter().map(of).sum()
}

/// The number of addresses that the node's site allows.
fn allowed(lists: &[AddressList], node: &NodeProfile) -> f64 {
    if node.allowed_networks.is_empty() {
        count(lists)
    } else {
        within(lists, &node.allowed_networks) as f64
    }
}

fn ports_of(ports: &[Port], node: &NodeProfile) -> Vec<Port> {
    let mut ports = if ports.is_empty() {
        node.default_ports.clone()
    } else {
        ports.to_vec()
    };
    ports.retain(|port| !node.denied_ports.contains(port));
    ports.sort_unstable();
    ports
}

fn port_count(ports: &[Port], node: &NodeProfile) -> f64 {
    let count = ports_of(ports, node).len() as u64;
    if count == 0 {
        UPSTREAM_DEFAULT_PORTS as f64
    } else {
        count as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mode, PlanPolicy, ScanRequest, plan};

    fn node(local: &[&str]) -> NodeProfile {
        NodeProfile {
            big_commands: true,
            max_targets: 16_384,
            rate: 5_000,
            local_subnets: local.iter().map(|text| text.parse().expect(text)).collect(),
            ..NodeProfile::upstream()
        }
    }

    fn planned(target: &str, ports: &[&str], node: &NodeProfile) -> Plan {
        let request = ScanRequest {
            mode: Mode::Target(target.to_owned()),
            ports: ports.iter().map(|port| (*port).to_owned()).collect(),
            rate: 0,
        };
        plan(&request, node, &PlanPolicy::default()).expect("a plan")
    }

    fn past(plan: &Plan, answered: u64, seconds: f64) -> PastScan {
        PastScan {
            addresses: distinct(plan.chunks.iter().map(|chunk| chunk.scope.address_list())),
            ports: plan.ports.clone(),
            commands: plan.chunks.len() as u64,
            answered,
            devices: answered / 2,
            rate: 5_000,
            duration: Duration::from_secs_f64(seconds),
        }
    }

    fn seconds(plan: &Plan, node: &NodeProfile, past: &[PastScan]) -> f64 {
        estimate(plan, node, past).as_secs_f64()
    }

    #[test]
    fn the_same_scan_takes_as_long_as_the_last_time() {
        let node = node(&[]);
        for (target, answered, last) in [
            ("10.0.0.0/22", 900, 31.0),
            ("10.0.0.0/22", 0, 2.1),
            ("10.0.0.0/16", 4_000, 64.0),
        ] {
            let plan = planned(target, &["80", "4028"], &node);
            let again = seconds(&plan, &node, &[past(&plan, answered, last)]);
            assert!((again / last - 1.0).abs() < 0.01, "{again} after {last}");
        }
    }

    #[test]
    fn the_rate_and_the_ports_of_the_node_count() {
        let (mut slow, fast) = (node(&[]), node(&[]));
        slow.rate = 500;
        let plan = planned("10.0.0.0/20", &["80"], &fast);
        let [slow, fast] = [&slow, &fast].map(|node| seconds(&plan, node, &[]));
        // 4,094 targets, 1.38 times each.
        assert!((11.0..13.5).contains(&slow), "{slow}");
        assert!((1.5..2.5).contains(&fast), "{fast}");
    }

    #[test]
    fn a_first_estimate_lies_between_silent_and_answering_addresses() {
        let far = NodeProfile {
            rate: 500,
            ..node(&[])
        };
        let near = NodeProfile {
            rate: 500,
            arp: true,
            ..node(&["10.0.0.0/20"])
        };
        let windows = NodeProfile {
            arp: false,
            ..near.clone()
        };
        for (name, node, ports, answered, real) in [
            ("all silent", &far, &["80", "4028"][..], 0, 34.1 + 0.9),
            ("half silent", &far, &["80", "4028"], 2_047, 25.6 + 0.2),
            ("all refuse", &far, &["80", "4028"], 4_094, 17.1 + 0.1),
            ("silent neighbors", &near, &["80", "4028"], 0, 25.6 + 0.4),
            ("half a link", &near, &["80", "4028"], 2_047, 25.6 + 0.2),
            ("windows", &windows, &["80", "4028"], 1_000, 21.0),
        ] {
            let plan = planned("10.0.0.0/20", ports, node);
            let first = seconds(&plan, node, &[]);
            let factor = (first / real).max(real / first);
            assert!(factor <= 1.5, "{name}: {first} for {real}");
            // Afterwards the estimate is the duration, up to rounding.
            let mut known = past(&plan, answered, real);
            (known.rate, known.devices) = (500, 0);
            let second = seconds(&plan, node, &[known]);
            assert!((second / real - 1.0).abs() < 0.05, "{name}: {second}");
        }
    }

    #[test]
    fn a_scan_at_another_rate_shows_its_tail() {
        let node = node(&[]);
        let plan = planned("10.0.0.0/20", &["80"], &node);
        // 2,000 of 4,094 answer: 12.9 s to send at 500 a second, or 1.3 s at 5,000.
        for (rate, seconds_then, tail) in [(500, 13.0, 0.1), (500, 18.0, 4.9), (5_000, 6.2, 4.9)] {
            let mut before = past(&plan, 2_000, seconds_then);
            (before.rate, before.devices) = (rate, 0);
            let fast = seconds(&plan, &node, &[before.clone()]);
            assert!((fast - (1.3 + tail)).abs() < 0.5, "{rate}: {fast}");
            let slow = node.clone().at_most(500);
            let slow = seconds(&plan, &slow, &[before]);
            assert!((slow - (12.9 + tail)).abs() < 0.5, "{rate}: {slow}");
        }
    }

    #[test]
    fn a_scan_that_sent_less_than_expected_makes_the_next_estimate_shorter() {
        // On a loopback interface nobody is asked for an address, although the subnet is local.
        let local = NodeProfile {
            rate: 500,
            arp: true,
            ..node(&["10.0.0.0/20"])
        };
        let plan = planned("10.0.0.0/20", &["80"], &local);
        let mut before = past(&plan, 4_094, 8.6);
        (before.rate, before.devices) = (500, 0);
        let again = seconds(&plan, &local, &[before]);
        assert!((again / 8.6 - 1.0).abs() < 0.02, "{again}");
    }

    #[test]
    fn silent_neighbors_cost_windows_unless_the_node_sends_arp() {
        let mut node = node(&["10.0.0.0/22"]);
        let plan = planned("10.0.0.0/22", &["80", "443", "4028"], &node);
        let kernel = seconds(&plan, &node, &[]);
        assert!((6.0..8.0).contains(&kernel), "two windows: {kernel}");
        node.arp = true;
        let arp = seconds(&plan, &node, &[]);
        assert!(arp < 2.0, "{arp}");
    }

    #[test]
    fn scans_of_other_addresses_or_ports_do_not_count() {
        let node = node(&[]);
        let plan = planned("10.0.0.0/24", &["80"], &node);
        let without = seconds(&plan, &node, &[]);
        for (target, ports) in [
            ("10.9.0.0/24", &["80"][..]),
            ("10.0.0.0/24", &["443"]),
            ("10.0.0.1-20", &["443"]),
        ] {
            let other = planned(target, ports, &node);
            let with = seconds(&plan, &node, &[past(&other, 20, 90.0)]);
            assert!((with - without).abs() < 1e-6, "{target} {ports:?}: {with}");
        }
    }

    #[test]
    fn a_part_of_a_known_network_has_its_tail_and_less_to_send() {
        let node = NodeProfile {
            rate: 500,
            ..node(&[])
        };
        let (all, part) = (
            planned("10.0.0.0/20", &["80"], &node),
            planned("10.0.3.0/24", &["80"], &node),
        );
        // 2,000 of 4,094 answer: about 13 s to send, and 10 s for the slowest device.
        let at_500 = |seconds| PastScan {
            rate: 500,
            devices: 0,
            ..past(&all, 2_000, seconds)
        };
        let known = [at_500(23.0)];
        let estimate = seconds(&part, &node, &known);
        assert!((9.0..12.5).contains(&estimate), "{estimate}");
        // A newer scan goes first.
        let newest = [at_500(14.0), known[0].clone()];
        assert!(seconds(&part, &node, &newest) < 4.0);
    }

    #[test]
    fn the_wait_is_one_command_of_each_scan_that_goes_first() {
        let scan = |priority, is_running| OpenScan {
            priority,
            estimate: Duration::from_secs(40),
            commands: 4,
            is_running,
        };
        let (urgent, later) = (Priority::Interactive, Priority::Scheduled);
        let open = [scan(urgent, true), scan(urgent, false), scan(later, false)];
        assert_eq!(queue_wait(&open, urgent), Duration::from_secs(20));
        assert_eq!(queue_wait(&open, later), Duration::from_secs(30));
        assert_eq!(
            queue_wait(&[scan(later, true)], urgent),
            Duration::from_secs(10)
        );
        assert_eq!(queue_wait(&[], urgent), Duration::ZERO);
    }
}
