//! Reachability: tries every endpoint of a plan and hands on what answered. Knows nothing of drivers.
//!
//! One loop on a thread of its own around [`Schedule`], which decides, and [`Sockets`], which connect. Exactly one
//! [`Swept::Reached`] an endpoint comes out, with the open connection where there is one, or one [`Swept::Absent`] of its
//! host. Whether neighbors are there says [`OnLink`]; where hosts are to be heard first, whoever hears them says so
//! ([`Sweep::heard`]), and only then are they met as neighbors, or dialed. [`Sweep::start`] first.

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
    awaited::Awaited,
    onlink::{Learned, Neighbor, OnLink, Waits},
    schedule::{At, Attempt, Next, Opened, Schedule},
    sockets::{Heard, Sockets},
    targets::Targets,
    untold::Untold,
};
use crate::{
    dial::{Dialler, Failure},
    job::ScanOptions,
    shares::{self, Tracked},
    timing::Timeouts,
};

/// How long to wait for leave at least: what has come together meanwhile is sent in one go.
const TICK: Duration = Duration::from_millis(1);

/// Attempts that are made before answers are heard again: well under a millisecond.
const IN_ONE_GO: usize = 64;

/// Rest before this machine's own shortage is tested again.
const REST: Duration = Duration::from_millis(100);

/// Shortages in a row, one a [`REST`], after which endpoints are given up.
const SHORTAGES: u32 = 50;

/// Hosts reported unreachable in a row, without an answer in between, that are a reason to slow down.
const UNREACHABLE_IN_A_ROW: u32 = 64;

/// How often the table of tracked connections is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What is told while sweeping.
#[derive(Debug)]
pub(super) enum Swept {
    /// One endpoint is settled; exactly one of these an endpoint of a host that is not absent.
    Reached { host: u32, port: u8, reach: Reach },
    /// A host is settled as a whole, in place of its endpoints.
    Absent { host: u32, absence: Absence },
    /// Every host on the link is settled: which hardware address answered for which.
    Neighbors(BTreeMap<u32, Neighbor>),
    /// Something an operator should know: kind and example.
    Note(&'static str, String),
}

/// Why nothing of a host was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// Nobody answered for its address on the link, or it is to be heard first and says nothing.
    Silent,
    /// This machine's neighbor table had no room to ask.
    Unsure,
    /// It is to be heard first, and listening failed.
    Unheard,
}

/// What became of an endpoint.
#[derive(Debug)]
pub(super) enum Reach {
    /// It answered; the lease counts the connection against host and scanner until it is dropped.
    Open(TcpStream, Lease),
    Refused,
    Silent,
    /// This machine could not try it: kind and example of the reason.
    NotReached(&'static str, String),
    /// The guard forbids it, with the reason.
    Forbidden(String),
}

/// A sweep that goes on. Dropping it ends it: no connection is opened any more, those that were not handed on are
/// closed, and the channel is closed after that.
#[derive(Debug)]
pub(super) struct Sweep {
    thread: Option<JoinHandle<()>>,
    link: Arc<Link>,
    /// Hosts on a link of this machine, ascending.
    on_link: Vec<u32>,
}

/// What the loop works with.
#[derive(Debug)]
struct Loop {
    targets: Arc<Targets>,
    ports: Arc<[Port]>,
    dialler: Arc<Dialler>,
    schedule: Schedule,
    sockets: Sockets,
    on_link: Option<OnLink>,
    /// Hosts that are to be heard first, if they are.
    awaited: Option<Awaited>,
    learned: Vec<Learned>,
    link: Arc<Link>,
    /// Until when this machine has a rest.
    rest: Option<Instant>,
    /// Shortages since the last attempt that could be made.
    shortages: u32,
    /// Hosts reported unreachable since the last answer.
    unreachable: u32,
    /// Attempts that may be made until the table of tracked connections is looked at again, if there is one.
    tracking: Option<(u64, Instant)>,
    answered: Vec<Attempt>,
    /// Dropped last: whoever hears its end knows that every socket is closed.
    untold: Untold<Swept>,
}

/// What others tell the loop.
#[derive(Debug)]
struct Link {
    waker: Waker,
    stopped: AtomicBool,
    /// Hosts of connections that were closed; at most one each of the sockets there may be.
    released: Mutex<Vec<u32>>,
    heard: Mutex<Hearing>,
}

/// What was heard of hosts since it was last looked at.
#[derive(Debug, Default)]
struct Hearing {
    hosts: BTreeSet<u32>,
    over: Option<Absence>,
}

/// A connection's place among those allowed to its host and to the scanner.
#[derive(Debug)]
pub(super) struct Lease {
    link: Arc<Link>,
    host: u32,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.link.released().push(self.host);
        self.link.wake();
    }
}

