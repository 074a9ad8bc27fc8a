//! The private steps of [`NodeLink`].

use std::time::{Duration, Instant};

use fleet_core::{
    full_jitter,
    limits::{HEARTBEAT, SESSION_REFRESH, STREAM_OPENING},
};

use super::{
    ACK_KEPT, Attempt, CancelReason, HINT_MOST, NodeLink, Output, Phase, StopReason, Stream, Timer,
    Unsettled, WIDE_FIRST_DELAY,
};

impl NodeLink {
    pub(super) fn fire(&mut self, now: Instant, timer: Timer) {
        match timer {
            Timer::Silence => {
                if let Stream::Opening { attempt, .. } | Stream::Open { attempt, .. } = self.stream
                {
                    self.outputs.push_back(Output::CloseStream(attempt));
                    let delay = self.delay_after_loss();
                    self.schedule_reconnect(now, delay);
                }
            }
            Timer::SessionEnd => {
                // The stream stays open. The server ends it
                // together with the session that opened it.
                self.session = None;
                self.timers.cancel(Timer::Heartbeat);
            }
            Timer::Handshake => self.handshake(),
            Timer::Heartbeat => {
                self.timers.set(Timer::Heartbeat, now + HEARTBEAT);
                // A server that does not answer must not collect open calls.
                if self.heartbeat.is_none() && self.session.is_some() {
                    self.heartbeat = self.session;
                    self.reporting_status = std::mem::take(&mut self.unreported_status);
                    self.outputs.push_back(Output::Heartbeat);
                }
            }
            Timer::Reconnect => self.open_stream(now),
            Timer::Stable => self.reconnects.reset(),
            Timer::Settled => {
                self.settle(|u| u.sent.is_some_and(|at| at + ACK_KEPT <= now));
            }
        }
    }

    pub(super) fn is_started(&self) -> bool {
        self.phase == Phase::Started
    }

    pub(super) fn is_open(&self, attempt: Attempt) -> bool {
        matches!(self.stream, Stream::Open { attempt: open, .. } if open == attempt)
    }

    /// Whether the stream is the one that is open or being opened.
    pub(super) fn is_active(&self, attempt: Attempt) -> bool {
        matches!(
            self.stream,
            Stream::Opening { attempt: held, .. } | Stream::Open { attempt: held, .. } if held == attempt
        )
    }

    pub(super) fn handshake(&mut self) {
        // The server keeps one challenge per node. A second
        // handshake would invalidate that of the first.
        if !self.handshaking {
            self.handshaking = true;
            self.outputs.push_back(Output::Handshake);
        }
    }

    /// How long after its start to refresh a session. A long session is refreshed in the first half of its last hour,
    /// which leaves time for retries; a short one between half and three quarters of its life.
    pub(super) fn refresh_after(&mut self, lifetime: Duration) -> Duration {
        let random = self.random.next();
        match lifetime.checked_sub(SESSION_REFRESH) {
            Some(calm) if calm >= SESSION_REFRESH => {
                calm + full_jitter(SESSION_REFRESH / 2, random)
            }
            Some(_) | None => lifetime / 2 + full_jitter(lifetime / 4, random),
        }
    }

    /// Drops a session that the server rejected. Has no effect if a newer session is in use.
    pub(super) fn lose_session(&mut self, now: Instant, session: u64) {
        if self.session.is_some_and(|current| current != session) {
            return;
        }
        self.session = None;
        self.timers.cancel(Timer::SessionEnd);
        self.timers.cancel(Timer::Heartbeat);
        if !self.handshaking {
            let delay = self.handshakes.next_delay(self.random.next());
            self.timers.set(Timer::Handshake, now + delay);
        }
    }

    pub(super) fn open_stream(&mut self, now: Instant) {
        // The next session opens the stream as soon as it exists.
        let Some(session) = self.session else {
            self.stream = Stream::Due;
            return;
        };
        self.attempts += 1;
        let attempt = Attempt(self.attempts);
        self.stream = Stream::Opening { attempt, session };
        self.timers.set(Timer::Silence, now + STREAM_OPENING);
        self.outputs.push_back(Output::OpenStream(attempt));
    }

