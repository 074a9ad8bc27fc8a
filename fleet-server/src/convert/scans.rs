//! Conversions of scans and their shares.

use std::time::Duration;

use fleet_core::{Priority, ScanState};
use fleet_store::{Progress, ScanChanges, ScanRow, ShareRow};
use fleet_wire::fleet;

use super::{discover_request, ledger, timestamp};
use crate::planning;

/// A scan for operators.
pub(crate) fn scan(row: ScanRow) -> fleet::Scan {
    let conclusion = row.conclusion.as_ref();
    let first = row.shares.first();
    let (_, _, site_id, auto) = planning::named(&row.choice);
    fleet::Scan {
        scan_id: row.id.to_string(),
        fleet_node_id: first.map_or(0, |share| share.node.0),
        node_name: first.map_or_else(String::new, |share| share.node_name.clone()),
        state: scan_state(row.state).into(),
        priority: priority(row.priority).into(),
        request: Some(discover_request(row.request)),
        created_at: Some(timestamp(row.created_at)),
        started_at: row.started_at.map(timestamp),
        ended_at: row.ended_at.map(timestamp),
        queued_until: row.queued_until.map(timestamp),
        started_by: row.started_by,
        reason: conclusion.map(|c| c.reason.clone()).unwrap_or_default(),
        code: conclusion
            .map(|c| c.code.as_str().to_owned())
            .unwrap_or_default(),
        progress: Some(progress(&row.progress)),
        ledger: row.ledger.as_ref().map(ledger),
        last_sequence: row.last_sequence,
        open_scope: row.open_scope,
        commands: row.chunks,
        commands_done: row.chunks_done,
        shares: row.shares.into_iter().map(scan_share).collect(),
        site_id,
        auto,
        changes: row.changes.map(changes),
        name: row.name,
    }
}

fn scan_share(row: ShareRow) -> fleet::ScanShare {
    let conclusion = row.conclusion.as_ref();
    fleet::ScanShare {
        fleet_node_id: row.node.0,
        node_name: row.node_name,
        site_id: row.site.0,
        site_name: row.site_name,
        state: scan_state(row.state).into(),
        targets: row.targets,
        done: row.done,
        commands: row.chunks,
        commands_done: row.chunks_done,
        reason: conclusion.map(|c| c.reason.clone()).unwrap_or_default(),
        code: conclusion
            .map(|c| c.code.as_str().to_owned())
            .unwrap_or_default(),
    }
}

fn changes(changes: ScanChanges) -> fleet::ScanChanges {
    fleet::ScanChanges {
        against_scan_id: changes
            .against
            .map(|scan| scan.to_string())
            .unwrap_or_default(),
        new: changes.new,
        missing: changes.missing,
        moved: changes.moved,
        changed: changes.changed,
    }
}

/// The state of a scan on the wire.
pub(crate) fn scan_state(state: ScanState) -> fleet::ScanState {
    match state {
        ScanState::Queued => fleet::ScanState::Queued,
        ScanState::Running => fleet::ScanState::Running,
        ScanState::Completed => fleet::ScanState::Completed,
        ScanState::Partial => fleet::ScanState::Partial,
        ScanState::Failed => fleet::ScanState::Failed,
        ScanState::Canceled => fleet::ScanState::Canceled,
        ScanState::Expired => fleet::ScanState::Expired,
    }
}

fn priority(priority: Priority) -> fleet::ScanPriority {
    match priority {
        Priority::Interactive => fleet::ScanPriority::Interactive,
        Priority::Scheduled => fleet::ScanPriority::Scheduled,
    }
}

/// The progress of a scan.
pub(crate) fn progress(progress: &Progress) -> fleet::ScanProgress {
    fleet::ScanProgress {
        done: progress.done,
        total: progress.total,
        phase: progress.phase.clone(),
        elapsed_ms: millis(progress.elapsed),
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
