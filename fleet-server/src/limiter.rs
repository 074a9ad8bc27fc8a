//! Rate limits by peer in bounded memory.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hash},
    net::IpAddr,
    num::NonZeroU32,
    time::Duration,
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock};

/// Cells of a limiter: keys that hash to one cell share its allowance, so that no flood of keys costs
/// memory.
const CELLS: usize = 4_096;

/// An allowance a minute for each key.
#[derive(Debug)]
pub(crate) struct Limiter {
    cells: Box<[DefaultDirectRateLimiter]>,
    hasher: RandomState,
    clock: governor::clock::DefaultClock,
}

impl Limiter {
    /// `per_minute` calls for each key, at once or spread.
    pub(crate) fn per_minute(per_minute: NonZeroU32) -> Self {
        let cell = |_| RateLimiter::direct(Quota::per_minute(per_minute));
        Self {
            cells: (0..CELLS).map(cell).collect(),
            hasher: RandomState::new(),
            clock: governor::clock::DefaultClock::default(),
        }
    }

    /// Takes one call of a key.
    ///
    /// # Errors
    ///
    /// How long to wait for the next one.
    pub(crate) fn take(&self, key: impl Hash) -> Result<(), Duration> {
        let cell = usize::try_from(self.hasher.hash_one(key) % CELLS as u64).unwrap_or(0);
        self.cells[cell]
            .check()
            .map_err(|until| until.wait_time_from(self.clock.now()))
    }
}

/// What an address is limited by: itself, or the /64 that one IPv6 host commands (RFC 6177).
pub(crate) fn source(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & !u128::from(u64::MAX)).into()),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_stopped_after_its_allowance_and_told_for_how_long() {
        let limiter = Limiter::per_minute(NonZeroU32::new(10).expect("not zero"));
        assert_eq!((0..10).filter(|_| limiter.take("a").is_ok()).count(), 10);
        let wait = limiter.take("a").expect_err("is over");
        assert!(
            wait > Duration::ZERO && wait <= Duration::from_secs(6),
            "{wait:?}"
        );
    }

    #[test]
    fn a_host_cannot_walk_through_its_own_prefix() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("a literal");
        assert_eq!(source(ip("2001:db8::1")), source(ip("2001:db8::ffff:1")));
        assert_ne!(source(ip("2001:db8::1")), source(ip("2001:db8:0:1::1")));
        assert_eq!(source(ip("::ffff:10.0.0.1")), ip("10.0.0.1"));
    }
}
