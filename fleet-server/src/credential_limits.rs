//! Bounds the database work that unauthenticated callers cause by presenting credentials that do not exist.

use std::{
    collections::HashSet,
    mem,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use fleet_core::SecretHash;
use fleet_wire::RpcError;

use crate::limiter::SourceLimiter;

/// Credentials of one generation. Two generations take 4 MiB, and hold those of twice as many callers as there are
/// connections.
const GENERATION: usize = 32_768;

/// Limits how often a source may present credentials that do not exist. Credentials that were valid before are exempt,
/// so that a guesser behind the same proxy or NAT locks out no caller that works.
#[derive(Debug)]
pub(crate) struct CredentialLimits {
    refused: SourceLimiter,
    valid: Mutex<Generations>,
}

/// The hashes of credentials that were valid: at least the last [`GENERATION`] ones. Guesses are never in it, and
/// therefore push nothing out.
#[derive(Debug, Default)]
struct Generations {
    newer: HashSet<[u8; 32]>,
    older: HashSet<[u8; 32]>,
}

impl CredentialLimits {
    /// `refused` unknown credentials per minute and source.
    pub(crate) fn new(refused: NonZeroU32) -> Self {
        Self {
            refused: SourceLimiter::per_minute(refused),
            valid: Mutex::default(),
        }
    }

    /// Whether a credential may be looked up.
    ///
    /// # Errors
    ///
    /// RESOURCE_EXHAUSTED with a retry hint.
    pub(crate) fn admit(
        &self,
        credential: &SecretHash,
        from: IpAddr,
        now: Instant,
    ) -> Result<(), RpcError> {
        let valid = self.valid.lock().unwrap_or_else(PoisonError::into_inner);
        if valid.contains(credential) {
            return Ok(());
        }
        self.refused.check(from, "unknown credentials", now)
    }

    /// Notes whether a credential exists.
    pub(crate) fn settle(
        &self,
        credential: &SecretHash,
        is_valid: bool,
        from: IpAddr,
        now: Instant,
    ) {
        if is_valid {
            let mut valid = self.valid.lock().unwrap_or_else(PoisonError::into_inner);
            valid.insert(credential);
        } else {
            // Concurrent calls may exceed the allowance by as many as are in progress. They are refused anyway.
            let _ = self.refused.allow(from, "unknown credentials", now);
        }
    }
}

impl Generations {
    fn contains(&self, credential: &SecretHash) -> bool {
        let hash = credential.as_bytes();
        self.newer.contains(hash) || self.older.contains(hash)
    }

    fn insert(&mut self, credential: &SecretHash) {
        if self.newer.insert(*credential.as_bytes()) && self.newer.len() >= GENERATION {
            self.older = mem::take(&mut self.newer);
        }
    }
}

#[cfg(test)]
mod tests {
    use fleet_wire::Code;

    use super::*;

    #[test]
    fn a_guesser_is_limited_and_valid_callers_of_its_source_are_not() {
        let limits = CredentialLimits::new(NonZeroU32::new(3).expect("not zero"));
        let (here, there) = ([192, 0, 2, 1].into(), [198, 51, 100, 1].into());
        let now = Instant::now();
        let valid = SecretHash::of("valid");
        limits.settle(&valid, true, here, now);
        for number in 0..3 {
            let guess = SecretHash::of(&number.to_string());
            limits
                .admit(&guess, here, now)
                .expect("within the allowance");
            limits.settle(&guess, false, here, now);
        }
        let guess = SecretHash::of("guess");
        let refused = limits.admit(&guess, here, now).expect_err("is limited");
        assert_eq!(refused.code, Code::ResourceExhausted);
        assert!(refused.retry_after().is_some());
        limits.admit(&valid, here, now).expect("was valid before");
        limits.admit(&guess, there, now).expect("another source");
    }

    #[test]
    fn valid_credentials_are_remembered_in_bounded_memory() {
        let mut generations = Generations::default();
        let hash = |number: usize| SecretHash::of(&number.to_string());
        for number in 0..3 * GENERATION {
            generations.insert(&hash(number));
        }
        assert!(generations.newer.len() + generations.older.len() <= 2 * GENERATION);
        for number in 2 * GENERATION..3 * GENERATION {
            assert!(generations.contains(&hash(number)), "{number}");
        }
    }
}
