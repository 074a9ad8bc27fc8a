//! Loading the result of one scan: a fixed number of queries for any number of devices.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fleet_core::{EndpointOutcome, RejectReason};
use fleet_discovery::{ChunkCommand, ChunkFacts, ScannedChunk, Scope, Tally, endpoint_outcomes};
use fleet_inventory::{Location, Seen};
use sea_orm::{FromQueryResult, JoinType};

use crate::{
    NodeOfSite, RejectedReport,
    sql::{
        codec,
        entity::{chunk, command, device, identity_change, node, report_row, site},
        ledger,
        prelude::*,
    },
};

/// The result of one scan.
#[derive(Default)]
pub(in crate::sql) struct Loaded {
    pub(in crate::sql) seen: Vec<Seen>,
    pub(in crate::sql) rejected: Vec<RejectedReport>,
    pub(in crate::sql) identifiers: BTreeMap<DeviceId, DeviceIdentifier>,
    /// The nodes that reported.
    pub(in crate::sql) nodes: BTreeMap<NodeId, NodeOfSite>,
    /// The number of stored refusals of each reason, over all commands.
    refusals: BTreeMap<RejectReason, u64>,
    /// Records that were merged into others.
    ended: BTreeSet<DeviceId>,
}

#[derive(FromQueryResult)]
struct StoredRow {
    node_id: i64,
    ip: AsText<IpAddr>,
    port: i64,
    identifier: String,
    refusal: Option<AsText<RejectReason>>,
    device_id: Option<i64>,
    facts: Option<String>,
    device_identifier: Option<AsText<DeviceIdentifier>>,
    deleted_at: Option<Micros>,
}

impl Loaded {
    pub(in crate::sql) async fn load(
        db: &impl ConnectionTrait,
        scan: ScanId,
    ) -> Result<Self, DbErr> {
        use report_row::Column as C;
        let rows = report_row::Entity::find()
            .select_only()
            .columns([
                C::Ip,
                C::Port,
                C::Identifier,
                C::Refusal,
                C::DeviceId,
                C::Facts,
            ])
            .column(command::Column::NodeId)
            .column_as(device::Column::Identifier, "device_identifier")
            .column(device::Column::DeletedAt)
            .join(
                JoinType::InnerJoin,
                report_row::Entity::belongs_to(command::Entity)
                    .from(C::CommandId)
                    .to(command::Column::Id)
                    .into(),
            )
            .join(
                JoinType::LeftJoin,
                report_row::Entity::belongs_to(device::Entity)
                    .from(C::DeviceId)
                    .to(device::Column::Id)
                    .into(),
            )
            .filter(C::ScanId.eq(AsText(scan)))
            // Ids contain their time: the last command of a chunk that ran again decides.
            .order_by_asc(C::CommandId)
            .into_model::<StoredRow>()
            .all(db)
            .await?;
        let nodes = rows.iter().map(|row| row.node_id).collect();
        let mut loaded = Self {
            nodes: nodes_of_sites(db, &nodes).await?,
            ..Self::default()
        };
        let mut latest = BTreeMap::new();
        for row in rows {
            if let Some(AsText(reason)) = row.refusal {
                *loaded.refusals.entry(reason).or_default() += 1;
            }
            let endpoint = Endpoint {
                ip: row.ip.0,
                port: codec::read_port(row.port)?,
            };
            latest.insert(endpoint, row);
        }
        for (endpoint, row) in latest {
            loaded.add(endpoint, row)?;
        }
        Ok(loaded)
    }

    fn add(&mut self, endpoint: Endpoint, row: StoredRow) -> Result<(), DbErr> {
        let device = row.device_id.map(DeviceId);
        let node = NodeId(row.node_id);
        if let (Some(device), Some(AsText(identifier))) = (device, row.device_identifier) {
            if row.deleted_at.is_some() {
                self.ended.insert(device);
            } else {
                self.identifiers.insert(device, identifier);
            }
        }
        match (row.refusal, device) {
            (Some(AsText(reason)), device) => self.rejected.push(RejectedReport {
                endpoint,
                identifier: row.identifier,
                reason,
                device,
                node,
            }),
            (None, Some(device)) => self.seen.push(Seen {
                device,
                site: self.nodes.get(&node).map_or(SiteId(0), |node| node.site),
                node,
                endpoint,
                facts: row
                    .facts
                    .as_deref()
                    .map(codec::read_facts)
                    .transpose()?
                    .unwrap_or_default(),
            }),
            (None, None) => {}
        }
        Ok(())
    }

