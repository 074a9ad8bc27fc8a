//! The node's half: sessions, heartbeats, the control stream and its reconnects, one command at a time.
//! Start with [`NodeLink`]; what it says is [`Output`]. Calls, streams and scans are the shell's; reports on
//! their way are the [`Spool`](crate::Spool)'s.

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

/// Command ids that a Hello may list: the running one and those whose ack may not have arrived.
pub const HELLO_RUNNING: usize = 64;
/// The first delay after a working stream was lost without a word is uniform below this: thousands of nodes
/// may have lost the same server in the same moment.
pub const WIDE_FIRST_DELAY: Duration = Duration::from_secs(10);
/// How long a stream must live after an ack was sent on it before the ack counts as arrived: the silence
/// bound, so that a server message came in between.
pub const ACK_KEPT: Duration = STREAM_SILENCE;
/// The least delay after UNIMPLEMENTED on the stream; the most is twice this.
pub const UNIMPLEMENTED_DELAY: Duration = Duration::from_secs(300);
/// The longest delay that a server's hint can ask for.
pub const HINT_MOST: Duration = Duration::from_secs(3_600);
/// The longest session that is believed.
const LIFETIME_MOST: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Least and spread of the delay after an upstream server's NOT_ACTIVE.
const NOT_ACTIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(500));

/// A node's link to its server.
///
/// Drive it by calls, with times that never fall: [`start`](Self::start) once, then one call per event, then
/// [`poll_output`](Self::poll_output) until it is empty, then sleep until [`poll_timeout`](Self::poll_timeout)
/// or the next event; [`handle_timeout`](Self::handle_timeout) when every event already received was handled.
/// After [`Output::Stop`] every call is without effect.
#[derive(Debug)]
pub struct NodeLink {
    random: Random,
    timers: Timers<Timer>,
    outputs: VecDeque<Output>,
    phase: Phase,
    /// The session in use and its number.
    session: Option<u64>,
    sessions: u64,
    handshaking: bool,
    handshakes: Backoff,
    /// The session under which an unanswered heartbeat was sent.
    heartbeat: Option<u64>,
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

/// Every deadline of the link. Where two are due at the same moment the earlier variant comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// The server said nothing for 90 s, or the stream could not be opened in that time.
    Silence,
    /// The session's life is over.
    SessionEnd,
    /// A handshake is due: a first one, a refresh, or another try.
    Handshake,
    /// A heartbeat is due.
    Heartbeat,
    /// The delay before the next stream is over.
    Reconnect,
    /// The stream has lived long enough for the back-off to start over.
    Stable,
    /// The oldest ack that was sent has arrived by now.
    Settled,
}

#[derive(Clone, Copy, Debug)]
enum Stream {
    /// Waits for [`Timer::Reconnect`].
    Waiting,
    /// To be opened as soon as there is a session.
    Due,
    /// Hello is on its way.
    Opening { attempt: Attempt, session: u64 },
    /// The server accepted it.
    Open {
        attempt: Attempt,
        session: u64,
        /// Whether it takes up commands of earlier streams.
        resumes: bool,
    },
}

#[derive(Debug)]
struct Running {
    command: WireCommandId,
    /// The stream that brought it.
    born: Attempt,
    canceled: bool,
}

#[derive(Debug)]
struct Unsettled {
    command: WireCommandId,
    born: Attempt,
    /// When the ack went out on the stream that is open now.
    sent: Option<Instant>,
}

