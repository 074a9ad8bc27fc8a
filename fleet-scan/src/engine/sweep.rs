//! Reachability: tries every endpoint of a scan and passes on the ones that answer. It knows nothing of drivers.
//!
//! [`Sweep::start`] starts a loop on a thread of its own, around the decisions of [`Schedule`] and the connections of
//! [`Sockets`]. Each endpoint yields exactly one [`SweepEvent::Settled`], or its host one [`SweepEvent::Absent`].
//! [`OnLink`] finds out which neighbors exist before they are tried. With announcements, a host waits for
//! [`Sweep::announce`] before it is resolved or tried.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::TcpStream,
    panic::resume_unwind,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use fleet_core::{Endpoint, Port};
use mio::Waker;
use tokio::sync::mpsc;

use super::{
    onlink::{Failure as PathFailure, Neighbor, NeighborEvent, OnLink, PathWatch, Waits},
    outbox::Outbox,
    schedule::{At, Attempt, Next, Opened, RETRANSMISSION, Retransmission, Schedule},
    sockets::{AttemptState, Sockets},
    targets::Targets,
    unannounced::Unannounced,
};
use crate::{
    capacity::{self, ConnectionTracking},
    dial::{Dialer, Failure},
    job::ScanOptions,
    timing::Timeouts,
};

/// The shortest wait for the rate limit. Attempts that become due in the meantime are sent together.
const TICK: Duration = Duration::from_millis(1);

/// Attempts between two checks for answers, well under a millisecond.
const ATTEMPTS_PER_ROUND: usize = 64;

/// How long the sweep pauses when the system is short of a resource.
const PAUSE: Duration = Duration::from_millis(100);

/// Consecutive shortages, one per [`PAUSE`], after which the sweep gives up endpoints.
const SHORTAGE_LIMIT: u32 = 50;

/// Consecutive unreachable hosts, without an answer in between, after which the sweep slows down.
const UNREACHABLE_LIMIT: u32 = 64;

/// How often the connection tracking table is read.
const TRACKING_INTERVAL: Duration = Duration::from_millis(100);

/// The results of the sweep.
#[derive(Debug)]
pub(super) enum SweepEvent {
    /// The outcome of one endpoint, exactly once for each endpoint of a host that is not absent.
    Settled {
        host: u32,
        port: u8,
        reach: ConnectOutcome,
    },
    /// The outcome of a host, in place of its endpoints.
    Absent { host: u32, absence: Absence },
    /// The hardware addresses of all hosts on the link.
    Neighbors(BTreeMap<u32, Neighbor>),
    /// A warning for the operator: kind and example.
    Note(&'static str, String),
}

/// Why no endpoint of a host was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// The host answered no request for its hardware address, or it did not announce itself.
    Silent,
    /// The neighbor table of this machine had no room.
    NoRoom,
    /// The host may have announced itself, but listening failed.
    ListenFailed,
    /// The link or the router on the way to it failed.
    NoPath,
}