    /// Replaces merged records by the surviving ones.
    pub(in crate::sql) fn resolve(&mut self, survivors: &Survivors) {
        for seen in &mut self.seen {
            seen.device = survivors.of(seen.device);
        }
        for rejected in &mut self.rejected {
            rejected.device = rejected.device.map(|device| survivors.of(device));
        }
    }

    /// The devices of other owners that were reported.
    pub(in crate::sql) fn owned_elsewhere(&self) -> BTreeSet<DeviceId> {
        let rejected = self.rejected.iter();
        rejected.filter_map(|rejected| rejected.device).collect()
    }

    /// The addresses that have a device, of this node or of another owner.
    pub(in crate::sql) fn addresses(&self) -> BTreeSet<IpAddr> {
        let seen = self.seen.iter().map(|seen| seen.endpoint.ip);
        let elsewhere = self.rejected.iter().filter(|one| one.device.is_some());
        seen.chain(elsewhere.map(|one| one.endpoint.ip)).collect()
    }

    pub(in crate::sql) fn stored_refusals(&self) -> &BTreeMap<RejectReason, u64> {
        &self.refusals
    }
}

/// The names and sites of nodes, also of revoked ones.
pub(in crate::sql) async fn nodes_of_sites(
    db: &impl ConnectionTrait,
    ids: &BTreeSet<i64>,
) -> Result<BTreeMap<NodeId, NodeOfSite>, DbErr> {
    let rows: Vec<(i64, String, i64, String)> = node::Entity::find()
        .select_only()
        .columns([node::Column::Id, node::Column::Name])
        .columns([site::Column::Id, site::Column::Name])
        .join(
            JoinType::InnerJoin,
            node::Entity::belongs_to(site::Entity)
                .from(node::Column::SiteId)
                .to(site::Column::Id)
                .into(),
        )
        .filter(node::Column::Id.is_in(ids.iter().copied()))
        .into_tuple()
        .all(db)
        .await?;
    let row = |(id, name, site, site_name)| {
        let site = SiteId(site);
        let node = NodeOfSite {
            name,
            site,
            site_name,
        };
        (NodeId(id), node)
    };
    Ok(rows.into_iter().map(row).collect())
}

/// The surviving records of merges.
pub(in crate::sql) struct Survivors {
    of: BTreeMap<DeviceId, DeviceId>,
    pub(in crate::sql) identifiers: BTreeMap<DeviceId, DeviceIdentifier>,
}

impl Survivors {
    fn of(&self, device: DeviceId) -> DeviceId {
        self.of.get(&device).copied().unwrap_or(device)
    }
}

/// The longest chain of merged records that is followed.
const HOPS: usize = 64;
/// Ids in one query.
const IDS: usize = 1_000;

/// Follows the merges of ended records, round by round, to the records that live.
pub(in crate::sql) async fn survivors(
    db: &impl ConnectionTrait,
    results: &[&Loaded],
) -> Result<Survivors, DbErr> {
    let ended: BTreeSet<DeviceId> = results
        .iter()
        .flat_map(|loaded| &loaded.ended)
        .copied()
        .collect();
    let mut of: BTreeMap<DeviceId, DeviceId> = ended.iter().map(|id| (*id, *id)).collect();
    let mut open = ended;
    for _ in 0..HOPS {
        if open.is_empty() {
            break;
        }
        let next = merged_into(db, &open).await?;
        for current in of.values_mut() {
            if let Some(survivor) = next.get(current) {
                *current = *survivor;
            }
        }
        open = next.into_values().collect();
    }
    let live: BTreeSet<DeviceId> = of.values().copied().collect();
    Ok(Survivors {
        identifiers: identifiers(db, &live).await?,
        of,
    })
}

async fn merged_into(
    db: &impl ConnectionTrait,
    ids: &BTreeSet<DeviceId>,
) -> Result<BTreeMap<DeviceId, DeviceId>, DbErr> {
    use identity_change::Column as C;
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let mut into = BTreeMap::new();
    for part in ids.chunks(IDS) {
        let changes: Vec<(i64, i64)> = identity_change::Entity::find()
            .select_only()
            .columns([C::MergedDeviceId, C::DeviceId])
            .filter(C::MergedDeviceId.is_in(part.iter().copied()))
            .filter(C::UndoneAt.is_null())
            .order_by_asc(C::Id)
            .into_tuple()
            .all(db)
            .await?;
        into.extend(
            changes
                .into_iter()
                .map(|(ended, survivor)| (DeviceId(ended), DeviceId(survivor))),
        );
    }
    Ok(into)
}

