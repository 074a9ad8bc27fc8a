//! The simulator seen from outside: plain sockets against a running site, and its own record of them.

mod program;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use fleet_sim::{
    Device, Lab, LabError, Make, Manner, Protocol, RunningSite, Service, Site, SiteError, Truth,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Each test has a part of 127/8 of its own, so that they run side by side.
fn base(test: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 78, test, 1)
}

async fn start(site: Site) -> RunningSite {
    Lab::start(site).await.expect("the site starts")
}

fn one_device(test: u8, make: Make, protocol: Protocol, manner: Manner) -> Site {
    let device = Device {
        login: None,
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        make,
        model: "Antminer S19".to_owned(),
        firmware: "1.0.0".to_owned(),
        mac: None,
        serial: None,
        services: vec![Service {
            port: 14_028,
            protocol,
            manner,
            delay_ms: 0,
        }],
    };
    Site {
        seed: 1,
        devices: vec![device],
    }
    .starting_at(base(test))
}

async fn dial(site: &RunningSite) -> TcpStream {
    let device = site.site().devices.first().expect("a device");
    TcpStream::connect(SocketAddr::new(device.address, 14_028))
        .await
        .expect("it listens")
}

async fn ask(stream: &mut TcpStream, request: &[u8]) -> Vec<u8> {
    stream.write_all(request).await.expect("sends");
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.expect("reads");
    reply
}