/// The outcome of an endpoint.
#[derive(Debug)]
pub(super) enum ConnectOutcome {
    /// It answered. The lease holds the connection's slot at its host and in the scanner.
    Open(TcpStream, Lease),
    Refused,
    Silent,
    /// The network reports it as unreachable.
    Unreachable,
    /// This machine could not try it: kind and example of the reason.
    NotReached(&'static str, String),
    /// The guard forbids it, with the reason.
    Forbidden(String),
}

/// A running sweep. Dropping it stops the sweep: it opens no more connections, closes those that it still owns, and
/// then closes its channel.
#[derive(Debug)]
pub(super) struct Sweep {
    thread: Option<JoinHandle<()>>,
    mailbox: Arc<Mailbox>,
    /// Hosts on a link of this machine, ascending.
    on_link: Vec<u32>,
}

/// The state of the loop.
#[derive(Debug)]
struct Loop {
    targets: Arc<Targets>,
    ports: Arc<[Port]>,
    dialer: Arc<Dialer>,
    schedule: Schedule,
    sockets: Sockets,
    on_link: Option<OnLink>,
    /// None if the system shows no routes.
    paths: Option<PathWatch<Silent>>,
    /// Hosts that wait for their announcement, if the scan listens.
    unannounced: Option<Unannounced>,
    neighbor_events: Vec<NeighborEvent>,
    mailbox: Arc<Mailbox>,
    /// The end of the current pause.
    paused_until: Option<Instant>,
    /// Consecutive shortages.
    shortages: u32,
    /// Consecutive unreachable hosts.
    unreachable: u32,
    /// Attempts allowed until the connection tracking table is read again, and when. None without such a table.
    tracking: Option<(u64, Instant)>,
    answered: Vec<Attempt>,
    /// Last field, because fields drop in order: when its channel closes, every socket is closed.
    outbox: Outbox<SweepEvent>,
}

/// A silent endpoint, or a silent host with all its endpoints.
#[derive(Debug, Clone, Copy)]
enum Silent {
    Endpoint(At),
    Host(u32),
}

/// Messages from other threads to the loop.
#[derive(Debug)]
struct Mailbox {
    waker: Waker,
    stopped: AtomicBool,
    /// Hosts whose connections were closed. The number of sockets bounds it.
    released: Mutex<Vec<u32>>,
    announcements: Mutex<Announcements>,
}

/// Announcements that the loop has not processed yet.
#[derive(Debug, Default)]
struct Announcements {
    hosts: BTreeSet<u32>,
    ended: Option<Absence>,
}

/// Holds the slot of a connection at its host and in the scanner until it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    mailbox: Arc<Mailbox>,
    host: u32,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.mailbox.released().push(self.host);
        self.mailbox.wake();
    }
}

impl Mailbox {
    fn released(&self) -> MutexGuard<'_, Vec<u32>> {
        // A push or a take cannot leave the list half changed, so a panic elsewhere does not
        // matter.
        self.released.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announcements(&self) -> MutexGuard<'_, Announcements> {
        self.announcements
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // It fails only if the system is out of memory. Then the next deadline wakes the loop.
        let _ = self.waker.wake();
    }
}

