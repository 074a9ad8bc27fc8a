//! The node's reports on their way to the server: gathered into small batches, uploaded one after the other,
//! tried again until settled. Start with [`Spool`]; what it says is [`Output`]. The rows are opaque; the
//! upload itself is the shell's.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use fleet_core::{
    Backoff,
    limits::{BATCH_DEVICES, BATCH_WAIT},
};

use crate::{
    link::{HINT_MOST, WireCommandId},
    random::Random,
    timers::Timers,
};

/// Rows that a spool holds before it asks the scan to wait: a /20 that answers everywhere, some 4 MB of
/// rows with every text at its longest.
pub const SPOOL_ROWS: usize = 4_096;
/// First ceiling of the delay between two tries of a batch.
pub const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Last ceiling of the delay between two tries of a batch.
pub const RETRY_MOST: Duration = Duration::from_secs(30);
/// Characters of a refusal that are kept for the ack.
pub const REFUSAL_CHARS: usize = 512;

/// The reports of one command at a time, in order.
///
/// The way of a command: [`begin`](Self::begin), [`push`](Self::push) for every row (while
/// [`has_room`](Self::has_room)), [`finish`](Self::finish), [`Output::Settled`]; only then its ack may leave.
/// Drive it as every machine of this crate: a call, then [`poll_output`](Self::poll_output) until it is
/// empty, then sleep until [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct Spool<R> {
    rows: usize,
    random: Random,
    timers: Timers<Timer>,
    outputs: VecDeque<Output<R>>,
    open: Option<Open<R>>,
    batches: u64,
}

/// Every deadline of a spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// The oldest waiting row was gathered long enough.
    Gather,
    /// The batch that was not taken is tried again.
    Retry,
}

#[derive(Debug)]
struct Open<R> {
    command: WireCommandId,
    waiting: VecDeque<(Instant, R)>,
    upload: Option<Upload<R>>,
    /// Whether a batch was ever made: the first row does not wait.
    begun: bool,
    finished: bool,
    /// Whether the server refuses everything of it.
    dead: bool,
    /// Whether somebody was told that there is no room.
    starved: bool,
    tally: Tally,
}

#[derive(Debug)]
struct Upload<R> {
    batch: BatchId,
    rows: Arc<[R]>,
    retries: Backoff,
}

/// One batch of a spool; never reused by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchId(u64);

/// What became of the rows of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Taken by the server.
    pub accepted: u64,
    /// Rejected one by one by the server.
    pub rejected: u64,
    /// Never taken: their report was refused for good, or their command was dead.
    pub dropped: u64,
    /// The first refusal, at most [`REFUSAL_CHARS`] characters.
    pub refusal: Option<String>,
}

/// Why the server did not take a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadFailure {
    /// It may be taken later: no connection, no session, UNAVAILABLE, INTERNAL, RESOURCE_EXHAUSTED with a hint.
    Later {
        /// The hint.
        retry_after: Option<Duration>,
    },
    /// This report is refused for good: INVALID_ARGUMENT, or RESOURCE_EXHAUSTED without a hint.
    Refused {
        /// What the server said.
        reason: String,
    },
    /// The command is dead, and with it every report: FAILED_PRECONDITION.
    CommandDead {
        /// What the server said.
        reason: String,
    },
}

/// What the shell must do. Exhaustive on purpose: a new one must break every shell that forgot it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<R> {
    /// Send this report; answer with `uploaded` or `upload_failed`. The same batch comes again until settled.
    Upload {
        /// To answer with.
        batch: BatchId,
        /// Whose rows.
        command: WireCommandId,
        /// 1 to 64 rows.
        rows: Arc<[R]>,
    },
    /// There is room again after [`Spool::has_room`] was false: go on with the scan.
    Room,
    /// The server refuses everything of this command from now on: stop its scan, then call
    /// [`Spool::finish`] as usual.
    CommandDead {
        /// Which.
        command: WireCommandId,
    },
    /// The last row of a finished command is settled: its ack may leave. Comes once a command.
    Settled {
        /// Which.
        command: WireCommandId,
        /// To be told in the ack.
        tally: Tally,
    },
}

