//! Rate limits per key in bounded memory.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hash},
    net::IpAddr,
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fleet_wire::RpcError;
use sha2::{Digest, Sha256};

/// Cells of a row. Keys that hash to one cell share its allowance, so a flood of keys costs no memory.
const CELLS: usize = 4_096;
/// Rows of a limiter, in each of which a key has one cell. A key is refused only if every one of its cells is used up,
/// so that one busy key practically never refuses another (a count-min sketch).
const ROWS: usize = 2;

/// An allowance per minute for each key.
///
/// A cell holds the time at which its allowance is whole again: the theoretical arrival time of the generic cell rate
/// algorithm (ITU-T I.371). It is at least as late as the time of each of its keys alone, so no key gets more calls than
/// its allowance. The algorithm is written out here because a source is charged in several cells or in none, which the
/// crates for rate limits cannot do.
#[derive(Debug)]
pub(crate) struct Limiter {
    cells: Mutex<Box<[Option<Instant>]>>,
    // The keys of the hash are random, so that nobody can choose a key that shares another's cells.
    hasher: RandomState,
    /// Time in which one call is paid back.
    interval: Duration,
    /// What is still to be paid back when the last call of a burst is allowed.
    burst: Duration,
}

/// A call that its limiter allows. It counts when it is charged.
struct Charge<'a> {
    limiter: &'a Limiter,
    cells: MutexGuard<'a, Box<[Option<Instant>]>>,
    at: [usize; ROWS],
    now: Instant,
}

impl Limiter {
    /// `per_minute` calls for each key, in a burst or spread.
    pub(crate) fn per_minute(per_minute: NonZeroU32) -> Self {
        let interval = Duration::from_secs(60) / per_minute.get();
        Self {
            cells: Mutex::new(vec![None; ROWS * CELLS].into_boxed_slice()),
            hasher: RandomState::new(),
            interval,
            burst: interval * (per_minute.get() - 1),
        }
    }

    /// Checks one call of a key without charging it. The error is how long the call must wait.
    fn check(&self, key: impl Hash, now: Instant) -> Result<Charge<'_>, Duration> {
        let hash = self.hasher.hash_one(key);
        let at = std::array::from_fn(|row| {
            let column = usize::try_from((hash >> (32 * row)) % CELLS as u64);
            row * CELLS + column.unwrap_or(0)
        });
        let cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = at.map(|at| {
            let owed = cells[at].map_or(Duration::ZERO, |arrival| {
                arrival.saturating_duration_since(now)
            });
            owed.saturating_sub(self.burst)
        });
        match waits.into_iter().min() {
            None | Some(Duration::ZERO) => Ok(Charge {
                limiter: self,
                cells,
                at,
                now,
            }),
            Some(wait) => Err(wait),
        }
    }

    /// Takes one call from the allowance of a key; `calls` names them in the refusal.
    ///
    /// # Errors
    ///
    /// RESOURCE_EXHAUSTED with a retry hint.
    pub(crate) fn allow(&self, key: impl Hash, calls: &str, now: Instant) -> Result<(), RpcError> {
        let charge = self.check(key, now);
        charge
            .map(Charge::charge)
            .map_err(|wait| refusal(calls, wait))
    }
}

impl Charge<'_> {
    fn charge(mut self) {
        let Limiter {
            interval, burst, ..
        } = *self.limiter;
        for at in self.at {
            let arrival = self.cells[at].map_or(self.now, |arrival| arrival.max(self.now));
            // Without the bound, a cell that many keys share would stay used up long after they are gone.
            self.cells[at] = Some((arrival + interval).min(self.now + burst + interval));
        }
    }
}

/// An allowance per minute for each source, and larger ones for the address blocks around it. Without those, one party
/// with a large block could empty every cell and so lock all other sources out.
#[derive(Debug)]
pub(crate) struct SourceLimiter([Limiter; BLOCKS.len()]);

/// Prefix lengths of IPv4 and IPv6, and how many times the allowance of a source such a block has: the source itself,
/// a site (RFC 6177: /48), and a provider's allocation (/32 is the smallest that registries give).
const BLOCKS: [(u8, u8, u32); 3] = [(32, 64, 1), (24, 48, 8), (16, 32, 64)];

impl SourceLimiter {
    /// `per_minute` calls for each source, in a burst or spread.
    pub(crate) fn per_minute(per_minute: NonZeroU32) -> Self {
        Self(BLOCKS.map(|(_, _, times)| {
            let times = NonZeroU32::new(times).unwrap_or(NonZeroU32::MIN);
            Limiter::per_minute(per_minute.saturating_mul(times))
        }))
    }

    /// Takes one call from the allowances of a source; `calls` names them in the refusal.
    ///
    /// # Errors
    ///
    /// RESOURCE_EXHAUSTED with a retry hint.
    pub(crate) fn allow(&self, from: IpAddr, calls: &str, now: Instant) -> Result<(), RpcError> {
        // A refused call is charged nowhere: a source that is refused takes nothing from its neighbors, and a block
        // that is refused takes nothing from the cells that its sources share with others.
        let charges = self.charges(from, calls, now)?;
        charges.into_iter().for_each(Charge::charge);
        Ok(())
    }

    /// Whether [`allow`](Self::allow) would succeed; takes nothing.
    ///
    /// # Errors
    ///
    /// As `allow`.
    pub(crate) fn check(&self, from: IpAddr, calls: &str, now: Instant) -> Result<(), RpcError> {
        self.charges(from, calls, now).map(drop)
    }

