//! Reading the results of two scans for `fleet_inventory::difference`. Results are written with each report, see
//! `report.rs`.

pub(super) mod load;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fleet_inventory::{Later, Seen, difference};
use load::Loaded;
pub(super) use load::chunks;
use sea_orm::sea_query::{ExprTrait, Query};
use sha2::{Digest, Sha256};

use super::{
    codec,
    entity::{node, scan, scan_share},
    hosts, scans,
};
use crate::{
    Against, DifferenceError, Results, ScanChanges, ScanDifference, UnidentifiedHost,
    sql::prelude::*,
};

#[async_trait]
impl Results for SqlStore {
    async fn scan_difference(
        &self,
        org: OrgId,
        scan: ScanId,
        against: Against,
        now: Timestamp,
    ) -> Result<ScanDifference, DifferenceError> {
        let operation = "scan_difference";
        let db = self.reader();
        let find = async |id| {
            let found = scans::of_org(db, org, id).await.during(operation)?;
            found.ok_or(DifferenceError::NotFound(id))
        };
        let row = find(scan).await?;
        let other = match against {
            Against::Scan(id) if id == scan => return Err(DifferenceError::Itself(id)),
            Against::Scan(id) => Some(find(id).await?),
            Against::Previous => previous(db, &row).await.during(operation)?,
        };
        let difference = compare(db, row, other, now).await;
        Ok(difference.during(operation)?)
    }

    async fn uncompared_scans(&self, limit: u32) -> Result<Vec<(OrgId, ScanId)>, StoreError> {
        let found = scan::Entity::find()
            .select_only()
            .column(scan::Column::OrgId)
            .column(scan::Column::Id)
            .filter(scan::Column::EndedAt.is_not_null())
            .filter(scan::Column::Changes.is_null())
            .filter(scan::Column::RemovedAt.is_null())
            .order_by_desc(scan::Column::EndedAt)
            .limit(u64::from(limit))
            .into_tuple::<(i64, AsText<ScanId>)>()
            .all(self.reader())
            .await
            .during("uncompared_scans")?;
        let scan = |(org, scan): (i64, AsText<ScanId>)| (OrgId(org), scan.0);
        Ok(found.into_iter().map(scan).collect())
    }

    async fn store_scan_changes(
        &self,
        scan: ScanId,
        changes: ScanChanges,
    ) -> Result<(), StoreError> {
        transaction!(self, "store_scan_changes", |tx| {
            scan::Entity::update_many()
                .col_expr(
                    scan::Column::Changes,
                    Expr::value(codec::write_changes(&changes)?),
                )
                .filter(scan::Column::Id.eq(AsText(scan)))
                .exec(tx)
                .await?;
            Ok(())
        })
    }
}

/// The hash under which the scans of the same targets are found.
pub(super) fn hash_of_targets(key: &str) -> String {
    let digest = Sha256::digest(key.as_bytes());
    // Half of the digest is enough to tell apart the targets of one organization.
    digest
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The newest earlier scan of the same targets on the same sites, or on some of them. An address means one host only
/// within a site.
async fn previous(
    db: &impl ConnectionTrait,
    row: &scan::Model,
) -> Result<Option<scan::Model>, DbErr> {
    let Some(key) = &row.targets_key else {
        return Ok(None);
    };
    let nodes = Query::select()
        .column(scan_share::Column::NodeId)
        .from(scan_share::Entity)
        .and_where(scan_share::Column::ScanId.eq(row.id))
        .to_owned();
    let sites = Query::select()
        .column(node::Column::SiteId)
        .from(node::Entity)
        .and_where(node::Column::Id.in_subquery(nodes))
        .to_owned();
    let neighbors = Query::select()
        .column(node::Column::Id)
        .from(node::Entity)
        .and_where(node::Column::SiteId.in_subquery(sites))
        .to_owned();
    let elsewhere = Query::select()
        .expr(Expr::val(1))
        .from(scan_share::Entity)
        .and_where(ExprTrait::equals(
            Expr::col((scan_share::Entity, scan_share::Column::ScanId)),
            (scan::Entity, scan::Column::Id),
        ))
        .and_where(scan_share::Column::NodeId.not_in_subquery(neighbors))
        .to_owned();
    let complete = [ScanState::Completed, ScanState::Partial].map(AsText);
    scan::Entity::find()
        .filter(scan::Column::OrgId.eq(row.org_id))
        .filter(scan::Column::TargetsKey.eq(key))
        .filter(scan::Column::Id.lt(row.id))
        .filter(scan::Column::State.is_in(complete))
        .filter(scan::Column::RemovedAt.is_null())
        .filter(Expr::exists(elsewhere).not())
        // Ids contain their time.
        .order_by_desc(scan::Column::Id)
        .one(db)
        .await
}

async fn compare(
    db: &impl ConnectionTrait,
    row: scan::Model,
    other: Option<scan::Model>,
    now: Timestamp,
) -> Result<ScanDifference, DbErr> {
    let mut after = Loaded::load(db, row.id.0).await?;
    let mut before = match &other {
        Some(other) => Loaded::load(db, other.id.0).await?,
        None => Loaded::default(),
    };
    let survivors = load::survivors(db, &[&before, &after]).await?;
    before.resolve(&survivors);
    after.resolve(&survivors);
    let chunks = load::chunks(db, row.id.0).await?;
    let rows = difference(
        &before.seen,
        &Later {
            seen: &after.seen,
            rejected: after.owned_elsewhere(),
            outcomes: load::outcomes(&chunks, before.seen.iter().map(Seen::location)),
        },
    );
    let devices = after.addresses();
    let unidentified = unidentified(db, row.id.0, &chunks, &devices).await?;
    let rejected_otherwise =
        load::rejected_otherwise(db, row.id.0, after.stored_refusals()).await?;
    let mut nodes = before.nodes;
    nodes.append(&mut after.nodes);
    let silent = chunks.iter().map(|chunk| chunk.node);
    let silent = silent.filter(|node| !nodes.contains_key(&NodeId(*node)));
    let mut of_chunks = load::nodes_of_sites(db, &silent.collect()).await?;
    nodes.append(&mut of_chunks);
    let mut identifiers = before.identifiers;
    identifiers.append(&mut after.identifiers);
    identifiers.extend(survivors.identifiers);
    Ok(ScanDifference {
        scan: scans::read_one(db, row, now).await?,
        against: match other {
            Some(other) => Some(scans::read_one(db, other, now).await?),
            None => None,
        },
        rows,
        nodes,
        identifiers,
        unidentified,
        rejected: after.rejected,
        rejected_otherwise,
    })
}

/// The hosts that answered by their outcome, or that a node reported, without those that have a device.
async fn unidentified(
    db: &impl ConnectionTrait,
    scan: ScanId,
    chunks: &[load::Chunk],
    devices: &BTreeSet<IpAddr>,
) -> Result<Vec<UnidentifiedHost>, DbErr> {
    let mut hosts: BTreeMap<IpAddr, UnidentifiedHost> = BTreeMap::new();
    for chunk in chunks {
        for ip in fleet_discovery::unidentified_hosts(&[chunk.scanned()], devices) {
            let node = Some(NodeId(chunk.node));
            let report = None;
            hosts.insert(ip, UnidentifiedHost { ip, node, report });
        }
    }
    for stored in hosts::page(db, scan, 0, u32::MAX).await? {
        let ip = stored.host.ip;
        if !devices.contains(&ip) {
            let report = Some(stored.host);
            let node = stored.node;
            hosts.insert(ip, UnidentifiedHost { ip, node, report });
        }
    }
    Ok(hosts.into_values().collect())
}
