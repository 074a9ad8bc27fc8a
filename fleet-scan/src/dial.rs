//! Opens connections: the only place that does. Guard, pace and timeout apply to each, whoever asks for it.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet_core::Endpoint;
use rustix::io::Errno;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::guard::Guard;
use crate::job::ScanOptions;
use crate::pace::Pace;
use crate::timing::RoundTrips;

/// What one connection attempt came to.
#[derive(Debug)]
pub(crate) enum Dialled {
    Open(TcpStream),
    /// The host answered with a reset.
    Refused,
    /// A router or the host's own network says that it is not there.
    Unreachable,
    /// Nothing answered.
    TimedOut,
    /// This machine is out of descriptors, ports or memory.
    Starved(io::Error),
    /// This machine cannot send there at all: no route, or its firewall forbids it.
    NoWay(io::Error),
    /// The guard forbids the endpoint.
    Forbidden(String),
}

#[derive(Debug)]
pub(crate) struct Dialler {
    guard: Guard,
    pace: Pace,
    trips: Mutex<RoundTrips>,
    ceiling: Duration,
}

impl Dialler {
    pub(crate) fn new(options: &ScanOptions, guard: Guard) -> Self {
        Self {
            guard,
            pace: Pace::new(options.rate),
            trips: Mutex::new(RoundTrips::new(
                options.timeout_floor,
                options.timeout_ceiling,
            )),
            ceiling: options.timeout_ceiling,
        }
    }

    /// Waits for leave to knock once.
    pub(crate) async fn turn(&self) {
        self.pace.take().await;
    }

    /// Tries an endpoint of which nothing is known, with the timeout learned so far, and learns from the answer.
    /// [`Dialler::turn`] comes first.
    pub(crate) async fn knock(&self, endpoint: Endpoint) -> Dialled {
        let wait = self.trips().timeout();
        let (dialled, round_trip) = self.dial(endpoint, wait).await;
        if matches!(dialled, Dialled::Open(_) | Dialled::Refused) {
            self.trips().answered(round_trip);
        }
        dialled
    }

    /// Connects again to an endpoint that is known to listen, when its turn has come.
    pub(crate) async fn reconnect(&self, endpoint: Endpoint) -> Dialled {
        self.turn().await;
        self.dial(endpoint, self.ceiling).await.0
    }

    /// Goes at half the pace for a while. The new rate, if this changed it.
    pub(crate) fn slow_down(&self) -> Option<u32> {
        self.pace.slow_down()
    }

    async fn dial(&self, endpoint: Endpoint, wait: Duration) -> (Dialled, Duration) {
        if let Err(reason) = self.guard.check(endpoint) {
            return (Dialled::Forbidden(reason), Duration::ZERO);
        }
        let start = Instant::now();
        let connecting = TcpStream::connect(SocketAddr::new(endpoint.ip, endpoint.port.number()));
        let dialled = match timeout(wait, connecting).await {
            Ok(Ok(stream)) => Dialled::Open(stream),
            Ok(Err(error)) => failure(error),
            Err(_) => Dialled::TimedOut,
        };
        (dialled, start.elapsed())
    }

    fn trips(&self) -> MutexGuard<'_, RoundTrips> {
        self.trips.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failure(error: io::Error) -> Dialled {
    match Errno::from_io_error(&error) {
        Some(Errno::CONNREFUSED | Errno::CONNRESET | Errno::CONNABORTED) => Dialled::Refused,
        Some(Errno::HOSTUNREACH | Errno::HOSTDOWN) => Dialled::Unreachable,
        Some(Errno::TIMEDOUT) => Dialled::TimedOut,
        Some(
            Errno::MFILE
            | Errno::NFILE
            | Errno::NOBUFS
            | Errno::NOMEM
            | Errno::AGAIN
            | Errno::ADDRNOTAVAIL,
        ) => Dialled::Starved(error),
        _ => Dialled::NoWay(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_host_of_the_network_and_of_this_machine_are_told_apart() {
        let of = |errno: Errno| failure(io::Error::from(errno));
        assert!(matches!(of(Errno::CONNREFUSED), Dialled::Refused));
        assert!(matches!(of(Errno::HOSTUNREACH), Dialled::Unreachable));
        assert!(matches!(of(Errno::TIMEDOUT), Dialled::TimedOut));
        assert!(matches!(of(Errno::MFILE), Dialled::Starved(_)));
        assert!(matches!(of(Errno::NETUNREACH), Dialled::NoWay(_)));
        assert!(matches!(of(Errno::PERM), Dialled::NoWay(_)));
    }
}
