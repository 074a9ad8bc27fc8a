//! The rate of connection attempts: a limit with a small burst, reduced for a while after failures.
//!
//! [`RateLimiter`] is the shared handle. [`Bucket`] decides, as a function of the time.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::time::sleep;

/// The largest reduction of the rate.
const MAX_DIVISOR: u32 = 16;

/// How long after a slow-down the rate doubles again.
const RECOVERY: Duration = Duration::from_secs(5);

/// Within this time, another slow-down counts as the same one.
const SLOW_DOWN_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct RateLimiter {
    bucket: Mutex<Bucket>,
}

impl RateLimiter {
    pub(crate) fn new(rate: u32) -> Self {
        Self {
            bucket: Mutex::new(Bucket::new(rate, Instant::now())),
        }
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        // The numbers in the bucket are valid after every step, so a panic elsewhere does not
        // matter.
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a permit for one connection. Cancel-safe; a canceled wait may use up its permit.
    pub(crate) async fn acquire(&self) {
        // Reserved before the wait, so callers queue behind each other instead of waking up
        // together.
        let wait = self.bucket().reserve(Instant::now());
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }

    /// Returns how long until one connection may be tried after all those that [`RateLimiter::acquire`] admitted.
    pub(crate) fn wait(&self) -> Duration {
        self.bucket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .wait(Instant::now())
    }

    /// Uses a permit for one connection.
    pub(crate) fn spend(&self) {
        self.bucket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .reserve(Instant::now());
    }

    /// Halves the rate for a while. Returns the new rate if it changed.
    pub(crate) fn slow_down(&self) -> Option<u32> {
        self.bucket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .slow_down(Instant::now())
    }
}

/// A token bucket, stored as the time at which it owes nothing (GCRA).
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: u32,
    divisor: u32,
    changed: Instant,
    due: Instant,
}

impl Bucket {
    pub(crate) fn new(rate: u32, now: Instant) -> Self {
        Self {
            rate: rate.max(1),
            divisor: 1,
            changed: now,
            due: now,
        }
    }

    /// Connections that may go at once: 4 ms worth and at least 16, because timers have millisecond ticks and fire late,
    /// but at most a small part of a second's.
    fn burst_size(&self) -> u32 {
        (self.rate / 250).max(16).min(self.rate / 32).max(1)
    }

    /// A burst and what follows in the same second together stay within the rate, with a hundredth to spare: a thread
    /// that is interrupted between its permit and its packet sends into the next second.
    fn interval(&self) -> Duration {
        let sustained = self.rate - self.burst_size() - self.rate / 100 + 1;
        Duration::from_secs(1) * self.divisor / sustained
    }

    fn burst(&self) -> Duration {
        self.interval() * self.burst_size()
    }

    /// Takes a permit. Returns how long to wait before the connection.
    pub(crate) fn reserve(&mut self, now: Instant) -> Duration {
        let wait = self.wait(now);
        self.due = self.due.max(now) + self.interval();
        wait
    }

    /// Returns how long until a permit is available.
    pub(crate) fn wait(&mut self, now: Instant) -> Duration {
        if self.divisor > 1 && now.duration_since(self.changed) >= RECOVERY {
            self.divisor /= 2;
            self.changed = now;
        }
        let due = self.due.max(now) + self.interval();
        due.duration_since(now).saturating_sub(self.burst())
    }

    fn slow_down(&mut self, now: Instant) -> Option<u32> {
        let again = self.divisor > 1 && now.duration_since(self.changed) < SLOW_DOWN_INTERVAL;
        if again || self.divisor >= MAX_DIVISOR {
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

    /// Counts the connections within `span` if each timer fires one millisecond late.
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
    fn the_rate_holds_even_if_timers_fire_late() {
        for rate in [10, 500, 5_000, 50_000] {
            let start = Instant::now();
            let sent = sent_within(
                &mut Bucket::new(rate, start),
                start,
                Duration::from_secs(10),
            );
            // The last one may come after the end.
            assert!(sent <= rate * 10 + 1, "{sent} at {rate}/s");
            assert!(sent >= rate * 9, "{sent} at {rate}/s");
        }
    }

    #[test]
    fn a_caller_that_polls_gets_the_permits_that_waiting_callers_leave() {
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
        assert!((980..=1_000).contains(&taken), "{taken}");
        for _ in 0..10 {
            bucket.reserve(now);
        }
        let wait = bucket.wait(now);
        assert!(wait >= Duration::from_millis(9), "{wait:?}");
        assert_eq!(bucket.wait(now + wait), Duration::ZERO);
    }

    #[test]
    fn a_slow_down_halves_the_rate_once_and_time_restores_it() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1_600, start);
        assert_eq!(bucket.slow_down(start), Some(800));
        assert_eq!(bucket.slow_down(start + Duration::from_millis(500)), None);
        assert_eq!(
            bucket.slow_down(start + Duration::from_millis(1_500)),
            Some(400)
        );
        let later = start + Duration::from_secs(20);
        bucket.reserve(later);
        assert_eq!(bucket.divisor, 2);
        bucket.reserve(later + RECOVERY);
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
        assert_eq!(bucket.divisor, MAX_DIVISOR);
    }
}
