//! The running command: name lookups first, then the scan or pairing, each in its own task. Start with [`Work`].

use std::{future::pending, sync::Arc};

use fleet_registry::{link::WireCommandId, spool::SpoolMisuse};
use fleet_scan::{
    DriverSet, Interruption, PinnedName, Resolver, ScanError, ScanEvent, ScanJob, ScanOptions,
    ScanProgress, ScanSummary, Scanner,
};
use fleet_wire::gateway::FleetNodePairResult;
use tokio::{sync::mpsc, task::JoinError, time::Instant};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    ack::{Ending, StopCause},
    pairing::{self, PairJob, PairSummary},
    scan_task::ScanTask,
};

/// Most devices queued between scan and spool.
const SINK: usize = 64;

/// The command that holds the node's permit, from its start until its reports are settled.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) command: WireCommandId,
    stage: Option<Stage>,
    /// The addresses of its names, known before anything is dialed.
    pub(super) pins: Vec<PinnedName>,
    /// How it ended; set when the scan or pairing is over.
    pub(super) ending: Option<Ending>,
    pub(super) stopped: Option<StopCause>,
    /// What the site policy removed from the scan.
    site_notes: Vec<String>,
    /// Devices that could not be reported.
    pub(super) unreportable: u64,
    /// When progress was last sent.
    pub(super) progress_sent_at: Option<Instant>,
    pub(super) progress: Option<ScanProgress>,
}

#[derive(Debug)]
enum Stage {
    Pinning(Pinning),
    Scanning(Scan),
    Pairing(Pairing),
}

/// Name lookups in progress. Dropping this aborts them.
#[derive(Debug)]
struct Pinning {
    task: ScanTask,
    lookups: AbortOnDropHandle<Option<Vec<PinnedName>>>,
    began: Instant,
    cancel: CancellationToken,
}

/// A running scan. Dropping this aborts it.
#[derive(Debug)]
struct Scan {
    events: mpsc::Receiver<ScanEvent>,
    task: AbortOnDropHandle<Result<ScanSummary, ScanError>>,
    cancel: CancellationToken,
}

/// A running pairing. Dropping this aborts it.
#[derive(Debug)]
struct Pairing {
    results: mpsc::Receiver<FleetNodePairResult>,
    task: AbortOnDropHandle<PairSummary>,
    cancel: CancellationToken,
}

/// An event of the running command.
#[derive(Debug)]
pub(super) enum Step {
    /// The lookups have ended; `None` if they were canceled.
    Pinned(Result<Option<Vec<PinnedName>>, JoinError>),
    Event(ScanEvent),
    Over(Result<Result<ScanSummary, ScanError>, JoinError>),
    Paired(FleetNodePairResult),
    PairingOver(Result<PairSummary, JoinError>),
}

impl Work {
    /// Starts a scan command: its name lookups if there are names, else its scan.
    pub(super) fn begin(
        command: WireCommandId,
        task: ScanTask,
        scanner: &Scanner,
        resolver: &Arc<dyn Resolver>,
    ) -> Self {
        let site_notes = task.notes.clone();
        if task.names().is_empty() {
            return Self {
                site_notes,
                ..Self::scanning(command, scanner, task.job(&[]))
            };
        }
        let cancel = CancellationToken::new();
        let (lookup, token, resolver) = (task.clone(), cancel.clone(), Arc::clone(resolver));
        let lookups = tokio::spawn(async move {
            let pins = lookup.pin(&*resolver);
            token.run_until_cancelled(pins).await
        });
        let pinning = Pinning {
            task,
            lookups: AbortOnDropHandle::new(lookups),
            began: Instant::now(),
            cancel,
        };
        Self {
            stage: Some(Stage::Pinning(pinning)),
            site_notes,
            ..Self::ended(command, None)
        }
    }

    fn scanning(command: WireCommandId, scanner: &Scanner, job: ScanJob) -> Self {
        Self {
            stage: Some(Stage::Scanning(Scan::begin(scanner, job))),
            ..Self::ended(command, None)
        }
    }

    /// Starts a pairing command. Working credentials are sealed to `key`.
    pub(super) fn pairing(
        command: WireCommandId,
        options: ScanOptions,
        drivers: Arc<DriverSet>,
        key: [u8; 32],
        job: PairJob,
    ) -> Self {
        let (sink, results) = mpsc::channel(SINK);
        let cancel = CancellationToken::new();
        let token = cancel.clone();
        let task = tokio::spawn(pairing::run(job, options, drivers, key, sink, token));
        Self {
            stage: Some(Stage::Pairing(Pairing {
                results,
                task: AbortOnDropHandle::new(task),
                cancel,
            })),
            ..Self::ended(command, None)
        }
    }

