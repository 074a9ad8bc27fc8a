//! Resolving an operator's selection to the devices that a node can pair.

use fleet_core::{DeviceFacts, PairingStatus};
use fleet_pairing::{Binding, NotPairable, PairCandidate, decide_target, decide_unpaired_target};

use super::bindings::pairings;
use crate::{
    PairSelection, PairTarget, PairTargets,
    sql::{
        devices,
        entity::{binding, device},
        prelude::*,
    },
};

/// Candidates for a selection: devices that the node found or that are bound to it.
const CANDIDATES: u64 = 65_536;

pub(super) async fn select(
    db: &impl ConnectionTrait,
    org: OrgId,
    node: NodeId,
    selection: &PairSelection,
) -> Result<PairTargets, DbErr> {
    let mut wanted = PairTargets::default();
    let mut named = Vec::new();
    if !selection.identifiers.is_empty() {
        let rows = device::Entity::find()
            .filter(device::Column::OrgId.eq(org.0))
            .filter(device::Column::DeletedAt.is_null())
            .filter(
                device::Column::Identifier.is_in(selection.identifiers.iter().map(String::as_str)),
            )
            .order_by_asc(device::Column::Id)
            .all(db)
            .await?;
        for identifier in &selection.identifiers {
            let known = rows
                .iter()
                .any(|row| row.identifier.0.to_string() == *identifier);
            if !known
                && !wanted
                    .refused
                    .iter()
                    .any(|(refused, _)| refused == identifier)
            {
                let why = "no such device in this organization".to_owned();
                wanted.refused.push((identifier.clone(), why));
            }
        }
        named = rows;
    }
    let all = if selection.all_unpaired {
        candidates(db, org, node).await?
    } else {
        Vec::new()
    };
    let ids: Vec<i64> = named.iter().chain(&all).map(|row| row.id).collect();
    let known = pairings(db, org, &ids).await?;
    let candidate = |row: &device::Model| {
        let (binding, status) = known
            .get(&DeviceId(row.id))
            .map_or((Binding::Free, PairingStatus::Unpaired), |known| {
                (known.binding, known.status)
            });
        PairCandidate {
            binding,
            owner: row.node_id.map(NodeId),
            status,
            has_endpoint: row.ip.is_some(),
            claimed_from: row.claimed_from_node_id.map(NodeId),
        }
    };
    for row in named {
        match decide_target(node, candidate(&row)) {
            Ok(()) => wanted.targets.extend(target(row)?),
            Err(why) => wanted
                .refused
                .push((row.identifier.0.to_string(), why.to_string())),
        }
    }
    for row in all {
        match decide_unpaired_target(node, candidate(&row), selection.with_password) {
            Ok(()) => wanted.targets.extend(target(row)?),
            // An operator must see the claim and decide about it.
            Err(why @ NotPairable::Claimed(_)) => wanted
                .refused
                .push((row.identifier.0.to_string(), why.to_string())),
            Err(
                NotPairable::NotOfNode(_)
                | NotPairable::Bound(_)
                | NotPairable::Paired
                | NotPairable::PasswordMissing,
            ) => {}
        }
    }
    wanted.targets.sort_by_key(|target| target.device);
    // A device can be named and also be one of the unpaired ones.
    wanted.targets.dedup_by_key(|target| target.device);
    Ok(wanted)
}

/// Devices that a node found or that are bound to it.
async fn candidates(
    db: &impl ConnectionTrait,
    org: OrgId,
    node: NodeId,
) -> Result<Vec<device::Model>, DbErr> {
    let bound = binding::Entity::find()
        .select_only()
        .column(binding::Column::DeviceId)
        .filter(binding::Column::NodeId.eq(node.0));
    device::Entity::find()
        .filter(device::Column::OrgId.eq(org.0))
        .filter(device::Column::DeletedAt.is_null())
        .filter(
            Condition::any()
                .add(device::Column::NodeId.eq(node.0))
                .add(device::Column::Id.in_subquery(bound.into_query())),
        )
        .order_by_asc(device::Column::Id)
        .limit(CANDIDATES)
        .all(db)
        .await
}

/// A device in the form that is sent to its node, or `None` if it has no endpoint.
fn target(row: device::Model) -> Result<Option<PairTarget>, DbErr> {
    let Some(endpoint) = devices::endpoint(&row)? else {
        return Ok(None);
    };
    Ok(Some(PairTarget {
        device: DeviceId(row.id),
        identifier: row.identifier.0,
        endpoint,
        facts: DeviceFacts {
            scheme: row.scheme,
            driver: row.driver,
            manufacturer: row.manufacturer,
            firmware: row.firmware,
            ..DeviceFacts::default()
        },
    }))
}
