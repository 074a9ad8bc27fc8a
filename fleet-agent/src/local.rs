//! A local scan without a server, with the same grammar, site policy and engine. Start with [`LocalScan::plan`], or
//! [`LocalScan::listen`] for an mDNS scan.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use fleet_core::{Port, limits};
use fleet_discovery::{
    HostName, LOCAL_SUBNET, Listening, ListeningError, Mode, NodeProfile, PlanError, PlanPolicy,
    PortsError, ScanRequest, Tally, Target, TargetEntry, TargetError, TargetSet, parse_ports, plan,
};
use fleet_scan::{Listen, PinnedName, Resolver, Scan, ScanError, ScanSummary, Scanner};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{AgentOptions, Entry, ScanTask, denied_ports_note},
    site::{PolicyViolation, SitePolicy},
};

/// Time limit of a scan. No server waits for it.
const BUDGET: Duration = Duration::from_secs(24 * 3_600);

/// A scan that the site permits and that has not started.
#[derive(Debug)]
pub struct LocalScan {
    task: ScanTask,
    skipped: Vec<Tally>,
    scanner: Scanner,
    resolver: Arc<dyn Resolver>,
}

/// A local scan that has started.
#[derive(Debug)]
pub struct RunningScan {
    /// The stream of events.
    pub scan: Scan,
    targets: Vec<IpAddr>,
    names: Vec<PinnedName>,
}

/// The result of a local scan.
#[derive(Clone, Debug)]
pub struct LocalSummary {
    /// The outcomes of the targets.
    pub scan: ScanSummary,
    /// The targets, in the order of [`ScanSummary::outcomes`].
    pub targets: Vec<IpAddr>,
    /// The names, with their addresses or the reason why they were skipped.
    pub names: Vec<PinnedName>,
}

/// Why a scan cannot start. No packet was sent.
#[derive(Debug, thiserror::Error)]
pub enum LocalScanError {
    /// A target is invalid.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A port is invalid.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// An mDNS service, or its duration, is invalid.
    #[error(transparent)]
    Listening(#[from] ListeningError),
    /// A target may not be scanned by any node.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The site forbids a target or port.
    #[error(transparent)]
    Site(#[from] PolicyViolation),
    /// There is no local subnet to scan.
    #[error(
        "this machine has no private subnet that may be scanned; specify one with --local-subnet, or scan a network by its address"
    )]
    NoLocalSubnet,
    /// The targets exceed the limit of one scan.
    #[error(
        "{0} targets (a name counts as 8) exceed the limit of one scan, {most}; scan them in parts",
        most = limits::SCAN_TARGETS
    )]
    TooMany(usize),
    /// The scanner cannot start.
    #[error(transparent)]
    Scan(#[from] ScanError),
}

impl LocalScan {
    /// Plans a scan from targets and ports as an operator writes them, within the site policy. Without ports, the
    /// drivers' default ports are scanned.
    ///
    /// # Errors
    ///
    /// [`LocalScanError`] names the first invalid target or port, and what would be accepted.
    pub fn plan(
        targets: &[String],
        ports: &[String],
        options: &AgentOptions,
    ) -> Result<Self, LocalScanError> {
        Self::of(targets, None, ports, options)
    }

    /// Plans an mDNS scan: hosts in the local subnets that announce the service within `seconds` (0 means five seconds)
    /// are scanned.
    ///
    /// # Errors
    ///
    /// [`LocalScanError`] names the invalid value, and what would be accepted.
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
        let subnets = policy.local_subnets(options.local_subnets.as_deref());
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
        let (ports, denied): (Vec<Port>, Vec<Port>) = ports
            .into_iter()
            .partition(|port| policy.check_port(*port).is_ok());
        let mut selected = Selected::default();
        selected.add(targets, &profile, &policy)?;
        let (entries, skipped) = (selected.entries, selected.skipped);
        if let Some(violation) = selected.outside.filter(|_| entries.is_empty()) {
            return Err(violation.into());
        }
        let count = entries.iter().map(Entry::max_addresses).sum();
        if count > limits::SCAN_TARGETS {
            return Err(LocalScanError::TooMany(count));
        }
        if ports.is_empty() {
            return Err(ScanError::NoPorts.into());
        }
        let task = ScanTask {
            host_names: options.host_names(),
            note_hosts: true,
            link_identity: true,
            entries,
            ports,
            default_ports,
            listed: fleet_discovery::is_explicit(targets),
            budget: BUDGET,
            rate: 0,
            listen: listening.map(|listening| Listen::new(listening, subnets.clone())),
            local_subnets: subnets,
            policy,
            notes: denied_ports_note(&denied).into_iter().collect(),
        };
        Ok(Self {
            task,
            skipped,
            scanner,
            resolver: Arc::clone(&options.resolver),
        })
    }

    /// The number of addresses and names.
    pub fn targets(&self) -> usize {
        self.task.entries.len()
    }

    /// The ports to scan, in order.
    pub fn ports(&self) -> &[Port] {
        &self.task.ports
    }

    /// What the site policy removed from the scan, as sentences.
    pub fn notes(&self) -> &[String] {
        &self.task.notes
    }

    /// Skipped addresses, by reason.
    pub fn skipped(&self) -> &[Tally] {
        &self.skipped
    }

    /// Resolves the names and starts the scan. After a cancel the names are not looked up, and the scan is canceled.
    ///
    /// # Errors
    ///
    /// [`ScanError`] if the scan cannot start.
    pub async fn start(self, cancel: CancellationToken) -> Result<RunningScan, ScanError> {
        let pins = self.task.pin(&*self.resolver);
        let names = match cancel.run_until_cancelled(pins).await {
            Some(names) => names,
            None => self.task.names().into_iter().map(not_looked_up).collect(),
        };
        let job = self.task.job(&names);
        let targets = job.targets.clone();
        let scan = self.scanner.scan(job)?;
        // It was started all the same, because its stream ends with the summary.
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

fn not_looked_up(name: HostName) -> PinnedName {
    PinnedName {
        name,
        addresses: Err("the scan was canceled before the lookup".to_owned()),
        lookup_failed: true,
    }
}

/// The planned targets; each address and name occurs once.
#[derive(Debug, Default)]
struct Selected {
    entries: Vec<Entry>,
    seen: BTreeSet<IpAddr>,
    skipped: Vec<Tally>,
    /// The first address outside the allow-list.
    outside: Option<PolicyViolation>,
}

impl Selected {
    fn add(
        &mut self,
        targets: &[String],
        profile: &NodeProfile,
        policy: &SitePolicy,
    ) -> Result<(), LocalScanError> {
        let set = TargetSet::parse(targets)?;
        let local = TargetEntry::Target(Target::LocalSubnet);
        if set.included().contains(&local) && profile.local_subnets.is_empty() {
            return Err(LocalScanError::NoLocalSubnet);
        }
        for name in set.names() {
            let entry = Entry::Name(name.clone());
            if !self.entries.contains(&entry) {
                self.entries.push(entry);
            }
        }
        let request = ScanRequest {
            mode: Mode::List(targets.to_vec()),
            ports: Vec::new(),
            rate: 0,
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
            if let Err(violation) = policy.check_network(ip) {
                self.outside.get_or_insert(violation);
                let reason = "outside the networks that this site allows";
                Tally::add(&mut self.skipped, reason, 1, &ip.to_string());
                continue;
            }
            if self.seen.insert(ip) {
                self.entries.push(Entry::Address(ip));
            }
        }
        Ok(())
    }
}
