//! One running scan: takes the events of the sweep, runs drivers on open connections, and sends what it finds.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use fleet_core::{Endpoint, HostReport, Mac, Port, TargetOutcome};
use fleet_discovery::Gaps;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Scanner,
    host::{Host, PortVerdict},
    identify::{self, DriverFailure, Identified, identify, identify_external},
    naming::Naming,
    onlink::Neighbor,
    order::Order,
    sweep::{Absence, ConnectOutcome, Lease, Sweep, SweepEvent},
    targets::Targets,
    unidentified::UnidentifiedHosts,
};
use crate::{
    dial::Dialer,
    driver::DriverSet,
    job::{
        FoundDevice, Interruption, SILENT_TARGETS, ScanEvent, ScanJob, ScanOptions, ScanPhase,
        ScanProgress, ScanSummary,
    },
    mdns::{Attributes, Listener, MdnsEvent},
    notes::Notes,
};

/// How often progress is sent.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// How long a device that reports no identity waits for its hardware address.
const IDENTITY_WAIT: Duration = Duration::from_secs(5);

/// Requests in the row of an unidentified host.
const REQUESTS: usize = 16;

/// Services whose attributes are kept. Each takes up to two kilobytes.
const ATTRIBUTES: usize = 16_384;

/// Batches of sweep events that may wait.
const SWEEP_BATCHES: usize = 8;

/// The result of the drivers for a port, or of external drivers for a host.
enum Answered {
    Port(u32, u8, Identified),
    External(u32, u8, Identified),
    /// At a host that sent nothing.
    Silent(u32, u8, Identified),
}

pub(super) struct Run {
    options: ScanOptions,
    drivers: Arc<DriverSet>,
    /// The targets as the job lists them.
    requested_targets: Vec<IpAddr>,
    targets: Arc<Targets>,
    ports: Arc<[Port]>,
    /// External drivers may be asked about silent hosts.
    may_ask_silent: bool,
    /// The job names the ports by number; otherwise they are defaults.
    ports_requested: bool,
    precedences: Vec<u8>,
    hosts: Vec<Host>,
    dialer: Arc<Dialer>,
    sink: mpsc::Sender<ScanEvent>,
    cancel: CancellationToken,
    deadline: Instant,
    sweep: Sweep,
    /// None once listening has ended.
    listener: Option<Listener>,
    /// The hardware address of each host on the link, once all are known.
    neighbors: Option<BTreeMap<u32, Neighbor>>,
    /// Devices that wait for their hardware address, with the time of their arrival.
    nameless: VecDeque<(Instant, u32, FoundDevice)>,
    /// Unidentified hosts that wait for their hardware address.
    unreported: VecDeque<(Instant, u32)>,
    /// The requests to hosts whose ports are not all settled, unless a port was identified.
    sent: BTreeMap<u32, Vec<String>>,
    identifying: JoinSet<Answered>,
    /// The order of the announcements, if events follow it.
    order: Option<Order<ScanEvent>>,
    naming: Naming,
    notes: Notes,
    /// Whether unidentified hosts are described in notes, too.
    note_hosts: bool,
    /// Whether the hardware address of the link identifies a device that shows nothing else.
    link_identity: bool,
    /// The attributes of the services that hosts announced.
    attributes: BTreeMap<Endpoint, Attributes>,
    /// The host that first showed each MAC.
    macs: BTreeMap<Mac, IpAddr>,
    unidentified: UnidentifiedHosts,
    done: u64,
    settled_endpoints: u64,
    found: u64,
    driver_failures: u64,
    interrupted: Option<Interruption>,
}

