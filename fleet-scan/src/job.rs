//! What a scan is asked, what it tells while it runs, and what it ends with. Plain values.

use std::{fmt, net::IpAddr, time::Duration};

use fleet_core::{
    DeviceFacts, Endpoint, Port, TargetOutcome,
    limits::{COMMAND_BUDGET, DEFAULT_RATE, SCAN_PORTS},
};

use crate::{guard::Guard, mdns::Listen};

/// How a scanner treats the network. The defaults are polite on a site's own LAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanOptions {
    /// Connection attempts a second, retries and reconnections included.
    pub rate: u32,
    /// Connections at a time, at most 32,768; 0 takes what the rate needs, within three quarters of the limit of
    /// open files and the machine's local ports.
    pub connections: usize,
    /// The shortest wait for an answer to a connection attempt, once round trips to its subnet are known.
    pub timeout_floor: Duration,
    /// The longest such wait, and the first one.
    pub timeout_ceiling: Duration,
    /// Connection attempts to a silent port, 1 to 3. With 1 % loss each way, two find every device.
    pub tries: u8,
    /// How long a device may take for one reply.
    pub reply_timeout: Duration,
    /// How long the identification of one port may take.
    pub identify_timeout: Duration,
    /// Bytes of one reply; what follows is not read.
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
            reply_bytes: 64 * 1024,
        }
    }
}

/// One scan.
#[derive(Debug, Clone)]
pub struct ScanJob {
    /// The addresses, in any order; they are tried in one that spares hosts and subnets.
    pub targets: Vec<IpAddr>,
    /// The ports, at most 64; none means the drivers' default ports, printers' raw ports left out.
    pub ports: Vec<Port>,
    /// Nobody asked for these ports by number, they are defaults: external drivers are asked at their own only.
    pub ports_are_defaults: bool,
    /// What the scan may take; then it ends with what it has.
    pub budget: Duration,
    /// What may be dialed.
    pub guard: Guard,
    /// Only targets that are heard to announce a service are tried; the others are silent.
    pub listen: Option<Listen>,
}

impl ScanJob {
    /// A scan of these addresses with default ports, budget and guard.
    pub fn new(targets: Vec<IpAddr>) -> Self {
        Self {
            targets,
            ports: Vec::new(),
            ports_are_defaults: false,
            budget: COMMAND_BUDGET,
            guard: Guard::default(),
            listen: None,
        }
    }
}

/// What a running scan tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScanEvent {
    /// A device was named. Waits for room in the channel, never lost.
    Found(FoundDevice),
    /// How far the scan is, a few times a second. Left out when the channel is full.
    Progress(ScanProgress),
    /// Something an operator should know; told once a kind, with counts in the summary.
    Note(String),
}

/// How far a scan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanProgress {
    /// Targets about which nothing more will be learned.
    pub done: u64,
    /// All targets.
    pub total: u64,
    /// `listen` while hosts are waited for that announce themselves, `sweep` while connections are still to be tried,
    /// then `identify`.
    pub phase: &'static str,
}

/// A device that a driver named. Texts are printable and fit a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundDevice {
    /// What was dialed, whatever the device claims.
    pub endpoint: Endpoint,
    /// What the device says without a login; the evidence is escaped.
    pub facts: DeviceFacts,
    /// The scan was interrupted before every port of the host had answered: another one might have named it better.
    pub provisional: bool,
}

/// What became of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanSummary {
    /// The best that was learned of each target, in the order of the job.
    pub outcomes: Vec<TargetOutcome>,
    /// Devices that were sent to the sink.
    pub found: u64,
    /// Skips, slow-downs and driver trouble, at most 64 of at most 512 characters.
    pub notes: Vec<String>,
    /// Why it ended before every target was tried, if it did.
    pub interrupted: Option<Interruption>,
    /// How often a driver crashed or could not work.
    pub driver_crashes: u64,
}

impl ScanSummary {
    /// Whether every target was tried with working drivers.
    pub fn is_complete(&self) -> bool {
        self.interrupted.is_none()
            && self.driver_crashes == 0
            && !self.outcomes.contains(&TargetOutcome::NotReached)
    }

    /// How many targets have this outcome.
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
    /// The caller's token fired.
    Canceled,
    /// The budget of the job is spent.
    BudgetSpent,
    /// Nobody listens any more.
    SinkClosed,
}

impl fmt::Display for Interruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Canceled => "the scan was canceled",
            Self::BudgetSpent => "the time for the scan was over",
            Self::SinkClosed => "nobody was left to take the results",
        })
    }
}

/// Why a scan could not begin; no packet was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// More ports than a scan can name.
    #[error("{0} ports are too many for one scan; name at most {SCAN_PORTS}")]
    TooManyPorts(usize),
    /// Neither the job nor a driver names a port.
    #[error(
        "no ports to scan: name some, since the drivers have no default ports that may be touched unasked"
    )]
    NoPorts,
    /// The system gives no means to wait for answers.
    #[error("answers cannot be waited for: {0}; raise the limit of open files if they are used up")]
    Poller(std::io::ErrorKind),
}
