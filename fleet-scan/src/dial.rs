//! Which endpoints may be dialed and how fast, for all parts of a scan; and reconnections to open endpoints.
//!
//! The sweep (`engine/sweep.rs`) makes the first attempts, after [`Dialer::check`] and [`Dialer::wait`].

use std::{io, net::SocketAddr, time::Duration};

use fleet_core::Endpoint;
use rustix::io::Errno;
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, timeout},
};

use crate::{
    driver::DriverError, engine::RETRANSMISSION, guard::Guard, job::ScanOptions, rate::RateLimiter,
};

/// Bytes by which a reply buffer grows. The first block of each reply is free; nearly all replies fit it.
pub(crate) const REPLY_BLOCK: usize = 4 * 1024;

/// Further blocks for all replies of a scan together, 16 MiB. Thousands of devices that send garbage without end then
/// wait for each other instead of filling the memory.
const REPLY_ROOM: usize = 4 * 1024;

/// When the kernel repeats a SYN.
const KERNEL_RETRANSMISSION: Duration = Duration::from_secs(1);

/// The result of a connection attempt.
#[derive(Debug)]
pub(crate) enum Dialed {
    Open(TcpStream),
    /// Nothing answered.
    TimedOut,
    Failed(Failure),
    /// The guard forbids the endpoint.
    Forbidden(String),
}

/// Why a connection failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The host sent a reset.
    Refused,
    /// A router, or the link of this machine, reports that the host does not exist.
    Unreachable,
    /// The system's own timeout expired.
    TimedOut,
    /// This machine is out of descriptors, ports or memory.
    Starved(io::Error),
    /// This machine cannot send there: it has no route, or its firewall forbids it.
    CannotSend(io::Error),
}

#[derive(Debug)]
pub(crate) struct Dialer {
    guard: Guard,
    rate: RateLimiter,
    longest_wait: Duration,
    room: Semaphore,
}

impl Dialer {
    pub(crate) fn new(options: &ScanOptions, guard: Guard) -> Self {
        Self::with_room(options, guard, REPLY_ROOM)
    }

    /// Creates a dialer with room for this many further blocks of replies.
    pub(crate) fn with_room(options: &ScanOptions, guard: Guard, blocks: usize) -> Self {
        Self {
            guard,
            rate: RateLimiter::new(options.rate),
            // A connection ends before the kernel repeats its SYN beyond the rate.
            longest_wait: options.timeout_ceiling.min(RETRANSMISSION),
            room: Semaphore::new(blocks),
        }
    }

    /// The room for long replies, in blocks of [`REPLY_BLOCK`].
    pub(crate) fn room(&self) -> &Semaphore {
        &self.room
    }

    /// Checks whether an endpoint may be dialed.
    ///
    /// # Errors
    /// The reason why it may not.
    pub(crate) fn check(&self, endpoint: Endpoint) -> Result<(), String> {
        self.guard.check(endpoint)
    }

    /// Returns how long until the sweep may make an attempt.
    pub(crate) fn wait(&self) -> Duration {
        self.rate.wait()
    }

    /// Uses a permit for an attempt of the sweep.
    pub(crate) fn spend_permit(&self) {
        self.rate.spend();
    }

    /// Connects to an endpoint that is known to listen, once there is a permit. It goes before attempts of the sweep.
    pub(crate) async fn reconnect(&self, endpoint: Endpoint) -> Dialed {
        self.rate.acquire().await;
        // After the wait, because a permit to dial can expire meanwhile.
        if let Err(reason) = self.check(endpoint) {
            return Dialed::Forbidden(reason);
        }
        let began = Instant::now();
        let connecting = TcpStream::connect(SocketAddr::new(endpoint.ip, endpoint.port.number()));
        match timeout(self.longest_wait, connecting).await {
            Ok(Ok(stream)) => Dialed::Open(stream),
            Ok(Err(error)) => Dialed::Failed(Failure::of(error)),
            Err(_) => {
                // If the timer fired late, the kernel has repeated the SYN.
                if began.elapsed() >= KERNEL_RETRANSMISSION {
                    self.rate.spend();
                }
                Dialed::TimedOut
            }
        }
    }

