//! The scan operations, and the queries for scans and their logs.

mod history;

use std::{collections::BTreeMap, time::Duration};

use fleet_core::{
    enrollment::NodeState,
    outcome::{Code, Conclusion, Verdict, conclude},
};
use fleet_discovery::{Chunk, NoRoom, NodeChoice, NodeLoad, Scope, check_room};

use super::{
    audit, codec, commands,
    entity::{chunk, operator, scan, scan_event, scan_request, scan_share},
    hosts, inserts,
    locked::{LockedScan, conclusion_of_share},
    nodes,
    results::{hash_of_targets, load::nodes_of_sites},
};
use crate::{
    CreateScanError, CreatedScan, EventPage, NewScan, NewShare, NodeOfSite, Progress, Queueing,
    ScanHistory, ScanHost, ScanRow, Scans, ShareRow, StoredEvent, sql::prelude::*,
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
        let mut query = scan::Entity::find()
            .filter(scan::Column::OrgId.eq(org.0))
            .filter(scan::Column::RemovedAt.is_null());
        if let Some(node) = node {
            let of_node = scan_share::Entity::find()
                .select_only()
                .column(scan_share::Column::ScanId)
                .filter(scan_share::Column::NodeId.eq(node.0));
            query = query.filter(scan::Column::Id.in_subquery(of_node.into_query()));
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
        history::history(self.reader(), org, node)
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
        .filter(scan::Column::RemovedAt.is_null())
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

/// Reads scans as operators see them, with four queries, regardless of their number.
async fn read(
    db: &impl ConnectionTrait,
    rows: Vec<scan::Model>,
    now: Timestamp,
) -> Result<Vec<ScanRow>, DbErr> {
    let found = scan_share::Entity::find()
        .filter(scan_share::Column::ScanId.is_in(rows.iter().map(|scan| scan.id)))
        .order_by_asc(scan_share::Column::NodeId)
        .all(db)
        .await?;
    let of_shares = found.iter().map(|share| share.node_id).collect();
    let nodes = nodes_of_sites(db, &of_shares).await?;
    let mut shares: BTreeMap<AsText<ScanId>, Vec<scan_share::Model>> = BTreeMap::new();
    for share in found {
        shares.entry(share.scan_id).or_default().push(share);
    }
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
            let shares = shares.remove(&row.id).unwrap_or_default();
            let queued_until = queued_until(&shares).filter(|_| row.queues);
            Ok(ScanRow {
                id: row.id.0,
                org: OrgId(row.org_id),
                shares: shares
                    .into_iter()
                    .map(|share| shown(share, &nodes))
                    .collect::<Result<_, DbErr>>()?,
                choice: row.choice.0.clone(),
                name: row.name.clone(),
                state: row.state.0,
                priority: row.priority.0,
                request: codec::read_request(request)?,
                created_at: row.created_at.0,
                started_at: row.started_at.map(|at| at.0),
                ended_at: row.ended_at.map(|at| at.0),
                queued_until,
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

/// When the wait of the last node ends.
fn queued_until(shares: &[scan_share::Model]) -> Option<Timestamp> {
    let open = |share: &&scan_share::Model| !share.state.0.is_terminal();
    let until = |share: &scan_share::Model| share.queued_until.0;
    let waiting = shares.iter().filter(open).map(until).max();
    waiting.or_else(|| shares.iter().map(until).max())
}

fn shown(
    share: scan_share::Model,
    nodes: &BTreeMap<NodeId, NodeOfSite>,
) -> Result<ShareRow, DbErr> {
    let targets = read_count(share.targets)?;
    let node = nodes.get(&NodeId(share.node_id));
    let node = node.ok_or_else(|| unreadable("scan share", "its node is missing"))?;
    Ok(ShareRow {
        node: NodeId(share.node_id),
        node_name: node.name.clone(),
        site: node.site,
        site_name: node.site_name.clone(),
        state: share.state.0,
        targets,
        done: scaled(share.units_done, share.units, targets)?,
        chunks: read_count(share.chunks)?,
        chunks_done: read_count(share.chunks_done)?,
        conclusion: conclusion_of_share(&share)?,
    })
}

/// Scales finished units to targets. A target can be in several chunks, one for each share of its ports.
fn scaled(done: i64, units: i64, targets: u64) -> Result<u64, DbErr> {
    let (units, done): (u128, u128) = (read_count(units)?, read_count(done)?);
    let done = (done * u128::from(targets)).checked_div(units).unwrap_or(0);
    Ok(u64::try_from(done).unwrap_or(targets).min(targets))
}

/// The progress of a scan.
fn progress(row: &scan::Model, now: Timestamp) -> Result<Progress, DbErr> {
    let total: u64 = read_count(row.targets)?;
    let end = row.ended_at.map_or(now, |at| at.0);
    Ok(Progress {
        done: scaled(row.units_done, row.units, total)?,
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
    let mut nodes: Vec<NodeId> = new.shares.iter().map(|share| share.node).collect();
    nodes.sort_unstable();
    let mut full = Vec::new();
    // By id, as every transaction locks nodes.
    for id in &nodes {
        let Some(node) = nodes::lock_of(tx, new.org, *id).await? else {
            return refuse(CreateScanError::NodeNotFound(*id));
        };
        if node.state.0 != NodeState::Confirmed {
            return refuse(CreateScanError::NotConfirmed(*id));
        }
        if let Err(error) = check_node(tx, new, *id).await? {
            full.push((*id, error));
        }
    }
    // The other nodes continue without one that has no room.
    if full.len() == nodes.len()
        && let Some((_, error)) = full.pop()
    {
        return refuse(error);
    }
    let rows = rows(new)?;
    scan::Entity::insert(rows.scan)
        .exec_without_returning(tx)
        .await?;
    inserts::all(tx, rows.shares).await?;
    // In a table of its own, because a request is big and is read only with one scan.
    let request = scan_request::ActiveModel {
        scan_id: Set(AsText(new.id)),
        request: Set(codec::write_request(&new.request)?),
    };
    scan_request::Entity::insert(request)
        .exec_without_returning(tx)
        .await?;
    inserts::all(tx, rows.chunks).await?;
    let overriding = if new.ignores_blackout {
        ", in spite of the blackouts of its site"
    } else {
        ""
    };
    let subject = format!(
        "scan {} on {} ({} targets){origin}{overriding}",
        new.id,
        on(new, &nodes),
        new.plan.targets
    );
    audit::done(tx, new.org, actor, "scan.start", subject, new.now).await?;
    let Some(mut scan) = LockedScan::lock(tx, new.id).await? else {
        return Err(DbErr::RecordNotFound("the scan that was just stored".into()).into());
    };
    scan.warn(new.plan.notes.iter().cloned(), new.now).await?;
    for share in new.shares.iter().filter(|share| share.chunks == 0) {
        // Every target is skipped, so no ack will ever end this share.
        scan.end_share(share.node, conclude(&[]), new.now).await?;
    }
    for (node, error) in full {
        let verdict = Verdict::failed(Code::ResourceExhausted, error.to_string());
        scan.give_up(node, verdict, new.now).await?;
    }
    let row = scan.save().await?;
    Ok(CreatedScan {
        scan: read_one(tx, row, new.now).await?,
        existing: false,
    })
}

/// The nodes of a new scan as the audit trail shows them.
fn on(new: &NewScan, nodes: &[NodeId]) -> String {
    let ids: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    match nodes {
        [node] if new.choice == NodeChoice::Node(*node) => format!("node {node}"),
        _ => format!("{} (nodes {})", new.choice, ids.join(", ")),
    }
}

/// Checks that a node has room for the scan.
async fn check_node(
    tx: &DatabaseTransaction,
    new: &NewScan,
    node: NodeId,
) -> Result<Result<(), CreateScanError>, DbErr> {
    let shares = |states: Vec<AsText<ScanState>>| {
        scan_share::Entity::find()
            .filter(scan_share::Column::NodeId.eq(node.0))
            .filter(scan_share::Column::State.is_in(states))
            .count(tx)
    };
    let load = NodeLoad {
        busy: commands::is_busy(tx, node).await?,
        open_scans: shares(nodes::open_states()).await?,
        queued_scans: shares(vec![AsText(ScanState::Queued)]).await?,
    };
    let room = check_room(new.queueing != Queueing::Never, load);
    Ok(room.map_err(|reason| match reason {
        NoRoom::Busy => CreateScanError::Busy(node),
        NoRoom::QueueFull => CreateScanError::QueueFull {
            node,
            most: limits::QUEUED_SCANS,
        },
    }))
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// The rows of a new scan.
struct Rows {
    scan: scan::ActiveModel,
    shares: Vec<scan_share::ActiveModel>,
    chunks: Vec<chunk::ActiveModel>,
}

fn rows(new: &NewScan) -> Result<Rows, DbErr> {
    let skipped: u64 = new.plan.skipped.iter().map(|tally| tally.count).sum();
    let skipped = count(skipped);
    let targets = |scope: &Scope| count(scope.targets());
    let units = |chunks: &[Chunk]| {
        chunks
            .iter()
            .map(|chunk| targets(&chunk.scope))
            .sum::<i64>()
    };
    let planned = units(&new.plan.chunks);
    let Some(first) = new.shares.first() else {
        return Err(unreadable("scan", "it has no nodes"));
    };
    let (queues, queued_until) = match new.queueing {
        // `limits::NODE_AWAY` ends such a scan much earlier. The column only needs a value.
        Queueing::Never => (false, new.now.plus(limits::QUEUE_FOR)),
        Queueing::Until(until) => (true, until),
    };
    let scan = scan::ActiveModel {
        id: Set(AsText(new.id)),
        org_id: Set(new.org.0),
        node_id: Set(first.node.0),
        choice: Set(AsText(new.choice.clone())),
        operator_id: Set(new.operator.0),
        request_id: Set(new.request_id.clone()),
        state: Set(AsText(ScanState::Queued)),
        priority: Set(AsText(new.priority)),
        queues: Set(queues),
        created_at: Set(Micros(new.now)),
        started_at: Set(None),
        ended_at: Set(None),
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
        removed_at: Set(None),
        name: Set(new.name.clone()),
    };
    let mut left = new.plan.chunks.as_slice();
    let mut chunks: Vec<chunk::ActiveModel> = Vec::with_capacity(left.len());
    let mut shares = Vec::with_capacity(new.shares.len());
    for NewShare {
        node,
        chunks: own,
        targets: addresses,
        rate,
    } in &new.shares
    {
        let Some((own, others)) = left.split_at_checked(*own) else {
            return Err(unreadable(
                "scan",
                "its shares have more chunks than its plan",
            ));
        };
        left = others;
        shares.push(scan_share::ActiveModel {
            scan_id: Set(AsText(new.id)),
            node_id: Set(node.0),
            org_id: Set(new.org.0),
            state: Set(AsText(ScanState::Queued)),
            code: Set(None),
            reason: Set(String::new()),
            targets: Set(count(*addresses)),
            rate: Set(i64::from(*rate)),
            chunks: Set(count(own.len() as u64)),
            chunks_done: Set(0),
            units: Set(units(own)),
            units_done: Set(0),
            units_settled: Set(0),
            queued_until: Set(Micros(queued_until)),
            served_at: Set(Micros(Timestamp::from_micros(0))),
            not_before: Set(Micros(new.now)),
            busy_answers: Set(0),
        });
        for chunk in own {
            chunks.push(chunk::ActiveModel {
                scan_id: Set(AsText(new.id)),
                position: Set(count(chunks.len() as u64)),
                node_id: Set(node.0),
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
            });
        }
    }
    if !left.is_empty() {
        return Err(unreadable(
            "scan",
            "its plan has more chunks than its shares",
        ));
    }
    Ok(Rows {
        scan,
        shares,
        chunks,
    })
}
