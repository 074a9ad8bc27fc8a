//! Decides when a plugin is started, killed and restarted: a state machine over time, without IO. Start with
//! [`Supervisor`].
//!
//! The caller executes the outputs and reports the events of the process. Each [`Output::Start`] is followed by exactly
//! one [`Supervisor::exited`].

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Time limits of a plugin, and the back-off after failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From its start until it has reported its address and driver name; 30 s in the plugin protocol.
    pub start_timeout: Duration,
    /// From the shutdown request until it is killed; 2 s in the plugin protocol.
    pub shutdown_timeout: Duration,
    /// The delay after the first failure. Each further failure doubles it.
    pub first_backoff: Duration,
    /// The longest delay.
    pub max_backoff: Duration,
    /// A plugin that served for this long starts again from the first delay.
    pub stable_after: Duration,
    /// Time limit of one call. Upstream's `proto` waits 10 s for TLS before it tries plain HTTP, and its `asicrs` has two
    /// steps of 10 s; both give no answer where a call ends earlier. The time for one host
    /// ([`ScanOptions::external_timeout`](fleet_scan::ScanOptions::external_timeout)) bounds all calls together.
    pub answer_timeout: Duration,
    /// Time limit of one call that pairs a device; an upstream node waits 60 s.
    pub pair_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            start_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(2),
            first_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
            stable_after: Duration::from_secs(60),
            answer_timeout: Duration::from_secs(25),
            pair_timeout: Duration::from_secs(60),
        }
    }
}

/// An action for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Start the process.
    Start,
    /// Send the shutdown request.
    Shutdown,
    /// Kill its process group.
    Kill,
    /// Report that it is down, the reason, and the delay until the restart.
    BackOff { reason: String, delay: Duration },
    /// The plugin is stopped. This is the last output.
    Stopped,
}

/// The state of a plugin. Deadlines are in the states that have them.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Runs, but has not identified itself; killed at the deadline.
    Starting {
        until: Instant,
    },
    /// Serves.
    Serving {
        since: Instant,
    },
    /// Killed; its end is pending.
    Killed,
    /// Down; restarted at the deadline.
    BackingOff {
        until: Instant,
    },
    /// Shutting down; killed at the deadline.
    ShuttingDown {
        until: Instant,
    },
    Stopped,
}

/// The supervisor of one plugin.
#[derive(Debug)]
pub(crate) struct Supervisor {
    timing: Timing,
    state: State,
    /// Failures since it was last stable.
    failures: u32,
    /// Why this supervisor killed it.
    reason: Option<String>,
    is_stopping: bool,
    outputs: VecDeque<Output>,
}

impl Supervisor {
    /// Creates a supervisor and starts the plugin.
    pub(crate) fn new(timing: Timing, now: Instant) -> Self {
        let mut supervisor = Self {
            timing,
            state: State::Stopped,
            failures: 0,
            reason: None,
            is_stopping: false,
            outputs: VecDeque::new(),
        };
        supervisor.start(now);
        supervisor
    }

    /// Records that the plugin has identified itself.
    pub(crate) fn ready(&mut self, now: Instant) {
        if matches!(self.state, State::Starting { .. }) {
            self.state = State::Serving { since: now };
        }
    }

    /// Kills a plugin that cannot be used, because of a wrong answer or no answer.
    pub(crate) fn reject(&mut self, now: Instant, reason: String) {
        match self.state {
            State::Starting { .. } | State::Serving { .. } => {
                // Before `kill`, which replaces the state that has the start of serving.
                self.reset_if_stable(now);
                self.reason = Some(reason);
                self.kill();
            }
            // The plugin does not answer, so it cannot shut down in good order.
            State::ShuttingDown { .. } => self.kill(),
            State::Killed | State::BackingOff { .. } | State::Stopped => {}
        }
    }

    /// Records that the process has ended or could not be started.
    pub(crate) fn exited(&mut self, now: Instant, reason: String) {
        self.reset_if_stable(now);
        if self.is_stopping {
            return self.end();
        }
        let doubled = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let delay = self.timing.first_backoff.saturating_mul(doubled);
        let delay = delay.min(self.timing.max_backoff);
        self.failures = self.failures.saturating_add(1);
        self.state = State::BackingOff { until: now + delay };
        // The exit status of a killed process says less than the reason for the kill.
        let reason = self.reason.take().unwrap_or(reason);
        self.outputs.push_back(Output::BackOff { reason, delay });
    }

