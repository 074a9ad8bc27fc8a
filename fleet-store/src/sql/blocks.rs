//! The outcomes of a site's addresses, condensed to one row for each /24 network. `fleet_inventory::Cell` decides how an
//! outcome changes an address; this file loads, locks and writes the rows.

use std::{collections::BTreeMap, net::IpAddr};

use fleet_core::TargetOutcome;
use fleet_discovery::{ChunkCommand, ChunkFacts, ScannedChunk, address_outcomes};
use fleet_inventory::{AddressOutcome, BlockNumber, CELLS, Cell};

use super::{
    codec,
    entity::{chunk, command, node, report_row, scan, site_block},
    inserts,
};
use crate::sql::prelude::*;

/// The outcomes of one block, by the last octet.
type Outcomes = BTreeMap<u8, TargetOutcome>;

/// Adds the outcomes of a chunk that ends: those that its node reported, and the devices that it found.
pub(super) async fn record(
    tx: &DatabaseTransaction,
    scan: &scan::Model,
    command: &command::Model,
    outcomes: Option<&[u8]>,
    now: Timestamp,
) -> Result<(), DbErr> {
    let mut blocks = found(tx, command).await?;
    if let Some(AsText(scope)) = &command.scope {
        let chunk = ScannedChunk {
            facts: ChunkFacts {
                scope,
                outcomes,
                grade: None,
            },
            only_announced: is_only_announced(tx, command).await?,
        };
        for (ip, outcome) in address_outcomes(&chunk) {
            add(&mut blocks, ip, outcome);
        }
    }
    if blocks.is_empty() {
        return Ok(());
    }
    let site = node::Entity::find_by_id(command.node_id)
        .select_only()
        .column(node::Column::SiteId)
        .into_tuple::<i64>()
        .one(tx)
        .await?;
    let Some(site) = site else {
        return Ok(());
    };
    let mut rows = locked(tx, scan.org_id, site, &blocks, now).await?;
    for row in &mut rows {
        let number = BlockNumber::from_number(row.block);
        let Some(outcomes) = number.and_then(|number| blocks.get(&number)) else {
            continue;
        };
        let mut cells = codec::read_cells(&row.outcomes, &row.scans, &row.answers)?;
        for (octet, outcome) in outcomes {
            if let Some(cell) = cells.get_mut(usize::from(*octet)) {
                *cell = cell.observe(AddressOutcome {
                    outcome: *outcome,
                    scan: scan.started_at.map_or(now, |at| at.0),
                    at: now,
                });
            }
        }
        put(row, &cells);
        row.scanned_at = Micros(now);
    }
    use site_block::Column as C;
    let rows = rows.into_iter().map(inserts::every_column).collect();
    let by_key = OnConflict::columns([C::SiteId, C::Block])
        .update_columns([C::Outcomes, C::Scans, C::Answers, C::ScannedAt])
        .to_owned();
    inserts::all_or::<site_block::ActiveModel>(tx, rows, by_key).await?;
    forget(tx, site).await
}

/// The devices that a command found, of its node and of other owners.
async fn found(
    tx: &DatabaseTransaction,
    command: &command::Model,
) -> Result<BTreeMap<BlockNumber, Outcomes>, DbErr> {
    let addresses = report_row::Entity::find()
        .filter(report_row::Column::CommandId.eq(command.id))
        .filter(report_row::Column::DeviceId.is_not_null())
        .select_only()
        .column(report_row::Column::Ip)
        .distinct()
        .into_tuple::<AsText<IpAddr>>()
        .all(tx)
        .await?;
    let mut blocks = BTreeMap::new();
    for AsText(ip) in addresses {
        add(&mut blocks, ip, TargetOutcome::Identified);
    }
    Ok(blocks)
}

fn add(blocks: &mut BTreeMap<BlockNumber, Outcomes>, ip: IpAddr, outcome: TargetOutcome) {
    // The map has blocks of IPv4 only.
    if let IpAddr::V4(ip) = ip {
        let [.., octet] = ip.octets();
        let cells = blocks.entry(BlockNumber::of(ip)).or_default();
        let best = cells.entry(octet).or_insert(outcome);
        *best = outcome.max(*best);
    }
}

/// Whether a chunk probes only hosts that announce a service.
async fn is_only_announced(
    tx: &DatabaseTransaction,
    command: &command::Model,
) -> Result<bool, DbErr> {
    let text = chunk::Entity::find()
        .filter(chunk::Column::ScanId.eq(command.scan_id))
        .filter(chunk::Column::Position.eq(command.position))
        .select_only()
        .column(chunk::Column::Command)
        .into_tuple::<String>()
        .one(tx)
        .await?;
    Ok(
        match text.as_deref().map(codec::read_command).transpose()? {
            Some(ChunkCommand::Mdns(_)) => true,
            Some(ChunkCommand::List(_) | ChunkCommand::Target(_)) | None => false,
        },
    )
}

/// The rows of these blocks, which are created where they are missing, locked in the order of addresses.
async fn locked(
    tx: &DatabaseTransaction,
    org: i64,
    site: i64,
    blocks: &BTreeMap<BlockNumber, Outcomes>,
    now: Timestamp,
) -> Result<Vec<site_block::Model>, DbErr> {
    use site_block::{Column as C, Entity};
    let bytes = codec::write_cells(&[Cell::default(); CELLS]);
    let blank = |block: &BlockNumber| site_block::ActiveModel {
        site_id: Set(site),
        block: Set(block.number()),
        org_id: Set(org),
        outcomes: Set(bytes.outcomes.clone()),
        scans: Set(bytes.scans.clone()),
        answers: Set(bytes.answers.clone()),
        scanned_at: Set(Micros(now)),
    };
    let known = OnConflict::columns([C::SiteId, C::Block])
        .do_nothing()
        .to_owned();
    inserts::all_or(tx, blocks.keys().map(blank).collect(), known).await?;
    Entity::find()
        .filter(C::SiteId.eq(site))
        .filter(C::Block.is_in(blocks.keys().map(|block| block.number())))
        .order_by_asc(C::Block)
        .lock(LockType::NoKeyUpdate)
        .all(tx)
        .await
}

fn put(row: &mut site_block::Model, cells: &[Cell]) {
    let bytes = codec::write_cells(cells);
    row.outcomes = bytes.outcomes;
    row.scans = bytes.scans;
    row.answers = bytes.answers;
}

/// Deletes the least recently scanned blocks of a site above the limit.
async fn forget(tx: &DatabaseTransaction, site: i64) -> Result<(), DbErr> {
    use site_block::{Column as C, Entity};
    let beyond: Vec<i64> = Entity::find()
        .select_only()
        .column(C::Block)
        .filter(C::SiteId.eq(site))
        .order_by_desc(C::ScannedAt)
        .order_by_desc(C::Block)
        .offset(limits::SITE_BLOCKS as u64)
        // A chunk adds at most this many blocks, so the map cannot stay above its limit.
        .limit(limits::COMMAND_TARGETS as u64)
        .into_tuple()
        .all(tx)
        .await?;
    if !beyond.is_empty() {
        Entity::delete_many()
            .filter(C::SiteId.eq(site))
            .filter(C::Block.is_in(beyond))
            .exec(tx)
            .await?;
    }
    Ok(())
}
