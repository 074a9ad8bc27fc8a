//! What this machine can bear: descriptors, ephemeral ports, and the kernel's table of tracked connections.
//!
//! A socket that waits for an answer holds a descriptor and a local port; on a machine that tracks connections each
//! attempt moreover holds an entry for two minutes after nobody answered. Functions of texts and numbers, and the
//! thin readers around them.

use std::{fs, time::Duration};

use rustix::process::{Resource, getrlimit};

/// The fewest connections at a time that make a scan worth while.
const FEWEST: u64 = 16;

/// Local ports that others on this machine may be using.
const PORTS_LEFT: u64 = 1_000;

/// Attempts that are made between two looks at the table of tracked connections however full it is: who filled it
/// may be somebody else.
const TRICKLE: u64 = 10;

/// Local ports of outgoing connections, where the system says so.
const LOCAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Entries of the table of tracked connections, used and in all.
const TRACKED: [&str; 2] = [
    "/proc/sys/net/netfilter/nf_conntrack_count",
    "/proc/sys/net/netfilter/nf_conntrack_max",
];

/// How many connections a scan may have at a time: what was asked for, else what its rate needs, within what the
/// machine has to give.
pub(crate) fn connections(asked: usize, rate: u32, longest_wait: Duration) -> usize {
    if asked > 0 {
        return asked;
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let ports = fs::read_to_string(LOCAL_PORTS)
        .ok()
        .and_then(|range| port_count(&range));
    let share = share(rate, longest_wait, files, ports);
    usize::try_from(share).unwrap_or(usize::MAX)
}

/// Rate times wait, and as much again for late answers and identification; at most three quarters of the files that
/// may be open, so that the program around the scanner has its share, and at most the local ports.
fn share(rate: u32, longest_wait: Duration, files: u64, ports: Option<u64>) -> u64 {
    let wanted = (f64::from(rate) * longest_wait.as_secs_f64() * 2.0) as u64;
    let ports = ports.map_or(u64::MAX, |ports| ports.saturating_sub(PORTS_LEFT));
    wanted.min(files / 4 * 3).min(ports).max(FEWEST)
}

/// How many ports a range has, both ends included.
fn port_count(range: &str) -> Option<u64> {
    let mut ends = range.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else {
        return None;
    };
    Some((last + 1).saturating_sub(first))
}

/// How full the table of tracked connections is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tracked {
    pub(crate) used: u64,
    pub(crate) most: u64,
}

impl Tracked {
    /// As it is now; none where the system tracks nothing or does not say.
    pub(crate) fn now() -> Option<Self> {
        let [used, most] = TRACKED.map(|file| fs::read_to_string(file).ok()?.trim().parse().ok());
        Some(Self {
            used: used?,
            most: most?,
        })
    }

    /// How many attempts may be made until the next look: an eighth of the table is left to others.
    pub(crate) fn allowance(self) -> u64 {
        (self.most / 8 * 7).saturating_sub(self.used).max(TRICKLE)
    }

    /// Whether the scan has to wait for entries to expire.
    pub(crate) fn is_tight(self) -> bool {
        self.allowance() == TRICKLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_takes_what_its_rate_needs_and_leaves_the_rest_of_the_machine_its_share() {
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
    fn a_table_that_fills_up_leaves_a_trickle() {
        let allowance = |used, most| Tracked { used, most }.allowance();
        assert_eq!(allowance(0, 262_144), 229_376);
        assert_eq!(allowance(229_300, 262_144), 76);
        assert_eq!(allowance(262_144, 262_144), TRICKLE);
        let tight = Tracked {
            used: 250_000,
            most: 262_144,
        };
        assert!(tight.is_tight());
    }
}
