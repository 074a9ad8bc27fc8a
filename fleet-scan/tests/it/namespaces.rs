//! Scans over real interfaces, in network namespaces of the test.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd,
    sync::mpsc,
    thread::JoinHandle,
    time::Duration,
};

use fleet_core::{Port, TargetOutcome};
use fleet_discovery::{IP_REPORTS, Listening};
use fleet_scan::{
    Guard, Listen, MulticastResolver, PinnedName, ScanJob, ScanOptions, ScanSummary, pin_names,
};
use fleet_sim::{Announcement, Announcer, Button, ButtonMake, Capture, Lab, Namespace, Site};
use ipnetwork::Ipv4Network;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{found, quick, scan, scanner};

/// Announcers of each network.
const ANNOUNCERS: u8 = 25;
const RUNS: usize = 20;

/// Runs a future inside a namespace.
fn inside<T, F>(namespace: &Namespace, future: F) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let running = namespace.run(|| runtime().block_on(future));
    running.join().expect("no panic").expect("a namespace")
}

/// Everything stays on the thread, because other threads are not inside.
fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

/// A network whose devices announce themselves. Dropping it ends it.
struct Announcing {
    addresses: Vec<IpAddr>,
    over: tokio::sync::oneshot::Sender<()>,
    thread: JoinHandle<std::io::Result<()>>,
}

impl Announcing {
    /// Connects a network `10.NET.0.0/24` to the interface `cable` of a node, which is its first host.
    fn start(node: &Namespace, cable: &str, net: u8) -> Self {
        let network = Namespace::new().expect("a namespace");
        node.cable(cable, &network, "node").expect("a cable");
        node.ip(&format!("addr add 10.{net}.0.1/24 dev {cable}"))
            .expect("an address");
        let own: Vec<Ipv4Addr> = (10..10 + ANNOUNCERS)
            .map(|host| [10, net, 0, host].into())
            .collect();
        for ip in &own {
            network
                .ip(&format!("addr add {ip}/24 dev node"))
                .expect("an address");
        }
        let (ready, started) = mpsc::channel();
        let (over, end) = tokio::sync::oneshot::channel();
        let addresses = own.clone();
        let thread = network.run(move || {
            runtime().block_on(async {
                let site = Site::slow(own.len(), Duration::ZERO).starting_at(own[0]);
                let port = site.ports()[0];
                let _devices = Lab::start(site).await.expect("the devices start");
                // Each device has a responder of its own, which answers from its address.
                let announcer = |ip: &Ipv4Addr| {
                    let announcement = Announcement {
                        service: "_http._tcp".to_owned(),
                        instance: format!("Miner {ip}"),
                        host: format!("miner-{net}-{}", ip.octets()[3]),
                        addresses: vec![IpAddr::V4(*ip)],
                        port,
                        ..Announcement::default()
                    };
                    // Some embedded responders answer the querier alone.
                    let start = if ip.octets()[3].is_multiple_of(2) {
                        Announcer::start_on
                    } else {
                        Announcer::start_unicast
                    };
                    start(*ip, 5353, vec![announcement]).expect("a responder")
                };
                let _announcers: Vec<Announcer> = own.iter().map(announcer).collect();
                ready.send(()).expect("the test waits");
                let _ = end.await;
            });
        });
        started.recv().expect("the network starts");
        Self {
            addresses: addresses.into_iter().map(IpAddr::V4).collect(),
            over,
            thread,
        }
    }

    fn end(self) {
        let _ = self.over.send(());
        self.thread.join().expect("no panic").expect("a namespace");
    }
}

fn subnets() -> Vec<Ipv4Network> {
    ["10.1.0.0/24", "10.2.0.0/24"]
        .map(|text| text.parse().expect(text))
        .to_vec()
}

/// Listens on an uplink and a miner network at a time. Both sockets share the mDNS port.
#[test]
#[ignore = "needs root and network namespaces: run by cargo xtask test as its step lab"]
fn lab_every_announcer_of_two_networks_is_found_in_20_of_20_runs() {
    let node = Namespace::new().expect("a namespace");
    let networks =
        [("uplink", 1), ("lan", 2)].map(|(cable, net)| Announcing::start(&node, cable, net));
    let mut expected: Vec<IpAddr> = networks
        .iter()
        .flat_map(|network| network.addresses.clone())
        .collect();
    expected.sort_unstable();
    let ports: Vec<Port> = Site::slow(1, Duration::ZERO)
        .ports()
        .into_iter()
        .filter_map(Port::new)
        .collect();
    for run in 0..RUNS {
        let (targets, ports) = (expected.clone(), ports.clone());
        let devices = inside(&node, async move {
            let listening = Listening::read("_http._tcp", "local", 2).expect("a service");
            let job = ScanJob {
                ports,
                listen: Some(Listen::new(listening, subnets())),
                ..ScanJob::new(targets)
            };
            let (_, _, events) = scan(&scanner(quick()), job).await;
            let mut devices: Vec<IpAddr> = found(&events)
                .iter()
                .map(|device| device.endpoint.ip)
                .collect();
            devices.sort_unstable();
            devices
        });
        assert_eq!(devices, expected, "run {run}");
    }
    networks.into_iter().for_each(Announcing::end);
}

