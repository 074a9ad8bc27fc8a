//! IP addresses, their classes, and the policy that decides which may be scanned or reported. Names are not resolved
//! here. Start with [`AddressPolicy::admit`].

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::{Ipv4Network, Ipv6Network};

use crate::Port;

/// The address and port at which a device was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The canonical address.
    pub ip: IpAddr,
    /// The TCP port.
    pub port: Port,
}

impl fmt::Display for Endpoint {
    /// As in a URL: an IPv6 address is in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::net::SocketAddr::new(self.ip, self.port.number()).fmt(f)
    }
}

/// Parses an address literal: dotted decimal without leading zeros, or RFC 4291 text without a zone.
///
/// The integer, octal, hexadecimal and short forms that resolvers accept (`2130706433`, `0177.0.0.1`, `0x7f.1`,
/// `127.1`) are rejected.
pub fn parse_literal(text: &str) -> Option<IpAddr> {
    // `to_socket_addrs` would pass such a text to getaddrinfo, which accepts all of these forms.
    text.parse().ok()
}

/// Returns the address; an IPv4-mapped IPv6 address (RFC 4291, 2.5.5.2) is converted to IPv4.
pub fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// The class of an address with respect to scanning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressClass {
    /// RFC 1918.
    Private,
    /// RFC 4193, except the cloud metadata addresses in it.
    UniqueLocal,
    /// RFC 6598, shared address space of carriers.
    CarrierShared,
    /// RFC 1122 and RFC 4291 loopback.
    Loopback,
    /// RFC 3927 and RFC 4291 link-local. Clouds serve metadata here.
    LinkLocal,
    /// RFC 5771 and RFC 4291 multicast.
    Multicast,
    /// The unspecified address, and the rest of 0.0.0.0/8.
    Unspecified,
    /// 255.255.255.255.
    Broadcast,
    /// RFC 5737, RFC 3849 and RFC 9637.
    Documentation,
    /// The metadata service of a cloud, at an address of an otherwise scannable block.
    Metadata,
    /// 6to4, NAT64, Teredo and IPv4-compatible forms, which contain an IPv4 address.
    Embedding,
    /// Any other special-purpose block.
    Reserved,
    /// All other addresses: the public internet.
    Public,
}

impl AddressClass {
    /// Returns the name that counts and messages use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::UniqueLocal => "unique-local",
            Self::CarrierShared => "carrier-shared",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link-local",
            Self::Multicast => "multicast",
            Self::Unspecified => "unspecified",
            Self::Broadcast => "broadcast",
            Self::Documentation => "documentation",
            Self::Metadata => "cloud metadata",
            Self::Embedding => "IPv4-embedding",
            Self::Reserved => "reserved",
            Self::Public => "public",
        }
    }
}

/// Returns the class of an address. An IPv4-mapped address has the class of its IPv4 form.
pub fn classify(ip: IpAddr) -> AddressClass {
    match canonical(ip) {
        IpAddr::V4(ip) => classify_v4(ip),
        IpAddr::V6(ip) => classify_v6(ip),
    }
}

/// An IPv4 block. The prefix lengths below are constants of at most 32.
const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Network {
    match Ipv4Network::new_checked(Ipv4Addr::new(a, b, c, d), prefix) {
        Some(network) => network,
        None => panic!("an IPv4 prefix is at most 32"),
    }
}

/// An IPv6 block given by its first four groups. The prefix lengths below are at most 128.
const fn v6(groups: [u16; 4], prefix: u8) -> Ipv6Network {
    let [a, b, c, d] = groups;
    match Ipv6Network::new_checked(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), prefix) {
        Some(network) => network,
        None => panic!("an IPv6 prefix is at most 128"),
    }
}