    /// Stops the plugin permanently.
    pub(crate) fn stop(&mut self, now: Instant) {
        self.is_stopping = true;
        match self.state {
            // A plugin without a connection cannot be asked to shut down.
            State::Starting { .. } => self.kill(),
            State::Serving { .. } => {
                let until = now + self.timing.shutdown_timeout;
                self.state = State::ShuttingDown { until };
                self.outputs.push_back(Output::Shutdown);
            }
            State::BackingOff { .. } => self.end(),
            State::Killed | State::ShuttingDown { .. } | State::Stopped => {}
        }
    }

    /// Fires the deadline if `now` has reached it.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|deadline| now < deadline) {
            return;
        }
        match self.state {
            State::Starting { .. } => {
                let seconds = self.timing.start_timeout.as_secs();
                self.reject(
                    now,
                    format!("it did not identify itself within {seconds} s"),
                );
            }
            State::BackingOff { .. } => self.start(now),
            State::ShuttingDown { .. } => self.kill(),
            State::Serving { .. } | State::Killed | State::Stopped => {}
        }
    }

    /// Returns when [`Supervisor::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Starting { until }
            | State::BackingOff { until }
            | State::ShuttingDown { until } => Some(until),
            State::Serving { .. } | State::Killed | State::Stopped => None,
        }
    }

    /// Returns the next action.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn start(&mut self, now: Instant) {
        let until = now + self.timing.start_timeout;
        self.state = State::Starting { until };
        self.outputs.push_back(Output::Start);
    }

    fn kill(&mut self) {
        self.state = State::Killed;
        self.outputs.push_back(Output::Kill);
    }

    fn end(&mut self) {
        self.state = State::Stopped;
        self.outputs.push_back(Output::Stopped);
    }

    fn reset_if_stable(&mut self, now: Instant) {
        if let State::Serving { since } = self.state
            && now.saturating_duration_since(since) >= self.timing.stable_after
        {
            self.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_call_fits_upstreams_plugins_and_two_fit_into_the_time_for_a_host() {
        // Steps of 10 s: `proto` waits for TLS and then sends plain HTTP, `asicrs` identifies and then reads.
        let steps = 20 * SECOND;
        let call = Timing::default().answer_timeout;
        let host = fleet_scan::ScanOptions::default().external_timeout;
        assert!(call > steps && 2 * call <= host, "{call:?} of {host:?}");
    }

    fn outputs(supervisor: &mut Supervisor) -> Vec<Output> {
        std::iter::from_fn(|| supervisor.poll_output()).collect()
    }

    fn back_off(reason: &str, seconds: u32) -> Output {
        Output::BackOff {
            reason: reason.to_owned(),
            delay: SECOND * seconds,
        }
    }

    #[test]
    fn delays_double_up_to_a_minute_and_start_over_after_a_stable_minute() {
        let mut now = Instant::now();
        let mut supervisor = Supervisor::new(Timing::default(), now);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(outputs(&mut supervisor), [Output::Start]);
            supervisor.ready(now);
            now += SECOND;
            supervisor.exited(now, "gone".into());
            assert_eq!(outputs(&mut supervisor), [back_off("gone", seconds)]);
            now += SECOND * seconds;
            assert_eq!(supervisor.poll_timeout(), Some(now));
            supervisor.handle_timeout(now);
        }
        assert_eq!(outputs(&mut supervisor), [Output::Start]);
        supervisor.ready(now);
        now += SECOND * 60;
        supervisor.exited(now, "gone".into());
        assert_eq!(outputs(&mut supervisor), [back_off("gone", 1)]);
    }

    #[test]
    fn a_plugin_that_does_not_identify_itself_within_30_s_is_killed() {
        let now = Instant::now();
        let mut supervisor = Supervisor::new(Timing::default(), now);
        assert_eq!(outputs(&mut supervisor), [Output::Start]);
        supervisor.handle_timeout(now + SECOND * 29);
        assert_eq!(outputs(&mut supervisor), []);
        supervisor.handle_timeout(now + SECOND * 30);
        assert_eq!(outputs(&mut supervisor), [Output::Kill]);
        assert_eq!(supervisor.poll_timeout(), None);
        supervisor.exited(now + SECOND * 31, "killed".into());
        assert_eq!(
            outputs(&mut supervisor),
            [back_off("it did not identify itself within 30 s", 1)]
        );
    }

    #[test]
    fn the_reason_of_a_rejection_is_reported_instead_of_the_signal() {
        let now = Instant::now();
        let mut supervisor = Supervisor::new(Timing::default(), now);
        supervisor.reject(now, "a wrong line".into());
        supervisor.exited(now, "signal 9".into());
        assert_eq!(
            outputs(&mut supervisor),
            [Output::Start, Output::Kill, back_off("a wrong line", 1)]
        );
    }

    #[test]
    fn a_serving_plugin_gets_a_shutdown_request_and_others_are_killed() {
        let now = Instant::now();
        let new = || Supervisor::new(Timing::default(), now);

        let mut serving = new();
        serving.ready(now);
        serving.stop(now);
        assert_eq!(outputs(&mut serving), [Output::Start, Output::Shutdown]);
        serving.handle_timeout(now + SECOND * 2);
        assert_eq!(outputs(&mut serving), [Output::Kill]);
        serving.exited(now + SECOND * 2, "killed".into());
        assert_eq!(outputs(&mut serving), [Output::Stopped]);

        let mut starting = new();
        starting.stop(now);
        assert_eq!(outputs(&mut starting), [Output::Start, Output::Kill]);

        let mut backing_off = new();
        backing_off.exited(now, "gone".into());
        backing_off.stop(now);
        assert_eq!(
            outputs(&mut backing_off),
            [Output::Start, back_off("gone", 1), Output::Stopped]
        );
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Ready,
        Reject,
        Exit,
        Stop,
        Wait(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            2 => Just(Step::Ready),
            1 => Just(Step::Reject),
            3 => Just(Step::Exit),
            1 => Just(Step::Stop),
            4 => any::<u8>().prop_map(Step::Wait),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #![proptest_config(fleet_core::regressions!("plugin-supervisor", 512))]

        /// Compared with a model of the process: at most one runs, a start happens only when none runs and never after a
        /// stop, and a stop completes within its time limit.
        #[test]
        fn at_most_one_process_runs_and_none_after_a_stop(steps in steps()) {
            let timing = Timing::default();
            let mut now = Instant::now();
            let mut supervisor = Supervisor::new(timing, now);
            prop_assert!(matches!(supervisor.poll_output(), Some(Output::Start)));
            let (mut runs, mut killed, mut stopped, mut over) = (true, false, false, false);
            let ending = [Step::Stop, Step::Wait(2)];
            for step in steps.into_iter().chain(ending) {
                match step {
                    Step::Ready if runs => supervisor.ready(now),
                    Step::Reject if runs => supervisor.reject(now, "wrong".into()),
                    Step::Exit if runs => {
                        runs = false;
                        supervisor.exited(now, "gone".into());
                    }
                    Step::Stop => {
                        stopped = true;
                        supervisor.stop(now);
                    }
                    Step::Wait(seconds) => now += SECOND * u32::from(seconds),
                    Step::Ready | Step::Reject | Step::Exit => {}
                }
                supervisor.handle_timeout(now);
                while let Some(output) = supervisor.poll_output() {
                    prop_assert!(!over, "{output:?} after the end");
                    match output {
                        Output::Start => {
                            prop_assert!(!runs && !stopped);
                            (runs, killed) = (true, false);
                        }
                        Output::Kill => killed = true,
                        Output::BackOff { delay, .. } => {
                            prop_assert!(!runs && delay >= timing.first_backoff && delay <= timing.max_backoff);
                        }
                        Output::Shutdown => prop_assert!(runs && stopped),
                        Output::Stopped => over = true,
                    }
                }
            }
            prop_assert!(over || killed, "{supervisor:?}");
        }
    }
}
