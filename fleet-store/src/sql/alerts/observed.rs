//! The result of an ended scan, and the state of devices, for `fleet_inventory::observe`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use fleet_core::{DeviceFacts, EndpointOutcome, Mac, Port, TargetOutcome};
use fleet_discovery::port_outcome;
use fleet_inventory::{Known, Later, Location, Observed, Seen};
use sea_orm::{FromQueryResult, JoinType};

use crate::{
    DirectEnd,
    sql::{
        codec,
        entity::{alert_device, device, node},
        inserts,
        prelude::*,
        results::load::{self, Chunk, Loaded},
    },
};

/// Ids in one query.
const IDS: usize = 1_000;

/// The result of an ended scan.
pub(super) struct ScanResult {
    seen: Vec<Seen>,
    rejected: BTreeSet<DeviceId>,
    probed: Probed,
    first_seen: BTreeMap<DeviceId, Timestamp>,
}

/// What a scan probed.
enum Probed {
    /// The chunks of nodes.
    Chunks(Vec<Chunk>),
    /// Addresses of the server's own network, with the ports of each.
    Direct(BTreeMap<IpAddr, TargetOutcome>, Vec<Port>),
}

impl ScanResult {
    /// Loads the result of a scan.
    pub(super) async fn load(db: &impl ConnectionTrait, scan: ScanId) -> Result<Self, DbErr> {
        let chunks = load::chunks(db, scan).await?;
        let mut loaded = Loaded::load(db, scan).await?;
        let survivors = load::survivors(db, &[&loaded]).await?;
        loaded.resolve(&survivors);
        Ok(Self {
            first_seen: first_seen(db, &loaded.seen).await?,
            rejected: loaded.owned_elsewhere(),
            probed: Probed::Chunks(chunks),
            seen: loaded.seen,
        })
    }

    /// The result of a direct scan.
    pub(super) async fn of_direct(
        db: &impl ConnectionTrait,
        end: &DirectEnd,
    ) -> Result<Self, DbErr> {
        Ok(Self {
            first_seen: first_seen(db, &end.seen).await?,
            rejected: BTreeSet::new(),
            probed: Probed::Direct(end.outcomes.clone(), end.ports.clone()),
            seen: end.seen.clone(),
        })
    }

    pub(super) fn observed(&self, known: &BTreeMap<DeviceId, Known>) -> Observed<'_> {
        let locations = known.values().map(|known| known.seen.location());
        Observed {
            later: Later {
                seen: &self.seen,
                rejected: self.rejected.clone(),
                outcomes: self.probed.outcomes(locations),
            },
            first_seen: self.first_seen.clone(),
        }
    }
}

impl Probed {
    fn outcomes(
        &self,
        locations: impl Iterator<Item = Location>,
    ) -> BTreeMap<Location, EndpointOutcome> {
        match self {
            Self::Chunks(chunks) => load::outcomes(chunks, locations),
            Self::Direct(outcomes, ports) => {
                let own = locations.filter(|location| location.site == SERVER_SITE);
                let outcome = |location: Location| {
                    let Endpoint { ip, port } = location.endpoint;
                    let outcome = outcomes.get(&ip)?;
                    Some((location, port_outcome(*outcome, ports, port)))
                };
                own.filter_map(outcome).collect()
            }
        }
    }
}

/// The site of devices that the server itself found.
pub(super) const SERVER_SITE: SiteId = SiteId(0);

/// When the inventory saw these devices first.
async fn first_seen(
    db: &impl ConnectionTrait,
    seen: &[Seen],
) -> Result<BTreeMap<DeviceId, Timestamp>, DbErr> {
    let mut first_seen = BTreeMap::new();
    for part in ids(seen).chunks(IDS) {
        let rows: Vec<(i64, Micros)> = device::Entity::find()
            .select_only()
            .columns([device::Column::Id, device::Column::FirstSeen])
            .filter(device::Column::Id.is_in(part.iter().copied()))
            .into_tuple()
            .all(db)
            .await?;
        first_seen.extend(rows.into_iter().map(|(id, at)| (DeviceId(id), at.0)));
    }
    Ok(first_seen)
}

fn ids(seen: &[Seen]) -> Vec<i64> {
    let ids: BTreeSet<i64> = seen.iter().map(|seen| seen.device.0).collect();
    ids.into_iter().collect()
}

