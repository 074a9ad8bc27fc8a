//! A scan of the server's own network, batch by batch: addresses are released, dialed, recorded, given
//! back. What is told is what a node's scan tells, but nothing of it is kept for later watchers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use fleet_core::{
    DeviceReport, NodeId, OrgId, ScanId, ScanState, TargetOutcome, limits,
    outcome::{Code, Conclusion},
};
use fleet_discovery::{DeviceFound, Ledger, LogEvent, ScanEnded, Tally};
use fleet_store::{
    Actor, AuditEntry, AuditResult, DeviceRow, NewSightings, Progress, ReleaseError, Released,
    Sighted, StoredEvent,
};
use fleet_wire::RpcError;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    DirectPath,
    dialing::Dialing,
    prober::{Leave, ProbeEvent, ProbeOrder, Prober},
    selection::Selection,
};
use crate::{app::App, convert::printable, failure::Refusal, watch::Item};

/// Events that may wait between prober and store.
const SINK: usize = 64;
/// Devices recorded at once.
const RECORDED: usize = 64;
/// How long a watcher may take none of what is found before it counts as gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts while another server dials for the same organization, and how many there are.
const BUSY: (Duration, u32) = (Duration::from_secs(1), 60);
/// Why an address of a node is left out, in the ledger.
const OF_NODE: &str = "a node has or had a device there";
/// Nodes that are named one by one.
const NODES_NAMED: usize = 16;

/// A scan that may begin.
pub(super) struct Admitted {
    pub(super) path: DirectPath,
    pub(super) org: OrgId,
    pub(super) actor: Actor,
    pub(super) scan: ScanId,
    pub(super) selection: Selection,
}

/// A scan that runs.
pub(super) struct Run {
    app: Arc<App>,
    dialing: Dialing,
    prober: Arc<dyn Prober>,
    actor: Actor,
    selection: Selection,
    out: mpsc::Sender<Result<Item, RpcError>>,
    cancel: CancellationToken,
    started: Instant,
    sequence: i64,
    ledger: Ledger,
    /// Addresses left out, by the node that has or had them.
    excluded: BTreeMap<NodeId, Tally>,
    /// Devices met that are a node's, by that node.
    foreign: BTreeMap<NodeId, Tally>,
}

/// Why a scan stopped before its end.
enum Stop {
    /// Whoever started it has left, or the server goes down.
    Left,
    /// It cannot go on.
    Failed(RpcError),
}

impl Run {
    pub(super) fn new(
        app: Arc<App>,
        admitted: Admitted,
        out: mpsc::Sender<Result<Item, RpcError>>,
        cancel: CancellationToken,
    ) -> Self {
        let Admitted {
            path,
            org,
            actor,
            scan,
            selection,
        } = admitted;
        let skipped: u64 = selection.skipped.iter().map(|tally| tally.count).sum();
        let ledger = Ledger {
            targets: selection.addresses.len() as u64 + skipped,
            skipped,
            skipped_reasons: selection.skipped.clone(),
            ..Ledger::default()
        };
        Self {
            started: app.environment.instant(),
            dialing: Dialing {
                app: app.clone(),
                networks: path.networks,
                org,
                run: scan,
            },
            prober: path.prober,
            app,
            actor,
            selection,
            out,
            cancel,
            sequence: 0,
            ledger,
            excluded: BTreeMap::new(),
            foreign: BTreeMap::new(),
        }
    }

    /// Runs to the end and tells it.
    pub(super) async fn run(mut self) {
        let worked = self.work().await;
        self.account().await;
        match worked {
            Ok(()) => {
                let ended = self.ended();
                tracing::info!(scan = %self.dialing.run, outcome = %ended.conclusion.state, accepted = self.ledger.accepted, "a scan of the server's own network ended");
                let _ = self.tell(LogEvent::Ended(ended)).await;
            }
            Err(Stop::Left) => {
                tracing::info!(scan = %self.dialing.run, "a scan of the server's own network was left");
                let gone = RpcError::unavailable(
                    "the server is going down: start the scan again when it is back",
                );
                let _ = self.out.try_send(Err(gone));
            }
            Err(Stop::Failed(error)) => {
                let _ = self.out.try_send(Err(error));
            }
        }
    }

