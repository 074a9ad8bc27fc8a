//! The node's end of the control stream: sessions, heartbeats, the stream and its reconnects, one command at a time.
//!
//! Start with [`NodeLink`] and its [`Output`]. The caller makes the calls, holds the stream and runs the scans.
//! Reports in transit are in the [`Spool`](crate::Spool).

mod io;
mod steps;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use fleet_core::{
    Backoff, full_jitter,
    limits::{RECONNECT_FIRST, RECONNECT_MOST, STABLE_SESSION, STREAM_SILENCE},
};
pub use io::{
    Attempt, CancelReason, GoodbyeReason, HandshakeFailure, HeartbeatFailure, InvalidCommandId,
    Output, StopReason, StreamEnd, WireCommandId,
};

use crate::{random::Random, timers::Timers};

/// The most command ids that a Hello lists: the running command, and commands whose ack may not have arrived.
pub const HELLO_RUNNING: usize = 64;
/// Upper bound of the first delay after a working stream was lost without a goodbye. It is wide because thousands of
/// nodes may have lost the same server at the same moment.
pub const WIDE_FIRST_DELAY: Duration = Duration::from_secs(10);
/// How long a stream must live after an ack was sent on it before the ack counts as delivered. It equals the silence
/// bound, because a stream lives that long only if a server message arrived in the meantime.
pub const ACK_KEPT: Duration = STREAM_SILENCE;
/// The shortest delay after UNIMPLEMENTED on the stream. The longest is twice this.
pub const UNIMPLEMENTED_DELAY: Duration = Duration::from_secs(300);
/// The longest delay that a retry hint of the server can impose.
pub const HINT_MOST: Duration = Duration::from_secs(3_600);
/// Longer session lifetimes are cut to this.
const LIFETIME_MOST: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Minimum and jitter of the delay after an upstream server's NOT_ACTIVE.
const NOT_ACTIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(500));
/// Pause after a failed heartbeat that carried a changed status.
const STATUS_RETRY: Duration = Duration::from_secs(2);

/// A node's link to its server.
///
/// Call it with times that never decrease: [`start`](Self::start) once, then one call per event, then
/// [`poll_output`](Self::poll_output) until it returns none. Sleep until [`poll_timeout`](Self::poll_timeout) or the
/// next event. Call [`handle_timeout`](Self::handle_timeout) only after all received events are handled. After
/// [`Output::Stop`], calls have no effect.
#[derive(Debug)]
pub struct NodeLink {
    random: Random,
    timers: Timers<Timer>,
    outputs: VecDeque<Output>,
    phase: Phase,
    /// The number of the session in use.
    session: Option<u64>,
    sessions: u64,
    handshaking: bool,
    handshakes: Backoff,
    /// The session of the heartbeat that is not answered yet.
    heartbeat: Option<u64>,
    /// The status has changed since the last heartbeat was sent.
    unreported_status: bool,
    /// The heartbeat in progress carries a changed status.
    reporting_status: bool,
    stream: Stream,
    attempts: u64,
    reconnects: Backoff,
    running: Option<Running>,
    /// Finished commands whose ack may not have arrived, oldest first.
    unsettled: VecDeque<Unsettled>,
    ignored: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    Started,
    Stopped,
}

/// Every deadline of the link. Of two that are due at the same moment, the earlier variant fires first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// The server sent nothing for 90 s, or did not answer Hello within 35 s.
    Silence,
    /// The session has expired.
    SessionEnd,
    /// A handshake is due: the first one, a refresh, or a retry.
    Handshake,
    /// A heartbeat is due.
    Heartbeat,
    /// The delay before the next stream has passed.
    Reconnect,
    /// The stream has lived long enough to reset the back-off.
    Stable,
    /// The oldest sent ack counts as delivered.
    Settled,
}

#[derive(Clone, Copy, Debug)]
enum Stream {
    /// Waits for [`Timer::Reconnect`].
    Waiting,
    /// Will be opened as soon as there is a session.
    Due,
    /// Hello was sent; Accepted is pending.
    Opening { attempt: Attempt, session: u64 },
    /// The server accepted it.
    Open {
        attempt: Attempt,
        session: u64,
        /// Whether the server resumes commands of earlier streams.
        resumes: bool,
    },
}

#[derive(Debug)]
struct Running {
    command: WireCommandId,
    /// The stream that carried the command.
    received_on: Attempt,
    canceled: bool,
}

#[derive(Debug)]
struct Unsettled {
    command: WireCommandId,
    received_on: Attempt,
    /// When the ack was sent on the current stream.
    sent: Option<Instant>,
}

