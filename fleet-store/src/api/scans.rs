//! Durable scans: plan, outbox, reports, acks, events, ledger. Every operation that ends a scan writes its only
//! terminal event in the same transaction.

use std::time::Duration;

use async_trait::async_trait;
use fleet_core::{
    CommandId, Epoch, HostReport, NodeId, OperatorId, OrgId, PairingId, Port, Priority, ScanId,
    ScanState, SiteId, Timestamp,
    outcome::{AckVerdict, Conclusion},
};
use fleet_discovery::{
    ChunkCommand, Ledger, LogEvent, NodeChoice, OpenScan, PastScan, Plan, ScanRequest,
};

use crate::{Actor, StoreError};

/// Whether a scan may wait in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queueing {
    /// The scan never waits. It is refused when the node has a command in flight or another open scan. It ends
    /// when the node answers BUSY.
    Never,
    /// The scan waits for its node until this time. BUSY is retried.
    Until(Timestamp),
}

/// A scan to create.
#[derive(Clone, Debug)]
pub struct NewScan {
    /// The id, chosen by the caller.
    pub id: ScanId,
    /// The organization.
    pub org: OrgId,
    /// The nodes as the operator named them.
    pub choice: NodeChoice,
    /// The share of each node, in the order of the chunks. There is at least one.
    pub shares: Vec<NewShare>,
    /// The operator.
    pub operator: OperatorId,
    /// The request id, unique in the organization. A repeated request returns the existing scan.
    pub request_id: Option<String>,
    /// The name; may be empty.
    pub name: String,
    /// The request.
    pub request: ScanRequest,
    /// The plan.
    pub plan: Plan,
    /// Its priority in the node's queue.
    pub priority: Priority,
    /// Whether it may wait.
    pub queueing: Queueing,
    /// Whether blackouts do not hold it back.
    pub ignores_blackout: bool,
    /// The current time.
    pub now: Timestamp,
}

/// The share of a node in a new scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewShare {
    /// The node, which must be live and confirmed.
    pub node: NodeId,
    /// The number of its chunks.
    pub chunks: usize,
    /// The number of its targets, without the skipped ones.
    pub targets: u64,
    /// The probes per second of its node; 0 if unknown.
    pub rate: u32,
}

impl NewShare {
    /// Creates the share of a node that has this plan, at an unknown rate.
    pub fn of(node: NodeId, plan: &Plan) -> Self {
        let skipped: u64 = plan.skipped.iter().map(|tally| tally.count).sum();
        Self {
            node,
            chunks: plan.chunks.len(),
            targets: plan.targets.saturating_sub(skipped),
            rate: 0,
        }
    }

    /// The share at this many probes per second.
    #[must_use]
    pub fn at_rate(self, rate: u32) -> Self {
        Self { rate, ..self }
    }
}

/// A created scan, or the one that the same request id created before.
#[derive(Clone, Debug, PartialEq)]
pub struct CreatedScan {
    /// The scan.
    pub scan: ScanRow,
    /// Whether it existed before.
    pub existing: bool,
}

/// Why a scan was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateScanError {
    /// No such live node in this organization.
    #[error("no node {0} in this organization")]
    NodeNotFound(NodeId),
    /// The node awaits its confirmation.
    #[error("node {0} is not confirmed yet: confirm it first")]
    NotConfirmed(NodeId),
    /// The scan never queues, and the node is busy.
    #[error("node {0} is busy, retry shortly")]
    Busy(NodeId),
    /// Too many scans wait for the node.
    #[error("{most} scans wait for node {node} already: wait for one to end, or cancel one")]
    QueueFull {
        /// The node.
        node: NodeId,
        /// The limit.
        most: usize,
    },
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// The progress of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The number of finished targets, over all chunks.
    pub done: u64,
    /// The number of all targets, including skipped ones.
    pub total: u64,
    /// The phase that the node reported, bounded and escaped.
    pub phase: String,
    /// The time since the first command was issued.
    pub elapsed: Duration,
}

/// A scan as operators read it.
#[derive(Clone, Debug, PartialEq)]
pub struct ScanRow {
    /// The scan.
    pub id: ScanId,
    /// The organization.
    pub org: OrgId,
    /// The nodes as the operator named them.
    pub choice: NodeChoice,
    /// The share of each node, by node. There is at least one.
    pub shares: Vec<ShareRow>,
    /// The name of the scan; may be empty.
    pub name: String,
    /// The state.
    pub state: ScanState,
    /// Its priority in the node's queue.
    pub priority: Priority,
    /// The request.
    pub request: ScanRequest,
    /// When it was requested.
    pub created_at: Timestamp,
    /// When its first command was issued.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// When its wait in the queue ends: of several nodes, the last one.
    pub queued_until: Option<Timestamp>,
    /// The e-mail of the operator that requested it.
    pub started_by: String,
    /// Its conclusion.
    pub conclusion: Option<Conclusion>,
    /// The progress.
    pub progress: Progress,
    /// The summary of an ended scan.
    pub ledger: Option<Ledger>,
    /// The newest sequence number of its log; 0 when the log is empty.
    pub last_sequence: i64,
    /// Whether the scope was not fixed exactly before dispatch.
    pub open_scope: bool,
    /// The number of chunks.
    pub chunks: u32,
    /// The number of ended chunks.
    pub chunks_done: u32,
    /// The changes since the previous scan; none until the ended scan was compared.
    pub changes: Option<ScanChanges>,
}

