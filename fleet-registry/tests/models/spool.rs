//! A model of the spool that counts rows: none is lost, repeated or reordered by any answer of the server.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fleet_core::limits::{BATCH_DEVICES, BATCH_WAIT};
use fleet_registry::{
    Spool,
    link::{HINT_MOST, WireCommandId},
    spool::{BatchId, Output, RETRY_MOST, SpoolMisuse, Tally, UploadFailure},
};

use super::Op;

/// The capacity: small enough to be filled in a run, large enough for complete batches.
const ROWS: usize = 100;

struct World {
    spool: Spool<u64>,
    now: Instant,
    commands: u64,
    /// The open command of the model.
    open: Option<Model>,
    /// The upload that is not answered yet.
    upload: Option<(BatchId, Arc<[u64]>)>,
}

struct Model {
    command: WireCommandId,
    pushed: u64,
    /// The first row that was in no upload yet, and the times at which it and its successors were pushed.
    next: u64,
    waiting: Vec<Instant>,
    /// The batch that is being uploaded or waits for its retry.
    batch: Option<(BatchId, Arc<[u64]>)>,
    began: bool,
    finished: bool,
    dead: bool,
    wants_room: bool,
    tally: Tally,
}

pub(super) fn run(origin: Instant, ops: impl Iterator<Item = Op>) {
    let mut world = World {
        spool: Spool::new(ROWS, 7),
        now: origin,
        commands: 0,
        open: None,
        upload: None,
    };
    for op in ops {
        world.step(op);
        world.compare();
    }
    world.finish();
}

impl Model {
    fn held(&self) -> usize {
        self.waiting.len() + self.batch.as_ref().map_or(0, |(_, rows)| rows.len())
    }
}

impl World {
    fn step(&mut self, [kind, a, b, c]: Op) {
        match kind % 12 {
            0 => self.begin(),
            1..=3 => {
                for _ in 0..=(a % 40) {
                    self.push();
                    self.compare();
                }
            }
            4 => self.now += Duration::from_millis(u64::from(a)),
            5 => self.tick(),
            6 | 7 => self.uploaded(u64::from(b)),
            8 => self.later(a, u64::from(b)),
            9 if c < 128 => self.refused(false),
            9 => self.late_answer(),
            10 if c < 64 => self.refused(true),
            10 => self.tick(),
            _ => self.finish_command(),
        }
    }

    fn begin(&mut self) {
        let text = format!("command-{}", self.commands);
        let Ok(command) = WireCommandId::new(&text) else {
            return;
        };
        let answer = self.spool.begin(command.clone());
        if self.open.is_some() {
            assert_eq!(answer, Err(SpoolMisuse::Occupied));
            return;
        }
        assert_eq!(answer, Ok(()));
        self.commands += 1;
        self.open = Some(Model {
            command,
            pushed: 0,
            next: 0,
            waiting: Vec::new(),
            batch: None,
            began: false,
            finished: false,
            dead: false,
            wants_room: false,
            tally: Tally::default(),
        });
    }

    fn push(&mut self) {
        let has_room = self.spool.has_room();
        let Some(model) = self.open.as_mut().filter(|m| !m.finished) else {
            assert!(!has_room);
            assert_eq!(self.spool.push(self.now, 0), Err(SpoolMisuse::NotOpen));
            return;
        };
        let answer = self.spool.push(self.now, model.pushed);
        assert_eq!(answer.is_ok(), has_room);
        if model.dead {
            assert_eq!(answer, Ok(()));
            model.pushed += 1;
            model.tally.dropped += 1;
        } else if model.held() >= ROWS {
            assert_eq!(answer, Err(SpoolMisuse::Full(ROWS)));
            model.wants_room = true;
        } else {
            assert_eq!(answer, Ok(()));
            model.pushed += 1;
            model.waiting.push(self.now);
            model.wants_room |= model.held() == ROWS;
        }
    }

    fn finish_command(&mut self) {
        let answer = self.spool.finish(self.now);
        assert_eq!(answer.is_ok(), self.open.is_some());
        if let Some(model) = &mut self.open {
            model.finished = true;
            model.wants_room = false;
        }
    }

    fn uploaded(&mut self, rejected: u64) {
        let Some((batch, rows)) = self.upload.take() else {
            return;
        };
        let rows = rows.len() as u64;
        let rejected = rejected.min(rows);
        if let Some(model) = &mut self.open {
            model.tally.accepted += rows - rejected;
            model.tally.rejected += rejected;
            model.batch = None;
        }
        self.spool
            .uploaded(self.now, batch, rows - rejected, rejected, 0);
    }

    fn later(&mut self, hint: u8, seconds: u64) {
        let Some((batch, _)) = self.upload.take() else {
            return;
        };
        let retry_after = hint
            .is_multiple_of(2)
            .then(|| Duration::from_secs(seconds * seconds));
        self.spool
            .upload_failed(self.now, batch, UploadFailure::Later { retry_after });
        // The delay of the retry is bounded, and not shorter than the hint.
        let hint = retry_after.map_or(Duration::ZERO, |hint| hint.min(HINT_MOST));
        let next = self.spool.poll_timeout();
        assert!(next.is_some_and(|at| self.now + hint <= at && at <= self.now + hint + RETRY_MOST));
    }