impl Sweep {
    /// Starts to try everything. With `listens`, a host waits for its [announcement](Self::announce) until
    /// [announcements end](Self::end_announcements). The channel closes after the last event.
    ///
    /// # Errors
    /// When the system provides no poller or no thread.
    pub(super) fn start(
        targets: Arc<Targets>,
        ports: Arc<[Port]>,
        dialer: Arc<Dialer>,
        options: &ScanOptions,
        listens: bool,
        out: mpsc::Sender<Vec<SweepEvent>>,
    ) -> io::Result<Self> {
        // An attempt ends before the kernel repeats its SYN.
        let timeouts = Timeouts::new(
            options.timeout_floor,
            options.timeout_ceiling.min(RETRANSMISSION),
            targets.subnets(),
        );
        let room =
            capacity::connections(options.connections, options.rate, options.timeout_ceiling);
        let mut schedule = Schedule::new(
            Arc::clone(&targets),
            // At most 64.
            ports.len() as u8,
            options.tries,
            room,
            timeouts,
        );
        let waits = Waits {
            floor: options.timeout_floor,
            ceiling: options.timeout_ceiling,
        };
        let mut outbox = Outbox::new(out);
        let on_link = OnLink::find(&targets, waits, listens, Instant::now());
        let on_link = on_link.unwrap_or_else(|error| {
            let kind = "cannot read which targets are on the local network";
            outbox.push(SweepEvent::Note(kind, error.to_string()));
            None
        });
        let paths = PathWatch::start(&targets, Instant::now()).unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot verify the paths to the targets");
            None
        });
        let neighbors = on_link.as_ref().map(|on_link| on_link.hosts().to_vec());
        let neighbors = neighbors.unwrap_or_default();
        // Target indexes have 32 bits.
        let unannounced = listens.then(|| Unannounced::new(targets.len() as u32));
        if listens {
            let all: Vec<u32> = targets.iter().map(|(host, _)| host).collect();
            schedule.hold(&all);
        } else {
            schedule.hold(&neighbors);
        }
        let sockets = Sockets::new(room)?;
        let mailbox = Arc::new(Mailbox {
            waker: sockets.waker()?,
            stopped: AtomicBool::new(false),
            released: Mutex::default(),
            announcements: Mutex::default(),
        });
        let sweep = Loop {
            targets,
            ports,
            dialer,
            schedule,
            sockets,
            on_link,
            paths,
            unannounced,
            neighbor_events: Vec::new(),
            mailbox: Arc::clone(&mailbox),
            paused_until: None,
            shortages: 0,
            unreachable: 0,
            // Without allowance and already due: the first attempt reads the table.
            tracking: ConnectionTracking::now().map(|_| (0, Instant::now())),
            answered: Vec::new(),
            outbox,
        };
        // One thread: a task for each attempt would cost memory and a wake-up (decision 0015).
        let thread = thread::Builder::new().name("fleet-sweep".to_owned());
        Ok(Self {
            thread: Some(thread.spawn(|| sweep.run())?),
            mailbox,
            on_link: neighbors,
        })
    }

    /// Returns whether [`SweepEvent::Neighbors`] may contain a host.
    pub(super) fn is_on_link(&self, host: u32) -> bool {
        self.on_link.binary_search(&host).is_ok()
    }

    /// Reports that a host announced itself.
    pub(super) fn announce(&self, host: u32) {
        self.mailbox.announcements().hosts.insert(host);
        self.mailbox.wake();
    }

    /// Reports that no more announcements come. `absence` is the outcome of the hosts that sent none.
    pub(super) fn end_announcements(&self, absence: Absence) {
        self.mailbox.announcements().ended.get_or_insert(absence);
        self.mailbox.wake();
    }

    /// Stops the sweep. Its channel closes soon after.
    pub(super) fn stop(&self) {
        self.mailbox.stopped.store(true, Ordering::Relaxed);
        self.mailbox.wake();
    }

    /// Waits for the thread, after its channel closed. A panic of the thread continues in the caller.
    pub(super) fn join(mut self) {
        if let Some(Err(crash)) = self.thread.take().map(JoinHandle::join) {
            resume_unwind(crash);
        }
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Loop {
    fn run(mut self) {
        let mut wait = Some(Duration::ZERO);
        // No data travels with the flag, so relaxed ordering is enough.
        while !self.mailbox.stopped.load(Ordering::Relaxed) {
            // Answers before deadlines: a thread that wakes up late must not turn an answer into
            // silence.
            self.receive_answers(wait);
            self.reclaim_slots();
            let paths = self.verify_paths();
            // An expired attempt is closed without a look at its retransmission.
            self.close_before_retransmission();
            self.expire_silent();
            self.admit_announced();
            let neighbors = self.resolve_neighbors();
            let (wake, done) = self.dial();
            // Held silence becomes events later, so the sweep has to outlive its last attempt.
            let done = done && self.paths.as_ref().is_none_or(PathWatch::is_idle);
            if !self.outbox.flush() || (done && self.outbox.is_empty()) {
                return;
            }
            let now = Instant::now();
            let outbox = self.outbox.retry_at(now);
            let wake = [wake, paths, neighbors, outbox, self.schedule.deadline()];
            wait = wake
                .into_iter()
                .flatten()
                .min()
                .map(|wake| wake.saturating_duration_since(now));
        }
    }

    /// Frees the slots of connections that were closed.
    fn reclaim_slots(&mut self) {
        let hosts = std::mem::take(&mut *self.mailbox.released());
        for host in hosts {
            self.schedule.release(host);
        }
    }

    fn receive_answers(&mut self, wait: Option<Duration>) {
        let mut answered = std::mem::take(&mut self.answered);
        if let Err(error) = self.sockets.wait(wait, &mut answered) {
            // A signal interrupted the wait. The next round waits again.
            tracing::debug!(%error, "interrupted while waiting for answers");
            answered.clear();
        }
        let now = Instant::now();
        for attempt in answered.drain(..) {
            match self.sockets.state(attempt) {
                AttemptState::Open => self.open(attempt, now),
                AttemptState::Failed(failure) => self.failed(attempt, failure, now),
                AttemptState::Pending => {}
            }
        }
        self.answered = answered;
    }

    fn open(&mut self, attempt: Attempt, now: Instant) {
        self.unreachable = 0;
        match self.schedule.opened(attempt, now) {
            Opened::Take(at) => {
                // Taken first, because `give_up_all` would also recycle the open connection.
                let stream = self.sockets.take(attempt);
                self.sockets.give_up_all(attempt.key);
                // Needed in the error case too: dropping it returns the slot that `opened`
                // occupied.
                let lease = Lease {
                    mailbox: Arc::clone(&self.mailbox),
                    host: at.host,
                };
                let reach = match stream {
                    Ok(stream) => ConnectOutcome::Open(stream, lease),
                    Err(error) => {
                        ConnectOutcome::NotReached("some connections were lost", error.to_string())
                    }
                };
                self.answered(at.host, now);
                self.settled(at, reach);
            }
            Opened::TooMany | Opened::Stale => self.sockets.close(attempt),
        }
    }

    fn failed(&mut self, attempt: Attempt, failure: Failure, now: Instant) {
        match failure {
            Failure::Refused => {
                self.unreachable = 0;
                let at = self.schedule.refused(attempt, now);
                if let Some(at) = at {
                    self.answered(at.host, now);
                }
                self.close_and_settle(attempt, at, ConnectOutcome::Refused);
            }
            // Final for this port: another attempt would cause the same report.
            Failure::Unreachable => {
                let at = self.schedule.settle(attempt.key);
                self.count_unreachable(at);
                self.close_and_settle(attempt, at, ConnectOutcome::Unreachable);
            }
            // The attempt's own deadline is more precise than the kernel's.
            Failure::TimedOut => {
                self.sockets.give_up(attempt);
                self.schedule.closed(attempt);
            }
            Failure::Starved(error) => self.starved(attempt, &error, now),
            Failure::CannotSend(error) => {
                let at = self.schedule.settle(attempt.key);
                let endpoint = at.and_then(|at| self.endpoint(at));
                let example = endpoint.map_or_else(String::new, |to| format!("{to}: {error}"));
                let kind = "some targets could not be tried";
                self.close_and_settle(attempt, at, ConnectOutcome::NotReached(kind, example));
            }
        }
    }

    fn starved(&mut self, attempt: Attempt, error: &io::Error, now: Instant) {
        self.shortages += 1;
        if self.shortages > SHORTAGE_LIMIT {
            let at = self.schedule.settle(attempt.key);
            let kind = "some targets could not be tried for lack of connections";
            return self.close_and_settle(
                attempt,
                at,
                ConnectOutcome::NotReached(kind, error.to_string()),
            );
        }
        self.sockets.close(attempt);
        self.schedule.starved(attempt);
        self.paused_until = Some(now + PAUSE);
        self.slow_down("this machine ran short of connections", &error.to_string());
    }

    fn expire_silent(&mut self) {
        let now = Instant::now();
        while let Some((key, at, sent)) = self.schedule.expire(now) {
            self.sockets.give_up_all(key);
            self.silent(at.host, Silent::Endpoint(at), sent);
        }
    }

    /// Keeps the kernel from repeating a SYN beyond the rate: it does so a second after an attempt whose socket is open.
    /// The attempt stays open for a late answer only if a permit is left for the repetition.
    fn close_before_retransmission(&mut self) {
        let now = Instant::now();
        while let Some(Retransmission {
            attempt,
            is_first,
            has_happened,
        }) = self.schedule.next_retransmission(now)
        {
            let has_room = !self.schedule.has_work() && self.dialer.wait().is_zero();
            let keeps = is_first && has_room && !has_happened;
            if keeps || has_happened {
                self.dialer.spend_permit();
            }
            if keeps {
                self.schedule.keep(attempt, now);
            } else {
                self.sockets.give_up(attempt);
                self.schedule.closed(attempt);
            }
        }
    }

    fn answered(&mut self, host: u32, now: Instant) {
        if let Some(paths) = &mut self.paths {
            paths.answered(host, now);
        }
    }

    /// Settles a host or endpoint that stayed silent after the last packet to it, once its path is verified.
    fn silent(&mut self, host: u32, item: Silent, sent: Instant) {
        let judged = match &mut self.paths {
            Some(paths) => paths.judge(host, item, sent),
            None => Some((item, Ok(()))),
        };
        if let Some((item, verdict)) = judged {
            self.settle_silent(item, verdict);
        }
    }

    fn settle_silent(&mut self, item: Silent, verdict: Result<(), PathFailure>) {
        match (item, verdict) {
            (Silent::Endpoint(at), Ok(())) => self.settled(at, ConnectOutcome::Silent),
            (Silent::Endpoint(at), Err((kind, example))) => {
                self.settled(at, ConnectOutcome::NotReached(kind, example));
            }
            (Silent::Host(host), Ok(())) => self.absent(host, Absence::Silent),
            (Silent::Host(host), Err((kind, example))) => {
                self.outbox.push(SweepEvent::Note(kind, example));
                self.absent(host, Absence::NoPath);
            }
        }
    }

    /// Settles items that were held until their path was verified. Returns when to continue.
    fn verify_paths(&mut self) -> Option<Instant> {
        let mut decided = Vec::new();
        let wake = self.paths.as_mut()?.step(Instant::now(), &mut decided);
        for (item, verdict) in decided {
            self.settle_silent(item, verdict);
        }
        wake
    }

    /// Admits hosts that announced themselves, and gives up the rest once announcements have ended.
    fn admit_announced(&mut self) {
        let Some(unannounced) = &mut self.unannounced else {
            return;
        };
        let Announcements { hosts, ended } = std::mem::take(&mut *self.mailbox.announcements());
        for host in hosts {
            if !unannounced.announce(host) {
                continue;
            }
            let on_link = self.on_link.as_mut();
            if !on_link.is_some_and(|on_link| on_link.request(host)) {
                self.schedule.admit(host);
            }
        }
        if let Some(absence) = ended
            && unannounced.end(absence)
            && let Some(on_link) = &mut self.on_link
        {
            on_link.end_requests();
        }
        // A /16 without announcements ends with 65,536 events at once. The outbox takes them in
        // parts.
        while self.outbox.has_room() {
            let Some((host, absence)) =
                self.unannounced.as_mut().and_then(Unannounced::next_absent)
            else {
                break;
            };
            self.absent(host, absence);
        }
    }

    /// Resolves the hosts on the link. Returns when to continue.
    fn resolve_neighbors(&mut self) -> Option<Instant> {
        let on_link = self.on_link.as_mut()?;
        let now = Instant::now();
        // `has_room` records that work was put off. `retry_at` then wakes the loop.
        if !self.outbox.has_room() {
            return None;
        }
        if let Some(until) = self.paused_until.filter(|until| now < *until) {
            return Some(until);
        }
        let (targets, ports, dialer) = (&self.targets, &self.ports, &self.dialer);
        // A request for a hardware address is a packet to the host, so a rule that forbids every
        // port forbids it too.
        let allowed = |host| {
            targets.address(host).is_some_and(|ip| {
                let mut endpoints = ports.iter().map(|port| Endpoint { ip, port: *port });
                endpoints.any(|endpoint| dialer.check(endpoint).is_ok())
            })
        };
        let busy = self.schedule.has_work();
        let wake = on_link.step(now, dialer, busy, allowed, &mut self.neighbor_events);
        let mut neighbor_events = std::mem::take(&mut self.neighbor_events);
        for event in neighbor_events.drain(..) {
            self.apply(event);
        }
        self.neighbor_events = neighbor_events;
        wake
    }

    fn apply(&mut self, event: NeighborEvent) {
        match event {
            NeighborEvent::Connect(host) => self.schedule.admit(host),
            NeighborEvent::Silent(host, sent) => self.silent(host, Silent::Host(host), sent),
            NeighborEvent::NoRoom(host) => self.absent(host, Absence::NoRoom),
            NeighborEvent::Overflow(text) => {
                self.outbox.push(SweepEvent::Note("slowed down", text))
            }
            NeighborEvent::Neighbors(neighbors) => {
                self.outbox.push(SweepEvent::Neighbors(neighbors))
            }
        }
    }

    fn absent(&mut self, host: u32, absence: Absence) {
        self.schedule.rule_out(host);
        self.outbox.push(SweepEvent::Absent { host, absence });
    }

    /// Starts the attempts that are due. Returns when to continue, and whether the sweep is complete.
    fn dial(&mut self) -> (Option<Instant>, bool) {
        let now = Instant::now();
        if let Some(until) = self.paused_until.filter(|until| now < *until) {
            return (Some(until), false);
        }
        for _ in 0..ATTEMPTS_PER_ROUND {
            if !self.outbox.has_room() {
                return (None, false);
            }
            if self.schedule.has_work() {
                let wait = self.dialer.wait();
                if !wait.is_zero() {
                    return (Some(now + wait.max(TICK)), false);
                }
                if let Some(read_at) = self.tracking_full_until(now) {
                    return (Some(read_at), false);
                }
            }
            // A fresh time for each attempt, because its timeout is measured from here.
            match self.schedule.next(Instant::now()) {
                Next::Dial(attempt, at) => self.attempt(attempt, at),
                Next::Abandon(attempt) => self.sockets.give_up(attempt),
                Next::Wait => return (None, false),
                Next::Done => return (None, true),
            }
            if let Some(until) = self.paused_until.filter(|until| now < *until) {
                return (Some(until), false);
            }
        }
        (Some(now), false)
    }

    fn attempt(&mut self, attempt: Attempt, at: At) {
        let Some(endpoint) = self.endpoint(at) else {
            return;
        };
        if let Err(reason) = self.dialer.check(endpoint) {
            let at = self.schedule.settle(attempt.key);
            return self.close_and_settle(attempt, at, ConnectOutcome::Forbidden(reason));
        }
        tracing::trace!(%endpoint, nth = attempt.nth, "connecting");
        self.dialer.spend_permit();
        if let Some((left, _)) = &mut self.tracking {
            *left = left.saturating_sub(1);
        }
        match self.sockets.open(attempt, endpoint) {
            Ok(()) => self.shortages = 0,
            Err(error) => self.failed(attempt, Failure::of(error), Instant::now()),
        }
    }

    /// Returns when the connection tracking table is read again, if it has no room now.
    fn tracking_full_until(&mut self, now: Instant) -> Option<Instant> {
        let (left, read_at) = self.tracking?;
        if now >= read_at {
            let table = ConnectionTracking::now()?;
            if table.is_tight() {
                self.outbox.push(SweepEvent::Note(
                    "slowed down",
                    format!(
                        "the connection tracking table of this machine is nearly full ({} of {})",
                        table.used, table.most
                    ),
                ));
            }
            self.tracking = Some((table.allowance(), now + TRACKING_INTERVAL));
            return None;
        }
        (left == 0).then_some(read_at)
    }

    fn close_and_settle(&mut self, attempt: Attempt, at: Option<At>, reach: ConnectOutcome) {
        self.sockets.give_up_all(attempt.key);
        if let Some(at) = at {
            self.settled(at, reach);
        }
    }

    fn settled(&mut self, at: At, reach: ConnectOutcome) {
        let At { host, port } = at;
        self.outbox.push(SweepEvent::Settled { host, port, reach });
    }

    fn count_unreachable(&mut self, at: Option<At>) {
        self.unreachable += 1;
        if self.unreachable >= UNREACHABLE_LIMIT {
            self.unreachable = 0;
            let example = at.and_then(|at| self.endpoint(at));
            self.slow_down(
                "many hosts in a row were reported unreachable",
                &example.map_or_else(String::new, |endpoint| endpoint.to_string()),
            );
        }
    }

    fn slow_down(&mut self, why: &str, example: &str) {
        if let Some(rate) = self.dialer.slow_down() {
            let text = format!("{why}, now {rate} probes/s ({example})");
            self.outbox.push(SweepEvent::Note("slowed down", text));
        }
    }

    fn endpoint(&self, at: At) -> Option<Endpoint> {
        Some(Endpoint {
            ip: self.targets.address(at.host)?,
            port: *self.ports.get(usize::from(at.port))?,
        })
    }
}