#[test]
#[ignore = "needs root and network namespaces: run by cargo xtask test as its step lab"]
fn lab_names_in_local_are_asked_for_on_every_network() {
    let node = Namespace::new().expect("a namespace");
    let networks =
        [("uplink", 1), ("lan", 2)].map(|(cable, net)| Announcing::start(&node, cable, net));
    let pinned = inside(&node, async {
        let subnets = subnets();
        let others = fleet_scan::DnsResolver::system();
        let resolver = MulticastResolver::new(&others, &subnets);
        let names = ["miner-1-12.local", "miner-2-33.local", "miner-3-10.local"];
        let names = names.map(|name| name.parse().expect(name)).to_vec();
        pin_names(&resolver, names, Default::default()).await
    });
    let text = |pin: &PinnedName| match &pin.addresses {
        Ok(addresses) => addresses.iter().map(ToString::to_string).collect(),
        Err(reason) => vec![reason.clone()],
    };
    let texts: Vec<Vec<String>> = pinned.iter().map(text).collect();
    assert_eq!(texts[0], ["10.1.0.12"]);
    assert_eq!(texts[1], ["10.2.0.33"]);
    assert!(texts[2][0].contains("multicast DNS"), "{texts:?}");
    assert!(!pinned[2].lookup_failed, "a silent name is no failure");
    networks.into_iter().for_each(Announcing::end);
}

/// Sends an Ethernet frame with an ARP request from the interface `node`. The kernel of the node learns its MAC, so the
/// frame has the real one.
fn ask_by_arp(sender: Ipv4Addr, target: Ipv4Addr) {
    let mut all = nix::ifaddrs::getifaddrs().expect("interfaces");
    let link = all.find_map(|one| {
        let link = *one.address?.as_link_addr()?;
        (one.interface_name == "node").then_some(link)
    });
    let link = link.expect("a link");
    let mac = link.addr().expect("a MAC");
    let header = [&[0xff; 6][..], &mac, &[8, 6]].concat();
    let request = [0, 1, 8, 0, 6, 4, 0, 1];
    let addresses = [&mac[..], &sender.octets(), &[0; 6], &target.octets()].concat();
    let frame = [&header[..], &request, &addresses].concat();
    let arp = i32::from(0x0806_u16.to_be());
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(arp))).expect("root");
    nix::sys::socket::bind(socket.as_raw_fd(), &link).expect("bound");
    (&socket).write_all(&frame).expect("sent");
}

/// Asks a DHCP server for an address, as a device that joins the network does.
fn ask_by_dhcp(wanted: Ipv4Addr) {
    let mut message = vec![0; 236];
    message[..3].copy_from_slice(&[1, 1, 6]);
    message.extend([99, 130, 83, 99, 53, 1, 3, 50, 4]);
    message.extend(wanted.octets());
    message.push(255);
    let socket = std::net::UdpSocket::bind((wanted, 68)).expect("the client's port");
    socket.set_broadcast(true).expect("allowed");
    let [a, b, c, _] = wanted.octets();
    socket
        .send_to(&message, (Ipv4Addr::new(a, b, c, 255), 67))
        .expect("sent");
}

/// The packet sockets of this thread's namespace that receive whole packets without their link's header.
fn packet_sockets() -> usize {
    let all = std::fs::read_to_string("/proc/thread-self/net/packet").unwrap_or_default();
    all.lines()
        .filter(|line| line.split_whitespace().nth(2) == Some("2"))
        .count()
}

fn listen_for_reports(seconds: i32) -> Listen {
    let listening = Listening::read(IP_REPORTS, "", seconds).expect("IP reports");
    Listen::new(listening, vec!["10.3.0.0/24".parse().expect("a network")])
}