impl Link {
    fn released(&self) -> MutexGuard<'_, Vec<u32>> {
        self.released.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) -> MutexGuard<'_, Hearing> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Fails only when the system is out of memory; then the next deadline wakes it.
        let _ = self.waker.wake();
    }
}

impl Sweep {
    /// Begins to try everything, with `awaits` only hosts that are [`heard`](Self::heard), until it is told that
    /// [nothing more](Self::heard_all) will be; the channel is closed when all is said.
    ///
    /// # Errors
    /// When the system gives no poller or no thread.
    pub(super) fn start(
        targets: Arc<Targets>,
        ports: Arc<[Port]>,
        dialler: Arc<Dialler>,
        options: &ScanOptions,
        awaits: bool,
        out: mpsc::Sender<Vec<Swept>>,
    ) -> io::Result<Self> {
        let timeouts = Timeouts::new(
            options.timeout_floor,
            options.timeout_ceiling,
            targets.subnets(),
        );
        let room = shares::connections(options.connections, options.rate, options.timeout_ceiling);
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
        let mut untold = Untold::new(out);
        let on_link = OnLink::find(&targets, waits, awaits, Instant::now());
        let on_link = on_link.unwrap_or_else(|error| {
            let what = "neighbors are not told apart from others";
            untold.say(Swept::Note(what, error.to_string()));
            None
        });
        let neighbors = on_link.as_ref().map(|on_link| on_link.hosts().to_vec());
        let neighbors = neighbors.unwrap_or_default();
        // Targets are counted in 32 bits.
        let awaited = awaits.then(|| Awaited::new(targets.len() as u32));
        if awaits {
            let all: Vec<u32> = targets.iter().map(|(host, _)| host).collect();
            schedule.hold(&all);
        } else {
            schedule.hold(&neighbors);
        }
        let sockets = Sockets::new(room)?;
        let link = Arc::new(Link {
            waker: sockets.waker()?,
            stopped: AtomicBool::new(false),
            released: Mutex::default(),
            heard: Mutex::default(),
        });
        let sweep = Loop {
            targets,
            ports,
            dialler,
            schedule,
            sockets,
            on_link,
            awaited,
            learned: Vec::new(),
            link: Arc::clone(&link),
            rest: None,
            shortages: 0,
            unreachable: 0,
            tracking: Tracked::now().map(|_| (0, Instant::now())),
            answered: Vec::new(),
            untold,
        };
        let thread = thread::Builder::new().name("fleet-sweep".to_owned());
        Ok(Self {
            thread: Some(thread.spawn(|| sweep.run())?),
            link,
            on_link: neighbors,
        })
    }

    /// Whether [`Swept::Neighbors`] may name a host.
    pub(super) fn is_on_link(&self, host: u32) -> bool {
        self.on_link.binary_search(&host).is_ok()
    }

    /// A host that is to be heard first was heard; once is enough.
    pub(super) fn heard(&self, host: u32) {
        self.link.heard().hosts.insert(host);
        self.link.wake();
    }

    /// Nothing more will be heard: what that means for hosts that were not.
    pub(super) fn heard_all(&self, absence: Absence) {
        self.link.heard().over.get_or_insert(absence);
        self.link.wake();
    }

    /// Tells it to end.
    pub(super) fn stop(&self) {
        self.link.stopped.store(true, Ordering::Relaxed);
        self.link.wake();
    }

    /// To be called when its channel is closed: a crash goes on in the caller.
    pub(super) fn ended(mut self) {
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
        while !self.link.stopped.load(Ordering::Relaxed) {
            self.hear(wait);
            self.take_back();
            self.give_up_silent();
            self.meet_heard();
            let neighbors = self.meet_neighbors();
            let (wake, done) = self.dial();
            if !self.untold.tell() || (done && self.untold.is_empty()) {
                return;
            }
            let now = Instant::now();
            let untold = self.untold.again(now);
            let wake = [wake, neighbors, untold, self.schedule.deadline()];
            wait = wake
                .into_iter()
                .flatten()
                .min()
                .map(|wake| wake.saturating_duration_since(now));
        }
    }

    /// Connections that were handed on and are closed make room.
    fn take_back(&mut self) {
        let hosts = std::mem::take(&mut *self.link.released());
        for host in hosts {
            self.schedule.release(host);
        }
    }

