//! The scan operations, and the queries for scans and their logs.

mod retention;

use std::{collections::BTreeMap, time::Duration};

use fleet_core::{enrollment::NodeState, outcome::Conclusion};
use fleet_discovery::{NoRoom, NodeLoad, OpenScan, PastScan, Scope, check_room};

use super::{
    audit, codec, commands,
    entity::{chunk, node, operator, scan, scan_event, scan_request},
    hosts, inserts,
    locked::LockedScan,
    nodes,
    results::hash_of_targets,
};
use crate::{
    CreateScanError, CreatedScan, EventPage, NewScan, Progress, Queueing, ScanHistory, ScanHost,
    ScanRow, Scans, StoredEvent, sql::prelude::*,
};

#[async_trait]
impl Scans for SqlStore {
    async fn create_scan(
        &self,
        new: NewScan,
        actor: Actor,
    ) -> Result<CreatedScan, CreateScanError> {
        transaction!(self, "create_scan", |tx| {
            // Of two equal requests at the same time, one violates the unique index, runs again and
            // ends here.
            if let Some(request_id) = &new.request_id
                && let Some(scan) = by_request_id(tx, new.org, request_id, new.now).await?
            {
                return Ok(CreatedScan {
                    scan,
                    existing: true,
                });
            }
            insert(tx, &new, &actor, "").await
        })
    }

    async fn scan(
        &self,
        org: OrgId,
        scan: ScanId,
        now: Timestamp,
    ) -> Result<Option<ScanRow>, StoreError> {
        let found = async {
            match of_org(self.reader(), org, scan).await? {
                Some(row) => read_one(self.reader(), row, now).await.map(Some),
                None => Ok(None),
            }
        };
        found.await.during("scan")
    }

    async fn scan_by_request(
        &self,
        org: OrgId,
        request_id: &str,
        now: Timestamp,
    ) -> Result<Option<ScanRow>, StoreError> {
        by_request_id(self.reader(), org, request_id, now)
            .await
            .during("scan_by_request")
    }

