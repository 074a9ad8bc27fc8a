//! Warnings about MACs and serials that several devices show, each once in a scan.

use std::collections::BTreeSet;

use super::inventory::Inventory;
use crate::sql::{entity::report_row, prelude::*};

/// The warnings of a report whose rows are not stored yet.
pub(super) async fn warnings(
    tx: &DatabaseTransaction,
    scan: ScanId,
    inventory: &Inventory,
) -> Result<Vec<String>, DbErr> {
    use report_row::Column as C;
    let shared = inventory.shared();
    if shared.is_empty() {
        return Ok(Vec::new());
    }
    let identifiers: BTreeSet<_> = shared
        .values()
        .map(|shared| AsText(shared.identifier.clone()))
        .collect();
    let mut warned: BTreeSet<AsText<DeviceIdentifier>> = report_row::Entity::find()
        .select_only()
        .column(C::SharedIdentity)
        .filter(C::ScanId.eq(AsText(scan)))
        .filter(C::SharedIdentity.is_in(identifiers))
        .distinct()
        .into_tuple::<AsText<DeviceIdentifier>>()
        .all(tx)
        .await?
        .into_iter()
        .collect();
    Ok(shared
        .values()
        .filter(|shared| warned.insert(AsText(shared.identifier.clone())))
        .map(ToString::to_string)
        .collect())
}
