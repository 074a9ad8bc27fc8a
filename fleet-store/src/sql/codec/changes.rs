//! The serialized form of the changes of a scan.

use fleet_core::ScanId;
use sea_orm::DbErr;
use serde::{Deserialize, Serialize};

use super::{read, write};
use crate::{ScanChanges, sql::transaction::unreadable};

#[derive(Default, Serialize, Deserialize)]
// A later version can add counts.
#[serde(default)]
struct StoredChanges {
    against: Option<String>,
    new: u64,
    missing: u64,
    moved: u64,
    changed: u64,
}

pub(crate) fn write_changes(changes: &ScanChanges) -> Result<String, DbErr> {
    let ScanChanges {
        against,
        new,
        missing,
        moved,
        changed,
    } = *changes;
    let against = against.map(|scan| scan.to_string());
    write(
        "changes",
        &StoredChanges {
            against,
            new,
            missing,
            moved,
            changed,
        },
    )
}

pub(crate) fn read_changes(text: &str) -> Result<ScanChanges, DbErr> {
    let stored: StoredChanges = read("changes", text)?;
    let against = stored.against.map(|scan| {
        scan.parse::<ScanId>()
            .map_err(|error| unreadable("changes", error))
    });
    Ok(ScanChanges {
        against: against.transpose()?,
        new: stored.new,
        missing: stored.missing,
        moved: stored.moved,
        changed: stored.changed,
    })
}
