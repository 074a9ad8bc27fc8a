//! A scan of the server's own network, in batches: addresses are released, dialed, recorded and returned. It sends the
//! same items as a scan through a node, but stores none of them for later watchers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use fleet_core::{
    DeviceFacts, DeviceId, DeviceIdentifier, DeviceReport, NodeId, OrgId, ScanId, ScanState,
    SiteId, TargetOutcome, Timestamp, limits,
    outcome::{Code, Conclusion},
};
use fleet_discovery::{DeviceFound, Gaps, HostFound, Ledger, LogEvent, ScanEnded, Tally};
use fleet_inventory::Seen;
use fleet_pairing::SERVER;
use fleet_store::{
    Actor, AuditEntry, AuditResult, DeviceRow, DirectEnd, DirectOutcome, NewSightings, Progress,
    Released, StoredEvent,
};
use fleet_wire::RpcError;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{dialing::Dialing, selection::Selection};
use crate::{
    app::App,
    config::DirectPath,
    convert::printable,
    dial_permit::DialPermit,
    failure::Refusal,
    prober::{ProbeEvent, ProbeOrder, ProbeSummary, Prober},
    watch::Item,
};

/// Events that may wait between prober and store.
const EVENTS: usize = 64;
/// Maximum number of events taken, and so of devices recorded, at once.
const AT_ONCE: usize = 64;
/// A watcher that reads no item for this long counts as disconnected.
const PATIENCE: Duration = Duration::from_secs(5);
/// Interval of attempts while another server dials for the same organization.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// The reason, in the scan summary, for leaving out an address.
const OF_NODE: &str = "a node has or had a device there";
/// Maximum number of nodes that a text names.
const NODES_NAMED: usize = 16;

/// A scan that was admitted.
pub(super) struct Admitted {
    pub(super) path: DirectPath,
    pub(super) org: OrgId,
    pub(super) actor: Actor,
    pub(super) scan: ScanId,
    pub(super) began: Timestamp,
    pub(super) selection: Selection,
}

/// A running scan.
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
    /// Addresses that were left out, by the node that has or had them.
    excluded: BTreeMap<NodeId, Tally>,
    /// Devices found that belong or belonged to a node, by node.
    foreign: BTreeMap<NodeId, Tally>,
    /// What was left out at addresses that have an outcome.
    gaps: Gaps,
    /// The devices that were stored, each with its address; as many as addresses.
    seen: BTreeMap<DeviceId, IpAddr>,
    /// The same devices as this scan found them, for alerts.
    found: BTreeMap<DeviceId, Seen>,
    /// The outcome of each dialed address.
    probed: BTreeMap<IpAddr, TargetOutcome>,
    began: Timestamp,
    /// The shared identifiers that a warning has named.
    warned: BTreeSet<DeviceIdentifier>,
}

/// The reason why a scan stopped early.
enum Stop {
    /// Its caller disconnected, or the server shuts down.
    Canceled,
    /// It cannot continue.
    Failed(RpcError),
}

