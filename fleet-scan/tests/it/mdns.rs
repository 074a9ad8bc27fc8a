//! Scans that listen first: who announces the service is tried, nobody else is touched.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use fleet_core::{Port, TargetOutcome};
use fleet_discovery::Listening;
use fleet_scan::{Interruption, Listen, ScanEvent, ScanJob, ScanSummary};
use fleet_sim::{Announcement, Announcer, RunningSite, Site};
use mdns_sd::{IfKind, ServiceDaemon, ServiceInfo};
use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{found, job, quick, scan, scanner, start};

/// Listens on loopback at a port of the test's own, so that tests hear nobody but themselves.
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
    }
}

fn service_port(running: &RunningSite) -> u16 {
    running.site().ports()[0]
}

fn has_note(summary: &ScanSummary, words: &str) -> bool {
    summary.notes.iter().any(|note| note.contains(words))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_announces_itself_is_found_while_others_are_listened_for_and_who_does_not_is_silent() {
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
    let (sink, mut events) = mpsc::channel(64);
    let began = Instant::now();
    let scan = tokio::spawn(async move {
        let scanner = scanner(quick());
        scanner.run(job, sink, CancellationToken::new()).await
    });
    let mut gathered = Vec::new();
    let mut first = None;
    while let Some(event) = events.recv().await {
        if matches!(event, ScanEvent::Found(_)) {
            first.get_or_insert(began.elapsed());
        }
        gathered.push(event);
    }
    let summary = scan.await.expect("no panic").expect("it began");
    let mut devices: Vec<IpAddr> = found(&gathered).iter().map(|d| d.endpoint.ip).collect();
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
    let first = first.expect("a device");
    assert!(
        first < Duration::from_millis(1_500),
        "while it listens: {first:?}"
    );
    assert!(began.elapsed() >= Duration::from_secs(2), "to the end");
    let touched = running.journal().touched_addresses();
    assert!(touched.iter().eq(&devices), "{touched:?}");
    // Once and a second later: those who are known need not answer again.
    assert_eq!(announcer.asked(), ["_http._tcp.local"; 2]);
    let phases: Vec<_> = gathered
        .iter()
        .filter_map(|event| match event {
            ScanEvent::Progress(progress) => Some(progress.phase),
            ScanEvent::Found(_) | ScanEvent::Note(_) => None,
        })
        .collect();
    assert_eq!(phases.first(), Some(&"listen"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_outside_of_the_scan_is_told_and_never_dialed() {
    let running = start(Site::slow(6, Duration::ZERO), 81).await;
    let addresses = running.site().addresses();
    let at = service_port(&running);
    let v6: IpAddr = "fd00::7".parse().expect("an address");
    let _announcer = Announcer::start(
        port(81),
        vec![
            // Known to the site, but no target.
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
        "at the scan's ports, not at its own"
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guard_has_the_last_word_on_whoever_announces_itself() {
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
async fn who_does_not_answer_for_its_host_is_not_believed() {
    let running = start(Site::slow(1, Duration::ZERO), 89).await;
    let response = announced(0, &running.site().addresses(), service_port(&running)).response();
    // A program without privileges has any port but that of mDNS.
    let stranger = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
    let own = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    stranger.bind(&own.into()).expect("any port");
    stranger.set_multicast_if_v4(own.ip()).expect("loopback");
    let group = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 251), port(89));
    let lie = async {
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        loop {
            tick.tick().await;
            stranger.send_to(&response, &group.into()).expect("sent");
        }
    };
    let job = ScanJob {
        listen: Some(listen(89, 1)),
        ..job(running.site())
    };
    let scanner = scanner(quick());
    let (summary, devices, _) = tokio::select! {
        done = scan(&scanner, job) => done,
        () = lie => unreachable!("it lies on"),
    };
    assert!(devices.is_empty(), "{devices:?}");
    assert_eq!(summary.outcomes, [TargetOutcome::Silent]);
    assert_eq!(running.journal().count(), 0);
}

#[tokio::test]
async fn where_nothing_can_be_heard_nobody_is_called_silent() {
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
async fn a_cancel_ends_listening_at_once_and_keeps_what_was_found() {
    let running = start(Site::slow(3, Duration::ZERO), 84).await;
    let addresses = running.site().addresses();
    let announcements = vec![announced(1, &addresses[1..2], service_port(&running))];
    let _announcer = Announcer::start(port(84), announcements).expect("a responder");
    let job = ScanJob {
        listen: Some(listen(84, 60)),
        ..job(running.site())
    };
    let (sink, mut events) = mpsc::channel(64);
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    let scan = tokio::spawn(async move { scanner(quick()).run(job, sink, token).await });
    let mut canceled = None;
    while let Some(event) = events.recv().await {
        if matches!(event, ScanEvent::Found(_)) {
            cancel.cancel();
            canceled = Some(Instant::now());
        }
    }
    let summary = scan.await.expect("no panic").expect("it began");
    let since = canceled.expect("a device").elapsed();
    assert!(since < Duration::from_secs(1), "{since:?}");
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

/// A responder that others have written, as strict or lax as they think right: it probes and announces by itself, and
/// keeps quiet about what a question says to know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_of_another_implementation_is_heard() {
    let running = start(Site::slow(2, Duration::ZERO), 85).await;
    let addresses = running.site().addresses();
    let daemon = ServiceDaemon::new_with_port(port(85)).expect("a daemon");
    // The last word on an interface counts: nothing but loopback.
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
async fn a_whole_network_that_says_nothing_is_silent_once_the_time_is_over() {
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
