//! A scan request as an operator wrote it. The plan checks and interprets it.

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
