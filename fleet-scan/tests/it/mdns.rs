//! Scans that listen first: hosts that announce the service are tried, and no others.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use fleet_core::{Port, TargetOutcome};
use fleet_discovery::Listening;
use fleet_scan::{Interruption, Listen, ScanEvent, ScanJob, ScanPhase, ScanSummary};
use fleet_sim::{Announcement, Announcer, Device, Make, RunningSite, Site};
use mdns_sd::{IfKind, ServiceDaemon, ServiceInfo};
use socket2::{Domain, Socket, Type};

use crate::{finish, found, job, quick, scan, scanner, start};

/// Listens on loopback at the test's own port, so that tests do not receive each other's packets.
fn listen(test: u8, seconds: i32) -> Listen {
    let listening = Listening::read("_http._tcp", "local", seconds).expect("a service");
    Listen {
        port: port(test),
        ..Listen::new(listening, vec!["127.0.0.0/8".parse().expect("a network")])
    }
}

fn port(test: u8) -> u16 {
    15_300 + u16::from(test)
}

fn announced(at: usize, addresses: &[IpAddr], port: u16) -> Announcement {
    Announcement {
        service: "_http._tcp".to_owned(),
        instance: format!("Miner no. {at}"),
        host: format!("miner-{at}"),
        addresses: addresses.to_vec(),
        port,
        ..Announcement::default()
    }
}

fn service_port(running: &RunningSite) -> u16 {
    running.site().ports()[0]
}

