//! Rate limits per key in bounded memory.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hash},
    net::IpAddr,
    num::NonZeroU32,
    time::Duration,
};

use fleet_wire::RpcError;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock};

/// Cells of a limiter. Keys that hash to one cell share its allowance, so a flood of keys costs no memory.
const CELLS: usize = 4_096;

/// An allowance per minute for each key.
#[derive(Debug)]
pub(crate) struct Limiter {
    cells: Box<[DefaultDirectRateLimiter]>,
    hasher: RandomState,
    clock: governor::clock::DefaultClock,
}

impl Limiter {
    /// `per_minute` calls for each key, in a burst or spread.
    pub(crate) fn per_minute(per_minute: NonZeroU32) -> Self {
        let cell = |_| RateLimiter::direct(Quota::per_minute(per_minute));
        Self {
            cells: (0..CELLS).map(cell).collect(),
            // Random per process, so nobody can choose a key that shares the cell of a certain
            // other.
            hasher: RandomState::new(),
            clock: governor::clock::DefaultClock::default(),
        }
    }

    /// Takes one call from the allowance of a key.
    ///
    /// # Errors
    ///
    /// How long the caller must wait for its next call.
    pub(crate) fn take(&self, key: impl Hash) -> Result<(), Duration> {
        let cell = usize::try_from(self.hasher.hash_one(key) % CELLS as u64).unwrap_or(0);
        self.cells[cell]
            .check()
            .map_err(|until| until.wait_time_from(self.clock.now()))
    }
}

/// Takes one call from an allowance; `calls` names them in the refusal.
///
/// # Errors
///
/// RESOURCE_EXHAUSTED with a retry hint.
pub(crate) fn allow(limiter: &Limiter, key: impl Hash, calls: &str) -> Result<(), RpcError> {
    limiter.take(key).map_err(|wait| {
        RpcError::resource_exhausted(format!(
            "too many {calls}: try again in {} s",
            wait.as_secs() + 1
        ))
        .with_retry_after(wait)
    })
}

/// The key of an address: the IPv4 address, or the IPv6 /64, which one host controls (RFC 6177).
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
    fn a_key_is_limited_after_its_allowance_with_a_retry_hint() {
        let limiter = Limiter::per_minute(NonZeroU32::new(10).expect("not zero"));
        assert_eq!((0..10).filter(|_| limiter.take("a").is_ok()).count(), 10);
        let wait = limiter.take("a").expect_err("is over");
        assert!(
            wait > Duration::ZERO && wait <= Duration::from_secs(6),
            "{wait:?}"
        );
    }

    #[test]
    fn an_ipv6_host_cannot_evade_the_limit_within_its_prefix() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("a literal");
        assert_eq!(source(ip("2001:db8::1")), source(ip("2001:db8::ffff:1")));
        assert_ne!(source(ip("2001:db8::1")), source(ip("2001:db8:0:1::1")));
        assert_eq!(source(ip("::ffff:10.0.0.1")), ip("10.0.0.1"));
    }
}