#[test]
#[ignore = "needs root and network namespaces: run by cargo xtask test as its step lab"]
fn lab_arp_and_dhcp_requests_are_hints_and_announcements_go_first() {
    let (node, lan) = (
        Namespace::new().expect("one"),
        Namespace::new().expect("another"),
    );
    node.cable("lan", &lan, "node").expect("a cable");
    node.ip("addr add 10.3.0.1/24 dev lan").expect("an address");
    let own: Vec<Ipv4Addr> = (10..15).map(|host| [10, 3, 0, host].into()).collect();
    for ip in &own {
        let command = format!("addr add {ip}/24 broadcast 10.3.0.255 dev node");
        lan.ip(&command).expect("an address");
    }
    let (listens, listening) = mpsc::channel();
    let (over, end) = mpsc::channel();
    let site = Site::slow(own.len(), Duration::ZERO).starting_at(own[0]);
    let ports: Vec<Port> = site.ports().into_iter().filter_map(Port::new).collect();
    let targets: Vec<IpAddr> = own.iter().copied().map(IpAddr::V4).collect();
    let devices = lan.run(move || {
        runtime().block_on(async move {
            let lab = Lab::start(site).await.expect("the devices start");
            let dialed = async |ip: Ipv4Addr| {
                while !lab.journal().touched_addresses().contains(&IpAddr::V4(ip)) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            let started = move || listening.recv().expect("the scan listens");
            tokio::task::spawn_blocking(started)
                .await
                .expect("no panic");
            let router = [10, 3, 0, 1].into();
            for _ in 0..3 {
                ask_by_arp(own[0], router);
            }
            // Not in the network, and not a target.
            ask_by_arp([10, 4, 0, 9].into(), router);
            ask_by_arp([10, 3, 0, 99].into(), [10, 3, 0, 99].into());
            dialed(own[0]).await;
            for _ in 0..3 {
                ask_by_arp(own[1], own[1]);
            }
            dialed(own[1]).await;
            ask_by_dhcp(own[2]);
            let button = Button {
                make: ButtonMake::Antminer,
                ip: own[3],
                to: [10, 3, 0, 255].into(),
                offset: 0,
                pause: Duration::from_millis(20),
            };
            assert_eq!(button.press().await.expect("it is sent"), 0);
            dialed(own[2]).await;
            ask_by_arp(own[3], router);
            // The devices answer until the scan has ended.
            let ended = move || end.recv().expect("the scan ends");
            tokio::task::spawn_blocking(ended).await.expect("no panic");
            own
        })
    });
    let (summary, order) = inside(&node, async move {
        let job = ScanJob {
            ports,
            listen: Some(listen_for_reports(8)),
            ..ScanJob::new(targets)
        };
        let scan = scanner(quick()).scan(job).expect("it starts");
        while packet_sockets() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        listens.send(()).expect("the devices wait");
        let (summary, _, events) = crate::finish(scan).await;
        let order: Vec<IpAddr> = found(&events).iter().map(|one| one.endpoint.ip).collect();
        (summary, order)
    });
    over.send(()).expect("the devices wait");
    let own = devices.join().expect("no panic").expect("a namespace");
    // The device that was only present comes last, although it was dialed first.
    let expected = [own[1], own[3], own[2], own[0]].map(IpAddr::V4);
    assert_eq!(order, expected, "{summary:?}");
    assert_eq!(summary.count(TargetOutcome::Silent), 1, "{summary:?}");
    assert!(summary.is_complete(), "{summary:?}");
}

#[test]
#[ignore = "needs root and network namespaces: run by cargo xtask test as its step lab"]
fn lab_without_privilege_requests_are_missing_with_a_reason() {
    let node = Namespace::new().expect("a namespace");
    let lan = Namespace::new().expect("a namespace");
    node.cable("lan", &lan, "node").expect("a cable");
    node.ip("addr add 10.3.0.1/24 dev lan").expect("an address");
    let scanned = node.run(|| {
        let mut held = capabilities(None).expect("capabilities");
        held.effective.remove(CapabilitySet::NET_RAW);
        set_capabilities(None, held).expect("may be dropped");
        let job = ScanJob {
            ports: Port::new(4028).into_iter().collect(),
            listen: Some(listen_for_reports(1)),
            ..ScanJob::new(vec![[10, 3, 0, 9].into()])
        };
        let scanner = scanner(ScanOptions::default());
        runtime().block_on(async move { scan(&scanner, job).await.0 })
    });
    let summary = scanned.join().expect("no panic").expect("a namespace");
    let note = "ARP and DHCP requests are not received (the node needs CAP_NET_RAW)";
    assert!(
        summary.notes.iter().any(|text| text.starts_with(note)),
        "{summary:?}"
    );
    assert!(summary.is_complete(), "{summary:?}");
}

/// A node, and a router that drops everything to 10.64.0.0/16.
fn behind_router() -> (Namespace, Namespace) {
    let node = Namespace::new().expect("a namespace");
    let router = Namespace::new().expect("a namespace");
    node.cable("router", &router, "node").expect("a cable");
    node.ip("addr add 10.255.0.1/30 dev router\nroute add 10.64.0.0/16 via 10.255.0.2")
        .expect("routes");
    router
        .ip("addr add 10.255.0.2/30 dev node\nroute add blackhole 10.64.0.0/16")
        .expect("routes");
    (node, router)
}

/// A network that a router drops everything to: no target answers, and the kernel repeats every SYN whose socket stays
/// open for a second.
fn dark_scan(rate: u32, targets: u32) -> (ScanSummary, Vec<Duration>) {
    let (node, _router) = behind_router();
    let capture = Capture::start(&node).expect("a capture");
    let summary = inside(&node, async move {
        let first = u32::from(Ipv4Addr::new(10, 64, 0, 0));
        let targets = (first..first + targets).map(|ip| IpAddr::from(Ipv4Addr::from(ip)));
        let job = ScanJob {
            ports: Port::new(4028).into_iter().collect(),
            guard: Guard::default(),
            ..ScanJob::new(targets.collect())
        };
        let options = ScanOptions {
            rate,
            ..ScanOptions::default()
        };
        scan(&scanner(options), job).await.0
    });
    (summary, capture.end().expect("times"))
}

/// The most packets within any second.
fn most_in_a_second(times: &[Duration]) -> usize {
    let second = Duration::from_secs(1);
    let within = |at: usize| times[at..].partition_point(|time| *time < times[at] + second);
    (0..times.len()).map(within).max().unwrap_or_default()
}

#[test]
#[ignore = "needs root and network namespaces: run by cargo xtask test as its step lab"]
fn lab_no_second_has_more_syns_than_the_rate() {
    for (rate, targets) in [(500, 1_500), (5_000, 15_000)] {
        let (summary, syns) = dark_scan(rate, targets);
        assert_eq!(
            summary.count(TargetOutcome::Silent),
            u64::from(targets),
            "{summary:?}"
        );
        let most = most_in_a_second(&syns);
        eprintln!(
            "rate {rate}: {} SYNs, at most {most} in a second",
            syns.len()
        );
        assert!(most <= rate as usize, "{most} SYNs in a second at {rate}");
        assert!(
            syns.len() >= 2 * targets as usize,
            "every target was tried twice: {}",
            syns.len()
        );
    }
}

/// Makes the node verify its neighbors within two seconds. The kernel's defaults take 50 s.
fn verify_soon(node: &Namespace) {
    let wrote = node.run(|| {
        for (name, value) in [
            ("base_reachable_time_ms", "500"),
            ("delay_first_probe_time", "1"),
            ("retrans_time_ms", "200"),
        ] {
            let file = format!("/proc/sys/net/ipv4/neigh/router/{name}");
            std::fs::write(file, value).expect("a setting");
        }
    });
    wrote.join().expect("no panic").expect("a namespace");
}

/// Scans hosts behind a router without CAP_NET_RAW, from a thread that drops it.
fn scan_without_privilege(node: &Namespace) -> ScanSummary {
    let scanned = node.run(|| {
        let mut held = capabilities(None).expect("capabilities");
        held.effective.remove(CapabilitySet::NET_RAW);
        set_capabilities(None, held).expect("may be dropped");
        let targets = (1..=4).map(|host| IpAddr::from([10, 64, 0, host]));
        let job = ScanJob {
            ports: Port::new(4028).into_iter().collect(),
            guard: Guard::default(),
            ..ScanJob::new(targets.collect())
        };
        let scanner = scanner(ScanOptions::default());
        runtime().block_on(async move { scan(&scanner, job).await.0 })
    });
    scanned.join().expect("no panic").expect("a namespace")
}

#[test]
#[ignore = "needs root and network namespaces: run by cargo xtask test as its step lab"]
fn lab_without_privilege_only_a_fresh_answer_of_the_router_confirms_silence() {
    // The router may answer pings, only refuse datagrams, or answer nothing but ARP.
    for (pings, refusals) in [(true, true), (false, true), (false, false)] {
        let (node, router) = behind_router();
        verify_soon(&node);
        let group = if pings { "0 0" } else { "1 0" };
        let set = node.run(move || std::fs::write("/proc/sys/net/ipv4/ping_group_range", group));
        set.join()
            .expect("no panic")
            .expect("a namespace")
            .expect("a setting");
        let listening = router.run(move || {
            (!refusals).then(|| std::net::UdpSocket::bind("0.0.0.0:9").expect("the discard port"))
        });
        let _listening = listening.join().expect("no panic").expect("a namespace");
        let summary = scan_without_privilege(&node);
        assert_eq!(summary.count(TargetOutcome::Silent), 4, "{summary:?}");
        // It dies and keeps its link. Its entry in the node's table is seconds old.
        router.ip("addr flush dev node").expect("no address");
        let summary = scan_without_privilege(&node);
        assert_eq!(summary.count(TargetOutcome::NotReached), 4, "{summary:?}");
        let note = summary
            .notes
            .iter()
            .any(|note| note.contains("router does not answer"));
        assert!(note, "{summary:?}");
    }
}