    fn charges(
        &self,
        from: IpAddr,
        calls: &str,
        now: Instant,
    ) -> Result<Vec<Charge<'_>>, RpcError> {
        let mut charges = Vec::with_capacity(BLOCKS.len());
        for (limiter, (v4, v6, _)) in self.0.iter().zip(BLOCKS) {
            let charge = limiter.check(block(from, v4, v6), now);
            charges.push(charge.map_err(|wait| refusal(calls, wait))?);
        }
        Ok(charges)
    }
}

fn refusal(calls: &str, wait: Duration) -> RpcError {
    RpcError::resource_exhausted(format!(
        "too many {calls}: try again in {} s",
        wait.as_secs() + 1
    ))
    .with_reason("RATE_LIMITED")
    .with_retry_after(wait)
}

/// The source of a client that an undeclared proxy names: an address of fc00::/8, which nobody has (RFC 4193), made of
/// the hash of both. It is the same after a restart, because sign-ins from it are remembered.
pub(crate) fn source_behind(proxy: IpAddr, client: IpAddr) -> IpAddr {
    let name = format!("{} {}", source(proxy), source(client));
    let hash = Sha256::digest(name.as_bytes());
    let mut bits = [0; 16];
    bits[0] = 0xfc;
    for (to, from) in bits[1..8].iter_mut().zip(hash.iter()) {
        *to = *from;
    }
    IpAddr::from(bits)
}

/// The key of an address: the IPv4 address, or the IPv6 /64, which one host controls (RFC 6177).
pub(crate) fn source(ip: IpAddr) -> IpAddr {
    let [(v4, v6, _), ..] = BLOCKS;
    block(ip, v4, v6)
}

/// The widest block around an address that is limited as a whole.
pub(crate) fn widest_block(ip: IpAddr) -> IpAddr {
    let [.., (v4, v6, _)] = BLOCKS;
    block(ip, v4, v6)
}

/// The first address of the block around an address, by the prefix length of its family.
fn block(ip: IpAddr, v4: u8, v6: u8) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let host = u32::MAX.checked_shr(v4.into()).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & !host).into())
        }
        IpAddr::V6(ip) => {
            let host = u128::MAX.checked_shr(v6.into()).unwrap_or(0);
            IpAddr::V6((ip.to_bits() & !host).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_limited_after_its_allowance_with_a_retry_hint() {
        let limiter = Limiter::per_minute(NonZeroU32::new(10).expect("not zero"));
        let start = Instant::now();
        let take = |seconds| limiter.allow("a", "calls", start + Duration::from_secs(seconds));
        assert_eq!((0..12).filter(|_| take(0).is_ok()).count(), 10);
        let refused = take(2).expect_err("is over");
        assert_eq!(refused.retry_after(), Some(Duration::from_secs(4)));
        assert!(take(6).is_ok(), "one call is paid back");
        assert!(take(6).is_err());
        assert_eq!((0..12).filter(|_| take(600).is_ok()).count(), 10);
    }

    #[test]
    fn nobody_can_know_which_keys_share_a_cell() {
        let limiters = [1, 2].map(|_| Limiter::per_minute(NonZeroU32::MIN));
        let now = Instant::now();
        let cells = |limiter: &Limiter| {
            let at = |key: u32| limiter.check(key, now).map(|charge| charge.at).ok();
            (0..16).map(at).collect::<Vec<_>>()
        };
        assert_eq!(cells(&limiters[0]), cells(&limiters[0]));
        assert_ne!(cells(&limiters[0]), cells(&limiters[1]));
    }

    #[test]
    fn an_address_block_cannot_lock_others_out() {
        let limiter = SourceLimiter::per_minute(NonZeroU32::new(10).expect("not zero"));
        let v6 = |block: u128, subnet: u128| IpAddr::V6((block << 96 | subnet << 64).into());
        let v4 = |block: u32, host: u32| IpAddr::V4((block << 16 | host).into());
        let now = Instant::now();
        let mut taken = 0;
        for number in 0..200_000 {
            taken += u32::from(limiter.allow(v6(0x2001_0db8, number), "calls", now).is_ok());
        }
        for host in 0..=0xffff {
            taken += u32::from(limiter.allow(v4(0x0a00, host), "calls", now).is_ok());
        }
        // The 200,000 networks lie in four blocks of /48.
        assert_eq!(taken, 4 * 8 * 10 + 64 * 10);
        for number in 0..200 {
            for other in [v6(0x2a00_0000 + number, 1), v4(0xc000 + number as u32, 1)] {
                assert!(limiter.allow(other, "calls", now).is_ok(), "{other}");
            }
        }
    }

    #[test]
    fn blocks_have_the_prefix_of_their_family() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("a literal");
        for (from, (v4, v6, _), expected) in [
            ("10.1.2.3", BLOCKS[0], "10.1.2.3"),
            ("10.1.2.3", BLOCKS[1], "10.1.2.0"),
            ("10.1.2.3", BLOCKS[2], "10.1.0.0"),
            ("2001:db8:1:2::3", BLOCKS[0], "2001:db8:1:2::"),
            ("2001:db8:1:2::3", BLOCKS[1], "2001:db8:1::"),
            ("2001:db8:1:2::3", BLOCKS[2], "2001:db8::"),
        ] {
            assert_eq!(block(ip(from), v4, v6), ip(expected));
        }
    }

    #[test]
    fn an_ipv6_host_cannot_evade_the_limit_within_its_prefix() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("a literal");
        assert_eq!(source(ip("2001:db8::1")), source(ip("2001:db8::ffff:1")));
        assert_ne!(source(ip("2001:db8::1")), source(ip("2001:db8:0:1::1")));
        assert_eq!(source(ip("::ffff:10.0.0.1")), ip("10.0.0.1"));
    }
}
