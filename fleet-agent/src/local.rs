//! A scan without a server, by whoever sits at the node: the same grammar, site policy and engine. Start with
//! [`LocalScan::plan`], or [`LocalScan::listen`] for an mDNS scan.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use fleet_core::{Port, limits};
use fleet_discovery::{
    HostName, LOCAL_SUBNET, Listening, ListeningError, Mode, NodeProfile, PlanError, PlanPolicy,
    PortsError, ScanRequest, Tally, Target, TargetError, parse_ports, plan,
};
use fleet_scan::{Listen, PinnedName, Resolver, Scan, ScanError, ScanSummary, Scanner};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{AgentOptions, Entry, Task},
    site::{self, Unscannable},
};

/// How long a scan may take: nobody waits for a command here.
const BUDGET: Duration = Duration::from_secs(24 * 3_600);

/// A scan that the site allows, not begun yet.
#[derive(Debug)]
pub struct LocalScan {
    task: Task,
    skipped: Vec<Tally>,
    scanner: Scanner,
    resolver: Arc<dyn Resolver>,
}

/// A scan that has started.
#[derive(Debug)]
pub struct RunningScan {
    /// The events.
    pub scan: Scan,
    targets: Vec<IpAddr>,
    names: Vec<PinnedName>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct LocalSummary {
    /// What became of the targets.
    pub scan: ScanSummary,
    /// The targets, in the order of [`ScanSummary::outcomes`].
    pub targets: Vec<IpAddr>,
    /// Names, and what they resolved to or why they were left out.
    pub names: Vec<PinnedName>,
}

/// Why a scan cannot begin. No packet was sent.
#[derive(Debug, thiserror::Error)]
pub enum LocalScanError {
    /// A target cannot be read.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A port cannot be read.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// A service cannot be listened for.
    #[error(transparent)]
    Listening(#[from] ListeningError),
    /// A target cannot be scanned by anybody.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The site does not let it be scanned.
    #[error(transparent)]
    Site(#[from] Unscannable),
    /// There is no subnet that the word could stand for.
    #[error(
        "this machine has no private subnet that may be scanned: name one with --local-subnet, or scan a network by its address"
    )]
    NoLocalSubnet,
    /// More than a scan takes.
    #[error(
        "{0} targets, a name counting as 8: a scan takes {most} at most, so scan one part after the other",
        most = limits::SCAN_TARGETS
    )]
    TooMany(usize),
    /// The scanner cannot begin.
    #[error(transparent)]
    Scan(#[from] ScanError),
}

impl LocalScan {
    /// Reads targets and ports as an operator writes them, and holds them to the site's policy. No ports are the
    /// drivers' defaults.
    ///
    /// # Errors
    ///
    /// [`LocalScanError`] names the first target or port that cannot be scanned, and what would do.
    pub fn plan(
        targets: &[String],
        ports: &[String],
        options: &AgentOptions,
    ) -> Result<Self, LocalScanError> {
        Self::of(targets, None, ports, options)
    }

    /// Reads a type of services and how long to listen for it, 0 for five seconds. Who announces it in the machine's own
    /// subnets is scanned.
    ///
    /// # Errors
    ///
    /// [`LocalScanError`] names what cannot be listened for or scanned, and what would do.
    pub fn listen(
        service_type: &str,
        seconds: i32,
        ports: &[String],
        options: &AgentOptions,
    ) -> Result<Self, LocalScanError> {
        let listening = Listening::read(service_type, "", seconds)?;
        let subnets = [LOCAL_SUBNET.to_owned()];
        Self::of(&subnets, Some(listening), ports, options)
    }

