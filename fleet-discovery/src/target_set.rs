//! The written form of several targets: lists, ranges and excludes. Start with [`TargetSet`].

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use fleet_core::{canonical, limits, parse_literal};

use crate::{
    AddressList, HostName, Target, TargetError, TargetErrorKind,
    shown::shown,
    target::{decimal, network},
};

/// Targets as an operator writes them, in the same form in the CLI, the page and the API.
///
/// Entries are separated by blanks, commas or lines; `#` begins a comment. An entry is a [`Target`], a range
/// (`10.0.0.5-10.0.1.9`, `10.0.0.5..10.0.1.9`), ranges of octets (`10.244.101-102.*`), or a network with a mask
/// (`10.0.0.0/255.255.255.0`). An entry behind `!` is excluded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetSet {
    included: Vec<TargetEntry>,
    excluded: Vec<TargetEntry>,
}

/// One entry of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetEntry {
    /// A single target.
    Target(Target),
    /// All addresses from the first to the last.
    Range(IpAddr, IpAddr),
    /// All addresses whose octets lie between these pairs.
    Octets([(u8, u8); 4]),
}

impl TargetSet {
    /// Reads entries from texts, each of which holds any number of them.
    ///
    /// # Errors
    ///
    /// The first entry that is not well-formed, with the accepted form.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self, TargetError> {
        let mut set = Self::default();
        let lines = texts.iter().flat_map(|text| text.as_ref().lines());
        let entries = lines
            .map(|line| line.split('#').next().unwrap_or_default())
            .flat_map(|line| line.split(|c: char| c.is_whitespace() || c == ','))
            .filter(|entry| !entry.is_empty());
        for written in entries {
            let (excluded, text) = match written.strip_prefix('!') {
                Some(rest) => (true, rest),
                None => (false, written),
            };
            let entry = read(text).map_err(|kind| TargetError::new(written, kind))?;
            if !excluded {
                set.included.push(entry);
            } else if set.excluded.len() >= limits::EXCLUDES {
                return Err(TargetError::new(written, TargetErrorKind::TooManyExcludes));
            } else if entry.is_fixed() {
                set.excluded.push(entry);
            } else {
                return Err(TargetError::new(written, TargetErrorKind::Exclude));
            }
        }
        Ok(set)
    }

    /// The target, if the set is a single one without excludes.
    pub fn single(&self) -> Option<&Target> {
        match (&*self.included, &*self.excluded) {
            ([TargetEntry::Target(target)], []) => Some(target),
            _ => None,
        }
    }

    /// The included entries, in the order in which they were written.
    pub fn included(&self) -> &[TargetEntry] {
        &self.included
    }

    /// The excluded entries.
    pub fn excluded(&self) -> &[TargetEntry] {
        &self.excluded
    }

    /// The included host names.
    pub fn names(&self) -> impl Iterator<Item = &HostName> {
        self.included.iter().filter_map(|entry| {
            if let TargetEntry::Target(Target::Name(name)) = entry {
                Some(name)
            } else {
                None
            }
        })
    }
}

impl TargetEntry {
    /// Returns the number of addresses; 0 if they are not known yet.
    pub fn count(&self) -> u64 {
        match self {
            Self::Target(target) => target.addresses().map_or(0, |addresses| addresses.len()),
            Self::Range(IpAddr::V4(first), IpAddr::V4(last)) => {
                u64::from(last.to_bits()) - u64::from(first.to_bits()) + 1
            }
            Self::Range(first, last) => match AddressList::span(*first, *last) {
                Some(addresses) => addresses.len(),
                None => u64::MAX,
            },
            Self::Octets(octets) => octets
                .iter()
                .map(|(first, last)| u64::from(last - first) + 1)
                .product(),
        }
    }

