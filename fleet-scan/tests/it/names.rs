//! Host names, with a name server under the test's control: which names are pinned, and why others are left out.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use fleet_core::AddressPolicy;
use fleet_discovery::HostName;
use fleet_scan::{BoxFuture, DnsResolver, LookupError, PinnedName, Resolver, pin_names};
use fleet_sim::{NameRecord, NameServer};
use tokio::sync::Semaphore;

fn address(text: &str) -> NameRecord {
    NameRecord::Address(text.parse().expect("an address"))
}

fn alias(text: &str) -> NameRecord {
    NameRecord::Alias(text.to_owned())
}

fn name(text: &str) -> HostName {
    text.parse().expect("a name")
}

fn result(pin: &PinnedName) -> String {
    match &pin.addresses {
        Ok(addresses) => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            addresses.join(" ")
        }
        Err(why) => why.clone(),
    }
}

#[tokio::test]
async fn a_name_is_pinned_to_its_private_addresses_or_left_out_with_the_reason() {
    let server = NameServer::start().await.expect("a name server");
    let nine = (1..=9).map(|n| address(&format!("10.0.0.{n}")));
    let cases: Vec<(&str, Vec<NameRecord>, &str)> = vec![
        ("one.lan", vec![address("10.0.0.7")], "10.0.0.7"),
        (
            "both.lan",
            vec![
                address("fd00::7"),
                address("192.168.1.7"),
                address("10.0.0.8"),
            ],
            "192.168.1.7 10.0.0.8 fd00::7",
        ),
        (
            "mapped.lan",
            vec![address("10.0.0.7"), address("::ffff:10.0.0.7")],
            "10.0.0.7",
        ),
        (
            "alias.lan",
            vec![alias("rig.farm.lan"), address("10.0.0.9")],
            "10.0.0.9",
        ),
        (
            "public.lan",
            vec![address("8.8.8.8")],
            "it resolves to 8.8.8.8, a public address",
        ),
        (
            "mixed.lan",
            vec![address("10.0.0.7"), address("8.8.8.8")],
            "it resolves to 8.8.8.8, a public address",
        ),
        (
            "mixed-families.lan",
            vec![address("10.0.0.7"), address("2606:4700::1111")],
            "it resolves to 2606:4700::1111, a public address",
        ),
        (
            "metadata.lan",
            vec![address("169.254.169.254")],
            "it resolves to 169.254.169.254, a link-local address",
        ),
        (
            "metadata-6.lan",
            vec![address("fd00:ec2::254")],
            "it resolves to fd00:ec2::254, a cloud metadata address",
        ),
        (
            "coat.lan",
            vec![address("64:ff9b::a00:1")],
            "it resolves to 64:ff9b::a00:1, a IPv4-embedding address",
        ),
        (
            "local.lan",
            vec![alias("localhost"), address("127.0.0.1")],
            "it resolves to 127.0.0.1, a loopback address",
        ),
        (
            "bare-local.lan",
            vec![alias("localhost")],
            "it resolves to 127.0.0.1, a loopback address",
        ),
        (
            "nine.lan",
            nine.collect(),
            "it resolves to more than 8 addresses",
        ),
        ("empty.lan", vec![], "it resolves to no address"),
    ];
    for (name, records, _) in &cases {
        server.set(name, records.clone());
    }
    let resolver = DnsResolver::asking(vec![server.address()]);
    let asked = cases.iter().map(|(text, ..)| name(text));
    let asked = asked.chain([name("unknown.lan")]).collect();
    let pins = pin_names(&resolver, asked, AddressPolicy::default()).await;
    let expected = cases.iter().map(|(name, _, expected)| (*name, *expected));
    let expected = expected.chain([("unknown.lan", "it resolves to no address")]);
    for (pin, (name, expected)) in pins.iter().zip(expected) {
        assert_eq!((pin.name.as_str(), result(pin).as_str()), (name, expected));
    }
    assert_eq!(pins.len(), cases.len() + 1);
    for (name, ..) in &cases {
        assert_eq!(server.asked(name), 1, "{name} is looked up once");
    }
}

/// A resolver that never answers, and counts simultaneous lookups.
#[derive(Debug, Default)]
struct Silent {
    waiting: AtomicUsize,
    most: AtomicUsize,
}

impl Resolver for Silent {
    fn lookup<'a>(&'a self, _: &'a HostName) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        Box::pin(async move {
            let now = self.waiting.fetch_add(1, Ordering::Relaxed) + 1;
            let _waiting = Waiting(&self.waiting);
            self.most.fetch_max(now, Ordering::Relaxed);
            std::future::pending().await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_name_server_costs_five_seconds_for_64_names() {
    let silent = Silent::default();
    let began = tokio::time::Instant::now();
    let names = (0..64).map(|n| name(&format!("rig-{n}.lan"))).collect();
    let pins = pin_names(&silent, names, AddressPolicy::default()).await;
    assert_eq!(began.elapsed().as_secs(), 5);
    assert!(
        pins.iter()
            .all(|pin| result(pin).contains("within 5 seconds"))
    );

    let names = (0..2_048).map(|n| name(&format!("rig-{n}.lan"))).collect();
    pin_names(&silent, names, AddressPolicy::default()).await;
    assert_eq!(silent.most.load(Ordering::Relaxed), 64, "at a time");
    assert_eq!(silent.waiting.load(Ordering::Relaxed), 0, "none is left");
    assert!(began.elapsed().as_secs() < 180);
}

/// Answers the first name last.
#[derive(Debug)]
struct LastFirst(Arc<Semaphore>);

impl Resolver for LastFirst {
    fn lookup<'a>(&'a self, name: &'a HostName) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>> {
        Box::pin(async move {
            if name.as_str() == "first.lan" {
                let _permit = self.0.acquire().await;
                return Err(LookupError::Failed("refused".to_owned()));
            }
            self.0.add_permits(1);
            Ok(vec![[10, 0, 0, 2].into()])
        })
    }
}

#[tokio::test]
async fn names_keep_their_order_for_every_order_of_answers() {
    let resolver = LastFirst(Arc::new(Semaphore::new(0)));
    let names = vec![name("first.lan"), name("second.lan")];
    let pins = pin_names(&resolver, names, AddressPolicy::default()).await;
    let result: Vec<String> = pins.iter().map(result).collect();
    assert_eq!(result, ["it could not be looked up: refused", "10.0.0.2"]);
}
