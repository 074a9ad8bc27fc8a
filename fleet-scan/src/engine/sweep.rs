//! Reachability: tries every endpoint of a plan and hands on what answered. Knows nothing of drivers.
//!
//! This is a seam: whatever sends one [`Swept::Reached`] an endpoint, with the open connection where there is one,
//! and keeps to the [`Schedule`](super::schedule::Schedule), can take its place.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet_core::{Endpoint, Port};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::schedule::{Attempt, Next, Schedule};
use crate::dial::{Dialled, Dialler};

/// Rest before this machine's own shortage is tested again.
const REST: Duration = Duration::from_millis(100);

/// Attempts of one endpoint that may fail for this machine's own shortage: 5 s in all.
const SHORTAGES: u32 = 50;

/// Hosts reported unreachable in a row, without an answer in between, that are a reason to slow down.
const UNREACHABLE_IN_A_ROW: u32 = 64;

/// What is told while sweeping.
#[derive(Debug)]
pub(super) enum Swept {
    /// One endpoint is settled; exactly one of these an endpoint.
    Reached { host: u32, port: u8, reach: Reach },
    /// Something an operator should know: kind and example.
    Note(&'static str, String),
}

/// What became of an endpoint.
#[derive(Debug)]
pub(super) enum Reach {
    /// It answered; the lease counts the connection against host and scanner until it is dropped.
    Open(TcpStream, Lease),
    Refused,
    Silent,
    /// This machine could not try it.
    NotReached,
    /// The guard forbids it, with the reason.
    Forbidden(String),
}

/// Everything a sweep needs.
#[derive(Debug, Clone)]
pub(super) struct Sweep {
    pub(super) hosts: Arc<[std::net::IpAddr]>,
    pub(super) ports: Arc<[Port]>,
    pub(super) tries: u8,
    pub(super) dialler: Arc<Dialler>,
    pub(super) room: Arc<Semaphore>,
    pub(super) out: mpsc::Sender<Swept>,
}

/// A connection's place among those allowed to its host and to the scanner.
#[derive(Debug)]
pub(super) struct Lease {
    shared: Arc<Shared>,
    host: u32,
    _room: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Shared {
    schedule: Mutex<Schedule>,
    changed: Notify,
    unreachable: Mutex<u32>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.change(|schedule| schedule.release(self.host));
    }
}

impl Shared {
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Schedule)) {
        change(&mut self.schedule());
        self.changed.notify_one();
    }
}

impl Sweep {
    /// Tries everything, then ends. Dropping it drops every connection that was not handed on.
    pub(super) async fn run(self) {
        let shared = Arc::new(Shared {
            schedule: Mutex::new(Schedule::new(
                self.hosts.len() as u32,
                self.ports.len() as u8,
            )),
            changed: Notify::new(),
            unreachable: Mutex::new(0),
        });
        let mut attempts = JoinSet::new();
        loop {
            while attempts.try_join_next().is_some() {}
            let Ok(room) = Arc::clone(&self.room).acquire_owned().await else {
                return;
            };
            let next = shared.schedule().next();
            match next {
                Next::Dial(attempt) => {
                    let lease = Lease {
                        shared: Arc::clone(&shared),
                        host: attempt.host,
                        _room: room,
                    };
                    // Here and not in the attempt, so that identification never queues behind the whole sweep.
                    self.dialler.turn().await;
                    attempts.spawn(self.clone().attempt(attempt, lease));
                }
                Next::Wait => {
                    drop(room);
                    shared.changed.notified().await;
                }
                Next::Done => break,
            }
        }
        while attempts.join_next().await.is_some() {}
    }

    async fn attempt(self, attempt: Attempt, lease: Lease) {
        let (Some(ip), Some(port)) = (
            self.hosts.get(attempt.host as usize),
            self.ports.get(usize::from(attempt.port)),
        ) else {
            return;
        };
        let endpoint = Endpoint {
            ip: *ip,
            port: *port,
        };
        let mut dialled = self.dialler.knock(endpoint).await;
        for _ in 0..SHORTAGES {
            let Dialled::Starved(error) = &dialled else {
                break;
            };
            self.slow_down("this machine ran short of connections", &error.to_string())
                .await;
            sleep(REST).await;
            self.dialler.turn().await;
            dialled = self.dialler.knock(endpoint).await;
        }
        tracing::trace!(%endpoint, ?dialled, "tried");
        let shared = Arc::clone(&lease.shared);
        if matches!(dialled, Dialled::Open(_) | Dialled::Refused) {
            *shared
                .unreachable
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = 0;
        }
        let reach = match dialled {
            Dialled::Open(stream) => Reach::Open(stream, lease),
            Dialled::Refused => Reach::Refused,
            Dialled::TimedOut if attempt.tries + 1 < self.tries => {
                shared.change(|schedule| schedule.retry(attempt));
                return;
            }
            Dialled::TimedOut => Reach::Silent,
            Dialled::Unreachable => {
                if shared.one_more_unreachable() {
                    self.slow_down(
                        "many hosts in a row were reported unreachable",
                        &endpoint.to_string(),
                    )
                    .await;
                }
                Reach::Silent
            }
            Dialled::Starved(error) => {
                self.note(
                    "some targets could not be tried for lack of connections",
                    error.to_string(),
                )
                .await;
                Reach::NotReached
            }
            Dialled::NoWay(error) => {
                self.note(
                    "some targets could not be tried",
                    format!("{endpoint}: {error}"),
                )
                .await;
                Reach::NotReached
            }
            Dialled::Forbidden(reason) => Reach::Forbidden(reason),
        };
        shared.change(Schedule::settle);
        let _ = self
            .out
            .send(Swept::Reached {
                host: attempt.host,
                port: attempt.port,
                reach,
            })
            .await;
    }

    async fn slow_down(&self, why: &'static str, example: &str) {
        if let Some(rate) = self.dialler.slow_down() {
            self.note(
                "slowed down",
                format!("{why}, now {rate} probes/s ({example})"),
            )
            .await;
        }
    }

    async fn note(&self, kind: &'static str, example: String) {
        let _ = self.out.send(Swept::Note(kind, example)).await;
    }
}

impl Shared {
    fn one_more_unreachable(&self) -> bool {
        let mut count = self
            .unreachable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        let many = *count >= UNREACHABLE_IN_A_ROW;
        if many {
            *count = 0;
        }
        many
    }
}
