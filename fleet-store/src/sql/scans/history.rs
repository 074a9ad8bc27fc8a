//! The other scans of a node, which show how long its next one takes and when it starts.

use std::{collections::BTreeMap, time::Duration};

use fleet_discovery::{OpenScan, PastScan};
use sea_orm::sea_query::{ExprTrait, Query};

use crate::{
    ScanHistory,
    sql::{
        codec,
        entity::{chunk, scan, scan_share},
        nodes,
        prelude::*,
    },
};

/// The number of ended scans of a node that show how long its next one takes.
const PAST_SCANS: u64 = 16;

pub(super) async fn history(
    db: &impl ConnectionTrait,
    org: OrgId,
    node: NodeId,
) -> Result<ScanHistory, DbErr> {
    let open_shares = scan_share::Entity::find()
        .filter(scan_share::Column::NodeId.eq(node.0))
        .filter(scan_share::Column::State.is_in(nodes::open_states()))
        .all(db)
        .await?;
    let scans: BTreeMap<AsText<ScanId>, scan::Model> = scan::Entity::find()
        .filter(scan::Column::OrgId.eq(org.0))
        .filter(scan::Column::Id.is_in(open_shares.iter().map(|share| share.scan_id)))
        .all(db)
        .await?
        .into_iter()
        .map(|scan| (scan.id, scan))
        .collect();
    let open = open_shares.iter().filter_map(|share| {
        let scan = scans.get(&share.scan_id)?;
        Some(open_scan(scan, share))
    });
    let open = open.collect::<Result<Vec<_>, DbErr>>()?;
    // A scan that was canceled or failed does not show how long it would have taken.
    let complete = [ScanState::Completed, ScanState::Partial].map(AsText);
    // The time of a scan over several nodes does not show how long one of them takes.
    let others = Query::select()
        .expr(Expr::val(1))
        .from(scan_share::Entity)
        .and_where(ExprTrait::equals(
            Expr::col((scan_share::Entity, scan_share::Column::ScanId)),
            (scan::Entity, scan::Column::Id),
        ))
        .and_where(scan_share::Column::NodeId.ne(node.0))
        .to_owned();
    let past = scan::Entity::find()
        .filter(scan::Column::OrgId.eq(org.0))
        .filter(scan::Column::NodeId.eq(node.0))
        .filter(Expr::exists(others).not())
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

fn open_scan(scan: &scan::Model, share: &scan_share::Model) -> Result<OpenScan, DbErr> {
    Ok(OpenScan {
        priority: scan.priority.0,
        estimate: Duration::from_millis(read_count(scan.estimate_ms)?),
        commands: read_count(share.chunks)?,
        is_running: share.state.0 == ScanState::Running,
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