    /// Returns its addresses, including network and broadcast address. Returns none if they are not known yet or
    /// exceed the limit of a scan.
    pub fn addresses(&self) -> Option<AddressList> {
        match self {
            Self::Target(target) => target.addresses(),
            Self::Range(first, last) => AddressList::span(*first, *last),
            // Four `*` are four billion addresses.
            Self::Octets([a, b, c, d]) if self.count() <= limits::SCAN_TARGETS as u64 => {
                let mut all = Vec::new();
                for a in a.0..=a.1 {
                    for b in b.0..=b.1 {
                        for c in c.0..=c.1 {
                            let host = |d| IpAddr::from(Ipv4Addr::new(a, b, c, d));
                            all.extend((d.0..=d.1).map(host));
                        }
                    }
                }
                Some(all.into_iter().collect())
            }
            Self::Octets(_) => None,
        }
    }

    /// Whether an address is one of its addresses. Costs no memory, unlike [`TargetEntry::addresses`].
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = canonical(ip);
        match self {
            Self::Target(target) => target
                .addresses()
                .is_some_and(|addresses| addresses.contains(ip)),
            Self::Range(first, last) => {
                first.is_ipv4() == ip.is_ipv4() && (*first..=*last).contains(&ip)
            }
            Self::Octets(octets) => match ip {
                IpAddr::V4(ip) => ip
                    .octets()
                    .iter()
                    .zip(octets)
                    .all(|(octet, (first, last))| (first..=last).contains(&octet)),
                IpAddr::V6(_) => false,
            },
        }
    }

    /// Whether its addresses are known without a node.
    pub(crate) fn is_fixed(&self) -> bool {
        !matches!(self, Self::Target(Target::Name(_) | Target::LocalSubnet))
    }
}

impl fmt::Display for TargetEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target(target) => target.fmt(f),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
            Self::Octets(octets) => {
                for (at, (first, last)) in octets.iter().enumerate() {
                    let dot = if at == 0 { "" } else { "." };
                    match (first, last) {
                        (0, 255) => write!(f, "{dot}*")?,
                        (first, last) if first == last => write!(f, "{dot}{first}")?,
                        (first, last) => write!(f, "{dot}{first}-{last}")?,
                    }
                }
                Ok(())
            }
        }
    }
}

fn read(text: &str) -> Result<TargetEntry, TargetErrorKind> {
    match text.parse::<Target>() {
        Ok(target) => Ok(TargetEntry::Target(target)),
        Err(error) => range(text)
            .or_else(|| octets(text).map(Ok))
            .or_else(|| masked(text))
            // The errors of a single target also name the forms of ranges.
            .unwrap_or(Err(error.kind())),
    }
}

/// `FIRST..LAST` or `FIRST-LAST` of two addresses.
fn range(text: &str) -> Option<Result<TargetEntry, TargetErrorKind>> {
    let (first, last) = text.split_once("..").or_else(|| text.split_once('-'))?;
    let (first, last) = (parse_literal(first)?, parse_literal(last)?);
    let (first, last) = (canonical(first), canonical(last));
    Some(if first.is_ipv4() == last.is_ipv4() && first <= last {
        Ok(TargetEntry::Range(first, last))
    } else {
        Err(TargetErrorKind::RangeOrder)
    })
}

/// Four octets, each a decimal, a range of decimals, or `*`.
fn octets(text: &str) -> Option<TargetEntry> {
    let mut octets = [(0, 0); 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        *octet = match part.split_once('-') {
            _ if part == "*" => (0, 255),
            Some((first, last)) => (decimal(first)?, decimal(last)?),
            None => (decimal(part)?, decimal(part)?),
        };
        if octet.0 > octet.1 {
            return None;
        }
    }
    parts
        .next()
        .is_none()
        .then_some(TargetEntry::Octets(octets))
}

