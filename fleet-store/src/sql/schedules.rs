//! Schedules and their runs. [`SqlStore::settle_run`] is the transaction that makes each run happen once.

use std::{collections::BTreeMap, time::Duration};

use fleet_core::ScheduleId;
use fleet_inventory::{Circumstances, Firing, Run, TimingText, firing};
use sea_orm::{FromQueryResult, Statement};

use super::{
    accounts::lock_org,
    audit, codec, commands,
    entity::{node, operator, scan, schedule, schedule_run},
    nodes, scans,
};
use crate::{
    CreateScanError, NewScan, NewSchedule, RUNS_KEPT, RunNowError, SCHEDULES_OF_AN_ORG,
    ScheduleChange, ScheduleError, ScheduleRow, ScheduleRunRow, ScheduledScan, Schedules, Settled,
    SettledRun, sql::prelude::*,
};

#[derive(FromQueryResult)]
struct Clock {
    micros: i64,
}

#[async_trait]
impl Schedules for SqlStore {
    async fn shared_clock(&self, own: Timestamp) -> Result<Timestamp, StoreError> {
        if self.is_sqlite() {
            return Ok(own);
        }
        let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS micros";
        let db = self.reader();
        let read = Clock::find_by_statement(Statement::from_string(db.get_database_backend(), sql));
        let clock = read.one(db).await.during("shared_clock")?;
        Ok(clock.map_or(own, |clock| Timestamp::from_micros(clock.micros)))
    }

    async fn create_schedule(
        &self,
        new: NewSchedule,
        actor: Actor,
    ) -> Result<ScheduleRow, ScheduleError> {
        transaction!(self, "create_schedule", |tx| {
            // Two operators must not both create the last one.
            lock_org(tx, new.org).await?;
            let of_org = schedule::Entity::find().filter(schedule::Column::OrgId.eq(new.org.0));
            if of_org.count(tx).await? >= SCHEDULES_OF_AN_ORG as u64 {
                return refuse(ScheduleError::TooMany);
            }
            check(tx, new.org, new.id, &new.scan).await?;
            let row = schedule::ActiveModel {
                id: Set(AsText(new.id)),
                org_id: Set(new.org.0),
                operator_id: Set(new.operator.0),
                created_at: Set(Micros(new.now)),
                paused_at: Set(None),
                paused_reason: Set(String::new()),
                last_scan: Set(None),
                runs: Set(0),
                missed: Set(0),
                ..replaced(&new.scan, new.next, new.now)?
            };
            schedule::Entity::insert(row)
                .exec_without_returning(tx)
                .await?;
            let subject = shown(new.id, &new.scan.name);
            audit::done(tx, new.org, &actor, "schedule.create", subject, new.now).await?;
            match find(tx, new.org, new.id).await? {
                Some(row) => Ok(row),
                None => Err(unreadable("schedule", "it vanished").into()),
            }
        })
    }

