//! The input, the events and the result of a scan, as plain values. Start with [`ScanJob`].

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use fleet_core::{
    DeviceFacts, Endpoint, HostReport, Port, TargetOutcome,
    limits::{COMMAND_BUDGET, DEFAULT_RATE, SCAN_PORTS, SCAN_TARGETS},
};
use fleet_discovery::{Gaps, Mode, NodeProfile, PlanError, PlanPolicy, ScanRequest, Target, plan};

use crate::{guard::Guard, mdns::Listen, names::Resolver};

/// Most targets of a scan in which drivers are asked about silent addresses. A plugin answers 32 questions at a time, in
/// at most 25 s each.
pub const SILENT_TARGETS: usize = 256;

/// How a scanner treats the network. The defaults suit a site's own LAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanOptions {
    /// Connection attempts per second, including retries and reconnections.
    pub rate: u32,
    /// Simultaneous connections, at most 32,768. With 0, the scanner uses what its rate needs, limited to three
    /// quarters of the open-file limit and to the local port range.
    pub connections: usize,
    /// The shortest time to wait for an answer to a connection attempt, once round trips to its subnet are known.
    pub timeout_floor: Duration,
    /// The longest such time. It applies until round trips are known.
    pub timeout_ceiling: Duration,
    /// Connection attempts to a silent port, 1 to 3. With 1 % loss in each direction, two attempts find every device.
    pub tries: u8,
    /// How long a device may take for one reply.
    pub reply_timeout: Duration,
    /// How long the identification of one port may take.
    pub identify_timeout: Duration,
    /// How long external drivers may take for one host, over all of its ports.
    pub external_timeout: Duration,
    /// The longest reply in bytes. The rest is not read.
    pub reply_bytes: usize,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self {
            rate: DEFAULT_RATE,
            connections: 0,
            timeout_floor: Duration::from_millis(100),
            timeout_ceiling: Duration::from_secs(1),
            tries: 2,
            reply_timeout: Duration::from_secs(5),
            identify_timeout: Duration::from_secs(20),
            external_timeout: Duration::from_secs(60),
            reply_bytes: 64 * 1024,
        }
    }
}

/// The input of one scan.
#[derive(Debug, Clone)]
pub struct ScanJob {
    /// Addresses in any order. The scanner chooses an order that spreads the load over hosts and subnets.
    pub targets: Vec<IpAddr>,
    /// At most 64 ports. If empty, the drivers' default ports apply, without printers' raw ports.
    pub ports: Vec<Port>,
    /// The ports are defaults, not requested by number. External drivers then run only at their own default ports.
    pub ports_are_defaults: bool,
    /// The targets were listed or are a range, in contrast to a network. Only then are drivers asked about silent
    /// addresses ([`Driver::asks_silent`](crate::Driver::asks_silent)), and only in scans of at most [`SILENT_TARGETS`].
    pub listed: bool,
    /// The longest duration of the scan. Afterwards it ends with the results so far.
    pub budget: Duration,
    /// The most connection attempts per second, if that is less than the scanner's rate; 0 for the scanner's rate.
    pub rate: u32,
    /// Decides which endpoints may be dialed.
    pub guard: Guard,
    /// If set, only targets that announce a service are tried. The others count as silent.
    pub listen: Option<Listen>,
    /// Looks up the names of hosts that answered. Without it, they have none.
    pub names: Option<Arc<dyn Resolver>>,
    /// Whether notes describe unidentified hosts, for receivers that ignore [`ScanEvent::Unidentified`].
    pub note_hosts: bool,
    /// Whether a device on a link of this machine that shows neither MAC nor serial takes the hardware address of the
    /// link as its own. Otherwise it has none, and does not wait for it.
    pub link_identity: bool,
}

impl ScanJob {
    /// Creates a scan of these addresses with default ports, budget and guard.
    pub fn new(targets: Vec<IpAddr>) -> Self {
        Self {
            targets,
            ports: Vec::new(),
            ports_are_defaults: false,
            listed: false,
            budget: COMMAND_BUDGET,
            rate: 0,
            guard: Guard::default(),
            listen: None,
            names: None,
            note_hosts: true,
            link_identity: true,
        }
    }

    /// Creates a scan of private addresses in the written grammar, such as `10.0.0.0/24, 10.1.0.5-40`, with default
    /// ports, budget and guard. Commas and white space separate targets.
    ///
    /// The network and broadcast addresses of a CIDR are left out. Host names need a lookup first, see
    /// [`pin_names`](crate::pin_names).
    ///
    /// # Errors
    /// [`TargetsError`] names the first target that cannot be scanned.
    pub fn parse(targets: &str) -> Result<Self, TargetsError> {
        // The server's own planner reads the text, so it means the same as in an operator's
        // request.
        let node = NodeProfile {
            max_targets: SCAN_TARGETS,
            big_commands: true,
            ..NodeProfile::upstream()
        };
        let mut addresses = Vec::new();
        let separators = |c: char| c.is_whitespace() || c == ',';
        for text in targets.split(separators).filter(|text| !text.is_empty()) {
            let target = text.parse::<Target>().map_err(PlanError::from)?;
            if target.addresses().is_none() {
                return Err(TargetsError::NotAnAddress(target.to_string()));
            }
            let request = ScanRequest {
                mode: Mode::Target(text.to_owned()),
                ports: Vec::new(),
                rate: 0,
            };
            let plan = plan(&request, &node, &PlanPolicy::default())?;
            let scopes = plan.chunks.iter().map(|chunk| &chunk.scope);
            addresses.extend(scopes.flat_map(|scope| scope.addresses()));
        }
        addresses.sort_unstable();
        addresses.dedup();
        match addresses.len() {
            0 => Err(TargetsError::Empty),
            count if count > SCAN_TARGETS => Err(TargetsError::TooMany(count)),
            _ => Ok(Self::new(addresses)),
        }
    }
}

