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

use crate::{
    key_slots::{KeySlots, Slot},
    limiter::{Limiter, SourceLimiter, source},
};

/// Credentials of one generation. Two generations take 4 MiB, and hold those of twice as many callers as there are
/// connections.
const GENERATION: usize = 32_768;

/// Concurrent lookups of one credential, and with those that wait. The calls of one hostile caller would otherwise fill
/// the database pool before anybody knows whose calls they are.
const LOOKUPS_OF_A_CREDENTIAL: (usize, usize) = (2, 256);
/// The same for one source, which may be the address of a site with hundreds of nodes.
const LOOKUPS_OF_A_SOURCE: (usize, usize) = (8, 4_096);

/// Limits how often a source may present credentials that do not exist. Credentials that were valid before are exempt,
/// so that a guesser behind the same proxy or NAT locks out no caller that works. They have an allowance of calls of
/// their own, which is checked before they are looked up.
#[derive(Debug)]
pub(crate) struct CredentialLimits {
    refused: SourceLimiter,
    calls: Limiter,
    valid: Mutex<Generations>,
}

/// The lookups in progress.
#[derive(Debug)]
pub(crate) struct Lookups {
    credentials: KeySlots<[u8; 32]>,
    sources: KeySlots<IpAddr>,
}

impl Default for Lookups {
    fn default() -> Self {
        let ((at_once, most), (of_source, most_of_source)) =
            (LOOKUPS_OF_A_CREDENTIAL, LOOKUPS_OF_A_SOURCE);
        Self {
            credentials: KeySlots::new(at_once, most),
            sources: KeySlots::new(of_source, most_of_source),
        }
    }
}

impl Lookups {
    /// Waits until the credential may be looked up.
    ///
    /// # Errors
    ///
    /// RESOURCE_EXHAUSTED with a retry hint when too many calls wait.
    pub(crate) async fn slot(
        &self,
        credential: &SecretHash,
        from: IpAddr,
    ) -> Result<(Slot<[u8; 32]>, Slot<IpAddr>), RpcError> {
        // The credential first: a caller that waits for its own calls takes no place of its neighbors.
        let of_credential = self.credentials.wait(*credential.as_bytes()).await?;
        let of_source = self.sources.wait(source(from)).await?;
        Ok((of_credential, of_source))
    }
}

/// The hashes of credentials that were valid: at least the last [`GENERATION`] ones. Guesses are never in it, and
/// therefore push nothing out.
#[derive(Debug, Default)]
struct Generations {
    newer: HashSet<[u8; 32]>,
    older: HashSet<[u8; 32]>,
}

impl CredentialLimits {
    /// `refused` unknown credentials per minute and source, and `calls` with each credential that exists.
    pub(crate) fn new(refused: NonZeroU32, calls: NonZeroU32) -> Self {
        Self {
            refused: SourceLimiter::per_minute(refused),
            calls: Limiter::per_minute(calls),
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
            drop(valid);
            let calls = "calls with this credential";
            return self.calls.allow(credential.as_bytes(), calls, now);
        }
        drop(valid);
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

    fn per_minute(calls: u32) -> NonZeroU32 {
        NonZeroU32::new(calls).expect("not zero")
    }

    #[test]
    fn a_credential_that_exists_is_limited_before_it_is_looked_up() {
        let limits = CredentialLimits::new(per_minute(100), per_minute(5));
        let (here, there) = ([192, 0, 2, 1].into(), [198, 51, 100, 1].into());
        let now = Instant::now();
        let (busy, other) = (SecretHash::of("busy"), SecretHash::of("other"));
        for credential in [&busy, &other] {
            limits.settle(credential, true, here, now);
        }
        for from in [here, there, here, there, here] {
            limits
                .admit(&busy, from, now)
                .expect("within the allowance");
        }
        for from in [here, there] {
            let refused = limits.admit(&busy, from, now).expect_err("is limited");
            assert!(refused.retry_after().is_some());
        }
        limits
            .admit(&other, here, now)
            .expect("has its own allowance");
    }

    #[test]
    fn a_guesser_is_limited_and_valid_callers_of_its_source_are_not() {
        let limits = CredentialLimits::new(per_minute(3), per_minute(5));
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
