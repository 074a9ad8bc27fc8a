//! The queue of a node's reports: rows are gathered into small batches and uploaded one batch after the other, with
//! retries, until each is settled.
//!
//! Start with [`Spool`] and its [`Output`]. Rows are opaque; the caller performs the upload.

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

/// Rows that a spool holds before the scan has to wait: a /20 in which every host answers. With every text at its
/// longest, that is about 4 MB.
pub const SPOOL_ROWS: usize = 4_096;
/// Upper bound of the first retry delay of a batch.
pub const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Upper bound of every retry delay of a batch.
pub const RETRY_MOST: Duration = Duration::from_secs(30);
/// Most characters of a rejection that are kept for the ack.
pub const REFUSAL_CHARS: usize = 512;

/// The reports of one command at a time, in order.
///
/// For each command: [`begin`](Self::begin), [`push`](Self::push) for every row while
/// [`has_room`](Self::has_room), [`finish`](Self::finish), then [`Output::Settled`]. The ack may be sent only after
/// that. After each call, call [`poll_output`](Self::poll_output) until it returns none, then sleep until
/// [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct Spool<R> {
    capacity: usize,
    random: Random,
    timers: Timers<Timer>,
    outputs: VecDeque<Output<R>>,
    open: Option<Open<R>>,
    batches: u64,
}

/// Every deadline of a spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// The oldest waiting row has waited long enough for others.
    Gather,
    /// The failed batch is sent again.
    Retry,
}

#[derive(Debug)]
struct Open<R> {
    command: WireCommandId,
    waiting: VecDeque<(Instant, R)>,
    upload: Option<Upload<R>>,
    /// Whether a batch was ever made. The first row does not wait for others.
    has_uploaded: bool,
    finished: bool,
    /// Whether the server rejects every report of the command.
    command_ended: bool,
    /// Whether a push failed or filled the spool, which requires [`Output::Room`] later.
    waiting_for_room: bool,
    tally: Tally,
}

#[derive(Debug)]
struct Upload<R> {
    batch: BatchId,
    rows: Arc<[R]>,
    retries: Backoff,
}

/// The number of a batch, never reused by a spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchId(u64);

/// Counts of the rows of a command, by result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Accepted by the server.
    pub accepted: u64,
    /// Rejected individually by the server, for another reason than the next one.
    pub rejected: u64,
    /// Rejected because the device belongs to another owner. The scan lacks nothing: the server counts them as such.
    pub owned_elsewhere: u64,
    /// Not stored, because their report was rejected permanently or their command had ended.
    pub dropped: u64,
    /// The first rejection of a report, at most [`REFUSAL_CHARS`] characters.
    pub refusal: Option<String>,
}

/// Why an upload failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadFailure {
    /// A retry may succeed: no connection, no session, UNAVAILABLE, INTERNAL, or RESOURCE_EXHAUSTED with a hint.
    Later {
        /// The delay in the server's hint.
        retry_after: Option<Duration>,
    },
    /// This report is rejected permanently: INVALID_ARGUMENT, or RESOURCE_EXHAUSTED without a hint.
    Refused {
        /// The server's message.
        reason: String,
    },
    /// The command has ended, and with it all of its reports: FAILED_PRECONDITION.
    CommandDead {
        /// The server's message.
        reason: String,
    },
}

/// An action for the caller. Exhaustive on purpose: a new variant must break callers that do not handle it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<R> {
    /// Send this report, then call `uploaded` or `upload_failed`. The same batch is repeated until it is settled.
    Upload {
        /// The number to pass to those calls.
        batch: BatchId,
        /// The command that the rows belong to.
        command: WireCommandId,
        /// 1 to 64 rows.
        rows: Arc<[R]>,
    },
    /// There is room again after [`Spool::has_room`] was false: continue the scan.
    Room,
    /// The server rejects every further report of this command: stop its scan, then call [`Spool::finish`] as
    /// usual.
    CommandDead {
        /// The ended command.
        command: WireCommandId,
    },
    /// The last row of a finished command is settled, so its ack may be sent. Emitted once per command.
    Settled {
        /// The finished command.
        command: WireCommandId,
        /// The counts for the ack.
        tally: Tally,
    },
}

/// A call that is invalid in the spool's current state; a bug in the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpoolMisuse {
    /// Another command is not settled yet.
    #[error("the reports of another command are not settled yet")]
    Occupied,
    /// No command is open, or the open one is finished.
    #[error("no open command accepts rows")]
    NotOpen,
    /// There is no room: wait for [`Output::Room`].
    #[error("the spool is full ({0} rows); wait for room")]
    Full(usize),
}