impl Run {
    /// Starts the sweep and returns the future that drives the scan. Dropping the future stops the sweep.
    ///
    /// # Errors
    /// When the system provides no poller or no thread.
    pub(super) fn start(
        scanner: &Scanner,
        job: ScanJob,
        ports: Vec<Port>,
        ports_requested: bool,
        sink: mpsc::Sender<ScanEvent>,
        cancel: CancellationToken,
    ) -> io::Result<impl Future<Output = ()> + use<>> {
        let targets = Arc::new(Targets::new(&job.targets));
        let ports: Arc<[Port]> = ports.into();
        let naming = Naming::new(job.names, &job.guard);
        let mut options = scanner.options.clone();
        if job.rate > 0 {
            options.rate = options.rate.min(job.rate);
        }
        let dialer = Arc::new(Dialer::new(&options, job.guard));
        let (out, events) = mpsc::channel(SWEEP_BATCHES);
        let sweep = Sweep::start(
            Arc::clone(&targets),
            Arc::clone(&ports),
            Arc::clone(&dialer),
            &options,
            job.listen.is_some(),
            out,
        )?;
        let reports = job
            .listen
            .as_ref()
            .is_some_and(|listen| listen.listening.service.is_ip_reports());
        let listener = job
            .listen
            .map(|listen| Listener::start(listen, targets.len()));
        let precedence = |port: &Port| scanner.drivers.precedence_at(*port);
        let run = Self {
            options,
            drivers: Arc::clone(&scanner.drivers),
            may_ask_silent: job.listed && targets.len() <= SILENT_TARGETS,
            requested_targets: job.targets,
            ports_requested,
            precedences: ports.iter().map(precedence).collect(),
            hosts: vec![Host::new(ports.len()); targets.len()],
            targets,
            ports,
            dialer,
            sink,
            cancel,
            deadline: Instant::now() + job.budget,
            sweep,
            listener,
            neighbors: None,
            nameless: VecDeque::new(),
            unreported: VecDeque::new(),
            sent: BTreeMap::new(),
            identifying: JoinSet::new(),
            order: reports.then(Order::default),
            naming,
            note_hosts: job.note_hosts,
            link_identity: job.link_identity,
            notes: Notes::default(),
            attributes: BTreeMap::new(),
            macs: BTreeMap::new(),
            unidentified: UnidentifiedHosts::default(),
            done: 0,
            settled_endpoints: 0,
            found: 0,
            driver_failures: 0,
            interrupted: None,
        };
        Ok(run.drive(events))
    }

    async fn drive(mut self, mut events: mpsc::Receiver<Vec<SweepEvent>>) {
        let mut tick = interval(PROGRESS_INTERVAL);
        // After a pause one figure is enough. The default would send one for each missed tick.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let cancel = self.cancel.clone();
        self.note_broken_drivers().await;
        let mut sweeping = true;
        while self.interrupted.is_none()
            && (sweeping || !self.identifying.is_empty() || !self.naming.is_empty())
        {
            tokio::select! {
                biased;
                // A cancel must not wait behind results. Finished drivers free connections before
                // new ones come.
                () = cancel.cancelled() => self.interrupt(Interruption::Canceled),
                () = sleep_until(self.deadline) => {
                    // Only names are missing, which is no reason to call the scan incomplete.
                    if !sweeping && self.identifying.is_empty() {
                        break;
                    }
                    self.interrupt(Interruption::BudgetSpent);
                }
                _ = tick.tick() => {
                    self.deliver_nameless(Some(IDENTITY_WAIT)).await;
                    self.send_progress(sweeping);
                }
                Some(answered) = self.identifying.join_next(), if !self.identifying.is_empty() => {
                    // Only an aborted task ends in an error. `identify.rs` catches the panics of
                    // drivers.
                    if let Ok(answered) = answered {
                        self.identified(answered).await;
                    }
                }
                named = self.naming.next(), if !self.naming.is_empty() => {
                    if let Some((host, event)) = named {
                        self.deliver_event(host, event).await;
                    }
                }
                batch = events.recv(), if sweeping => match batch {
                    Some(batch) => self.handle(batch).await,
                    None => sweeping = false,
                },
                Some(event) = next_announcement(&mut self.listener) => self.handle_mdns(event).await,
            }
            self.advance().await;
        }
        self.listener = None;
        self.sweep.stop();
        // The sweep closes its channel after its last socket.
        while events.recv().await.is_some() {}
        // Waits for the aborted tasks, so no connection is open once the scan has ended.
        self.identifying.shutdown().await;
        if self.naming.is_given_up() {
            let kind = "host names are missing, because no name server answered";
            self.note(kind, "").await;
        }
        for (host, event) in self.naming.end().await {
            self.deliver_event(host, event).await;
        }
        self.deliver_pending().await;
        for event in self.order.take().map(Order::into_rest).unwrap_or_default() {
            self.send(event).await;
        }
        self.judge_unreachable().await;
        self.send_progress(false);
        let sink = self.sink.clone();
        let summary = self.summarize();
        // A failure means that the stream was dropped.
        let _ = sink.send(ScanEvent::Ended(summary)).await;
    }

