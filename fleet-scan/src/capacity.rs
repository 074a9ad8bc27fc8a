//! The capacity of this machine: descriptors, local ports, and the kernel's connection tracking table.
//!
//! A waiting socket holds a descriptor and a local port. On a machine that tracks connections, each unanswered attempt
//! also holds an entry for two minutes. This file has the pure rules and thin readers.

use std::{fs, time::Duration};

use rustix::process::{Resource, getrlimit};

/// The fewest simultaneous connections that make a scan useful.
const FEWEST: u64 = 16;

/// Local ports reserved for other programs.
const PORTS_LEFT: u64 = 1_000;

/// Attempts between two reads of a full table, because other programs may have filled it.
const TRICKLE: u64 = 10;

/// The range of local ports, on systems that show it.
const LOCAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Used and total entries of the connection tracking table.
const TRACKING_FILES: [&str; 2] = [
    "/proc/sys/net/netfilter/nf_conntrack_count",
    "/proc/sys/net/netfilter/nf_conntrack_max",
];

/// Returns how many connections a scan may have: the requested number, or what its rate needs within the capacity of
/// the machine.
pub(crate) fn connections(requested: usize, rate: u32, longest_wait: Duration) -> usize {
    if requested > 0 {
        return requested;
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let ports = fs::read_to_string(LOCAL_PORTS)
        .ok()
        .and_then(|range| port_count(&range));
    let share = share(rate, longest_wait, files, ports);
    usize::try_from(share).unwrap_or(usize::MAX)
}

/// Rate times wait, doubled for late answers and identification. At most three quarters of the open-file limit, because
/// the surrounding program needs the rest, and at most the local ports.
fn share(rate: u32, longest_wait: Duration, files: u64, ports: Option<u64>) -> u64 {
    let wanted = (f64::from(rate) * longest_wait.as_secs_f64() * 2.0) as u64;
    let ports = ports.map_or(u64::MAX, |ports| ports.saturating_sub(PORTS_LEFT));
    wanted.min(files / 4 * 3).min(ports).max(FEWEST)
}

/// The number of ports in a range, both ends included.
fn port_count(range: &str) -> Option<u64> {
    let mut ends = range.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else {
        return None;
    };
    Some((last + 1).saturating_sub(first))
}

/// The use of the connection tracking table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionTracking {
    pub(crate) used: u64,
    pub(crate) most: u64,
}

impl ConnectionTracking {
    /// Reads it; none if the system tracks no connections or does not show them.
    pub(crate) fn now() -> Option<Self> {
        let [used, most] =
            TRACKING_FILES.map(|file| fs::read_to_string(file).ok()?.trim().parse().ok());
        Some(Self {
            used: used?,
            most: most?,
        })
    }

    /// Attempts allowed until the next read. An eighth of the table stays free for other programs.
    pub(crate) fn allowance(self) -> u64 {
        (self.most / 8 * 7).saturating_sub(self.used).max(TRICKLE)
    }

    /// Returns whether the scan has to wait for entries to expire.
    pub(crate) fn is_tight(self) -> bool {
        self.allowance() == TRICKLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_takes_the_descriptors_of_its_rate_within_the_machines_limits() {
        let second = Duration::from_secs(1);
        let wide = Some(28_232);
        for (rate, files, ports, expected) in [
            (5_000, 1_048_576, wide, 10_000),
            (50_000, 1_048_576, wide, 27_232),
            (50_000, 20_000, wide, 15_000),
            (50_000, 1_048_576, None, 100_000),
            (5_000, 1_024, wide, 768),
            (1, 1_024, wide, 16),
            (5_000, 10, wide, 16),
            (5_000, 1_024, Some(500), 16),
        ] {
            let share = share(rate, second, files, ports);
            assert_eq!(share, expected, "{rate} {files} {ports:?}");
        }
        assert_eq!(connections(7, 5_000, second), 7);
    }

    #[test]
    fn port_ranges_are_counted() {
        for (text, expected) in [
            ("32768\t60999\n", Some(28_232)),
            ("1 1", Some(1)),
            ("9 1", Some(0)),
            ("32768", None),
            ("a b", None),
        ] {
            assert_eq!(port_count(text), expected, "{text}");
        }
    }

    #[test]
    fn a_full_table_allows_a_trickle() {
        let allowance = |used, most| ConnectionTracking { used, most }.allowance();
        assert_eq!(allowance(0, 262_144), 229_376);
        assert_eq!(allowance(229_300, 262_144), 76);
        assert_eq!(allowance(262_144, 262_144), TRICKLE);
        let tight = ConnectionTracking {
            used: 250_000,
            most: 262_144,
        };
        assert!(tight.is_tight());
    }
}
