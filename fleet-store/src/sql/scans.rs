//! The scan operations: each a transaction around its function, and the reads of scans and their logs.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use fleet_core::{CommandId, Epoch, NodeId, OrgId, ScanId, Timestamp, outcome::Conclusion};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
};

use super::{
    codec, dispatch, ending,
    entity::{node, operator, scan, scan_event, scan_request},
    pins, report,
    transaction::unreadable,
    value::AsText,
};
use crate::{
    Ack, Acked, Actor, CancelScanError, Canceled, CreateScanError, CreatedScan, EventPage,
    IssuedCommand, NewReport, NewScan, Pins, PinsError, PinsTaken, Progress, ReportAnswer,
    ReportError, ScanRow, Scans, SqlStore, StoreError, StoredEvent, Swept,
};

#[async_trait]
impl Scans for SqlStore {
    async fn create_scan(
        &self,
        new: NewScan,
        actor: Actor,
    ) -> Result<CreatedScan, CreateScanError> {
        self.transaction("create_scan", (new, actor), |tx, (new, actor)| {
            Box::pin(dispatch::create(tx, new, actor))
        })
        .await
    }

    async fn issue_command(
        &self,
        node: NodeId,
        epoch: Epoch,
        command: CommandId,
        now: Timestamp,
    ) -> Result<Option<IssuedCommand>, StoreError> {
        self.transaction(
            "issue_command",
            (node, epoch, command, now),
            |tx, (node, epoch, command, now)| {
                Box::pin(dispatch::issue(tx, *node, *epoch, *command, *now))
            },
        )
        .await
    }

    async fn withdraw_command(&self, command: CommandId, now: Timestamp) -> Result<(), StoreError> {
        self.transaction("withdraw_command", (command, now), |tx, (command, now)| {
            Box::pin(dispatch::withdraw(tx, *command, *now))
        })
        .await
    }

    async fn record_report(&self, report: NewReport) -> Result<ReportAnswer, ReportError> {
        self.transaction("record_report", report, |tx, report| {
            Box::pin(report::record(tx, report))
        })
        .await
    }

    async fn record_pins(&self, pins: Pins) -> Result<PinsTaken, PinsError> {
        self.transaction("record_pins", pins, |tx, pins| {
            Box::pin(pins::record(tx, pins))
        })
        .await
    }

    async fn record_ack(&self, ack: Ack) -> Result<Acked, StoreError> {
        self.transaction("record_ack", ack, |tx, ack| Box::pin(ending::ack(tx, ack)))
            .await
    }

    async fn record_progress(
        &self,
        node: NodeId,
        epoch: Epoch,
        command: CommandId,
        done: u64,
        phase: &str,
    ) -> Result<Option<ScanId>, StoreError> {
        self.transaction(
            "record_progress",
            (node, epoch, command, done, phase),
            |tx, (node, epoch, command, done, phase)| {
                Box::pin(ending::progress(tx, *node, *epoch, *command, *done, phase))
            },
        )
        .await
    }