    /// Decides the outcome of hosts in subnets that the network reports as unreachable. If another host of the subnet
    /// answered, a router on its link found the others absent. Otherwise the router may have refused to forward, and
    /// then silence proves nothing either: routers limit the rate of their reports (RFC 1812, 4.3.2.8; Linux sends one
    /// per second to each source), so most probes get none.
    async fn judge_unreachable(&mut self) {
        let subnets = self.targets.subnets();
        let mut has_answer = vec![false; subnets];
        let mut is_reported = vec![false; subnets];
        let answered = |outcome| {
            matches!(
                outcome,
                TargetOutcome::Refused | TargetOutcome::Unidentified | TargetOutcome::Identified
            )
        };
        for (host, state) in (0..).zip(&self.hosts) {
            let subnet = self.targets.subnet(host);
            has_answer[subnet] |= answered(state.outcome());
            is_reported[subnet] |= state.is_unreachable();
        }
        let mut unreachable = Vec::new();
        for (host, state) in (0..).zip(&mut self.hosts) {
            let subnet = self.targets.subnet(host);
            if has_answer[subnet] {
                state.unreachable_is_silent();
            } else if is_reported[subnet] {
                state.silence_is_not_reached();
                unreachable.push(host);
            }
        }
        let kind = "the network reports targets as unreachable (check routes and firewalls)";
        for host in unreachable {
            let address = self.targets.address(host);
            let example = address.map_or_else(String::new, |address| address.to_string());
            self.note(kind, &example).await;
        }
    }

    fn summarize(self) -> ScanSummary {
        let outcome = |target: &IpAddr| {
            let host = self.targets.host(*target);
            let host = host.and_then(|host| self.hosts.get(host));
            host.map(Host::outcome).unwrap_or_default()
        };
        let summary = ScanSummary {
            outcomes: self.requested_targets.iter().map(outcome).collect(),
            gaps: self.gaps(),
            found: self.found,
            notes: [self.notes.into_texts(), self.unidentified.into_texts()].concat(),
            interrupted: self.interrupted,
        };
        self.sweep.join();
        summary
    }

    fn gaps(&self) -> Gaps {
        let untried = self
            .hosts
            .iter()
            .map(|host| u64::from(host.untried_ports()));
        Gaps {
            partly_tried: untried.clone().filter(|ports| *ports > 0).count() as u64,
            untried_ports: untried.sum(),
            cut_off: self.hosts.iter().filter(|host| host.is_cut_off()).count() as u64,
            driver_failures: self.driver_failures,
        }
    }

    async fn handle(&mut self, batch: Vec<SweepEvent>) {
        for event in batch {
            // After an interruption the remaining events do not count.
            if self.interrupted.is_some() {
                return;
            }
            match event {
                SweepEvent::Settled { host, port, reach } => self.settled(host, port, reach).await,
                SweepEvent::Absent { host, absence } => self.absent(host, absence).await,
                SweepEvent::Neighbors(neighbors) => {
                    self.neighbors = Some(neighbors);
                    self.deliver_nameless(None).await;
                }
                SweepEvent::Note(kind, example) => self.note(kind, &example).await,
            }
        }
    }