/// A network with a contiguous mask, such as `10.0.0.0/255.255.255.0`.
fn masked(text: &str) -> Option<Result<TargetEntry, TargetErrorKind>> {
    let (address, mask) = text.split_once('/')?;
    let Some(IpAddr::V4(mask)) = parse_literal(mask) else {
        return None;
    };
    let prefix = mask.to_bits().leading_ones();
    Some(if mask.to_bits().count_ones() == prefix {
        network(address, &prefix.to_string()).map(TargetEntry::Target)
    } else {
        Err(TargetErrorKind::Mask)
    })
}

/// The longest file of targets, in bytes: a list of all addresses of a scan fits.
pub const TARGET_FILE: u64 = 1 << 20;

/// Replaces `@FILE` and `-` (standard input) by the targets in them. Other targets stay as they are. The result is not
/// checked. `read` returns the text of a file, or of standard input for `-`.
///
/// # Errors
///
/// A text that names the file and the reason.
pub fn expand_targets<E: fmt::Display>(
    targets: Vec<String>,
    mut read: impl FnMut(&str) -> Result<String, E>,
) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for target in targets {
        let path = match target.strip_prefix('@') {
            Some(path) => path,
            None if target == "-" => "-",
            None => {
                all.push(target);
                continue;
            }
        };
        let text = read(path).map_err(|error| {
            format!(
                "the targets in `{}` cannot be read: {error}",
                shown(&target)
            )
        })?;
        if text.len() as u64 > TARGET_FILE {
            return Err(format!(
                "`{}` is larger than 1 MiB; split it",
                shown(&target)
            ));
        }
        let before = all.len();
        all.extend(targets_of_text(&text));
        if all.len() == before {
            return Err(format!(
                "there are no targets in `{}`; write one per line",
                shown(&target)
            ));
        }
    }
    Ok(all)
}

