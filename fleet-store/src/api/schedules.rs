//! Schedules: scans that are repeated at set times. Of all servers, one claims each run: the transaction that creates
//! its scan also moves the schedule to the next run.

use async_trait::async_trait;
use fleet_core::{NodeId, OperatorId, OrgId, ScanId, ScanState, ScheduleId, Timestamp};
use fleet_discovery::{NodeChoice, ScanRequest};
use fleet_inventory::{Run, TimingText};

use crate::{Actor, CreateScanError, NewScan, StoreError};

/// Most schedules of an organization.
pub const SCHEDULES_OF_AN_ORG: usize = 200;
/// The runs that are kept of each schedule.
pub const RUNS_KEPT: usize = 50;

/// The scan that a schedule repeats.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduledScan {
    /// The name, unique in the organization.
    pub name: String,
    /// The nodes as the operator named them.
    pub choice: NodeChoice,
    /// The first node of the plan, which must be live. Each run is planned anew.
    pub node: NodeId,
    /// The request.
    pub request: ScanRequest,
    /// When it runs.
    pub timing: TimingText,
}

/// A schedule to create.
#[derive(Clone, Debug)]
pub struct NewSchedule {
    /// The id, chosen by the caller.
    pub id: ScheduleId,
    /// The organization.
    pub org: OrgId,
    /// The operator for whom it acts.
    pub operator: OperatorId,
    /// The scan and its times.
    pub scan: ScheduledScan,
    /// The first run, if any is left.
    pub next: Option<Run>,
    /// The current time. Intervals count from it.
    pub now: Timestamp,
}

/// A change of a schedule.
#[derive(Clone, Debug)]
pub enum ScheduleChange {
    /// Replaces the scan and its times. The operator of the change becomes responsible, and intervals count from now.
    Replace {
        /// The new scan and times.
        scan: Box<ScheduledScan>,
        /// The operator.
        operator: OperatorId,
        /// The next run.
        next: Option<Run>,
    },
    /// Pauses it. Runs of the pause are not missed.
    Pause {
        /// Why, for operators.
        reason: String,
    },
    /// Ends a pause. The operator of the change becomes responsible.
    Resume {
        /// The operator.
        operator: OperatorId,
        /// The next run.
        next: Option<Run>,
    },
    /// Deletes it. Its scans stay.
    Delete,
}

/// A schedule as operators read it.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleRow {
    /// The schedule.
    pub id: ScheduleId,
    /// The organization.
    pub org: OrgId,
    /// The operator for whom it acts.
    pub operator: OperatorId,
    /// The operator's e-mail.
    pub operator_email: String,
    /// The scan and its times.
    pub scan: ScheduledScan,
    /// The name of the first node.
    pub node_name: String,
    /// The time from which intervals count.
    pub since: Timestamp,
    /// When it was created.
    pub created_at: Timestamp,
    /// When and why it was paused.
    pub paused: Option<(Timestamp, String)>,
    /// The next run; `None` when no time is left.
    pub next: Option<Run>,
    /// The newest scan.
    pub last_scan: Option<ScanId>,
    /// The state of the newest scan, while it is stored.
    pub last_state: Option<ScanState>,
    /// The number of scans that it started.
    pub runs: u64,
    /// The number of runs that were missed because no server was running.
    pub missed: u64,
}

/// A run of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleRunRow {
    /// When it was due.
    pub due: Timestamp,
    /// When it was settled.
    pub at: Timestamp,
    /// Its scan, if it became one.
    pub scan: Option<ScanId>,
    /// The number of earlier runs that were missed.
    pub missed: u32,
    /// Why it did not become a scan.
    pub reason: String,
}

