//! The shares of a locked scan: one for each of its nodes. A share ends by itself, and the last one ends the scan.

use std::collections::BTreeSet;

use fleet_core::outcome::{Conclusion, Verdict, conclude, conclude_shares};
use fleet_discovery::canceled;

use super::LockedScan;
use crate::sql::{
    codec, endpoints,
    entity::{chunk, command, scan_share},
    ledger,
    prelude::*,
};

/// The shares of a scan, by node. They are read when they are first needed, because most reports do not need them.
#[derive(Default)]
pub(super) struct Shares {
    rows: Option<Vec<scan_share::Model>>,
    /// The nodes whose shares may have changed.
    changed: BTreeSet<i64>,
}

impl LockedScan<'_> {
    /// The shares, by node.
    pub(crate) async fn shares(&mut self) -> Result<&[scan_share::Model], DbErr> {
        if self.shares.rows.is_none() {
            self.shares.rows = Some(read(self.tx, self.row.id).await?);
        }
        Ok(self.shares.rows.as_deref().unwrap_or_default())
    }

    /// The share of a node.
    pub(crate) async fn share(&mut self, node: NodeId) -> Result<&mut scan_share::Model, DbErr> {
        self.shares().await?;
        self.shares.changed.insert(node.0);
        let mut rows = self.shares.rows.iter_mut().flatten();
        rows.find(|share| share.node_id == node.0)
            .ok_or_else(|| unreadable("scan", "the share of a node is missing"))
    }

    /// Whether the share of a node has not ended.
    pub(super) async fn is_share_open(&mut self, node: NodeId) -> Result<bool, DbErr> {
        Ok(!self.share(node).await?.state.0.is_terminal())
    }

    /// Records that a node got a chunk.
    pub(crate) async fn serve(&mut self, node: NodeId, now: Timestamp) -> Result<(), DbErr> {
        self.row.state = AsText(ScanState::Running);
        self.row.started_at = self.row.started_at.or(Some(Micros(now)));
        let share = self.share(node).await?;
        share.state = AsText(ScanState::Running);
        share.served_at = Micros(now);
        Ok(())
    }

    /// Stores the progress of a node's command in flight, which also ends a series of BUSY answers.
    pub(crate) async fn progress(&mut self, node: NodeId, done: u64) -> Result<(), DbErr> {
        let share = self.share(node).await?;
        share.units_done = share.units_settled.saturating_add(count(done));
        share.busy_answers = 0;
        self.add_up().await
    }

    /// Sets the finished targets of the scan, over all nodes.
    pub(super) async fn add_up(&mut self) -> Result<(), DbErr> {
        let in_flight = |share: &scan_share::Model| share.units_done - share.units_settled;
        let in_flight: i64 = self.shares().await?.iter().map(in_flight).sum();
        self.row.units_done = self.row.units_settled.saturating_add(in_flight);
        Ok(())
    }

    /// Ends every open chunk of a node with the same verdict, and then its share.
    pub(crate) async fn give_up(
        &mut self,
        node: NodeId,
        verdict: Verdict,
        now: Timestamp,
    ) -> Result<(), DbErr> {
        let rest = chunk::ActiveModel {
            state: Set(AsText(ChunkState::Done)),
            grade: Set(Some(ledger::grade_name(verdict.grade).to_owned())),
            code: Set(Some(verdict.code.as_str().to_owned())),
            reason: Set(verdict.reason),
            ..Default::default()
        };
        chunk::Entity::update_many()
            .set(rest)
            .filter(chunk::Column::ScanId.eq(self.row.id))
            .filter(chunk::Column::NodeId.eq(node.0))
            // Chunks that have ended keep their verdict.
            .filter(chunk::Column::State.ne(AsText(ChunkState::Done)))
            .exec(self.tx)
            .await?;
        let share = self.share(node).await?;
        let rest = share.chunks - share.chunks_done;
        share.chunks_done = share.chunks;
        self.row.chunks_done += rest;
        self.conclude_share(node, now).await
    }

    /// Ends the share of a node with the combined verdicts of its chunks.
    pub(super) async fn conclude_share(
        &mut self,
        node: NodeId,
        now: Timestamp,
    ) -> Result<(), DbErr> {
        let verdicts = ledger::verdicts(self.tx, self.row.id.0, node).await?;
        self.end_share(node, conclude(&verdicts), now).await
    }

    /// Ends the share of a node, and with the last share the scan. A canceled scan ends when its last node has stopped.
    pub(crate) async fn end_share(
        &mut self,
        node: NodeId,
        conclusion: Conclusion,
        now: Timestamp,
    ) -> Result<(), DbErr> {
        if !self.is_open() || !self.is_share_open(node).await? {
            return Ok(());
        }
        end(self.share(node).await?, &conclusion);
        self.add_up().await?;
        let open = |share: &scan_share::Model| !share.state.0.is_terminal();
        if self.shares().await?.iter().any(open) {
            return Ok(());
        }
        let conclusion = if self.row.cancel_until.is_some() {
            canceled()
        } else {
            self.joined().await?
        };
        self.finish(conclusion, now).await
    }

    /// Ends the open shares with the outcome of the scan.
    pub(super) async fn end_open_shares(&mut self, conclusion: &Conclusion) -> Result<(), DbErr> {
        self.shares().await?;
        for share in self.shares.rows.iter_mut().flatten() {
            if !share.state.0.is_terminal() {
                end(share, conclusion);
                self.shares.changed.insert(share.node_id);
            }
        }
        Ok(())
    }

    /// The outcome of a scan whose shares have all ended.
    async fn joined(&mut self) -> Result<Conclusion, DbErr> {
        let tx = self.tx;
        let shares = self.shares().await?;
        let nodes = shares.iter().map(|share| NodeId(share.node_id)).collect();
        let names = endpoints::names(tx, nodes).await?;
        let mut ends = Vec::with_capacity(shares.len());
        for share in shares {
            let node = NodeId(share.node_id);
            let name = names.get(&node).map_or("", String::as_str);
            if let Some(conclusion) = conclusion(share)? {
                ends.push((format!("node {node} ({name})"), conclusion));
            }
        }
        Ok(conclude_shares(&ends))
    }

    /// The commands of the scan that are in flight, by node.
    pub(crate) async fn in_flight(&self) -> Result<Vec<command::Model>, DbErr> {
        command::Entity::find()
            .filter(command::Column::ScanId.eq(self.row.id))
            .filter(command::Column::State.eq(AsText(CommandState::Issued)))
            .order_by_asc(command::Column::NodeId)
            .all(self.tx)
            .await
    }

    /// Writes the changes of the shares.
    pub(super) async fn save_shares(&self) -> Result<(), DbErr> {
        let changed = |share: &&scan_share::Model| self.shares.changed.contains(&share.node_id);
        for share in self.shares.rows.iter().flatten().filter(changed) {
            let changed = scan_share::ActiveModel {
                state: Set(share.state),
                code: Set(share.code.clone()),
                reason: Set(share.reason.clone()),
                chunks_done: Set(share.chunks_done),
                units_done: Set(share.units_done),
                units_settled: Set(share.units_settled),
                queued_until: Set(share.queued_until),
                served_at: Set(share.served_at),
                not_before: Set(share.not_before),
                busy_answers: Set(share.busy_answers),
                ..Default::default()
            };
            scan_share::Entity::update_many()
                .set(changed)
                .filter(scan_share::Column::ScanId.eq(share.scan_id))
                .filter(scan_share::Column::NodeId.eq(share.node_id))
                .exec(self.tx)
                .await?;
        }
        Ok(())
    }
}

/// Reads the shares of a scan, by node.
pub(crate) async fn read(
    db: &impl ConnectionTrait,
    scan: AsText<ScanId>,
) -> Result<Vec<scan_share::Model>, DbErr> {
    scan_share::Entity::find()
        .filter(scan_share::Column::ScanId.eq(scan))
        .order_by_asc(scan_share::Column::NodeId)
        .all(db)
        .await
}

/// The outcome of a share; none while it is open.
pub(crate) fn conclusion(share: &scan_share::Model) -> Result<Option<Conclusion>, DbErr> {
    match &share.code {
        Some(code) if share.state.0.is_terminal() => Ok(Some(Conclusion {
            state: share.state.0,
            code: codec::read_code(code)?,
            reason: share.reason.clone(),
        })),
        _ => Ok(None),
    }
}

fn end(share: &mut scan_share::Model, conclusion: &Conclusion) {
    share.state = AsText(conclusion.state);
    share.code = Some(conclusion.code.as_str().to_owned());
    share.reason.clone_from(&conclusion.reason);
    share.units_done = share.units_settled;
}