/// Alibaba's metadata service, in the shared block of carriers.
const METADATA_V4: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
/// The metadata services of EC2 and of Google Cloud, in the unique local block.
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// Blocks of the IANA IPv4 Special-Purpose Address Registry and of RFC 5771, most specific first.
const BLOCKS_V4: &[(Ipv4Network, AddressClass)] = &[
    (v4(255, 255, 255, 255, 32), AddressClass::Broadcast),
    (v4(10, 0, 0, 0, 8), AddressClass::Private),
    (v4(172, 16, 0, 0, 12), AddressClass::Private),
    (v4(192, 168, 0, 0, 16), AddressClass::Private),
    (v4(0, 0, 0, 0, 8), AddressClass::Unspecified),
    (v4(100, 64, 0, 0, 10), AddressClass::CarrierShared),
    (v4(127, 0, 0, 0, 8), AddressClass::Loopback),
    (v4(169, 254, 0, 0, 16), AddressClass::LinkLocal),
    (v4(192, 0, 2, 0, 24), AddressClass::Documentation),
    (v4(198, 51, 100, 0, 24), AddressClass::Documentation),
    (v4(203, 0, 113, 0, 24), AddressClass::Documentation),
    // Formerly the relays of 6to4 (RFC 3068).
    (v4(192, 88, 99, 0, 24), AddressClass::Embedding),
    (v4(192, 0, 0, 0, 24), AddressClass::Reserved),
    (v4(192, 31, 196, 0, 24), AddressClass::Reserved),
    (v4(192, 52, 193, 0, 24), AddressClass::Reserved),
    (v4(192, 175, 48, 0, 24), AddressClass::Reserved),
    (v4(198, 18, 0, 0, 15), AddressClass::Reserved),
    (v4(224, 0, 0, 0, 4), AddressClass::Multicast),
    (v4(240, 0, 0, 0, 4), AddressClass::Reserved),
];

/// Blocks of the IANA IPv6 Special-Purpose Address Registry and of RFC 4291, most specific first.
const BLOCKS_V6: &[(Ipv6Network, AddressClass)] = &[
    (v6([0xfc00, 0, 0, 0], 7), AddressClass::UniqueLocal),
    (v6([0xfe80, 0, 0, 0], 10), AddressClass::LinkLocal),
    (v6([0xff00, 0, 0, 0], 8), AddressClass::Multicast),
    (v6([0x2002, 0, 0, 0], 16), AddressClass::Embedding),
    (v6([0x0064, 0xff9b, 0, 0], 96), AddressClass::Embedding),
    (v6([0x0064, 0xff9b, 1, 0], 48), AddressClass::Embedding),
    (v6([0x2001, 0, 0, 0], 32), AddressClass::Embedding),
    (v6([0x2001, 0xdb8, 0, 0], 32), AddressClass::Documentation),
    (v6([0x3fff, 0, 0, 0], 20), AddressClass::Documentation),
    (v6([0x2001, 0, 0, 0], 23), AddressClass::Reserved),
    (v6([0x2620, 0x4f, 0x8000, 0], 48), AddressClass::Reserved),
    (v6([0x2000, 0, 0, 0], 3), AddressClass::Public),
];

fn classify_v4(ip: Ipv4Addr) -> AddressClass {
    // It is inside 100.64.0.0/10, which a policy can permit.
    if ip == METADATA_V4 {
        return AddressClass::Metadata;
    }
    BLOCKS_V4
        .iter()
        .find(|(block, _)| block.contains(ip))
        .map_or(AddressClass::Public, |(_, class)| *class)
}

fn classify_v6(ip: Ipv6Addr) -> AddressClass {
    // They are inside fc00::/7, which every policy permits.
    if METADATA_V6.contains(&ip) {
        return AddressClass::Metadata;
    }
    if ip.is_unspecified() {
        return AddressClass::Unspecified;
    }
    if ip.is_loopback() {
        return AddressClass::Loopback;
    }
    // IPv4-compatible (RFC 4291, 2.5.5.1) and IPv4-translated (RFC 2765) addresses.
    if matches!(ip.segments(), [0, 0, 0, 0, 0 | 0xffff, 0, _, _]) {
        return AddressClass::Embedding;
    }
    // Only 2000::/3 is allocated as global unicast.
    BLOCKS_V6
        .iter()
        .find(|(block, _)| block.contains(ip))
        .map_or(AddressClass::Reserved, |(_, class)| *class)
}

/// The addresses that may be scanned or reported: RFC 1918, RFC 4193, and the classes that are enabled here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    /// Also permits RFC 6598 (100.64.0.0/10).
    pub carrier_shared: bool,
    /// Also permits loopback, for demonstrations on one machine.
    pub loopback: bool,
}

impl AddressPolicy {
    /// Permits loopback and private addresses, for demonstrations and tests on one machine.
    pub const DEMO: Self = Self {
        carrier_shared: false,
        loopback: true,
    };

    /// Whether addresses of this class may be scanned and reported.
    pub fn permits(self, class: AddressClass) -> bool {
        match class {
            AddressClass::Private | AddressClass::UniqueLocal => true,
            AddressClass::CarrierShared => self.carrier_shared,
            AddressClass::Loopback => self.loopback,
            AddressClass::LinkLocal
            | AddressClass::Multicast
            | AddressClass::Unspecified
            | AddressClass::Broadcast
            | AddressClass::Documentation
            | AddressClass::Metadata
            | AddressClass::Embedding
            | AddressClass::Reserved
            | AddressClass::Public => false,
        }
    }