    async fn work(&mut self) -> Result<(), Stop> {
        for text in std::mem::take(&mut self.selection.notes) {
            self.warn(text).await?;
        }
        let addresses = std::mem::take(&mut self.selection.addresses);
        let mut batches = addresses.chunks(limits::DIRECT_BATCH);
        for batch in batches.by_ref() {
            if self.time_left().is_zero() {
                self.ledger.not_reached += batch.len() as u64;
                break;
            }
            self.batch(batch).await?;
            self.progress(0).await?;
        }
        self.ledger.not_reached += batches.map(|batch| batch.len() as u64).sum::<u64>();
        Ok(())
    }

    async fn batch(&mut self, addresses: &[IpAddr]) -> Result<(), Stop> {
        let (leave, released) = self.release(addresses).await?;
        let probed = match self.exclude(&released).await {
            Ok(()) if released.allowed.is_empty() => return Ok(()),
            Ok(()) => self.probe(&released.allowed, &leave).await,
            Err(stop) => Err(stop),
        };
        self.dialing.end(&leave).await;
        probed
    }

    async fn release(&mut self, addresses: &[IpAddr]) -> Result<(Leave, Released), Stop> {
        let (pause, attempts) = BUSY;
        for _ in 0..attempts {
            match self.dialing.release(addresses).await {
                Ok(released) => return Ok(released),
                Err(ReleaseError::Busy(_)) => {}
                Err(ReleaseError::Storage(error)) => return Err(Stop::Failed(error.refusal())),
            }
            self.send(Item::Alive).await?;
            tokio::select! {
                () = self.cancel.cancelled() => return Err(Stop::Left),
                () = tokio::time::sleep(pause) => {}
            }
        }
        Err(Stop::Failed(RpcError::resource_exhausted(
            "another server dials for your organization still: try again when it is over",
        )))
    }

    /// Counts what is left out, and names each node when its first address is.
    async fn exclude(&mut self, released: &Released) -> Result<(), Stop> {
        for exclusion in &released.excluded {
            let (node, name) = (exclusion.node, printable(&exclusion.node_name, 255));
            let example = exclusion.ip.to_string();
            if count(&mut self.excluded, node, &name, &example) {
                self.warn(format!(
                    "{example} is left out, and whatever else node {node} ({name}) ever found: the server does not dial what has or had a node"
                ))
                .await?;
            }
        }
        self.ledger.skipped += released.excluded.len() as u64;
        Ok(())
    }

    async fn probe(&mut self, addresses: &[IpAddr], leave: &Leave) -> Result<(), Stop> {
        let order = ProbeOrder {
            addresses: addresses.to_vec(),
            ports: self.selection.ports.clone(),
            budget: leave.left().min(self.time_left()),
            leave: leave.clone(),
        };
        let (sink, mut events) = mpsc::channel(SINK);
        let prober = self.prober.clone();
        let probing = prober.probe(order, sink, self.cancel.clone());
        tokio::pin!(probing);
        let mut summary = None;
        let mut taken = Vec::with_capacity(RECORDED);
        let mut accepted = BTreeSet::new();
        loop {
            tokio::select! {
                biased;
                heard = events.recv_many(&mut taken, RECORDED) => {
                    if heard == 0 {
                        break;
                    }
                    self.take(std::mem::take(&mut taken), &mut accepted).await?;
                }
                ended = &mut probing, if summary.is_none() => summary = Some(ended),
            }
        }
        let summary = match summary {
            Some(summary) => summary,
            None => probing.await,
        };
        let outcomes = summary
            .map_err(|reason| Stop::Failed(RpcError::internal(reason)))?
            .outcomes;
        for (at, ip) in addresses.iter().enumerate() {
            let outcome = outcomes.get(at).copied().unwrap_or_default();
            *self.row(outcome, accepted.contains(ip)) += 1;
        }
        if self.cancel.is_cancelled() {
            return Err(Stop::Left);
        }
        Ok(())
    }

