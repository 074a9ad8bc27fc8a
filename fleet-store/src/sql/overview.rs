//! Reading the overview of an organization. Outcomes are written by `blocks.rs`, counts by `days.rs`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use fleet_discovery::Exclusion;
use fleet_inventory::{
    BlockNumber, CELLS, Cell, CellState, Day, DayCounts, Search, announced_blocks, wide_networks,
};

use super::{
    codec, days,
    entity::{device, node, scan, scan_host, scan_share, site_block},
    search::matching,
    sites,
};
use crate::{MapBlock, MapCell, Overview, OverviewCounts, SiteMap, SiteRow, sql::prelude::*};

#[async_trait]
impl Overview for SqlStore {
    async fn overview_counts(
        &self,
        org: OrgId,
        now: Timestamp,
    ) -> Result<OverviewCounts, StoreError> {
        counts(self.reader(), org, now)
            .await
            .during("overview_counts")
    }

    async fn overview_days(
        &self,
        org: OrgId,
        now: Timestamp,
    ) -> Result<Vec<(Day, DayCounts)>, StoreError> {
        days::last(self.reader(), org, now)
            .await
            .during("overview_days")
    }

    async fn site_map(
        &self,
        org: OrgId,
        site: SiteId,
        after: Option<BlockNumber>,
        limit: u32,
    ) -> Result<Option<SiteMap>, StoreError> {
        let operation = "site_map";
        let db = self.reader();
        let rows = sites::rows(db, org, Some(site)).await.during(operation)?;
        let Some(site) = rows.into_iter().next() else {
            return Ok(None);
        };
        let map = map(db, &site, after, limit).await.during(operation)?;
        Ok(Some(map))
    }
}

async fn counts(
    db: &impl ConnectionTrait,
    org: OrgId,
    now: Timestamp,
) -> Result<OverviewCounts, DbErr> {
    // The searches that the page links to, so each number is the length of its list.
    let devices = async |text: &str| {
        let search: Search = text.parse().map_err(|error| unreadable("search", error))?;
        let found = device::Entity::find().filter(matching(org, &search, None, now));
        found.count(db).await
    };
    let running = scan::Entity::find()
        .filter(scan::Column::OrgId.eq(org.0))
        .filter(scan::Column::State.eq(AsText(ScanState::Running)));
    Ok(OverviewCounts {
        devices: devices("").await?,
        new_today: devices("first:today").await?,
        missing: devices("missing:yes").await?,
        need_password: devices("pairing:password").await?,
        scans_running: running.count(db).await?,
    })
}

async fn map(
    db: &impl ConnectionTrait,
    site: &SiteRow,
    after: Option<BlockNumber>,
    limit: u32,
) -> Result<SiteMap, DbErr> {
    use site_block::{Column as C, Entity};
    let exclusions = site.exclusions();
    let exclusions = exclusions.map_err(|error| unreadable("site_exclude", error))?;
    let subnets = subnets(db, site).await?;
    let mut known = announced_blocks(subnets.iter().map(String::as_str));
    let stored: Vec<i64> = Entity::find()
        .filter(C::SiteId.eq(site.id.0))
        .select_only()
        .column(C::Block)
        .into_tuple()
        .all(db)
        .await?;
    known.extend(stored.into_iter().filter_map(BlockNumber::from_number));
    let rest = || {
        known
            .iter()
            .filter(|block| after.is_none_or(|after| **block > after))
    };
    let page: Vec<BlockNumber> = rest().take(limit as usize).copied().collect();
    let rows: BTreeMap<i64, site_block::Model> = Entity::find()
        .filter(C::SiteId.eq(site.id.0))
        .filter(C::Block.is_in(page.iter().map(|block| block.number())))
        .all(db)
        .await?
        .into_iter()
        .map(|row| (row.block, row))
        .collect();
    let devices = devices(db, site, &page).await?;
    let mut blocks = Vec::with_capacity(page.len());
    for block in &page {
        blocks.push(read(
            *block,
            rows.get(&block.number()),
            &devices,
            &exclusions,
        )?);
    }
    describe_hosts(db, site, &mut blocks).await?;
    let mut wide = BTreeMap::new();
    if after.is_none() {
        let devices = wide_devices(db, site).await?;
        wide = wide_networks(devices, subnets.iter().map(String::as_str));
    }
    Ok(SiteMap {
        wide_total: wide.len() as u64,
        wide: wide.into_iter().take(WIDE_NETWORKS).collect(),
        blocks,
        next: page.last().filter(|_| rest().count() > page.len()).copied(),
        total: known.len() as u64,
    })
}

/// The IPv6 networks that a map lists.
const WIDE_NETWORKS: usize = 64;

/// The IPv6 addresses of the devices of a site.
async fn wide_devices(db: &impl ConnectionTrait, site: &SiteRow) -> Result<Vec<IpAddr>, DbErr> {
    use device::Column as C;
    let addresses: Vec<Option<AsText<IpAddr>>> = device::Entity::find()
        .filter(C::NodeId.is_in(site.nodes.iter().map(|node| node.0)))
        // The order of addresses begins with the version.
        .filter(C::AddressKey.gte("6"))
        .filter(C::DeletedAt.is_null())
        .select_only()
        .column(C::Ip)
        .into_tuple()
        .all(db)
        .await?;
    Ok(addresses.into_iter().flatten().map(|ip| ip.0).collect())
}

