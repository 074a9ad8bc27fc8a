//! Audit records of the devices that pass from revoked nodes to the reporter: one for each command, revoked node and
//! reason, with a count and the first device.

use std::collections::BTreeMap;

use fleet_core::NodeId;
use fleet_pairing::ClaimBasis;

use super::inventory::Inventory;
use crate::{
    NewReport,
    sql::{audit, prelude::*},
};

pub(super) async fn audit(
    tx: &DatabaseTransaction,
    new: &NewReport,
    scan: ScanId,
    inventory: &Inventory,
) -> Result<(), DbErr> {
    let mut counted: BTreeMap<(NodeId, ClaimBasis), (u64, DeviceId)> = BTreeMap::new();
    for (device, claim) in inventory.claims() {
        let entry = counted.entry((claim.from, claim.basis));
        entry.or_insert((0, *device)).0 += 1;
    }
    let record = |((from, basis), (devices, first)): ((NodeId, ClaimBasis), (u64, DeviceId))| {
        let basis = basis.as_str();
        let actor = Actor {
            principal: Principal::Node(new.node),
            from: new.from,
        };
        let subject = format!("device {first} of revoked node {from} ({basis}), in scan {scan}");
        let fold = format!("claim/{}/{from}/{basis}", new.command);
        let entry = AuditEntry::done(new.org, actor, "device.claim", subject, new.now);
        (entry, count(devices), Some(fold))
    };
    audit::write_counted(tx, counted.into_iter().map(record)).await
}
