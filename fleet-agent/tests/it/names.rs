//! Commands with host names: each is resolved once, pinned, and sent to the server before any report.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use fleet_agent::AgentOptions;
use fleet_core::outcome::AckCode;
use fleet_discovery::HostName;
use fleet_scan::{BoxFuture, DnsResolver, LookupError, Resolver};
use fleet_sim::{NameRecord, NameServer, RunningSite, Site};
use fleet_wire::{
    RpcError,
    gateway::{ControlAck, ControlPins},
};

use crate::{Running, gateway::Gateway, options, start};

fn address(ip: impl Into<IpAddr>) -> NameRecord {
    NameRecord::Address(ip.into())
}

/// Options of a node that uses the name server and may scan only the site's network.
fn at(site: &RunningSite, server: &NameServer, rate: u32) -> AgentOptions {
    let mut options = options(rate);
    options.resolver = Arc::new(DnsResolver::asking(vec![server.address()]));
    let network = match site.site().addresses()[0] {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & 0xffff_ff00),
        IpAddr::V6(ip) => panic!("not on loopback: {ip}"),
    };
    let network = format!("{network}/24").parse().expect("a network");
    options.site.allowed_networks = vec![network];
    options
}

fn lines(pins: &ControlPins) -> Vec<String> {
    let lines = pins.names.iter().map(|pin| {
        let addresses = pin.addresses.join(" ");
        format!("{}: {addresses}{}", pin.name, pin.skipped_reason)
    });
    lines.collect()
}

fn code(ack: &ControlAck) -> AckCode {
    AckCode::from_number(ack.code)
}

#[tokio::test]
async fn names_with_forbidden_addresses_are_skipped_and_never_dialed() {
    let site = start(Site::demo(30, 11), 21).await;
    let all = site.site().addresses();
    let (device, elsewhere) = (all[0], all[9]);
    let server = NameServer::start().await.expect("a name server");
    let public = address(Ipv4Addr::new(8, 8, 8, 8));
    server.set("good.lan", [address(device), address(all[1])]);
    server.set("public.lan", [public.clone()]);
    server.set("mixed.lan", [address(all[2]), public]);
    server.set("metadata.lan", [address(Ipv4Addr::new(169, 254, 169, 254))]);
    server.set("local.lan", [NameRecord::Alias("localhost".to_owned())]);
    server.set("nine.lan", all.iter().take(9).copied().map(address));
    // DNS rebinding: a second lookup would return another address.
    server.set("rebound.lan", [address(all[3])]);
    let names = [
        "good.lan",
        "public.lan",
        "mixed.lan",
        "metadata.lan",
        "local.lan",
        "nine.lan",
        "rebound.lan",
        "unknown.lan",
    ];

    let gateway = Gateway::start().await;
    let _node = Running::with(&gateway, at(&site, &server, 40));
    let (mut stream, hello) = gateway.accepted().await;
    assert!(hello.capabilities.iter().any(|name| name == "pins"));
    stream.discover_entries("c1", &names, &site.site().ports());
    let pins = stream.pins().await;
    assert!(gateway.seen().reports.is_empty(), "pins come first");
    server.set("rebound.lan", [address(elsewhere)]);
    assert_eq!(pins.command_id, "c1");
    let local = "it resolves to 127.0.0.1, outside the networks that this site allows";
    assert_eq!(
        lines(&pins),
        [
            format!("good.lan: {device} {}", all[1]),
            "public.lan: it resolves to 8.8.8.8, a public address".to_owned(),
            "mixed.lan: it resolves to 8.8.8.8, a public address".to_owned(),
            "metadata.lan: it resolves to 169.254.169.254, a link-local address".to_owned(),
            format!("local.lan: {local}"),
            "nine.lan: it resolves to more than 8 addresses".to_owned(),
            format!("rebound.lan: {}", all[3]),
            "unknown.lan: it resolves to no address".to_owned(),
        ]
    );

    let ack = stream.ack().await;
    // The server knows the skipped names from the pins, so the ack has no gap.
    assert_eq!((code(&ack), &*ack.error_message), (AckCode::Ok, ""));
    assert_eq!(
        ack.outcomes.len(),
        3,
        "one byte an address, in the pins' order"
    );
    let pinned = BTreeSet::from([device, all[1], all[3]]);
    assert!(site.journal().touched_addresses().is_subset(&pinned));
    assert!(gateway.seen().addresses().is_subset(&pinned));
    for name in names {
        assert_eq!(server.asked(name), 1, "{name} is looked up once");
    }
}

#[tokio::test]
async fn numeric_names_and_localhost_are_rejected_without_a_lookup() {
    let site = start(Site::demo(2, 12), 22).await;
    let server = NameServer::start().await.expect("a name server");
    let gateway = Gateway::start().await;
    let _node = Running::with(&gateway, at(&site, &server, 5_000));
    let (mut stream, _) = gateway.accepted().await;
    for (id, name) in [
        "localhost",
        "rig.localhost",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
    ]
    .into_iter()
    .enumerate()
    {
        stream.discover_entries(&format!("c{id}"), &["good.lan", name], &[80]);
        let ack = stream.ack().await;
        assert_eq!(code(&ack), AckCode::BadRequest, "{name}");
        assert!(ack.error_message.contains(name), "{}", ack.error_message);
    }
    assert_eq!(server.asked("good.lan"), 0);
    assert_eq!(site.journal().count(), 0);
}

