//! Schedules: checking and storing them, and the task that starts their runs. `fleet-inventory` decides when; the store
//! makes each run happen once, however many servers share the database.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fleet_core::{OrgId, Priority, ScanId, ScheduleId, Timestamp, limits};
use fleet_discovery::NodeChoice;
use fleet_inventory::{Basis, Decision, Run, Timing, TimingText, decide};
use fleet_store::{
    Actor, CreateScanError, NewScan, NewSchedule, Queueing, ScheduleChange, ScheduleRow,
    ScheduledScan, Settled, SettledRun, StoreError,
};
use fleet_wire::RpcError;
use futures::future::join_all;

use crate::{app::App, call::OperatorCall, failure::Answered, planning};

/// Interval of looks at due runs. Times of schedules are whole minutes and seconds.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Most runs that one look settles. The others follow in the next.
const RUNS_A_LOOK: u32 = 50;
/// Why a run does not start that is late in a blackout window.
/// How long the plans of one look may take together with their wait for other plans of their organization.
const PLANNED_WITHIN: Duration = Duration::from_secs(10);

const SLOW_PLAN: &str =
    "its plan was not ready within 10 s, because other plans of the organization were computed";

const MISSED: &str = "no server was running when it was due, and a blackout window has begun since";

/// A schedule as an operator wants it.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) choice: NodeChoice,
    pub(crate) request: fleet_discovery::ScanRequest,
    pub(crate) timing: TimingText,
}

/// Reads a timing, and checks that it has runs.
pub(crate) fn timing(text: &TimingText, now: Timestamp) -> Result<Timing, RpcError> {
    let refused = |error: fleet_inventory::TimingError| {
        RpcError::invalid_argument(error.to_string())
            .with_reason("INVALID_FIELD")
            .with_fact("field", "timing")
    };
    let timing = Timing::parse(text).map_err(refused)?;
    timing.check(now).map_err(refused)?;
    Ok(timing)
}

/// Stores a schedule.
pub(crate) async fn create(
    app: &App,
    call: &OperatorCall,
    wanted: Wanted,
) -> Result<ScheduleRow, RpcError> {
    let attempt = call.attempt("schedule.create", format!("schedule {}", wanted.name));
    let created = async {
        let (id, now) = (app.environment.schedule_id(), clock(app).await?);
        let (scan, next) = checked(app, call, id, wanted, now).await?;
        let new = NewSchedule {
            id,
            org: call.org,
            operator: call.operator,
            scan,
            next,
            now,
        };
        app.store
            .create_schedule(new, call.actor())
            .await
            .answered()
    };
    attempt.or_refused(&app.auditor, created.await).await
}

/// Replaces the scan and the times of a schedule.
pub(crate) async fn update(
    app: &App,
    call: &OperatorCall,
    id: ScheduleId,
    wanted: Wanted,
) -> Result<ScheduleRow, RpcError> {
    let attempt = call.attempt("schedule.update", format!("schedule {id}"));
    let updated = async {
        let now = clock(app).await?;
        let (scan, next) = checked(app, call, id, wanted, now).await?;
        let change = ScheduleChange::Replace {
            scan: Box::new(scan),
            operator: call.operator,
            next,
        };
        changed(app, call, id, change, now).await
    };
    attempt.or_refused(&app.auditor, updated.await).await
}

/// Pauses a schedule.
pub(crate) async fn pause(
    app: &App,
    call: &OperatorCall,
    id: ScheduleId,
) -> Result<ScheduleRow, RpcError> {
    let attempt = call.attempt("schedule.pause", format!("schedule {id}"));
    let paused = async {
        let reason = format!("paused by {}", call.email);
        let now = clock(app).await?;
        changed(app, call, id, ScheduleChange::Pause { reason }, now).await
    };
    attempt.or_refused(&app.auditor, paused.await).await
}

/// Ends the pause of a schedule.
pub(crate) async fn resume(
    app: &App,
    call: &OperatorCall,
    id: ScheduleId,
) -> Result<ScheduleRow, RpcError> {
    let attempt = call.attempt("schedule.resume", format!("schedule {id}"));
    let resumed = async {
        let (row, now) = (get(app, call, id).await?, clock(app).await?);
        let timing = timing(&row.scan.timing, now)?;
        let change = ScheduleChange::Resume {
            operator: call.operator,
            next: timing.runs(basis(&row), now).next(),
        };
        changed(app, call, id, change, now).await
    };
    attempt.or_refused(&app.auditor, resumed.await).await
}

