//! The main loop of the agent: events go into the state machines, and their outputs are executed. Start with
//! [`Shell::run`]. Commands are in `shell/commands.rs`, messages and calls in `shell/messages.rs`.

mod commands;
mod messages;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use fleet_core::Port;
use fleet_discovery::SubnetChoice;
use fleet_registry::{
    Capabilities, Capability, NodeLink, Spool,
    link::{self, Attempt, StopReason, StreamEnd, WireCommandId},
    spool::{self, SPOOL_ROWS, UploadFailure},
};
use fleet_scan::{LoginBudget, Scanner};
use fleet_wire::gateway::{ControlAck, control_stream_request as up};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Agent, AgentCounts, AgentStatus,
    ack::StopCause,
    calls::Calls,
    report,
    route::Route,
    stream::{ControlStream, StreamEvent},
    work::{self, Work},
};
use crate::{
    session::{ServerClock, Session},
    site::SitePolicy,
};

/// The extensions that this node supports.
const CAPABILITIES: [Capability; 10] = [
    Capability::Progress,
    Capability::Cancel,
    Capability::Goodbye,
    Capability::Pins,
    Capability::Outcomes,
    Capability::Mdns,
    Capability::BigCommands,
    Capability::Hosts,
    // Only with the option of the administrator of the site.
    Capability::Announcements,
    Capability::DefaultPasswords,
];
/// Most queued stream events.
const EVENTS: usize = 64;
/// Interval between progress messages.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Time limit for sending the last acks before the process ends.
const FLUSH: Duration = Duration::from_secs(1);
/// A wait without a deadline, in a form that timers accept.
const LONG: Duration = Duration::from_secs(24 * 3_600);

/// The state of a running agent.
pub(super) struct Shell {
    agent: Agent,
    policy: Arc<SitePolicy>,
    scanner: Scanner,
    /// As announced on the newest stream. An external driver may report its own ports later.
    default_ports: Vec<Port>,
    /// The local subnets, as announced on the newest stream.
    subnets: Vec<SubnetChoice>,
    link: NodeLink,
    spool: Spool<report::Row>,
    session: Option<Session>,
    clock: ServerClock,
    stream: Option<ControlStream>,
    /// Whether the limits under an upstream server were logged.
    stated_limits: bool,
    /// Whether the way to the server carries the stream.
    route: Route,
    /// The capabilities of the current server.
    server: Capabilities,
    events_tx: mpsc::Sender<(Attempt, StreamEvent)>,
    events: mpsc::Receiver<(Attempt, StreamEvent)>,
    calls: Calls,
    /// The payload of the command that was just passed to the link.
    pending_payload: Option<Bytes>,
    work: Option<Work>,
    login_budget: LoginBudget,
    counts: AgentCounts,
    /// Acks that may have to be sent again, at most as many as a Hello lists.
    acks: BTreeMap<WireCommandId, ControlAck>,
    /// The deadline for uploads, if the process is shutting down.
    draining: Option<Instant>,
}

impl Shell {
    pub(super) fn new(agent: Agent) -> Self {
        let (events_tx, events) = mpsc::channel(EVENTS);
        let policy = Arc::new(agent.options.site.clone());
        let scanner = Scanner::new(
            agent.options.scan.clone(),
            Arc::clone(&agent.options.drivers),
        );
        Self {
            link: NodeLink::new(agent.seed),
            // A different seed, so the retry delays of reports and streams are independent.
            spool: Spool::new(SPOOL_ROWS, !agent.seed),
            agent,
            policy,
            scanner,
            default_ports: Vec::new(),
            subnets: Vec::new(),
            login_budget: LoginBudget::default(),
            counts: AgentCounts::default(),
            session: None,
            clock: ServerClock::default(),
            stream: None,
            route: Route::default(),
            stated_limits: false,
            server: Capabilities::NONE,
            events_tx,
            events,
            calls: Calls::default(),
            pending_payload: None,
            work: None,
            acks: BTreeMap::new(),
            draining: None,
        }
    }