    async fn change_schedule(
        &self,
        org: OrgId,
        id: ScheduleId,
        change: ScheduleChange,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Option<ScheduleRow>, ScheduleError> {
        transaction!(self, "change_schedule", |tx| {
            let Some(row) = lock(tx, id).await?.filter(|row| row.org_id == org.0) else {
                return refuse(ScheduleError::NotFound(id));
            };
            let subject = shown(id, &row.name);
            let (action, changed) = match &change {
                ScheduleChange::Replace {
                    scan,
                    operator,
                    next,
                } => {
                    check(tx, org, id, scan).await?;
                    let changed = schedule::ActiveModel {
                        operator_id: Set(operator.0),
                        ..replaced(scan, *next, now)?
                    };
                    ("schedule.update", changed)
                }
                ScheduleChange::Pause { reason } => {
                    if row.paused_at.is_some() {
                        return refuse(ScheduleError::Paused(id));
                    }
                    ("schedule.pause", paused(reason, now))
                }
                ScheduleChange::Resume { operator, next } => {
                    if row.paused_at.is_none() {
                        return refuse(ScheduleError::NotPaused(id));
                    }
                    let changed = schedule::ActiveModel {
                        operator_id: Set(operator.0),
                        paused_at: Set(None),
                        paused_reason: Set(String::new()),
                        ..moved(*next)
                    };
                    ("schedule.resume", changed)
                }
                ScheduleChange::Delete => {
                    delete(tx, id).await?;
                    audit::done(tx, org, &actor, "schedule.delete", subject, now).await?;
                    return Ok(None);
                }
            };
            update(tx, id, changed).await?;
            audit::done(tx, org, &actor, action, subject, now).await?;
            Ok(find(tx, org, id).await?)
        })
    }

    async fn schedules(&self, org: OrgId) -> Result<Vec<ScheduleRow>, StoreError> {
        let of_org = schedule::Entity::find()
            .filter(schedule::Column::OrgId.eq(org.0))
            .order_by_asc(schedule::Column::Name);
        read_all(self.reader(), "schedules", of_org, SCHEDULES_OF_AN_ORG).await
    }

    async fn schedule(
        &self,
        org: OrgId,
        id: ScheduleId,
    ) -> Result<Option<(ScheduleRow, Vec<ScheduleRunRow>)>, StoreError> {
        let found = async {
            let db = self.reader();
            let Some(row) = find(db, org, id).await? else {
                return Ok(None);
            };
            let runs = schedule_run::Entity::find()
                .filter(schedule_run::Column::ScheduleId.eq(AsText(id)))
                .order_by_desc(schedule_run::Column::At)
                .all(db)
                .await?;
            let runs: Result<_, DbErr> = runs.into_iter().map(read_run).collect();
            Ok(Some((row, runs?)))
        };
        found.await.during("schedule")
    }

    async fn due_schedules(
        &self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<ScheduleRow>, StoreError> {
        let due = schedule::Entity::find()
            .filter(schedule::Column::PausedAt.is_null())
            .filter(schedule::Column::NextAt.lte(Micros(now)))
            .order_by_asc(schedule::Column::NextAt);
        read_all(self.reader(), "due_schedules", due, limit as usize).await
    }

    async fn settle_run(&self, run: SettledRun) -> Result<Settled, CreateScanError> {
        transaction!(self, "settle_run", |tx| {
            let row = lock(tx, run.schedule).await?;
            let is_next = |row: &schedule::Model| {
                row.paused_at.is_none() && row.next_due == Some(Micros(run.expected.due))
            };
            let Some(row) = row.filter(is_next) else {
                return Ok(Settled::Stale);
            };
            let facts = circumstances(tx, &row).await?;
            let (settled, scan) = match (firing(facts), &run.scan) {
                (Firing::Pause(reason), _) => {
                    update(tx, run.schedule, paused(reason, run.now)).await?;
                    let (org, subject) = (OrgId(row.org_id), shown(run.schedule, &row.name));
                    let subject = format!("{subject}: {reason}");
                    let actor = Actor::SYSTEM;
                    audit::done(tx, org, &actor, "schedule.pause", subject, run.now).await?;
                    (Settled::Paused(reason.to_owned()), None)
                }
                (Firing::Skip(reason), _) => (Settled::LeftOut(reason.to_owned()), None),
                (Firing::Scan, Err(reason)) => (Settled::LeftOut(reason.clone()), None),
                (Firing::Scan, Ok(new)) => {
                    // A schedule that was changed since the plan was made runs as it is now.
                    let is_same = plans(&row, new)?;
                    if !is_same || new.operator.0 != row.operator_id {
                        return Ok(Settled::Stale);
                    }
                    let subject = format!(" of {}", shown(run.schedule, &row.name));
                    scans::insert(tx, new, &Actor::SYSTEM, &subject).await?;
                    let nodes = new.shares.iter().map(|share| share.node).collect();
                    (Settled::Scan(new.id, nodes), Some(new.id))
                }
            };
            let mut next = moved(run.next);
            next.missed = Set(row.missed + i64::from(run.missed));
            if let Some(scan) = scan {
                next.last_scan = Set(Some(AsText(scan)));
                next.runs = Set(row.runs + 1);
            }
            update(tx, run.schedule, next).await?;
            let reason = match &settled {
                Settled::LeftOut(reason) | Settled::Paused(reason) => reason.clone(),
                Settled::Scan(..) | Settled::Stale => String::new(),
            };
            let happened = ScheduleRunRow {
                due: run.due,
                at: run.now,
                scan,
                missed: run.missed,
                reason,
            };
            remember(tx, run.schedule, happened).await?;
            Ok(settled)
        })
    }

    async fn run_schedule_now(
        &self,
        id: ScheduleId,
        new: NewScan,
        actor: Actor,
    ) -> Result<ScanId, RunNowError> {
        transaction!(self, "run_schedule_now", |tx| {
            let row = lock(tx, id).await?;
            let Some(row) = row.filter(|row| row.org_id == new.org.0) else {
                return refuse(RunNowError::NotFound(id));
            };
            if !plans(&row, &new)? {
                return refuse(RunNowError::Changed(id));
            }
            if let Some(open) = open_scan(tx, &row).await? {
                return refuse(RunNowError::Open(open));
            }
            let subject = format!(" of {}", shown(id, &row.name));
            match scans::insert(tx, &new, &actor, &subject).await {
                Ok(_) => {}
                Err(Failure::Refused(error)) => return refuse(RunNowError::Scan(error)),
                Err(Failure::Database(error)) => return Err(Failure::Database(error)),
                Err(Failure::Uncommitted(error)) => return Err(Failure::Uncommitted(error)),
            }
            let changed = schedule::ActiveModel {
                last_scan: Set(Some(AsText(new.id))),
                runs: Set(row.runs + 1),
                ..Default::default()
            };
            update(tx, id, changed).await?;
            let happened = ScheduleRunRow {
                due: new.now,
                at: new.now,
                scan: Some(new.id),
                missed: 0,
                reason: String::new(),
            };
            remember(tx, id, happened).await?;
            Ok(new.id)
        })
    }
}

/// Whether a scan was planned for what the schedule says now.
fn plans(row: &schedule::Model, new: &NewScan) -> Result<bool, DbErr> {
    Ok(new.choice == row.choice.0 && codec::read_request(&row.request)? == new.request)
}

fn shown(id: ScheduleId, name: &str) -> String {
    format!("schedule {id} ({name})")
}

/// Checks that the node lives and that the name is free.
async fn check(
    tx: &DatabaseTransaction,
    org: OrgId,
    id: ScheduleId,
    scan: &ScheduledScan,
) -> Result<(), Failure<ScheduleError>> {
    if nodes::lock_of(tx, org, scan.node).await?.is_none() {
        return refuse(ScheduleError::NodeNotFound(scan.node));
    }
    let named = schedule::Entity::find()
        .filter(schedule::Column::OrgId.eq(org.0))
        .filter(schedule::Column::Name.eq(&scan.name))
        .filter(schedule::Column::Id.ne(AsText(id)))
        .count(tx)
        .await?;
    if named > 0 {
        return refuse(ScheduleError::NameTaken(scan.name.clone()));
    }
    Ok(())
}

fn replaced(
    scan: &ScheduledScan,
    next: Option<Run>,
    now: Timestamp,
) -> Result<schedule::ActiveModel, DbErr> {
    Ok(schedule::ActiveModel {
        node_id: Set(scan.node.0),
        choice: Set(AsText(scan.choice.clone())),
        name: Set(scan.name.clone()),
        request: Set(codec::write_request(&scan.request)?),
        recurrence: Set(scan.timing.when.clone()),
        zone: Set(scan.timing.zone.clone()),
        jitter_s: Set(count(scan.timing.jitter.as_secs())),
        blackouts: Set(scan.timing.blackouts.clone()),
        since: Set(Micros(now)),
        ..moved(next)
    })
}

fn moved(next: Option<Run>) -> schedule::ActiveModel {
    schedule::ActiveModel {
        next_due: Set(next.map(|run| Micros(run.due))),
        next_at: Set(next.map(|run| Micros(run.at))),
        ..Default::default()
    }
}

fn paused(reason: &str, now: Timestamp) -> schedule::ActiveModel {
    schedule::ActiveModel {
        paused_at: Set(Some(Micros(now))),
        paused_reason: Set(reason.to_owned()),
        ..Default::default()
    }
}

async fn update(
    tx: &DatabaseTransaction,
    id: ScheduleId,
    changed: schedule::ActiveModel,
) -> Result<(), DbErr> {
    schedule::Entity::update_many()
        .set(changed)
        .filter(schedule::Column::Id.eq(AsText(id)))
        .exec(tx)
        .await?;
    Ok(())
}

async fn delete(tx: &DatabaseTransaction, id: ScheduleId) -> Result<(), DbErr> {
    schedule_run::Entity::delete_many()
        .filter(schedule_run::Column::ScheduleId.eq(AsText(id)))
        .exec(tx)
        .await?;
    schedule::Entity::delete_by_id(AsText(id)).exec(tx).await?;
    Ok(())
}

async fn lock(tx: &DatabaseTransaction, id: ScheduleId) -> Result<Option<schedule::Model>, DbErr> {
    schedule::Entity::find_by_id(AsText(id))
        .lock(LockType::NoKeyUpdate)
        .one(tx)
        .await
}

/// The scan of the schedule's newest run, if it has not ended.
async fn open_scan(
    tx: &DatabaseTransaction,
    row: &schedule::Model,
) -> Result<Option<ScanId>, DbErr> {
    let Some(last) = row.last_scan else {
        return Ok(None);
    };
    let found = scan::Entity::find_by_id(last).one(tx).await?;
    Ok(found
        .filter(|scan| !scan.state.0.is_terminal())
        .map(|scan| scan.id.0))
}

async fn circumstances(
    tx: &DatabaseTransaction,
    row: &schedule::Model,
) -> Result<Circumstances, DbErr> {
    let creator = operator::Entity::find_by_id(row.operator_id)
        .one(tx)
        .await?
        .filter(|operator| operator.removed_at.is_none());
    Ok(Circumstances {
        creator: creator.map(|operator| operator.role.0),
        previous_is_open: open_scan(tx, row).await?.is_some(),
    })
}

/// Stores a run, and deletes the oldest beyond the limit.
async fn remember(
    tx: &DatabaseTransaction,
    id: ScheduleId,
    run: ScheduleRunRow,
) -> Result<(), DbErr> {
    let row = schedule_run::ActiveModel {
        schedule_id: Set(AsText(id)),
        at: Set(Micros(run.at)),
        due: Set(Micros(run.due)),
        scan_id: Set(run.scan.map(AsText)),
        missed: Set(i64::from(run.missed)),
        reason: Set(run.reason),
    };
    let newest = OnConflict::columns([schedule_run::Column::ScheduleId, schedule_run::Column::At])
        .update_columns([
            schedule_run::Column::Due,
            schedule_run::Column::ScanId,
            schedule_run::Column::Missed,
            schedule_run::Column::Reason,
        ])
        .to_owned();
    schedule_run::Entity::insert(row)
        .on_conflict(newest)
        .exec_without_returning(tx)
        .await?;
    let oldest = schedule_run::Entity::find()
        .filter(schedule_run::Column::ScheduleId.eq(AsText(id)))
        .order_by_desc(schedule_run::Column::At)
        .offset(RUNS_KEPT as u64)
        .limit(1)
        .one(tx)
        .await?;
    if let Some(oldest) = oldest {
        schedule_run::Entity::delete_many()
            .filter(schedule_run::Column::ScheduleId.eq(AsText(id)))
            .filter(schedule_run::Column::At.lte(oldest.at))
            .exec(tx)
            .await?;
    }
    Ok(())
}

fn read_run(row: schedule_run::Model) -> Result<ScheduleRunRow, DbErr> {
    Ok(ScheduleRunRow {
        due: row.due.0,
        at: row.at.0,
        scan: row.scan_id.map(|scan| scan.0),
        missed: read_count(row.missed)?,
        reason: row.reason,
    })
}

async fn find(
    db: &impl ConnectionTrait,
    org: OrgId,
    id: ScheduleId,
) -> Result<Option<ScheduleRow>, DbErr> {
    let row = schedule::Entity::find_by_id(AsText(id))
        .filter(schedule::Column::OrgId.eq(org.0))
        .one(db)
        .await?;
    Ok(read(db, row.into_iter().collect()).await?.pop())
}

/// Reads the first schedules of a query. One that cannot be read is logged and skipped, because it must not hold up the
/// others.
async fn read_all(
    db: &impl ConnectionTrait,
    operation: &'static str,
    query: Select<schedule::Entity>,
    limit: usize,
) -> Result<Vec<ScheduleRow>, StoreError> {
    let first = query.clone().limit(limit as u64);
    let together = async { read(db, first.all(db).await?).await };
    match together.await.during(operation) {
        Err(StoreError::Broken { .. }) => {}
        other => return other,
    }
    // One of them cannot be read: each by itself.
    let ids = query
        .select_only()
        .column(schedule::Column::Id)
        .into_tuple::<String>()
        .all(db)
        .await
        .during(operation)?;
    let mut rows: Vec<ScheduleRow> = Vec::new();
    for id in ids {
        if rows.len() >= limit {
            break;
        }
        let Some(id) = commands::read_id::<ScheduleId>("schedule", &id) else {
            continue;
        };
        let found = schedule::Entity::find_by_id(AsText(id)).all(db);
        let one = async { read(db, found.await?).await };
        rows.extend(commands::skip_unreadable(&id, one.await.during(operation))?);
    }
    Ok(rows)
}

/// Reads schedules as operators see them, with three queries, regardless of their number.
async fn read(
    db: &impl ConnectionTrait,
    rows: Vec<schedule::Model>,
) -> Result<Vec<ScheduleRow>, DbErr> {
    let of_nodes = rows.iter().map(|row| row.node_id);
    let nodes = node::Entity::find().filter(node::Column::Id.is_in(of_nodes));
    let nodes: BTreeMap<i64, String> = nodes
        .all(db)
        .await?
        .into_iter()
        .map(|node| (node.id, node.name))
        .collect();
    let of_operators = rows.iter().map(|row| row.operator_id);
    let operators = operator::Entity::find().filter(operator::Column::Id.is_in(of_operators));
    let operators: BTreeMap<i64, String> = operators
        .all(db)
        .await?
        .into_iter()
        .map(|operator| (operator.id, operator.email))
        .collect();
    let of_scans = rows.iter().filter_map(|row| row.last_scan);
    let states = scan::Entity::find()
        .filter(scan::Column::Id.is_in(of_scans))
        .select_only()
        .column(scan::Column::Id)
        .column(scan::Column::State)
        .into_tuple::<(AsText<ScanId>, AsText<ScanState>)>()
        .all(db)
        .await?;
    let states: BTreeMap<ScanId, ScanState> = states
        .into_iter()
        .map(|(scan, state)| (scan.0, state.0))
        .collect();
    rows.into_iter()
        .map(|row| {
            Ok(ScheduleRow {
                id: row.id.0,
                org: OrgId(row.org_id),
                operator: OperatorId(row.operator_id),
                operator_email: operators.get(&row.operator_id).cloned().unwrap_or_default(),
                node_name: nodes.get(&row.node_id).cloned().unwrap_or_default(),
                since: row.since.0,
                created_at: row.created_at.0,
                paused: row.paused_at.map(|at| (at.0, row.paused_reason)),
                next: row.next_due.zip(row.next_at).map(|(due, at)| Run {
                    due: due.0,
                    at: at.0,
                }),
                last_scan: row.last_scan.map(|scan| scan.0),
                last_state: row.last_scan.and_then(|scan| states.get(&scan.0).copied()),
                runs: read_count(row.runs)?,
                missed: read_count(row.missed)?,
                scan: ScheduledScan {
                    name: row.name,
                    choice: row.choice.0,
                    node: NodeId(row.node_id),
                    request: codec::read_request(&row.request)?,
                    timing: TimingText {
                        when: row.recurrence,
                        zone: row.zone,
                        jitter: Duration::from_secs(read_count(row.jitter_s)?),
                        blackouts: row.blackouts,
                    },
                },
            })
        })
        .collect()
}