    /// The row of the ledger that an address belongs to.
    fn row(&mut self, outcome: TargetOutcome, accepted: bool) -> &mut u64 {
        let ledger = &mut self.ledger;
        if accepted {
            return &mut ledger.identified;
        }
        match outcome {
            TargetOutcome::Identified | TargetOutcome::Unidentified => &mut ledger.unidentified,
            TargetOutcome::Refused => &mut ledger.refused,
            TargetOutcome::Silent => &mut ledger.silent,
            // Every port of it was refused by the leave, whose time was over.
            TargetOutcome::Skipped | TargetOutcome::NotReached => &mut ledger.not_reached,
        }
    }

    async fn take(
        &mut self,
        events: Vec<ProbeEvent>,
        accepted: &mut BTreeSet<IpAddr>,
    ) -> Result<(), Stop> {
        let mut rows = Vec::new();
        for event in events {
            match event {
                ProbeEvent::Found(report) => rows.push(report),
                ProbeEvent::Note(text) => self.warn(printable(&text, 512)).await?,
                ProbeEvent::Progress(done) => self.progress(done).await?,
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        let sightings = NewSightings {
            org: self.dialing.org,
            scan: self.dialing.run,
            rows: rows.clone(),
            now: self.app.environment.now(),
        };
        let recorded = self.app.store.record_direct(sightings).await;
        let sighted = recorded.map_err(|error| Stop::Failed(error.refusal()))?;
        for (report, sighted) in rows.into_iter().zip(sighted) {
            self.ledger.reported += 1;
            match sighted {
                Sighted::Stored(row) => {
                    self.ledger.accepted += 1;
                    accepted.insert(report.endpoint.ip);
                    let elapsed_ms = self.elapsed_ms();
                    self.ledger.first_device_ms.get_or_insert(elapsed_ms);
                    self.tell(LogEvent::Device(found(&report, &row, elapsed_ms)))
                        .await?;
                }
                Sighted::OfNode { refusal, node_name } => {
                    let (node, name) = (refusal.node(), printable(&node_name, 255));
                    let example = report.endpoint.to_string();
                    count(&mut self.foreign, node, &name, &example);
                    self.warn(format!(
                        "the device at {example} is node {node}'s ({name}): it is not stored, and the server will not dial there again"
                    ))
                    .await?;
                }
                Sighted::NotReleased => {
                    self.reject("found after the time for dialing was over", &report);
                }
            }
        }
        Ok(())
    }

    fn reject(&mut self, reason: &str, report: &DeviceReport) {
        let reasons = &mut self.ledger.rejected_reasons;
        match reasons.iter_mut().find(|tally| tally.reason == reason) {
            Some(tally) => tally.count += 1,
            None => reasons.push(Tally {
                reason: reason.to_owned(),
                count: 1,
                example: report.endpoint.to_string(),
            }),
        }
    }

    /// Brings the counts by node into the ledger, and what was refused into the audit trail: one record for
    /// each kind.
    async fn account(&mut self) {
        for (action, reason, tallies) in [
            ("direct.exclude", OF_NODE, &self.excluded),
            (
                "direct.refuse",
                "a node has or had the device",
                &self.foreign,
            ),
        ] {
            let count: u64 = tallies.values().map(|tally| tally.count).sum();
            let Some(first) = tallies.values().next() else {
                continue;
            };
            let tally = Tally {
                reason: reason.to_owned(),
                count,
                example: first.example.clone(),
            };
            match action {
                "direct.exclude" => self.ledger.skipped_reasons.push(tally),
                _ => self.ledger.rejected_reasons.push(tally),
            }
            let entry = AuditEntry {
                org: Some(self.dialing.org),
                actor: self.actor.clone(),
                action: action.into(),
                subject: format!("run {}", self.dialing.run),
                result: AuditResult::Refused(format!("{reason}: {}", by_node(tallies))),
                at: self.app.environment.now(),
            };
            if let Err(error) = self.app.store.record_audit(entry).await {
                tracing::error!(action, %error, "a refusal was not recorded");
            }
        }
        let ledger = &mut self.ledger;
        ledger.rejected = ledger
            .rejected_reasons
            .iter()
            .map(|tally| tally.count)
            .sum();
    }

    /// The end of a scan that was carried through.
    fn ended(&mut self) -> ScanEnded {
        self.ledger.elapsed_ms = self.elapsed_ms();
        let mut gaps = Vec::new();
        if !self.excluded.is_empty() {
            gaps.push(format!("{OF_NODE}: {}", by_node(&self.excluded)));
        }
        if self.ledger.rejected > 0 {
            gaps.push(format!("{} devices were not stored", self.ledger.rejected));
        }
        if self.ledger.not_reached > 0 {
            gaps.push(format!(
                "{} addresses were not reached in time",
                self.ledger.not_reached
            ));
        }
        let state = if gaps.is_empty() {
            ScanState::Completed
        } else {
            ScanState::Partial
        };
        ScanEnded {
            conclusion: Conclusion::new(state, Code::Ok, gaps.join("; ")),
            ledger: self.ledger.clone(),
        }
    }

    async fn warn(&mut self, text: String) -> Result<(), Stop> {
        self.tell(LogEvent::Warning { text }).await
    }

    async fn tell(&mut self, event: LogEvent) -> Result<(), Stop> {
        self.sequence += 1;
        let stored = StoredEvent {
            sequence: self.sequence,
            event,
        };
        self.send(Item::Event(stored)).await
    }

    /// Tells how far the scan is, `done` addresses of the batch in hand included.
    async fn progress(&mut self, done: u64) -> Result<(), Stop> {
        let ledger = &self.ledger;
        let progress = Progress {
            done: ledger.identified
                + ledger.unidentified
                + ledger.refused
                + ledger.silent
                + ledger.skipped
                + ledger.not_reached
                + done,
            total: ledger.targets,
            phase: "sweep".to_owned(),
            elapsed: Duration::from_millis(self.elapsed_ms()),
        };
        self.send(Item::Progress(progress)).await
    }

    async fn send(&self, item: Item) -> Result<(), Stop> {
        // A watcher that is slow holds up nodes' reports, since addresses are released meanwhile.
        let sent = tokio::time::timeout(PATIENCE, self.out.send(Ok(item))).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Stop::Left),
        }
    }