    pub(super) async fn run(mut self, shutdown: CancellationToken) -> Result<(), StopReason> {
        self.link.start();
        loop {
            self.run_outputs()?;
            // The link ignores repeated and late commands,
            // and their payload must not start the next one.
            self.pending_payload = None;
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
                // Deadlines come last: a message that has arrived counts, even if its timer is due.
                biased;
                () = shutdown.cancelled(), if self.draining.is_none() => self.drain(),
                // Without a sender, which is the default, `changed` fails and disables this branch.
                Ok(()) = self.agent.options.halt.changed() => self.on_halt(),
                Some((attempt, event)) = self.events.recv() => self.on_stream_event(attempt, event),
                Some(result) = self.calls.next() => self.on_call_result(result),
                step = work::next(&mut self.work), if self.spool.has_room() => self.on_step(step),
                () = sleep_until(deadline) => {
                    self.link.handle_timeout(now());
                    self.spool.handle_timeout(now());
                }
            }
        }
    }

    /// Executes the outputs of both state machines until there are none.
    fn run_outputs(&mut self) -> Result<(), StopReason> {
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
                Some(session) => {
                    let halt = self.agent.options.halt.borrow().clone();
                    let problem = self.route.stream_problem(self.link.is_connected());
                    self.calls
                        .heartbeat(&self.agent.client, session, halt, problem);
                }
                None => self
                    .link
                    .heartbeat_done(now(), Err(link::HeartbeatFailure::Other)),
            },
            link::Output::OpenStream(attempt) => {
                self.counts.streams += 1;
                self.open_stream(attempt);
            }
            link::Output::CloseStream(attempt) => {
                let current = |stream: &mut ControlStream| stream.attempt == attempt;
                if let Some(stream) = self.stream.take_if(current)
                    && stream.is_unanswered(now())
                {
                    self.route.hello_unanswered();
                }
            }
            link::Output::Start(command) => self.start(command),
            link::Output::AckBusy { attempt, command } => {
                let ack = self.refuse_second(&command);
                self.send(attempt, up::Kind::Ack(ack))
            }
            link::Output::CancelScan { command, reason } => {
                if let Some(work) = self.work.as_mut().filter(|work| work.command == command) {
                    work.stop(StopCause::Canceled(reason));
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
                    tracing::warn!(
                        devices = lost,
                        "found devices are lost, because the link has ended permanently"
                    );
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
                // The filter: the link may have lost the session that is still stored here.
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
            // The main loop polls the scan only while there is room, so there is nothing to do.
            spool::Output::Room => {}
            spool::Output::CommandDead { command } => {
                tracing::warn!(%command, "the server rejects all further reports of this command");
                if let Some(work) = self.work.as_mut().filter(|work| work.command == command) {
                    work.stop(StopCause::CommandDead);
                }
            }
            spool::Output::Settled { command, tally } => self.settled(command, &tally),
        }
    }

    /// Sends on the stream of this attempt. A blocked stream is dropped.
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

    /// Starts the shutdown: the running scan stops, its results are uploaded, and no command starts.
    fn drain(&mut self) {
        tracing::info!("shutting down");
        self.draining = Some(Instant::now() + self.agent.options.drain);
        if let Some(work) = self.work.as_mut().filter(|work| work.is_active()) {
            work.stop(StopCause::ShuttingDown);
        }
    }

    /// Sends the last acks, then ends the stream.
    async fn flush(&mut self) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        stream.close();
        let attempt = stream.attempt;
        let ended = async {
            while let Some((from, event)) = self.events.recv().await {
                if from == attempt && matches!(event, StreamEvent::Ended { .. }) {
                    break;
                }
            }
        };
        // A server that does not read must not delay the exit.
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
            problem: self
                .route
                .problem()
                .or_else(|| self.route.stream_problem(self.link.is_connected())),
            subnets: self.subnets.clone(),
            counts: self.counts,
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
