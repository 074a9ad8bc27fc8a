//! The scanner: [`Scanner::scan`] checks a job, starts it and returns its events as a stream.
//!
//! `engine/run.rs` runs a scan: it feeds the events of the sweep to the drivers. The sweep (`engine/sweep.rs`) finds
//! out which endpoints answer, with `engine/schedule.rs` and `engine/sockets.rs`. `engine/host.rs` holds the state of an
//! address, `engine/onlink.rs` asks for neighbors. All modules except the sweep, its sockets, `engine/identify.rs` and
//! the edges of `onlink` are pure.

mod host;
mod identify;
mod naming;
mod onlink;
mod order;
mod outbox;
#[cfg(test)]
mod pace;
mod run;
mod schedule;
mod sockets;
mod sweep;
mod targets;
mod unannounced;
mod unidentified;
mod walk;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use fleet_core::{Port, limits::SCAN_PORTS};
use futures::Stream;
pub(crate) use onlink::neighbor;
pub use onlink::{can_send_arp, interfaces};
use run::Run;
pub(crate) use schedule::RETRANSMISSION;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    driver::DriverSet,
    job::{ScanError, ScanEvent, ScanJob, ScanOptions},
};

/// The limit of events that wait for the consumer.
const EVENTS: usize = 64;

/// Runs scans with one set of drivers and one set of options. The rate applies to each scan: divide it before running
/// several at a time. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Scanner {
    options: ScanOptions,
    drivers: Arc<DriverSet>,
}

impl Scanner {
    /// Creates a scanner that uses these drivers.
    pub fn new(options: ScanOptions, drivers: Arc<DriverSet>) -> Self {
        Self { options, drivers }
    }

    /// The drivers of this scanner.
    pub fn drivers(&self) -> &DriverSet {
        &self.drivers
    }

    /// Starts a scan on the current tokio runtime and returns its events.
    ///
    /// Found devices wait until they are taken, so an idle consumer pauses the scan.
    ///
    /// # Errors
    /// [`ScanError`] when the job cannot start; no packet was sent.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn scan(&self, job: ScanJob) -> Result<Scan, ScanError> {
        let requested = !job.ports.is_empty() && !job.ports_are_defaults;
        let ports = if job.ports.is_empty() {
            self.drivers.default_ports()
        } else {
            distinct(&job.ports)
        };
        if ports.is_empty() {
            return Err(ScanError::NoPorts);
        }
        if ports.len() > SCAN_PORTS {
            return Err(ScanError::TooManyPorts(ports.len()));
        }
        let (sink, events) = mpsc::channel(EVENTS);
        let cancel = CancellationToken::new();
        let run = Run::start(self, job, ports, requested, sink, cancel.clone())
            .map_err(|error| ScanError::Poller(error.kind()))?;
        Ok(Scan {
            events,
            cancel,
            task: tokio::spawn(run),
        })
    }
}

/// A running scan: a stream of events that ends after [`ScanEvent::Ended`]. If the stream ends without that event, the
/// scanner panicked.
///
/// Dropping it stops the scan: no connection is opened from then on, and open ones are closed. Use
/// [`cancel`](Self::cancel) to stop and still receive the devices found so far and the summary.
#[derive(Debug)]
pub struct Scan {
    events: mpsc::Receiver<ScanEvent>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Scan {
    /// Returns the next event, or none after the last one. Cancel-safe.
    pub async fn next(&mut self) -> Option<ScanEvent> {
        self.events.recv().await
    }

    /// Stops the scan. The stream continues with what was found and ends with the summary. Idempotent.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }
}

impl Stream for Scan {
    type Item = ScanEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<ScanEvent>> {
        self.events.poll_recv(context)
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        // The task owns the sweep, so this also stops the sweep's thread.
        self.task.abort();
    }
}

fn distinct(ports: &[Port]) -> Vec<Port> {
    let mut distinct = Vec::with_capacity(ports.len());
    for port in ports {
        if !distinct.contains(port) {
            distinct.push(*port);
        }
    }
    distinct
}