/// How many devices changed since the previous scan of the same targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanChanges {
    /// The previous scan. Without one, every device is new.
    pub against: Option<ScanId>,
    /// Devices that only this scan found.
    pub new: u64,
    /// Devices whose endpoint this scan probed in vain.
    pub missing: u64,
    /// Devices at another address.
    pub moved: u64,
    /// Devices with other facts.
    pub changed: u64,
}

/// The share of a node in a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareRow {
    /// The node.
    pub node: NodeId,
    /// The node's name.
    pub node_name: String,
    /// The node's current site.
    pub site: SiteId,
    /// The name of that site.
    pub site_name: String,
    /// The state.
    pub state: ScanState,
    /// The number of its targets, without the skipped ones.
    pub targets: u64,
    /// The number of its finished targets.
    pub done: u64,
    /// The number of its chunks.
    pub chunks: u32,
    /// The number of its ended chunks.
    pub chunks_done: u32,
    /// Its conclusion.
    pub conclusion: Option<Conclusion>,
}

/// The other scans of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanHistory {
    /// The scans that have not ended.
    pub open: Vec<OpenScan>,
    /// The node's shares of the last 16 that were not canceled and did not fail, newest first.
    pub past: Vec<PastScan>,
}

/// A command for a node. It is stored before it is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct IssuedCommand {
    /// The command.
    pub command: CommandId,
    /// Its scan.
    pub scan: ScanId,
    /// Its priority.
    pub priority: Priority,
    /// The request to send.
    pub request: ChunkCommand,
    /// The ports to send; empty means the node's defaults.
    pub ports: Vec<Port>,
    /// The most probes per second; 0 for the rate of the node.
    pub rate: u32,
    /// Whether the operator gave each address of the scan, in contrast to a network.
    pub is_explicit: bool,
    /// When the server stops waiting.
    pub deadline: Timestamp,
}

/// A node's acknowledgment that a command has ended.
#[derive(Clone, Debug)]
pub struct Ack {
    /// The node that sent it.
    pub node: NodeId,
    /// The epoch of the stream that delivered it. An older epoch has no effect.
    pub epoch: Epoch,
    /// The command.
    pub command: CommandId,
    /// The result that it reports.
    pub verdict: AckVerdict,
    /// One byte per target in scope order, if the node reports it.
    pub outcomes: Option<Vec<u8>>,
    /// Skips, slow-downs and driver errors. Each becomes a warning. The caller bounds and escapes them.
    pub notes: Vec<String>,
    /// The current time.
    pub now: Timestamp,
}

/// The effect of an ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acked {
    /// The chunk ended, and possibly the scan.
    Chunk {
        /// The scan, whose watchers must be notified.
        scan: ScanId,
        /// Whether the scan has ended.
        ended: bool,
    },
    /// The node is busy, and the chunk waits.
    Waits {
        /// The scan.
        scan: ScanId,
        /// When it may be issued again.
        until: Timestamp,
    },
    /// The command belonged to a pairing, which may have ended with it. Its watchers must be notified.
    Pairing(PairingId),
    /// Nothing changed: the command is unknown, of another node, of an older epoch, or already ended.
    Stale,
}

/// An event of a scan's log.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredEvent {
    /// The sequence number, dense from 1.
    pub sequence: i64,
    /// The content of the event.
    pub event: LogEvent,
}

/// A page of a scan's log, read together with the scan.
#[derive(Clone, Debug, PartialEq)]
pub struct EventPage {
    /// Events after the cursor, in order.
    pub events: Vec<StoredEvent>,
    /// The progress of the scan.
    pub progress: Progress,
    /// The state.
    pub state: ScanState,
    /// The newest sequence of the log.
    pub last_sequence: i64,
    /// Whether events after the cursor are no longer kept.
    pub is_deleted: bool,
}

/// A host that answered a scan and that no driver identified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanHost {
    /// The position in the list, which grows with every host. A repeated report keeps it.
    pub id: i64,
    /// The host.
    pub host: HostReport,
    /// The node that reported it last.
    pub node: Option<NodeId>,
    /// When it was last reported.
    pub at: Timestamp,
}

/// The time that the commands of a canceled scan get to stop and report their results.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grace {
    /// The time.
    pub time: Duration,
    /// The connected nodes that support cancel.
    pub nodes: Vec<NodeId>,
}

impl Grace {
    /// No time: the scan ends at once.
    pub const NONE: Self = Self {
        time: Duration::ZERO,
        nodes: Vec::new(),
    };
}

/// A canceled scan.
#[derive(Clone, Debug, PartialEq)]
pub struct Canceled {
    /// The scan. It has not ended yet if a command in flight has a grace period to stop.
    pub scan: ScanRow,
    /// The commands to cancel on their nodes, by node.
    pub in_flight: Vec<CommandId>,
}

