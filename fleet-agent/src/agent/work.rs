//! The command that is carried out: its scan in a task of its own, and what is known of it. Start with [`Work`].

use std::future::pending;

use fleet_registry::link::WireCommandId;
use fleet_scan::{Progress, ScanError, ScanEvent, ScanJob, ScanSummary, Scanner};
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinHandle},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::ack::{Ending, Stopped};

/// Devices that may wait between scan and spool.
const SINK: usize = 64;

/// The command that holds the lane, from its start until its reports are settled.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) command: WireCommandId,
    scan: Option<Scan>,
    /// Known once the scan is over.
    pub(super) ending: Option<Ending>,
    pub(super) stopped: Option<Stopped>,
    /// Devices that no report can hold.
    pub(super) lost: u64,
    /// When progress was last told, and what it was.
    pub(super) told: Option<Instant>,
    pub(super) progress: Option<Progress>,
}

/// A scan that runs. Dropping it stops it at once.
#[derive(Debug)]
struct Scan {
    events: mpsc::Receiver<ScanEvent>,
    task: JoinHandle<Result<ScanSummary, ScanError>>,
    cancel: CancellationToken,
}

/// What a scan says.
#[derive(Debug)]
pub(super) enum Step {
    Event(ScanEvent),
    Over(Result<Result<ScanSummary, ScanError>, JoinError>),
}

impl Work {
    /// Begins a scan.
    pub(super) fn scanning(command: WireCommandId, scanner: &Scanner, job: ScanJob) -> Self {
        let (sink, events) = mpsc::channel(SINK);
        let cancel = CancellationToken::new();
        let (scanner, token) = (scanner.clone(), cancel.clone());
        let task = tokio::spawn(async move { scanner.run(job, sink, token).await });
        Self {
            scan: Some(Scan {
                events,
                task,
                cancel,
            }),
            ..Self::ended(command, None)
        }
    }

    /// Work that is over before it began.
    pub(super) fn ended(command: WireCommandId, ending: Option<Ending>) -> Self {
        Self {
            command,
            scan: None,
            ending,
            stopped: None,
            lost: 0,
            told: None,
            progress: None,
        }
    }

    /// Whether the scan still runs.
    pub(super) fn is_scanning(&self) -> bool {
        self.scan.is_some()
    }

    /// Tells the scan to stop; the first reason counts.
    pub(super) fn stop(&mut self, why: Stopped) {
        if let Some(scan) = &self.scan {
            self.stopped.get_or_insert(why);
            scan.cancel.cancel();
        }
    }

    /// The scan is over.
    pub(super) fn end(&mut self, result: Result<Result<ScanSummary, ScanError>, JoinError>) {
        self.scan = None;
        self.ending = Some(match result {
            Ok(Ok(summary)) => Ending::Ran(summary),
            Ok(Err(error)) => Ending::Failed(error.to_string()),
            Err(error) => {
                tracing::error!(%error, command = %self.command, "a scan crashed");
                Ending::Failed("the scan crashed; the node's log says where".to_owned())
            }
        });
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The next thing that the scan in `work` says; waits forever when there is none. Cancel-safe.
pub(super) async fn next(work: &mut Option<Work>) -> Step {
    match work.as_mut().and_then(|work| work.scan.as_mut()) {
        None => pending().await,
        Some(scan) => match scan.events.recv().await {
            Some(event) => Step::Event(event),
            // The scan has let go of its sink: it returns now, or has crashed.
            None => Step::Over((&mut scan.task).await),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fleet_scan::{Answer, BoxFuture, Driver, DriverError, DriverSet, Probe, ScanOptions};

    use super::*;

    /// A driver whose registration alone brings the scan down.
    #[derive(Debug)]
    struct Mine;

    impl Driver for Mine {
        fn name(&self) -> &str {
            "mine"
        }

        fn default_ports(&self) -> Vec<fleet_core::Port> {
            panic!("on purpose")
        }

        fn precedence(&self) -> u8 {
            1
        }

        fn identify<'a>(
            &'a self,
            _: &'a mut Probe<'_>,
        ) -> BoxFuture<'a, Result<Answer, DriverError>> {
            panic!("on purpose")
        }
    }

    #[tokio::test]
    async fn a_scan_that_crashes_fails_alone() {
        let Ok(drivers) = DriverSet::new(vec![Arc::new(Mine)]) else {
            panic!("a set of drivers");
        };
        let scanner = Scanner::new(ScanOptions::default(), Arc::new(drivers));
        let id = WireCommandId::new("c").expect("an id");
        let mut work = Some(Work::scanning(id, &scanner, ScanJob::new(Vec::new())));
        let Step::Over(result) = next(&mut work).await else {
            panic!("nothing can be found");
        };
        let mut work = work.expect("is still there");
        work.end(result);
        assert!(matches!(work.ending, Some(Ending::Failed(reason)) if reason.contains("crashed")));
    }
}