/// Why a call does not fit the state of the spool; a fault of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpoolMisuse {
    /// A command's rows are still on their way.
    #[error("the reports of another command are not settled yet")]
    Occupied,
    /// No command is open, or it is finished.
    #[error("no command takes rows")]
    NotOpen,
    /// There is no room: wait for [`Output::Room`].
    #[error("the spool is full ({0} rows); wait for room")]
    Full(usize),
}

impl<R> Spool<R> {
    /// An empty spool that holds at most `rows` rows (at least one; [`SPOOL_ROWS`] unless there is a reason),
    /// the batch on its way included. `seed` feeds its jitter.
    pub fn new(rows: usize, seed: u64) -> Self {
        Self {
            rows: rows.max(1),
            random: Random::new(seed),
            timers: Timers::new(),
            outputs: VecDeque::new(),
            open: None,
            batches: 0,
        }
    }

    /// Opens the spool for a command.
    ///
    /// # Errors
    /// [`SpoolMisuse::Occupied`] while another command is not settled.
    pub fn begin(&mut self, command: WireCommandId) -> Result<(), SpoolMisuse> {
        if self.open.is_some() {
            return Err(SpoolMisuse::Occupied);
        }
        self.open = Some(Open {
            command,
            waiting: VecDeque::new(),
            upload: None,
            begun: false,
            finished: false,
            dead: false,
            starved: false,
            tally: Tally::default(),
        });
        Ok(())
    }

    /// Takes a row. The first of a command leaves at once, the others in batches of 64 or after 250 ms,
    /// whichever is first. Rows of a dead command are counted as dropped.
    ///
    /// # Errors
    /// [`SpoolMisuse`]; the row is not taken.
    pub fn push(&mut self, now: Instant, row: R) -> Result<(), SpoolMisuse> {
        let rows = self.rows;
        let open = self.open.as_mut().filter(|o| !o.finished);
        let open = open.ok_or(SpoolMisuse::NotOpen)?;
        if open.dead {
            open.tally.dropped += 1;
            return Ok(());
        }
        if open.held() >= rows {
            open.starved = true;
            return Err(SpoolMisuse::Full(rows));
        }
        open.waiting.push_back((now, row));
        open.starved |= open.held() == rows;
        self.advance(now);
        Ok(())
    }

    /// The scan has ended: what waits leaves without waiting for more. A second call changes nothing.
    ///
    /// # Errors
    /// [`SpoolMisuse::NotOpen`] when no command is open.
    pub fn finish(&mut self, now: Instant) -> Result<(), SpoolMisuse> {
        let open = self.open.as_mut().ok_or(SpoolMisuse::NotOpen)?;
        open.finished = true;
        self.advance(now);
        Ok(())
    }

    /// The server took a report. Late and repeated answers are without effect.
    pub fn uploaded(&mut self, now: Instant, batch: BatchId, accepted: u64, rejected: u64) {
        let Some(open) = self.open.as_mut() else {
            return;
        };
        if open.upload.take_if(|u| u.batch == batch).is_some() {
            open.tally.accepted = open.tally.accepted.saturating_add(accepted);
            open.tally.rejected = open.tally.rejected.saturating_add(rejected);
            self.timers.cancel(Timer::Retry);
            self.advance(now);
        }
    }

    /// The server did not take a report. Late and repeated answers are without effect.
    pub fn upload_failed(&mut self, now: Instant, batch: BatchId, failure: UploadFailure) {
        let Some(open) = self.open.as_mut() else {
            return;
        };
        let Some(upload) = open.upload.as_mut().filter(|u| u.batch == batch) else {
            return;
        };
        match failure {
            UploadFailure::Later { retry_after } => {
                let delay = upload.retries.next_delay(self.random.next());
                let delay = retry_after.map_or(delay, |hint| hint.min(HINT_MOST) + delay);
                self.timers.set(Timer::Retry, now + delay);
                return;
            }
            UploadFailure::Refused { reason } => open.refuse_upload(&reason),
            UploadFailure::CommandDead { reason } => {
                open.refuse_upload(&reason);
                open.drop_waiting();
                open.dead = true;
                if !open.finished {
                    let command = open.command.clone();
                    self.outputs.push_back(Output::CommandDead { command });
                }
            }
        }
        self.timers.cancel(Timer::Retry);
        self.advance(now);
    }

