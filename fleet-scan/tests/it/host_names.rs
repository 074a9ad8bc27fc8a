//! Names of hosts that a scan found: they come after the identification, from the site's name servers.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use fleet_core::{NameSource, NamedBy};
use fleet_discovery::HostName;
use fleet_scan::{BoxFuture, DnsResolver, LookupError, Resolver, ScanEvent, ScanJob};
use fleet_sim::Site;
use tokio::net::UdpSocket;

use crate::{finish, found, job, quick, scan, scanner, start};

/// Names the hosts with an even last octet.
#[derive(Debug)]
struct Even;

/// Never answers.
#[derive(Debug)]
struct Silent;

fn no_lookup<'a>() -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>> {
    Box::pin(async { Err(LookupError::NoAddress) })
}

impl Resolver for Even {
    fn lookup<'a>(&'a self, _: &'a HostName) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>> {
        no_lookup()
    }

    fn reverse<'a>(&'a self, ip: IpAddr) -> BoxFuture<'a, Option<NamedBy>> {
        let text = ip.to_string();
        let last: u8 = text
            .rsplit('.')
            .next()
            .and_then(|octet| octet.parse().ok())
            .unwrap_or(1);
        let name = (last.is_multiple_of(2)).then(|| format!("Miner-{last}.lan."));
        Box::pin(async move { NamedBy::new(&name?, NameSource::ReverseDns) })
    }
}

impl Resolver for Silent {
    fn lookup<'a>(&'a self, _: &'a HostName) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>> {
        no_lookup()
    }

    fn reverse<'a>(&'a self, _: IpAddr) -> BoxFuture<'a, Option<NamedBy>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_have_the_names_of_the_name_server() {
    let running = start(Site::slow(6, Duration::ZERO), 131).await;
    let job = ScanJob {
        names: Some(Arc::new(Even)),
        ..job(running.site())
    };
    let (summary, devices, _) = scan(&scanner(quick()), job).await;
    assert_eq!((devices.len(), summary.found), (6, 6));
    for device in devices {
        let ip = device.endpoint.ip.to_string();
        let last: u8 = ip
            .rsplit('.')
            .next()
            .and_then(|octet| octet.parse().ok())
            .expect("an octet");
        let name = device.facts.host_name.map(|known| known.to_string());
        let expected = (last.is_multiple_of(2)).then(|| format!("dns:miner-{last}.lan"));
        assert_eq!(name, expected, "{ip}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_name_server_delays_a_scan_by_a_second_at_most_and_is_reported() {
    let running = start(Site::slow(30, Duration::ZERO), 132).await;
    let plain = job(running.site());
    let named = ScanJob {
        names: Some(Arc::new(Silent)),
        ..plain.clone()
    };
    let began = Instant::now();
    let (_, devices, _) = scan(&scanner(quick()), plain).await;
    let without = began.elapsed();
    assert_eq!(devices.len(), 30);
    let began = Instant::now();
    let (summary, devices, _) = scan(&scanner(quick()), named).await;
    let with = began.elapsed();
    assert_eq!(devices.len(), 30);
    assert!(
        devices
            .iter()
            .all(|device| device.facts.host_name.is_none())
    );
    // A second of lookups, and a second for a busy machine.
    assert!(
        with < without + Duration::from_secs(2),
        "{with:?} and {without:?}"
    );
    let note = "host names are missing, because no name server answered";
    assert!(
        summary.notes.iter().any(|text| text.contains(note)),
        "{summary:?}"
    );
    assert!(summary.is_complete(), "{summary:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_loses_no_device_that_waits_for_its_name() {
    let running = start(Site::slow(5, Duration::ZERO), 134).await;
    let job = ScanJob {
        names: Some(Arc::new(Silent)),
        ..job(running.site())
    };
    let mut scan = scanner(quick()).scan(job).expect("it starts");
    let mut events = Vec::new();
    let is_over =
        |event: &ScanEvent| matches!(event, ScanEvent::Progress(at) if at.done == at.total);
    while !events.last().is_some_and(is_over) {
        events.push(scan.next().await.expect("progress"));
    }
    scan.cancel();
    let (_, _, rest) = finish(scan).await;
    events.extend(rest);
    assert_eq!(found(&events).len(), 5);
}

/// A name server that answers each query with these labels as the name.
async fn name_server(labels: Vec<Vec<u8>>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let address = socket.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            // The header, the question up to its type and class, and one answer.
            let end = 12
                + query[12..length]
                    .iter()
                    .position(|byte| *byte == 0)
                    .expect("a name")
                + 5;
            let mut name: Vec<u8> = labels
                .iter()
                .flat_map(|label| [vec![label.len() as u8], label.clone()].concat())
                .collect();
            name.push(0);
            let mut answer = query[..end].to_vec();
            answer[2..12].copy_from_slice(&[0x84, 0, 0, 1, 0, 1, 0, 0, 0, 0]);
            answer.extend([0xc0, 12, 0, 12, 0, 1, 0, 0, 0, 60]);
            answer.extend((name.len() as u16).to_be_bytes());
            answer.extend(name);
            socket.send_to(&answer, from).await.expect("sent");
        }
    });
    address
}

#[tokio::test]
async fn hostile_names_of_a_name_server_are_dropped() {
    let ip: IpAddr = [10, 0, 0, 7].into();
    let label = |text: &[u8]| text.to_vec();
    for (labels, expected) in [
        (
            vec![label(b"Miner-7"), label(b"lan")],
            Some("dns:miner-7.lan"),
        ),
        (vec![label(b"a\x1b[31m"), label(b"lan")], None),
        (vec![label(b"a\nb")], None),
        (vec![label(b"\xff\xfe"), label(b"lan")], None),
        (vec![label("m\u{202e}r".as_bytes())], None),
        (vec![label(b"<script>")], None),
        (
            vec![label(b"10"), label(b"0"), label(b"0"), label(b"9")],
            None,
        ),
        (vec![label(&[b'x'; 63]); 4], None),
        (vec![label(&[b'x'; 63]); 5], None),
        (vec![], None),
    ] {
        let resolver = DnsResolver::asking(vec![name_server(labels.clone()).await]);
        let name = resolver.reverse(ip).await.map(|known| known.to_string());
        assert_eq!(name.as_deref(), expected, "{labels:?}");
    }
}
