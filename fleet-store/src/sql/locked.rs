//! A scan under its lock: every change of a scan, its chunks and its log goes through [`LockedScan`],
//! so that sequences are dense and there is one end, in whatever way it comes about.

use fleet_core::{
    ChunkState, CommandState, ScanId, ScanState, Timestamp, limits,
    outcome::{Code, Conclusion, Grade, Verdict, conclude},
};
use fleet_discovery::{LogEvent, ScanEnded};
use sea_orm::{
    ColumnTrait, DatabaseTransaction, DbErr, EntityTrait, QueryFilter, QuerySelect, Set,
    sea_query::LockType,
};

use super::{
    codec,
    entity::{chunk, command, scan, scan_event},
    inserts, ledger,
    value::{AsText, Micros},
};

/// A scan whose row is locked. Changes live in memory until [`Self::save`].
pub(crate) struct LockedScan<'t> {
    tx: &'t DatabaseTransaction,
    row: scan::Model,
    ended_now: bool,
}

impl<'t> LockedScan<'t> {
    /// Locks a scan. Its node must be locked already.
    pub(crate) async fn lock(
        tx: &'t DatabaseTransaction,
        id: ScanId,
    ) -> Result<Option<Self>, DbErr> {
        let row = scan::Entity::find_by_id(AsText(id))
            .lock(LockType::NoKeyUpdate)
            .one(tx)
            .await?;
        Ok(row.map(|row| Self {
            tx,
            row,
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

    /// Whether it ended under this lock.
    pub(crate) fn ended_now(&self) -> bool {
        self.ended_now
    }

    /// Since the first command was issued.
    pub(crate) fn elapsed_ms(&self, now: Timestamp) -> u64 {
        let started = self.row.started_at.map_or(now, |at| at.0);
        u64::try_from(now.since(started).as_millis()).unwrap_or(u64::MAX)
    }

    /// Appends to the log with the next sequences.
    pub(crate) async fn append(
        &mut self,
        events: &[LogEvent],
        now: Timestamp,
    ) -> Result<(), DbErr> {
        let mut rows = Vec::with_capacity(events.len());
        for event in events {
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

    /// Warns the operator.
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

    /// A command of this scan is in flight no more.
    pub(crate) async fn end_command(
        &mut self,
        command: &command::Model,
        state: CommandState,
        now: Timestamp,
    ) -> Result<(), DbErr> {
        let ended = command::ActiveModel {
            state: Set(AsText(state)),
            ended_at: Set(Some(Micros(now))),
            ..Default::default()
        };
        command::Entity::update_many()
            .set(ended)
            .filter(command::Column::Id.eq(command.id))
            .exec(self.tx)
            .await?;
        Ok(())
    }

    /// The chunk of a command waits again; with `counted` the attempt was one of its three.
    pub(crate) async fn requeue_chunk(
        &mut self,
        command: &command::Model,
        counted: bool,
    ) -> Result<(), DbErr> {
        self.row.units_done = self.row.units_settled;
        self.row.phase.clear();
        let mut change = chunk::ActiveModel {
            state: Set(AsText(ChunkState::Waiting)),
            ..Default::default()
        };
        if !counted {
            let attempts = self
                .chunk_of(command)
                .await?
                .map_or(0, |chunk| chunk.attempts);
            change.attempts = Set((attempts - 1).max(0));
        }
        self.update_chunk(command.chunk, change).await
    }

    /// Its node has forgotten a command: the chunk waits again, or counts as not reached after the
    /// last attempt. Nothing happens to a scan that has ended; a canceled one ends.
    pub(crate) async fn lose_chunk(
        &mut self,
        command: &command::Model,
        now: Timestamp,
    ) -> Result<(), DbErr> {
        if !self.is_open() {
            return Ok(());
        }
        if self.row.cancel_until.is_some() {
            self.keep_scope(command).await?;
            return self.finish(canceled(), now).await;
        }
        let attempts = self
            .chunk_of(command)
            .await?
            .map_or(0, |chunk| chunk.attempts);
        if attempts < i64::from(limits::CHUNK_ATTEMPTS) {
            return self.requeue_chunk(command, true).await;
        }
        let reason = format!("not reached: the node lost it {attempts} times");
        self.end_chunk(
            command,
            Verdict::failed(Code::Unavailable, reason),
            None,
            now,
        )
        .await
    }

    /// Ends the chunk of a command, and with the last one, or a fatal one, the scan. Nothing happens
    /// to a scan that has ended.
    pub(crate) async fn end_chunk(
        &mut self,
        command: &command::Model,
        verdict: Verdict,
        outcomes: Option<Vec<u8>>,
        now: Timestamp,
    ) -> Result<(), DbErr> {
        if !self.is_open() {
            return Ok(());
        }
        let fatal = verdict.grade == Grade::Fatal;
        let ended = chunk::ActiveModel {
            state: Set(AsText(ChunkState::Done)),
            // As far as the node has narrowed or pinned it.
            scope: Set(command.scope.clone()),
            grade: Set(Some(ledger::grade_name(verdict.grade).to_owned())),
            code: Set(Some(verdict.code.as_str().to_owned())),
            reason: Set(verdict.reason),
            outcomes: Set(outcomes),
            ..Default::default()
        };
        self.update_chunk(command.chunk, ended).await?;
        let units = self
            .chunk_of(command)
            .await?
            .map_or(0, |chunk| chunk.targets);
        self.row.chunks_done += 1;
        self.row.units_settled += units;
        self.row.units_done = self.row.units_settled;
        if self.row.cancel_until.is_some() {
            return self.finish(canceled(), now).await;
        }
        if fatal || self.row.chunks_done >= self.row.chunks {
            return self.conclude(now).await;
        }
        Ok(())
    }

    /// Ends every chunk that has not ended with the same verdict, and the scan with them.
    pub(crate) async fn give_up(&mut self, verdict: Verdict, now: Timestamp) -> Result<(), DbErr> {
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
            .filter(chunk::Column::State.ne(AsText(ChunkState::Done)))
            .exec(self.tx)
            .await?;
        self.row.chunks_done = self.row.chunks;
        self.conclude(now).await
    }

    /// Ends the scan by the verdicts of its chunks.
    pub(crate) async fn conclude(&mut self, now: Timestamp) -> Result<(), DbErr> {
        let verdicts = ledger::verdicts(self.tx, self.row.id.0).await?;
        self.finish(conclude(&verdicts), now).await
    }

    /// Ends the scan: the one place that writes the terminal event. Nothing happens when it has ended.
    pub(crate) async fn finish(
        &mut self,
        conclusion: Conclusion,
        now: Timestamp,
    ) -> Result<(), DbErr> {
        if !self.is_open() {
            return Ok(());
        }
        let ledger = ledger::settle(self.tx, &self.row, now).await?;
        self.row.state = AsText(conclusion.state);
        self.row.code = Some(conclusion.code.as_str().to_owned());
        self.row.reason.clone_from(&conclusion.reason);
        self.row.ended_at = Some(Micros(now));
        self.row.ledger = Some(codec::write_ledger(&ledger)?);
        self.row.units_done = self.row.units_settled;
        self.row.phase.clear();
        self.ended_now = true;
        self.append(&[LogEvent::Ended(ScanEnded { conclusion, ledger })], now)
            .await
    }

    /// Writes what changed.
    pub(crate) async fn save(self) -> Result<scan::Model, DbErr> {
        let row = &self.row;
        let changed = scan::ActiveModel {
            state: Set(row.state),
            started_at: Set(row.started_at),
            ended_at: Set(row.ended_at),
            served_at: Set(row.served_at),
            not_before: Set(row.not_before),
            busy_answers: Set(row.busy_answers),
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

    /// Keeps what the node made of an open or pinned scope, for the ledger.
    pub(crate) async fn keep_scope(&mut self, command: &command::Model) -> Result<(), DbErr> {
        let kept = chunk::ActiveModel {
            scope: Set(command.scope.clone()),
            ..Default::default()
        };
        self.update_chunk(command.chunk, kept).await
    }

    async fn chunk_of(
        &self,
        command: &command::Model,
    ) -> Result<Option<ledger::ChunkCounts>, DbErr> {
        chunk::Entity::find_by_id((command.scan_id, command.chunk))
            .select_only()
            .columns([chunk::Column::Targets, chunk::Column::Attempts])
            .into_model::<ledger::ChunkCounts>()
            .one(self.tx)
            .await
    }

    async fn update_chunk(&self, position: i64, change: chunk::ActiveModel) -> Result<(), DbErr> {
        chunk::Entity::update_many()
            .set(change)
            .filter(chunk::Column::ScanId.eq(self.row.id))
            .filter(chunk::Column::Position.eq(position))
            .exec(self.tx)
            .await?;
        Ok(())
    }
}

/// How a scan ends that its operator has canceled.
pub(crate) fn canceled() -> Conclusion {
    Conclusion::new(
        ScanState::Canceled,
        Code::Canceled,
        "canceled; what was found is kept",
    )
}