    /// Creates a command without a running task.
    pub(super) fn ended(command: WireCommandId, ending: Option<Ending>) -> Self {
        Self {
            command,
            stage: None,
            pins: Vec::new(),
            ending,
            stopped: None,
            site_notes: Vec::new(),
            unreportable: 0,
            progress_sent_at: None,
            progress: None,
        }
    }

    /// Whether a lookup, scan or pairing is running.
    pub(super) fn is_active(&self) -> bool {
        self.stage.is_some()
    }

    /// Stops the command. The first cause is kept.
    pub(super) fn stop(&mut self, why: StopCause) {
        let cancel = match &self.stage {
            Some(Stage::Pinning(pinning)) => &pinning.cancel,
            Some(Stage::Scanning(scan)) => &scan.cancel,
            Some(Stage::Pairing(pairing)) => &pairing.cancel,
            None => return,
        };
        self.stopped.get_or_insert(why);
        cancel.cancel();
    }

    /// Starts the scan after the lookups, with the rest of the command's time.
    pub(super) fn pinned(
        &mut self,
        result: Result<Option<Vec<PinnedName>>, JoinError>,
        scanner: &Scanner,
    ) {
        let Some(Stage::Pinning(pinning)) = self.stage.take() else {
            return;
        };
        match result {
            Ok(Some(pins)) => {
                let mut task = pinning.task;
                task.budget = task.budget.saturating_sub(pinning.began.elapsed());
                self.pins = pins;
                let job = task.job(&self.pins);
                self.stage = Some(Stage::Scanning(Scan::begin(scanner, job)));
            }
            Ok(None) => {
                self.ending = Some(Ending::Ran(ScanSummary {
                    outcomes: Vec::new(),
                    found: 0,
                    notes: Vec::new(),
                    interrupted: Some(Interruption::Canceled),
                    driver_crashes: 0,
                }));
            }
            Err(error) => {
                tracing::error!(%error, command = %self.command, "the name lookups crashed");
                self.ending = Some(Ending::Failed(
                    "the name lookups crashed; see the node's log".to_owned(),
                ));
            }
        }
    }

    /// Counts a device or result that could not be put into the spool, and logs the reason.
    pub(super) fn count_pushed(&mut self, pushed: Result<Result<(), SpoolMisuse>, String>) {
        let reason = match pushed {
            Ok(Ok(())) => return,
            Ok(Err(misuse)) => misuse.to_string(),
            Err(reason) => reason,
        };
        tracing::warn!(command = %self.command, reason, "a result cannot be reported");
        self.unreportable += 1;
    }

    /// Records the end of the pairing.
    pub(super) fn end_pairing(&mut self, result: Result<PairSummary, JoinError>) {
        self.stage = None;
        self.ending = Some(match result {
            Ok(summary) => Ending::Paired(summary),
            Err(error) => {
                tracing::error!(%error, command = %self.command, "a pairing crashed");
                Ending::Failed("the pairing crashed; see the node's log".to_owned())
            }
        });
    }

    /// Records the end of the scan.
    pub(super) fn end(&mut self, result: Result<Result<ScanSummary, ScanError>, JoinError>) {
        self.stage = None;
        self.ending = Some(match result {
            Ok(Ok(mut summary)) => {
                summary.notes.splice(0..0, self.site_notes.drain(..));
                Ending::Ran(summary)
            }
            Ok(Err(error)) => Ending::Failed(error.to_string()),
            Err(error) => {
                tracing::error!(%error, command = %self.command, "a scan crashed");
                Ending::Failed("the scan crashed; see the node's log".to_owned())
            }
        });
    }
}

impl Scan {
    fn begin(scanner: &Scanner, job: ScanJob) -> Self {
        let (sink, events) = mpsc::channel(SINK);
        let cancel = CancellationToken::new();
        let (scanner, token) = (scanner.clone(), cancel.clone());
        let task = tokio::spawn(async move { scanner.run(job, sink, token).await });
        Self {
            events,
            task: AbortOnDropHandle::new(task),
            cancel,
        }
    }
}

/// Waits for the next event of `work`; forever if nothing is running. Cancel-safe.
pub(super) async fn next(work: &mut Option<Work>) -> Step {
    match work.as_mut().and_then(|work| work.stage.as_mut()) {
        None => pending().await,
        Some(Stage::Pinning(pinning)) => Step::Pinned((&mut pinning.lookups).await),
        Some(Stage::Scanning(scan)) => match scan.events.recv().await {
            Some(event) => Step::Event(event),
            // The scan has dropped its sender: it returns now, or has crashed.
            None => Step::Over((&mut scan.task).await),
        },
        Some(Stage::Pairing(pairing)) => match pairing.results.recv().await {
            Some(result) => Step::Paired(result),
            None => Step::PairingOver((&mut pairing.task).await),
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
