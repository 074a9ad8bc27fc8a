//! The scanner: sweeps for reachability, identifies what answers while the sweep goes on, and tells what it finds.
//!
//! [`Scanner::run`] first. Reachability is `engine/sweep.rs` around `engine/schedule.rs` and `engine/sockets.rs`, the
//! questions are `engine/identify.rs`, what is known of an address `engine/host.rs`, of neighbors `engine/onlink.rs`. All
//! but sweep, sockets, questions and the ends of `onlink` are pure. A job that listens first (`mdns.rs`) holds every host
//! until it was heard (`engine/awaited.rs`).

mod awaited;
mod host;
mod identify;
mod onlink;
mod schedule;
mod sockets;
mod strangers;
mod sweep;
mod targets;
mod untold;
mod walk;

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use fleet_core::{Endpoint, Port, TargetOutcome, limits::SCAN_PORTS};
use host::{Host, PortVerdict};
use identify::{Identified, Trouble, identify, identify_outside};
use onlink::Neighbor;
use strangers::Strangers;
use sweep::{Absence, Lease, Reach, Sweep, Swept};
use targets::Targets;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    dial::Dialler,
    driver::DriverSet,
    job::{
        FoundDevice, Interruption, ScanError, ScanEvent, ScanJob, ScanOptions, ScanProgress,
        ScanSummary,
    },
    mdns::{Listener, Word},
    notes::Notes,
};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// How long a device without an identity of its own waits for the hardware address that answers for it.
const IDENTITY_WAIT: Duration = Duration::from_secs(5);

/// Batches of answers of the sweep that may wait to be dealt with.
const SWEPT_WAITING: usize = 8;

/// Scans with one set of drivers and one idea of politeness; one scan at a time is its whole network load, so that
/// whoever runs several divides the rate among them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Scanner {
    options: ScanOptions,
    drivers: Arc<DriverSet>,
}

impl Scanner {
    /// A scanner that asks these drivers.
    pub fn new(options: ScanOptions, drivers: Arc<DriverSet>) -> Self {
        Self { options, drivers }
    }

    /// The drivers that it asks.
    pub fn drivers(&self) -> &DriverSet {
        &self.drivers
    }

    /// Runs one scan. Devices leave through `sink` as they are found; it waits when the sink is full, so somebody
    /// has to take them. When `cancel` fires or the budget is spent, no connection is opened any more, open ones
    /// are closed, what was found is delivered, and the summary says why. Dropping the future stops the scan
    /// likewise, but what was not delivered is lost.
    ///
    /// # Errors
    /// [`ScanError`] when the job cannot begin.
    pub async fn run(
        &self,
        job: ScanJob,
        sink: mpsc::Sender<ScanEvent>,
        cancel: CancellationToken,
    ) -> Result<ScanSummary, ScanError> {
        let asked_for = !job.ports.is_empty() && !job.ports_are_defaults;
        let ports = if job.ports.is_empty() {
            self.drivers.default_ports()
        } else {
            distinct(job.ports)
        };
        if ports.is_empty() {
            return Err(ScanError::NoPorts);
        }
        if ports.len() > SCAN_PORTS {
            return Err(ScanError::TooManyPorts(ports.len()));
        }
        let targets = Arc::new(Targets::new(&job.targets));
        let ports: Arc<[Port]> = ports.into();
        let dialler = Arc::new(Dialler::new(&self.options, job.guard));
        let (out, swept) = mpsc::channel(SWEPT_WAITING);
        let sweep = Sweep::start(
            Arc::clone(&targets),
            Arc::clone(&ports),
            Arc::clone(&dialler),
            &self.options,
            job.listen.is_some(),
            out,
        )
        .map_err(|error| ScanError::Poller(error.kind()))?;
        let listener = job
            .listen
            .map(|listen| Listener::start(listen, targets.len()));
        let mut scan = Scan {
            options: &self.options,
            drivers: &self.drivers,
            asked_for,
            precedences: ports
                .iter()
                .map(|port| self.drivers.precedence_at(*port))
                .collect(),
            states: vec![Host::new(ports.len()); targets.len()],
            targets,
            ports,
            dialler,
            sink,
            cancel,
            deadline: Instant::now() + job.budget,
            sweep,
            listener,
            neighbors: None,
            nameless: VecDeque::new(),
            identifying: JoinSet::new(),
            notes: Notes::default(),
            strangers: Strangers::default(),
            done: 0,
            found: 0,
            driver_crashes: 0,
            interrupted: None,
        };
        scan.run(swept).await;
        let summary = ScanSummary {
            outcomes: job
                .targets
                .iter()
                .map(|target| scan.outcome(*target))
                .collect(),
            found: scan.found,
            notes: [scan.notes.into_texts(), scan.strangers.into_texts()].concat(),
            interrupted: scan.interrupted,
            driver_crashes: scan.driver_crashes,
        };
        scan.sweep.ended();
        Ok(summary)
    }
}