fn has_note(summary: &ScanSummary, words: &str) -> bool {
    summary.notes.iter().any(|note| note.contains(words))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announced_hosts_are_found_while_the_scan_listens_and_the_others_are_silent() {
    let running = start(Site::slow(12, Duration::ZERO), 80).await;
    let addresses = running.site().addresses();
    let at = service_port(&running);
    let announcements = [2, 5, 9].map(|n| announced(n, &addresses[n..=n], at));
    let announcer = Announcer::start(port(80), announcements.to_vec()).expect("a responder");
    let job = ScanJob {
        listen: Some(listen(80, 2)),
        ..job(running.site())
    };
    let targets = job.targets.clone();
    let began = Instant::now();
    let mut scan = scanner(quick()).scan(job).expect("it starts");
    let mut events = Vec::new();
    while found(&events).is_empty() {
        events.push(scan.next().await.expect("a device"));
    }
    let first = began.elapsed();
    let (summary, _, rest) = finish(scan).await;
    events.extend(rest);
    let mut devices: Vec<IpAddr> = found(&events).iter().map(|d| d.endpoint.ip).collect();
    devices.sort_unstable();
    assert_eq!(devices, [2, 5, 9].map(|n| addresses[n]));
    for (target, outcome) in targets.iter().zip(&summary.outcomes) {
        let expected = if devices.contains(target) {
            TargetOutcome::Identified
        } else {
            TargetOutcome::Silent
        };
        assert_eq!(*outcome, expected, "{target}");
    }
    assert!(summary.is_complete(), "{summary:?}");
    assert!(
        first < Duration::from_millis(1_500),
        "while it listens: {first:?}"
    );
    assert!(began.elapsed() >= Duration::from_secs(2), "to the end");
    let touched = running.journal().touched_addresses();
    assert!(touched.iter().eq(&devices), "{touched:?}");
    // At once and a second later, each from both ports. Known services need not answer again.
    assert_eq!(announcer.asked(), ["_http._tcp.local"; 4]);
    let phase = events.iter().find_map(|event| match event {
        ScanEvent::Progress(progress) => Some(progress.phase),
        ScanEvent::Found(_)
        | ScanEvent::Unidentified(_)
        | ScanEvent::Note(_)
        | ScanEvent::Ended(_) => None,
    });
    assert_eq!(phase, Some(ScanPhase::Listen));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announcements_outside_of_the_scan_give_a_note_and_are_never_dialed() {
    let running = start(Site::slow(6, Duration::ZERO), 81).await;
    let addresses = running.site().addresses();
    let at = service_port(&running);
    let v6: IpAddr = "fd00::7".parse().expect("an address");
    let _announcer = Announcer::start(
        port(81),
        vec![
            // A device of the site that is not a target.
            announced(0, &addresses[..1], at),
            announced(1, &["192.0.2.7".parse().expect("an address")], at),
            announced(2, &[addresses[2], v6], 1),
            announced(3, &[v6], at),
        ],
    )
    .expect("a responder");
    let mut job = ScanJob {
        listen: Some(listen(81, 1)),
        ..job(running.site())
    };
    job.targets.remove(0);
    let (summary, devices, _) = scan(&scanner(quick()), job).await;
    let devices: Vec<IpAddr> = devices.iter().map(|device| device.endpoint.ip).collect();
    assert_eq!(
        devices,
        [addresses[2]],
        "at the ports of the scan, not at the announced port"
    );
    assert!(running.journal().touched_addresses().iter().eq(&devices));
    assert!(
        has_note(&summary, "not among the targets (2 times)"),
        "{summary:?}"
    );
    assert!(
        has_note(&summary, &format!("does not cover: {}:1", addresses[2])),
        "{summary:?}"
    );
    assert!(
        has_note(
            &summary,
            "IPv6 addresses only, which are not covered: fd00::7"
        ),
        "{summary:?}"
    );
    assert!(summary.is_complete(), "{summary:?}");
}

/// Only AxeOS announces its subtype; every device with a web page announces the type.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subtype_finds_only_the_devices_that_announce_it() {
    let running = start(Site::slow(4, Duration::ZERO), 87).await;
    let addresses = running.site().addresses();
    let at = service_port(&running);
    let announcements = (0..4).map(|n| Announcement {
        service: if n % 2 == 0 {
            "_axeos._sub._http._tcp".to_owned()
        } else {
            "_http._tcp".to_owned()
        },
        ..announced(n, &addresses[n..=n], at)
    });
    let _announcer = Announcer::start(port(87), announcements.collect()).expect("a responder");
    for (service, expected) in [
        ("_axeos._sub._http._tcp", vec![addresses[0], addresses[2]]),
        ("_http._tcp", addresses.clone()),
    ] {
        let listening = Listening::read(service, "local", 1).expect("a service");
        let job = ScanJob {
            listen: Some(Listen {
                listening,
                ..listen(87, 1)
            }),
            ..job(running.site())
        };
        let (summary, devices, _) = scan(&scanner(quick()), job).await;
        let mut devices: Vec<IpAddr> = devices.iter().map(|device| device.endpoint.ip).collect();
        devices.sort_unstable();
        assert_eq!(devices, expected, "{service}: {summary:?}");
    }
}

/// A board that is newer than the rules: its service names the family (bitaxeorg/ESP-Miner, components/connect/connect.c).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_of_a_service_are_facts_for_rules_and_identify_nothing_alone() {
    let mut site = Site::one_of_everything(1);
    let is_bitaxe = |device: &Device| device.make == Make::Bitaxe && device.services.len() == 1;
    let mut bitaxe = site
        .devices
        .iter()
        .find(|one| is_bitaxe(one))
        .cloned()
        .expect("a Bitaxe");
    bitaxe.model = "BM1370 999".to_owned();
    let mut printer = site
        .devices
        .iter()
        .find(|one| one.make == Make::Printer)
        .cloned();
    let mut printer = printer.take().expect("a printer");
    printer.services.truncate(1);
    site.devices = vec![bitaxe, printer];
    let running = start(site, 133).await;
    let addresses = running.site().addresses();
    let ports = running.site().ports();
    let attributes = [
        "board=999",
        "family=GammaHyper",
        "asic=BM1370",
        "fw_version=v2.15.0",
    ];
    let announcements = (0..2).flat_map(|n| ports.iter().map(move |port| (n, *port)));
    let announcements = announcements.map(|(n, at)| Announcement {
        service: "_axeos._sub._http._tcp".to_owned(),
        instance: format!("Bitaxe {n} {at}"),
        attributes: attributes.map(str::to_owned).to_vec(),
        ..announced(n, &addresses[n..=n], at)
    });
    let _announcer = Announcer::start(port(133), announcements.collect()).expect("a responder");
    let listening = Listening::read("_axeos._sub._http._tcp", "local", 1).expect("a service");
    let job = ScanJob {
        listen: Some(Listen {
            listening,
            ..listen(133, 1)
        }),
        ..job(running.site())
    };
    let (summary, devices, _) = scan(&scanner(quick()), job).await;
    let models: Vec<_> = devices
        .iter()
        .map(|device| (device.endpoint.ip, device.facts.model.as_str()))
        .collect();
    assert_eq!(models, [(addresses[0], "Bitaxe GammaHyper")], "{summary:?}");
    assert_eq!(
        summary.count(TargetOutcome::Unidentified),
        1,
        "the printer stays one"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guard_applies_to_announced_hosts() {
    let running = start(Site::slow(2, Duration::ZERO), 82).await;
    let addresses = running.site().addresses();
    let announcements = vec![announced(0, &addresses[..1], service_port(&running))];
    let _announcer = Announcer::start(port(82), announcements).expect("a responder");
    let job = ScanJob {
        guard: fleet_scan::Guard::default(),
        listen: Some(listen(82, 1)),
        ..job(running.site())
    };
    let (summary, devices, _) = scan(&scanner(quick()), job).await;
    assert!(devices.is_empty());
    assert_eq!(
        summary.outcomes,
        [TargetOutcome::Skipped, TargetOutcome::Silent]
    );
    assert_eq!(running.journal().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_announcement_from_another_port_does_not_count() {
    let running = start(Site::slow(1, Duration::ZERO), 89).await;
    let response = announced(0, &running.site().addresses(), service_port(&running)).response();
    // A program other than the responder has another port.
    let forger = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
    let own = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    forger.bind(&own.into()).expect("any port");
    forger.set_multicast_if_v4(own.ip()).expect("loopback");
    let group = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 251), port(89));
    let forge = async {
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        loop {
            tick.tick().await;
            forger.send_to(&response, &group.into()).expect("sent");
        }
    };
    let job = ScanJob {
        listen: Some(listen(89, 1)),
        ..job(running.site())
    };
    let scanner = scanner(quick());
    let (summary, devices, _) = tokio::select! {
        done = scan(&scanner, job) => done,
        () = forge => unreachable!("it never ends"),
    };
    assert!(devices.is_empty(), "{devices:?}");
    assert_eq!(summary.outcomes, [TargetOutcome::Silent]);
    assert_eq!(running.journal().count(), 0);
}

#[tokio::test]
async fn without_an_interface_in_the_subnet_no_host_counts_as_silent() {
    let mut listen = listen(83, 60);
    listen.subnets = vec!["203.0.113.0/24".parse().expect("a network")];
    let job = ScanJob {
        ports: Port::new(80).into_iter().collect(),
        listen: Some(listen),
        ..ScanJob::new(vec!["10.255.255.7".parse().expect("an address")])
    };
    let began = Instant::now();
    let (summary, _, _) = scan(&scanner(quick()), job).await;
    assert!(began.elapsed() < Duration::from_secs(30), "at once");
    assert_eq!(summary.outcomes, [TargetOutcome::NotReached]);
    assert!(has_note(&summary, "203.0.113.0/24"), "{summary:?}");
    assert!(!summary.is_complete());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_ends_listening_at_once_and_keeps_found_devices() {
    let running = start(Site::slow(3, Duration::ZERO), 84).await;
    let addresses = running.site().addresses();
    let announcements = vec![announced(1, &addresses[1..2], service_port(&running))];
    let _announcer = Announcer::start(port(84), announcements).expect("a responder");
    let job = ScanJob {
        listen: Some(listen(84, 60)),
        ..job(running.site())
    };
    let mut scan = scanner(quick()).scan(job).expect("it starts");
    while !matches!(scan.next().await, Some(ScanEvent::Found(_))) {}
    scan.cancel();
    let canceled = Instant::now();
    let (summary, ..) = finish(scan).await;
    assert!(canceled.elapsed() < Duration::from_secs(1));
    assert_eq!(summary.interrupted, Some(Interruption::Canceled));
    assert_eq!(
        summary.outcomes,
        [
            TargetOutcome::NotReached,
            TargetOutcome::Identified,
            TargetOutcome::NotReached
        ]
    );
}

/// An independent responder: it probes and announces by itself, and does not answer for services that a query lists as
/// known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_of_another_implementation_is_found() {
    let running = start(Site::slow(2, Duration::ZERO), 85).await;
    let addresses = running.site().addresses();
    let daemon = ServiceDaemon::new_with_port(port(85)).expect("a daemon");
    // The last setting of an interface counts: only loopback is enabled.
    daemon.disable_interface(IfKind::All).expect("a command");
    daemon
        .enable_interface(IfKind::LoopbackV4)
        .expect("a command");
    let at = service_port(&running);
    let service = ServiceInfo::new(
        "_http._tcp.local.",
        "Miner of another make",
        "miner-85.local.",
        addresses[1],
        at,
        None,
    );
    daemon
        .register(service.expect("a service"))
        .expect("a command");
    let job = ScanJob {
        listen: Some(listen(85, 4)),
        ..job(running.site())
    };
    let (summary, devices, _) = scan(&scanner(quick()), job).await;
    daemon.shutdown().expect("a command");
    let devices: Vec<IpAddr> = devices.iter().map(|device| device.endpoint.ip).collect();
    assert_eq!(devices, [addresses[1]], "{summary:?}");
    assert!(summary.is_complete(), "{summary:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_without_announcements_is_silent_once_the_time_is_over() {
    let targets: Vec<IpAddr> = (0..4_000_u32)
        .map(|n| std::net::Ipv4Addr::from_bits(0x7f5b_8000 + n).into())
        .collect();
    let job = ScanJob {
        ports: Port::new(80).into_iter().collect(),
        listen: Some(listen(86, 1)),
        ..ScanJob::new(targets)
    };
    let (summary, _, _) = scan(&scanner(quick()), job).await;
    assert_eq!(summary.count(TargetOutcome::Silent), 4_000);
    assert!(summary.is_complete(), "{:?}", summary.notes);
}
