//! The grammar of a single target. The plan checks whether its addresses may be scanned. Start with
//! [`Target`]; [`crate::TargetSet`] reads several.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use fleet_core::{canonical, limits, parse_literal};
use ipnetwork::Ipv4Network;

use crate::{AddressList, HostName, shown::shown};

/// The keyword for the node's own private subnet.
pub const LOCAL_SUBNET: &str = "fleetnode-local-subnet";

/// Maximum length of a target in characters: that of a host name.
const MOST: usize = 253;

/// One target in canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One address.
    Address(IpAddr),
    /// A subnet of at most 65,536 addresses, host bits masked.
    Network(Ipv4Network),
    /// `A.B.C.D-N`: the addresses from `first` to the one that ends in `last_octet`.
    LastOctetRange {
        /// The first address.
        first: Ipv4Addr,
        /// The last octet of the last address, not less than the first's.
        last_octet: u8,
    },
    /// A host name.
    Name(HostName),
    /// The keyword [`LOCAL_SUBNET`].
    LocalSubnet,
}

impl Target {
    /// Returns its addresses, including network and broadcast address; none for a name and the keyword.
    pub fn addresses(&self) -> Option<AddressList> {
        match self {
            Self::Address(ip) => AddressList::span(*ip, *ip),
            Self::Network(network) => {
                AddressList::span(network.network().into(), network.broadcast().into())
            }
            Self::LastOctetRange { first, last_octet } => {
                let [a, b, c, _] = first.octets();
                let last = Ipv4Addr::new(a, b, c, *last_octet);
                AddressList::span((*first).into(), last.into())
            }
            Self::Name(_) | Self::LocalSubnet => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip) => ip.fmt(f),
            Self::Network(network) => write!(f, "{}/{}", network.network(), network.prefix()),
            Self::LastOctetRange { first, last_octet } => write!(f, "{first}-{last_octet}"),
            Self::Name(name) => name.fmt(f),
            Self::LocalSubnet => f.write_str(LOCAL_SUBNET),
        }
    }
}

/// A text that is not a target, with the reason and the accepted form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{input}` is not a target: {kind}")]
pub struct TargetError {
    input: String,
    kind: TargetErrorKind,
}

impl TargetError {
    pub(crate) fn new(input: &str, kind: TargetErrorKind) -> Self {
        Self {
            input: shown(input),
            kind,
        }
    }

    /// The invalid text, escaped and bounded.
    pub fn input(&self) -> &str {
        &self.input
    }

    /// The kind of error.
    pub fn kind(&self) -> TargetErrorKind {
        self.kind
    }
}