    async fn list_scans(
        &self,
        org: OrgId,
        node: Option<NodeId>,
        before: Option<ScanId>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<ScanRow>, StoreError> {
        let mut query = scan::Entity::find().filter(scan::Column::OrgId.eq(org.0));
        if let Some(node) = node {
            query = query.filter(scan::Column::NodeId.eq(node.0));
        }
        if let Some(before) = before {
            query = query.filter(scan::Column::Id.lt(AsText(before)));
        }
        let found = async {
            // Ids contain their time, so their order is the order of creation.
            let rows = query
                .order_by_desc(scan::Column::Id)
                .limit(u64::from(limit))
                .all(self.reader())
                .await?;
            read(self.reader(), rows, now).await
        };
        found.await.during("list_scans")
    }

    async fn scan_history(&self, org: OrgId, node: NodeId) -> Result<ScanHistory, StoreError> {
        history(self.reader(), org, node)
            .await
            .during("scan_history")
    }

    async fn read_events(
        &self,
        org: OrgId,
        scan: ScanId,
        after: i64,
        limit: u32,
        now: Timestamp,
    ) -> Result<Option<EventPage>, StoreError> {
        let page = async {
            // The scan is read first: if it has ended, its terminal event is already in the log.
            let Some(row) = of_org(self.reader(), org, scan).await? else {
                return Ok(None);
            };
            let events = scan_event::Entity::find()
                .filter(scan_event::Column::ScanId.eq(AsText(scan)))
                .filter(scan_event::Column::Sequence.gt(after))
                .order_by_asc(scan_event::Column::Sequence)
                .limit(u64::from(limit))
                .all(self.reader())
                .await?;
            let events = events
                .into_iter()
                .map(event)
                .collect::<Result<Vec<_>, _>>()?;
            let newest = events.last().map_or(0, |event| event.sequence);
            let next = events.first().map_or(i64::MAX, |event| event.sequence);
            Ok(Some(EventPage {
                progress: progress(&row, now)?,
                state: row.state.0,
                last_sequence: row.last_sequence.max(newest),
                events,
                is_deleted: after < row.last_sequence && next > after + 1,
            }))
        };
        page.await.during("read_events")
    }

    async fn delete_old_events(
        &self,
        ended_before: Timestamp,
        limit: u32,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        transaction!(self, "delete_old_events", |tx| {
            Ok(retention::delete(tx, ended_before, u64::from(limit), now).await?)
        })
    }

    async fn scan_hosts(
        &self,
        org: OrgId,
        scan: ScanId,
        after: i64,
        limit: u32,
    ) -> Result<Option<Vec<ScanHost>>, StoreError> {
        let page = async {
            match of_org(self.reader(), org, scan).await? {
                Some(_) => hosts::page(self.reader(), scan, after, limit)
                    .await
                    .map(Some),
                None => Ok(None),
            }
        };
        page.await.during("scan_hosts")
    }
}

/// The number of ended scans of a node that show how long its next one takes.
const PAST_SCANS: u64 = 16;

async fn history(
    db: &impl ConnectionTrait,
    org: OrgId,
    node: NodeId,
) -> Result<ScanHistory, DbErr> {
    let of_node = || {
        scan::Entity::find()
            .filter(scan::Column::OrgId.eq(org.0))
            .filter(scan::Column::NodeId.eq(node.0))
    };
    let open = of_node()
        .filter(scan::Column::State.is_in(nodes::open_states()))
        .all(db)
        .await?;
    let open = open.iter().map(|row| {
        Ok(OpenScan {
            priority: row.priority.0,
            estimate: Duration::from_millis(read_count(row.estimate_ms)?),
            commands: read_count(row.chunks)?,
            is_running: row.state.0 == ScanState::Running,
        })
    });
    let open = open.collect::<Result<Vec<_>, DbErr>>()?;
    // A scan that was canceled or failed does not show how long it would have taken.
    let complete = [ScanState::Completed, ScanState::Partial].map(AsText);
    let past = of_node()
        .filter(scan::Column::State.is_in(complete))
        .order_by_desc(scan::Column::Id)
        .limit(PAST_SCANS)
        .all(db)
        .await?;
    let mut chunks: BTreeMap<AsText<ScanId>, Vec<chunk::Model>> = BTreeMap::new();
    let found = chunk::Entity::find()
        .filter(chunk::Column::ScanId.is_in(past.iter().map(|scan| scan.id)))
        .all(db)
        .await?;
    for chunk in found {
        chunks.entry(chunk.scan_id).or_default().push(chunk);
    }
    let past = past.into_iter().filter_map(|row| {
        let chunks = chunks.remove(&row.id).unwrap_or_default();
        past_scan(&row, &chunks).transpose()
    });
    Ok(ScanHistory {
        open,
        past: past.collect::<Result<Vec<_>, DbErr>>()?,
    })
}

/// None for a scan that never started.
fn past_scan(row: &scan::Model, chunks: &[chunk::Model]) -> Result<Option<PastScan>, DbErr> {
    let (Some(started), Some(ended)) = (row.started_at, row.ended_at) else {
        return Ok(None);
    };
    let Some(ledger) = row.ledger.as_deref().map(codec::read_ledger).transpose()? else {
        return Ok(None);
    };
    let mut past = PastScan {
        addresses: Vec::new(),
        ports: Vec::new(),
        commands: read_count(row.chunks)?,
        answered: ledger.identified + ledger.unidentified + ledger.refused,
        duration: ended.0.since(started.0),
    };
    for chunk in chunks {
        let list = chunk.scope.0.address_list();
        // Each share of the ports has chunks of its own with the same addresses.
        if !past.addresses.contains(&list) {
            past.addresses.push(list);
        }
        for port in codec::read_ports(&chunk.ports)? {
            if !past.ports.contains(&port) {
                past.ports.push(port);
            }
        }
    }
    Ok(Some(past))
}

fn event(row: scan_event::Model) -> Result<StoredEvent, DbErr> {
    Ok(StoredEvent {
        sequence: row.sequence,
        event: codec::read_event(&row.payload)?,
    })
}

pub(crate) async fn of_org(
    db: &impl ConnectionTrait,
    org: OrgId,
    scan: ScanId,
) -> Result<Option<scan::Model>, DbErr> {
    scan::Entity::find_by_id(AsText(scan))
        .filter(scan::Column::OrgId.eq(org.0))
        .one(db)
        .await
}

/// The scan that was created with a request id.
pub(crate) async fn by_request_id(
    db: &impl ConnectionTrait,
    org: OrgId,
    request_id: &str,
    now: Timestamp,
) -> Result<Option<ScanRow>, DbErr> {
    let found = scan::Entity::find()
        .filter(scan::Column::OrgId.eq(org.0))
        .filter(scan::Column::RequestId.eq(request_id))
        .one(db)
        .await?;
    match found {
        Some(row) => read_one(db, row, now).await.map(Some),
        None => Ok(None),
    }
}

/// Converts a row to a scan as operators see it.
pub(crate) async fn read_one(
    db: &impl ConnectionTrait,
    row: scan::Model,
    now: Timestamp,
) -> Result<ScanRow, DbErr> {
    let rows = read(db, vec![row], now).await?;
    rows.into_iter()
        .next()
        .ok_or_else(|| unreadable("scan", "it vanished"))
}

/// Reads scans as operators see them, with three queries, regardless of their number.
async fn read(
    db: &impl ConnectionTrait,
    rows: Vec<scan::Model>,
    now: Timestamp,
) -> Result<Vec<ScanRow>, DbErr> {
    let nodes: BTreeMap<i64, String> = node::Entity::find()
        .filter(node::Column::Id.is_in(rows.iter().map(|scan| scan.node_id)))
        .all(db)
        .await?
        .into_iter()
        .map(|node| (node.id, node.name))
        .collect();
    let operators: BTreeMap<i64, String> = operator::Entity::find()
        .filter(operator::Column::Id.is_in(rows.iter().map(|scan| scan.operator_id)))
        .all(db)
        .await?
        .into_iter()
        .map(|operator| (operator.id, operator.email))
        .collect();
    let requests: BTreeMap<AsText<ScanId>, String> = scan_request::Entity::find()
        .filter(scan_request::Column::ScanId.is_in(rows.iter().map(|scan| scan.id)))
        .all(db)
        .await?
        .into_iter()
        .map(|request| (request.scan_id, request.request))
        .collect();
    rows.into_iter()
        .map(|row| {
            let request = requests
                .get(&row.id)
                .ok_or_else(|| unreadable("scan", "its request is missing"))?;
            let conclusion = match &row.code {
                Some(code) if row.state.0.is_terminal() => Some(Conclusion {
                    state: row.state.0,
                    code: codec::read_code(code)?,
                    reason: row.reason.clone(),
                }),
                _ => None,
            };
            Ok(ScanRow {
                id: row.id.0,
                org: OrgId(row.org_id),
                node: NodeId(row.node_id),
                node_name: nodes.get(&row.node_id).cloned().unwrap_or_default(),
                name: row.name.clone(),
                state: row.state.0,
                priority: row.priority.0,
                request: codec::read_request(request)?,
                created_at: row.created_at.0,
                started_at: row.started_at.map(|at| at.0),
                ended_at: row.ended_at.map(|at| at.0),
                queued_until: row.queues.then_some(row.queued_until.0),
                started_by: operators.get(&row.operator_id).cloned().unwrap_or_default(),
                conclusion,
                progress: progress(&row, now)?,
                ledger: row.ledger.as_deref().map(codec::read_ledger).transpose()?,
                last_sequence: row.last_sequence,
                open_scope: row.open_scope,
                chunks: read_count(row.chunks)?,
                chunks_done: read_count(row.chunks_done)?,
                changes: row
                    .changes
                    .as_deref()
                    .map(codec::read_changes)
                    .transpose()?,
            })
        })
        .collect()
}

/// The progress of a scan. A target can be in several chunks, one for each share of its ports. The counts are
/// therefore scaled to targets.
fn progress(row: &scan::Model, now: Timestamp) -> Result<Progress, DbErr> {
    let total: u64 = read_count(row.targets)?;
    let units: u128 = read_count(row.units)?;
    let units_done: u128 = read_count(row.units_done)?;
    let done = (units_done * u128::from(total))
        .checked_div(units)
        .unwrap_or(0);
    let end = row.ended_at.map_or(now, |at| at.0);
    Ok(Progress {
        done: u64::try_from(done).unwrap_or(total).min(total),
        total,
        phase: row.phase.clone(),
        elapsed: row.started_at.map_or(Duration::ZERO, |at| end.since(at.0)),
    })
}

/// Stores a scan with its chunks and its audit record, whose subject ends with the `origin`.
pub(crate) async fn insert(
    tx: &DatabaseTransaction,
    new: &NewScan,
    actor: &Actor,
    origin: &str,
) -> Result<CreatedScan, Failure<CreateScanError>> {
    let Some(node) = nodes::lock_of(tx, new.org, new.node).await? else {
        return refuse(CreateScanError::NodeNotFound(new.node));
    };
    if node.state.0 != NodeState::Confirmed {
        return refuse(CreateScanError::NotConfirmed(new.node));
    }
    check_node(tx, new).await?;
    let (row, chunks) = rows(new)?;
    scan::Entity::insert(row).exec_without_returning(tx).await?;
    // In a table of its own, because a request is big and is read only with one scan.
    let request = scan_request::ActiveModel {
        scan_id: Set(AsText(new.id)),
        request: Set(codec::write_request(&new.request)?),
    };
    scan_request::Entity::insert(request)
        .exec_without_returning(tx)
        .await?;
    let empty = chunks.is_empty();
    inserts::all(tx, chunks).await?;
    let overriding = if new.ignores_blackout {
        ", in spite of the blackouts of its site"
    } else {
        ""
    };
    let subject = format!(
        "scan {} on node {} ({} targets){origin}{overriding}",
        new.id, new.node, new.plan.targets
    );
    audit::done(tx, new.org, actor, "scan.start", subject, new.now).await?;
    let Some(mut scan) = LockedScan::lock(tx, new.id).await? else {
        return Err(DbErr::RecordNotFound("the scan that was just stored".into()).into());
    };
    scan.warn(new.plan.notes.iter().cloned(), new.now).await?;
    // Every target is skipped, so no ack will ever end this scan.
    if empty {
        scan.conclude(new.now).await?;
    }
    let row = scan.save().await?;
    Ok(CreatedScan {
        scan: read_one(tx, row, new.now).await?,
        existing: false,
    })
}

/// Checks that the node has room for the scan.
async fn check_node(
    tx: &DatabaseTransaction,
    new: &NewScan,
) -> Result<(), Failure<CreateScanError>> {
    let scans = |states: Vec<AsText<ScanState>>| {
        scan::Entity::find()
            .filter(scan::Column::NodeId.eq(new.node.0))
            .filter(scan::Column::State.is_in(states))
            .count(tx)
    };
    let load = NodeLoad {
        busy: commands::is_busy(tx, new.node).await?,
        open_scans: scans(nodes::open_states()).await?,
        queued_scans: scans(vec![AsText(ScanState::Queued)]).await?,
    };
    match check_room(new.queueing != Queueing::Never, load) {
        Ok(()) => Ok(()),
        Err(NoRoom::Busy) => refuse(CreateScanError::Busy(new.node)),
        Err(NoRoom::QueueFull) => refuse(CreateScanError::QueueFull {
            node: new.node,
            most: limits::QUEUED_SCANS,
        }),
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn rows(new: &NewScan) -> Result<(scan::ActiveModel, Vec<chunk::ActiveModel>), DbErr> {
    let skipped: u64 = new.plan.skipped.iter().map(|tally| tally.count).sum();
    let skipped = count(skipped);
    let targets = |scope: &Scope| count(scope.targets());
    let planned: i64 = new
        .plan
        .chunks
        .iter()
        .map(|chunk| targets(&chunk.scope))
        .sum();
    let (queues, queued_until) = match new.queueing {
        // `limits::NODE_AWAY` ends such a scan much earlier. The column only needs a value.
        Queueing::Never => (false, new.now.plus(limits::QUEUE_FOR)),
        Queueing::Until(until) => (true, until),
    };
    let row = scan::ActiveModel {
        id: Set(AsText(new.id)),
        org_id: Set(new.org.0),
        node_id: Set(new.node.0),
        operator_id: Set(new.operator.0),
        request_id: Set(new.request_id.clone()),
        state: Set(AsText(ScanState::Queued)),
        priority: Set(AsText(new.priority)),
        queues: Set(queues),
        queued_until: Set(Micros(queued_until)),
        created_at: Set(Micros(new.now)),
        started_at: Set(None),
        ended_at: Set(None),
        served_at: Set(Micros(Timestamp::from_micros(0))),
        not_before: Set(Micros(new.now)),
        busy_answers: Set(0),
        cancel_until: Set(None),
        code: Set(None),
        reason: Set(String::new()),
        open_scope: Set(new.plan.open_scope),
        ignores_blackout: Set(new.ignores_blackout),
        skipped: Set(codec::write_tallies(&new.plan.skipped)?),
        chunks: Set(count(new.plan.chunks.len() as u64)),
        chunks_done: Set(0),
        targets: Set(count(new.plan.targets)),
        estimate_ms: Set(millis(new.plan.estimate)),
        units: Set(skipped + planned),
        units_done: Set(skipped),
        units_settled: Set(skipped),
        phase: Set(String::new()),
        last_sequence: Set(0),
        accepted: Set(0),
        rejected: Set(0),
        first_device_at: Set(None),
        ledger: Set(None),
        events_deleted_at: Set(None),
        targets_key: Set(Some(hash_of_targets(&new.plan.targets_key()))),
        rate: Set(i64::from(new.request.rate)),
        changes: Set(None),
        name: Set(new.name.clone()),
    };
    let chunk = |(position, chunk): (usize, &fleet_discovery::Chunk)| {
        Ok(chunk::ActiveModel {
            scan_id: Set(AsText(new.id)),
            position: Set(count(position as u64)),
            state: Set(AsText(ChunkState::Waiting)),
            command: Set(codec::write_command(&chunk.command)?),
            ports: Set(codec::write_ports(&chunk.ports)),
            scope: Set(AsText(chunk.scope.clone())),
            targets: Set(targets(&chunk.scope)),
            attempts: Set(0),
            grade: Set(None),
            code: Set(None),
            reason: Set(String::new()),
            outcomes: Set(None),
        })
    };
    let chunks = new
        .plan
        .chunks
        .iter()
        .enumerate()
        .map(chunk)
        .collect::<Result<_, DbErr>>()?;
    Ok((row, chunks))
}