/// Why a schedule was not created or changed.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// No such schedule in this organization.
    #[error("no schedule {0} in this organization")]
    NotFound(ScheduleId),
    /// No such live node in this organization.
    #[error("no node {0} in this organization")]
    NodeNotFound(NodeId),
    /// The name is used.
    #[error("another schedule is named `{0}`: choose another name")]
    NameTaken(String),
    /// There are too many.
    #[error(
        "the organization has {SCHEDULES_OF_AN_ORG} schedules, which is the limit: delete one first"
    )]
    TooMany,
    /// It is paused already.
    #[error("schedule {0} is paused already")]
    Paused(ScheduleId),
    /// It is not paused.
    #[error("schedule {0} is not paused")]
    NotPaused(ScheduleId),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// What became of a due run.
#[derive(Clone, Debug)]
pub struct SettledRun {
    /// The schedule.
    pub schedule: ScheduleId,
    /// The next run that the caller read. When it is no longer the next run, another server settled it.
    pub expected: Run,
    /// The run that is settled: the expected one, or a later one when some were missed.
    pub due: Timestamp,
    /// The number of missed runs.
    pub missed: u32,
    /// The run after it.
    pub next: Option<Run>,
    /// The scan to create, or why there is none.
    pub scan: Result<Box<NewScan>, String>,
    /// The current time.
    pub now: Timestamp,
}

/// The effect of settling a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The scan was created, with shares of these nodes.
    Scan(ScanId, Vec<NodeId>),
    /// The run was left out.
    LeftOut(String),
    /// The schedule was paused.
    Paused(String),
    /// Another server settled the run, or the schedule was changed meanwhile.
    Stale,
}

/// Why a schedule was not run by hand.
#[derive(Debug, thiserror::Error)]
pub enum RunNowError {
    /// No such schedule in this organization.
    #[error("no schedule {0} in this organization")]
    NotFound(ScheduleId),
    /// The scan of the previous run has not ended.
    #[error("scan {0} of this schedule has not ended: wait for its end, or cancel it")]
    Open(ScanId),
    /// It was changed after its scan was planned.
    #[error("schedule {0} was changed at this moment: run it again")]
    Changed(ScheduleId),
    /// The scan was not created.
    #[error(transparent)]
    Scan(#[from] CreateScanError),
}

impl From<StoreError> for RunNowError {
    fn from(error: StoreError) -> Self {
        Self::Scan(error.into())
    }
}

/// Schedules and their runs.
#[async_trait]
pub trait Schedules: Send + Sync {
    /// Returns the clock that all servers of this database share: that of PostgreSQL. A SQLite file has one server,
    /// whose clock is passed in.
    async fn shared_clock(&self, own: Timestamp) -> Result<Timestamp, StoreError>;

    /// Stores a schedule with its audit record.
    async fn create_schedule(
        &self,
        new: NewSchedule,
        actor: Actor,
    ) -> Result<ScheduleRow, ScheduleError>;

    /// Changes a schedule and records it. Returns `None` when it was deleted.
    async fn change_schedule(
        &self,
        org: OrgId,
        schedule: ScheduleId,
        change: ScheduleChange,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Option<ScheduleRow>, ScheduleError>;

    /// Lists the schedules of an organization by name.
    async fn schedules(&self, org: OrgId) -> Result<Vec<ScheduleRow>, StoreError>;

    /// Returns one schedule of an organization with its last runs, newest first.
    async fn schedule(
        &self,
        org: OrgId,
        schedule: ScheduleId,
    ) -> Result<Option<(ScheduleRow, Vec<ScheduleRunRow>)>, StoreError>;

    /// Lists schedules whose next run is due, longest first, at most `limit`.
    async fn due_schedules(
        &self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<ScheduleRow>, StoreError>;

    /// Settles a due run: in one transaction the schedule moves to its next run and the scan is created. Of several
    /// servers, one succeeds. The rules of [`fleet_inventory::firing`] decide with the rows of the transaction.
    async fn settle_run(&self, run: SettledRun) -> Result<Settled, CreateScanError>;

    /// Creates a scan of a schedule at an operator's request. Its next run stays.
    async fn run_schedule_now(
        &self,
        schedule: ScheduleId,
        scan: NewScan,
        actor: Actor,
    ) -> Result<ScanId, RunNowError>;
}