#[derive(FromQueryResult)]
struct StoredDevice {
    device_id: i64,
    node_id: Option<i64>,
    site_id: Option<i64>,
    ip: AsText<IpAddr>,
    port: i64,
    former_ip: Option<AsText<IpAddr>>,
    firmware: String,
    missed: i64,
    model: String,
    manufacturer: String,
    mac: Option<AsText<Mac>>,
}

/// The state of the devices of a result, and of all devices of the nodes of these sites.
pub(super) async fn known(
    tx: &DatabaseTransaction,
    org: OrgId,
    sites: &[SiteId],
    result: &ScanResult,
) -> Result<BTreeMap<DeviceId, Known>, DbErr> {
    let mut known = BTreeMap::new();
    if sites.contains(&SERVER_SITE) {
        let own = Condition::all()
            .add(alert_device::Column::OrgId.eq(org.0))
            .add(device::Column::NodeId.is_null());
        read(tx, own, &mut known).await?;
    } else if !sites.is_empty() {
        let filter = node::Column::SiteId.is_in(sites.iter().map(|site| site.0));
        read(tx, Condition::all().add(filter), &mut known).await?;
    }
    for part in ids(&result.seen).chunks(IDS) {
        let filter = alert_device::Column::DeviceId.is_in(part.iter().copied());
        read(tx, Condition::all().add(filter), &mut known).await?;
    }
    Ok(known)
}

async fn read(
    tx: &DatabaseTransaction,
    filter: Condition,
    known: &mut BTreeMap<DeviceId, Known>,
) -> Result<(), DbErr> {
    use alert_device::Column as C;
    let rows = alert_device::Entity::find()
        .select_only()
        .columns([
            C::DeviceId,
            C::Ip,
            C::Port,
            C::FormerIp,
            C::Firmware,
            C::Missed,
        ])
        .columns([
            device::Column::Model,
            device::Column::Manufacturer,
            device::Column::Mac,
        ])
        .column(device::Column::NodeId)
        .column(node::Column::SiteId)
        .join(
            JoinType::InnerJoin,
            alert_device::Entity::belongs_to(device::Entity)
                .from(C::DeviceId)
                .to(device::Column::Id)
                .into(),
        )
        // The server itself found devices without a node.
        .join(
            JoinType::LeftJoin,
            device::Entity::belongs_to(node::Entity)
                .from(device::Column::NodeId)
                .to(node::Column::Id)
                .into(),
        )
        .filter(device::Column::DeletedAt.is_null())
        .filter(filter)
        .into_model::<StoredDevice>()
        .all(tx)
        .await?;
    for row in rows {
        let device = DeviceId(row.device_id);
        let seen = Seen {
            device,
            site: SiteId(row.site_id.unwrap_or(0)),
            node: NodeId(row.node_id.unwrap_or(0)),
            endpoint: Endpoint {
                ip: row.ip.0,
                port: codec::read_port(row.port)?,
            },
            facts: DeviceFacts {
                model: row.model,
                manufacturer: row.manufacturer,
                firmware: row.firmware,
                mac: row.mac.map(|mac| mac.0),
                ..DeviceFacts::default()
            },
        };
        let state = Known {
            seen,
            former: row.former_ip.map(|ip| ip.0),
            missed: read_count(row.missed)?,
        };
        known.insert(device, state);
    }
    Ok(())
}

/// Stores the state of devices.
pub(super) async fn store(
    tx: &DatabaseTransaction,
    org: OrgId,
    changed: &[Known],
) -> Result<(), DbErr> {
    use alert_device::Column as C;
    let row = |known: &Known| alert_device::ActiveModel {
        device_id: Set(known.seen.device.0),
        org_id: Set(org.0),
        ip: Set(AsText(known.seen.endpoint.ip)),
        port: Set(i64::from(known.seen.endpoint.port.number())),
        former_ip: Set(known.former.map(AsText)),
        firmware: Set(known.seen.facts.firmware.clone()),
        missed: Set(i64::from(known.missed)),
    };
    let newest = OnConflict::column(C::DeviceId)
        .update_columns([C::Ip, C::Port, C::FormerIp, C::Firmware, C::Missed])
        .to_owned();
    inserts::all_or(tx, changed.iter().map(row).collect(), newest).await
}
