//! When a plugin is started, given up, killed, started again: a machine over time, without IO. Start with [`Supervisor`].
//!
//! Its shell carries out what [`Supervisor::poll_output`] says, and tells what became of the process; each start is
//! followed by exactly one [`Supervisor::exited`].

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How long a plugin may take for what, and how long it rests after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From its start until it has said where it listens and who it is; 30 s in the plugins' contract.
    pub start: Duration,
    /// From the request to shut down until it is killed; 2 s in the plugins' contract.
    pub shutdown: Duration,
    /// The rest after a first failure; each further one doubles it.
    pub first_rest: Duration,
    /// The longest rest.
    pub longest_rest: Duration,
    /// Who served that long has no failures behind him.
    pub steady: Duration,
    /// How long an answer about one port may take; upstream nodes wait 10 s.
    pub answer: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(30),
            shutdown: Duration::from_secs(2),
            first_rest: Duration::from_secs(1),
            longest_rest: Duration::from_secs(60),
            steady: Duration::from_secs(60),
            answer: Duration::from_secs(10),
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Start the process.
    Start,
    /// Ask it to shut down.
    Shutdown,
    /// Kill its process group.
    Kill,
    /// Tell that it is down, why, and how long it rests.
    Rest { why: String, rest: Duration },
    /// Nothing more comes.
    Over,
}

/// Where a plugin stands; deadlines live in the states that have them.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Runs, and has not said who it is; killed at the deadline.
    Starting {
        until: Instant,
    },
    /// Serves.
    Serving {
        since: Instant,
    },
    /// Killed, not gone yet.
    Killed,
    /// Down; started again at the deadline.
    Resting {
        until: Instant,
    },
    /// Asked to shut down; killed at the deadline.
    ShuttingDown {
        until: Instant,
    },
    Over,
}

/// The supervisor of one plugin.
#[derive(Debug)]
pub(crate) struct Supervisor {
    timing: Timing,
    state: State,
    /// Failures since it was last steady.
    failures: u32,
    /// Why it was killed.
    why: Option<String>,
    is_stopping: bool,
    outputs: VecDeque<Output>,
}

impl Supervisor {
    /// Starts the plugin.
    pub(crate) fn new(timing: Timing, now: Instant) -> Self {
        let mut supervisor = Self {
            timing,
            state: State::Over,
            failures: 0,
            why: None,
            is_stopping: false,
            outputs: VecDeque::new(),
        };
        supervisor.start(now);
        supervisor
    }

    /// It has said who it is.
    pub(crate) fn serves(&mut self, now: Instant) {
        if matches!(self.state, State::Starting { .. }) {
            self.state = State::Serving { since: now };
        }
    }

    /// It cannot be used, or not any more: what it said is wrong, or it says nothing.
    pub(crate) fn reject(&mut self, now: Instant, why: String) {
        match self.state {
            State::Starting { .. } | State::Serving { .. } => {
                self.forgive(now);
                self.why = Some(why);
                self.kill();
            }
            // It is asked no more, so there is nobody to shut down in good order.
            State::ShuttingDown { .. } => self.kill(),
            State::Killed | State::Resting { .. } | State::Over => {}
        }
    }

    /// The process is gone, or could not be started.
    pub(crate) fn exited(&mut self, now: Instant, why: String) {
        self.forgive(now);
        if self.is_stopping {
            return self.end();
        }
        let doubled = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let rest = self.timing.first_rest.saturating_mul(doubled);
        let rest = rest.min(self.timing.longest_rest);
        self.failures = self.failures.saturating_add(1);
        self.state = State::Resting { until: now + rest };
        let why = self.why.take().unwrap_or(why);
        self.outputs.push_back(Output::Rest { why, rest });
    }

    /// It is to stop for good.
    pub(crate) fn stop(&mut self, now: Instant) {
        self.is_stopping = true;
        match self.state {
            State::Starting { .. } => self.kill(),
            State::Serving { .. } => {
                let until = now + self.timing.shutdown;
                self.state = State::ShuttingDown { until };
                self.outputs.push_back(Output::Shutdown);
            }
            State::Resting { .. } => self.end(),
            State::Killed | State::ShuttingDown { .. } | State::Over => {}
        }
    }

