//! Direct scans by the server: releasing addresses, recording the devices found there, giving the addresses back, and
//! ending the scan.

mod runs;
mod sightings;

use std::{collections::BTreeSet, net::IpAddr};

use fleet_pairing::divide;

use super::{
    alerts, codec, devices, endpoints,
    entity::{device, direct_lease, node_endpoint},
    inserts,
};
use crate::{
    DeviceRow, DialRequest, Direct, DirectEnd, DirectRun, Exclusion, NewSightings, ReleaseError,
    Released, Sighted, sql::prelude::*,
};

#[async_trait]
impl Direct for SqlStore {
    async fn release_for_dialing(&self, request: DialRequest) -> Result<Released, ReleaseError> {
        transaction!(self, "release_for_dialing", |tx| {
            use direct_lease::Column as C;
            let org = request.org;
            endpoints::lock_exclusive(tx).await?;
            direct_lease::Entity::delete_many()
                .filter(C::OrgId.eq(org.0))
                // A server that crashed did not give its leases back.
                .filter(C::Until.lte(Micros(request.now)))
                .exec(tx)
                .await?;
            // Leases are the only state that servers share, so this also finds the scans of other
            // servers.
            let other = direct_lease::Entity::find()
                .filter(C::OrgId.eq(org.0))
                .filter(C::ScanId.ne(AsText(request.scan)))
                .one(tx)
                .await?;
            if let Some(other) = other {
                return refuse(ReleaseError::Busy(other.scan_id.0));
            }
            let attributed = attributed(tx, &request.addresses).await?;
            let own: BTreeSet<NodeId> = attributed
                .iter()
                .filter(|row| row.org_id == org.0)
                .map(|row| NodeId(row.node_id))
                .collect();
            let attributed = attributed
                .iter()
                .map(endpoint)
                .collect::<Result<Vec<_>, _>>()?;
            let divided = divide(request.addresses.iter().copied(), attributed);
            let row = |ip: &IpAddr| direct_lease::ActiveModel {
                org_id: Set(org.0),
                ip: Set(AsText(*ip)),
                scan_id: Set(AsText(request.scan)),
                until: Set(Micros(request.until)),
            };
            let again = OnConflict::columns([C::OrgId, C::Ip])
                .update_column(C::Until)
                .to_owned();
            inserts::all_or(tx, divided.allowed.iter().map(row).collect(), again).await?;
            let names = endpoints::names(tx, own).await?;
            // A node of another organization is not named.
            let exclusion = |(ip, node): (IpAddr, NodeId)| Exclusion {
                ip,
                node: names.get(&node).map(|name| (node, name.clone())),
            };
            Ok(Released {
                allowed: divided.allowed,
                excluded: divided.excluded.into_iter().map(exclusion).collect(),
            })
        })
    }

    async fn record_direct(&self, sightings: NewSightings) -> Result<Sighted, StoreError> {
        transaction!(self, "record_direct", |tx| {
            Ok(sightings::record(tx, &sightings).await?)
        })
    }

    async fn devices_named(
        &self,
        org: OrgId,
        identifiers: BTreeSet<DeviceIdentifier>,
    ) -> Result<Vec<DeviceRow>, StoreError> {
        let rows = device::Entity::find()
            .filter(device::Column::OrgId.eq(org.0))
            .filter(device::Column::Identifier.is_in(identifiers.into_iter().map(AsText)))
            .filter(device::Column::DeletedAt.is_null())
            .order_by_asc(device::Column::Id)
            .all(self.reader())
            .await;
        let row = |model| devices::row(model, Vec::new());
        let rows = rows.and_then(|rows| rows.into_iter().map(row).collect());
        rows.during("devices_named")
    }

    async fn begin_direct(&self, run: DirectRun) -> Result<(), StoreError> {
        transaction!(self, "begin_direct", |tx| {
            Ok(runs::begin(tx, &run).await?)
        })
    }

    async fn end_direct(&self, end: DirectEnd) -> Result<u64, StoreError> {
        transaction!(self, "end_direct", |tx| {
            runs::end(tx, end.scan).await?;
            Ok(alerts::settle_direct(tx, &end).await?)
        })
    }

    async fn direct_runs(&self) -> Result<Vec<DirectRun>, StoreError> {
        runs::list(self.reader()).await.during("direct_runs")
    }

    async fn end_stopped_direct(
        &self,
        scan: ScanId,
        now: Timestamp,
    ) -> Result<Option<u64>, StoreError> {
        transaction!(self, "end_stopped_direct", |tx| {
            let Some(end) = runs::stopped(tx, scan, now).await? else {
                return Ok(None);
            };
            Ok(Some(alerts::settle_direct(tx, &end).await?))
        })
    }

    async fn give_back(&self, org: OrgId, scan: ScanId) -> Result<(), StoreError> {
        transaction!(self, "give_back", |tx| {
            direct_lease::Entity::delete_many()
                .filter(direct_lease::Column::OrgId.eq(org.0))
                .filter(direct_lease::Column::ScanId.eq(AsText(scan)))
                .exec(tx)
                .await?;
            Ok(())
        })
    }
}

/// Every endpoint at these addresses that was ever attributed to a node, of any organization.
async fn attributed(
    tx: &DatabaseTransaction,
    addresses: &[IpAddr],
) -> Result<Vec<node_endpoint::Model>, DbErr> {
    let addresses = addresses
        .iter()
        .map(|ip| AsText(fleet_core::canonical(*ip)));
    node_endpoint::Entity::find()
        // By address, because a device answers at other ports too (decision 0003).
        .filter(node_endpoint::Column::Ip.is_in(addresses))
        .order_by_asc(node_endpoint::Column::Since)
        .all(tx)
        .await
}

fn endpoint(row: &node_endpoint::Model) -> Result<(Endpoint, NodeId), DbErr> {
    let port = codec::read_port(row.port)?;
    Ok((Endpoint { ip: row.ip.0, port }, NodeId(row.node_id)))
}
