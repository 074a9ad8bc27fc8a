//! Back-off with full jitter. The caller provides the random number.

use std::time::Duration;

/// A delay uniform in `0 ..= ceiling`, picked by `random` (uniform over all of `u64`).
pub fn full_jitter(ceiling: Duration, random: u64) -> Duration {
    let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
    // A remainder would divide by zero at a ceiling of zero, and would favor small delays.
    let scaled = (u128::from(nanos) * u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(scaled).unwrap_or(u64::MAX))
}

/// An exponential back-off. The ceiling doubles from `first` to `most`, and each delay is uniform below it.
///
/// Full jitter spreads the reconnects of many peers over the whole window. Without it, peers that lost the same
/// server would meet again at the cap.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    attempts: u32,
}

impl Backoff {
    /// Creates a back-off with the ceilings `first`, `2 first`, `4 first` .. `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            attempts: 0,
        }
    }

    /// Returns the next delay. Each call counts as one more failed attempt.
    pub fn next_delay(&mut self, random: u64) -> Duration {
        // A peer can be away for weeks, and a shift by 32 or more panics in development builds.
        let factor = 1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX);
        self.attempts = self.attempts.saturating_add(1);
        full_jitter(self.first.saturating_mul(factor).min(self.most), random)
    }

    /// Resets the failures after the peer has been stable for some time.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// Returns the number of delays since the last reset.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(crate::regressions!("backoff"))]
        #[test]
        fn a_delay_never_passes_its_ceiling(randoms in prop::collection::vec(any::<u64>(), 1..80)) {
            let mut backoff = Backoff::new(Duration::from_secs(4), Duration::from_secs(30));
            for (n, random) in randoms.into_iter().enumerate() {
                let ceiling = [4, 8, 16].get(n).map_or(30, |s| *s);
                prop_assert!(backoff.next_delay(random) <= Duration::from_secs(ceiling));
            }
        }
    }

    #[test]
    fn the_whole_window_is_used() {
        let ceiling = Duration::from_secs(30);
        assert_eq!(full_jitter(ceiling, 0), Duration::ZERO);
        assert!(full_jitter(ceiling, u64::MAX) > Duration::from_millis(29_999));
        assert_eq!(full_jitter(ceiling, 1 << 63), Duration::from_secs(15));
    }
}
