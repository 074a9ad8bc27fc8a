//! The task that drives link and spool: events go in, outputs are carried out. Start with [`Shell::run`].

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use fleet_core::{Port, limits};
use fleet_registry::{
    Capabilities, Capability, NodeLink, Spool,
    link::{self, Attempt, GoodbyeReason, StopReason, StreamEnd, WireCommandId},
    spool::{self, SPOOL_ROWS, Tally, UploadFailure},
};
use fleet_scan::{ScanEvent, ScanProgress, Scanner};
use fleet_wire::gateway::{
    self, ControlAck, ControlHello, ControlProgress, control_stream_request as up,
    control_stream_response as down,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Agent, AgentStatus,
    ack::{self, Ending, Gaps, Stopped},
    calls::{Calls, Done, Taken},
    order::{Job, Order, Refusal},
    report,
    stream::{ControlStream, Heard},
    task,
    work::{self, Step, Work},
};
use crate::{
    session::{ServerClock, Session},
    site::{self, SitePolicy},
};

/// What this node can do beyond an upstream one.
const CAPABILITIES: [Capability; 7] = [
    Capability::Progress,
    Capability::Cancel,
    Capability::Goodbye,
    Capability::Pins,
    Capability::Outcomes,
    Capability::Mdns,
    Capability::BigCommands,
];
/// Messages of the server that may wait.
const HEARD: usize = 64;
/// Between two messages of progress.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How long the last acks may take to leave when the process ends.
const FLUSH: Duration = Duration::from_secs(1);
/// A wait without an end, in a form that timers take.
const LONG: Duration = Duration::from_secs(24 * 3_600);

/// Everything of a running agent.
pub(super) struct Shell {
    agent: Agent,
    policy: Arc<SitePolicy>,
    scanner: Scanner,
    /// As they were announced on the newest stream; an external driver may name its own later.
    default_ports: Vec<Port>,
    link: NodeLink,
    spool: Spool<report::Row>,
    session: Option<Session>,
    clock: ServerClock,
    stream: Option<ControlStream>,
    /// What the server of the current stream can do.
    server: Capabilities,
    tell_heard: mpsc::Sender<(Attempt, Heard)>,
    heard: mpsc::Receiver<(Attempt, Heard)>,
    calls: Calls,
    /// The payload of the command that was handed to the link just now.
    offered: Option<Bytes>,
    work: Option<Work>,
    /// Acks that the link may ask for, at most as many as a Hello lists.
    acks: BTreeMap<WireCommandId, ControlAck>,
    /// Until when what was found may be uploaded; the process is to end.
    draining: Option<Instant>,
}

impl Shell {
    pub(super) fn new(agent: Agent) -> Self {
        let (tell_heard, heard) = mpsc::channel(HEARD);
        let policy = Arc::new(agent.options.site.clone());
        let scanner = Scanner::new(
            agent.options.scan.clone(),
            Arc::clone(&agent.options.drivers),
        );
        Self {
            link: NodeLink::new(agent.seed),
            // Another stream of randomness, so that retries of reports and of streams do not march in step.
            spool: Spool::new(SPOOL_ROWS, !agent.seed),
            agent,
            policy,
            scanner,
            default_ports: Vec::new(),
            session: None,
            clock: ServerClock::default(),
            stream: None,
            server: Capabilities::NONE,
            tell_heard,
            heard,
            calls: Calls::default(),
            offered: None,
            work: None,
            acks: BTreeMap::new(),
            draining: None,
        }
    }