    /// Gives up on everything, because the link has ended for good. Answers what became of the open command.
    pub fn abandon(&mut self) -> Option<(WireCommandId, Tally)> {
        self.timers.clear();
        self.outputs.clear();
        let mut open = self.open.take()?;
        if open.upload.is_some() {
            open.refuse_upload("the link to the server has ended");
        }
        open.drop_waiting();
        Some((open.command, open.tally))
    }

    /// Carries out every deadline that `now` has reached. Call it when all events received were handled.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Gather => self.advance(now),
                Timer::Retry => self.send(),
            }
        }
    }

    /// The next thing to do; call it until it answers none. Holds at most three outputs.
    pub fn poll_output(&mut self) -> Option<Output<R>> {
        self.outputs.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Whether a row can be pushed: the scan must wait for [`Output::Room`] while there is no room.
    pub fn has_room(&self) -> bool {
        let takes = |o: &Open<R>| !o.finished && (o.dead || o.held() < self.rows);
        self.open.as_ref().is_some_and(takes)
    }

    /// How many rows are held, on their way or waiting.
    pub fn held(&self) -> usize {
        self.open.as_ref().map_or(0, Open::held)
    }

    /// The command whose reports are not settled yet.
    pub fn command(&self) -> Option<&WireCommandId> {
        self.open.as_ref().map(|o| &o.command)
    }

    /// Starts the next upload if one is due, or the wait for it, or ends the command.
    fn advance(&mut self, now: Instant) {
        let Some(open) = self.open.as_mut() else {
            return;
        };
        if open.starved && !open.finished && open.held() < self.rows {
            open.starved = false;
            self.outputs.push_back(Output::Room);
        }
        self.timers.cancel(Timer::Gather);
        if open.upload.is_some() {
            return;
        }
        let Some((oldest, _)) = open.waiting.front() else {
            if open.finished
                && let Some(Open { command, tally, .. }) = self.open.take()
            {
                self.outputs.push_back(Output::Settled { command, tally });
            }
            return;
        };
        let due = *oldest + BATCH_WAIT;
        let full = open.waiting.len() >= BATCH_DEVICES.min(self.rows);
        if open.begun && !open.finished && !full && now < due {
            self.timers.set(Timer::Gather, due);
            return;
        }
        open.begun = true;
        let batch = BatchId(self.batches);
        self.batches += 1;
        let taken = open.waiting.len().min(BATCH_DEVICES);
        open.upload = Some(Upload {
            batch,
            rows: open.waiting.drain(..taken).map(|(_, row)| row).collect(),
            retries: Backoff::new(RETRY_FIRST, RETRY_MOST),
        });
        self.send();
    }

    fn send(&mut self) {
        let Some(open) = &self.open else {
            return;
        };
        if let Some(upload) = &open.upload {
            self.outputs.push_back(Output::Upload {
                batch: upload.batch,
                command: open.command.clone(),
                rows: Arc::clone(&upload.rows),
            });
        }
    }
}

impl<R> Open<R> {
    fn held(&self) -> usize {
        self.waiting.len() + self.upload.as_ref().map_or(0, |u| u.rows.len())
    }

    fn refuse_upload(&mut self, reason: &str) {
        if let Some(upload) = self.upload.take() {
            self.tally.drop_rows(upload.rows.len());
        }
        let keep = || reason.chars().take(REFUSAL_CHARS).collect();
        self.tally.refusal.get_or_insert_with(keep);
    }

    fn drop_waiting(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        self.tally.drop_rows(waiting.len());
    }
}

impl Tally {
    fn drop_rows(&mut self, rows: usize) {
        self.dropped += u64::try_from(rows).unwrap_or(u64::MAX);
    }
}