    /// Returns the canonical form of an address that may be scanned and reported.
    ///
    /// # Errors
    ///
    /// [`RefusedAddress`] if the class of the address is not permitted.
    pub fn admit(self, ip: IpAddr) -> Result<IpAddr, RefusedAddress> {
        let (ip, class) = (canonical(ip), classify(ip));
        if self.permits(class) {
            Ok(ip)
        } else {
            Err(RefusedAddress { ip, class })
        }
    }
}

/// An address that may not be scanned or reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{ip} is a {} address: only private networks can be scanned (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, fc00::/7)", .class.as_str())]
pub struct RefusedAddress {
    /// The address in canonical form.
    pub ip: IpAddr,
    /// The class of the address.
    pub class: AddressClass,
}

#[cfg(test)]
mod tests {
    use AddressClass::*;

    use super::*;

    #[test]
    fn every_class_has_its_edges() {
        for (text, expected) in [
            ("9.255.255.255", Public),
            ("10.0.0.0", Private),
            ("10.255.255.255", Private),
            ("11.0.0.0", Public),
            ("172.15.255.255", Public),
            ("172.16.0.0", Private),
            ("172.31.255.255", Private),
            ("172.32.0.0", Public),
            ("192.168.0.0", Private),
            ("192.169.0.0", Public),
            ("100.63.255.255", Public),
            ("100.64.0.0", CarrierShared),
            ("100.100.100.200", Metadata),
            ("100.128.0.0", Public),
            ("127.0.0.1", Loopback),
            ("169.254.169.254", LinkLocal),
            ("0.0.0.0", Unspecified),
            ("0.1.2.3", Unspecified),
            ("224.0.0.1", Multicast),
            ("240.0.0.1", Reserved),
            ("255.255.255.255", Broadcast),
            ("192.0.2.9", Documentation),
            ("198.18.0.1", Reserved),
            ("192.88.99.1", Embedding),
            ("::ffff:10.0.0.1", Private),
            ("::ffff:8.8.8.8", Public),
            ("::ffff:169.254.169.254", LinkLocal),
            ("::10.0.0.1", Embedding),
            ("::ffff:0:10.0.0.1", Embedding),
            ("::", Unspecified),
            ("::1", Loopback),
            ("fc00::1", UniqueLocal),
            ("fdff::1", UniqueLocal),
            ("fd00:ec2::254", Metadata),
            ("fd20:ce::254", Metadata),
            ("fe00::1", Reserved),
            ("fe80::1", LinkLocal),
            ("fec0::1", Reserved),
            ("ff02::1", Multicast),
            ("2002:a00:1::", Embedding),
            ("64:ff9b::a00:1", Embedding),
            ("64:ff9b:1::a00:1", Embedding),
            ("2001:0:1::", Embedding),
            ("2001:db8::1", Documentation),
            ("3fff::1", Documentation),
            ("2001:20::1", Reserved),
            ("2606:4700::1111", Public),
            ("4000::1", Reserved),
        ] {
            let ip = parse_literal(text).expect(text);
            assert_eq!(classify(ip), expected, "{text}");
        }
    }

    #[test]
    fn look_alikes_of_literals_are_not_literals() {
        for text in [
            "",
            "127.1",
            "0x7f.1",
            "0x7f000001",
            "2130706433",
            "010.0.0.1",
            "10.0.0.01",
            "10.0.0",
            "10.0.0.1.",
            " 10.0.0.1",
            "fe80::1%eth0",
            "[::1]",
            "10.0.0.1/32",
            "1::2::3",
        ] {
            assert_eq!(parse_literal(text), None, "{text}");
        }
    }

    #[test]
    fn policy_admits_only_named_classes() {
        let ip = |text| parse_literal(text).expect("a literal");
        let default = AddressPolicy::default();
        assert_eq!(default.admit(ip("::ffff:10.0.0.1")), Ok(ip("10.0.0.1")));
        for text in [
            "127.0.0.1",
            "::1",
            "100.64.0.1",
            "8.8.8.8",
            "169.254.169.254",
            "fd00:ec2::254",
        ] {
            let refused = default.admit(ip(text)).expect_err(text);
            assert!(refused.to_string().contains(text), "{refused}");
        }
        assert!(AddressPolicy::DEMO.admit(ip("127.0.0.1")).is_ok());
        let shared = AddressPolicy {
            carrier_shared: true,
            ..default
        };
        assert!(shared.admit(ip("100.64.0.1")).is_ok());
        assert!(shared.admit(ip("100.100.100.200")).is_err());
    }
}