/// The kind of error in a target. The message states the accepted form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetErrorKind {
    /// The text is empty.
    #[error(
        "it is empty: write an address, a CIDR such as 10.0.0.0/24, a range such as 10.0.0.5-20, or a host name"
    )]
    Empty,
    /// More excludes than a scan takes.
    #[error(
        "a scan takes {} excludes at most: write neighbors as one range",
        fleet_core::limits::EXCLUDES
    )]
    TooManyExcludes,
    /// More than 253 characters.
    #[error("it has more than 253 characters: write one target only")]
    TooLong,
    /// The text could be mistaken for an option.
    #[error("it begins with `-`: a target begins with a letter or a digit")]
    LeadingHyphen,
    /// The text has a character outside the grammar.
    #[error("`{}` is not allowed: a target holds letters, digits and `.`, `:`, `/`, `-` only", .0.escape_debug())]
    Character(char),
    /// The address has a zone.
    #[error(
        "zoned addresses are link-local, which is never scanned: write the device's private address"
    )]
    Zone,
    /// The text contains several targets.
    #[error("it holds several: separate targets by blanks, commas or lines")]
    Several,
    /// The prefix of the CIDR is invalid.
    #[error(
        "its prefix is not a decimal from 16 to 32 without leading zeros: write it like 10.0.0.0/24"
    )]
    Prefix,
    /// The address of the CIDR is invalid.
    #[error("what stands before `/` is not an IPv4 address: write a CIDR like 10.0.0.0/24")]
    NetworkAddress,
    /// The CIDR has more than 65,536 addresses.
    #[error("/{0} is wider than /{most}: scan it in parts of at most /{most}", most = limits::TARGET_PREFIX)]
    TooWide(u8),
    /// The text is an IPv6 CIDR.
    #[error("IPv6 networks are too large to be swept: list the IPv6 addresses themselves")]
    Ipv6Network,
    /// The range spans more than the last octet.
    #[error("it is not a range: write 10.0.0.5-20, 10.0.0.5-10.0.1.9, 10.0.0-3.*, or a CIDR")]
    MultiOctetRange,
    /// The ends of the range are in the wrong order, or of two families.
    #[error(
        "a range goes from its lower to its higher address, both IPv4 or both IPv6: exchange the two"
    )]
    RangeOrder,
    /// The netmask is not contiguous.
    #[error(
        "its mask is not contiguous: write a prefix such as /24 or a mask such as 255.255.255.0"
    )]
    Mask,
    /// The exclude has no fixed addresses.
    #[error(
        "only addresses, networks and ranges can be excluded: write an address instead of the name"
    )]
    Exclude,
    /// The end of `A.B.C.D-N` is below D or above 255.
    #[error(
        "the end of a last-octet range is a decimal from the first address's last octet to 255, such as 10.0.0.5-20"
    )]
    RangeEnd,
    /// The text looks like an address but is not one.
    #[error(
        "it is not an IPv4 address: write four decimals from 0 to 255 without leading zeros, such as 10.0.0.7"
    )]
    NumericLookAlike,
    /// The text has colons but is not an IPv6 address.
    #[error("it is not an IPv6 address, and ports are given separately: write it like fd00::7")]
    Ipv6Address,
    /// The text is not a host name.
    #[error("{0}")]
    Name(&'static str),
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|kind| TargetError::new(text, kind))
    }
}

fn parse(text: &str) -> Result<Target, TargetErrorKind> {
    if text.is_empty() {
        return Err(TargetErrorKind::Empty);
    }
    if text.len() > MOST {
        return Err(TargetErrorKind::TooLong);
    }
    if text.starts_with('-') {
        return Err(TargetErrorKind::LeadingHyphen);
    }
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '/' | '-');
    match text.chars().find(|c| !allowed(c)) {
        None => {}
        Some('%') => return Err(TargetErrorKind::Zone),
        Some(',' | ' ' | ';' | '\n' | '\t') => return Err(TargetErrorKind::Several),
        Some(other) => return Err(TargetErrorKind::Character(other)),
    }
    // The keyword is also a valid host name.
    if text.eq_ignore_ascii_case(LOCAL_SUBNET) {
        return Ok(Target::LocalSubnet);
    }
    if let Some(ip) = parse_literal(text) {
        return Ok(Target::Address(canonical(ip)));
    }
    if let Some((address, prefix)) = text.split_once('/') {
        return network(address, prefix);
    }
    if text.contains(':') {
        return Err(TargetErrorKind::Ipv6Address);
    }
    if let Some(range) = range(text) {
        return range;
    }
    match text.parse::<HostName>() {
        Ok(name) => Ok(Target::Name(name)),
        Err(_) if looks_numeric(text) => Err(TargetErrorKind::NumericLookAlike),
        Err(error) => Err(TargetErrorKind::Name(error.why())),
    }
}

