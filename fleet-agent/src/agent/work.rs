//! The running command: name lookups first, then the scan or pairing, each in its own task. Start with [`Work`].

use std::{future::pending, sync::Arc};

use fleet_core::Port;
use fleet_discovery::Gaps;
use fleet_registry::{link::WireCommandId, spool::SpoolMisuse};
use fleet_scan::{
    DriverSet, Interruption, PinnedName, Resolver, Scan, ScanEvent, ScanJob, ScanOptions,
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

/// Most results queued between pairing and spool.
const SINK: usize = 64;

/// The command that holds the node's permit, from its start until its reports are settled.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) command: WireCommandId,
    stage: Option<Stage>,
    /// The ports of a scan.
    pub(super) ports: Vec<Port>,
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
    Pinning(Box<Pinning>),
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
    /// The scan has ended; `None` if it crashed.
    Over(Option<ScanSummary>),
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
        let (site_notes, ports) = (task.notes.clone(), task.ports.clone());
        if task.names().is_empty() {
            let mut work = Self {
                site_notes,
                ports,
                ..Self::ended(command, None)
            };
            work.start_scan(scanner, task.job(&[]));
            return work;
        }
        let cancel = CancellationToken::new();
        let (lookup, token, resolver) = (task.clone(), cancel.clone(), Arc::clone(resolver));
        // In a task, because a resolver that panics must end only this command.
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
            stage: Some(Stage::Pinning(Box::new(pinning))),
            site_notes,
            ports,
            ..Self::ended(command, None)
        }
    }

    fn start_scan(&mut self, scanner: &Scanner, job: ScanJob) {
        match scanner.scan(job) {
            Ok(scan) => self.stage = Some(Stage::Scanning(scan)),
            Err(error) => self.ending = Some(Ending::Failed(error.to_string())),
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
            ports: Vec::new(),
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
        match &self.stage {
            Some(Stage::Pinning(pinning)) => pinning.cancel.cancel(),
            // Not dropped, because what it has found still arrives, and then its summary.
            Some(Stage::Scanning(scan)) => scan.cancel(),
            Some(Stage::Pairing(pairing)) => pairing.cancel.cancel(),
            None => return,
        }
        self.stopped.get_or_insert(why);
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
                self.start_scan(scanner, job);
            }
            Ok(None) => {
                self.ending = Some(Ending::Ran(ScanSummary {
                    outcomes: Vec::new(),
                    gaps: Gaps::default(),
                    found: 0,
                    notes: Vec::new(),
                    interrupted: Some(Interruption::Canceled),
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
    pub(super) fn end(&mut self, summary: Option<ScanSummary>) {
        self.stage = None;
        self.ending = Some(match summary {
            Some(mut summary) => {
                // First, because the ack has room for 64 notes only.
                summary.notes.splice(0..0, self.site_notes.drain(..));
                Ending::Ran(summary)
            }
            None => {
                tracing::error!(command = %self.command, "a scan crashed");
                Ending::Failed("the scan crashed; see the node's log".to_owned())
            }
        });
    }
}

/// Waits for the next event of `work`; forever if nothing is running. Cancel-safe.
pub(super) async fn next(work: &mut Option<Work>) -> Step {
    match work.as_mut().and_then(|work| work.stage.as_mut()) {
        None => pending().await,
        // By reference, because the main loop drops this future whenever another event comes first.
        Some(Stage::Pinning(pinning)) => Step::Pinned((&mut pinning.lookups).await),
        Some(Stage::Scanning(scan)) => match scan.next().await {
            Some(ScanEvent::Ended(summary)) => Step::Over(Some(summary)),
            Some(event) => Step::Event(event),
            None => Step::Over(None),
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

    use fleet_scan::{DriverSet, Guard, ScanOptions};

    use super::*;

    #[tokio::test]
    async fn a_scan_that_crashes_fails_alone() {
        let scanner = Scanner::new(ScanOptions::default(), Arc::new(DriverSet::built_in()));
        let job = ScanJob {
            guard: Guard::new(|_| panic!("on purpose")),
            ..ScanJob::new(vec![[192, 0, 2, 7].into()])
        };
        let id = WireCommandId::new("c").expect("an id");
        let mut started = Work::ended(id, None);
        started.start_scan(&scanner, job);
        let mut work = Some(started);
        let summary = loop {
            if let Step::Over(summary) = next(&mut work).await {
                break summary;
            }
        };
        let mut work = work.expect("is still there");
        work.end(summary);
        assert!(matches!(work.ending, Some(Ending::Failed(reason)) if reason.contains("crashed")));
    }
}
