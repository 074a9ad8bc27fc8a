//! Durable scans: plan, outbox, reports, acks, events, ledger. Every operation that ends a scan writes
//! its one terminal event in the same transaction.

use std::time::Duration;

use async_trait::async_trait;
use fleet_core::{
    CommandId, Epoch, NodeId, OperatorId, OrgId, PairingId, Port, Priority, ScanId, ScanState,
    Timestamp,
    outcome::{AckVerdict, Conclusion},
};
use fleet_discovery::{ChunkCommand, Ledger, LogEvent, Plan, ScanRequest};

use crate::{Actor, StoreError};

/// Whether a scan may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queueing {
    /// Refused at once when the node has a command in flight or another scan open; ends when the node
    /// says BUSY.
    Never,
    /// Waits for its node until then; BUSY is retried.
    Until(Timestamp),
}

/// A scan to create.
#[derive(Clone, Debug)]
pub struct NewScan {
    /// Chosen by the caller.
    pub id: ScanId,
    /// The organization.
    pub org: OrgId,
    /// Where it runs; must be live and confirmed.
    pub node: NodeId,
    /// The operator.
    pub operator: OperatorId,
    /// Unique in the organization; makes a retry harmless.
    pub request_id: Option<String>,
    /// The request.
    pub request: ScanRequest,
    /// The plan.
    pub plan: Plan,
    /// Its priority in the node's queue.
    pub priority: Priority,
    /// Whether it may wait.
    pub queueing: Queueing,
    /// The current time.
    pub now: Timestamp,
}

/// A created scan, or the one that the same request id made before.
#[derive(Clone, Debug, PartialEq)]
pub struct CreatedScan {
    /// The scan.
    pub scan: ScanRow,
    /// Whether it was there before.
    pub existing: bool,
}

/// Why a scan was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateScanError {
    /// No such live node in this organization.
    #[error("no node {0} in this organization")]
    NodeNotFound(NodeId),
    /// The node waits for its confirmation.
    #[error("node {0} is not confirmed yet: confirm it first")]
    NotConfirmed(NodeId),
    /// A scan that never queues found the node at work.
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
    /// Targets done, over all chunks.
    pub done: u64,
    /// Targets in all, skipped ones included.
    pub total: u64,
    /// The phase that the node reported; bounded, escaped.
    pub phase: String,
    /// Since the first command was issued.
    pub elapsed: Duration,
}

/// A scan as operators read it.
#[derive(Clone, Debug, PartialEq)]
pub struct ScanRow {
    /// The scan.
    pub id: ScanId,
    /// The organization.
    pub org: OrgId,
    /// Where it runs.
    pub node: NodeId,
    /// The node's name.
    pub node_name: String,
    /// The state.
    pub state: ScanState,
    /// Its priority in the node's queue.
    pub priority: Priority,
    /// The request.
    pub request: ScanRequest,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When its first command was issued.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How long it may wait.
    pub queued_until: Option<Timestamp>,
    /// The e-mail of who asked.
    pub started_by: String,
    /// How it ended.
    pub conclusion: Option<Conclusion>,
    /// The progress.
    pub progress: Progress,
    /// Set when it has ended.
    pub ledger: Option<Ledger>,
    /// The newest sequence of its log; 0 when empty.
    pub last_sequence: i64,
    /// The scope was not fixed exactly before dispatch.
    pub open_scope: bool,
    /// Chunks in all.
    pub chunks: u32,
    /// Chunks that have ended.
    pub chunks_done: u32,
}

/// A command on its way to a node: stored before it is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct IssuedCommand {
    /// The command.
    pub command: CommandId,
    /// Its scan.
    pub scan: ScanId,
    /// Its priority.
    pub priority: Priority,
    /// What to send.
    pub request: ChunkCommand,
    /// The ports to send; empty means the node's defaults.
    pub ports: Vec<Port>,
    /// When the server stops waiting.
    pub deadline: Timestamp,
}

/// A node's word that a command has ended.
#[derive(Clone, Debug)]
pub struct Ack {
    /// The node that sent them.
    pub node: NodeId,
    /// The epoch of the stream it came by: an older one has no effect.
    pub epoch: Epoch,
    /// The command.
    pub command: CommandId,
    /// What it means.
    pub verdict: AckVerdict,
    /// One byte a target in scope order, if the node tells.
    pub outcomes: Option<Vec<u8>>,
    /// Skips, slow-downs, driver trouble: each becomes a warning. Bounded and escaped by the caller.
    pub notes: Vec<String>,
    /// The current time.
    pub now: Timestamp,
}

