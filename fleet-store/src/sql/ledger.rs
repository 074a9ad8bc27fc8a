//! The input for the conclusion of a scan: the verdicts of its chunks and the facts of its ledger. The number
//! of queries does not depend on the size of the scan.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fleet_core::{
    RejectReason,
    outcome::{Code, Grade, Verdict},
};
use fleet_discovery::{ChunkFacts, Ledger, LedgerFacts, Scope, Tally};
use sea_orm::{FromQueryResult, JoinType};

use super::{
    codec, endpoints,
    entity::{chunk, device, report_refusal, report_row, scan},
};
use crate::sql::prelude::*;

/// The counted columns of a chunk, without its large ones.
#[derive(FromQueryResult)]
pub(crate) struct ChunkCounts {
    pub(crate) targets: i64,
    pub(crate) attempts: i64,
}

#[derive(FromQueryResult)]
struct ChunkVerdict {
    grade: Option<String>,
    code: Option<String>,
    reason: String,
}

#[derive(FromQueryResult)]
struct ChunkResult {
    scope: AsText<Scope>,
    outcomes: Option<Vec<u8>>,
    grade: Option<String>,
}

const GRADES: [Grade; 4] = [Grade::Complete, Grade::Partial, Grade::Failed, Grade::Fatal];

/// The name of a grade in storage.
pub(crate) fn grade_name(grade: Grade) -> &'static str {
    match grade {
        Grade::Complete => "complete",
        Grade::Partial => "partial",
        Grade::Failed => "failed",
        Grade::Fatal => "fatal",
    }
}

pub(crate) fn read_grade(text: &str) -> Result<Grade, DbErr> {
    let found = GRADES.into_iter().find(|grade| grade_name(*grade) == text);
    found.ok_or_else(|| unreadable("grade", text))
}

/// The verdicts of a node's finished chunks, in order.
pub(crate) async fn verdicts(
    tx: &impl ConnectionTrait,
    scan: ScanId,
    node: NodeId,
) -> Result<Vec<Verdict>, DbErr> {
    let chunks = chunk::Entity::find()
        .filter(chunk::Column::ScanId.eq(AsText(scan)))
        .filter(chunk::Column::NodeId.eq(node.0))
        .order_by_asc(chunk::Column::Position)
        .select_only()
        .columns([
            chunk::Column::Grade,
            chunk::Column::Code,
            chunk::Column::Reason,
        ])
        .into_model::<ChunkVerdict>()
        .all(tx)
        .await?;
    let verdict = |row: ChunkVerdict| match (row.grade, row.code) {
        (Some(grade), Some(code)) => Some(read_verdict(&grade, &code, row.reason)),
        _ => None,
    };
    chunks.into_iter().filter_map(verdict).collect()
}

fn read_verdict(grade: &str, code: &str, reason: String) -> Result<Verdict, DbErr> {
    let code: Code = codec::read_code(code)?;
    Ok(Verdict {
        grade: read_grade(grade)?,
        code,
        reason,
    })
}

/// Builds the ledger of a scan that is ending.
pub(crate) async fn settle(
    tx: &impl ConnectionTrait,
    scan: &scan::Model,
    now: Timestamp,
) -> Result<Ledger, DbErr> {
    let chunks = chunk::Entity::find()
        .filter(chunk::Column::ScanId.eq(scan.id))
        .order_by_asc(chunk::Column::Position)
        .select_only()
        .columns([
            chunk::Column::Scope,
            chunk::Column::Outcomes,
            chunk::Column::Grade,
        ])
        .into_model::<ChunkResult>()
        .all(tx)
        .await?;
    let facts = chunks
        .iter()
        .map(|chunk| {
            Ok(ChunkFacts {
                scope: &chunk.scope.0,
                outcomes: chunk.outcomes.as_deref(),
                grade: chunk.grade.as_deref().map(read_grade).transpose()?,
            })
        })
        .collect::<Result<_, DbErr>>()?;
    let skipped = codec::read_tallies(&scan.skipped)?;
    let rejected = refusals(tx, scan.id.0).await?;
    let started = scan.started_at.map(|at| at.0);
    let since_start = |at: Timestamp| {
        u64::try_from(at.since(started.unwrap_or(at)).as_millis()).unwrap_or(u64::MAX)
    };
    Ok(fleet_discovery::settle(LedgerFacts {
        skipped: &skipped,
        chunks: facts,
        devices: devices(tx, scan.id.0).await?,
        owned_elsewhere: owned_elsewhere(tx, scan.id.0).await?,
        accepted: read_count(scan.accepted)?,
        rejected: &rejected,
        first_device_ms: scan.first_device_at.map(|at| since_start(at.0)),
        elapsed_ms: since_start(now),
    }))
}

/// The addresses that have an accepted row.
async fn devices(tx: &impl ConnectionTrait, scan: ScanId) -> Result<BTreeSet<IpAddr>, DbErr> {
    let addresses = report_row::Entity::find()
        .filter(report_row::Column::ScanId.eq(AsText(scan)))
        .filter(report_row::Column::Refusal.is_null())
        .select_only()
        .column(report_row::Column::Ip)
        .distinct()
        .into_tuple::<AsText<IpAddr>>()
        .all(tx)
        .await?;
    Ok(addresses.into_iter().map(|ip| ip.0).collect())
}

/// The addresses of devices that belong to another owner, with that owner.
async fn owned_elsewhere(
    tx: &impl ConnectionTrait,
    scan: ScanId,
) -> Result<BTreeMap<IpAddr, String>, DbErr> {
    use report_row::Column as C;
    let reasons = RejectReason::ALL
        .into_iter()
        .filter(|reason| reason.is_ownership())
        .map(AsText);
    let rows: Vec<(AsText<IpAddr>, Option<i64>)> = report_row::Entity::find()
        .select_only()
        .column(C::Ip)
        .column(device::Column::NodeId)
        .join(
            JoinType::InnerJoin,
            report_row::Entity::belongs_to(device::Entity)
                .from(C::DeviceId)
                .to(device::Column::Id)
                .into(),
        )
        .filter(C::ScanId.eq(AsText(scan)))
        .filter(C::Refusal.is_in(reasons))
        .into_tuple()
        .all(tx)
        .await?;
    let owners = rows.iter().filter_map(|(_, owner)| owner.map(NodeId));
    let names = endpoints::names(tx, owners.collect()).await?;
    let reason = |owner: Option<i64>| match owner.map(NodeId) {
        Some(owner) => {
            let name = names.get(&owner).map_or("", String::as_str);
            format!("belongs to node {owner} ({name})")
        }
        None => "belongs to the server".to_owned(),
    };
    Ok(rows
        .into_iter()
        .map(|(ip, owner)| (ip.0, reason(owner)))
        .collect())
}

/// The rejected rows of a scan, by reason.
pub(crate) async fn refusals(tx: &impl ConnectionTrait, scan: ScanId) -> Result<Vec<Tally>, DbErr> {
    let rows = report_refusal::Entity::find()
        .filter(report_refusal::Column::ScanId.eq(AsText(scan)))
        .order_by_asc(report_refusal::Column::Reason)
        .all(tx)
        .await?;
    let tally = |row: report_refusal::Model| {
        Ok(Tally {
            reason: row.reason,
            count: read_count(row.count)?,
            example: row.example,
        })
    };
    rows.into_iter().map(tally).collect()
}
