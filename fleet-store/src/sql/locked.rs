//! A scan under its lock. Every change of a scan, its shares, its chunks and its log goes through [`LockedScan`],
//! which keeps sequences dense and writes exactly one terminal event.

mod shares;

use fleet_core::outcome::{Conclusion, Grade, Verdict};
use fleet_discovery::{
    LogEvent, RunningScan, ScanEnded, Unfinished, canceled, on_busy, on_expired, on_lost,
    queued_until,
};
use fleet_inventory::DayCounts;
use shares::Shares;
pub(crate) use shares::{conclusion as conclusion_of_share, read as read_shares};

use super::{
    alerts, blocks, codec, days,
    entity::{chunk, command, scan, scan_event},
    inserts, ledger, missing,
};
use crate::sql::prelude::*;

/// A scan whose row is locked. Changes stay in memory until [`Self::save`].
pub(crate) struct LockedScan<'t> {
    tx: &'t DatabaseTransaction,
    row: scan::Model,
    shares: Shares,
    ended_now: bool,
}

impl<'t> LockedScan<'t> {
    /// Locks a scan. The nodes that the transaction concerns must be locked already and by id, because all transactions
    /// lock in that order.
    pub(crate) async fn lock(
        tx: &'t DatabaseTransaction,
        id: ScanId,
    ) -> Result<Option<Self>, DbErr> {
        let row = scan::Entity::find_by_id(AsText(id))
            // Not FOR UPDATE, which would also block inserts of rows that refer to the scan.
            .lock(LockType::NoKeyUpdate)
            .one(tx)
            .await?;
        Ok(row.map(|row| Self {
            tx,
            row,
            shares: Shares::default(),
            ended_now: false,
        }))
    }

    pub(crate) fn row(&self) -> &scan::Model {
        &self.row
    }

    pub(crate) fn row_mut(&mut self) -> &mut scan::Model {
        &mut self.row
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.row.state.0.is_terminal()
    }

    /// Whether the scan ended under this lock.
    pub(crate) fn ended_now(&self) -> bool {
        self.ended_now
    }

    /// Milliseconds since the first command was issued.
    pub(crate) fn elapsed_ms(&self, now: Timestamp) -> u64 {
        let started = self.row.started_at.map_or(now, |at| at.0);
        u64::try_from(now.since(started).as_millis()).unwrap_or(u64::MAX)
    }

    /// Appends events to the log, with the next sequences.
    pub(crate) async fn append(
        &mut self,
        events: &[LogEvent],
        now: Timestamp,
    ) -> Result<(), DbErr> {
        let mut rows = Vec::with_capacity(events.len());
        for event in events {
            // Under the lock of the scan. A sequence of the database would leave gaps after a
            // rollback.
            self.row.last_sequence += 1;
            rows.push(scan_event::ActiveModel {
                scan_id: Set(self.row.id),
                sequence: Set(self.row.last_sequence),
                kind: Set(codec::kind(event).to_owned()),
                payload: Set(codec::write_event(event)?),
                at: Set(Micros(now)),
            });
        }
        inserts::all(self.tx, rows).await
    }

    /// Appends warnings to the log.
    pub(crate) async fn warn(
        &mut self,
        texts: impl IntoIterator<Item = String>,
        now: Timestamp,
    ) -> Result<(), DbErr> {
        let events: Vec<_> = texts
            .into_iter()
            .map(|text| LogEvent::Warning { text })
            .collect();
        self.append(&events, now).await
    }

