//! How long to wait for an answer to a connection attempt, learned from the answers so far (RFC 6298's estimator
//! with bounds of its own: nothing on a LAN takes a second). Pure.

use std::time::Duration;

/// Answers of a subnet before its own estimate is all that counts.
const ENOUGH: u32 = 4;

/// Answers of the whole scan before they say anything about a subnet that has not answered.
const ENOUGH_ELSEWHERE: u32 = 8;

/// How much longer than elsewhere is waited for a subnet of which little is known.
const DOUBT: u32 = 2;

/// What a scan has learned about round trips: of each subnet, and of all together.
#[derive(Debug, Clone)]
pub(crate) struct Timeouts {
    floor: Duration,
    ceiling: Duration,
    all: RoundTrips,
    subnets: Vec<RoundTrips>,
}

/// Smoothed round trips in seconds; 12 bytes, since a scan may have 65,536 subnets.
#[derive(Debug, Clone, Copy, Default)]
struct RoundTrips {
    smoothed: f32,
    variation: f32,
    answers: u32,
}

impl Timeouts {
    /// Nothing is known of `subnets` subnets yet; no wait will be out of `floor..=ceiling`.
    pub(crate) fn new(floor: Duration, ceiling: Duration, subnets: usize) -> Self {
        Self {
            floor: floor.min(ceiling),
            ceiling,
            all: RoundTrips::default(),
            subnets: vec![RoundTrips::default(); subnets],
        }
    }

    /// The shortest wait that can come out.
    pub(crate) fn floor(&self) -> Duration {
        self.floor
    }

    /// Takes in the time that an open or refused connection took, a late one too.
    pub(crate) fn answered(&mut self, subnet: usize, round_trip: Duration) {
        self.all.answered(round_trip);
        if let Some(own) = self.subnets.get_mut(subnet) {
            own.answered(round_trip);
        }
    }

    /// How long an attempt in this subnet waits for its answer.
    pub(crate) fn of(&self, subnet: usize) -> Duration {
        let own = self.subnets.get(subnet).copied().unwrap_or_default();
        if own.answers >= ENOUGH {
            return self.within_bounds(own);
        }
        if self.all.answers < ENOUGH_ELSEWHERE {
            return self.ceiling;
        }
        let elsewhere = (self.within_bounds(self.all) * DOUBT).min(self.ceiling);
        if own.answers == 0 {
            elsewhere
        } else {
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
            self.smoothed = sample;
            self.variation = sample / 2.0;
        } else {
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

    /// What subnet 0 waits after these answers, in milliseconds, of (subnet, milliseconds).
    fn after(answers: impl IntoIterator<Item = (usize, u64)>) -> u128 {
        let mut timeouts = Timeouts::new(FLOOR, CEILING, 2);
        for (subnet, millis) in answers {
            timeouts.answered(subnet, Duration::from_millis(millis));
        }
        timeouts.of(0).as_millis()
    }

    #[test]
    fn a_subnet_is_waited_for_as_its_own_answers_say() {
        assert_eq!(after([(0, 1); 3]), 1_000, "too few answers to trust");
        assert_eq!(after([(0, 1); 4]), 100);
        assert_eq!(after([(0, 900); 20]), 900 + after([(0, 900); 20]) % 100);
        assert_eq!(after([(0, 5_000); 20]), 1_000);
        let jittery = after([(0, 50), (0, 250), (0, 50), (0, 250), (0, 50), (0, 250)]);
        assert!((250..1_000).contains(&jittery), "{jittery}");
        let beside_a_fast_one = [(1, 1); 50].into_iter().chain([(0, 400); 4]);
        assert!(
            after(beside_a_fast_one) > 400,
            "the other subnet's answers do not count"
        );
    }

    #[test]
    fn a_subnet_of_which_little_is_known_is_given_twice_what_the_others_take() {
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
    fn an_unknown_subnet_has_the_longest_wait() {
        assert_eq!(Timeouts::new(FLOOR, CEILING, 0).of(7), CEILING);
        let inverted = Timeouts::new(CEILING, FLOOR, 1);
        assert_eq!((inverted.floor(), inverted.of(0)), (FLOOR, FLOOR));
    }
}
