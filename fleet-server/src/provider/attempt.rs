//! The attempt of a browser to sign in through the provider. A cookie holds its secret; what the provider sees is derived
//! from it. No server stores anything, so that the browser may return to another server.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use fleet_core::{SecretHash, Timestamp};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// An attempt. Its secret binds state, nonce and code to one browser, and so does its time, because all of them are
/// derived from both.
pub(crate) struct Attempt {
    secret: Zeroizing<[u8; 32]>,
    /// Seconds since the Unix epoch.
    began: i64,
}

/// How long an attempt may take.
pub(crate) const LIFE: std::time::Duration = std::time::Duration::from_secs(10 * 60);

impl Attempt {
    /// Begins an attempt with random bytes.
    pub(crate) fn begin(random: [u8; 32], now: Timestamp) -> Self {
        Self {
            secret: random.into(),
            began: now.to_seconds_and_nanos().0,
        }
    }

    /// Reads the value of a cookie. None if it is none of ours, or too old.
    pub(crate) fn read(cookie: &str, now: Timestamp) -> Option<Self> {
        let (secret, began) = cookie.split_once('.')?;
        let secret = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.decode(secret).ok()?);
        let attempt = Self {
            secret: <[u8; 32]>::try_from(secret.as_slice()).ok()?.into(),
            began: began.parse().ok()?,
        };
        let now = now.to_seconds_and_nanos().0;
        let life = i64::try_from(LIFE.as_secs()).unwrap_or(0);
        let age = now.checked_sub(attempt.began)?;
        // The clocks of servers differ a little.
        (-60..life).contains(&age).then_some(attempt)
    }

    /// The value of the cookie.
    pub(crate) fn cookie(&self) -> Zeroizing<String> {
        let secret = BASE64_URL_SAFE_NO_PAD.encode(*self.secret);
        Zeroizing::new(format!("{secret}.{}", self.began))
    }

    /// The `state` of the request.
    pub(crate) fn state(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.derive("state"))
    }

    /// Whether an answer has the state of this attempt. Compares in constant time.
    pub(crate) fn has_state(&self, state: &str) -> bool {
        let expected = self.derive("state");
        let given = BASE64_URL_SAFE_NO_PAD.decode(state).ok();
        given
            .and_then(|given| <[u8; 32]>::try_from(given).ok())
            .is_some_and(|given| {
                SecretHash::from_stored(given) == SecretHash::from_stored(expected)
            })
    }

    /// The `nonce` that the ID token must contain.
    pub(crate) fn nonce(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.derive("nonce"))
    }

    /// The `code_verifier` (RFC 7636).
    pub(crate) fn verifier(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(self.derive("verifier")))
    }

    /// The `code_challenge` with the method S256.
    pub(crate) fn challenge(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(self.verifier().as_bytes()))
    }

    /// The hash by which the store knows a used attempt.
    pub(crate) fn hash(&self) -> SecretHash {
        SecretHash::from_stored(self.derive("used"))
    }

    /// When the attempt ends.
    pub(crate) fn expires(&self) -> Timestamp {
        let began = Timestamp::from_micros(self.began.saturating_mul(1_000_000));
        // With the difference of clocks that `read` accepts.
        began.plus(LIFE * 2)
    }

    /// Independent values: nobody who knows one of them learns another one or the secret.
    fn derive(&self, purpose: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"fleet sign-in attempt 1\0");
        hash.update(*self.secret);
        hash.update(self.began.to_be_bytes());
        hash.update(purpose.as_bytes());
        hash.finalize().into()
    }
}

impl std::fmt::Debug for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attempt")
            .field("began", &self.began)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_cookie_is_valid_for_ten_minutes_and_only_with_its_own_state() {
        let attempt = Attempt::begin([7; 32], at(1_000));
        let cookie = attempt.cookie();
        for (now, expected) in [
            (939, false),
            (940, true),
            (1_000, true),
            (1_599, true),
            (1_600, false),
        ] {
            let read = Attempt::read(&cookie, at(now));
            assert_eq!(read.is_some(), expected, "{now}");
            if let Some(read) = read {
                assert!(read.has_state(&attempt.state()));
                assert_eq!(read.hash(), attempt.hash());
            }
        }
        // A later time makes another attempt, whose state the provider has never seen.
        let later = cookie.replace(".1000", ".1500");
        let later = Attempt::read(&later, at(1_700)).expect("is young");
        assert!(!later.has_state(&attempt.state()));
        assert_ne!(later.hash(), attempt.hash());
        for wrong in ["", "x", ".1000", "AAAA.1000", &cookie[1..], "x.y.z"] {
            assert!(Attempt::read(wrong, at(1_000)).is_none(), "{wrong}");
        }
        for wrong in ["", "x", &attempt.nonce(), &attempt.state()[1..]] {
            assert!(!attempt.has_state(wrong), "{wrong}");
        }
    }

    #[test]
    fn nothing_that_leaves_the_server_shows_another_value() {
        let attempt = Attempt::begin([7; 32], at(1_000));
        let values = [
            attempt.state(),
            attempt.nonce(),
            attempt.verifier().to_string(),
            attempt.challenge(),
        ];
        // RFC 7636, 4.1: 43 to 128 characters.
        assert!(values.iter().all(|value| value.len() == 43));
        assert_eq!(BTreeSet::from(values).len(), 4);
        assert!(!format!("{attempt:?}").contains('7'));
    }
}