    async fn handle_mdns(&mut self, event: MdnsEvent) {
        match event {
            MdnsEvent::Service(at, attributes) => self.announced(at, attributes).await,
            MdnsEvent::Host(ip) => self.reported(ip).await,
            MdnsEvent::Hint(ip) => self.hinted(ip),
            MdnsEvent::Note(kind, example) => self.note(kind, &example).await,
            MdnsEvent::Ended { is_complete } => {
                self.listener = None;
                if let Some(order) = &mut self.order {
                    order.end_announcements();
                }
                self.sweep.end_announcements(if is_complete {
                    Absence::Silent
                } else {
                    Absence::ListenFailed
                });
            }
        }
    }

    /// Announcements are not authenticated, so only targets are dialed, and only at the ports of the scan.
    async fn announced(&mut self, at: Endpoint, attributes: Attributes) {
        let host = self.targets.host(at.ip);
        // Less than 2^32 hosts.
        let Some(host) = host.map(|host| host as u32) else {
            let kind = "mDNS named hosts that are not among the targets";
            return self.note(kind, &at.ip.to_string()).await;
        };
        if !attributes.is_empty() && self.attributes.len() < ATTRIBUTES {
            self.attributes.entry(at).or_insert(attributes);
        }
        self.sweep.announce(host);
        if !self.ports.contains(&at.port) {
            let kind = "mDNS named services at ports that this scan does not cover";
            self.note(kind, &at.to_string()).await;
        }
    }

    /// Dials a device that announced itself, if it is a target. The announcement is a hint and no more.
    async fn reported(&mut self, ip: IpAddr) {
        let Some(host) = self.targets.host(ip).map(|host| host as u32) else {
            let kind = "devices announced addresses that are not among the targets";
            return self.note(kind, &ip.to_string()).await;
        };
        if let Some(order) = &mut self.order {
            order.add(host);
        }
        self.sweep.announce(host);
    }

    /// Dials a host that is present. Its events follow those of the hosts that announce themselves. Hosts that are not
    /// targets are everyday traffic.
    fn hinted(&mut self, ip: IpAddr) {
        let Some(host) = self.targets.host(ip).map(|host| host as u32) else {
            return;
        };
        if let Some(order) = &mut self.order {
            order.hint(host);
        }
        self.sweep.announce(host);
    }

    async fn settled(&mut self, host: u32, port: u8, reach: ConnectOutcome) {
        let verdict = match reach {
            ConnectOutcome::Open(stream, lease) => match TcpStream::from_std(stream) {
                Ok(stream) => return self.start_identifying(host, port, stream, lease),
                Err(error) => {
                    self.note("some connections were lost", &error.to_string())
                        .await;
                    PortVerdict::NotReached
                }
            },
            ConnectOutcome::Refused => PortVerdict::Refused,
            ConnectOutcome::Silent => PortVerdict::Silent,
            ConnectOutcome::Unreachable => PortVerdict::Unreachable,
            ConnectOutcome::NotReached(kind, example) => {
                self.note(kind, &example).await;
                PortVerdict::NotReached
            }
            ConnectOutcome::Forbidden(reason) => {
                self.note("skipped", &reason).await;
                PortVerdict::Skipped
            }
        };
        self.conclude(host, port, verdict).await;
    }

    async fn absent(&mut self, host: u32, absence: Absence) {
        let verdict = match absence {
            Absence::Silent => PortVerdict::Silent,
            Absence::ListenFailed | Absence::NoPath => PortVerdict::NotReached,
            Absence::NoRoom => {
                let address = self.targets.address(host);
                let example = address.map_or_else(String::new, |address| address.to_string());
                let kind = "the neighbor table of this machine had no room for some targets";
                self.note(kind, &example).await;
                PortVerdict::NotReached
            }
        };
        // At most 64 ports.
        for port in 0..self.ports.len() as u8 {
            self.conclude(host, port, verdict.clone()).await;
        }
    }

    fn start_identifying(&mut self, host: u32, port: u8, stream: TcpStream, lease: Lease) {
        let Some(endpoint) = self.endpoint(host, port) else {
            return;
        };
        let identifying = identify(
            self.drivers.at(endpoint.port),
            Arc::clone(&self.dialer),
            self.options.clone(),
            endpoint,
            stream,
            self.attributes.get(&endpoint).cloned().unwrap_or_default(),
        );
        self.identifying.spawn(async move {
            let identified = identifying.await;
            // The lease moves into the task, because the connection counts at its host until the
            // drivers end.
            drop(lease);
            Answered::Port(host, port, identified)
        });
    }