impl<R> Spool<R> {
    /// Creates an empty spool that holds at most `rows` rows, including the batch being uploaded. `rows` is at least
    /// one and normally [`SPOOL_ROWS`]. `seed` feeds the retry jitter.
    pub fn new(rows: usize, seed: u64) -> Self {
        Self {
            capacity: rows.max(1),
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
            has_uploaded: false,
            finished: false,
            command_ended: false,
            waiting_for_room: false,
            tally: Tally::default(),
        });
        Ok(())
    }

    /// Adds a row. The first row of a command is sent at once, later ones in batches of 64 or after 250 ms, at
    /// the earlier of the two. Rows of an ended command are counted as dropped.
    ///
    /// # Errors
    /// [`SpoolMisuse`]: the row was not added.
    pub fn push(&mut self, now: Instant, row: R) -> Result<(), SpoolMisuse> {
        let rows = self.capacity;
        let open = self.open.as_mut().filter(|o| !o.finished);
        let open = open.ok_or(SpoolMisuse::NotOpen)?;
        // Before the check for room: the scan is about to stop and must not wait.
        if open.command_ended {
            open.tally.dropped += 1;
            return Ok(());
        }
        if open.held() >= rows {
            open.waiting_for_room = true;
            return Err(SpoolMisuse::Full(rows));
        }
        open.waiting.push_back((now, row));
        // A caller that asks `has_room` first never has a
        // failed push, and also waits for [`Output::Room`].
        open.waiting_for_room |= open.held() == rows;
        self.advance(now);
        Ok(())
    }

    /// Marks the scan as ended: waiting rows are sent at once. A second call has no effect.
    ///
    /// # Errors
    /// [`SpoolMisuse::NotOpen`] when no command is open.
    pub fn finish(&mut self, now: Instant) -> Result<(), SpoolMisuse> {
        let open = self.open.as_mut().ok_or(SpoolMisuse::NotOpen)?;
        open.finished = true;
        self.advance(now);
        Ok(())
    }

    /// Records a stored report. Late and repeated calls have no effect.
    pub fn uploaded(
        &mut self,
        now: Instant,
        batch: BatchId,
        accepted: u64,
        rejected: u64,
        owned_elsewhere: u64,
    ) {
        let Some(open) = self.open.as_mut() else {
            return;
        };
        if open.upload.take_if(|u| u.batch == batch).is_some() {
            // The counts are the server's, and need not add up to the rows.
            open.tally.accepted = open.tally.accepted.saturating_add(accepted);
            open.tally.rejected = open.tally.rejected.saturating_add(rejected);
            let elsewhere = &mut open.tally.owned_elsewhere;
            *elsewhere = elsewhere.saturating_add(owned_elsewhere);
            self.timers.cancel(Timer::Retry);
            self.advance(now);
        }
    }

    /// Records a failed upload. Late and repeated calls have no effect.
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
                // Many nodes may have received the same hint.
                let delay = retry_after.map_or(delay, |hint| hint.min(HINT_MOST) + delay);
                self.timers.set(Timer::Retry, now + delay);
                return;
            }
            UploadFailure::Refused { reason } => open.refuse_upload(&reason),
            UploadFailure::CommandDead { reason } => {
                open.refuse_upload(&reason);
                open.drop_waiting();
                open.command_ended = true;
                if !open.finished {
                    let command = open.command.clone();
                    self.outputs.push_back(Output::CommandDead { command });
                }
            }
        }
        self.timers.cancel(Timer::Retry);
        self.advance(now);
    }

    /// Drops all rows because the link has ended permanently. Returns the counts of the open command.
    pub fn abandon(&mut self) -> Option<(WireCommandId, Tally)> {
        self.timers.clear();
        // Uploads that nobody has polled are void. Their rows count as dropped below.
        self.outputs.clear();
        let mut open = self.open.take()?;
        // The report may have arrived, but without an answer it must not count as accepted.
        if open.upload.is_some() {
            open.refuse_upload("the link to the server has ended");
        }
        open.drop_waiting();
        Some((open.command, open.tally))
    }

    /// Fires every deadline that `now` has reached. Call it after all received events are handled.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Gather => self.advance(now),
                Timer::Retry => self.send(),
            }
        }
    }

    /// Returns the next action, at most three per call of an input. Call it until it returns none.
    pub fn poll_output(&mut self) -> Option<Output<R>> {
        self.outputs.pop_front()
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Whether a row can be pushed. If not, the scan must wait for [`Output::Room`].
    pub fn has_room(&self) -> bool {
        let takes = |o: &Open<R>| !o.finished && (o.command_ended || o.held() < self.capacity);
        self.open.as_ref().is_some_and(takes)
    }

    /// The number of rows that wait or are being uploaded.
    pub fn held(&self) -> usize {
        self.open.as_ref().map_or(0, Open::held)
    }

    /// The command whose reports are not settled yet.
    pub fn command(&self) -> Option<&WireCommandId> {
        self.open.as_ref().map(|o| &o.command)
    }

    /// Starts the next upload if it is due, arms the timer for it, or settles the command.
    fn advance(&mut self, now: Instant) {
        let Some(open) = self.open.as_mut() else {
            return;
        };
        if open.waiting_for_room && !open.finished && open.held() < self.capacity {
            open.waiting_for_room = false;
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
        // A spool smaller than a batch would never have a full one.
        let full = open.waiting.len() >= BATCH_DEVICES.min(self.capacity);
        // The operator sees the first device without this delay.
        if open.has_uploaded && !open.finished && !full && now < due {
            self.timers.set(Timer::Gather, due);
            return;
        }
        open.has_uploaded = true;
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