impl NodeLink {
    /// A link that has not started. `seed` feeds its jitter.
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
            stream: Stream::Due,
            attempts: 0,
            reconnects: Backoff::new(RECONNECT_FIRST, RECONNECT_MOST),
            running: None,
            unsettled: VecDeque::new(),
            ignored: 0,
        }
    }

    /// Begins with a handshake. A second call changes nothing.
    pub fn start(&mut self) {
        if self.phase == Phase::New {
            self.phase = Phase::Started;
            self.handshake();
        }
    }

    /// A handshake succeeded; `lifetime` is what remains of the session by the server's own times.
    pub fn session_opened(&mut self, now: Instant, lifetime: Duration) {
        if !self.is_started() {
            return;
        }
        let lifetime = lifetime.min(LIFETIME_MOST);
        self.handshaking = false;
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

    /// A handshake failed. The session in use, if any, stays in use while it lives.
    pub fn handshake_failed(&mut self, now: Instant, failure: HandshakeFailure) {
        if !self.is_started() {
            return;
        }
        self.handshaking = false;
        let delay = match failure {
            HandshakeFailure::KeyRefused => return self.stop(StopReason::KeyRefused),
            HandshakeFailure::Limited { retry_after } => self.hinted(retry_after),
            HandshakeFailure::Other => self.handshakes.next_delay(self.random.next()),
        };
        self.timers.set(Timer::Handshake, now + delay);
    }

    /// A heartbeat was answered, or failed.
    pub fn heartbeat_done(&mut self, now: Instant, result: Result<(), HeartbeatFailure>) {
        let Some(sent_under) = self.heartbeat.take() else {
            return;
        };
        match result {
            Ok(()) => self.handshakes.reset(),
            Err(HeartbeatFailure::NodeUnknown) => self.stop(StopReason::NodeUnknown),
            Err(HeartbeatFailure::Unauthenticated) => self.lose_session(now, sent_under),
            Err(HeartbeatFailure::Other) => {}
        }
    }

    /// The server accepted the stream, for the first time or again. `resumes`: it announced any capability of
    /// ours, so that it takes up commands where the last stream left them; an upstream server does not.
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
                    self.abandon(attempt);
                }
                self.send_unsent(now);
            }
            Stream::Open { .. } | Stream::Opening { .. } | Stream::Waiting | Stream::Due => {
                self.heard(now, attempt);
            }
        }
    }

    /// The server said anything at all on the stream.
    pub fn heard(&mut self, now: Instant, attempt: Attempt) {
        if self.is_open(attempt) {
            self.timers.set(Timer::Silence, now + STREAM_SILENCE);
        }
    }

    /// The server sent a command. The same one again changes nothing; a second one while one runs is BUSY.
    pub fn command(&mut self, now: Instant, attempt: Attempt, command: WireCommandId) {
        if !self.is_open(attempt) {
            self.ignored += 1;
            return;
        }
        self.heard(now, attempt);
        if let Some(running) = &self.running {
            if running.command != command {
                self.outputs.push_back(Output::AckBusy { attempt, command });
            }
            return;
        }
        if let Some(done) = self.unsettled.iter_mut().find(|u| u.command == command) {
            done.sent = Some(now);
            self.outputs.push_back(Output::SendAck { attempt, command });
            self.watch_acks();
            return;
        }
        // The server gives the slot away only when it has the ack of what held it.
        self.settle(|unsettled| unsettled.sent.is_some());
        while self.unsettled.len() + 1 >= HELLO_RUNNING {
            let oldest = self.unsettled.pop_front();
            self.outputs
                .extend(oldest.map(|u| Output::Forget(u.command)));
        }
        self.outputs.push_back(Output::Start(command.clone()));
        self.running = Some(Running {
            command,
            born: attempt,
            canceled: false,
        });
    }

    /// The server told to stop a command. Without effect on what does not run.
    pub fn cancel(&mut self, now: Instant, attempt: Attempt, command: &WireCommandId) {
        self.heard(now, attempt);
        let runs = self.running.as_ref().is_some_and(|r| r.command == *command);
        if self.is_open(attempt) && runs {
            self.cancel_running(CancelReason::Asked);
        } else {
            self.ignored += 1;
        }
    }

    /// The running command has ended and its last report is settled: its ack may leave.
    pub fn finished(&mut self, now: Instant, command: &WireCommandId) {
        if !self.is_started() {
            return;
        }
        let Some(done) = self.running.take_if(|r| r.command == *command) else {
            return;
        };
        self.unsettled.push_back(Unsettled {
            command: done.command,
            born: done.born,
            sent: None,
        });
        self.send_unsent(now);
    }

    /// The server says why it will end the stream and when to come back. The stream is dropped at once: the
    /// server sends nothing more on it.
    pub fn goodbye(
        &mut self,
        now: Instant,
        attempt: Attempt,
        reason: GoodbyeReason,
        retry_after: Option<Duration>,
    ) {
        if !self.is_of_stream(attempt) {
            self.ignored += 1;
            return;
        }
        if reason == GoodbyeReason::Revoked {
            return self.stop(StopReason::Revoked);
        }
        self.outputs.push_back(Output::CloseStream(attempt));
        let delay = match retry_after {
            // The slot is the server's: it spreads the nodes, more jitter would only blur that.
            Some(slot) => slot.min(HINT_MOST),
            None => self.reconnects.next_delay(self.random.next()),
        };
        self.wait(now, delay);
    }

    /// The stream ended, or could not be opened.
    pub fn stream_ended(&mut self, now: Instant, attempt: Attempt, end: StreamEnd) {
        if !self.is_of_stream(attempt) {
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
                UNIMPLEMENTED_DELAY + full_jitter(UNIMPLEMENTED_DELAY, self.random.next())
            }
            StreamEnd::NotActive => NOT_ACTIVE.0 + full_jitter(NOT_ACTIVE.1, self.random.next()),
            StreamEnd::Limited { retry_after } => self.hinted(retry_after),
            StreamEnd::Lost => self.after_loss(),
        };
        self.wait(now, delay);
    }

    /// Carries out every deadline that `now` has reached. Call it when all events received were handled.
    pub fn handle_timeout(&mut self, now: Instant) {
        // After a long pause of the process: a session that is over serves nothing that is due as well, and a
        // stream that was silent too long proves no ack, whichever was due first.
        let first =
            [Timer::SessionEnd, Timer::Silence].map(|timer| self.timers.pop_key(timer, now));
        for timer in first.into_iter().flatten() {
            self.fire(now, timer);
        }
        while let Some(timer) = self.timers.pop(now) {
            self.fire(now, timer);
        }
    }

    /// The next thing to do; call it until it answers none. Holds at most what one call can cause.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// What to list in Hello: the running command and those whose ack may not have arrived, oldest first, at
    /// most [`HELLO_RUNNING`].
    pub fn hello_running(&self) -> impl Iterator<Item = &WireCommandId> {
        let unsettled = self.unsettled.iter().map(|u| &u.command);
        unsettled.chain(self.running.iter().map(|r| &r.command))
    }

    /// The command that holds the command slot.
    pub fn running(&self) -> Option<&WireCommandId> {
        self.running.as_ref().map(|r| &r.command)
    }

    /// Whether the server has accepted the stream.
    pub fn is_connected(&self) -> bool {
        matches!(self.stream, Stream::Open { .. })
    }

    /// Whether a session lives.
    pub fn has_session(&self) -> bool {
        self.session.is_some()
    }

    /// How many messages came too late to count.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }
}
