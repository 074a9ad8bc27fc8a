//! Classes of addresses: every edge of the registries, every form in which an address has been smuggled past a check.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use fleet_core::{AddressClass::*, AddressPolicy, classify, parse_literal};

use crate::registry::{DIFFERENCES, Registry, explain};

/// Addresses that no edge brings: metadata services, and IPv4 addresses in every coat.
const SAMPLES: &[&str] = &[
    "8.8.8.8",
    "10.1.2.3",
    "100.99.98.97",
    "100.100.100.200",
    "127.0.0.53",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "172.20.1.1",
    "192.0.0.192",
    "192.168.77.1",
    "198.19.0.1",
    "224.0.0.251",
    "239.255.255.250",
    "::7f00:1",
    "::a00:1",
    "::ffff:8.8.8.8",
    "::ffff:10.1.2.3",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:100.100.100.200",
    "::ffff:0:10.1.2.3",
    "64:ff9b::a00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1",
    "64:ff9b:1:ffff::a00:1",
    "100::1",
    "2001:0:a00:1::",
    "2001:4860:4860::8888",
    "2002:a00:1::1",
    "2002:a9fe:a9fe::1",
    "3ffe::1",
    "fc00::1",
    "fd00:ec2::253",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fdab:cdef::1",
    "fe80::1",
    "fe80::a9fe:a9fe",
    "fec0::1",
    "ff02::fb",
];

/// Where the compared addresses and their classes are kept, for the comparison in another language.
const TABLE: &str = "tests/data/address-classes.csv";

fn ip(text: &str) -> IpAddr {
    parse_literal(text).unwrap_or_else(|| panic!("{text} is a literal"))
}

fn compared() -> BTreeSet<IpAddr> {
    let samples = SAMPLES.iter().map(|text| ip(text));
    Registry::read()
        .edges()
        .into_iter()
        .chain(samples)
        .collect()
}

#[test]
fn every_edge_of_the_registries_has_the_registries_class_or_a_reason() {
    let registry = Registry::read();
    assert_eq!(
        registry.blocks().len(),
        26 + 25,
        "blocks of both registries"
    );
    let mut used = BTreeSet::new();
    let mut unexplained = Vec::new();
    for ip in compared() {
        match explain(&registry, ip) {
            Ok(difference) => used.extend(difference.map(|difference| difference.block)),
            Err(sentence) => unexplained.push(sentence),
        }
    }
    assert!(unexplained.is_empty(), "{unexplained:#?}");
    let idle: Vec<_> = DIFFERENCES
        .iter()
        .filter(|difference| !used.contains(difference.block))
        .map(|difference| (difference.block, difference.why))
        .collect();
    assert!(idle.is_empty(), "no difference: {idle:#?}");
}

#[test]
fn addresses_outside_the_private_registries_are_never_admitted() {
    let registry = Registry::read();
    for ip in compared() {
        let admitted = AddressPolicy::default().admit(ip).is_ok();
        let private = matches!(registry.class(ip), Private | UniqueLocal);
        assert!(private || !admitted, "{ip}");
        assert_eq!(admitted, private && classify(ip) != Metadata, "{ip}");
    }
}

#[test]
fn metadata_services_are_never_admitted_under_any_policy() {
    let everything = AddressPolicy {
        carrier_shared: true,
        loopback: true,
    };
    for text in [
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd20:ce::254",
        "::ffff:169.254.169.254",
        "::ffff:100.100.100.200",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::6464:64c8",
        "2002:a9fe:a9fe::1",
        "2001:0:a9fe:a9fe::1",
        "::a9fe:a9fe",
    ] {
        assert!(everything.admit(ip(text)).is_err(), "{text}");
    }
}

#[test]
fn an_address_in_a_coat_is_unmapped_or_refused() {
    let policy = AddressPolicy::default();
    let inside = Ipv4Addr::new(10, 1, 2, 3);
    let mapped = IpAddr::V6(inside.to_ipv6_mapped());
    assert_eq!(policy.admit(mapped), Ok(inside.into()));
    for coat in [
        "::10.1.2.3",
        "::ffff:0:10.1.2.3",
        "64:ff9b::10.1.2.3",
        "64:ff9b:1::10.1.2.3",
        "2002:a01:203::1",
        "2001:0:a01:203::1",
    ] {
        let refused = policy.admit(ip(coat)).expect_err(coat);
        assert_eq!(refused.class, Embedding, "{coat}");
    }
}

#[test]
fn forms_that_resolvers_take_and_we_do_not_are_no_literals() {
    for text in [
        // Octal, hexadecimal, integer and short forms; every one is an address to `inet_aton`.
        "0177.0.0.1",
        "010.0.0.1",
        "10.0.0.08",
        "0xa.0.0.1",
        "0x0a000001",
        "0X0A000001",
        "167772161",
        "012000000001",
        "10.1",
        "10.0.1",
        "10.0.0.1.0",
        // Zones, brackets, ports, prefixes, white space, other digits.
        "fe80::1%eth0",
        "fe80::1%25eth0",
        "fd00::1%1",
        "[fd00::1]",
        "10.0.0.1:80",
        "10.0.0.1/32",
        "10.0.0.1\n",
        "10.0.0.1\0",
        "\u{661}\u{660}.0.0.1",
        "１０.0.0.1",
        "10。0。0。1",
        "::ffff:010.0.0.1",
        "::ffff:0x7f000001",
        "+10.0.0.1",
        "-10.0.0.1",
        "256.0.0.1",
        "::ffff:10.0.0.256",
        ":::",
        "1:2:3:4:5:6:7:8:9",
    ] {
        assert_eq!(parse_literal(text), None, "{text:?}");
    }
}

#[test]
fn the_table_for_the_second_opinion_is_fresh() {
    let mut table = String::from("address,class\n");
    for ip in compared() {
        writeln!(table, "{ip},{}", classify(ip).as_str()).expect("a String grows");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(TABLE);
    #[expect(
        clippy::disallowed_methods,
        reason = "a test that writes its own expectation must be asked to"
    )]
    let blessed = std::env::var_os("FLEET_BLESS").is_some();
    if blessed {
        std::fs::write(&path, &table).expect("the table can be written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == table,
        "{TABLE} is not what the classifier says: run this test with FLEET_BLESS=1, and look at what changed"
    );
}