    fn hear(&mut self, wait: Option<Duration>) {
        let mut answered = std::mem::take(&mut self.answered);
        if let Err(error) = self.sockets.wait(wait, &mut answered) {
            // A signal; the next round waits again.
            tracing::debug!(%error, "interrupted while waiting for answers");
            answered.clear();
        }
        let now = Instant::now();
        for attempt in answered.drain(..) {
            match self.sockets.heard(attempt) {
                Heard::Open => self.open(attempt, now),
                Heard::Failed(failure) => self.failed(attempt, failure, now),
                Heard::Nothing => {}
            }
        }
        self.answered = answered;
    }

    fn open(&mut self, attempt: Attempt, now: Instant) {
        self.unreachable = 0;
        match self.schedule.opened(attempt, now) {
            Opened::Take(at) => {
                let stream = self.sockets.take(attempt);
                self.sockets.give_up_all(attempt.key);
                let lease = Lease {
                    link: Arc::clone(&self.link),
                    host: at.host,
                };
                let reach = match stream {
                    Ok(stream) => Reach::Open(stream, lease),
                    Err(error) => {
                        Reach::NotReached("some connections were lost", error.to_string())
                    }
                };
                self.reached(at, reach);
            }
            Opened::OneTooMany | Opened::Stale => self.sockets.close(attempt),
        }
    }

    fn failed(&mut self, attempt: Attempt, failure: Failure, now: Instant) {
        match failure {
            Failure::Refused => {
                self.unreachable = 0;
                let at = self.schedule.refused(attempt, now);
                self.settled(attempt, at, Reach::Refused);
            }
            Failure::Unreachable => {
                let at = self.schedule.settle(attempt.key);
                self.one_more_unreachable(at);
                self.settled(attempt, at, Reach::Silent);
            }
            // Its own deadline says more.
            Failure::TimedOut => {
                self.sockets.give_up(attempt);
                self.schedule.closed(attempt);
            }
            Failure::Starved(error) => self.starved(attempt, &error, now),
            Failure::NoWay(error) => {
                let at = self.schedule.settle(attempt.key);
                let endpoint = at.and_then(|at| self.endpoint(at));
                let example = endpoint.map_or_else(String::new, |to| format!("{to}: {error}"));
                let why = "some targets could not be tried";
                self.settled(attempt, at, Reach::NotReached(why, example));
            }
        }
    }

    fn starved(&mut self, attempt: Attempt, error: &io::Error, now: Instant) {
        self.shortages += 1;
        if self.shortages > SHORTAGES {
            let at = self.schedule.settle(attempt.key);
            let why = "some targets could not be tried for lack of connections";
            return self.settled(attempt, at, Reach::NotReached(why, error.to_string()));
        }
        self.sockets.close(attempt);
        self.schedule.starved(attempt);
        self.rest = Some(now + REST);
        self.slow_down("this machine ran short of connections", &error.to_string());
    }

    fn give_up_silent(&mut self) {
        let now = Instant::now();
        while let Some((key, at)) = self.schedule.expire(now) {
            self.sockets.give_up_all(key);
            self.reached(at, Reach::Silent);
        }
    }

    /// Lets hosts that were heard be met, and gives up the others when there is nothing more to hear.
    fn meet_heard(&mut self) {
        let Some(awaited) = &mut self.awaited else {
            return;
        };
        let Hearing { hosts, over } = std::mem::take(&mut *self.link.heard());
        for host in hosts {
            if !awaited.hear(host) {
                continue;
            }
            let on_link = self.on_link.as_mut();
            if !on_link.is_some_and(|on_link| on_link.meet(host)) {
                self.schedule.admit(host);
            }
        }
        if let Some(absence) = over
            && awaited.end(absence)
            && let Some(on_link) = &mut self.on_link
        {
            on_link.meet_no_more();
        }
        while self.untold.has_room() {
            let Some((host, absence)) = self.awaited.as_mut().and_then(Awaited::next_absent) else {
                break;
            };
            self.absent(host, absence);
        }
    }

    /// Asks which hosts on the link are there. When to go on, if there is more to ask.
    fn meet_neighbors(&mut self) -> Option<Instant> {
        let on_link = self.on_link.as_mut()?;
        let now = Instant::now();
        if !self.untold.has_room() {
            return None;
        }
        if let Some(rest) = self.rest.filter(|rest| now < *rest) {
            return Some(rest);
        }
        let (targets, ports, dialler) = (&self.targets, &self.ports, &self.dialler);
        let may = |host| {
            targets.address(host).is_some_and(|ip| {
                let mut endpoints = ports.iter().map(|port| Endpoint { ip, port: *port });
                endpoints.any(|endpoint| dialler.check(endpoint).is_ok())
            })
        };
        let busy = self.schedule.has_work();
        let wake = on_link.step(now, dialler, busy, may, &mut self.learned);
        let mut learned = std::mem::take(&mut self.learned);
        for word in learned.drain(..) {
            self.learn(word);
        }
        self.learned = learned;
        wake
    }