    fn refused(&mut self, dead: bool) {
        let Some((batch, rows)) = self.upload.take() else {
            return;
        };
        let Some(model) = &mut self.open else {
            return;
        };
        model.batch = None;
        model.tally.dropped += rows.len() as u64;
        let reason = "x".repeat(600);
        model.tally.refusal = Some("x".repeat(512));
        let failure = if dead {
            model.tally.dropped += model.waiting.len() as u64;
            model.waiting.clear();
            model.dead = true;
            UploadFailure::CommandDead { reason }
        } else {
            UploadFailure::Refused { reason }
        };
        let notifies = dead && !model.finished;
        let command = model.command.clone();
        self.spool.upload_failed(self.now, batch, failure);
        if notifies {
            assert_eq!(
                self.spool.poll_output(),
                Some(Output::CommandDead { command })
            );
        }
    }

    /// An answer to a settled or unknown batch has no effect.
    fn late_answer(&mut self) {
        if self.upload.is_some() || self.open.as_ref().is_some_and(|m| m.batch.is_some()) {
            return;
        }
        let mut other = Spool::new(1, 0);
        let foreign = WireCommandId::new("other").ok().and_then(|command| {
            other.begin(command).ok()?;
            other.push(self.now, 0_u64).ok()?;
            match other.poll_output()? {
                Output::Upload { batch, .. } => Some(batch),
                Output::Room | Output::CommandDead { .. } | Output::Settled { .. } => None,
            }
        });
        if let Some(batch) = foreign {
            self.spool.uploaded(self.now, batch, 9, 9, 0);
            let reason = String::new();
            self.spool
                .upload_failed(self.now, batch, UploadFailure::CommandDead { reason });
        }
    }

    fn tick(&mut self) {
        if let Some(at) = self.spool.poll_timeout() {
            self.now = self.now.max(at);
        }
        self.spool.handle_timeout(self.now);
        assert!(self.spool.poll_timeout().is_none_or(|at| at > self.now));
    }

    fn compare(&mut self) {
        while let Some(output) = self.spool.poll_output() {
            self.take(output);
        }
        let Some(model) = &self.open else {
            assert_eq!((self.spool.held(), self.spool.command()), (0, None));
            assert_eq!(self.spool.poll_timeout(), None);
            return;
        };
        assert_eq!(self.spool.command(), Some(&model.command));
        assert_eq!(self.spool.held(), model.held());
        assert!(model.held() <= ROWS);
        assert_eq!(
            self.spool.has_room(),
            !model.finished && (model.dead || model.held() < ROWS)
        );
        // A blocked scan is always unblocked.
        assert!(!(model.wants_room && self.spool.has_room()));
        // Every row is in exactly one place.
        let tally = &model.tally;
        let settled = tally.accepted + tally.rejected + tally.dropped;
        assert_eq!(settled + model.held() as u64, model.pushed);
        // Waiting rows always have a deadline, and a finished command without rows is settled.
        if model.batch.is_none() {
            let due = model.waiting.first().map(|oldest| *oldest + BATCH_WAIT);
            assert_eq!(self.spool.poll_timeout(), due);
            assert!(model.waiting.len() < BATCH_DEVICES);
            assert!(model.waiting.is_empty() || (model.began && !model.finished));
            assert!(!(model.finished && model.waiting.is_empty()));
        } else if self.upload.is_none() {
            assert!(self.spool.poll_timeout().is_some());
        }
    }

    fn take(&mut self, output: Output<u64>) {
        let Some(model) = &mut self.open else {
            panic!("{output:?} without a command");
        };
        match output {
            Output::Upload {
                batch,
                command,
                rows,
            } => {
                assert_eq!(command, model.command);
                assert!(self.upload.is_none(), "two uploads at once");
                assert!((1..=BATCH_DEVICES).contains(&rows.len()));
                if let Some(again) = &model.batch {
                    assert_eq!(*again, (batch, Arc::clone(&rows)));
                } else {
                    let expected = model.next..model.next + rows.len() as u64;
                    assert!(
                        rows.iter().copied().eq(expected),
                        "{rows:?} after {}",
                        model.next
                    );
                    let oldest = model.waiting[0];
                    let due = !model.began
                        || model.finished
                        || rows.len() == BATCH_DEVICES
                        || self.now >= oldest + BATCH_WAIT;
                    assert!(due, "a batch left too early");
                    model.next += rows.len() as u64;
                    model.waiting.drain(..rows.len());
                    model.began = true;
                    model.batch = Some((batch, Arc::clone(&rows)));
                }
                self.upload = Some((batch, rows));
            }
            Output::Room => {
                assert!(model.wants_room && !model.finished);
                model.wants_room = false;
            }
            Output::CommandDead { .. } => panic!("dead without a refusal, or twice"),
            Output::Settled { command, tally } => {
                assert!(model.finished && model.held() == 0);
                assert_eq!(
                    (command, tally),
                    (model.command.clone(), model.tally.clone())
                );
                self.open = None;
            }
        }
    }

    /// The server accepts all remaining rows.
    fn finish(&mut self) {
        self.finish_command();
        self.compare();
        for _ in 0..100 {
            if self.upload.is_some() {
                self.uploaded(0);
            } else {
                self.tick();
            }
            self.compare();
        }
        assert!(self.open.is_none());
    }
}
