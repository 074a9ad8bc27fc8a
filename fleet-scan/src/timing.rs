//! How long to wait for an answer to a connection attempt, learned from the answers so far (RFC 6298's estimator
//! with its own bounds: nothing on a LAN takes a second).

use std::time::Duration;

/// Answers before the estimate is trusted.
const ENOUGH: u32 = 8;

#[derive(Debug, Clone)]
pub(crate) struct RoundTrips {
    floor: Duration,
    ceiling: Duration,
    smoothed: f64,
    variation: f64,
    answers: u32,
}

impl RoundTrips {
    pub(crate) fn new(floor: Duration, ceiling: Duration) -> Self {
        Self {
            floor: floor.min(ceiling),
            ceiling,
            smoothed: 0.0,
            variation: 0.0,
            answers: 0,
        }
    }

    /// Takes in the time that an open or refused connection took.
    pub(crate) fn answered(&mut self, round_trip: Duration) {
        let sample = round_trip.as_secs_f64();
        if self.answers == 0 {
            self.smoothed = sample;
            self.variation = sample / 2.0;
        } else {
            self.variation += ((sample - self.smoothed).abs() - self.variation) / 4.0;
            self.smoothed += (sample - self.smoothed) / 8.0;
        }
        self.answers = self.answers.saturating_add(1);
    }

    /// The wait for the next attempt.
    pub(crate) fn timeout(&self) -> Duration {
        if self.answers < ENOUGH {
            return self.ceiling;
        }
        Duration::try_from_secs_f64(self.smoothed + 4.0 * self.variation)
            .unwrap_or(self.ceiling)
            .clamp(self.floor, self.ceiling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(round_trips: &[u64]) -> Duration {
        let mut trips = RoundTrips::new(Duration::from_millis(100), Duration::from_secs(1));
        for millis in round_trips {
            trips.answered(Duration::from_millis(*millis));
        }
        trips.timeout()
    }

    #[test]
    fn the_wait_follows_the_network_within_its_bounds() {
        assert_eq!(
            after(&[1; 7]),
            Duration::from_secs(1),
            "too few answers to trust"
        );
        assert_eq!(after(&[1; 20]), Duration::from_millis(100));
        assert_eq!(
            after(&[900; 20]).as_millis().clamp(900, 1_000),
            after(&[900; 20]).as_millis()
        );
        assert_eq!(after(&[5_000; 20]), Duration::from_secs(1));
        let jittery = after(&[50, 250, 50, 250, 50, 250, 50, 250, 50, 250]);
        assert!(jittery > Duration::from_millis(250), "{jittery:?}");
    }
}