    fn learn(&mut self, word: Learned) {
        match word {
            Learned::Connect(host) => self.schedule.admit(host),
            Learned::Silent(host) => self.absent(host, Absence::Silent),
            Learned::Unsure(host) => self.absent(host, Absence::Unsure),
            Learned::Overflow(text) => self.untold.say(Swept::Note("slowed down", text)),
            Learned::Neighbors(judged) => self.untold.say(Swept::Neighbors(judged)),
        }
    }

    fn absent(&mut self, host: u32, absence: Absence) {
        self.schedule.rule_out(host);
        self.untold.say(Swept::Absent { host, absence });
    }

    /// Tries what may be tried now. When to go on, if that is a matter of time, and whether everything is done.
    fn dial(&mut self) -> (Option<Instant>, bool) {
        let now = Instant::now();
        if let Some(rest) = self.rest.filter(|rest| now < *rest) {
            return (Some(rest), false);
        }
        for _ in 0..IN_ONE_GO {
            if !self.untold.has_room() {
                return (None, false);
            }
            if self.schedule.has_work() {
                let wait = self.dialler.wait();
                if !wait.is_zero() {
                    return (Some(now + wait.max(TICK)), false);
                }
                if let Some(look) = self.untracked_until(now) {
                    return (Some(look), false);
                }
            }
            match self.schedule.next(Instant::now()) {
                Next::Dial(attempt, at) => self.attempt(attempt, at),
                Next::Abandon(attempt) => self.sockets.give_up(attempt),
                Next::Wait => return (None, false),
                Next::Done => return (None, true),
            }
            if let Some(rest) = self.rest.filter(|rest| now < *rest) {
                return (Some(rest), false);
            }
        }
        (Some(now), false)
    }

    fn attempt(&mut self, attempt: Attempt, at: At) {
        let Some(endpoint) = self.endpoint(at) else {
            return;
        };
        if let Err(reason) = self.dialler.check(endpoint) {
            let at = self.schedule.settle(attempt.key);
            return self.settled(attempt, at, Reach::Forbidden(reason));
        }
        tracing::trace!(%endpoint, nth = attempt.nth, "tried");
        self.dialler.spend_turn();
        if let Some((left, _)) = &mut self.tracking {
            *left = left.saturating_sub(1);
        }
        match self.sockets.open(attempt, endpoint) {
            Ok(()) => self.shortages = 0,
            Err(error) => self.failed(attempt, Failure::of(error), Instant::now()),
        }
    }

    /// When the table of tracked connections has room again; none when it has.
    fn untracked_until(&mut self, now: Instant) -> Option<Instant> {
        let (left, look) = self.tracking?;
        if now >= look {
            let table = Tracked::now()?;
            if table.is_tight() {
                self.untold.say(Swept::Note(
                    "slowed down",
                    format!(
                        "this machine tracks connections and its table is nearly full ({} of {})",
                        table.used, table.most
                    ),
                ));
            }
            self.tracking = Some((table.allowance(), now + LOOK));
            return None;
        }
        (left == 0).then_some(look)
    }

    fn settled(&mut self, attempt: Attempt, at: Option<At>, reach: Reach) {
        self.sockets.give_up_all(attempt.key);
        if let Some(at) = at {
            self.reached(at, reach);
        }
    }

    fn reached(&mut self, at: At, reach: Reach) {
        let At { host, port } = at;
        self.untold.say(Swept::Reached { host, port, reach });
    }

    fn one_more_unreachable(&mut self, at: Option<At>) {
        self.unreachable += 1;
        if self.unreachable >= UNREACHABLE_IN_A_ROW {
            self.unreachable = 0;
            let example = at.and_then(|at| self.endpoint(at));
            self.slow_down(
                "many hosts in a row were reported unreachable",
                &example.map_or_else(String::new, |endpoint| endpoint.to_string()),
            );
        }
    }

    fn slow_down(&mut self, why: &str, example: &str) {
        if let Some(rate) = self.dialler.slow_down() {
            let text = format!("{why}, now {rate} probes/s ({example})");
            self.untold.say(Swept::Note("slowed down", text));
        }
    }

    fn endpoint(&self, at: At) -> Option<Endpoint> {
        Some(Endpoint {
            ip: self.targets.address(at.host)?,
            port: *self.ports.get(usize::from(at.port))?,
        })
    }
}
