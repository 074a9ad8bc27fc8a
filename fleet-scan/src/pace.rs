//! How fast connections are tried: a rate with a small burst, and slower for a while after trouble.
//!
//! [`Pace`] is the shared handle; [`Bucket`] decides, as a function of the time it is given.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::time::sleep;

/// The slowest pace, as a part of the configured one.
const SLOWEST: u32 = 16;

/// How long after trouble the pace doubles again.
const RECOVERY: Duration = Duration::from_secs(5);

/// Trouble within this time of the last slow-down is the same trouble.
const ONCE_IN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Pace {
    bucket: Mutex<Bucket>,
}

impl Pace {
    pub(crate) fn new(rate: u32) -> Self {
        Self {
            bucket: Mutex::new(Bucket::new(rate, Instant::now())),
        }
    }

    /// Waits for leave to try one connection. Cancel-safe; a canceled wait may have used up its leave.
    pub(crate) async fn take(&self) {
        let wait = self
            .bucket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .reserve(Instant::now());
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }

    /// How long until one connection may be tried without going ahead of those that [`Pace::take`] promised.
    pub(crate) fn wait(&self) -> Duration {
        self.bucket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .wait(Instant::now())
    }

    /// One connection is tried now.
    pub(crate) fn spend(&self) {
        self.bucket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .reserve(Instant::now());
    }

    /// Goes at half the pace for a while. The new rate, if this changed it.
    pub(crate) fn slow_down(&self) -> Option<u32> {
        self.bucket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .slow_down(Instant::now())
    }
}

/// A token bucket kept as the time at which it will be empty of debts (GCRA).
#[derive(Debug)]
struct Bucket {
    rate: u32,
    divisor: u32,
    changed: Instant,
    due: Instant,
}

impl Bucket {
    fn new(rate: u32, now: Instant) -> Self {
        Self {
            rate: rate.max(1),
            divisor: 1,
            changed: now,
            due: now,
        }
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1) * self.divisor / self.rate
    }

    /// What may be sent at once: 4 ms worth, since timers tick in milliseconds and come late, and at least 16.
    fn burst(&self) -> Duration {
        Duration::from_millis(4).max(self.interval() * 16)
    }

    /// How long to wait before the next connection, for which leave is taken.
    fn reserve(&mut self, now: Instant) -> Duration {
        let wait = self.wait(now);
        self.due = self.due.max(now) + self.interval();
        wait
    }

    /// How long there is no leave.
    fn wait(&mut self, now: Instant) -> Duration {
        if self.divisor > 1 && now.duration_since(self.changed) >= RECOVERY {
            self.divisor /= 2;
            self.changed = now;
        }
        let due = self.due.max(now) + self.interval();
        due.duration_since(now).saturating_sub(self.burst())
    }

    fn slow_down(&mut self, now: Instant) -> Option<u32> {
        let again = self.divisor > 1 && now.duration_since(self.changed) < ONCE_IN;
        if again || self.divisor >= SLOWEST {
            return None;
        }
        self.divisor *= 2;
        self.changed = now;
        Some((self.rate / self.divisor).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many connections leave within `span` when asked for all the time, one millisecond late each.
    fn sent_within(bucket: &mut Bucket, start: Instant, span: Duration) -> u32 {
        let mut now = start;
        let mut sent = 0;
        while now < start + span {
            let wait = bucket.reserve(now);
            if !wait.is_zero() {
                now += wait + Duration::from_millis(1);
            }
            sent += 1;
        }
        sent
    }

    #[test]
    fn the_rate_is_kept_though_timers_are_late() {
        for rate in [10, 500, 5_000, 50_000] {
            let start = Instant::now();
            let sent = sent_within(
                &mut Bucket::new(rate, start),
                start,
                Duration::from_secs(10),
            );
            assert!(sent <= rate * 10 + 16 + rate / 200, "{sent} at {rate}/s");
            assert!(sent >= rate * 9, "{sent} at {rate}/s");
        }
    }

    #[test]
    fn whoever_does_not_wait_takes_what_the_others_leave() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1_000, start);
        let mut now = start;
        let mut taken = 0;
        while now < start + Duration::from_secs(1) {
            while bucket.wait(now).is_zero() {
                bucket.reserve(now);
                taken += 1;
            }
            now += Duration::from_millis(1);
        }
        assert!((1_000..=1_016).contains(&taken), "{taken}");
        for _ in 0..10 {
            bucket.reserve(now);
        }
        let wait = bucket.wait(now);
        assert!(wait >= Duration::from_millis(9), "{wait:?}");
        assert_eq!(bucket.wait(now + wait), Duration::ZERO);
    }

    #[test]
    fn trouble_halves_the_rate_once_and_calm_restores_it() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1_600, start);
        assert_eq!(bucket.slow_down(start), Some(800));
        assert_eq!(bucket.slow_down(start + Duration::from_millis(500)), None);
        assert_eq!(
            bucket.slow_down(start + Duration::from_millis(1_500)),
            Some(400)
        );
        let calm = start + Duration::from_secs(20);
        bucket.reserve(calm);
        assert_eq!(bucket.divisor, 2);
        bucket.reserve(calm + RECOVERY);
        assert_eq!(bucket.divisor, 1);
    }

    #[test]
    fn the_rate_never_falls_below_a_sixteenth() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1_600, start);
        let mut now = start;
        for _ in 0..10 {
            bucket.slow_down(now);
            now += Duration::from_secs(2);
        }
        assert_eq!(bucket.divisor, SLOWEST);
    }
}