/// Deletes a schedule.
pub(crate) async fn delete(app: &App, call: &OperatorCall, id: ScheduleId) -> Result<(), RpcError> {
    let attempt = call.attempt("schedule.delete", format!("schedule {id}"));
    let (change, now) = (ScheduleChange::Delete, app.environment.now());
    let store = &app.store;
    let deleted = store.change_schedule(call.org, id, change, call.actor(), now);
    attempt.or_refused(&app.auditor, deleted.await).await?;
    Ok(())
}

/// Starts the scan of a schedule for the operator who asks.
pub(crate) async fn run_now(
    app: &Arc<App>,
    call: &OperatorCall,
    id: ScheduleId,
) -> Result<ScanId, RpcError> {
    let attempt = call.attempt("scan.start", format!("schedule {id}"));
    let started = async {
        let row = get(app, call, id).await?;
        let scan = row.scan;
        let planned = planning::planned(app, call.org, &scan.choice, &scan.request).await?;
        if let Some(blackout) = planned.blackout {
            return Err(blackout.refusal());
        }
        let shares = planned.shares();
        let nodes: Vec<_> = shares.iter().map(|share| share.node).collect();
        let now = app.environment.now();
        let new = NewScan {
            id: app.environment.scan_id(),
            org: call.org,
            choice: scan.choice,
            shares,
            operator: call.operator,
            request_id: None,
            name: scan.name,
            request: scan.request,
            plan: planned.joint.plan,
            priority: Priority::Interactive,
            queueing: Queueing::Until(now.plus(limits::QUEUE_FOR)),
            ignores_blackout: false,
            now,
        };
        let started = app.store.run_schedule_now(id, new, call.actor());
        let scan = started.await.answered()?;
        for node in nodes {
            app.notify_node(node);
        }
        Ok::<_, RpcError>(scan)
    };
    attempt.or_refused(&app.auditor, started.await).await
}

/// One schedule of the operator's organization.
pub(crate) async fn get(
    app: &App,
    call: &OperatorCall,
    id: ScheduleId,
) -> Result<ScheduleRow, RpcError> {
    let found = app.store.schedule(call.org, id).await.answered()?;
    found.map(|(row, _)| row).ok_or_else(|| unknown(id))
}

/// The answer about a schedule that the organization does not have.
pub(crate) fn unknown(id: ScheduleId) -> RpcError {
    RpcError::not_found(format!("no schedule {id} in this organization"))
        .with_reason("SCHEDULE_NOT_FOUND")
        .with_fact("schedule_id", id)
}

/// The clock that all servers share.
pub(crate) async fn clock(app: &App) -> Result<Timestamp, RpcError> {
    app.store
        .shared_clock(app.environment.now())
        .await
        .answered()
}

async fn changed(
    app: &App,
    call: &OperatorCall,
    id: ScheduleId,
    change: ScheduleChange,
    now: Timestamp,
) -> Result<ScheduleRow, RpcError> {
    let store = &app.store;
    let changed = store.change_schedule(call.org, id, change, call.actor(), now);
    changed.await.answered()?.ok_or_else(|| unknown(id))
}

/// Checks a schedule, and finds its first run.
async fn checked(
    app: &App,
    call: &OperatorCall,
    id: ScheduleId,
    wanted: Wanted,
    now: Timestamp,
) -> Result<(ScheduledScan, Option<Run>), RpcError> {
    let timing = timing(&wanted.timing, now)?;
    let planned = planning::planned(app, call.org, &wanted.choice, &wanted.request).await?;
    let basis = Basis {
        schedule: Some(id),
        since: now,
    };
    let next = timing.runs(basis, now).next();
    let scan = ScheduledScan {
        name: wanted.name,
        node: planned.first,
        choice: wanted.choice,
        request: wanted.request,
        timing: timing.text(),
    };
    Ok((scan, next))
}

fn basis(row: &ScheduleRow) -> Basis {
    Basis {
        schedule: Some(row.id),
        since: row.since,
    }
}

/// Starts due runs until the server drains.
pub(crate) async fn run(app: Arc<App>) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = app.drain.cancelled() => return,
            _ = looks.tick() => {}
        }
        if let Err(error) = look(&app).await {
            tracing::warn!(%error, "cannot start the runs of schedules");
        }
    }
}

async fn look(app: &Arc<App>) -> Result<(), StoreError> {
    let now = app.store.shared_clock(app.environment.now()).await?;
    let mut by_org: BTreeMap<OrgId, Vec<ScheduleRow>> = BTreeMap::new();
    for row in app.store.due_schedules(now, RUNS_A_LOOK).await? {
        by_org.entry(row.org).or_default().push(row);
    }
    let planned_until = tokio::time::Instant::now() + PLANNED_WITHIN;
    // At a time, because a plan waits for the other plans of its organization.
    let settled = by_org.into_values().map(async |rows| {
        for row in rows {
            if app.drain.is_cancelled() {
                break;
            }
            settle(app, row, now, planned_until).await?;
        }
        Ok(())
    });
    join_all(settled).await.into_iter().collect()
}

