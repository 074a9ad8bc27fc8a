//! Sets of addresses as sorted runs. They are small for any number of addresses, and their text is canonical. Ports,
//! names and classes are elsewhere. Start with [`AddressList`].

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use fleet_core::{canonical, limits, parse_literal};

use crate::shown::shown;

/// At most 65,536 different addresses in ascending order, IPv4 before IPv6. The outcome bytes of a command have the
/// same order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressList {
    runs: Vec<Run>,
}

/// Consecutive addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    first: IpAddr,
    last: IpAddr,
    /// Number of addresses in the previous runs.
    before: u64,
}

/// A text that is not an address list, or a list with too many addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{input}` is not an address list: {why}")]
pub struct InvalidAddressList {
    input: String,
    why: &'static str,
}

impl AddressList {
    /// Returns the addresses from `first` to `last`, both included. Returns none if they are of two families, in the
    /// wrong order, or more than 65,536.
    pub fn span(first: IpAddr, last: IpAddr) -> Option<Self> {
        let (first, last) = (canonical(first), canonical(last));
        let fits = first.is_ipv4() == last.is_ipv4()
            && number(last)
                .checked_sub(number(first))
                .is_some_and(|more| more < limits::SCAN_TARGETS as u128);
        fits.then(|| Self {
            runs: vec![Run {
                first,
                last,
                before: 0,
            }],
        })
    }

    /// Returns the ranges as texts such as `10.0.0.2-10.0.3.254`.
    pub fn ranges(&self) -> impl Iterator<Item = String> + '_ {
        self.runs.iter().map(ToString::to_string)
    }

    /// Returns at most this many ranges for people, and the number of the others.
    pub fn shown(&self, most: usize) -> String {
        let first: Vec<String> = self.ranges().take(most).collect();
        let others = self.runs.len() - first.len();
        if others == 0 {
            return first.join(", ");
        }
        format!("{} and {others} more ranges", first.join(", "))
    }

    /// Returns the number of addresses.
    pub fn len(&self) -> u64 {
        self.runs.last().map_or(0, |run| run.before + run.len())
    }

    /// Whether the list has no addresses.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Returns the addresses in order.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.runs
            .iter()
            .flat_map(|run| (0..run.len()).map(|offset| advance(run.first, offset)))
    }

    /// Whether the list contains the address or its IPv4 form.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.position(ip).is_some()
    }

    /// Returns the number of smaller addresses in the list; none if the list does not contain the address.
    pub fn position(&self, ip: IpAddr) -> Option<u64> {
        let ip = canonical(ip);
        let at = self.runs.partition_point(|run| run.last < ip);
        let run = self.runs.get(at).filter(|run| run.first <= ip)?;
        let offset = number(ip).checked_sub(number(run.first))?;
        Some(run.before + u64::try_from(offset).ok()?)
    }

    /// Returns the number of addresses from `first` to `last`, both included.
    pub(crate) fn between(&self, first: IpAddr, last: IpAddr) -> u64 {
        let up_to_last = self.rank(last) + u64::from(self.contains(last));
        up_to_last.saturating_sub(self.rank(first))
    }

    /// Returns the number of addresses that both lists contain.
    pub(crate) fn common(&self, other: &Self) -> u64 {
        let runs = other.runs.iter();
        runs.map(|run| self.between(run.first, run.last)).sum()
    }

    /// Returns the number of smaller addresses in the list.
    fn rank(&self, ip: IpAddr) -> u64 {
        let at = self.runs.partition_point(|run| run.last < ip);
        let Some(run) = self.runs.get(at) else {
            return self.len();
        };
        if ip.is_ipv4() != run.first.is_ipv4() {
            return run.before;
        }
        let offset = number(ip).saturating_sub(number(run.first));
        // Less than the length of the run.
        run.before + u64::try_from(offset).unwrap_or(u64::MAX)
    }

    /// Splits the list into lists of at most `most` addresses, in order.
    pub fn chunks(&self, most: usize) -> Vec<Self> {
        let most = most.max(1);
        let mut addresses = self.iter().peekable();
        let mut chunks = Vec::new();
        while addresses.peek().is_some() {
            chunks.push(addresses.by_ref().take(most).collect());
        }
        chunks
    }

    /// Returns the addresses for which `keep` is true.
    pub fn filtered(&self, keep: impl Fn(IpAddr) -> bool) -> Self {
        self.iter().filter(|ip| keep(*ip)).collect()
    }

    /// Appends an address that is greater than all others.
    fn push(&mut self, ip: IpAddr) {
        let before = self.len();
        match self.runs.last_mut() {
            Some(run) if follows(run.last, ip) => run.last = ip,
            _ => self.runs.push(Run {
                first: ip,
                last: ip,
                before,
            }),
        }
    }
}

impl Run {
    fn len(&self) -> u64 {
        // A run is never longer than a list, see `span` and `from_str`.
        u64::try_from(number(self.last) - number(self.first)).map_or(u64::MAX, |more| more + 1)
    }
}

/// The address as a number, comparable within its family.
fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

/// Returns the address `offset` after `ip`. The caller ensures that it exists.
fn advance(ip: IpAddr, offset: u64) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits().wrapping_add(offset as u32)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits().wrapping_add(offset.into())).into(),
    }
}

/// Whether `next` is the address after `ip`.
fn follows(ip: IpAddr, next: IpAddr) -> bool {
    ip.is_ipv4() == next.is_ipv4() && number(ip).checked_add(1) == Some(number(next))
}