    async fn identified(&mut self, answered: Answered) {
        match answered {
            Answered::Port(host, port, identified) => {
                let Identified {
                    verdict,
                    failures,
                    sent,
                } = identified;
                self.note_failures(failures).await;
                self.add_sent(host, &verdict, sent);
                self.conclude(host, port, verdict).await;
            }
            Answered::External(host, port, identified) => {
                let Identified {
                    verdict, failures, ..
                } = identified;
                self.note_failures(failures).await;
                self.conclude_external(host, port, verdict).await;
            }
            Answered::Silent(host, port, identified) => {
                let Identified {
                    verdict, failures, ..
                } = identified;
                self.note_failures(failures).await;
                // Without an identification, the host stays silent.
                match verdict {
                    PortVerdict::Named(..) => self.conclude_external(host, port, verdict).await,
                    PortVerdict::Skipped
                    | PortVerdict::NotReached
                    | PortVerdict::Silent
                    | PortVerdict::Unreachable
                    | PortVerdict::Refused
                    | PortVerdict::Unidentified(_)
                    | PortVerdict::CutOff(_) => self.finish(host).await,
                }
            }
        }
    }

    async fn note_failures(&mut self, failures: Vec<DriverFailure>) {
        for DriverFailure { kind, endpoint } in failures {
            self.driver_failures += 1;
            self.note(&kind, &endpoint.to_string()).await;
        }
    }

    /// Reports drivers that are known not to work. Otherwise a scan that never needs them would look complete.
    async fn note_broken_drivers(&mut self) {
        let drivers = Arc::clone(&self.drivers);
        for driver in drivers.external() {
            if let Some(failure) = driver.trouble() {
                self.driver_failures += 1;
                self.note(&identify::kind(driver.name(), &failure), "")
                    .await;
            }
        }
    }

    async fn conclude(&mut self, host: u32, port: u8, verdict: PortVerdict) {
        let Some(state) = self.hosts.get_mut(host as usize) else {
            return;
        };
        self.settled_endpoints += 1;
        let devices = state.conclude(usize::from(port), verdict, &self.precedences);
        let is_done = state.is_done();
        for device in devices {
            self.deliver_identified(host, device).await;
        }
        // Last, because the built-in drivers bound every byte and try no login (decision 0018).
        if is_done && !self.ask_external(host) {
            self.finish(host).await;
        }
    }

    /// Passes an unidentified or silent host to the external drivers. Returns whether any driver applies.
    fn ask_external(&mut self, host: u32) -> bool {
        let Some(state) = self.hosts.get(host as usize) else {
            return false;
        };
        let is_silent = self.may_ask_silent && state.is_silent();
        let ports: Vec<u8> = if is_silent {
            // At most 64 ports.
            (0..self.ports.len() as u8).collect()
        } else {
            state.unidentified_ports().collect()
        };
        let drivers_at = |port: Port| {
            if is_silent {
                self.drivers.silent_at(port)
            } else {
                self.drivers.external_at(port, self.ports_requested)
            }
        };
        let questions: Vec<_> = ports
            .into_iter()
            .filter_map(|port| Some((port, self.endpoint(host, port)?)))
            .map(|(port, endpoint)| (port, endpoint, drivers_at(endpoint.port)))
            .filter(|(_, _, drivers)| !drivers.is_empty())
            .collect();
        if questions.is_empty() || self.interrupted.is_some() {
            return false;
        }
        let (dialer, options) = (Arc::clone(&self.dialer), self.options.clone());
        let asking = identify_external(questions, dialer, options);
        self.identifying.spawn(async move {
            let (port, identified) = asking.await;
            if is_silent {
                Answered::Silent(host, port, identified)
            } else {
                Answered::External(host, port, identified)
            }
        });
        true
    }