impl NodeLink {
    /// Creates a link that has not started. `seed` feeds its jitter.
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            timers: Timers::new(),
            outputs: VecDeque::new(),
            phase: Phase::New,
            session: None,
            sessions: 0,
            handshaking: false,
            handshakes: Backoff::new(RECONNECT_FIRST, RECONNECT_MOST),
            heartbeat: None,
            unreported_status: false,
            reporting_status: false,
            stream: Stream::Due,
            attempts: 0,
            reconnects: Backoff::new(RECONNECT_FIRST, RECONNECT_MOST),
            running: None,
            unsettled: VecDeque::new(),
            ignored: 0,
        }
    }

    /// Requests the first handshake. A second call has no effect.
    pub fn start(&mut self) {
        if self.phase == Phase::New {
            self.phase = Phase::Started;
            self.handshake();
        }
    }

    /// Records a successful handshake. `lifetime` is the remaining life of the session, from the server's own times.
    pub fn session_opened(&mut self, now: Instant, lifetime: Duration) {
        if !self.is_started() {
            return;
        }
        // `Instant` panics on overflow, and the server chooses this time.
        let lifetime = lifetime.min(LIFETIME_MOST);
        self.handshaking = false;
        // The back-off stays. A server that rejects each session
        // at once would otherwise be asked without a pause.
        self.sessions += 1;
        self.session = Some(self.sessions);
        self.timers.set(Timer::SessionEnd, now + lifetime);
        let refresh = self.refresh_after(lifetime);
        self.timers.set(Timer::Handshake, now + refresh);
        self.timers.set(Timer::Heartbeat, now);
        if let Stream::Due = self.stream {
            self.open_stream(now);
        }
    }

    /// Records a failed handshake. The session in use stays in use until it expires.
    pub fn handshake_failed(&mut self, now: Instant, failure: HandshakeFailure) {
        if !self.is_started() {
            return;
        }
        self.handshaking = false;
        let delay = match failure {
            HandshakeFailure::KeyRefused => return self.stop(StopReason::KeyRefused),
            HandshakeFailure::Limited { retry_after } => self.hinted_delay(retry_after),
            HandshakeFailure::Other => self.handshakes.next_delay(self.random.next()),
        };
        self.timers.set(Timer::Handshake, now + delay);
    }

    /// Requests a heartbeat as soon as possible, because the status that it carries has changed. It is repeated until the
    /// server has it.
    pub fn status_changed(&mut self, now: Instant) {
        self.unreported_status = true;
        if self.session.is_some() {
            self.timers.set(Timer::Heartbeat, now);
        }
    }

    /// Records the result of a heartbeat.
    pub fn heartbeat_done(&mut self, now: Instant, result: Result<(), HeartbeatFailure>) {
        let Some(sent_under) = self.heartbeat.take() else {
            return;
        };
        match result {
            Ok(()) => {
                self.handshakes.reset();
                if self.unreported_status && self.session.is_some() {
                    self.timers.set(Timer::Heartbeat, now);
                }
            }
            Err(HeartbeatFailure::NodeUnknown) => self.stop(StopReason::NodeUnknown),
            Err(HeartbeatFailure::Unauthenticated) => self.lose_session(now, sent_under),
            // Otherwise the timer already holds the next heartbeat.
            Err(HeartbeatFailure::Other) => {
                self.unreported_status |= self.reporting_status;
                if self.unreported_status && self.session.is_some() {
                    self.timers.set(Timer::Heartbeat, now + STATUS_RETRY);
                }
            }
        }
    }

    /// Records an Accepted, the first one or a repeated one. `resumes` is true if the server announced any capability:
    /// such a server resumes commands of the previous stream. An upstream server does not.
    pub fn accepted(&mut self, now: Instant, attempt: Attempt, resumes: bool) {
        match self.stream {
            Stream::Opening {
                attempt: expected,
                session,
            } if expected == attempt => {
                self.stream = Stream::Open {
                    attempt,
                    session,
                    resumes,
                };
                self.handshakes.reset();
                self.timers.set(Timer::Silence, now + STREAM_SILENCE);
                self.timers.set(Timer::Stable, now + STABLE_SESSION);
                if !resumes {
                    self.cancel_if_abandoned(attempt);
                }
                self.send_unsent_acks(now);
            }
            Stream::Open { .. } | Stream::Opening { .. } | Stream::Waiting | Stream::Due => {
                self.message_received(now, attempt);
            }
        }
    }

    /// Records any server message on the stream, which proves that the server is alive.
    pub fn message_received(&mut self, now: Instant, attempt: Attempt) {
        if self.is_open(attempt) {
            self.timers.set(Timer::Silence, now + STREAM_SILENCE);
        }
    }

    /// Records a command. A repeated command has no effect; a second one while another runs is answered BUSY.
    pub fn command(&mut self, now: Instant, attempt: Attempt, command: WireCommandId) {
        if !self.is_open(attempt) {
            self.ignored += 1;
            return;
        }
        self.message_received(now, attempt);
        if let Some(running) = &self.running {
            if running.command != command {
                self.outputs.push_back(Output::AckBusy { attempt, command });
            }
            return;
        }
        if let Some(done) = self.unsettled.iter_mut().find(|u| u.command == command) {
            // The server has not received the ack, so the ack is repeated and not the scan.
            done.sent = Some(now);
            self.outputs.push_back(Output::SendAck { attempt, command });
            self.arm_settled_timer();
            return;
        }
        // The server sends another command only after it has the ack of the previous one, so every sent ack arrived.
        self.settle(|unsettled| unsettled.sent.is_some());
        // Hello must also list the command that starts now.
        while self.unsettled.len() + 1 >= HELLO_RUNNING {
            let oldest = self.unsettled.pop_front();
            self.outputs
                .extend(oldest.map(|u| Output::Forget(u.command)));
        }
        self.outputs.push_back(Output::Start(command.clone()));
        self.running = Some(Running {
            command,
            received_on: attempt,
            canceled: false,
        });
    }

    /// Records a cancel request. It has no effect on a command that does not run.
    pub fn cancel(&mut self, now: Instant, attempt: Attempt, command: &WireCommandId) {
        self.message_received(now, attempt);
        let runs = self.running.as_ref().is_some_and(|r| r.command == *command);
        if self.is_open(attempt) && runs {
            self.cancel_running(CancelReason::Requested);
        } else {
            self.ignored += 1;
        }
    }

    /// Records the end of the running command, after its last report is settled. Its ack is sent now.
    pub fn finished(&mut self, now: Instant, command: &WireCommandId) {
        if !self.is_started() {
            return;
        }
        let Some(done) = self.running.take_if(|r| r.command == *command) else {
            return;
        };
        self.unsettled.push_back(Unsettled {
            command: done.command,
            received_on: done.received_on,
            sent: None,
        });
        self.send_unsent_acks(now);
    }

    /// Records a goodbye. The stream is closed at once, because the server sends nothing more on it.
    pub fn goodbye(
        &mut self,
        now: Instant,
        attempt: Attempt,
        reason: GoodbyeReason,
        retry_after: Option<Duration>,
    ) {
        if !self.is_active(attempt) {
            self.ignored += 1;
            return;
        }
        if reason == GoodbyeReason::Revoked {
            return self.stop(StopReason::Revoked);
        }
        self.outputs.push_back(Output::CloseStream(attempt));
        let delay = match retry_after {
            // The server has spread the slots over its nodes; more jitter would blur them.
            Some(slot) => slot.min(HINT_MOST),
            None => self.reconnects.next_delay(self.random.next()),
        };
        self.schedule_reconnect(now, delay);
    }

    /// Records the end of the stream, or a failure to open it.
    pub fn stream_ended(&mut self, now: Instant, attempt: Attempt, end: StreamEnd) {
        if !self.is_active(attempt) {
            self.ignored += 1;
            return;
        }
        let delay = match end {
            StreamEnd::NodeUnknown => return self.stop(StopReason::NodeUnknown),
            StreamEnd::Unauthenticated => {
                if let Stream::Opening { session, .. } | Stream::Open { session, .. } = self.stream
                {
                    self.lose_session(now, session);
                }
                self.reconnects.next_delay(self.random.next())
            }
            StreamEnd::Unimplemented => {
                // Only an upgrade of the server helps, so frequent retries are useless.
                UNIMPLEMENTED_DELAY + full_jitter(UNIMPLEMENTED_DELAY, self.random.next())
            }
            StreamEnd::NotActive => NOT_ACTIVE.0 + full_jitter(NOT_ACTIVE.1, self.random.next()),
            StreamEnd::Limited { retry_after } => self.hinted_delay(retry_after),
            StreamEnd::Lost => self.delay_after_loss(),
        };
        self.schedule_reconnect(now, delay);
    }

    /// Fires every deadline that `now` has reached. Call it after all received events are handled.
    pub fn handle_timeout(&mut self, now: Instant) {
        // After a long pause of the process, several deadlines are due at once. An expired session must not serve the
        // others, and a silent stream must not count an ack as delivered, even if another message was due first.
        let first =
            [Timer::SessionEnd, Timer::Silence].map(|timer| self.timers.pop_key(timer, now));
        for timer in first.into_iter().flatten() {
            self.fire(now, timer);
        }
        while let Some(timer) = self.timers.pop(now) {
            self.fire(now, timer);
        }
    }

    /// Returns the next action. Call it until it returns none; one call of an input causes a bounded number.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The command ids for Hello: commands whose ack may not have arrived, oldest first, then the running one. At most
    /// [`HELLO_RUNNING`].
    pub fn hello_running(&self) -> impl Iterator<Item = &WireCommandId> {
        let unsettled = self.unsettled.iter().map(|u| &u.command);
        unsettled.chain(self.running.iter().map(|r| &r.command))
    }

    /// The running command.
    pub fn running(&self) -> Option<&WireCommandId> {
        self.running.as_ref().map(|r| &r.command)
    }

    /// Whether the server has accepted the stream.
    pub fn is_connected(&self) -> bool {
        matches!(self.stream, Stream::Open { .. })
    }

    /// Whether there is a valid session.
    pub fn has_session(&self) -> bool {
        self.session.is_some()
    }

    /// The number of messages that arrived too late to have an effect.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }
}
