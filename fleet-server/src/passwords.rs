//! Hashing of operators' passwords with argon2id, off the async threads and a few at a time. Start with
//! [`Passwords`].

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier},
};
use fleet_core::Password;
use fleet_wire::RpcError;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// Memory of one hash in KiB, passes over it, degree of parallelism: the second choice of OWASP's Password Storage Cheat
/// Sheet for argon2id (19 MiB, 2, 1), as strong as its first (46 MiB, 1, 1) and kinder to small machines.
const MEMORY_KIB: u32 = 19 * 1_024;
const PASSES: u32 = 2;
const PARALLELISM: u32 = 1;
/// Hashes at a time: memory of a process for hashing is this times 19 MiB.
const AT_ONCE: usize = 2;
/// Callers that may wait for a hash. Further callers are refused with a retry hint: a flood of sign-ins costs bounded
/// memory, and nobody waits longer than a few seconds.
const WAITING: usize = 32;
/// The part of them that callers from new addresses may take. The rest is kept for addresses from which an owner has
/// signed in before: a flood of guesses from elsewhere does not keep operators out.
const WAITING_NEW: usize = 24;

/// A hash that no password matches. It is verified for unknown accounts, so that they take as long as known ones.
const PLACEHOLDER: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IGhhcyB0aGlzIQ$RCHXKL1s1dKe4bpLbJDlKfOTxrSdKpVQXZOUHmZCzLU";

/// Hashes a password under a salt for storing (PHC string format). Takes tens of milliseconds and 19 MiB; on
/// async threads use `Passwords`.
///
/// # Errors
///
/// Only lack of memory, as text.
pub fn hash_password(password: &Password, salt: &[u8; 16]) -> Result<String, String> {
    let hash = argon2()?
        .hash_password_with_salt(password.expose().as_bytes(), salt)
        .map_err(|error| error.to_string())?;
    Ok(hash.to_string())
}

/// Whether a password matches a stored hash.
fn matches(password: &Password, phc: &str) -> bool {
    // The parameters come from the hash.
    Argon2::default()
        .verify_password(password.expose().as_bytes(), phc)
        .is_ok()
}

fn argon2() -> Result<Argon2<'static>, String> {
    let params =
        Params::new(MEMORY_KIB, PASSES, PARALLELISM, None).map_err(|error| error.to_string())?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// A password that an operator chooses.
///
/// # Errors
///
/// INVALID_ARGUMENT that says what is wrong with it.
pub(crate) fn chosen(text: Zeroizing<String>, email: &str) -> Result<Password, RpcError> {
    Password::chosen(text, email).map_err(|weak| {
        RpcError::invalid_argument(weak.to_string())
            .with_reason("INVALID_FIELD")
            .with_fact("field", "password")
    })
}

/// The refusal of a password where the server accepts none.
pub(crate) fn passwords_off() -> RpcError {
    RpcError::failed_precondition(
        "this server accepts no passwords: operators sign in through the sign-in provider, and `fleetd admin` creates one-time passwords and keys",
    )
    .with_reason("PASSWORDS_OFF")
}

/// How the limiter names passwords that were tried for an account.
pub(crate) const PASSWORDS: &str = "passwords were tried";

/// Hashes passwords for the server, with bounded memory.
#[derive(Debug)]
pub(crate) struct Passwords {
    permits: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

/// Where a caller comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// An address from which the owner of the account has signed in before, or an authenticated caller.
    Known,
    /// Any other address.
    New,
}