/// Splits the text of a file into targets: one or several per line, separated by blanks, commas or semicolons. `#`
/// starts a comment. The result is not checked.
fn targets_of_text(text: &str) -> Vec<String> {
    let targets = text.lines().flat_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        line.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '\u{feff}'))
    });
    targets
        .filter(|target| !target.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The entries in canonical form, excluded ones behind `!`.
    fn written(text: &str) -> Result<String, TargetErrorKind> {
        let set = TargetSet::parse(&[text]).map_err(|error| error.kind())?;
        let included = set.included().iter().map(ToString::to_string);
        let excluded = set.excluded().iter().map(|entry| format!("!{entry}"));
        Ok(included.chain(excluded).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn entries_are_separated_by_blanks_commas_and_lines() {
        for (text, expected) in [
            ("", ""),
            ("10.0.0.7", "10.0.0.7"),
            (
                "10.0.0.7, rig-1.lan\n10.0.1.0/24",
                "10.0.0.7 rig-1.lan 10.0.1.0/24",
            ),
            (
                "10.0.0.7,,10.0.0.8 # the door\n# nothing",
                "10.0.0.7 10.0.0.8",
            ),
            (
                "!10.0.0.9 10.0.0.0/24 !10.0.0.200-210",
                "10.0.0.0/24 !10.0.0.9 !10.0.0.200-210",
            ),
        ] {
            assert_eq!(written(text), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn every_form_of_a_range_is_accepted() {
        for (text, expected, count) in [
            ("10.0.0.1..10.0.0.3", "10.0.0.1-10.0.0.3", 3),
            ("10.0.0.1-10.0.0.9", "10.0.0.1-10.0.0.9", 9),
            ("10.0.1.0..10.0.1.2", "10.0.1.0-10.0.1.2", 3),
            ("10.0.0.5-40", "10.0.0.5-40", 36),
            ("10.244.101-102.0-255", "10.244.101-102.*", 512),
            ("10.0.0.*", "10.0.0.*", 256),
            ("192.168.22.128/255.255.255.128", "192.168.22.128/25", 128),
            ("fd00::1-fd00::9", "fd00::1-fd00::9", 9),
        ] {
            let set = TargetSet::parse(&[text]).expect(text);
            let [entry] = set.included() else {
                panic!("{text}: {set:?}")
            };
            assert_eq!(
                (entry.to_string().as_str(), entry.count()),
                (expected, count)
            );
            assert_eq!(
                entry.addresses().map(|list| list.len()),
                Some(count),
                "{text}"
            );
            for ip in entry
                .addresses()
                .into_iter()
                .flat_map(|list| list.iter().collect::<Vec<_>>())
            {
                assert!(entry.contains(ip), "{text}: {ip}");
            }
            for other in [
                "10.0.0.0",
                "10.0.2.0",
                "10.244.100.9",
                "fd00::a",
                "192.168.22.127",
            ] {
                let ip = other.parse().expect("an address");
                let listed = entry.addresses().is_some_and(|list| list.contains(ip));
                assert_eq!(entry.contains(ip), listed, "{text}: {ip}");
            }
            assert_eq!(TargetSet::parse(&[expected]), Ok(set), "{text}");
        }
    }

    #[test]
    fn a_wrong_entry_is_refused_with_its_reason() {
        use TargetErrorKind as Kind;
        for (text, expected) in [
            ("10.0.0.9-10.0.0.1", Kind::RangeOrder),
            ("10.0.0.1-fd00::1", Kind::RangeOrder),
            ("10.0.0.0/255.0.255.0", Kind::Mask),
            ("10.0.0.0/255.0.0.0", Kind::TooWide(8)),
            ("!rig-1.lan", Kind::Exclude),
            ("!", Kind::Empty),
            ("10.0.0.300", Kind::NumericLookAlike),
            ("10.0.0.*.1", Kind::Character('*')),
            ("10.0.0.0/24;10.0.1.0/24", Kind::Several),
        ] {
            assert_eq!(written(text), Err(expected), "{text}");
        }
        let many = |count: usize| vec!["!10.0-255.0-255.1"; count];
        assert!(TargetSet::parse(&many(limits::EXCLUDES)).is_ok());
        let error = TargetSet::parse(&many(limits::EXCLUDES + 1)).expect_err("too many");
        assert_eq!(error.kind(), Kind::TooManyExcludes);
        let error = TargetSet::parse(&["10.0.0.1 !rig.lan"]).expect_err("a name");
        assert!(error.to_string().starts_with("`!rig.lan` "), "{error}");
    }

    #[test]
    fn a_file_of_targets_has_lists_lines_and_comments() {
        let text = "\u{feff}# racks 1 to 4\r\n10.0.0.0/24, 10.0.1.5-40;10.0.2.7\n\n  !10.0.0.9 # the router\n";
        assert_eq!(
            targets_of_text(text),
            ["10.0.0.0/24", "10.0.1.5-40", "10.0.2.7", "!10.0.0.9"]
        );
        assert!(targets_of_text("# nothing").is_empty());
    }

    #[test]
    fn files_are_replaced_by_their_targets_and_errors_name_them() {
        let read = |path: &str| match path {
            "racks.txt" => Ok("10.0.0.1\n!10.0.0.2 # b\n".to_owned()),
            "-" => Ok("10.0.0.3".to_owned()),
            "none" => Ok("# none".to_owned()),
            "large" => Ok("1".repeat(TARGET_FILE as usize + 1)),
            _ => Err("no such file"),
        };
        let expand = |targets: &[&str]| {
            expand_targets(
                targets.iter().map(|text| (*text).to_owned()).collect(),
                read,
            )
        };
        let all = expand(&["10.0.9.9", "@racks.txt", "-"]).expect("targets");
        assert_eq!(all, ["10.0.9.9", "10.0.0.1", "!10.0.0.2", "10.0.0.3"]);
        for (target, reason) in [
            ("@none", "no targets"),
            ("@large", "1 MiB"),
            ("@missing", "no such file"),
        ] {
            let error = expand(&[target]).expect_err(target);
            assert!(error.contains(target) && error.contains(reason), "{error}");
        }
    }
}