/// The effect of an ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acked {
    /// The chunk ended; the scan may have.
    Chunk {
        /// The scan, whose watchers must be notified.
        scan: ScanId,
        /// Whether it has ended.
        ended: bool,
    },
    /// The node is busy, and the chunk waits.
    Waits {
        /// The scan.
        scan: ScanId,
        /// When it may be issued again.
        until: Timestamp,
    },
    /// The command was one of pairing, which may have ended with it; its watchers must be notified.
    Pairing(PairingId),
    /// The command is unknown, another node's, of an older epoch, or ended before: nothing changed.
    Stale,
}

/// An event of a scan's log.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredEvent {
    /// Dense from 1.
    pub sequence: i64,
    /// What happened.
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
}

/// A canceled scan.
#[derive(Clone, Debug, PartialEq)]
pub struct Canceled {
    /// The scan; not ended yet when a command in flight is given a moment to stop.
    pub scan: ScanRow,
    /// The command to cancel on the node.
    pub in_flight: Option<CommandId>,
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

/// What a sweep has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Commands past their deadline, with their nodes.
    pub commands: Vec<(NodeId, CommandId)>,
    /// Scans that changed, whose watchers must be notified.
    pub scans: Vec<ScanId>,
    /// Pairings that changed, whose watchers must be notified.
    pub pairings: Vec<PairingId>,
}

/// Scans as operators create and read them.
#[async_trait]
pub trait Scans: Send + Sync {
    /// Stores a scan with its chunks and its audit record; plan notes become its first events.
    async fn create_scan(&self, new: NewScan, actor: Actor)
    -> Result<CreatedScan, CreateScanError>;

    /// One scan of an organization.
    async fn scan(
        &self,
        org: OrgId,
        scan: ScanId,
        now: Timestamp,
    ) -> Result<Option<ScanRow>, StoreError>;

    /// The scan that a request id has made in an organization.
    async fn scan_by_request(
        &self,
        org: OrgId,
        request_id: &str,
        now: Timestamp,
    ) -> Result<Option<ScanRow>, StoreError>;

    /// Scans of an organization, newest first, before a scan, at most `limit`; of one node or of all.
    async fn list_scans(
        &self,
        org: OrgId,
        node: Option<NodeId>,
        before: Option<ScanId>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<ScanRow>, StoreError>;

    /// Events after a cursor, at most `limit`; none when the scan is not this organization's.
    async fn read_events(
        &self,
        org: OrgId,
        scan: ScanId,
        after: i64,
        limit: u32,
        now: Timestamp,
    ) -> Result<Option<EventPage>, StoreError>;
}

/// The queue of chunks and the commands that nodes receive.
#[async_trait]
pub trait Dispatch: Send + Sync {
    /// Issues the next chunk of a node under a new command id, if the epoch is current, no command of
    /// the node is in flight, and something waits: interactive before scheduled, and among equals the
    /// scan served longest ago, so that a small scan waits for one chunk of a big one at the most.
    async fn issue_command(
        &self,
        node: NodeId,
        epoch: Epoch,
        command: CommandId,
        now: Timestamp,
    ) -> Result<Option<IssuedCommand>, StoreError>;

    /// Takes a command back that could not be handed to the stream: its chunk waits again and the
    /// attempt does not count.
    async fn withdraw_command(&self, command: CommandId, now: Timestamp) -> Result<(), StoreError>;

    /// Nodes for which a chunk may be issued now.
    async fn nodes_with_work(&self, now: Timestamp) -> Result<Vec<NodeId>, StoreError>;
}

/// How commands, chunks and scans progress and end.
#[async_trait]
pub trait Completion: Send + Sync {
    /// Records the ack of a command. It ends the chunk, and with the last chunk the scan.
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

    /// Cancels a scan. With a `grace` (for a node that can be told to stop) a command in flight gets
    /// that long to stop and report what it has; otherwise the scan ends at once, and the
    /// node stays busy until ack or deadline. Canceling again, or a scan that has ended, changes nothing.
    async fn cancel_scan(
        &self,
        org: OrgId,
        scan: ScanId,
        grace: Option<Duration>,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Canceled, CancelScanError>;

    /// Ends a scan that never queues and found no stream, with this conclusion. Returns whether it ended
    /// now.
    async fn end_scan(
        &self,
        scan: ScanId,
        conclusion: Conclusion,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Expires commands past their deadline, canceled scans past their grace, and scans queued for
    /// too long.
    async fn sweep_commands(&self, now: Timestamp) -> Result<Expired, StoreError>;
}