#[tokio::test]
async fn pins_are_repeated_on_a_new_stream() {
    let site = start(Site::demo(40, 13), 23).await;
    let all = site.site().addresses();
    let server = NameServer::start().await.expect("a name server");
    server.set("good.lan", all.iter().take(8).copied().map(address));
    let gateway = Gateway::start().await;
    // Slow enough for the scan to outlast the stream.
    let _node = Running::with(&gateway, at(&site, &server, 4));
    let (mut stream, _) = gateway.accepted().await;
    stream.discover_entries("c1", &["good.lan"], &site.site().ports());
    let first = stream.pins().await;
    stream.fail();
    let (mut stream, hello) = gateway.accepted().await;
    assert_eq!(hello.running, ["c1"]);
    assert_eq!(stream.pins().await, first);
    stream.cancel("c1");
    assert_eq!(stream.ack().await.command_id, "c1");
    assert_eq!(server.asked("good.lan"), 1);
}

#[tokio::test]
async fn pins_are_repeated_before_a_report_that_the_server_could_not_accept() {
    let site = start(Site::demo(4, 16), 26).await;
    let server = NameServer::start().await.expect("a name server");
    server.set("good.lan", [address(site.site().addresses()[0])]);
    let gateway = Gateway::start().await;
    let lost = RpcError::unavailable("the pins were not stored");
    gateway.behavior().reports.push(lost);
    let _node = Running::with(&gateway, at(&site, &server, 5_000));
    let (mut stream, _) = gateway.accepted().await;
    stream.discover_entries("c1", &["good.lan"], &site.site().ports());
    let first = stream.pins().await;
    assert_eq!(stream.pins().await, first);
    assert_eq!(code(&stream.ack().await), AckCode::Ok);
    assert_eq!(gateway.seen().reports.len(), 1);
}

#[tokio::test]
async fn the_ack_to_an_upstream_server_lists_skipped_names() {
    let site = start(Site::demo(4, 14), 24).await;
    let all = site.site().addresses();
    let server = NameServer::start().await.expect("a name server");
    server.set("good.lan", [address(all[0])]);
    let gateway = Gateway::start().await;
    let _node = Running::with(&gateway, at(&site, &server, 5_000));
    let mut stream = gateway.stream().await;
    stream.hello().await;
    stream.accept(&[]);
    let entries = [
        "good.lan".to_owned(),
        "bad.lan".to_owned(),
        all[1].to_string(),
    ];
    stream.discover_entries("c1", &entries, &site.site().ports());
    let ack = stream.ack().await;
    assert_eq!(code(&ack), AckCode::Partial);
    let expected = "`bad.lan` was skipped: it resolves to no address";
    assert!(
        ack.error_message.contains(expected),
        "{}",
        ack.error_message
    );
    let dialed = BTreeSet::from([all[0], all[1]]);
    assert_eq!(site.journal().touched_addresses(), dialed);
}

/// A name server that never answers.
#[derive(Debug)]
struct Silent;

impl Resolver for Silent {
    fn lookup<'a>(&'a self, _: &'a HostName) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>> {
        Box::pin(std::future::pending())
    }
}

/// A resolver whose name server cannot be reached.
#[derive(Debug)]
struct Unreachable;

impl Resolver for Unreachable {
    fn lookup<'a>(&'a self, _: &'a HostName) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>> {
        Box::pin(async { Err(LookupError::Failed("connection refused".to_owned())) })
    }
}

#[tokio::test]
async fn a_failed_lookup_makes_the_command_partial() {
    let site = start(Site::demo(2, 15), 25).await;
    let device = site.site().addresses()[0];
    let gateway = Gateway::start().await;
    let options = AgentOptions {
        resolver: Arc::new(Unreachable),
        ..options(5_000)
    };
    let _node = Running::with(&gateway, options);
    let (mut stream, _) = gateway.accepted().await;
    let entries = [device.to_string(), "miner.lan".to_owned()];
    stream.discover_entries("c1", &entries, &site.site().ports());
    stream.pins().await;
    let ack = stream.ack().await;
    assert_eq!(code(&ack), AckCode::Partial);
    let expected = "`miner.lan` could not be looked up";
    assert!(
        ack.error_message.contains(expected),
        "{}",
        ack.error_message
    );
    assert_eq!(site.journal().touched_addresses(), BTreeSet::from([device]));
}

#[tokio::test]
async fn a_command_can_be_canceled_during_name_lookups() {
    let gateway = Gateway::start().await;
    let options = AgentOptions {
        resolver: Arc::new(Silent),
        ..options(5_000)
    };
    let _node = Running::with(&gateway, options);
    let (mut stream, _) = gateway.accepted().await;
    // Many more than are resolved concurrently. Without the cancel, this takes minutes.
    let names: Vec<String> = (0..2_000).map(|n| format!("rig-{n}.lan")).collect();
    stream.discover_entries("c1", &names, &[80]);
    stream.discover_entries("c2", &["other.lan"], &[80]);
    assert_eq!(
        code(&stream.ack().await),
        AckCode::Busy,
        "the permit is taken"
    );
    stream.cancel("c1");
    let ack = stream.ack().await;
    assert_eq!(
        (code(&ack), &*ack.error_message),
        (AckCode::Partial, "canceled")
    );
}
