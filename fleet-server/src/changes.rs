//! Compares each ended scan with the previous one, so that lists of scans show the changes. The comparison itself is in
//! `results.rs`.

use std::{sync::Arc, time::Duration};

use fleet_core::{OrgId, ScanId};
use fleet_inventory::Group;
use fleet_store::ScanChanges;
use fleet_wire::RpcError;

use crate::{
    app::App,
    failure::Answered,
    results::{self, Difference},
};

/// Between two looks at the ended scans.
const EVERY: Duration = Duration::from_secs(1);
/// After a failure. The scan that failed is the first again.
const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// Scans of one look. After an upgrade, those of earlier versions are compared bit by bit.
const SCANS: u32 = 8;

/// Compares scans until the server drains. Two servers can compare the same scan, with the same result.
pub(crate) async fn run(app: Arc<App>) {
    let mut wait = EVERY;
    loop {
        tokio::select! {
            () = app.drain.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = match compare(&app).await {
            Ok(()) => EVERY,
            Err(error) => {
                tracing::warn!(%error, "cannot compare ended scans");
                AFTER_FAILURE
            }
        };
    }
}

async fn compare(app: &App) -> Result<(), RpcError> {
    for (org, scan) in app.store.uncompared_scans(SCANS).await.answered()? {
        if app.drain.is_cancelled() {
            break;
        }
        let changes = changes(app, org, scan).await?;
        app.store
            .store_scan_changes(scan, changes)
            .await
            .answered()?;
    }
    Ok(())
}

async fn changes(app: &App, org: OrgId, scan: ScanId) -> Result<ScanChanges, RpcError> {
    let difference = results::compared(app, org, scan, None).await?;
    Ok(ScanChanges {
        against: difference.against,
        new: count(&difference, Group::New),
        missing: count(&difference, Group::Missing),
        moved: count(&difference, Group::Moved),
        changed: count(&difference, Group::Changed),
    })
}

fn count(difference: &Difference, group: Group) -> u64 {
    let group = results::on_wire(group);
    let rows = difference.rows.iter().filter(|row| row.group() == group);
    rows.count() as u64
}
