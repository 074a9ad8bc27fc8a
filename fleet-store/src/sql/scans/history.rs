//! The other scans of a node, which show how long its next one takes and when it starts.

use std::{collections::BTreeMap, time::Duration};

use fleet_core::TargetOutcome;
use fleet_discovery::{AddressList, ChunkCommand, OpenScan, PastScan};

use crate::{
    ScanHistory,
    sql::{
        codec,
        entity::{chunk, command, scan, scan_share},
        nodes,
        prelude::*,
    },
};

/// The number of ended scans of a node that show how long its next one takes.
const PAST_SCANS: u64 = 16;

pub(super) async fn history(
    db: &impl ConnectionTrait,
    org: OrgId,
    node: NodeId,
) -> Result<ScanHistory, DbErr> {
    let open_shares = scan_share::Entity::find()
        .filter(scan_share::Column::NodeId.eq(node.0))
        .filter(scan_share::Column::State.is_in(nodes::open_states()))
        .all(db)
        .await?;
    let scans: BTreeMap<AsText<ScanId>, scan::Model> = scan::Entity::find()
        .filter(scan::Column::OrgId.eq(org.0))
        .filter(scan::Column::Id.is_in(open_shares.iter().map(|share| share.scan_id)))
        .all(db)
        .await?
        .into_iter()
        .map(|scan| (scan.id, scan))
        .collect();
    let open = open_shares.iter().filter_map(|share| {
        let scan = scans.get(&share.scan_id)?;
        Some(open_scan(scan, share))
    });
    let open = open.collect::<Result<Vec<_>, DbErr>>()?;
    Ok(ScanHistory {
        open,
        past: past(db, org, node).await?,
    })
}

async fn past(db: &impl ConnectionTrait, org: OrgId, node: NodeId) -> Result<Vec<PastScan>, DbErr> {
    // A scan that was canceled or failed does not show how long it would have taken.
    let complete = [ScanState::Completed, ScanState::Partial].map(AsText);
    let shares = scan_share::Entity::find()
        .filter(scan_share::Column::OrgId.eq(org.0))
        .filter(scan_share::Column::NodeId.eq(node.0))
        .filter(scan_share::Column::State.is_in(complete))
        // Ids contain their time, so their order is the order of creation.
        .order_by_desc(scan_share::Column::ScanId)
        .limit(PAST_SCANS)
        .all(db)
        .await?;
    let scans = || shares.iter().map(|share| share.scan_id);
    let mut parts: BTreeMap<AsText<ScanId>, Parts> = BTreeMap::new();
    let chunks = chunk::Entity::find()
        .filter(chunk::Column::ScanId.is_in(scans()))
        .filter(chunk::Column::NodeId.eq(node.0))
        .all(db)
        .await?;
    for chunk in chunks {
        parts.entry(chunk.scan_id).or_default().chunks.push(chunk);
    }
    let commands = command::Entity::find()
        .filter(command::Column::ScanId.is_in(scans()))
        .filter(command::Column::NodeId.eq(node.0))
        .filter(command::Column::State.eq(AsText(CommandState::Acked)))
        // The last command of a chunk replaces those that the node answered with BUSY.
        .order_by_asc(command::Column::IssuedAt)
        .all(db)
        .await?;
    for command in commands {
        if let Some(scan) = command.scan_id {
            let parts = parts.entry(scan).or_default();
            parts.commands.insert(command.position, command);
        }
    }
    let past = shares.iter().filter_map(|share| {
        let parts = parts.remove(&share.scan_id).unwrap_or_default();
        parts.past_scan(share).transpose()
    });
    past.collect()
}

fn open_scan(scan: &scan::Model, share: &scan_share::Model) -> Result<OpenScan, DbErr> {
    Ok(OpenScan {
        priority: scan.priority.0,
        estimate: Duration::from_millis(read_count(scan.estimate_ms)?),
        commands: read_count(share.chunks)?,
        is_running: share.state.0 == ScanState::Running,
    })
}

/// The parts of a node in a scan.
#[derive(Default)]
struct Parts {
    chunks: Vec<chunk::Model>,
    /// The last command of each chunk that the node acknowledged.
    commands: BTreeMap<i64, command::Model>,
}

impl Parts {
    /// None for a share without an acknowledged command. Commands that were lost do not count, nor does the time between
    /// commands, in which the node may scan for others.
    fn past_scan(&self, share: &scan_share::Model) -> Result<Option<PastScan>, DbErr> {
        let times = self.commands.values().filter_map(|command| {
            let ended = command.ended_at?;
            Some(ended.0.since(command.issued_at.0))
        });
        let duration: Duration = times.sum();
        if duration.is_zero() {
            return Ok(None);
        }
        // The answering addresses of each list: those that answered or refused, and those with an open port.
        let mut lists: BTreeMap<AddressList, (u64, u64)> = BTreeMap::new();
        let mut ports = Vec::new();
        let done = |chunk: &&chunk::Model| self.commands.contains_key(&chunk.position);
        for chunk in self.chunks.iter().filter(done) {
            if matches!(codec::read_command(&chunk.command)?, ChunkCommand::Mdns(_)) {
                // Its time is that of listening.
                return Ok(None);
            }
            let list = chunk.scope.0.address_list();
            let (answered, devices) = chunk.outcomes.as_deref().map_or((0, 0), answers);
            // Each share of the ports has chunks of its own with the same addresses.
            let (known, open) = lists.entry(list).or_default();
            (*known, *open) = (answered.max(*known), devices.max(*open));
            for port in codec::read_ports(&chunk.ports)? {
                if !ports.contains(&port) {
                    ports.push(port);
                }
            }
        }
        // A node that reports no outcomes still reports its devices.
        let mut reported: u64 = 0;
        for command in self.commands.values() {
            reported += read_count::<u64>(command.rows)?;
        }
        let answered: u64 = lists.values().map(|(answered, _)| answered).sum();
        let devices: u64 = lists.values().map(|(_, devices)| devices).sum();
        Ok(Some(PastScan {
            commands: self.commands.len() as u64,
            answered: answered.max(reported),
            devices: devices.max(reported),
            rate: read_count(share.rate)?,
            ports,
            duration,
            addresses: lists.into_keys().collect(),
        }))
    }
}

/// The number of addresses that answered or refused, and of those with an open port, by the outcomes of a chunk.
fn answers(outcomes: &[u8]) -> (u64, u64) {
    let (mut answered, mut devices) = (0, 0);
    for outcome in outcomes.iter().map(|byte| TargetOutcome::from_byte(*byte)) {
        match outcome {
            TargetOutcome::Identified | TargetOutcome::Unidentified => {
                answered += 1;
                devices += 1;
            }
            TargetOutcome::Refused => answered += 1,
            TargetOutcome::Skipped | TargetOutcome::NotReached | TargetOutcome::Silent => {}
        }
    }
    (answered, devices)
}
