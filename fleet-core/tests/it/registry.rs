//! The special-purpose address registries of IANA, read from their own files, and the list of differences between what
//! they say and how this product classifies. The proof over every IPv4 address takes this file in as well. Start with
//! [`Registry`] and [`DIFFERENCES`].

use std::net::{IpAddr, Ipv6Addr};

use fleet_core::{AddressClass, AddressClass::*, canonical, classify};
use ipnetwork::IpNetwork;

const IPV4: &str = include_str!("../data/iana-ipv4-special-registry.csv");
const IPV6: &str = include_str!("../data/iana-ipv6-special-registry.csv");

/// A block where this product says something else than the registries, and why.
#[derive(Debug)]
pub(crate) struct Difference {
    pub(crate) block: &'static str,
    /// By the registries.
    pub(crate) theirs: AddressClass,
    pub(crate) ours: AddressClass,
    pub(crate) why: &'static str,
}

const fn differ(
    block: &'static str,
    theirs: AddressClass,
    ours: AddressClass,
    why: &'static str,
) -> Difference {
    Difference {
        block,
        theirs,
        ours,
        why,
    }
}

const ANYCAST: &str =
    "globally reachable, but set aside for one service of the internet: no device lives there";
const EMBEDDED: &str = "an IPv4 address travels inside: refused for every embedded address";
const OTHER_REGISTRY: &str = "multicast has registries of its own";
const METADATA: &str = "a cloud's metadata service at an address that could be scanned otherwise";
const UNALLOCATED: &str =
    "only 2000::/3 is allocated as global unicast (RFC 4291, 2.4); the registries say nothing";

/// Every difference. That none is missing and none is idle is what the tests show.
pub(crate) const DIFFERENCES: &[Difference] = &[
    differ("100.100.100.200/32", CarrierShared, Metadata, METADATA),
    differ("192.0.0.9/32", Public, Reserved, ANYCAST),
    differ("192.0.0.10/32", Public, Reserved, ANYCAST),
    differ("192.31.196.0/24", Public, Reserved, ANYCAST),
    differ("192.52.193.0/24", Public, Reserved, ANYCAST),
    differ(
        "192.88.99.0/24",
        Reserved,
        Embedding,
        "relays of 6to4: what they carry is for another address",
    ),
    differ("192.175.48.0/24", Public, Reserved, ANYCAST),
    differ("224.0.0.0/4", Public, Multicast, OTHER_REGISTRY),
    differ("fd00:ec2::254/128", UniqueLocal, Metadata, METADATA),
    differ("fd20:ce::254/128", UniqueLocal, Metadata, METADATA),
    differ("::/96", Public, Embedding, EMBEDDED),
    differ("::ffff:0:0:0/96", Public, Embedding, EMBEDDED),
    differ("64:ff9b::/96", Public, Embedding, EMBEDDED),
    differ("64:ff9b:1::/48", Reserved, Embedding, EMBEDDED),
    differ("2001::/32", Reserved, Embedding, EMBEDDED),
    differ("2002::/16", Reserved, Embedding, EMBEDDED),
    differ("2001:1::1/128", Public, Reserved, ANYCAST),
    differ("2001:1::2/128", Public, Reserved, ANYCAST),
    differ("2001:1::3/128", Public, Reserved, ANYCAST),
    differ("2001:3::/32", Public, Reserved, ANYCAST),
    differ("2001:4:112::/48", Public, Reserved, ANYCAST),
    differ(
        "2001:20::/28",
        Public,
        Reserved,
        "cryptographic identifiers, not places",
    ),
    differ(
        "2001:30::/28",
        Public,
        Reserved,
        "identifiers of aircraft, not places",
    ),
    differ("2620:4f:8000::/48", Public, Reserved, ANYCAST),
    differ("ff00::/8", Public, Multicast, OTHER_REGISTRY),
    differ("::/3", Public, Reserved, UNALLOCATED),
    differ("4000::/2", Public, Reserved, UNALLOCATED),
    differ("8000::/1", Public, Reserved, UNALLOCATED),
];

/// The blocks of both registries.
#[derive(Debug)]
pub(crate) struct Registry {
    blocks: Vec<Block>,
}

/// A block and the class that its row in the registry means.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) network: IpNetwork,
    /// None for IPv4-mapped addresses, which are what is inside.
    class: Option<AddressClass>,
}

