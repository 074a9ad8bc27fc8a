//! [`Environment`]: clocks and randomness, so that tests can replace them.

use std::{fmt, time::Instant};

use fleet_core::{CommandId, PairingId, ScanId, ScheduleId, Secret, SecretKind, Timestamp};

/// Clocks and randomness.
pub trait Environment: Send + Sync + fmt::Debug {
    /// The wall clock.
    fn now(&self) -> Timestamp;

    /// The monotonic clock.
    fn instant(&self) -> Instant;

    /// Fills a buffer with random bytes that are fit for keys.
    fn fill(&self, bytes: &mut [u8]);
}

impl dyn Environment {
    /// Random bytes that are fit for keys.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// A new secret.
    pub fn secret(&self, kind: SecretKind) -> Secret {
        Secret::new(kind, &self.random())
    }

    /// A new scan id.
    pub fn scan_id(&self) -> ScanId {
        ScanId::new(self.now(), self.random())
    }

    /// A new schedule id.
    pub fn schedule_id(&self) -> ScheduleId {
        ScheduleId::new(self.now(), self.random())
    }

    /// A new pairing id.
    pub fn pairing_id(&self) -> PairingId {
        PairingId::new(self.now(), self.random())
    }

    /// A new command id.
    pub fn command_id(&self) -> CommandId {
        CommandId::new(self.now(), self.random())
    }
}

/// The machine's clocks and its kernel's randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEnvironment;

impl Environment for SystemEnvironment {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }

    /// # Panics
    ///
    /// When the kernel returns no randomness: the server must not continue without secrets.
    fn fill(&self, bytes: &mut [u8]) {
        #[expect(
            clippy::expect_used,
            reason = "a server without randomness must not hand out keys"
        )]
        getrandom::fill(bytes).expect("the kernel gives random bytes");
    }
}
