//! What may be dialed and how fast, whoever asks; and connections to endpoints that are known to listen.
//!
//! First attempts are made by the sweep (`engine/sweep.rs`), after [`Dialler::check`] and [`Dialler::wait`].

use std::{io, net::SocketAddr, time::Duration};

use fleet_core::Endpoint;
use rustix::io::Errno;
use tokio::{net::TcpStream, sync::Semaphore, time::timeout};

use crate::{driver::DriverError, guard::Guard, job::ScanOptions, pace::Pace};

/// Bytes by which a reply grows. The first of each reply are free: nearly all replies are shorter.
pub(crate) const REPLY_BLOCK: usize = 4 * 1024;

/// Further blocks that the replies of one scan may hold at a time, 16 MiB: thousands of devices that talk garbage
/// without end wait for each other instead of filling the memory.
const REPLY_ROOM: usize = 4 * 1024;

/// What one connection attempt came to.
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
    /// The host answered with a reset.
    Refused,
    /// A router or the host's own network says that it is not there.
    Unreachable,
    /// The system itself gave up waiting.
    TimedOut,
    /// This machine is out of descriptors, ports or memory.
    Starved(io::Error),
    /// This machine cannot send there at all: no route, or its firewall forbids it.
    NoWay(io::Error),
}

#[derive(Debug)]
pub(crate) struct Dialler {
    guard: Guard,
    pace: Pace,
    longest_wait: Duration,
    room: Semaphore,
}

impl Dialler {
    pub(crate) fn new(options: &ScanOptions, guard: Guard) -> Self {
        Self::with_room(options, guard, REPLY_ROOM)
    }

    /// With room for so many further blocks of replies.
    pub(crate) fn with_room(options: &ScanOptions, guard: Guard, blocks: usize) -> Self {
        Self {
            guard,
            pace: Pace::new(options.rate),
            longest_wait: options.timeout_ceiling,
            room: Semaphore::new(blocks),
        }
    }

    /// Room for long replies, in blocks of [`REPLY_BLOCK`].
    pub(crate) fn room(&self) -> &Semaphore {
        &self.room
    }

    /// Whether an endpoint may be dialed.
    ///
    /// # Errors
    /// The reason why not.
    pub(crate) fn check(&self, endpoint: Endpoint) -> Result<(), String> {
        self.guard.check(endpoint)
    }

    /// How long until the sweep may make an attempt.
    pub(crate) fn wait(&self) -> Duration {
        self.pace.wait()
    }

    /// The sweep makes an attempt now.
    pub(crate) fn spend_turn(&self) {
        self.pace.spend();
    }

    /// Connects again to an endpoint that is known to listen, when its turn has come; turns of the sweep come after.
    pub(crate) async fn reconnect(&self, endpoint: Endpoint) -> Dialed {
        self.pace.take().await;
        if let Err(reason) = self.check(endpoint) {
            return Dialed::Forbidden(reason);
        }
        let connecting = TcpStream::connect(SocketAddr::new(endpoint.ip, endpoint.port.number()));
        match timeout(self.longest_wait, connecting).await {
            Ok(Ok(stream)) => Dialed::Open(stream),
            Ok(Err(error)) => Dialed::Failed(Failure::of(error)),
            Err(_) => Dialed::TimedOut,
        }
    }

    /// Connects as [`Dialler::reconnect`], for drivers.
    ///
    /// # Errors
    /// Why there is no connection, in the terms of drivers.
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
            Dialed::Failed(Failure::Starved(error) | Failure::NoWay(error)) => {
                Err(DriverError::Broken(error.kind()))
            }
            Dialed::Forbidden(reason) => Err(DriverError::Forbidden(reason)),
        }
    }

    /// Takes a turn for somebody who dials by himself.
    ///
    /// # Errors
    /// The reason why the endpoint must not be dialed.
    pub(crate) async fn lend_turn(&self, endpoint: Endpoint) -> Result<(), String> {
        self.pace.take().await;
        self.check(endpoint)
    }

    /// Goes at half the pace for a while. The new rate, if this changed it.
    pub(crate) fn slow_down(&self) -> Option<u32> {
        self.pace.slow_down()
    }
}

impl Failure {
    /// What the system's word means.
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
                | Errno::ADDRNOTAVAIL,
            ) => Self::Starved(error),
            _ => Self::NoWay(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_host_of_the_network_and_of_this_machine_are_told_apart() {
        let of = |errno: Errno| Failure::of(io::Error::from(errno));
        assert!(matches!(of(Errno::CONNREFUSED), Failure::Refused));
        assert!(matches!(of(Errno::HOSTUNREACH), Failure::Unreachable));
        assert!(matches!(of(Errno::TIMEDOUT), Failure::TimedOut));
        assert!(matches!(of(Errno::MFILE), Failure::Starved(_)));
        assert!(matches!(of(Errno::NETUNREACH), Failure::NoWay(_)));
        assert!(matches!(of(Errno::PERM), Failure::NoWay(_)));
    }
}