impl From<RpcError> for Stop {
    fn from(error: RpcError) -> Self {
        Self::Failed(error)
    }
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
            began,
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
            gaps: Gaps::default(),
            seen: BTreeMap::new(),
            found: BTreeMap::new(),
            probed: BTreeMap::new(),
            began,
            warned: BTreeSet::new(),
        }
    }

    /// Runs to the end and sends the final item.
    pub(super) async fn run(mut self) {
        let worked = self.work().await;
        // After a failure too, because the audit trail has to name the addresses that were left
        // out.
        self.account().await;
        let failure = match &worked {
            Err(Stop::Failed(error)) => Some(error.message.clone()),
            Ok(()) | Err(Stop::Canceled) => None,
        };
        self.alert(failure).await;
        match worked {
            Ok(()) => {
                let ended = self.ended();
                tracing::info!(scan = %self.dialing.run, outcome = %ended.conclusion.state, accepted = self.ledger.accepted, "a scan of the server's own network ended");
                let _ = self.emit(LogEvent::Ended(ended)).await;
            }
            Err(Stop::Canceled) => {
                tracing::info!(scan = %self.dialing.run, "a scan of the server's own network was canceled");
                let gone = RpcError::unavailable(
                    "the server is shutting down: start the scan again when it is back",
                )
                .with_reason("SHUTTING_DOWN");
                // A watcher that reads nothing must not delay the end.
                let _ = self.out.try_send(Err(gone));
            }
            Err(Stop::Failed(error)) => {
                let _ = self.out.try_send(Err(error));
            }
        }
    }

    /// Marks missing devices and stores the messages of alerts. A canceled scan says something about the addresses that
    /// it has dialed.
    async fn alert(&mut self, failure: Option<String>) {
        let end = DirectEnd {
            org: self.dialing.org,
            scan: self.dialing.run,
            started: self.began,
            failure,
            seen: std::mem::take(&mut self.found).into_values().collect(),
            outcomes: std::mem::take(&mut self.probed),
            ports: self.selection.ports.clone(),
            now: self.app.environment.now(),
        };
        if let Err(error) = self.app.store.end_direct(end).await {
            tracing::error!(scan = %self.dialing.run, %error, "the alerts of a scan of the server's own network are not stored before the next start of this server");
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
        let (permit, released) = self.release(addresses).await?;
        let probed = match self.exclude(&released).await {
            Ok(()) if released.allowed.is_empty() => return Ok(()),
            Ok(()) => self.probe(&released.allowed, &permit).await,
            Err(stop) => Err(stop),
        };
        // After a failure too, because reports of nodes wait for these addresses.
        self.dialing.end(&permit).await;
        probed
    }

    async fn release(&self, addresses: &[IpAddr]) -> Result<(DialPermit, Released), Stop> {
        let wait = |pause| self.wait(pause);
        self.dialing.acquire(addresses, BUSY_PAUSE, wait).await
    }

    async fn wait(&self, pause: Duration) -> Result<(), Stop> {
        self.send(Item::Alive).await?;
        tokio::select! {
            () = self.cancel.cancelled() => Err(Stop::Canceled),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    /// Counts the addresses that are left out, and warns of each node at its first one.
    async fn exclude(&mut self, released: &Released) -> Result<(), Stop> {
        for exclusion in &released.excluded {
            let example = exclusion.ip.to_string();
            let Some((node, name)) = &exclusion.node else {
                // Counted together, and without a name: what another organization has is not shown.
                if count(
                    &mut self.excluded,
                    SERVER,
                    "of another organization",
                    &example,
                ) {
                    self.warn(format!(
                        "{example} is left out: the server does not dial addresses that have or had a node of another organization"
                    ))
                    .await?;
                }
                continue;
            };
            let (node, name) = (*node, printable(name, 255));
            if count(&mut self.excluded, node, &name, &example) {
                self.warn(format!(
                    "{example} is left out, as is every other address that node {node} ({name}) ever reported: the server does not dial addresses that have or had a node"
                ))
                .await?;
            }
        }
        self.ledger.skipped += released.excluded.len() as u64;
        Ok(())
    }

    async fn probe(&mut self, addresses: &[IpAddr], permit: &DialPermit) -> Result<(), Stop> {
        let order = ProbeOrder {
            addresses: addresses.to_vec(),
            ports: self.selection.ports.clone(),
            budget: permit.left().min(self.time_left()),
            permit: permit.clone(),
        };
        let (sender, mut events) = mpsc::channel(EVENTS);
        let prober = self.prober.clone();
        let probing = prober.probe(order, sender, self.cancel.clone());
        tokio::pin!(probing);
        let mut summary = None;
        let mut taken = Vec::with_capacity(AT_ONCE);
        let mut accepted = BTreeSet::new();
        loop {
            tokio::select! {
                biased;
                received = events.recv_many(&mut taken, AT_ONCE) => {
                    // The loop ends with the last event and not with the prober, whose last devices
                    // may wait here.
                    if received == 0 {
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
        let summary = summary.map_err(|reason| Stop::Failed(RpcError::internal(reason)))?;
        let ProbeSummary { outcomes, gaps } = summary;
        self.gaps.add(gaps);
        for (at, ip) in addresses.iter().enumerate() {
            let outcome = outcomes.get(at).copied().unwrap_or_default();
            self.probed.insert(*ip, outcome);
            *self.row(outcome, accepted.contains(ip)) += 1;
        }
        if self.cancel.is_cancelled() {
            return Err(Stop::Canceled);
        }
        Ok(())
    }

    /// The counter that an address belongs to.
    fn row(&mut self, outcome: TargetOutcome, accepted: bool) -> &mut u64 {
        let ledger = &mut self.ledger;
        if accepted {
            return &mut ledger.identified;
        }
        match outcome {
            TargetOutcome::Identified | TargetOutcome::Unidentified => &mut ledger.unidentified,
            TargetOutcome::Refused => &mut ledger.refused,
            TargetOutcome::Silent => &mut ledger.silent,
            // The permit refused every port, because its time was over.
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
                ProbeEvent::Host(host) => {
                    let elapsed_ms = self.elapsed_ms();
                    let found = HostFound {
                        host,
                        node: None,
                        elapsed_ms,
                    };
                    self.emit(LogEvent::Host(found)).await?;
                }
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
            seen: self.seen.clone(),
            now: self.app.environment.now(),
        };
        let recorded = self.app.store.record_direct(sightings).await;
        let sighted = recorded.map_err(|error| Stop::Failed(error.refusal()))?;
        for shared in &sighted.shared {
            if self.warned.insert(shared.identifier.clone()) {
                self.warn(shared.to_string()).await?;
            }
        }
        for (report, sighted) in rows.into_iter().zip(sighted.outcomes) {
            self.ledger.reported += 1;
            match sighted {
                DirectOutcome::Stored(row) => {
                    self.ledger.accepted += 1;
                    accepted.insert(report.endpoint.ip);
                    self.seen.insert(row.id, report.endpoint.ip);
                    let seen = Seen {
                        device: row.id,
                        site: SiteId(0),
                        node: SERVER,
                        endpoint: report.endpoint,
                        facts: report.facts.clone(),
                    };
                    self.found.insert(row.id, seen);
                    let elapsed_ms = self.elapsed_ms();
                    self.ledger.first_device_ms.get_or_insert(elapsed_ms);
                    self.emit(LogEvent::Device(found(&report, &row, elapsed_ms)))
                        .await?;
                }
                DirectOutcome::OfNode { refusal, node_name } => {
                    let (node, name) = (refusal.node(), printable(&node_name, 255));
                    let example = report.endpoint.to_string();
                    count(&mut self.foreign, node, &name, &example);
                    self.warn(format!(
                        "the device at {example} belongs to node {node} ({name}): it is not stored, and the server will not dial its address again"
                    ))
                    .await?;
                }
                DirectOutcome::NotReleased => {
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

    /// Adds the counts by node to the scan summary, and one record for each kind of refusal to the audit trail.
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

    /// The final event of a scan that ran to its end.
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
        gaps.extend(self.gaps.reasons());
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
        self.emit(LogEvent::Warning { text }).await
    }

    async fn emit(&mut self, event: LogEvent) -> Result<(), Stop> {
        self.sequence += 1;
        let stored = StoredEvent {
            sequence: self.sequence,
            event,
        };
        self.send(Item::Event(stored)).await
    }

    /// Sends the progress, including `done` addresses of the current batch.
    async fn progress(&mut self, done: u64) -> Result<(), Stop> {
        let ledger = &self.ledger;
        let progress = Progress {
            done: ledger.identified
                + ledger.owned_elsewhere
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
        // A slow watcher holds up reports of nodes, because its addresses stay released meanwhile.
        let sent = tokio::time::timeout(PATIENCE, self.out.send(Ok(item))).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Stop::Canceled),
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

/// Counts one for a node; returns whether it is the node's first.
fn count(tallies: &mut BTreeMap<NodeId, Tally>, node: NodeId, name: &str, example: &str) -> bool {
    let tally = tallies.entry(node).or_insert_with(|| Tally {
        reason: name.to_owned(),
        count: 0,
        example: example.to_owned(),
    });
    tally.count += 1;
    tally.count == 1
}

/// Text such as `node 7 (barn) 12, first 10.0.0.7`.
fn by_node(tallies: &BTreeMap<NodeId, Tally>) -> String {
    let mut nodes: Vec<String> = tallies
        .iter()
        .take(NODES_NAMED)
        .map(|(node, tally)| {
            if *node == SERVER {
                let Tally {
                    reason,
                    count,
                    example,
                } = tally;
                return format!("nodes {reason} {count}, first {example}");
            }
            format!(
                "node {node} ({}) {}, first {}",
                tally.reason, tally.count, tally.example
            )
        })
        .collect();
    if tallies.len() > NODES_NAMED {
        nodes.push(format!("and {} more nodes", tallies.len() - NODES_NAMED));
    }
    nodes.join("; ")
}

/// The device as the inventory has it now, at the endpoint where it was found.
fn found(report: &DeviceReport, row: &DeviceRow, elapsed_ms: u64) -> DeviceFound {
    DeviceFound {
        device: row.id,
        identifier: row.identifier.clone(),
        node: None,
        endpoint: report.endpoint,
        facts: DeviceFacts {
            evidence: String::new(),
            ..row.facts.clone()
        },
        elapsed_ms,
    }
}
