//! A scan request as an operator wrote it. The plan checks and interprets it.

use crate::{Target, TargetEntry, TargetSet};

/// A scan request with unchecked texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRequest {
    /// The targets.
    pub mode: Mode,
    /// The ports; without ports, the defaults of the node's drivers apply.
    pub ports: Vec<String>,
    /// The most probes per second; 0 for the rate of the node.
    pub rate: u32,
}

impl ScanRequest {
    /// Whether the operator gave each address, by itself or in a range, in contrast to a network.
    pub fn is_explicit(&self) -> bool {
        match &self.mode {
            Mode::List(entries) => is_explicit(entries),
            Mode::Range { .. } => true,
            Mode::Target(text) => is_explicit(&[text]),
            Mode::Mdns { .. } => false,
        }
    }
}

/// Whether texts of targets are addresses, names and ranges only, without a network.
pub fn is_explicit<S: AsRef<str>>(targets: &[S]) -> bool {
    let is_explicit = |entry: &TargetEntry| match entry {
        TargetEntry::Target(Target::Network(_) | Target::LocalSubnet) => false,
        TargetEntry::Target(
            Target::Address(_) | Target::LastOctetRange { .. } | Target::Name(_),
        )
        | TargetEntry::Range(..)
        | TargetEntry::Octets(_) => true,
    };
    TargetSet::parse(targets)
        .is_ok_and(|set| !set.included().is_empty() && set.included().iter().all(is_explicit))
}

/// The ways to specify targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Targets in the written grammar, see [`crate::TargetSet`]; each text may hold several.
    List(Vec<String>),
    /// IPv4 addresses from `start` to `end`, both included.
    Range {
        /// The first address.
        start: String,
        /// The last address.
        end: String,
    },
    /// Targets in the written grammar, or the local-subnet word.
    Target(String),
    /// Multicast DNS on the node's own subnets.
    Mdns {
        /// Such as `_http._tcp`, which is the default.
        service_type: String,
        /// `local`, or empty.
        domain: String,
        /// How long the node listens; 0 for the default.
        timeout_seconds: i32,
    },
}

/// A count with its reason and its first example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// The reason. The text is constant, which lets equal reasons be added up.
    pub reason: String,
    /// Number of occurrences.
    pub count: u64,
    /// The first occurrence, escaped and shortened.
    pub example: String,
}

impl Tally {
    /// Adds to the tally of the same reason, or creates it.
    pub fn add(tallies: &mut Vec<Self>, reason: &str, count: u64, example: &str) {
        if count == 0 {
            return;
        }
        match tallies.iter_mut().find(|tally| tally.reason == reason) {
            Some(tally) => tally.count = tally.count.saturating_add(count),
            None => tallies.push(Self {
                reason: reason.to_owned(),
                count,
                example: example.to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_explicit_if_it_names_no_network() {
        let list = |texts: &[&str]| Mode::List(texts.iter().map(|text| (*text).into()).collect());
        let target = |text: &str| Mode::Target(text.into());
        for (mode, expected) in [
            (list(&["10.0.0.1", "10.0.0.7-9", "miner.lan"]), true),
            (list(&["10.0.0.1 10.0.1.0/24"]), false),
            (list(&["10.0.0.1-10.0.0.9 !10.0.0.4/31"]), true),
            (list(&["10.0-1.0.1"]), true),
            (list(&[]), false),
            (list(&["no target!"]), false),
            (
                Mode::Range {
                    start: "10.0.0.1".into(),
                    end: "10.0.0.9".into(),
                },
                true,
            ),
            (target("10.0.0.1"), true),
            (target("10.0.0.1-20"), true),
            (target("10.0.0.0/24"), false),
            (target("10.0.0.1/32"), false),
            (target(crate::LOCAL_SUBNET), false),
            (
                Mode::Mdns {
                    service_type: String::new(),
                    domain: String::new(),
                    timeout_seconds: 0,
                },
                false,
            ),
        ] {
            let request = ScanRequest {
                mode,
                ports: Vec::new(),
                rate: 0,
            };
            assert_eq!(request.is_explicit(), expected, "{request:?}");
        }
    }
}