/// Why a scan could not be canceled.
#[derive(Debug, thiserror::Error)]
pub enum CancelScanError {
    /// No such scan in this organization.
    #[error("no scan {0} in this organization")]
    NotFound(ScanId),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// The effect of a sweep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Expired commands, with their nodes.
    pub commands: Vec<(NodeId, CommandId)>,
    /// Scans that changed, whose watchers must be notified.
    pub scans: Vec<ScanId>,
    /// Pairings that changed, whose watchers must be notified.
    pub pairings: Vec<PairingId>,
}

/// Scans as operators create and read them.
#[async_trait]
pub trait Scans: Send + Sync {
    /// Stores a scan with its chunks and its audit record. The notes of the plan become its first events.
    async fn create_scan(&self, new: NewScan, actor: Actor)
    -> Result<CreatedScan, CreateScanError>;

    /// Returns what shows how long the next scan of a node takes, and when it starts.
    async fn scan_history(&self, org: OrgId, node: NodeId) -> Result<ScanHistory, StoreError>;

    /// Returns one scan of an organization.
    async fn scan(
        &self,
        org: OrgId,
        scan: ScanId,
        now: Timestamp,
    ) -> Result<Option<ScanRow>, StoreError>;

    /// Returns the scan of an organization that was created with a request id.
    async fn scan_by_request(
        &self,
        org: OrgId,
        request_id: &str,
        now: Timestamp,
    ) -> Result<Option<ScanRow>, StoreError>;

    /// Lists scans of an organization before a scan, newest first, at most `limit`: those with a share of one node, or
    /// all.
    async fn list_scans(
        &self,
        org: OrgId,
        node: Option<NodeId>,
        before: Option<ScanId>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<ScanRow>, StoreError>;

    /// Lists events after a cursor, at most `limit`. Returns `None` if the organization has no such scan.
    async fn read_events(
        &self,
        org: OrgId,
        scan: ScanId,
        after: i64,
        limit: u32,
        now: Timestamp,
    ) -> Result<Option<EventPage>, StoreError>;

    /// Lists the unidentified hosts of a scan after a position, in the order of their first reports, at most `limit`.
    /// Returns `None` if the organization has no such scan.
    async fn scan_hosts(
        &self,
        org: OrgId,
        scan: ScanId,
        after: i64,
        limit: u32,
    ) -> Result<Option<Vec<ScanHost>>, StoreError>;
}

/// The queue of chunks and the commands that nodes receive.
#[async_trait]
pub trait Dispatch: Send + Sync {
    /// Issues the next chunk of a node under a new command id. The epoch must be current, and no command of the
    /// node may be in flight. Interactive scans come before scheduled ones. Among equals, the scan that was
    /// served longest ago is next: a small scan waits for at most one chunk of a big one.
    async fn issue_command(
        &self,
        node: NodeId,
        epoch: Epoch,
        command: CommandId,
        now: Timestamp,
    ) -> Result<Option<IssuedCommand>, StoreError>;

    /// Withdraws a command that was not sent. Its chunk waits again, and the attempt does not count. A command
    /// that was never stored is ignored: the answer of [`Self::issue_command`] does not always show it.
    async fn withdraw_command(
        &self,
        node: NodeId,
        command: CommandId,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Lists nodes for which a chunk may be issued now.
    async fn nodes_with_work(&self, now: Timestamp) -> Result<Vec<NodeId>, StoreError>;
}

/// How commands, chunks and scans progress and end.
#[async_trait]
pub trait Completion: Send + Sync {
    /// Records the ack of a command. It ends the chunk, with the last chunk of the node its share, and with the last share
    /// the scan.
    async fn record_ack(&self, ack: Ack) -> Result<Acked, StoreError>;

    /// Records the progress of a command. A message of an older epoch or for an ended command has no effect.
    async fn record_progress(
        &self,
        node: NodeId,
        epoch: Epoch,
        command: CommandId,
        done: u64,
        phase: &str,
    ) -> Result<Option<ScanId>, StoreError>;

    /// Cancels a scan. A command in flight on a node of the `grace` gets that time to stop and report its results. The
    /// shares of all other nodes end at once; such a node stays busy until its ack or the deadline. Canceling again, or
    /// canceling an ended scan, changes nothing.
    async fn cancel_scan(
        &self,
        org: OrgId,
        scan: ScanId,
        grace: Grace,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Canceled, CancelScanError>;

    /// Ends a scan that never queues and found no stream, with this conclusion. Returns whether this call ended
    /// it.
    async fn end_scan(
        &self,
        scan: ScanId,
        conclusion: Conclusion,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Whether a command is in flight: neither its ack nor anything else has ended it.
    async fn is_in_flight(&self, command: CommandId) -> Result<bool, StoreError>;

    /// Expires commands past their deadline, canceled scans past their grace period, and scans that were queued
    /// for too long. An expired chunk is issued again while attempts are left. Deadlines run only while servers sweep:
    /// after an interruption, or when the clock was set, they move.
    async fn sweep_commands(&self, now: Timestamp) -> Result<Expired, StoreError>;
}