impl Registry {
    /// Reads both files.
    pub(crate) fn read() -> Self {
        let rows = [IPV4, IPV6]
            .into_iter()
            .flat_map(|text| records(text).into_iter().skip(1));
        let blocks = rows.flat_map(|fields| {
            let [addresses, name, .., reachable, _] = fields.as_slice() else {
                panic!("not a row of the registry: {fields:?}");
            };
            let class = meaning(name, reachable);
            networks(addresses)
                .into_iter()
                .map(move |network| Block { network, class })
                .collect::<Vec<_>>()
        });
        Self {
            blocks: blocks.collect(),
        }
    }

    pub(crate) fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// What the registries say of an address, by the most specific block; what they do not list is the internet's.
    pub(crate) fn class(&self, ip: IpAddr) -> AddressClass {
        let ip = canonical(ip);
        let block = self
            .blocks
            .iter()
            .filter(|block| block.network.contains(ip))
            .max_by_key(|block| block.network.prefix());
        block.map_or(Public, |block| {
            block.class.expect("mapped addresses are unmapped above")
        })
    }

    /// First, last, one before and one after of every block of the registries and of the differences.
    pub(crate) fn edges(&self) -> Vec<IpAddr> {
        let listed = self.blocks.iter().map(|block| block.network);
        let differing = DIFFERENCES.iter().map(Difference::network);
        let mut edges: Vec<IpAddr> = listed.chain(differing).flat_map(edges_of).collect();
        edges.sort_unstable();
        edges.dedup();
        edges
    }
}

impl Difference {
    pub(crate) fn network(&self) -> IpNetwork {
        self.block.parse().expect("a block")
    }

    /// Whether it is about this address when the registries say `theirs` and this product says `ours`.
    pub(crate) fn explains(&self, ip: IpAddr, theirs: AddressClass, ours: AddressClass) -> bool {
        (self.theirs, self.ours) == (theirs, ours) && self.network().contains(canonical(ip))
    }
}

/// The listed difference that explains an address; none if both registries agree.
///
/// # Errors
///
/// The disagreement, if no listed difference explains it.
pub(crate) fn explain(
    registry: &Registry,
    ip: IpAddr,
) -> Result<Option<&'static Difference>, String> {
    let (theirs, ours) = (registry.class(ip), classify(ip));
    if theirs == ours {
        return Ok(None);
    }
    DIFFERENCES
        .iter()
        .find(|difference| difference.explains(ip, theirs, ours))
        .map(Some)
        .ok_or_else(|| format!("{ip}: the registries say {theirs:?}, we say {ours:?}, unexplained"))
}

/// The class that a row means: what it is for, where we have a class for that; else whether it is the internet's.
fn meaning(name: &str, reachable: &str) -> Option<AddressClass> {
    let name = name.trim_matches('"');
    Some(match name {
        "IPv4-mapped Address" => return None,
        "Private-Use" => Private,
        "Unique-Local" => UniqueLocal,
        "Shared Address Space" => CarrierShared,
        "Loopback" | "Loopback Address" => Loopback,
        "Link Local" | "Link-Local Unicast" => LinkLocal,
        "This network" | "This host on this network" | "Unspecified Address" => Unspecified,
        "Limited Broadcast" => Broadcast,
        name if name.starts_with("Documentation") => Documentation,
        _ if reachable == "True" => Public,
        _ => Reserved,
    })
}

/// The blocks of a row's first field, without their footnotes.
fn networks(field: &str) -> Vec<IpNetwork> {
    let blocks = field.split(',').map(|block| {
        let block = block.split('[').next().unwrap_or_default().trim();
        block.parse().expect("a block")
    });
    blocks.collect()
}

/// The records of a CSV file (RFC 4180): fields may be quoted, and hold commas, line breaks and doubled quotes then.
fn records(text: &str) -> Vec<Vec<String>> {
    let mut records = vec![vec![String::new()]];
    let mut quoted = false;
    let mut characters = text.trim_end().chars().filter(|c| *c != '\r').peekable();
    while let Some(character) = characters.next() {
        let record = records.last_mut().expect("there is always one");
        let field = record.last_mut().expect("there is always one");
        match (character, quoted) {
            ('"', true) if characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            ('"', _) => quoted = !quoted,
            (',', false) => record.push(String::new()),
            ('\n', false) => records.push(vec![String::new()]),
            _ => field.push(character),
        }
    }
    records
}

fn edges_of(network: IpNetwork) -> Vec<IpAddr> {
    let (first, last) = (network.network(), network.broadcast());
    let mut edges = vec![first, last];
    edges.extend(beside(first, -1));
    edges.extend(beside(last, 1));
    edges
}

/// The address before or after; none past the ends of its family.
fn beside(ip: IpAddr, step: i8) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => ip
            .to_bits()
            .checked_add_signed(step.into())
            .map(|bits| std::net::Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(ip) => ip
            .to_bits()
            .checked_add_signed(step.into())
            .map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}