pub(crate) fn network(address: &str, prefix: &str) -> Result<Target, TargetErrorKind> {
    let address = match parse_literal(address) {
        Some(IpAddr::V4(address)) => address,
        Some(IpAddr::V6(_)) => return Err(TargetErrorKind::Ipv6Network),
        None => return Err(TargetErrorKind::NetworkAddress),
    };
    let prefix = decimal(prefix)
        .filter(|prefix| *prefix <= 32)
        .ok_or(TargetErrorKind::Prefix)?;
    if prefix < limits::TARGET_PREFIX {
        return Err(TargetErrorKind::TooWide(prefix));
    }
    Ipv4Network::new_checked(address, prefix)
        .and_then(|network| Ipv4Network::new_checked(network.network(), prefix))
        .map(Target::Network)
        .ok_or(TargetErrorKind::Prefix)
}

/// The range in a text whose dotted part before the first `-` is made of digits only.
fn range(text: &str) -> Option<Result<Target, TargetErrorKind>> {
    let (start, end) = text.split_once('-')?;
    // Host names contain hyphens too, so only a numeric part before the first one makes a range.
    let numeric =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if !numeric(start)
        || !end
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-'))
    {
        return None;
    }
    let Some(IpAddr::V4(first)) = parse_literal(start) else {
        let several = end.contains('.') || end.contains('-');
        return Some(Err(if several {
            TargetErrorKind::MultiOctetRange
        } else {
            TargetErrorKind::NumericLookAlike
        }));
    };
    if end.contains('.') || end.contains('-') {
        return Some(Err(TargetErrorKind::MultiOctetRange));
    }
    let [.., least] = first.octets();
    Some(match decimal(end).filter(|last| *last >= least) {
        Some(last_octet) => Ok(Target::LastOctetRange { first, last_octet }),
        None => Err(TargetErrorKind::RangeEnd),
    })
}