    fn of(
        targets: &[String],
        listening: Option<Listening>,
        ports: &[String],
        options: &AgentOptions,
    ) -> Result<Self, LocalScanError> {
        let policy = Arc::new(options.site.clone());
        let scanner = Scanner::new(options.scan.clone(), Arc::clone(&options.drivers));
        let subnets = options.local_subnets.clone();
        let subnets = policy.local_subnets(&subnets.unwrap_or_else(site::own_subnets));
        let profile = NodeProfile {
            max_targets: limits::COMMAND_TARGETS,
            max_ports: limits::COMMAND_PORTS,
            big_commands: true,
            pins: true,
            local_subnets: subnets.iter().copied().map(Into::into).collect(),
            ..NodeProfile::upstream()
        };
        let named = parse_ports(ports)?;
        for port in &named {
            policy.check_port(*port)?;
        }
        let default_ports = named.is_empty();
        let ports = if default_ports {
            scanner.drivers().default_ports()
        } else {
            named
        };
        let ports: Vec<Port> = ports
            .into_iter()
            .filter(|port| policy.check_port(*port).is_ok())
            .collect();
        let mut selected = Selected::default();
        for text in targets {
            selected.add(text, &profile, &policy)?;
        }
        let (entries, skipped) = (selected.entries, selected.skipped);
        let count = entries.iter().map(Entry::most_addresses).sum();
        if count > limits::SCAN_TARGETS {
            return Err(LocalScanError::TooMany(count));
        }
        if ports.is_empty() {
            return Err(ScanError::NoPorts.into());
        }
        let task = Task {
            entries,
            ports,
            default_ports,
            budget: BUDGET,
            listen: listening.map(|listening| Listen::new(listening, subnets)),
            policy,
        };
        Ok(Self {
            task,
            skipped,
            scanner,
            resolver: Arc::clone(&options.resolver),
        })
    }

    /// Addresses and names.
    pub fn targets(&self) -> usize {
        self.task.entries.len()
    }

    /// The ports that are tried, in this order.
    pub fn ports(&self) -> &[Port] {
        &self.task.ports
    }

    /// Addresses that are left out, by reason.
    pub fn skipped(&self) -> &[Tally] {
        &self.skipped
    }

    /// Looks up the names and starts the scan. After a cancel, the names count as left out and the scan is canceled.
    ///
    /// # Errors
    ///
    /// [`ScanError`] when the scan cannot start.
    pub async fn start(self, cancel: CancellationToken) -> Result<RunningScan, ScanError> {
        let pins = self.task.pin(&*self.resolver);
        let names = match cancel.run_until_cancelled(pins).await {
            Some(names) => names,
            None => canceled(self.task.names()),
        };
        let job = self.task.job(&names);
        let targets = job.targets.clone();
        let scan = self.scanner.scan(job)?;
        if cancel.is_cancelled() {
            scan.cancel();
        }
        Ok(RunningScan {
            scan,
            targets,
            names,
        })
    }
}

impl RunningScan {
    /// Adds the targets and names to the summary of the scan.
    pub fn summarize(self, scan: ScanSummary) -> LocalSummary {
        LocalSummary {
            scan,
            targets: self.targets,
            names: self.names,
        }
    }
}

fn canceled(names: Vec<HostName>) -> Vec<PinnedName> {
    let canceled = |name| PinnedName {
        name,
        addresses: Err("the scan was canceled before it was looked up".to_owned()),
    };
    names.into_iter().map(canceled).collect()
}

/// What targets come to, each address and name once.
#[derive(Debug, Default)]
struct Selected {
    entries: Vec<Entry>,
    seen: BTreeSet<IpAddr>,
    skipped: Vec<Tally>,
}

impl Selected {
    fn add(
        &mut self,
        text: &str,
        profile: &NodeProfile,
        policy: &site::SitePolicy,
    ) -> Result<(), LocalScanError> {
        match text.parse::<Target>()? {
            Target::Name(name) => {
                let entry = Entry::Name(name);
                if !self.entries.contains(&entry) {
                    self.entries.push(entry);
                }
                return Ok(());
            }
            Target::LocalSubnet if profile.local_subnets.is_empty() => {
                return Err(LocalScanError::NoLocalSubnet);
            }
            Target::Address(_) | Target::Network(_) | Target::Span { .. } | Target::LocalSubnet => {
            }
        }
        let request = ScanRequest {
            mode: Mode::Target(text.to_owned()),
            ports: Vec::new(),
        };
        let rules = PlanPolicy {
            addresses: policy.addresses,
            ..PlanPolicy::default()
        };
        let planned = plan(&request, profile, &rules)?;
        for tally in &planned.skipped {
            Tally::add(
                &mut self.skipped,
                &tally.reason,
                tally.count,
                &tally.example,
            );
        }
        for ip in planned
            .chunks
            .iter()
            .flat_map(|chunk| chunk.scope.addresses())
        {
            policy.check_network(ip)?;
            if self.seen.insert(ip) {
                self.entries.push(Entry::Address(ip));
            }
        }
        Ok(())
    }
}