    /// Connects like [`Dialer::reconnect`], with errors for drivers.
    ///
    /// # Errors
    /// Why there is no connection.
    pub(crate) async fn open(&self, endpoint: Endpoint) -> Result<TcpStream, DriverError> {
        match self.reconnect(endpoint).await {
            Dialed::Open(stream) => Ok(stream),
            Dialed::TimedOut | Dialed::Failed(Failure::TimedOut) => Err(DriverError::Silence),
            Dialed::Failed(Failure::Refused) => {
                Err(DriverError::Broken(io::ErrorKind::ConnectionRefused))
            }
            Dialed::Failed(Failure::Unreachable) => {
                Err(DriverError::Broken(io::ErrorKind::HostUnreachable))
            }
            Dialed::Failed(Failure::Starved(error) | Failure::CannotSend(error)) => {
                Err(DriverError::Broken(error.kind()))
            }
            Dialed::Forbidden(reason) => Err(DriverError::Forbidden(reason)),
        }
    }

    /// Waits for a permit for a caller that dials by itself.
    ///
    /// # Errors
    /// The reason why the endpoint must not be dialed.
    pub(crate) async fn acquire(&self, endpoint: Endpoint) -> Result<(), String> {
        self.rate.acquire().await;
        self.check(endpoint)
    }

    /// Halves the rate for a while. Returns the new rate if it changed.
    pub(crate) fn slow_down(&self) -> Option<u32> {
        self.rate.slow_down()
    }
}

impl Failure {
    /// Classifies an error that came after the attempt had been sent: then the network reports it, not this machine.
    pub(crate) fn reported(error: io::Error) -> Self {
        let failure = Self::of(error);
        let by_network = match &failure {
            Self::CannotSend(error) => matches!(
                Errno::from_io_error(error),
                Some(Errno::NETUNREACH | Errno::NETDOWN | Errno::NONET | Errno::ACCESS)
            ),
            Self::Refused | Self::Unreachable | Self::TimedOut | Self::Starved(_) => false,
        };
        if by_network {
            Self::Unreachable
        } else {
            failure
        }
    }

    /// Classifies an error of the system.
    pub(crate) fn of(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::CONNREFUSED | Errno::CONNRESET | Errno::CONNABORTED) => Self::Refused,
            Some(Errno::HOSTUNREACH | Errno::HOSTDOWN) => Self::Unreachable,
            Some(Errno::TIMEDOUT) => Self::TimedOut,
            Some(
                Errno::MFILE
                | Errno::NFILE
                | Errno::NOBUFS
                | Errno::NOMEM
                | Errno::AGAIN
                // All local ports are in use (`connect(2)`).
                | Errno::ADDRNOTAVAIL,
            ) => Self::Starved(error),
            _ => Self::CannotSend(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_host_network_and_machine_are_distinguished() {
        let of = |errno: Errno| Failure::of(io::Error::from(errno));
        assert!(matches!(of(Errno::CONNREFUSED), Failure::Refused));
        assert!(matches!(of(Errno::HOSTUNREACH), Failure::Unreachable));
        assert!(matches!(of(Errno::TIMEDOUT), Failure::TimedOut));
        assert!(matches!(of(Errno::MFILE), Failure::Starved(_)));
        assert!(matches!(of(Errno::NETUNREACH), Failure::CannotSend(_)));
        assert!(matches!(of(Errno::PERM), Failure::CannotSend(_)));
        let reported = |errno: Errno| Failure::reported(io::Error::from(errno));
        assert!(matches!(reported(Errno::NETUNREACH), Failure::Unreachable));
        assert!(matches!(reported(Errno::PERM), Failure::CannotSend(_)));
    }
}