    /// The delay after a stream was lost without a goodbye.
    pub(super) fn delay_after_loss(&mut self) -> Duration {
        let random = self.random.next();
        // `next_delay` counts this loss, so it is read before.
        let first = self.reconnects.attempts() == 0;
        let delay = self.reconnects.next_delay(random);
        match self.stream {
            Stream::Open { .. } if first => full_jitter(WIDE_FIRST_DELAY, random),
            Stream::Open { .. } | Stream::Opening { .. } | Stream::Waiting | Stream::Due => delay,
        }
    }

    /// The delay in a server's hint plus up to a tenth of jitter, because many nodes may have received the same hint.
    pub(super) fn hinted_delay(&mut self, retry_after: Duration) -> Duration {
        let hint = retry_after.min(HINT_MOST);
        hint + full_jitter(hint / 10, self.random.next())
    }

    /// Marks the stream as lost and schedules the next one.
    pub(super) fn schedule_reconnect(&mut self, now: Instant, delay: Duration) {
        self.stream = Stream::Waiting;
        self.timers.cancel(Timer::Silence);
        self.timers.cancel(Timer::Stable);
        self.timers.cancel(Timer::Settled);
        for unsettled in &mut self.unsettled {
            unsettled.sent = None;
        }
        self.timers.set(Timer::Reconnect, now + delay);
    }

    /// Sends every ack that was not sent on the current stream. A server that does not resume gets only the acks of
    /// commands from this stream.
    pub(super) fn send_unsent_acks(&mut self, now: Instant) {
        let Stream::Open {
            attempt, resumes, ..
        } = self.stream
        else {
            return;
        };
        if !resumes {
            self.settle(|unsettled| unsettled.received_on != attempt);
        }
        for unsettled in self.unsettled.iter_mut().filter(|u| u.sent.is_none()) {
            unsettled.sent = Some(now);
            self.outputs.push_back(Output::SendAck {
                attempt,
                command: unsettled.command.clone(),
            });
        }
        self.arm_settled_timer();
    }

    /// Cancels the running command if it came on an earlier stream: the server considers it dead.
    pub(super) fn cancel_if_abandoned(&mut self, attempt: Attempt) {
        if self
            .running
            .as_ref()
            .is_some_and(|r| r.received_on != attempt)
        {
            self.cancel_running(CancelReason::Abandoned);
        }
    }

    pub(super) fn cancel_running(&mut self, reason: CancelReason) {
        if let Some(running) = self.running.as_mut().filter(|r| !r.canceled) {
            running.canceled = true;
            self.outputs.push_back(Output::CancelScan {
                command: running.command.clone(),
                reason,
            });
        }
    }

    /// Forgets the acks that match: they were delivered, or are useless.
    pub(super) fn settle(&mut self, is_settled: impl Fn(&Unsettled) -> bool) {
        let outputs = &mut self.outputs;
        self.unsettled.retain(|unsettled| {
            let settled = is_settled(unsettled);
            if settled {
                outputs.push_back(Output::Forget(unsettled.command.clone()));
            }
            !settled
        });
        self.arm_settled_timer();
    }

    pub(super) fn arm_settled_timer(&mut self) {
        let oldest = self.unsettled.iter().filter_map(|u| u.sent).min();
        match oldest {
            Some(sent) => self.timers.set(Timer::Settled, sent + ACK_KEPT),
            None => self.timers.cancel(Timer::Settled),
        }
    }

    pub(super) fn stop(&mut self, reason: StopReason) {
        self.cancel_running(CancelReason::Stopping);
        if let Stream::Opening { attempt, .. } | Stream::Open { attempt, .. } = self.stream {
            self.outputs.push_back(Output::CloseStream(attempt));
        }
        self.phase = Phase::Stopped;
        self.session = None;
        // Answers that are still under way must not start anything.
        self.heartbeat = None;
        self.stream = Stream::Waiting;
        self.running = None;
        self.unsettled.clear();
        self.timers.clear();
        self.outputs.push_back(Output::Stop(reason));
    }
}
