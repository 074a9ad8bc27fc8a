//! How long to wait for an answer to a connection attempt, estimated from earlier answers. It is RFC 6298's estimator
//! with other bounds, because nothing on a LAN takes a second. Pure.

use std::time::Duration;

/// Answers of a subnet after which only its own estimate counts.
const ENOUGH: u32 = 4;

/// Answers of the whole scan after which they apply to a subnet without answers.
const ENOUGH_OVERALL: u32 = 8;

/// Factor over the estimate of the whole scan, for a subnet with few answers.
const UNKNOWN_FACTOR: u32 = 2;

/// Round-trip estimates of each subnet, and of all together.
#[derive(Debug, Clone)]
pub(crate) struct Timeouts {
    floor: Duration,
    ceiling: Duration,
    all: RoundTrips,
    subnets: Vec<RoundTrips>,
}

/// Smoothed round trips in seconds. They take 12 bytes, because a scan can have 65,536 subnets.
#[derive(Debug, Clone, Copy, Default)]
struct RoundTrips {
    smoothed: f32,
    variation: f32,
    answers: u32,
}

impl Timeouts {
    /// Starts without estimates for `subnets` subnets. Every wait is within `floor..=ceiling`.
    pub(crate) fn new(floor: Duration, ceiling: Duration, subnets: usize) -> Self {
        Self {
            floor: floor.min(ceiling),
            ceiling,
            all: RoundTrips::default(),
            subnets: vec![RoundTrips::default(); subnets],
        }
    }

    /// The shortest possible wait.
    pub(crate) fn floor(&self) -> Duration {
        self.floor
    }

    /// Adds the duration of an open or refused connection, including late ones.
    pub(crate) fn answered(&mut self, subnet: usize, round_trip: Duration) {
        self.all.answered(round_trip);
        if let Some(own) = self.subnets.get_mut(subnet) {
            own.answered(round_trip);
        }
    }

    /// How long an attempt in this subnet waits for its answer.
    pub(crate) fn wait(&self, subnet: usize) -> Duration {
        let own = self.subnets.get(subnet).copied().unwrap_or_default();
        if own.answers >= ENOUGH {
            return self.within_bounds(own);
        }
        if self.all.answers < ENOUGH_OVERALL {
            return self.ceiling;
        }
        let elsewhere = (self.within_bounds(self.all) * UNKNOWN_FACTOR).min(self.ceiling);
        if own.answers == 0 {
            elsewhere
        } else {
            // Few answers may only lengthen the wait: a wait that is too short loses devices.
            elsewhere.max(self.within_bounds(own))
        }
    }

    fn within_bounds(&self, known: RoundTrips) -> Duration {
        Duration::try_from_secs_f32(known.smoothed + 4.0 * known.variation)
            .unwrap_or(self.ceiling)
            .clamp(self.floor, self.ceiling)
    }
}

impl RoundTrips {
    fn answered(&mut self, round_trip: Duration) {
        let sample = round_trip.as_secs_f32();
        if self.answers == 0 {
            // RFC 6298, 2.2.
            self.smoothed = sample;
            self.variation = sample / 2.0;
        } else {
            // RFC 6298, 2.3. The variation comes first, because it uses the earlier smoothed value.
            self.variation += ((sample - self.smoothed).abs() - self.variation) / 4.0;
            self.smoothed += (sample - self.smoothed) / 8.0;
        }
        self.answers = self.answers.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: Duration = Duration::from_millis(100);
    const CEILING: Duration = Duration::from_secs(1);

    /// The wait of subnet 0 in milliseconds after these answers of (subnet, milliseconds).
    fn after(answers: impl IntoIterator<Item = (usize, u64)>) -> u128 {
        let mut timeouts = Timeouts::new(FLOOR, CEILING, 2);
        for (subnet, millis) in answers {
            timeouts.answered(subnet, Duration::from_millis(millis));
        }
        timeouts.wait(0).as_millis()
    }

    #[test]
    fn a_subnet_with_answers_uses_its_own_estimate() {
        assert_eq!(after([(0, 1); 3]), 1_000, "too few answers to trust");
        assert_eq!(after([(0, 1); 4]), 100);
        assert_eq!(after([(0, 900); 20]), 900 + after([(0, 900); 20]) % 100);
        assert_eq!(after([(0, 5_000); 20]), 1_000);
        let jittery = after([(0, 50), (0, 250), (0, 50), (0, 250), (0, 50), (0, 250)]);
        assert!((250..1_000).contains(&jittery), "{jittery}");
        let beside_a_fast_one = [(1, 1); 50].into_iter().chain([(0, 400); 4]);
        assert!(
            after(beside_a_fast_one) > 400,
            "answers of the other subnet do not count"
        );
    }

    #[test]
    fn a_subnet_with_few_answers_gets_twice_the_overall_estimate() {
        assert_eq!(after([(1, 1); 7]), 1_000, "too few answers to trust");
        assert_eq!(after([(1, 1); 8]), 200);
        let one_slow_answer = [(1, 1); 50].into_iter().chain([(0, 200)]);
        assert_eq!(
            after(one_slow_answer),
            600,
            "three times the first round trip"
        );
        assert_eq!(after([(1, 5_000); 8]), 1_000);
    }

    #[test]
    fn an_unknown_subnet_gets_the_longest_wait() {
        assert_eq!(Timeouts::new(FLOOR, CEILING, 0).wait(7), CEILING);
        let inverted = Timeouts::new(CEILING, FLOOR, 1);
        assert_eq!((inverted.floor(), inverted.wait(0)), (FLOOR, FLOOR));
    }
}