/// A decimal in canonical form, at most 255.
pub(crate) fn decimal(text: &str) -> Option<u8> {
    // `parse` accepts a plus sign and leading zeros.
    let number: u8 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Whether the text is probably meant as an address.
fn looks_numeric(text: &str) -> bool {
    let last = text
        .trim_end_matches('.')
        .rsplit('.')
        .next()
        .unwrap_or_default();
    !last.is_empty()
        && (last.bytes().all(|b| b.is_ascii_digit())
            || last
                .get(..2)
                .is_some_and(|head| head.eq_ignore_ascii_case("0x")))
}

#[cfg(test)]
mod tests {
    use super::{TargetErrorKind as Kind, *};

    #[track_caller]
    fn check(text: &str, expected: Result<&str, Kind>) {
        let parsed = text.parse::<Target>();
        assert_eq!(
            parsed
                .as_ref()
                .map(ToString::to_string)
                .map_err(TargetError::kind),
            expected.map(str::to_owned),
            "{text}"
        );
        if let Ok(target) = parsed {
            assert_eq!(target.to_string().parse(), Ok(target), "{text}");
        }
    }

    #[test]
    fn targets_have_a_canonical_form() {
        for (text, canonical) in [
            ("10.0.0.7", "10.0.0.7"),
            ("::ffff:10.0.0.7", "10.0.0.7"),
            ("FD00:0::7", "fd00::7"),
            ("10.0.3.9/22", "10.0.0.0/22"),
            ("10.77.1.1/16", "10.77.0.0/16"),
            ("10.0.0.7/32", "10.0.0.7/32"),
            ("10.0.0.5-5", "10.0.0.5-5"),
            ("10.0.0.0-255", "10.0.0.0-255"),
            ("Miner-7.farm.LAN", "miner-7.farm.lan"),
            ("7-up", "7-up"),
            ("10-20.lan", "10-20.lan"),
            ("FleetNode-Local-Subnet", LOCAL_SUBNET),
        ] {
            check(text, Ok(canonical));
        }
    }

    #[test]
    fn each_mistake_has_its_own_hint() {
        let long = "a".repeat(254);
        for (text, kind) in [
            ("", Kind::Empty),
            (&*long, Kind::TooLong),
            ("-sV", Kind::LeadingHyphen),
            ("-10.0.0.1", Kind::LeadingHyphen),
            ("10.0.0.*", Kind::Character('*')),
            ("10.0.0.1;rm", Kind::Several),
            ("10.0.0.1, 10.0.0.2", Kind::Several),
            ("[fd00::1]", Kind::Character('[')),
            ("míner", Kind::Character('í')),
            ("a_b", Kind::Character('_')),
            ("fe80::1%eth0", Kind::Zone),
            ("10.0.0.0/022", Kind::Prefix),
            ("10.0.0.0/255.255.252.0", Kind::Prefix),
            ("10.0.0.0/33", Kind::Prefix),
            ("10.0.0.0/", Kind::Prefix),
            ("10.0.0.0/+8", Kind::Character('+')),
            ("10.0.0.0/24/24", Kind::Prefix),
            ("10.0.0.0/15", Kind::TooWide(15)),
            ("10.0.0.0/0", Kind::TooWide(0)),
            ("miner/24", Kind::NetworkAddress),
            ("10.0/16", Kind::NetworkAddress),
            ("010.0.0.0/24", Kind::NetworkAddress),
            ("fd00::/64", Kind::Ipv6Network),
            ("::ffff:10.0.0.0/120", Kind::Ipv6Network),
            ("10.0-255.0.1", Kind::MultiOctetRange),
            ("10.0.0-1.1-2", Kind::MultiOctetRange),
            ("10.0.0.1-10.0.0.9", Kind::MultiOctetRange),
            ("10.0.0.1-2-3", Kind::MultiOctetRange),
            ("10.0.0.9-8", Kind::RangeEnd),
            ("10.0.0.9-256", Kind::RangeEnd),
            ("10.0.0.9-010", Kind::RangeEnd),
            ("10.0.0.9-", Kind::RangeEnd),
            ("010.8.8.8", Kind::NumericLookAlike),
            ("999.1.1.1", Kind::NumericLookAlike),
            ("0x0a000001", Kind::NumericLookAlike),
            ("0X7F.1", Kind::NumericLookAlike),
            ("a.0x7f", Kind::NumericLookAlike),
            ("127.1", Kind::NumericLookAlike),
            ("2130706433", Kind::NumericLookAlike),
            ("10.0.0.1.", Kind::NumericLookAlike),
            ("010.0.0.1-9", Kind::NumericLookAlike),
            ("10.0.0.7:80", Kind::Ipv6Address),
            ("fd00::1::2", Kind::Ipv6Address),
            (":", Kind::Ipv6Address),
        ] {
            check(text, Err(kind));
        }
        for text in [
            "localhost",
            "LocalHost",
            "a.localhost",
            ".a",
            "a..b",
            "a-.b",
            "a.",
        ] {
            let error = text.parse::<Target>().expect_err(text);
            assert!(matches!(error.kind(), Kind::Name(_)), "{text}: {error}");
        }
    }

    #[test]
    fn errors_show_the_input_escaped() {
        let error = "a\u{7}b".parse::<Target>().expect_err("a control");
        assert!(
            error.to_string().starts_with("`a\\u{7}b` is not"),
            "{error}"
        );
        assert!(!error.to_string().contains('\u{7}'), "{error}");
    }

    #[test]
    fn addresses_of_a_target_hold_its_edges() {
        let addresses = |text: &str| {
            let target: Target = text.parse().expect(text);
            target.addresses().map(|list| list.to_string())
        };
        assert_eq!(
            addresses("10.0.0.9/30").as_deref(),
            Some("10.0.0.8-10.0.0.11")
        );
        assert_eq!(
            addresses("10.0.0.9-12").as_deref(),
            Some("10.0.0.9-10.0.0.12")
        );
        assert_eq!(
            addresses("10.0.0.0/16").as_deref(),
            Some("10.0.0.0-10.0.255.255")
        );
        assert_eq!(addresses("miner"), None);
    }
}