    /// A deadline has come.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|deadline| now < deadline) {
            return;
        }
        match self.state {
            State::Starting { .. } => {
                let most = self.timing.start;
                self.reject(now, format!("it did not say who it is within {most:?}"));
            }
            State::Resting { .. } => self.start(now),
            State::ShuttingDown { .. } => self.kill(),
            State::Serving { .. } | State::Killed | State::Over => {}
        }
    }

    /// When [`Supervisor::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Starting { until }
            | State::Resting { until }
            | State::ShuttingDown { until } => Some(until),
            State::Serving { .. } | State::Killed | State::Over => None,
        }
    }

    /// What is to be done next, in order.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn start(&mut self, now: Instant) {
        let until = now + self.timing.start;
        self.state = State::Starting { until };
        self.outputs.push_back(Output::Start);
    }

    fn kill(&mut self) {
        self.state = State::Killed;
        self.outputs.push_back(Output::Kill);
    }

    fn end(&mut self) {
        self.state = State::Over;
        self.outputs.push_back(Output::Over);
    }

    fn forgive(&mut self, now: Instant) {
        if let State::Serving { since } = self.state
            && now.saturating_duration_since(since) >= self.timing.steady
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

    fn outputs(supervisor: &mut Supervisor) -> Vec<Output> {
        std::iter::from_fn(|| supervisor.poll_output()).collect()
    }

    fn rest(why: &str, seconds: u32) -> Output {
        Output::Rest {
            why: why.to_owned(),
            rest: SECOND * seconds,
        }
    }

    #[test]
    fn rests_double_up_to_a_minute_and_begin_anew_after_a_steady_minute() {
        let mut now = Instant::now();
        let mut supervisor = Supervisor::new(Timing::default(), now);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(outputs(&mut supervisor), [Output::Start]);
            supervisor.serves(now);
            now += SECOND;
            supervisor.exited(now, "gone".into());
            assert_eq!(outputs(&mut supervisor), [rest("gone", seconds)]);
            now += SECOND * seconds;
            assert_eq!(supervisor.poll_timeout(), Some(now));
            supervisor.handle_timeout(now);
        }
        assert_eq!(outputs(&mut supervisor), [Output::Start]);
        supervisor.serves(now);
        now += SECOND * 60;
        supervisor.exited(now, "gone".into());
        assert_eq!(outputs(&mut supervisor), [rest("gone", 1)]);
    }

    #[test]
    fn who_does_not_say_who_he_is_within_half_a_minute_is_killed() {
        let now = Instant::now();
        let mut supervisor = Supervisor::new(Timing::default(), now);
        assert_eq!(outputs(&mut supervisor), [Output::Start]);
        supervisor.handle_timeout(now + SECOND * 29);
        assert_eq!(outputs(&mut supervisor), []);
        supervisor.handle_timeout(now + SECOND * 30);
        assert_eq!(outputs(&mut supervisor), [Output::Kill]);
        assert_eq!(supervisor.poll_timeout(), None);
        supervisor.exited(now + SECOND * 31, "killed".into());
        let told = outputs(&mut supervisor);
        assert_eq!(told, [rest("it did not say who it is within 30s", 1)]);
    }

    #[test]
    fn why_it_was_rejected_is_told_and_not_how_it_was_killed() {
        let now = Instant::now();
        let mut supervisor = Supervisor::new(Timing::default(), now);
        supervisor.reject(now, "a wrong line".into());
        supervisor.exited(now, "signal 9".into());
        assert_eq!(
            outputs(&mut supervisor),
            [Output::Start, Output::Kill, rest("a wrong line", 1)]
        );
    }

    #[test]
    fn a_stop_is_polite_to_who_serves_and_short_with_others() {
        let now = Instant::now();
        let new = || Supervisor::new(Timing::default(), now);

        let mut serving = new();
        serving.serves(now);
        serving.stop(now);
        assert_eq!(outputs(&mut serving), [Output::Start, Output::Shutdown]);
        serving.handle_timeout(now + SECOND * 2);
        assert_eq!(outputs(&mut serving), [Output::Kill]);
        serving.exited(now + SECOND * 2, "killed".into());
        assert_eq!(outputs(&mut serving), [Output::Over]);

        let mut starting = new();
        starting.stop(now);
        assert_eq!(outputs(&mut starting), [Output::Start, Output::Kill]);

        let mut resting = new();
        resting.exited(now, "gone".into());
        resting.stop(now);
        assert_eq!(
            outputs(&mut resting),
            [Output::Start, rest("gone", 1), Output::Over]
        );
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Serves,
        Reject,
        Exit,
        Stop,
        Wait(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            2 => Just(Step::Serves),
            1 => Just(Step::Reject),
            3 => Just(Step::Exit),
            1 => Just(Step::Stop),
            4 => any::<u8>().prop_map(Step::Wait),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #![proptest_config(fleet_core::regressions!("plugin-supervisor", 512))]

        /// A model of the process beside it: there is at most one, it is started only when there is none, nothing is
        /// started after a stop, and a stop comes to its end within its time.
        #[test]
        fn there_is_one_process_at_most_and_none_in_the_end(steps in steps()) {
            let timing = Timing::default();
            let mut now = Instant::now();
            let mut supervisor = Supervisor::new(timing, now);
            prop_assert!(matches!(supervisor.poll_output(), Some(Output::Start)));
            let (mut runs, mut killed, mut stopped, mut over) = (true, false, false, false);
            let ending = [Step::Stop, Step::Wait(2)];
            for step in steps.into_iter().chain(ending) {
                match step {
                    Step::Serves if runs => supervisor.serves(now),
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
                    Step::Serves | Step::Reject | Step::Exit => {}
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
                        Output::Rest { rest, .. } => {
                            prop_assert!(!runs && rest >= timing.first_rest && rest <= timing.longest_rest);
                        }
                        Output::Shutdown => prop_assert!(runs && stopped),
                        Output::Over => over = true,
                    }
                }
            }
            prop_assert!(over || killed, "{supervisor:?}");
        }
    }
}