#[tokio::test]
async fn a_cgminer_reply_ends_with_nul_and_the_connection_closes() {
    let site = start(one_device(
        1,
        Make::Antminer,
        Protocol::Cgminer,
        Manner::Proper,
    ))
    .await;
    let reply = ask(&mut dial(&site).await, br#"{"command":"version"}"#).await;
    assert_eq!(reply.last(), Some(&0));
    assert!(String::from_utf8_lossy(&reply).contains(r#""Type":"Antminer S19""#));
    let connections = site.journal().connections();
    assert_eq!(connections.len(), 1);
    assert_eq!(connections[0].answered, ["version"]);
    assert_eq!(connections[0].bytes_read, 21);
}

#[tokio::test]
async fn a_request_in_pieces_is_one_request() {
    let site = start(one_device(
        2,
        Make::Antminer,
        Protocol::Cgminer,
        Manner::Dripping,
    ))
    .await;
    let mut stream = dial(&site).await;
    for piece in [r#"{"comm"#, r#"and":"ver"#] {
        stream.write_all(piece.as_bytes()).await.expect("sends");
        tokio::task::yield_now().await;
    }
    let reply = ask(&mut stream, br#"sion"}"#).await;
    assert!(String::from_utf8_lossy(&reply).contains("Antminer S19"));
}

#[tokio::test]
async fn a_web_server_answers_several_requests_on_one_connection() {
    let site = start(one_device(3, Make::Proto, Protocol::Http, Manner::Proper)).await;
    let mut stream = dial(&site).await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .expect("sends");
    let request = b"GET /api/v1/pairing/info HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let reply = ask(&mut stream, request).await;
    let text = String::from_utf8_lossy(&reply);
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2);
    assert!(text.contains(r#""cb_sn""#));
    assert_eq!(site.journal().count(), 1);
}

#[tokio::test]
async fn connections_at_once_are_counted_a_host_and_closed_ones_do_not_count() {
    let site = start(one_device(
        4,
        Make::Antminer,
        Protocol::Cgminer,
        Manner::Silent,
    ))
    .await;
    for _ in 0..5 {
        drop(dial(&site).await);
    }
    let (_first, _second) = (dial(&site).await, dial(&site).await);
    while site.journal().count() < 7 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(site.journal().max_concurrent_per_host(), 2);
    assert_eq!(site.journal().touched_addresses().len(), 1);
}

#[tokio::test]
async fn garbage_flows_until_the_peer_closes() {
    let site = start(one_device(
        5,
        Make::PlainCgminer,
        Protocol::Cgminer,
        Manner::Garbage,
    ))
    .await;
    let mut stream = dial(&site).await;
    let mut block = vec![0; 1024 * 1024];
    stream
        .read_exact(&mut block)
        .await
        .expect("a megabyte of garbage");
    drop(stream);
    while site.journal().connections()[0].closed.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn after_shutdown_nothing_listens_and_the_record_remains() {
    let site = start(one_device(
        6,
        Make::Antminer,
        Protocol::Cgminer,
        Manner::Silent,
    ))
    .await;
    let mut open = dial(&site).await;
    let endpoint = open.peer_addr().expect("connected");
    let journal = site.journal().clone();
    while journal.count() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    site.shutdown().await;
    assert!(TcpStream::connect(endpoint).await.is_err());
    let mut rest = Vec::new();
    assert!(matches!(open.read_to_end(&mut rest).await, Ok(0) | Err(_)));
    assert!(journal.connections()[0].closed.is_some());
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let _first = start(one_device(
        7,
        Make::Antminer,
        Protocol::Cgminer,
        Manner::Silent,
    ))
    .await;
    let second = Lab::start(one_device(
        7,
        Make::Antminer,
        Protocol::Cgminer,
        Manner::Silent,
    ))
    .await;
    let error = second.expect_err("the address is taken");
    assert!(
        matches!(&error, LabError::Bind { endpoint, .. } if endpoint.ip() == IpAddr::V4(base(7)))
    );
    assert!(error.to_string().contains("127.78.7.1:14028"), "{error}");
}

#[tokio::test]
async fn the_journal_file_holds_an_opening_and_a_closing_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("journal.ndjson");
    let site = start(one_device(
        8,
        Make::Antminer,
        Protocol::Cgminer,
        Manner::Proper,
    ))
    .await;
    site.journal().write_to(&path).expect("the file opens");
    ask(&mut dial(&site).await, br#"{"command":"stats"}"#).await;
    site.shutdown().await;
    let text = std::fs::read_to_string(&path).expect("the file is there");
    let events: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    assert_eq!(events.len(), 2);
    assert_eq!(events[0]["event"], "open");
    assert_eq!(events[1]["event"], "close");
    assert_eq!(events[1]["answered"][0], "stats");
    assert_eq!(events[1]["number"], events[0]["number"]);
    assert!(events[0]["closed_micros"].is_null());
    assert!(events[1]["closed_micros"].as_u64() >= events[0]["at_micros"].as_u64());
}

#[tokio::test]
async fn thousands_of_devices_start_and_answer() {
    let site = Site::slow(2_000, Duration::ZERO).starting_at(Ipv4Addr::new(127, 79, 0, 1));
    let site = start(site).await;
    let last = site.site().devices.last().expect("a device").address;
    let mut stream = TcpStream::connect(SocketAddr::new(last, 4028))
        .await
        .expect("it listens");
    assert!(
        !ask(&mut stream, br#"{"command":"version"}"#)
            .await
            .is_empty()
    );
}

#[test]
fn a_seed_means_the_same_site_and_json_keeps_it() {
    let site = Site::demo(300, 9);
    assert_eq!(site, Site::demo(300, 9));
    assert_ne!(site, Site::demo(300, 10));
    let text = site.to_json().expect("serializes");
    assert_eq!(Site::from_json(&text).expect("parses"), site);
}

#[test]
fn the_demo_has_exactly_the_asked_number_of_devices_that_can_be_identified() {
    for miners in [1, 24, 250, 1000] {
        let site = Site::demo(miners, 5);
        site.check().expect("consistent");
        let ports = site.ports();
        let identified = site
            .devices
            .iter()
            .filter(|d| matches!(d.truth(&ports), Truth::Identified(_)))
            .count();
        assert_eq!(identified, miners);
        assert!(site.devices.len() >= miners + 4);
        let slow = site
            .devices
            .iter()
            .filter(|d| d.services.iter().any(|s| s.delay_ms >= 100))
            .count();
        assert!(slow * 10 >= miners, "{slow} of {miners} are slow");
    }
}

#[test]
fn a_lab_site_lies_inside_its_network_and_spares_its_edges() {
    let network = "10.77.0.0/22".parse().expect("a network");
    let site = Site::in_network(network, 120, 1).expect("fits");
    assert_eq!(site.addresses().len(), 120);
    for address in site.addresses() {
        let IpAddr::V4(v4) = address else {
            panic!("{address} is not IPv4")
        };
        assert!(
            network.contains(v4) && v4 != network.broadcast() && v4.octets() != [10, 77, 0, 1],
            "{v4}"
        );
    }
    let error =
        Site::in_network("10.77.0.0/30".parse().expect("a network"), 2, 1).expect_err("too small");
    assert!(matches!(
        error,
        SiteError::NoRoom {
            room: 1,
            devices: 2,
            ..
        }
    ));
}

#[test]
fn a_site_with_two_services_at_one_endpoint_is_refused() {
    let mut site = one_device(9, Make::Antminer, Protocol::Cgminer, Manner::Proper);
    let twin = site.devices[0].clone();
    site.devices.push(twin);
    assert!(matches!(
        site.check(),
        Err(SiteError::Twice { port: 14_028, .. })
    ));
}
