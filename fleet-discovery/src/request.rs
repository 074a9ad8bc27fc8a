//! A scan as an operator asks for it: outside text, not checked. What it means is decided by the plan.

/// What an operator asks to be scanned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRequest {
    /// Where to look.
    pub mode: Mode,
    /// Ports as they came; none means the defaults of the node's drivers.
    pub ports: Vec<String>,
}

/// The ways to say where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Addresses and host names.
    List(Vec<String>),
    /// IPv4 addresses from `start` to `end`, both included.
    Range {
        /// The first address.
        start: String,
        /// The last address.
        end: String,
    },
    /// One target: address, CIDR, `A.B.C.D-N`, host name, or the local-subnet word.
    Target(String),
    /// Multicast DNS on the node's own subnets.
    Mdns {
        /// Such as `_http._tcp`; empty for that.
        service_type: String,
        /// `local`, or empty.
        domain: String,
        /// How long the node listens; 0 leaves it to the product.
        timeout_seconds: i32,
    },
}

/// A count with its reason and its first example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Why; a few constant words, so that counts can be added by it.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// The first of them, escaped and bounded.
    pub example: String,
}

impl Tally {
    /// Adds to the tally of the same reason, or begins one.
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