/// Why a text names no targets of a scan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetsError {
    /// The text holds no target.
    #[error("no targets: name addresses, ranges or CIDRs such as 10.0.0.0/24")]
    Empty,
    /// A target cannot be read or may not be scanned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A host name, or the word for a node's local subnet.
    #[error("`{0}` is not an address: resolve it first, and scan its addresses")]
    NotAnAddress(String),
    /// More targets than a scan accepts.
    #[error("{0} targets are too many for one scan; name at most {SCAN_TARGETS}")]
    TooMany(usize),
}

/// An event of a running scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScanEvent {
    /// A driver identified a device. The scan waits until this event is taken.
    Found(FoundDevice),
    /// A host answered, and no driver identified it. The scan waits until this event is taken.
    Unidentified(HostReport),
    /// Progress, several times per second. It is dropped if the consumer is slow.
    Progress(ScanProgress),
    /// A warning for the operator. Each kind is sent once; the summary has the counts.
    Note(String),
    /// The scan is over. This is the last event.
    Ended(ScanSummary),
}

/// How far a scan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanProgress {
    /// Targets with a final outcome.
    pub done: u64,
    /// All targets.
    pub total: u64,
    /// What the scan waits for.
    pub phase: ScanPhase,
}

/// What a scan waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScanPhase {
    /// Announcements of hosts.
    Listen,
    /// Answers to connection attempts.
    Sweep,
    /// Replies of open ports to drivers.
    Identify,
}

impl ScanPhase {
    /// The name on the wire and for people: `listen`, `sweep` or `identify`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::Sweep => "sweep",
            Self::Identify => "identify",
        }
    }
}

/// An identified device. Texts are printable and fit a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundDevice {
    /// The endpoint that was dialed, not the address that the device reports.
    pub endpoint: Endpoint,
    /// The identity that the device shows without a login. The evidence is escaped.
    pub facts: DeviceFacts,
    /// The scan ended before every port of the host had answered. Another port might have identified it better.
    pub provisional: bool,
}

/// The result of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanSummary {
    /// The best outcome of each target, in the order of the job.
    pub outcomes: Vec<TargetOutcome>,
    /// What was left out at targets that have an outcome.
    pub gaps: Gaps,
    /// Number of [`ScanEvent::Found`] events.
    pub found: u64,
    /// Skips, slow-downs, driver failures and unidentified hosts: at most 64 texts of at most 512 characters.
    pub notes: Vec<String>,
    /// Why the scan ended before every target was tried.
    pub interrupted: Option<Interruption>,
}

impl ScanSummary {
    /// Returns whether every port of every target was tried to the end, with working drivers.
    pub fn is_complete(&self) -> bool {
        self.interrupted.is_none()
            && self.gaps.is_empty()
            && !self.outcomes.contains(&TargetOutcome::NotReached)
    }

    /// Counts the targets with this outcome.
    pub fn count(&self, outcome: TargetOutcome) -> u64 {
        self.outcomes
            .iter()
            .filter(|other| **other == outcome)
            .count() as u64
    }
}

/// Why a scan ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// The caller canceled it.
    Canceled,
    /// The job's time is over.
    BudgetSpent,
}

impl fmt::Display for Interruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Canceled => "the scan was canceled",
            Self::BudgetSpent => "the scan reached its time limit",
        })
    }
}

/// Why a scan could not start. No packet was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// More ports than one scan accepts.
    #[error("{0} ports are too many for one scan; name at most {SCAN_PORTS}")]
    TooManyPorts(usize),
    /// The job names no port, and no driver has a default port.
    #[error("no ports to scan: name some, because the drivers have no default ports")]
    NoPorts,
    /// The system provides no poller or no thread.
    #[error(
        "cannot wait for network events: {0}; raise the limit of open files if it is exhausted"
    )]
    Poller(std::io::ErrorKind),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_targets_become_private_addresses_each_once() {
        for (text, expected) in [
            ("10.0.0.0/30", Ok("10.0.0.1 10.0.0.2")),
            (
                "10.0.0.9, 10.0.0.7-8\n10.0.0.8",
                Ok("10.0.0.7 10.0.0.8 10.0.0.9"),
            ),
            ("fd00::7", Ok("fd00::7")),
            (" , ", Err("no targets")),
            ("8.8.8.8", Err("8.8.8.8")),
            ("rig-7.lan", Err("`rig-7.lan` is not an address")),
            ("fleetnode-local-subnet", Err("is not an address")),
            ("10.0.0.0/8", Err("10.0.0.0/8")),
            ("10.0.0.0/16 10.1.0.0/16", Err("too many")),
        ] {
            match (ScanJob::parse(text), expected) {
                (Ok(job), Ok(expected)) => {
                    let targets: Vec<_> = job.targets.iter().map(ToString::to_string).collect();
                    assert_eq!(targets.join(" "), expected);
                }
                (Err(error), Err(expected)) => {
                    assert!(error.to_string().contains(expected), "{text}: {error}");
                }
                (parsed, _) => panic!("{text}: {parsed:?}"),
            }
        }
    }
}