    fn time_left(&self) -> Duration {
        limits::COMMAND_BUDGET.saturating_sub(Duration::from_millis(self.elapsed_ms()))
    }

    fn elapsed_ms(&self) -> u64 {
        let elapsed = self.app.environment.instant().duration_since(self.started);
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Counts one for a node, and answers whether it is the node's first.
fn count(tallies: &mut BTreeMap<NodeId, Tally>, node: NodeId, name: &str, example: &str) -> bool {
    let tally = tallies.entry(node).or_insert_with(|| Tally {
        reason: name.to_owned(),
        count: 0,
        example: example.to_owned(),
    });
    tally.count += 1;
    tally.count == 1
}

/// Such as `node 7 (barn) 12, first 10.0.0.7`.
fn by_node(tallies: &BTreeMap<NodeId, Tally>) -> String {
    let mut nodes: Vec<String> = tallies
        .iter()
        .take(NODES_NAMED)
        .map(|(node, tally)| {
            format!(
                "node {node} ({}) {}, first {}",
                tally.reason, tally.count, tally.example
            )
        })
        .collect();
    if tallies.len() > NODES_NAMED {
        nodes.push(format!("and {} nodes more", tallies.len() - NODES_NAMED));
    }
    nodes.join("; ")
}

/// The device as the inventory knows it now, where it was found.
fn found(report: &DeviceReport, row: &DeviceRow, elapsed_ms: u64) -> DeviceFound {
    DeviceFound {
        device: row.id,
        identifier: row.identifier.clone(),
        endpoint: report.endpoint,
        scheme: row.scheme.clone(),
        driver: row.driver.clone(),
        model: row.model.clone(),
        manufacturer: row.manufacturer.clone(),
        firmware: row.firmware.clone(),
        elapsed_ms,
    }
}