    async fn conclude_external(&mut self, host: u32, port: u8, verdict: PortVerdict) {
        let Some(state) = self.hosts.get_mut(host as usize) else {
            return;
        };
        for device in state.conclude_external(port, verdict) {
            self.deliver_identified(host, device).await;
        }
        self.finish(host).await;
    }

    async fn finish(&mut self, host: u32) {
        self.done += 1;
        if let Some(order) = &mut self.order {
            order.finish(host);
        }
        let state = self.hosts.get(host as usize);
        let Some((port, reply)) = state.and_then(Host::unidentified_reply) else {
            self.sent.remove(&host);
            return;
        };
        // At most 64 ports.
        if self.note_hosts
            && let Some(endpoint) = self.endpoint(host, port as u8)
            && let Some(text) = self.unidentified.add(endpoint, reply)
        {
            self.send(ScanEvent::Note(text)).await;
        }
        if self.neighbors.is_none() && self.sweep.is_on_link(host) {
            self.unreported.push_back((Instant::now(), host));
        } else {
            self.report_unidentified(host).await;
        }
    }

    /// Keeps the requests to a host that may end as unidentified.
    fn add_sent(&mut self, host: u32, verdict: &PortVerdict, sent: Vec<String>) {
        if matches!(verdict, PortVerdict::Named(..)) {
            self.sent.remove(&host);
            return;
        }
        let known = self.sent.entry(host).or_default();
        for line in sent {
            if known.len() < REQUESTS && !known.contains(&line) {
                known.push(line);
            }
        }
    }

    async fn report_unidentified(&mut self, host: u32) {
        let state = self.hosts.get(host as usize);
        let (Some(state), Some(ip)) = (state, self.targets.address(host)) else {
            return;
        };
        let Some((reply_port, reply)) = state.unidentified_reply() else {
            return;
        };
        let port = |port: u8| self.ports.get(usize::from(port)).copied();
        let mut open_ports: Vec<Port> = state.open_ports().filter_map(port).collect();
        open_ports.sort_unstable();
        let neighbor = self.neighbors.as_ref().and_then(|all| all.get(&host));
        let report = HostReport {
            ip,
            mac: neighbor.and_then(|neighbor| neighbor.own()),
            name: None,
            open_ports,
            reply_port: self
                .ports
                .get(reply_port)
                .copied()
                .filter(|_| !reply.is_empty()),
            reply: reply.to_owned(),
            requests: self.sent.remove(&host).unwrap_or_default(),
        };
        self.emit(host, ScanEvent::Unidentified(report)).await;
    }

    /// A device on the link that reports no identity waits for its hardware address. An address that answers for
    /// several hosts belongs to a router, which is known only after the last host.
    async fn deliver_identified(&mut self, host: u32, device: FoundDevice) {
        let waits = self.link_identity
            && device.facts.mac.is_none()
            && device.facts.serial.is_none()
            && self.neighbors.is_none()
            && self.sweep.is_on_link(host);
        if waits {
            self.nameless.push_back((Instant::now(), host, device));
        } else {
            self.deliver(host, device).await;
        }
    }

    /// Delivers the devices and unidentified hosts that waited for at least `waited`, or all of them.
    async fn deliver_nameless(&mut self, waited: Option<Duration>) {
        let late = |since: Instant| waited.is_none_or(|waited| since.elapsed() >= waited);
        while let Some((_, host, device)) = self.nameless.pop_front_if(|(since, ..)| late(*since)) {
            self.deliver(host, device).await;
        }
        while let Some((_, host)) = self.unreported.pop_front_if(|(since, _)| late(*since)) {
            self.report_unidentified(host).await;
        }
    }

