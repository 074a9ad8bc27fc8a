//! Hashing of operators' passwords: argon2id, off the async threads, a few at a time. Start with
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

/// Memory of one hash in KiB, passes over it, lanes: the second choice of OWASP's Password Storage Cheat
/// Sheet for argon2id (19 MiB, 2, 1), as strong as its first (46 MiB, 1, 1) and kinder to small machines.
const MEMORY_KIB: u32 = 19 * 1_024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Hashes at a time: memory of a process for hashing is this times 19 MiB.
const AT_ONCE: usize = 2;
/// Who waits for a hash. More are told to come back, so that a flood of sign-ins costs bounded memory and
/// nobody waits longer than a few seconds.
const WAITING: usize = 32;

/// A hash of nobody's password, verified where there is none to verify, so that it takes as long.
const NOBODYS: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IGhhcyB0aGlzIQ$RCHXKL1s1dKe4bpLbJDlKfOTxrSdKpVQXZOUHmZCzLU";

/// Hashes a password under a salt for storing (PHC string format). Takes tens of milliseconds and 19 MiB; on
/// async threads use `Passwords`.
///
/// # Errors
///
/// None but lack of memory, as text.
pub fn hash_password(password: &Password, salt: &[u8; 16]) -> Result<String, String> {
    let hash = argon2()?
        .hash_password_with_salt(password.expose().as_bytes(), salt)
        .map_err(|error| error.to_string())?;
    Ok(hash.to_string())
}

/// Whether a password is the one behind a stored hash.
fn is_behind(password: &Password, phc: &str) -> bool {
    // The parameters are the hash's own.
    Argon2::default()
        .verify_password(password.expose().as_bytes(), phc)
        .is_ok()
}

fn argon2() -> Result<Argon2<'static>, String> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| error.to_string())?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// The server's hashing.
#[derive(Debug)]
pub(crate) struct Passwords {
    permits: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

/// Gives back a place in the line.
struct InLine(Arc<AtomicUsize>);

impl Drop for InLine {
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

    /// Whether a password is the one behind a stored hash. Without one it takes as long and is not.
    ///
    /// # Errors
    ///
    /// RESOURCE_EXHAUSTED with a hint when too many wait already.
    pub(crate) async fn verify(
        &self,
        password: Password,
        phc: Option<String>,
    ) -> Result<bool, RpcError> {
        self.run(move || {
            let verified = is_behind(&password, phc.as_deref().unwrap_or(NOBODYS));
            verified && phc.is_some()
        })
        .await
    }

    /// Hashes a password for storing.
    ///
    /// # Errors
    ///
    /// As [`verify`](Self::verify); INTERNAL when there is no memory.
    pub(crate) async fn hash(
        &self,
        password: Password,
        salt: [u8; 16],
    ) -> Result<String, RpcError> {
        self.run(move || hash_password(&password, &salt))
            .await?
            .map_err(|error| {
                tracing::error!(error, "a password could not be hashed");
                RpcError::internal("the password could not be stored")
            })
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RpcError> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let in_line = InLine(self.waiting.clone());
        if before >= WAITING {
            let wait = std::time::Duration::from_secs(2);
            return Err(RpcError::resource_exhausted(
                "too many sign-ins at a time: try again in a few seconds",
            )
            .with_retry_after(wait));
        }
        let internal = || RpcError::internal("internal error");
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| internal())?;
        // Both are held until the work is done, even when its caller has gone.
        let work = move || {
            let (_in_line, _permit) = (in_line, permit);
            work()
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| internal())
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn password(text: &str) -> Password {
        Password::presented(Zeroizing::new(text.to_owned())).expect("is short")
    }

    #[test]
    fn a_hash_names_its_parameters_and_is_of_one_password() {
        let phc = hash_password(&password("correct horse"), &[7; 16]).expect("hashes");
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
        assert!(is_behind(&password("correct horse"), &phc));
        assert!(!is_behind(&password("correct horsf"), &phc));
        assert_ne!(
            phc,
            hash_password(&password("correct horse"), &[8; 16]).expect("hashes")
        );
        assert!(!is_behind(&password("correct horse"), "nonsense"));
    }

    #[tokio::test]
    async fn what_is_verified_for_nobody_costs_the_same_work_and_never_holds() {
        let passwords = Passwords::new();
        let phc = passwords
            .hash(password("correct horse"), [7; 16])
            .await
            .expect("hashes");
        // Algorithm, version and costs stand before the salt; salts and hashes are equally long.
        let work = |phc: &str| {
            phc.split('$')
                .take(4)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(work(&phc), work(NOBODYS));
        let lengths = |phc: &str| phc.split('$').skip(4).map(str::len).collect::<Vec<_>>();
        assert_eq!(lengths(&phc), lengths(NOBODYS));
        for phc in [Some(phc), None] {
            let verified = passwords.verify(password("wrong horse"), phc).await;
            assert_eq!(verified.ok(), Some(false));
        }
    }

    #[tokio::test]
    async fn a_flood_is_told_to_come_back_and_the_line_empties() {
        let passwords = Arc::new(Passwords::new());
        let many = (0..WAITING + 8).map(|_| {
            let passwords = passwords.clone();
            tokio::spawn(async move { passwords.run(|| ()).await })
        });
        let gate = passwords
            .permits
            .clone()
            .acquire_many_owned(AT_ONCE as u32)
            .await;
        let many: Vec<_> = many.collect();
        tokio::task::yield_now().await;
        while passwords.waiting.load(Ordering::Relaxed) > WAITING {
            tokio::task::yield_now().await;
        }
        drop(gate);
        let mut refused = 0;
        for one in many {
            if let Err(error) = one.await.expect("ends") {
                assert!(error.retry_after().is_some(), "{error}");
                refused += 1;
            }
        }
        assert_eq!((refused, passwords.waiting.load(Ordering::Relaxed)), (8, 0));
    }
}