    pub(super) async fn run(mut self, shutdown: CancellationToken) -> Result<(), StopReason> {
        self.link.start();
        loop {
            self.carry_out()?;
            self.offered = None;
            self.publish();
            if self
                .draining
                .is_some_and(|until| self.work.is_none() || until <= Instant::now())
            {
                self.flush().await;
                return Ok(());
            }
            let deadline = self.deadline();
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if self.draining.is_none() => self.drain(),
                Ok(()) = self.agent.options.halt.changed() => self.on_halt(),
                Some((attempt, heard)) = self.heard.recv() => self.on_heard(attempt, heard),
                Some(done) = self.calls.next() => self.on_done(done),
                step = work::next(&mut self.work), if self.spool.has_room() => self.on_step(step),
                () = sleep_until(deadline) => {
                    self.link.handle_timeout(now());
                    self.spool.handle_timeout(now());
                }
            }
        }
    }

    fn on_halt(&mut self) {
        match &*self.agent.options.halt.borrow_and_update() {
            Some(reason) => {
                tracing::warn!(reason, "halted by the site: nothing is scanned");
                if let Some(work) = &mut self.work {
                    work.stop(Stopped::Halted);
                }
            }
            None => tracing::info!("the site lets this node scan again"),
        }
    }

    /// What a command that comes while the node is halted is answered.
    fn halted(&self) -> Option<Refusal> {
        let reason = self.agent.options.halt.borrow().clone()?;
        Some(Refusal::halted(&reason))
    }

    /// Carries out what the machines say, until they say nothing more.
    fn carry_out(&mut self) -> Result<(), StopReason> {
        loop {
            if let Some(output) = self.link.poll_output() {
                self.on_link(output)?;
            } else if let Some(output) = self.spool.poll_output() {
                self.on_spool(output);
            } else {
                return Ok(());
            }
        }
    }

    fn on_link(&mut self, output: link::Output) -> Result<(), StopReason> {
        match output {
            link::Output::Handshake => {
                self.calls
                    .handshake(&self.agent.client, &self.agent.state, self.clock)
            }
            link::Output::Heartbeat => match &self.session {
                Some(session) => self.calls.heartbeat(&self.agent.client, session),
                None => self
                    .link
                    .heartbeat_done(now(), Err(link::HeartbeatFailure::Other)),
            },
            link::Output::OpenStream(attempt) => self.open_stream(attempt),
            link::Output::CloseStream(attempt) => {
                self.stream.take_if(|stream| stream.attempt == attempt);
            }
            link::Output::Start(command) => self.start(command),
            link::Output::AckBusy { attempt, command } => {
                self.send(attempt, up::Kind::Ack(ack::busy(&command)))
            }
            link::Output::CancelScan { command, reason } => {
                if let Some(work) = self.work.as_mut().filter(|work| work.command == command) {
                    work.stop(Stopped::Canceled(reason));
                }
            }
            link::Output::SendAck { attempt, command } => {
                if let Some(ack) = self.acks.get(&command).cloned() {
                    self.send(attempt, up::Kind::Ack(ack));
                }
            }
            link::Output::Forget(command) => {
                self.acks.remove(&command);
            }
            link::Output::Stop(reason) => {
                let lost = self.spool.abandon().map_or(0, |(_, tally)| tally.dropped);
                if lost > 0 {
                    tracing::warn!(devices = lost, "found devices are lost with the link");
                }
                return Err(reason);
            }
        }
        Ok(())
    }

    fn on_spool(&mut self, output: spool::Output<report::Row>) {
        match output {
            spool::Output::Upload {
                batch,
                command,
                rows,
            } => match self.session.as_ref().filter(|_| self.link.has_session()) {
                Some(session) => {
                    self.calls
                        .upload(&self.agent.client, session, batch, &command, &rows)
                }
                None => self.spool.upload_failed(
                    now(),
                    batch,
                    UploadFailure::Later { retry_after: None },
                ),
            },
            // The scan is polled again as soon as there is room.
            spool::Output::Room => {}
            spool::Output::CommandDead { command } => {
                tracing::warn!(%command, "the server takes nothing more of this command");
                if let Some(work) = self.work.as_mut().filter(|work| work.command == command) {
                    work.stop(Stopped::CommandDead);
                }
            }
            spool::Output::Settled { command, tally } => self.settled(command, &tally),
        }
    }

    fn open_stream(&mut self, attempt: Attempt) {
        let Some(session) = &self.session else {
            return self.link.stream_ended(now(), attempt, StreamEnd::Lost);
        };
        self.default_ports = self.announced_ports();
        let hello = ControlHello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: CAPABILITIES.iter().map(ToString::to_string).collect(),
            instance_id: self.agent.instance.to_vec().into(),
            running: self
                .link
                .hello_running()
                .map(|command| command.as_str().to_owned())
                .collect(),
            default_ports: self.default_ports.iter().map(ToString::to_string).collect(),
            local_subnets: self
                .local_subnets()
                .iter()
                .map(ToString::to_string)
                .collect(),
            max_targets: self.agent.options.command_targets,
            max_ports: u32::try_from(limits::COMMAND_PORTS).unwrap_or(u32::MAX),
        };
        self.server = Capabilities::NONE;
        self.stream = Some(ControlStream::open(
            &self.agent.client,
            session,
            attempt,
            hello,
            self.tell_heard.clone(),
        ));
    }

    /// The ports that a scan without ports takes: what drivers name now, as far as the site allows it.
    fn announced_ports(&self) -> Vec<Port> {
        self.scanner
            .drivers()
            .default_ports()
            .into_iter()
            .filter(|port| !self.policy.denied_ports.contains(port))
            .take(limits::COMMAND_PORTS)
            .collect()
    }

    fn local_subnets(&self) -> Vec<ipnetwork::Ipv4Network> {
        let named = self.agent.options.local_subnets.clone();
        self.policy
            .local_subnets(&named.unwrap_or_else(site::own_subnets))
    }

    fn start(&mut self, command: WireCommandId) {
        let payload = self.offered.take().unwrap_or_default();
        if self.draining.is_some() {
            // Not acked: the server gives it to the next start of this node.
            return;
        }
        if let Err(misuse) = self.spool.begin(command.clone()) {
            tracing::error!(%misuse, %command, "a command came while reports of another wait");
            self.acks.insert(command.clone(), ack::busy(&command));
            return self.link.finished(now(), &command);
        }
        let local_subnets = self.local_subnets();
        let order = Order {
            policy: &self.policy,
            local_subnets: &local_subnets,
            default_ports: &self.default_ports,
            upstream_server: self.server.is_empty(),
        };
        let job = self.halted().map_or_else(|| order.read(payload), Err);
        match job {
            Ok(Job::Scan(task)) => {
                tracing::info!(%command, entries = task.entries.len(), ports = task.ports.len(), "a scan begins");
                let resolver = &self.agent.options.resolver;
                self.work = Some(Work::begin(command, task, &self.scanner, resolver));
            }
            Ok(Job::Pair(job)) => {
                tracing::info!(%command, targets = job.targets(), "a pairing begins");
                let (options, drivers) = (
                    self.agent.options.scan.clone(),
                    Arc::clone(&self.agent.options.drivers),
                );
                let key = self.agent.state.encryption_public();
                self.work = Some(Work::pairing(command, options, drivers, key, job));
            }
            Err(refusal) => {
                tracing::warn!(%command, reason = refusal.reason, "a command is refused");
                self.work = Some(Work::ended(command, Some(Ending::Refused(refusal))));
                self.finish();
            }
        }
    }

    fn on_step(&mut self, step: Step) {
        let Some(work) = &mut self.work else {
            return;
        };
        match step {
            Step::Pinned(pins) => {
                work.pinned(pins, &self.scanner);
                let over = !work.is_active();
                self.tell_pins();
                if over {
                    self.finish();
                }
            }
            // The next start of this node scans the host again, and would name it by its better port then.
            Step::Event(ScanEvent::Found(found))
                if found.provisional && work.stopped == Some(Stopped::ShuttingDown) =>
            {
                tracing::debug!(endpoint = %found.endpoint, "a device is left to the next start of this node");
            }
            Step::Event(ScanEvent::Found(found)) => {
                tracing::debug!(endpoint = %found.endpoint, driver = found.driver, model = found.model, "a device");
                let row = report::row(self.agent.node, found, self.policy.addresses);
                let pushed = row.map(|row| self.spool.push(now(), report::Row::Found(row)));
                if !matches!(pushed, Some(Ok(()))) {
                    tracing::warn!(command = %work.command, ?pushed, "a device cannot be reported");
                    work.lost += 1;
                }
            }
            Step::Event(ScanEvent::Progress(progress)) => {
                work.progress = Some(progress);
                if work.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                    work.told = Some(Instant::now());
                    self.tell(String::new());
                }
            }
            Step::Event(ScanEvent::Note(note)) => {
                tracing::debug!(command = %work.command, note, "the scan notes");
                self.tell(note.chars().take(512).collect());
            }
            Step::Paired(result) => {
                let pushed = self.spool.push(now(), report::Row::Paired(result));
                if pushed.is_err() {
                    tracing::warn!(command = %work.command, ?pushed, "a result cannot be reported");
                    work.lost += 1;
                }
            }
            Step::PairingOver(result) => {
                work.end_pairing(result);
                self.finish();
            }
            Step::Over(result) => {
                work.end(result);
                self.tell(String::new());
                self.finish();
            }
        }
    }

    /// Tells how far the scan is, if the server wants to know.
    fn tell(&self, note: String) {
        let (Some(stream), Some(work)) = (&self.stream, &self.work) else {
            return;
        };
        if !self.server.has(Capability::Progress) {
            return;
        }
        let (done, total, phase) = work
            .progress
            .map_or((0, 0, ""), |ScanProgress { done, total, phase }| {
                (done, total, phase)
            });
        stream.offer(up::Kind::Progress(ControlProgress {
            command_id: work.command.as_str().to_owned(),
            targets_done: done,
            targets_total: total,
            phase: phase.to_owned(),
            note,
        }));
    }

    /// Tells what the names of the running command are pinned to. The server refuses reports until it has heard that;
    /// on a new stream it is said again, since the old one may not have carried it.
    fn tell_pins(&mut self) {
        let (Some(stream), Some(work)) = (&self.stream, &self.work) else {
            return;
        };
        if !self.server.has(Capability::Pins) {
            return;
        }
        let attempt = stream.attempt;
        for pins in task::messages(&work.command, &work.pins) {
            self.send(attempt, up::Kind::Pins(pins));
        }
    }

    /// The scan is over: what waits in the spool leaves.
    fn finish(&mut self) {
        if let Err(misuse) = self.spool.finish(now()) {
            tracing::error!(%misuse, "the spool does not know the command");
        }
    }

    /// The last report of a command has arrived, or never will: its ack may leave.
    fn settled(&mut self, command: WireCommandId, tally: &Tally) {
        let Some(work) = self.work.take_if(|work| work.command == command) else {
            return;
        };
        let ending = work
            .ending
            .unwrap_or_else(|| Ending::Failed("the scan did not end".to_owned()));
        let interrupted = matches!(&ending, Ending::Ran(summary) if summary.interrupted.is_some());
        if interrupted && work.stopped == Some(Stopped::ShuttingDown) {
            tracing::info!(%command, reported = tally.accepted, "the scan is left to the next start of this node");
            return;
        }
        // A server that knows pins has heard which names are left out; to another one that is a gap.
        let left_out = task::left_out(&work.pins).filter(|_| !self.server.has(Capability::Pins));
        let ack = ack::ack(
            &command,
            &ending,
            work.stopped,
            tally,
            Gaps {
                lost: work.lost,
                left_out,
            },
        );
        tracing::info!(%command, code = ack.code, reason = ack.error_message, accepted = tally.accepted, rejected = tally.rejected, dropped = tally.dropped, "a command ended");
        self.acks.insert(command.clone(), ack);
        self.link.finished(now(), &command);
    }

    fn on_heard(&mut self, attempt: Attempt, heard: Heard) {
        let now = now();
        let kind = match heard {
            Heard::Message(Some(kind)) => kind,
            Heard::Message(None) => return self.link.heard(now, attempt),
            Heard::Ended(end) => {
                if self
                    .stream
                    .take_if(|stream| stream.attempt == attempt)
                    .is_some()
                {
                    tracing::info!(?end, "the control stream ended");
                }
                return self.link.stream_ended(now, attempt, end);
            }
        };
        match kind {
            down::Kind::Accepted(accepted) => {
                let capabilities =
                    Capabilities::parse(accepted.capabilities.iter().map(String::as_str));
                if self
                    .stream
                    .as_ref()
                    .is_some_and(|stream| stream.attempt == attempt)
                {
                    self.server = capabilities;
                    self.clock.heard(now, accepted.server_time.as_ref());
                }
                let first = !self.link.is_connected();
                self.link.accepted(now, attempt, !capabilities.is_empty());
                if first && self.link.is_connected() {
                    self.tell_pins();
                    tracing::info!(server = accepted.version, ?capabilities, "connected");
                }
            }
            down::Kind::Command(command) => match WireCommandId::new(&command.command_id) {
                Ok(id) => {
                    self.offered = Some(command.payload);
                    self.link.command(now, attempt, id);
                }
                Err(error) => {
                    tracing::warn!(%error, "dropped a command");
                    self.link.heard(now, attempt);
                }
            },
            down::Kind::Cancel(cancel) => match WireCommandId::new(&cancel.command_id) {
                Ok(id) => self.link.cancel(now, attempt, &id),
                Err(_) => self.link.heard(now, attempt),
            },
            down::Kind::Goodbye(goodbye) => {
                let retry_after = Duration::from_millis(goodbye.retry_after_ms.into());
                let reason = match goodbye.reason() {
                    gateway::GoodbyeReason::Drain => GoodbyeReason::Drain,
                    gateway::GoodbyeReason::Replaced => GoodbyeReason::Replaced,
                    gateway::GoodbyeReason::Revoked => GoodbyeReason::Revoked,
                    gateway::GoodbyeReason::Duplicate => GoodbyeReason::Duplicate,
                    gateway::GoodbyeReason::Unspecified => GoodbyeReason::Unspecified,
                };
                tracing::info!(?reason, ?retry_after, "the server says goodbye");
                self.link.goodbye(
                    now,
                    attempt,
                    reason,
                    (!retry_after.is_zero()).then_some(retry_after),
                );
            }
        }
    }

    fn on_done(&mut self, done: Done) {
        let now = now();
        match done {
            Done::Handshake(Ok(session)) => {
                tracing::info!(
                    lifetime_seconds = session.lifetime.as_secs(),
                    "a session is open"
                );
                let lifetime = session.lifetime;
                self.session = Some(session);
                self.link.session_opened(now, lifetime);
            }
            Done::Handshake(Err(failure)) => self.link.handshake_failed(now, failure),
            Done::Heartbeat(Ok(time)) => {
                self.clock.heard(now, time.as_ref());
                self.link.heartbeat_done(now, Ok(()));
            }
            Done::Heartbeat(Err(failure)) => self.link.heartbeat_done(now, Err(failure)),
            Done::Upload {
                batch,
                result: Ok(Taken { accepted, rejected }),
            } => self.spool.uploaded(now, batch, accepted, rejected),
            Done::Upload {
                batch,
                result: Err(failure),
            } => self.spool.upload_failed(now, batch, failure),
        }
    }

    /// Sends on the stream of this attempt; one that takes nothing is given up.
    fn send(&mut self, attempt: Attempt, kind: up::Kind) {
        let Some(stream) = self
            .stream
            .as_ref()
            .filter(|stream| stream.attempt == attempt)
        else {
            return;
        };
        if stream.send(kind).is_err() {
            self.stream = None;
            self.link.stream_ended(now(), attempt, StreamEnd::Lost);
        }
    }

    /// The process is to end: no new scan, the running one stops, what it found is uploaded.
    fn drain(&mut self) {
        tracing::info!("shutting down");
        self.draining = Some(Instant::now() + self.agent.options.drain);
        if let Some(work) = self.work.as_mut().filter(|work| work.is_active()) {
            work.stop(Stopped::ShuttingDown);
        }
    }

    /// Lets the last acks leave, then ends the stream.
    async fn flush(&mut self) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        stream.close();
        let attempt = stream.attempt;
        let ended = async {
            while let Some((from, heard)) = self.heard.recv().await {
                if from == attempt && matches!(heard, Heard::Ended(_)) {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(FLUSH, ended).await;
    }

    fn deadline(&self) -> Instant {
        let due = [self.link.poll_timeout(), self.spool.poll_timeout()]
            .into_iter()
            .flatten()
            .map(Instant::from_std);
        due.chain(self.draining)
            .min()
            .unwrap_or_else(|| Instant::now() + LONG)
    }

    fn publish(&self) {
        let status = AgentStatus {
            connected: self.link.is_connected(),
            session: self.link.has_session(),
            running: self
                .link
                .running()
                .map(|command| command.as_str().to_owned()),
            spooled: self.spool.held(),
        };
        let sender: &watch::Sender<AgentStatus> = &self.agent.status;
        sender.send_if_modified(|last| {
            let changed = *last != status;
            *last = status;
            changed
        });
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