/// What drivers made of a port, or external ones of a host.
enum Answered {
    Port(u32, u8, Identified),
    Outside(u32, u8, Identified),
}

/// One running scan.
struct Scan<'a> {
    options: &'a ScanOptions,
    drivers: &'a DriverSet,
    targets: Arc<Targets>,
    ports: Arc<[Port]>,
    /// The ports were asked for by number.
    asked_for: bool,
    precedences: Vec<u8>,
    states: Vec<Host>,
    dialler: Arc<Dialler>,
    sink: mpsc::Sender<ScanEvent>,
    cancel: CancellationToken,
    deadline: Instant,
    sweep: Sweep,
    /// While there is something to hear.
    listener: Option<Listener>,
    /// Whose hardware address answered for which host on the link, once that is known of all.
    neighbors: Option<BTreeMap<u32, Neighbor>>,
    /// Devices that wait for it, and since when.
    nameless: VecDeque<(Instant, u32, FoundDevice)>,
    identifying: JoinSet<Answered>,
    notes: Notes,
    strangers: Strangers,
    done: u64,
    found: u64,
    driver_crashes: u64,
    interrupted: Option<Interruption>,
}

impl Scan<'_> {
    async fn run(&mut self, mut swept: mpsc::Receiver<Vec<Swept>>) {
        let mut tick = interval(TELL_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let cancel = self.cancel.clone();
        self.note_troubles().await;
        let mut sweep_goes_on = true;
        while self.interrupted.is_none() && (sweep_goes_on || !self.identifying.is_empty()) {
            tokio::select! {
                biased;
                () = cancel.cancelled() => self.end(Interruption::Canceled),
                () = sleep_until(self.deadline) => self.end(Interruption::BudgetSpent),
                _ = tick.tick() => {
                    self.deliver_nameless(Some(IDENTITY_WAIT)).await;
                    self.tell_progress(sweep_goes_on);
                }
                Some(identified) = self.identifying.join_next(), if !self.identifying.is_empty() => {
                    if let Ok(answered) = identified {
                        self.identified(answered).await;
                    }
                }
                told = swept.recv(), if sweep_goes_on => match told {
                    Some(words) => self.hear(words).await,
                    None => sweep_goes_on = false,
                },
                Some(word) = next_word(&mut self.listener) => self.listened(word).await,
            }
        }
        self.listener = None;
        self.sweep.stop();
        // Its channel is closed after its last socket.
        while swept.recv().await.is_some() {}
        self.identifying.shutdown().await;
        self.deliver_the_rest().await;
        self.tell_progress(false);
    }

    /// Takes in what the sweep tells; once the scan is to end, the rest does not count any more.
    async fn hear(&mut self, words: Vec<Swept>) {
        for word in words {
            if self.interrupted.is_some() {
                return;
            }
            match word {
                Swept::Reached { host, port, reach } => self.reached(host, port, reach).await,
                Swept::Absent { host, absence } => self.absent(host, absence).await,
                Swept::Neighbors(neighbors) => {
                    self.neighbors = Some(neighbors);
                    self.deliver_nameless(None).await;
                }
                Swept::Note(kind, example) => self.note(kind, &example).await,
            }
        }
    }

    /// Takes in what was heard by mDNS.
    async fn listened(&mut self, word: Heard) {
        match word {
            Heard::Word(Word::Service(at)) => self.announced(at).await,
            Heard::Word(Word::Note(kind, example)) => self.note(kind, &example).await,
            Heard::Word(Word::Over { is_complete: true }) => self.listened_to_all(Absence::Silent),
            Heard::Word(Word::Over { is_complete: false }) => {
                self.listened_to_all(Absence::Unheard);
            }
            Heard::Broken => {
                self.listened_to_all(Absence::Unheard);
                self.note("listening to mDNS broke off", "").await;
            }
        }
    }

    /// A service is said to be somewhere. Whoever says so may say anything: only targets are dialed, only at the ports
    /// of the scan.
    async fn announced(&mut self, at: Endpoint) {
        let host = self.targets.host(at.ip);
        // Less than 2^32 hosts.
        let Some(host) = host.map(|host| host as u32) else {
            let what = "mDNS named hosts that are not among the targets";
            return self.note(what, &at.ip.to_string()).await;
        };
        self.sweep.heard(host);
        if !self.ports.contains(&at.port) {
            let what = "mDNS named services at ports that this scan does not cover";
            self.note(what, &at.to_string()).await;
        }
    }

    fn listened_to_all(&mut self, absence: Absence) {
        self.listener = None;
        self.sweep.heard_all(absence);
    }

    async fn reached(&mut self, host: u32, port: u8, reach: Reach) {
        let verdict = match reach {
            Reach::Open(stream, lease) => match TcpStream::from_std(stream) {
                Ok(stream) => return self.start_identifying(host, port, stream, lease),
                Err(error) => {
                    self.note("some connections were lost", &error.to_string())
                        .await;
                    PortVerdict::NotReached
                }
            },
            Reach::Refused => PortVerdict::Refused,
            Reach::Silent => PortVerdict::Silent,
            Reach::NotReached(why, example) => {
                self.note(why, &example).await;
                PortVerdict::NotReached
            }
            Reach::Forbidden(reason) => {
                self.note("skipped", &reason).await;
                PortVerdict::Skipped
            }
        };
        self.conclude(host, port, verdict).await;
    }

    async fn absent(&mut self, host: u32, absence: Absence) {
        let verdict = match absence {
            Absence::Silent => PortVerdict::Silent,
            Absence::Unheard => PortVerdict::NotReached,
            Absence::Unsure => {
                let address = self.targets.address(host);
                let example = address.map_or_else(String::new, |address| address.to_string());
                let why = "the neighbor table of this machine had no room for some targets";
                self.note(why, &example).await;
                PortVerdict::NotReached
            }
        };
        // At most 64.
        for port in 0..self.ports.len() as u8 {
            self.conclude(host, port, verdict.clone()).await;
        }
    }

    fn start_identifying(&mut self, host: u32, port: u8, stream: TcpStream, lease: Lease) {
        let Some(endpoint) = self.endpoint(host, port) else {
            return;
        };
        let drivers = self.drivers.at(endpoint.port);
        let asking = identify(
            drivers,
            Arc::clone(&self.dialler),
            self.options.clone(),
            endpoint,
            stream,
        );
        self.identifying.spawn(async move {
            let identified = asking.await;
            drop(lease);
            Answered::Port(host, port, identified)
        });
    }

    async fn identified(&mut self, answered: Answered) {
        match answered {
            Answered::Port(host, port, Identified { verdict, troubles }) => {
                self.note_crashes(troubles).await;
                self.conclude(host, port, verdict).await;
            }
            Answered::Outside(host, port, Identified { verdict, troubles }) => {
                self.note_crashes(troubles).await;
                self.conclude_outside(host, port, verdict).await;
            }
        }
    }

    async fn note_crashes(&mut self, troubles: Vec<Trouble>) {
        for Trouble { kind, endpoint } in troubles {
            self.driver_crashes += 1;
            self.note(&kind, &endpoint.to_string()).await;
        }
    }

    /// Tells of drivers that do not work as the scan begins: nothing may be asked of them later that would show it.
    async fn note_troubles(&mut self) {
        let drivers = self.drivers;
        for driver in drivers.external() {
            if let Some(trouble) = driver.trouble() {
                self.driver_crashes += 1;
                self.note(&identify::kind(driver.name(), &trouble), "")
                    .await;
            }
        }
    }

    async fn conclude(&mut self, host: u32, port: u8, verdict: PortVerdict) {
        let Some(state) = self.states.get_mut(host as usize) else {
            return;
        };
        let devices = state.conclude(usize::from(port), verdict, &self.precedences);
        let is_done = state.is_done();
        for device in devices {
            self.deliver_named(host, device).await;
        }
        if is_done && !self.ask_outside(host) {
            self.settle(host).await;
        }
    }

    /// Hands a host that nobody named to the external drivers; whether there are any for it.
    fn ask_outside(&mut self, host: u32) -> bool {
        let Some(state) = self.states.get(host as usize) else {
            return false;
        };
        let questions: Vec<_> = state
            .unnamed()
            .filter_map(|port| Some((port, self.endpoint(host, port)?)))
            .map(|(port, endpoint)| {
                let drivers = self.drivers.external_at(endpoint.port, self.asked_for);
                (port, endpoint, drivers)
            })
            .filter(|(_, _, drivers)| !drivers.is_empty())
            .collect();
        if questions.is_empty() || self.interrupted.is_some() {
            return false;
        }
        let (dialler, options) = (Arc::clone(&self.dialler), self.options.clone());
        let asking = identify_outside(questions, dialler, options);
        self.identifying.spawn(async move {
            let (port, identified) = asking.await;
            Answered::Outside(host, port, identified)
        });
        true
    }

    async fn conclude_outside(&mut self, host: u32, port: u8, verdict: PortVerdict) {
        let Some(state) = self.states.get_mut(host as usize) else {
            return;
        };
        for device in state.conclude_outside(port, verdict) {
            self.deliver_named(host, device).await;
        }
        self.settle(host).await;
    }

    /// Nothing more will be learned of a host.
    async fn settle(&mut self, host: u32) {
        self.done += 1;
        let stranger = self.states.get(host as usize).and_then(Host::stranger);
        if let Some((port, words)) = stranger.map(|(port, words)| (port, words.to_owned())) {
            self.note_stranger(host, port as u8, &words).await;
        }
    }

    async fn note_stranger(&mut self, host: u32, port: u8, words: &str) {
        if let Some(endpoint) = self.endpoint(host, port)
            && let Some(text) = self.strangers.add(endpoint, words)
        {
            self.tell(ScanEvent::Note(text)).await;
        }
    }

    /// A device on the link that has no identity of its own waits until it is known whose hardware address is its
    /// own: one that answers for several is a router's, which shows only at the end.
    async fn deliver_named(&mut self, host: u32, mut device: FoundDevice) {
        let waits = device.facts.mac.is_none()
            && device.facts.serial.is_none()
            && self.neighbors.is_none()
            && self.sweep.is_on_link(host);
        if waits {
            self.nameless.push_back((Instant::now(), host, device));
            return;
        }
        let neighbor = self.neighbors.as_ref().and_then(|all| all.get(&host));
        if let Some(neighbor) = neighbor {
            neighbor.vouch_for(&mut device.facts);
        }
        self.deliver(device).await;
    }

    /// Delivers devices that waited so long, or for what is known now.
    async fn deliver_nameless(&mut self, waited: Option<Duration>) {
        let late = |since: Instant| waited.is_none_or(|waited| since.elapsed() >= waited);
        while let Some((_, host, mut device)) =
            self.nameless.pop_front_if(|(since, _, _)| late(*since))
        {
            let neighbor = self.neighbors.as_ref().and_then(|all| all.get(&host));
            if let Some(neighbor) = neighbor {
                neighbor.vouch_for(&mut device.facts);
            }
            self.deliver(device).await;
        }
    }

    async fn deliver(&mut self, device: FoundDevice) {
        if self.tell(ScanEvent::Found(device)).await {
            self.found += 1;
        }
    }

    async fn note(&mut self, kind: &str, example: &str) {
        if let Some(text) = self.notes.add(kind, example) {
            self.tell(ScanEvent::Note(text)).await;
        }
    }

    /// Waits for room in the sink. When the scan is to end meanwhile, it ends at once and the event is still
    /// delivered. Whether it was.
    async fn tell(&mut self, event: ScanEvent) -> bool {
        if self.interrupted.is_none() {
            let ended = tokio::select! {
                biased;
                room = self.sink.reserve() => match room {
                    Ok(room) => {
                        room.send(event);
                        return true;
                    }
                    Err(_) => Interruption::SinkClosed,
                },
                () = self.cancel.cancelled() => Interruption::Canceled,
                () = sleep_until(self.deadline) => Interruption::BudgetSpent,
            };
            self.end(ended);
        }
        self.sink.send(event).await.is_ok()
    }

    /// Closes every connection at once.
    fn end(&mut self, why: Interruption) {
        self.interrupted = Some(why);
        self.sweep.stop();
        self.identifying.abort_all();
    }

    async fn deliver_the_rest(&mut self) {
        self.deliver_nameless(None).await;
        for host in 0..self.states.len() {
            let devices = self
                .states
                .get_mut(host)
                .map(Host::give_up_waiting)
                .unwrap_or_default();
            // Less than 2^32 hosts.
            for device in devices {
                self.deliver_named(host as u32, device).await;
            }
        }
        self.deliver_nameless(None).await;
    }

    fn tell_progress(&self, sweep_goes_on: bool) {
        let phase = match &self.listener {
            Some(_) => "listen",
            None if sweep_goes_on => "sweep",
            None => "identify",
        };
        let progress = ScanProgress {
            done: self.done,
            total: self.targets.len() as u64,
            phase,
        };
        // A full channel means that somebody is behind; the next figure will do.
        let _ = self.sink.try_send(ScanEvent::Progress(progress));
    }

    fn endpoint(&self, host: u32, port: u8) -> Option<Endpoint> {
        Some(Endpoint {
            ip: self.targets.address(host)?,
            port: *self.ports.get(usize::from(port))?,
        })
    }

    fn outcome(&self, target: IpAddr) -> TargetOutcome {
        self.targets
            .host(target)
            .and_then(|host| self.states.get(host))
            .map(Host::outcome)
            .unwrap_or_default()
    }
}

/// What comes of listening.
enum Heard {
    Word(Word),
    /// It ended without saying so.
    Broken,
}

/// What is heard next; none where nobody listens.
async fn next_word(listener: &mut Option<Listener>) -> Option<Heard> {
    let word = listener.as_mut()?.next().await;
    Some(word.map_or(Heard::Broken, Heard::Word))
}

fn distinct(ports: Vec<Port>) -> Vec<Port> {
    let mut distinct = Vec::with_capacity(ports.len());
    for port in ports {
        if !distinct.contains(&port) {
            distinct.push(port);
        }
    }
    distinct
}