async fn identifiers(
    db: &impl ConnectionTrait,
    ids: &BTreeSet<DeviceId>,
) -> Result<BTreeMap<DeviceId, DeviceIdentifier>, DbErr> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let mut found = BTreeMap::new();
    for part in ids.chunks(IDS) {
        let named: Vec<(i64, AsText<DeviceIdentifier>)> = device::Entity::find()
            .select_only()
            .columns([device::Column::Id, device::Column::Identifier])
            .filter(device::Column::Id.is_in(part.iter().copied()))
            .into_tuple()
            .all(db)
            .await?;
        found.extend(
            named
                .into_iter()
                .map(|(id, AsText(name))| (DeviceId(id), name)),
        );
    }
    Ok(found)
}

/// A chunk with what its node reported.
pub(in crate::sql) struct Chunk {
    pub(in crate::sql) node: i64,
    pub(in crate::sql) site: SiteId,
    scope: Scope,
    outcomes: Option<Vec<u8>>,
    grade: Option<fleet_core::outcome::Grade>,
    only_announced: bool,
}

impl Chunk {
    pub(in crate::sql) fn scanned(&self) -> ScannedChunk<'_> {
        ScannedChunk {
            facts: ChunkFacts {
                scope: &self.scope,
                outcomes: self.outcomes.as_deref(),
                grade: self.grade,
            },
            only_announced: self.only_announced,
        }
    }
}

/// What a scan shows about locations. Those of a site follow from the chunks of its own nodes: an address means one host
/// only within a site.
pub(in crate::sql) fn outcomes(
    chunks: &[Chunk],
    locations: impl Iterator<Item = Location>,
) -> BTreeMap<Location, EndpointOutcome> {
    let mut sites: BTreeMap<SiteId, BTreeSet<Endpoint>> = BTreeMap::new();
    for Location { site, endpoint } in locations {
        sites.entry(site).or_default().insert(endpoint);
    }
    let mut found = BTreeMap::new();
    for (site, endpoints) in sites {
        let own = chunks.iter().filter(|chunk| chunk.site == site);
        let own: Vec<_> = own.map(Chunk::scanned).collect();
        let outcomes = endpoint_outcomes(&own, &endpoints).into_iter();
        found.extend(outcomes.map(|(endpoint, outcome)| (Location { site, endpoint }, outcome)));
    }
    found
}

#[derive(FromQueryResult)]
struct StoredChunk {
    node_id: i64,
    site_id: i64,
    scope: AsText<Scope>,
    command: String,
    outcomes: Option<Vec<u8>>,
    grade: Option<String>,
}

pub(in crate::sql) async fn chunks(
    db: &impl ConnectionTrait,
    scan: ScanId,
) -> Result<Vec<Chunk>, DbErr> {
    use chunk::Column as C;
    let rows = chunk::Entity::find()
        .select_only()
        .columns([C::NodeId, C::Scope, C::Command, C::Outcomes, C::Grade])
        .column(node::Column::SiteId)
        .join(
            JoinType::InnerJoin,
            chunk::Entity::belongs_to(node::Entity)
                .from(C::NodeId)
                .to(node::Column::Id)
                .into(),
        )
        .filter(C::ScanId.eq(AsText(scan)))
        .order_by_asc(C::Position)
        .into_model::<StoredChunk>()
        .all(db)
        .await?;
    let read = |row: StoredChunk| {
        Ok(Chunk {
            node: row.node_id,
            site: SiteId(row.site_id),
            scope: row.scope.0,
            outcomes: row.outcomes,
            grade: row.grade.as_deref().map(ledger::read_grade).transpose()?,
            only_announced: match codec::read_command(&row.command)? {
                ChunkCommand::Mdns(_) => true,
                ChunkCommand::List(_) | ChunkCommand::Target(_) => false,
            },
        })
    };
    rows.into_iter().map(read).collect()
}

/// The rejected reports that have no stored row, for example because their endpoint could not be read.
pub(in crate::sql) async fn rejected_otherwise(
    db: &impl ConnectionTrait,
    scan: ScanId,
    stored: &BTreeMap<RejectReason, u64>,
) -> Result<Vec<Tally>, DbErr> {
    let mut tallies = ledger::refusals(db, scan).await?;
    for tally in &mut tallies {
        let rows: u64 = stored
            .iter()
            .filter(|(reason, _)| reason.as_str() == tally.reason)
            .map(|(_, rows)| *rows)
            .sum();
        tally.count = tally.count.saturating_sub(rows);
    }
    tallies.retain(|tally| tally.count > 0);
    Ok(tallies)
}