    async fn cancel_scan(
        &self,
        org: OrgId,
        scan: ScanId,
        grace: Option<Duration>,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Canceled, CancelScanError> {
        self.transaction(
            "cancel_scan",
            (org, scan, grace, actor, now),
            |tx, (org, scan, grace, actor, now)| {
                Box::pin(ending::cancel(tx, *org, *scan, *grace, actor, *now))
            },
        )
        .await
    }

    async fn end_scan(
        &self,
        scan: ScanId,
        conclusion: Conclusion,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.transaction(
            "end_scan",
            (scan, conclusion, now),
            |tx, (scan, conclusion, now)| Box::pin(ending::end(tx, *scan, conclusion, *now)),
        )
        .await
    }

    async fn sweep_scans(&self, now: Timestamp) -> Result<Swept, StoreError> {
        let mut swept = Swept::default();
        // Each in a transaction of its own, so that a sweep holds no node for long.
        for (node, command) in
            Self::reading("sweep_scans", ending::overdue(self.reader(), now).await)?
        {
            let scan = self
                .transaction(
                    "sweep_scans",
                    (node, command, now),
                    |tx, (node, command, now)| {
                        Box::pin(ending::expire_command(tx, *node, *command, *now))
                    },
                )
                .await?;
            if let Some(scan) = scan {
                swept.commands.push((node, command));
                swept.scans.push(scan);
            }
        }
        for scan in Self::reading("sweep_scans", ending::stale(self.reader(), now).await)? {
            let expired = self
                .transaction("sweep_scans", (scan, now), |tx, (scan, now)| {
                    Box::pin(ending::expire_scan(tx, *scan, *now))
                })
                .await?;
            swept.commands.extend(expired.command);
            if expired.ended {
                swept.scans.push(scan);
            }
        }
        swept.scans.sort_unstable();
        swept.scans.dedup();
        Ok(swept)
    }

    async fn nodes_with_work(&self, now: Timestamp) -> Result<Vec<NodeId>, StoreError> {
        Self::reading(
            "nodes_with_work",
            dispatch::nodes_with_work(self.reader(), now).await,
        )
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
        Self::reading("scan", found.await)
    }

    async fn scan_by_request(
        &self,
        org: OrgId,
        request_id: &str,
        now: Timestamp,
    ) -> Result<Option<ScanRow>, StoreError> {
        Self::reading(
            "scan_by_request",
            by_request_id(self.reader(), org, request_id, now).await,
        )
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
            // Ids carry their time.
            let rows = query
                .order_by_desc(scan::Column::Id)
                .limit(u64::from(limit))
                .all(self.reader())
                .await?;
            read(self.reader(), rows, now).await
        };
        Self::reading("list_scans", found.await)
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
            // The scan first: if it has ended, its terminal event is there to be read.
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
            Ok(Some(EventPage {
                progress: progress(&row, now),
                state: row.state.0,
                last_sequence: row.last_sequence.max(newest),
                events,
            }))
        };
        Self::reading("read_events", page.await)
    }
}

fn event(row: scan_event::Model) -> Result<StoredEvent, DbErr> {
    Ok(StoredEvent {
        sequence: row.sequence,
        event: codec::read_event(&row.payload)?,
    })
}

async fn of_org(
    db: &impl ConnectionTrait,
    org: OrgId,
    scan: ScanId,
) -> Result<Option<scan::Model>, DbErr> {
    scan::Entity::find_by_id(AsText(scan))
        .filter(scan::Column::OrgId.eq(org.0))
        .one(db)
        .await
}

/// The scan that a request id has made.
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

/// A scan as operators read it.
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

/// Scans as operators read them: three queries, however many there are.
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
                state: row.state.0,
                priority: row.priority.0,
                request: codec::read_request(request)?,
                created_at: row.created_at.0,
                started_at: row.started_at.map(|at| at.0),
                ended_at: row.ended_at.map(|at| at.0),
                queued_until: row.queues.then_some(row.queued_until.0),
                started_by: operators.get(&row.operator_id).cloned().unwrap_or_default(),
                conclusion,
                progress: progress(&row, now),
                ledger: row.ledger.as_deref().map(codec::read_ledger).transpose()?,
                last_sequence: row.last_sequence,
                open_scope: row.open_scope,
                chunks: u32::try_from(row.chunks).unwrap_or(u32::MAX),
                chunks_done: u32::try_from(row.chunks_done).unwrap_or(u32::MAX),
            })
        })
        .collect()
}

/// How far a scan is. A target may stand in several chunks, once for each share of its ports: what is
/// counted is scaled to targets.
fn progress(row: &scan::Model, now: Timestamp) -> Progress {
    let total = u64::try_from(row.targets).unwrap_or(0);
    let units = u128::try_from(row.units).unwrap_or(0);
    let units_done = u128::try_from(row.units_done).unwrap_or(0);
    let done = (units_done * u128::from(total))
        .checked_div(units)
        .unwrap_or(0);
    let end = row.ended_at.map_or(now, |at| at.0);
    Progress {
        done: u64::try_from(done).unwrap_or(total).min(total),
        total,
        phase: row.phase.clone(),
        elapsed: row.started_at.map_or(Duration::ZERO, |at| end.since(at.0)),
    }
}