/// The subnets that the nodes of a site announced.
async fn subnets(db: &impl ConnectionTrait, site: &SiteRow) -> Result<Vec<String>, DbErr> {
    let hellos: Vec<Option<String>> = node::Entity::find()
        .filter(node::Column::Id.is_in(site.nodes.iter().map(|node| node.0)))
        .select_only()
        .column(node::Column::Hello)
        .into_tuple()
        .all(db)
        .await?;
    let mut subnets = Vec::new();
    for hello in hellos.into_iter().flatten() {
        subnets.extend(codec::read_hello(&hello)?.local_subnets);
    }
    Ok(subnets)
}

fn read(
    block: BlockNumber,
    row: Option<&site_block::Model>,
    devices: &BTreeMap<Ipv4Addr, (DeviceId, Timestamp)>,
    exclusions: &[Exclusion],
) -> Result<MapBlock, DbErr> {
    let cells = match row {
        Some(row) => codec::read_cells(&row.outcomes, &row.scans, &row.answers)?,
        None => vec![Cell::default(); CELLS],
    };
    let cell = |(octet, cell): (u8, Cell)| {
        let ip = block.address(octet);
        let device = devices.get(&ip);
        let is_excluded = exclusions
            .iter()
            .any(|exclusion| exclusion.contains(IpAddr::V4(ip)));
        MapCell {
            state: cell.state(is_excluded, device.map(|(_, seen)| *seen)),
            device: device.map(|(id, _)| *id),
            host_scan: None,
            answered: cell.answered.max(device.map(|(_, seen)| *seen)),
        }
    };
    Ok(MapBlock {
        block,
        cells: (0..=u8::MAX).zip(cells).map(cell).collect(),
        scanned_at: row.map(|row| row.scanned_at.0),
    })
}

/// The devices at the addresses of these blocks, with their last report. If several nodes of the site have a device at
/// one address, the one that answered last counts.
async fn devices(
    db: &impl ConnectionTrait,
    site: &SiteRow,
    blocks: &[BlockNumber],
) -> Result<BTreeMap<Ipv4Addr, (DeviceId, Timestamp)>, DbErr> {
    use device::Column as C;
    let addresses = blocks
        .iter()
        .flat_map(|block| (0..=u8::MAX).map(|octet| IpAddr::V4(block.address(octet))))
        .map(AsText);
    let rows: Vec<(i64, Option<AsText<IpAddr>>, Micros)> = device::Entity::find()
        .filter(C::NodeId.is_in(site.nodes.iter().map(|node| node.0)))
        .filter(C::Ip.is_in(addresses))
        .filter(C::DeletedAt.is_null())
        .order_by_asc(C::LastSeen)
        .select_only()
        .columns([C::Id, C::Ip, C::LastSeen])
        .into_tuple()
        .all(db)
        .await?;
    let device = |(id, ip, seen): (i64, Option<AsText<IpAddr>>, Micros)| match ip?.0 {
        IpAddr::V4(ip) => Some((ip, (DeviceId(id), seen.0))),
        IpAddr::V6(_) => None,
    };
    Ok(rows.into_iter().filter_map(device).collect())
}

/// Names the last scan that describes each unidentified host.
async fn describe_hosts(
    db: &impl ConnectionTrait,
    site: &SiteRow,
    blocks: &mut [MapBlock],
) -> Result<(), DbErr> {
    use scan_host::Column as C;
    let unidentified = |block: &MapBlock| {
        let cells = (0..=u8::MAX).zip(&block.cells);
        let hosts = cells.filter(|(_, cell)| cell.state == CellState::Unidentified);
        hosts
            .map(|(octet, _)| AsText(IpAddr::V4(block.block.address(octet))))
            .collect::<Vec<_>>()
    };
    let addresses: Vec<_> = blocks.iter().flat_map(unidentified).collect();
    if addresses.is_empty() {
        return Ok(());
    }
    let scans = sea_orm::sea_query::Query::select()
        .column(scan_share::Column::ScanId)
        .from(scan_share::Entity)
        .and_where(scan_share::Column::NodeId.is_in(site.nodes.iter().map(|node| node.0)))
        .to_owned();
    // Ids contain their time.
    let rows: Vec<(AsText<IpAddr>, String)> = scan_host::Entity::find()
        .filter(C::Ip.is_in(addresses))
        .filter(C::ScanId.in_subquery(scans))
        .select_only()
        .column(C::Ip)
        .column_as(C::ScanId.max(), "scan")
        .group_by(C::Ip)
        .into_tuple()
        .all(db)
        .await?;
    let mut described = BTreeMap::new();
    for (AsText(ip), scan) in rows {
        let scan: ScanId = scan.parse().map_err(|error| unreadable("scan", error))?;
        described.insert(ip, scan);
    }
    for block in blocks {
        for (octet, cell) in (0..=u8::MAX).zip(&mut block.cells) {
            if cell.state == CellState::Unidentified {
                let ip = IpAddr::V4(block.block.address(octet));
                cell.host_scan = described.get(&ip).copied();
            }
        }
    }
    Ok(())
}