/// Counts a waiting caller until it is dropped.
struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Passwords {
    pub(crate) fn new() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// Whether a password matches a stored hash. Without a hash the check takes as long, and fails.
    ///
    /// # Errors
    ///
    /// RESOURCE_EXHAUSTED with a retry hint when too many callers wait already.
    pub(crate) async fn verify(
        &self,
        password: Password,
        phc: Option<String>,
        caller: Source,
    ) -> Result<bool, RpcError> {
        self.run(caller, move || {
            let verified = matches(&password, phc.as_deref().unwrap_or(PLACEHOLDER));
            verified && phc.is_some()
        })
        .await
    }

    /// Hashes a password for storing.
    ///
    /// # Errors
    ///
    /// As [`verify`](Self::verify); INTERNAL without memory.
    pub(crate) async fn hash(
        &self,
        password: Password,
        salt: [u8; 16],
    ) -> Result<String, RpcError> {
        // Only callers that have proved who they are set a password.
        self.run(Source::Known, move || hash_password(&password, &salt))
            .await?
            .map_err(|error| {
                tracing::error!(error, "a password could not be hashed");
                RpcError::internal("the password could not be stored")
            })
    }

    async fn run<T: Send + 'static>(
        &self,
        caller: Source,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RpcError> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(self.waiting.clone());
        let most = match caller {
            Source::Known => WAITING,
            Source::New => WAITING_NEW,
        };
        if before >= most {
            let wait = std::time::Duration::from_secs(2);
            return Err(RpcError::resource_exhausted(
                "too many sign-ins at a time: try again in a few seconds",
            )
            .with_reason("TOO_MANY_SIGN_INS")
            .with_retry_after(wait));
        }
        let internal = || RpcError::internal("internal error");
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| internal())?;
        // Both are held until the work is done, even if the caller hangs up.
        let work = move || {
            let (_waiting, _permit) = (waiting, permit);
            work()
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| internal())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::presented(Zeroizing::new(text.to_owned())).expect("is short")
    }

    #[test]
    fn a_hash_names_its_parameters_and_matches_one_password() {
        let phc = hash_password(&password("correct horse"), &[7; 16]).expect("hashes");
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
        assert!(matches(&password("correct horse"), &phc));
        assert!(!matches(&password("correct horsf"), &phc));
        assert_ne!(
            phc,
            hash_password(&password("correct horse"), &[8; 16]).expect("hashes")
        );
        assert!(!matches(&password("correct horse"), "nonsense"));
    }

    #[tokio::test]
    async fn verifying_an_unknown_account_costs_the_same_work_and_fails() {
        let passwords = Passwords::new();
        let phc = passwords
            .hash(password("correct horse"), [7; 16])
            .await
            .expect("hashes");
        // Algorithm, version and costs come before the salt; salts and hashes have equal lengths.
        let work = |phc: &str| {
            phc.split('$')
                .take(4)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(work(&phc), work(PLACEHOLDER));
        let lengths = |phc: &str| phc.split('$').skip(4).map(str::len).collect::<Vec<_>>();
        assert_eq!(lengths(&phc), lengths(PLACEHOLDER));
        for phc in [Some(phc), None] {
            let verified = passwords
                .verify(password("wrong horse"), phc, Source::New)
                .await;
            assert_eq!(verified.ok(), Some(false));
        }
    }

    #[tokio::test]
    async fn a_flood_is_refused_with_a_retry_hint_and_the_queue_empties() {
        let passwords = Arc::new(Passwords::new());
        let callers = [Source::New; WAITING_NEW + 8]
            .into_iter()
            .chain([Source::Known; WAITING - WAITING_NEW]);
        let many = callers.map(|caller| {
            let passwords = passwords.clone();
            tokio::spawn(async move { passwords.run(caller, || ()).await })
        });
        let gate = passwords
            .permits
            .clone()
            .acquire_many_owned(AT_ONCE as u32)
            .await;
        let many: Vec<_> = many.collect();
        tokio::task::yield_now().await;
        while passwords.waiting.load(Ordering::Relaxed) != WAITING {
            tokio::task::yield_now().await;
        }
        drop(gate);
        let mut refused = Vec::new();
        for (number, one) in many.into_iter().enumerate() {
            if let Err(error) = one.await.expect("ends") {
                assert!(error.retry_after().is_some(), "{error}");
                refused.push(number);
            }
        }
        // The tasks start in order: the last eight from new addresses find their part taken, and the others have room.
        assert_eq!(refused, Vec::from_iter(WAITING_NEW..WAITING_NEW + 8));
        assert_eq!(passwords.waiting.load(Ordering::Relaxed), 0);
    }
}