/// Settles the due runs of one schedule.
async fn settle(
    app: &Arc<App>,
    row: ScheduleRow,
    now: Timestamp,
    planned_until: tokio::time::Instant,
) -> Result<(), StoreError> {
    let Some(expected) = row.next else {
        return Ok(());
    };
    let timing = match Timing::parse(&row.scan.timing) {
        Ok(timing) => timing,
        // The rules that this program has can be other than those with which it was stored.
        Err(error) => return give_up(app, &row, &error.to_string(), now).await,
    };
    let (due, missed, next, is_due) = match decide(&timing, basis(&row), expected, now) {
        Decision::Wait => return Ok(()),
        Decision::Start { run, missed, next } => (run.due, missed, next, true),
        Decision::Missed { missed, next } => (expected.due, missed, next, false),
    };
    let scan = if is_due {
        new_scan(app, &row, next, now, planned_until).await
    } else {
        Err(MISSED.to_owned())
    };
    let mut run = SettledRun {
        schedule: row.id,
        expected,
        due,
        missed,
        next,
        scan,
        now,
    };
    let settled = match app.store.settle_run(run.clone()).await {
        Err(CreateScanError::Storage(error)) => return Err(error),
        Err(refused) => {
            run.scan = Err(refused.to_string());
            match app.store.settle_run(run).await {
                Err(CreateScanError::Storage(error)) => return Err(error),
                Err(_) | Ok(_) => Settled::LeftOut(refused.to_string()),
            }
        }
        Ok(settled) => settled,
    };
    let schedule = row.id;
    match settled {
        Settled::Scan(scan, nodes) => {
            let shares = nodes.len();
            tracing::info!(%schedule, %scan, shares, missed, "a schedule started a scan");
            for node in nodes {
                app.notify_node(node);
            }
        }
        Settled::LeftOut(reason) => {
            tracing::warn!(%schedule, reason, missed, "a run of a schedule was left out")
        }
        Settled::Paused(reason) => tracing::warn!(%schedule, reason, "a schedule was paused"),
        Settled::Stale => {}
    }
    Ok(())
}

/// Plans the scan of a run. A refusal becomes the sentence that operators read.
async fn new_scan(
    app: &App,
    row: &ScheduleRow,
    next: Option<Run>,
    now: Timestamp,
    planned_until: tokio::time::Instant,
) -> Result<Box<NewScan>, String> {
    let planned = planning::planned(app, row.org, &row.scan.choice, &row.scan.request);
    let planned = tokio::time::timeout_at(planned_until, planned).await;
    let planned = planned.map_err(|_| SLOW_PLAN)?;
    let planned = planned.map_err(|error| error.message)?;
    // Waiting longer than until the next run would only leave that one out.
    let wait = next.map_or(limits::QUEUE_FOR, |next| {
        next.at.since(now).min(limits::QUEUE_FOR)
    });
    let now = app.environment.now();
    // A run in a blackout of its site waits for the end of the blackout.
    let blackout = planned.blackout.as_ref();
    let held = blackout.map(|blackout| blackout.end.at.since(now));
    let wait = wait.max(held.map_or(Duration::ZERO, |held| held + limits::QUEUE_FOR));
    Ok(Box::new(NewScan {
        id: app.environment.scan_id(),
        org: row.org,
        choice: row.scan.choice.clone(),
        shares: planned.shares(),
        operator: row.operator,
        request_id: None,
        name: row.scan.name.clone(),
        request: row.scan.request.clone(),
        plan: planned.joint.plan,
        priority: Priority::Scheduled,
        queueing: Queueing::Until(now.plus(wait)),
        ignores_blackout: false,
        now,
    }))
}

async fn give_up(
    app: &App,
    row: &ScheduleRow,
    error: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let schedule = row.id;
    tracing::warn!(%schedule, error, "a schedule cannot be read and is paused");
    let reason = format!("its times cannot be read: {error}");
    let change = ScheduleChange::Pause { reason };
    let store = &app.store;
    let paused = store.change_schedule(row.org, row.id, change, Actor::SYSTEM, now);
    match paused.await {
        Err(fleet_store::ScheduleError::Storage(error)) => Err(error),
        // It was changed meanwhile.
        Err(_) | Ok(_) => Ok(()),
    }
}