    /// Handles a BUSY answer of a node. Returns when the chunk may be issued again, if it waits.
    pub(crate) async fn refused_as_busy(
        &mut self,
        command: &command::Model,
        verdict: &Verdict,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, DbErr> {
        let node = NodeId(command.node_id);
        let answers = read_count(self.share(node).await?.busy_answers)?;
        let unfinished = on_busy(self.state(), answers);
        if unfinished == Unfinished::GiveUp {
            self.give_up(node, verdict.clone(), now).await?;
            return Ok(None);
        }
        let mut wait = None;
        if let Unfinished::RetryAfter(time) = unfinished {
            wait = Some(now.plus(time));
            let share = self.share(node).await?;
            share.busy_answers += 1;
            share.not_before = Micros(now.plus(time));
        }
        self.settle(command, unfinished, false, now).await?;
        Ok(wait)
    }

    /// Handles a command that its node no longer knows.
    pub(crate) async fn lose_chunk(
        &mut self,
        command: &command::Model,
        now: Timestamp,
    ) -> Result<(), DbErr> {
        let attempts = read_count(self.chunk_of(command).await?.attempts)?;
        self.settle_attempt(command, on_lost(self.state(), attempts), now)
            .await
    }

    /// Handles a command whose node gave no answer until its deadline.
    pub(crate) async fn expire_chunk(
        &mut self,
        command: &command::Model,
        now: Timestamp,
    ) -> Result<(), DbErr> {
        let attempts = read_count(self.chunk_of(command).await?.attempts)?;
        self.settle_attempt(command, on_expired(self.state(), attempts), now)
            .await
    }

    /// Settles a command that counts as one of the attempts of its chunk.
    async fn settle_attempt(
        &mut self,
        command: &command::Model,
        unfinished: Unfinished,
        now: Timestamp,
    ) -> Result<(), DbErr> {
        if unfinished == Unfinished::Cancel {
            self.keep_scope(command).await?;
        }
        self.settle(command, unfinished, true, now).await
    }

    /// Puts the chunk of a command that never reached its node back into the queue.
    pub(crate) async fn withdraw_chunk(
        &mut self,
        command: &command::Model,
        now: Timestamp,
    ) -> Result<(), DbErr> {
        let scan = self.state();
        let unfinished = match scan {
            RunningScan { open: false, .. } => Unfinished::Ignore,
            RunningScan {
                canceling: true, ..
            } => Unfinished::Cancel,
            RunningScan { .. } => Unfinished::Retry,
        };
        self.settle(command, unfinished, false, now).await
    }

    /// Writes the new state of a chunk without a result. With `counted`, the attempt is one of its three.
    async fn settle(
        &mut self,
        command: &command::Model,
        unfinished: Unfinished,
        counted: bool,
        now: Timestamp,
    ) -> Result<(), DbErr> {
        match unfinished {
            Unfinished::Ignore | Unfinished::GiveUp => Ok(()),
            Unfinished::Retry | Unfinished::RetryAfter(_) => {
                self.exclude_flight(command, now).await?;
                self.requeue(command, counted).await
            }
            Unfinished::Fail(verdict) => self.end_chunk(command, verdict, None, now).await,
            Unfinished::Cancel => {
                self.requeue(command, counted).await?;
                let node = NodeId(command.node_id);
                self.end_share(node, canceled(), now).await
            }
        }
    }

    /// Extends the queue time of a node by the time for which its command was in flight.
    async fn exclude_flight(
        &mut self,
        command: &command::Model,
        now: Timestamp,
    ) -> Result<(), DbErr> {
        let share = self.share(NodeId(command.node_id)).await?;
        let until = queued_until(share.queued_until.0, command.issued_at.0, now);
        share.queued_until = Micros(until);
        Ok(())
    }

    async fn requeue(&mut self, command: &command::Model, counted: bool) -> Result<(), DbErr> {
        let share = self.share(NodeId(command.node_id)).await?;
        share.units_done = share.units_settled;
        self.add_up().await?;
        self.row.phase.clear();
        let mut change = chunk::ActiveModel {
            state: Set(AsText(ChunkState::Waiting)),
            ..Default::default()
        };
        if !counted {
            let attempts = self.chunk_of(command).await?.attempts;
            // `issue_command` has counted the attempt already.
            change.attempts = Set((attempts - 1).max(0));
        }
        self.update_chunk(command.position, change).await
    }

    fn state(&self) -> RunningScan {
        RunningScan {
            open: self.is_open(),
            canceling: self.row.cancel_until.is_some(),
            queues: self.row.queues,
        }
    }

    /// Ends the chunk of a command. The last chunk of its node or a fatal verdict also ends the share of the node. A
    /// share that has ended does not change.
    pub(crate) async fn end_chunk(
        &mut self,
        command: &command::Model,
        verdict: Verdict,
        outcomes: Option<Vec<u8>>,
        now: Timestamp,
    ) -> Result<(), DbErr> {
        let node = NodeId(command.node_id);
        if !self.is_open() || !self.is_share_open(node).await? {
            return Ok(());
        }
        self.exclude_flight(command, now).await?;
        let fatal = verdict.grade == Grade::Fatal;
        let mut ended = chunk::ActiveModel {
            state: Set(AsText(ChunkState::Done)),
            grade: Set(Some(ledger::grade_name(verdict.grade).to_owned())),
            code: Set(Some(verdict.code.as_str().to_owned())),
            reason: Set(verdict.reason),
            outcomes: Set(outcomes.clone()),
            ..Default::default()
        };
        if let Some(scope) = command.scope.clone() {
            ended.scope = Set(scope);
        }
        self.update_chunk(command.position, ended).await?;
        let units = self.chunk_of(command).await?.targets;
        self.row.chunks_done += 1;
        self.row.units_settled += units;
        let share = self.share(node).await?;
        share.chunks_done += 1;
        share.units_settled += units;
        share.units_done = share.units_settled;
        let is_last = share.chunks_done >= share.chunks;
        self.add_up().await?;
        if self.row.cancel_until.is_some() {
            self.end_share(node, canceled(), now).await?;
        } else if fatal || is_last {
            self.conclude_share(node, now).await?;
        }
        // After the devices that the end of the scan marks: a report locks its devices before it can end a chunk.
        blocks::record(self.tx, &self.row, command, outcomes.as_deref(), now).await
    }

    /// Ends the scan and writes its terminal event, unless it has ended already. No other code writes one.
    pub(crate) async fn finish(
        &mut self,
        conclusion: Conclusion,
        now: Timestamp,
    ) -> Result<(), DbErr> {
        if !self.is_open() {
            return Ok(());
        }
        self.end_open_shares(&conclusion).await?;
        let ledger = ledger::settle(self.tx, &self.row, now).await?;
        let missing = missing::mark(self.tx, &self.row, now).await?;
        let node = Some(NodeId(self.row.node_id));
        let counts = DayCounts {
            missing,
            ..DayCounts::default()
        };
        days::add(self.tx, OrgId(self.row.org_id), node, counts, now).await?;
        self.row.state = AsText(conclusion.state);
        self.row.code = Some(conclusion.code.as_str().to_owned());
        self.row.reason.clone_from(&conclusion.reason);
        self.row.ended_at = Some(Micros(now));
        self.row.ledger = Some(codec::write_ledger(&ledger)?);
        self.row.units_done = self.row.units_settled;
        self.row.phase.clear();
        self.ended_now = true;
        alerts::scan_ended(self.tx, self.row.id).await?;
        self.append(&[LogEvent::Ended(ScanEnded { conclusion, ledger })], now)
            .await
    }

    /// Writes the changes.
    pub(crate) async fn save(self) -> Result<scan::Model, DbErr> {
        self.save_shares().await?;
        let row = &self.row;
        let changed = scan::ActiveModel {
            state: Set(row.state),
            started_at: Set(row.started_at),
            ended_at: Set(row.ended_at),
            cancel_until: Set(row.cancel_until),
            code: Set(row.code.clone()),
            reason: Set(row.reason.clone()),
            chunks_done: Set(row.chunks_done),
            units_done: Set(row.units_done),
            units_settled: Set(row.units_settled),
            phase: Set(row.phase.clone()),
            last_sequence: Set(row.last_sequence),
            accepted: Set(row.accepted),
            rejected: Set(row.rejected),
            first_device_at: Set(row.first_device_at),
            ledger: Set(row.ledger.clone()),
            ..Default::default()
        };
        scan::Entity::update_many()
            .set(changed)
            .filter(scan::Column::Id.eq(row.id))
            .exec(self.tx)
            .await?;
        Ok(self.row)
    }

    /// Copies the scope that the node narrowed or pinned into the chunk, for the ledger.
    pub(crate) async fn keep_scope(&mut self, command: &command::Model) -> Result<(), DbErr> {
        let Some(scope) = command.scope.clone() else {
            return Ok(());
        };
        let kept = chunk::ActiveModel {
            scope: Set(scope),
            ..Default::default()
        };
        self.update_chunk(command.position, kept).await
    }

    async fn chunk_of(&self, command: &command::Model) -> Result<ledger::ChunkCounts, DbErr> {
        let counts = chunk::Entity::find_by_id((self.row.id, command.position))
            .select_only()
            .columns([chunk::Column::Targets, chunk::Column::Attempts])
            .into_model::<ledger::ChunkCounts>()
            .one(self.tx)
            .await?;
        counts.ok_or_else(|| unreadable("chunk", "the chunk of a command is missing"))
    }

    pub(crate) async fn update_chunk(
        &self,
        position: i64,
        change: chunk::ActiveModel,
    ) -> Result<(), DbErr> {
        chunk::Entity::update_many()
            .set(change)
            .filter(chunk::Column::ScanId.eq(self.row.id))
            .filter(chunk::Column::Position.eq(position))
            .exec(self.tx)
            .await?;
        Ok(())
    }
}
