//! A model of the link: the state that its caller can see, the outputs that each operation must cause, and invariants.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use fleet_core::limits;
use fleet_registry::{
    NodeLink,
    link::{
        ACK_KEPT, Attempt, CancelReason, GoodbyeReason, HELLO_RUNNING, HINT_MOST, HandshakeFailure,
        HeartbeatFailure, Output, StopReason, StreamEnd, WireCommandId,
    },
};

use super::Op;

/// A command, as the caller sees it.
#[derive(Clone, Copy, Debug)]
struct Command {
    born: Attempt,
    state: CommandState,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum CommandState {
    Runs {
        canceled: bool,
    },
    /// Finished. `sent` is when its ack was sent on the current stream.
    Finished {
        sent: Option<Instant>,
    },
    Forgotten,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stream {
    None,
    Opening(Attempt),
    Open(Attempt),
}

struct World {
    link: NodeLink,
    now: Instant,
    handshaking: bool,
    heartbeat: bool,
    /// When the session expires, unless it is lost first.
    session: Option<Instant>,
    /// Its lifetime when it was opened.
    lifetime: Duration,
    stream: Stream,
    /// Whether the server resumes commands of earlier streams.
    resumes: bool,
    /// When the last server message arrived, or the stream was opened.
    last_message: Instant,
    /// The earliest and the latest time of the next stream, once there is a session.
    reconnect: Option<(Instant, Instant)>,
    attempts: u64,
    commands: BTreeMap<WireCommandId, Command>,
    stopped: Option<StopReason>,
    /// Outputs that the last operation must cause.
    wanted: Vec<Output>,
    /// Outputs of the last operation.
    outputs: Vec<Output>,
}

pub(super) fn run(origin: Instant, ops: impl Iterator<Item = Op>) {
    let mut world = World::new(origin);
    for op in ops {
        world.step(op);
        world.compare();
    }
    world.settle();
}

impl World {
    fn new(now: Instant) -> Self {
        let mut world = Self {
            link: NodeLink::new(11),
            now,
            handshaking: false,
            heartbeat: false,
            session: None,
            lifetime: Duration::ZERO,
            stream: Stream::None,
            resumes: false,
            last_message: now,
            reconnect: Some((now, now)),
            attempts: 0,
            commands: BTreeMap::new(),
            stopped: None,
            wanted: vec![Output::Handshake],
            outputs: Vec::new(),
        };
        assert_eq!(world.link.poll_timeout(), None);
        world.link.start();
        world.link.start();
        world.compare();
        world
    }

    fn step(&mut self, [kind, a, b, c]: Op) {
        match kind % 16 {
            0 | 1 => self.session_opened(a),
            2 => self.handshake_failed(a, b),
            3 => self.heartbeat_done(a),
            4 | 5 => self.accepted(self.attempt(c), a < 160),
            6 => self.message(self.attempt(c)),
            7 | 8 => self.command(self.attempt(c), a % 5),
            9 => self.cancel(self.attempt(c), a % 5),
            10 => self.finished(a % 5),
            11 => self.stream_ended(self.attempt(c), a, b),
            12 => self.goodbye(self.attempt(c), a, b),
            13 => self.now += Duration::from_millis(u64::from(a) * u64::from(b)),
            _ => self.tick(),
        }
    }

    /// Usually the current stream, sometimes an earlier one, sometimes one that never existed.
    fn attempt(&self, argument: u8) -> Attempt {
        match argument {
            0..200 => Attempt(self.attempts),
            200..240 => Attempt(self.attempts.saturating_sub(u64::from(argument % 3))),
            240.. => Attempt(self.attempts + 1),
        }
    }

    fn is_open(&self, attempt: Attempt) -> bool {
        self.stream == Stream::Open(attempt)
    }

    fn holds(&self, attempt: Attempt) -> bool {
        self.stream == Stream::Open(attempt) || self.stream == Stream::Opening(attempt)
    }

    fn running(&self) -> Option<WireCommandId> {
        let runs = |c: &Command| matches!(c.state, CommandState::Runs { .. });
        self.commands
            .iter()
            .find(|(_, c)| runs(c))
            .map(|(id, _)| id.clone())
    }

    // The operations of the caller.

    fn session_opened(&mut self, hours: u8) {
        if !std::mem::take(&mut self.handshaking) {
            return;
        }
        let lifetime = Duration::from_secs(60 + u64::from(hours) * 600);
        self.link.session_opened(self.now, lifetime);
        self.session = Some(self.now + lifetime);
        self.lifetime = lifetime;
    }

    fn handshake_failed(&mut self, how: u8, seconds: u8) {
        if !std::mem::take(&mut self.handshaking) {
            return;
        }
        let failure = match how {
            0..200 => HandshakeFailure::Other,
            200..250 => HandshakeFailure::Limited {
                retry_after: Duration::from_secs(u64::from(seconds)),
            },
            250.. => HandshakeFailure::KeyRefused,
        };
        if failure == HandshakeFailure::KeyRefused {
            self.want_stop(StopReason::KeyRefused);
        }
        self.link.handshake_failed(self.now, failure);
    }

    fn heartbeat_done(&mut self, how: u8) {
        if !std::mem::take(&mut self.heartbeat) {
            return;
        }
        let result = match how {
            0..150 => Ok(()),
            150..220 => Err(HeartbeatFailure::Other),
            220..250 => Err(HeartbeatFailure::Unauthenticated),
            250.. => Err(HeartbeatFailure::NodeUnknown),
        };
        if result == Err(HeartbeatFailure::NodeUnknown) {
            self.want_stop(StopReason::NodeUnknown);
        }
        self.link.heartbeat_done(self.now, result);
        self.note_session();
    }

    /// Only the link knows whether the rejected session was in use. It may lose a session here, and never gain one.
    fn note_session(&mut self) {
        if !self.link.has_session() {
            self.session = None;
        }
        assert_eq!(self.link.has_session(), self.session.is_some());
    }

    fn accepted(&mut self, attempt: Attempt, resumes: bool) {
        if self.stream == Stream::Opening(attempt) {
            self.stream = Stream::Open(attempt);
            self.resumes = resumes;
            let mut sends = Vec::new();
            for (id, command) in &mut self.commands {
                let old = command.born != attempt;
                match command.state {
                    CommandState::Runs { canceled: false } if old && !resumes => {
                        command.state = CommandState::Runs { canceled: true };
                        self.wanted.push(Output::CancelScan {
                            command: id.clone(),
                            reason: CancelReason::Abandoned,
                        });
                    }
                    CommandState::Finished { .. } if old && !resumes => {
                        command.state = CommandState::Forgotten;
                        self.wanted.push(Output::Forget(id.clone()));
                    }
                    CommandState::Finished { .. } => {
                        command.state = CommandState::Finished {
                            sent: Some(self.now),
                        };
                        sends.push(id.clone());
                    }
                    CommandState::Runs { .. } | CommandState::Forgotten => {}
                }
            }
            let sends = sends
                .into_iter()
                .map(|command| Output::SendAck { attempt, command });
            self.wanted.extend(sends);
        }
        if self.is_open(attempt) {
            self.last_message = self.now;
        }
        self.link.accepted(self.now, attempt, resumes);
    }

    fn message(&mut self, attempt: Attempt) {
        self.link.message_received(self.now, attempt);
        if self.is_open(attempt) {
            self.last_message = self.now;
        }
    }

    fn command(&mut self, attempt: Attempt, which: u8) {
        // Of every five ids, one is current. A forgotten one is never used again.
        let generation = self.commands.len() / 5;
        let Ok(id) = WireCommandId::new(&format!("{which}-{generation}")) else {
            return;
        };
        if self
            .commands
            .get(&id)
            .is_some_and(|c| c.state == CommandState::Forgotten)
        {
            return;
        }
        self.link.command(self.now, attempt, id.clone());
        if !self.is_open(attempt) {
            return;
        }
        self.last_message = self.now;
        if let Some(running) = self.running() {
            if running != id {
                self.wanted.push(Output::AckBusy {
                    attempt,
                    command: id,
                });
            }
            return;
        }
        if let Some(known) = self.commands.get_mut(&id) {
            known.state = CommandState::Finished {
                sent: Some(self.now),
            };
            self.wanted.push(Output::SendAck {
                attempt,
                command: id,
            });
            return;
        }
        for (id, command) in &mut self.commands {
            if matches!(command.state, CommandState::Finished { sent: Some(_) }) {
                command.state = CommandState::Forgotten;
                self.wanted.push(Output::Forget(id.clone()));
            }
        }
        self.wanted.push(Output::Start(id.clone()));
        let state = CommandState::Runs { canceled: false };
        self.commands.insert(
            id,
            Command {
                born: attempt,
                state,
            },
        );
    }

    fn cancel(&mut self, attempt: Attempt, which: u8) {
        let id = match self.running() {
            Some(running) if which < 3 => running,
            Some(_) | None => match WireCommandId::new("another") {
                Ok(id) => id,
                Err(_) => return,
            },
        };
        self.link.cancel(self.now, attempt, &id);
        if !self.is_open(attempt) {
            return;
        }
        self.last_message = self.now;
        if let Some(command) = self.commands.get_mut(&id)
            && command.state == (CommandState::Runs { canceled: false })
        {
            command.state = CommandState::Runs { canceled: true };
            let reason = CancelReason::Requested;
            self.wanted.push(Output::CancelScan {
                command: id,
                reason,
            });
        }
    }

    fn finished(&mut self, which: u8) {
        let Some(id) = self.running() else {
            return;
        };
        if which == 4 {
            // Only a running command can finish.
            let other = WireCommandId::new("another");
            assert!(other.map(|id| self.link.finished(self.now, &id)).is_ok());
            return;
        }
        self.link.finished(self.now, &id);
        let born = self.commands.get(&id).map(|c| c.born);
        let state = match self.stream {
            Stream::Open(attempt) if self.resumes || born == Some(attempt) => {
                self.wanted.push(Output::SendAck {
                    attempt,
                    command: id.clone(),
                });
                CommandState::Finished {
                    sent: Some(self.now),
                }
            }
            Stream::Open(_) => {
                self.wanted.push(Output::Forget(id.clone()));
                CommandState::Forgotten
            }
            Stream::None | Stream::Opening(_) => CommandState::Finished { sent: None },
        };
        if let Some(command) = self.commands.get_mut(&id) {
            command.state = state;
        }
    }

    fn stream_ended(&mut self, attempt: Attempt, how: u8, seconds: u8) {
        let hint = Duration::from_secs(u64::from(seconds) * 30);
        let (end, least, most) = match how {
            0..120 => (StreamEnd::Lost, 0, 30),
            120..150 => (StreamEnd::NotActive, 1, 2),
            150..180 => (StreamEnd::Unauthenticated, 0, 30),
            180..200 => (StreamEnd::Unimplemented, 300, 600),
            200..250 => (StreamEnd::Limited { retry_after: hint }, 0, 0),
            250.. => (StreamEnd::NodeUnknown, 0, 0),
        };
        let held = self.holds(attempt);
        if held && end == StreamEnd::NodeUnknown {
            self.want_stop(StopReason::NodeUnknown);
            // The caller reported the end of the stream. The link closes it nevertheless, which is harmless.
        }
        self.link.stream_ended(self.now, attempt, end);
        if held && self.stopped.is_none() {
            let (least, most) = match end {
                StreamEnd::Limited { .. } => (hint.min(HINT_MOST), hint.min(HINT_MOST) * 11 / 10),
                StreamEnd::NodeUnknown
                | StreamEnd::Unauthenticated
                | StreamEnd::Unimplemented
                | StreamEnd::NotActive
                | StreamEnd::Lost => (Duration::from_secs(least), Duration::from_secs(most)),
            };
            self.lose_stream(least, most);
            self.note_session();
        }
    }

    fn goodbye(&mut self, attempt: Attempt, how: u8, seconds: u8) {
        let slot = how
            .is_multiple_of(2)
            .then(|| Duration::from_secs(u64::from(seconds) * 30));
        let reason = match how {
            0..100 => GoodbyeReason::Drain,
            100..160 => GoodbyeReason::Replaced,
            160..220 => GoodbyeReason::Duplicate,
            220..250 => GoodbyeReason::Unspecified,
            250.. => GoodbyeReason::Revoked,
        };
        let held = self.holds(attempt);
        if held && reason == GoodbyeReason::Revoked {
            self.want_stop(StopReason::Revoked);
        } else if held {
            self.wanted.push(Output::CloseStream(attempt));
        }
        self.link.goodbye(self.now, attempt, reason, slot);
        if held && self.stopped.is_none() {
            match slot.map(|slot| slot.min(HINT_MOST)) {
                Some(slot) => self.lose_stream(slot, slot),
                None => self.lose_stream(Duration::ZERO, limits::RECONNECT_MOST),
            }
        }
    }

    fn lose_stream(&mut self, least: Duration, most: Duration) {
        self.stream = Stream::None;
        self.reconnect = Some((self.now + least, self.now + most));
        for command in self.commands.values_mut() {
            if let CommandState::Finished { sent } = &mut command.state {
                *sent = None;
            }
        }
    }

    fn want_stop(&mut self, reason: StopReason) {
        if self.stopped.is_some() {
            return;
        }
        if let Some(id) = self.running()
            && let Some(command) = self.commands.get_mut(&id)
        {
            if command.state == (CommandState::Runs { canceled: false }) {
                let reason = CancelReason::Stopping;
                self.wanted.push(Output::CancelScan {
                    command: id,
                    reason,
                });
            }
            command.state = CommandState::Forgotten;
        }
        if let Stream::Open(attempt) | Stream::Opening(attempt) = self.stream {
            self.wanted.push(Output::CloseStream(attempt));
        }
        self.wanted.push(Output::Stop(reason));
        self.stopped = Some(reason);
        self.stream = Stream::None;
        self.session = None;
        self.handshaking = false;
        self.heartbeat = false;
        for command in self.commands.values_mut() {
            command.state = CommandState::Forgotten;
        }
    }

    /// How long the server may be silent.
    fn silence(&self) -> Duration {
        match self.stream {
            Stream::Opening(_) => limits::STREAM_OPENING,
            Stream::Open(_) | Stream::None => limits::STREAM_SILENCE,
        }
    }

    fn tick(&mut self) {
        if let Some(at) = self.link.poll_timeout() {
            self.now = self.now.max(at);
        }
        let now = self.now;
        if let Stream::Open(attempt) | Stream::Opening(attempt) = self.stream
            && self.last_message + self.silence() <= now
        {
            self.wanted.push(Output::CloseStream(attempt));
            self.lose_stream(Duration::ZERO, limits::RECONNECT_MOST);
        }
        for (id, command) in &mut self.commands {
            if let CommandState::Finished { sent: Some(at) } = command.state
                && at + ACK_KEPT <= now
            {
                command.state = CommandState::Forgotten;
                self.wanted.push(Output::Forget(id.clone()));
            }
        }
        self.session = self.session.filter(|until| *until > now);
        self.link.handle_timeout(now);
        assert!(self.link.poll_timeout().is_none_or(|at| at > now));
    }

    fn compare(&mut self) {
        self.outputs.clear();
        while let Some(output) = self.link.poll_output() {
            match output {
                // Timers cause these. Their times are checked here, and `settle` checks that they occur.
                Output::Handshake if self.wanted.first() != Some(&Output::Handshake) => {
                    assert!(!self.handshaking && self.stopped.is_none());
                    self.handshaking = true;
                    if let Some(until) = self.session {
                        let calm = limits::SESSION_REFRESH.max(self.lifetime / 2);
                        assert!(until - self.now <= calm, "a refresh without need");
                    }
                }
                Output::Heartbeat => {
                    assert!(!self.heartbeat && self.session.is_some());
                    self.heartbeat = true;
                }
                Output::OpenStream(attempt) => self.opens(attempt),
                Output::Handshake
                | Output::CloseStream(_)
                | Output::Start(_)
                | Output::AckBusy { .. }
                | Output::CancelScan { .. }
                | Output::SendAck { .. }
                | Output::Forget(_)
                | Output::Stop(_) => self.outputs.push(output),
            }
        }
        if self.outputs.contains(&Output::Handshake) {
            self.handshaking = true;
        }
        let sorted = |outputs: &[Output]| {
            let mut texts: Vec<_> = outputs.iter().map(|o| format!("{o:?}")).collect();
            texts.sort();
            texts
        };
        if self.outputs != self.wanted {
            assert_eq!(sorted(&self.outputs), sorted(&self.wanted));
        }
        self.wanted.clear();

        assert_eq!(
            self.link.is_connected(),
            matches!(self.stream, Stream::Open(_))
        );
        assert_eq!(self.link.running().cloned(), self.running());
        let listed: BTreeSet<_> = self.link.hello_running().cloned().collect();
        let kept = self
            .commands
            .iter()
            .filter(|(_, c)| c.state != CommandState::Forgotten);
        assert_eq!(listed, kept.map(|(id, _)| id.clone()).collect());
        assert!(listed.len() <= HELLO_RUNNING);
        // The link is never stuck: a call is pending, or a deadline is set.
        let waits = self.link.poll_timeout().is_some();
        assert_eq!(self.stopped.is_some(), !(waits || self.handshaking));
        if self.stream != Stream::None {
            assert!(waits);
        }
    }

    fn opens(&mut self, attempt: Attempt) {
        assert_eq!(self.stream, Stream::None);
        assert!(self.session.is_some() && self.stopped.is_none());
        assert!(self.reconnect.is_some_and(|(least, _)| least <= self.now));
        self.attempts += 1;
        assert_eq!(attempt, Attempt(self.attempts));
        self.stream = Stream::Opening(attempt);
        self.last_message = self.now;
        self.reconnect = None;
    }

    /// With a server that answers everything, the node reconnects by the latest time allowed, and acks of finished commands
    /// are sent.
    fn settle(&mut self) {
        let promised = self.reconnect.map_or(self.now, |(_, latest)| latest);
        // A handshake may be delayed by a hint of up to 255 s and a tenth.
        let patience = Duration::from_secs(300);
        let latest = promised.max(self.now) + patience;
        for _ in 0..1_000 {
            if self.stopped.is_some() {
                return;
            }
            if let Stream::Opening(attempt) = self.stream {
                assert!(self.now <= latest);
                self.accepted(attempt, true);
            } else if self.handshaking {
                self.session_opened(u8::MAX);
            } else if self.heartbeat {
                self.heartbeat_done(0);
            } else if self.link.is_connected()
                && self
                    .commands
                    .values()
                    .all(|c| !matches!(c.state, CommandState::Finished { sent: None }))
            {
                return;
            } else {
                self.tick();
            }
            self.compare();
        }
        panic!("the node never came back");
    }
}