impl FromIterator<IpAddr> for AddressList {
    /// Sorts and deduplicates; mapped addresses become IPv4.
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        let mut all: Vec<IpAddr> = addresses.into_iter().map(canonical).collect();
        all.sort_unstable();
        all.dedup();
        let mut list = Self::default();
        all.into_iter().for_each(|ip| list.push(ip));
        list
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl fmt::Display for AddressList {
    /// For example `10.0.0.2-10.0.3.254,fd00::1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, run) in self.runs.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            write!(f, "{run}")?;
        }
        Ok(())
    }
}

impl FromStr for AddressList {
    type Err = InvalidAddressList;

    /// Reads only what [`fmt::Display`] writes: runs in order that do not touch each other.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = |why| InvalidAddressList {
            input: shown(text),
            why,
        };
        let mut list = Self::default();
        // An empty text is the empty list, but `split` returns one empty piece of it.
        for piece in text.split(',').filter(|_| !text.is_empty()) {
            let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
            let (Some(first), Some(last)) = (parse_literal(first), parse_literal(last)) else {
                return Err(refused(
                    "expected addresses or ranges such as 10.0.0.2-10.0.3.254",
                ));
            };
            let mut span = Self::span(first, last).ok_or_else(|| refused("a range is not one"))?;
            if let (Some(before), Some(run)) = (list.runs.last(), span.runs.first_mut()) {
                run.before = list.len();
                // Ranges that touch would be printed as they were
                // read, so the comparison below would accept them.
                if before.last >= run.first || follows(before.last, run.first) {
                    return Err(refused("ranges must ascend and not touch"));
                }
            }
            list.runs.append(&mut span.runs);
            if list.len() > limits::SCAN_TARGETS as u64 {
                return Err(refused("more than 65,536 addresses"));
            }
        }
        if list.to_string() == text {
            Ok(list)
        } else {
            Err(refused("not in canonical form"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        parse_literal(text).expect(text)
    }

    #[test]
    fn addresses_of_a_range_and_of_two_lists_are_counted() {
        let list: AddressList = "10.0.0.2-10.0.0.9,10.0.1.0-10.0.1.4,fd00::1-fd00::9"
            .parse()
            .expect("a list");
        for (first, last, count) in [
            ("10.0.0.0", "10.0.0.255", 8),
            ("10.0.0.5", "10.0.1.1", 7),
            ("10.0.0.2", "10.0.0.2", 1),
            ("10.0.0.10", "10.0.0.255", 0),
            ("10.0.0.0", "10.255.255.255", 13),
            ("fd00::5", "fd00::ff", 5),
            ("11.0.0.0", "11.0.0.9", 0),
        ] {
            assert_eq!(list.between(ip(first), ip(last)), count, "{first}-{last}");
        }
        let other: AddressList = "10.0.0.8-10.0.1.2,fd00::9".parse().expect("a list");
        assert_eq!((list.common(&other), other.common(&list)), (6, 6));
    }

    #[test]
    fn addresses_become_runs_in_order() {
        let list: AddressList = [
            "10.0.0.3",
            "fd00::1",
            "10.0.0.1",
            "::ffff:10.0.0.2",
            "10.0.0.9",
            "10.0.0.1",
        ]
        .into_iter()
        .map(ip)
        .collect();
        assert_eq!(list.to_string(), "10.0.0.1-10.0.0.3,10.0.0.9,fd00::1");
        assert_eq!(list.len(), 5);
        assert_eq!(list.position(ip("10.0.0.9")), Some(3));
        assert_eq!(list.position(ip("fd00::1")), Some(4));
        assert_eq!(list.position(ip("::ffff:10.0.0.1")), Some(0));
        assert_eq!(list.position(ip("10.0.0.4")), None);
        assert_eq!(list.position(ip("fd00::2")), None);
        assert_eq!(
            list.chunks(2)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            ["10.0.0.1-10.0.0.2", "10.0.0.3,10.0.0.9", "fd00::1"]
        );
    }

    #[test]
    fn the_ends_of_a_family_do_not_wrap() {
        let list: AddressList = [ip("255.255.255.255"), ip("::"), ip("0.0.0.0")]
            .into_iter()
            .collect();
        assert_eq!(list.to_string(), "0.0.0.0,255.255.255.255,::");
        assert_eq!(list.to_string().parse(), Ok(list));
    }

    #[test]
    fn only_canonical_text_is_read() {
        let check = |text: &str, good: bool| {
            assert_eq!(text.parse::<AddressList>().is_ok(), good, "{text}");
        };
        for text in [
            "",
            "10.0.0.1",
            "10.0.0.1-10.0.0.2,10.0.0.4",
            "10.0.0.0-10.0.255.255",
            "10.0.0.1,fd00::-fd00::ff",
        ] {
            check(text, true);
        }
        for text in [
            ",",
            "10.0.0.1,",
            "10.0.0.2-10.0.0.1",
            "10.0.0.1-10.0.0.1",
            "10.0.0.1,10.0.0.2",
            "10.0.0.4,10.0.0.1",
            "10.0.0.1,10.0.0.1",
            "10.0.0.0-10.1.0.0",
            "10.0.0.1-fd00::1",
            "::-ffff::",
            "::ffff:10.0.0.1",
            "fd00::01",
            "10.0.0.1 ",
            "10.0.0.1-",
            "fd00::1,10.0.0.1",
            "10.0.0.0-10.0.255.255,10.2.0.0",
        ] {
            check(text, false);
        }
    }
}