    async fn deliver(&mut self, host: u32, mut device: FoundDevice) {
        let neighbor = self.neighbors.as_ref().and_then(|all| all.get(&host));
        if let Some(neighbor) = neighbor.filter(|_| self.link_identity) {
            neighbor.apply_to(&mut device.facts);
        }
        // Firmware writes one default MAC into many devices. The second host that shows it is a device of its own,
        // without that MAC; which of the two owns it cannot be known.
        if let Some(mac) = device.facts.mac {
            let first = *self.macs.entry(mac).or_insert(device.endpoint.ip);
            if first != device.endpoint.ip {
                device.facts.mac = None;
                let kind = format!("several hosts show the MAC {mac}, such as {first}");
                self.note(&kind, &device.endpoint.to_string()).await;
            }
        }
        self.found += u64::from(self.emit(host, ScanEvent::Found(device)).await);
    }

    /// Sends an event about a host: after the lookup of its name, and in the order of the announcements if the scan has
    /// one. Returns whether the stream exists.
    async fn emit(&mut self, host: u32, event: ScanEvent) -> bool {
        let ip = self.targets.address(host);
        match self.naming.begin(host, ip, event) {
            Some(event) => self.deliver_event(host, event).await,
            None => true,
        }
    }

    async fn deliver_event(&mut self, host: u32, event: ScanEvent) -> bool {
        match &mut self.order {
            Some(order) => match order.take(host, event) {
                Some(event) => self.send(event).await,
                None => true,
            },
            None => self.send(event).await,
        }
    }

    /// Sends the events that waited for hosts that are settled now.
    async fn advance(&mut self) {
        let Some(order) = &mut self.order else {
            return;
        };
        let waits = |host: u32| {
            self.nameless.iter().any(|(_, other, _)| *other == host)
                || self.unreported.iter().any(|(_, other)| *other == host)
                || self.naming.has(host)
        };
        for event in order.advance(waits) {
            self.send(event).await;
        }
    }

    async fn note(&mut self, kind: &str, example: &str) {
        if let Some(text) = self.notes.add(kind, example) {
            self.send(ScanEvent::Note(text)).await;
        }
    }

    /// Waits for room in the stream. An interruption in the meantime takes effect at once, and the event is still
    /// delivered. Returns whether the stream exists.
    async fn send(&mut self, event: ScanEvent) -> bool {
        if self.interrupted.is_none() {
            let interruption = tokio::select! {
                biased;
                permit = self.sink.reserve() => {
                    return permit.map(|permit| permit.send(event)).is_ok();
                }
                () = self.cancel.cancelled() => Interruption::Canceled,
                () = sleep_until(self.deadline) => Interruption::BudgetSpent,
            };
            self.interrupt(interruption);
        }
        self.sink.send(event).await.is_ok()
    }

    /// Closes every connection at once.
    fn interrupt(&mut self, why: Interruption) {
        self.interrupted = Some(why);
        self.sweep.stop();
        self.identifying.abort_all();
    }

    /// Delivers devices that waited for a better answer or for their hardware address.
    async fn deliver_pending(&mut self) {
        self.deliver_nameless(None).await;
        for host in 0..self.hosts.len() {
            let devices = self.hosts.get_mut(host).map(Host::flush);
            for device in devices.unwrap_or_default() {
                // Less than 2^32 hosts.
                self.deliver(host as u32, device).await;
            }
        }
    }

    fn send_progress(&self, sweeping: bool) {
        let phase = match &self.listener {
            Some(_) => ScanPhase::Listen,
            None if sweeping => ScanPhase::Sweep,
            None => ScanPhase::Identify,
        };
        // The sweep finishes blocks of hosts port by port. Endpoints advance in the meantime.
        let swept = self.settled_endpoints / (self.ports.len() as u64).max(1);
        let progress = ScanProgress {
            done: self.done.max(swept),
            total: self.targets.len() as u64,
            phase,
        };
        // If the channel is full, the next figure replaces this one.
        let _ = self.sink.try_send(ScanEvent::Progress(progress));
    }

    fn endpoint(&self, host: u32, port: u8) -> Option<Endpoint> {
        Some(Endpoint {
            ip: self.targets.address(host)?,
            port: *self.ports.get(usize::from(port))?,
        })
    }
}

/// The next mDNS event; none if nobody listens.
async fn next_announcement(listener: &mut Option<Listener>) -> Option<MdnsEvent> {
    Some(listener.as_mut()?.next().await)
}
