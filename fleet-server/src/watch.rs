//! Watching a scan: read the events after a cursor from the database, wait for a wake-up or a second, read again.
//! Watchers pull events, so a slow watcher holds up nothing. Every way of watching uses [`watch`].

use std::{collections::VecDeque, sync::Arc, time::Instant};

use fleet_core::{OrgId, ScanId, limits};
use fleet_discovery::{LogEvent, ScanEnded};
use fleet_store::{Progress, StoreError, StoredEvent};
use fleet_wire::{
    RpcError,
    fleet::{ScanWarning, WatchScanResponse, watch_scan_response::Event},
};
use futures::{Stream, stream};

use crate::{
    app::App,
    convert,
    failure::{self, Refusal},
    scans,
};

/// Events of one read.
const PAGE: u32 = 256;
/// Shown in the place of events that were deleted.
const DELETED: &str = "the earlier events of this scan are no longer kept; its devices, its outcome and its summary are";

/// An item of a watch.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all items are events, so a box would only add allocations"
)]
pub(crate) enum Item {
    /// The next event of the log.
    Event(StoredEvent),
    /// The progress of the scan; not part of the log.
    Progress(Progress),
    /// A remark about the log; not part of it.
    Note(&'static str),
    /// A liveness signal after a while without items.
    Alive,
}

/// The reason why a watch ended before its scan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    /// The organization has no such scan, or not any more.
    #[error("{0}")]
    NotFound(Box<RpcError>),
    /// The cursor is ahead of the log.
    #[error(
        "the cursor {after} is ahead of scan {scan}, whose newest event is {newest}: start from 0, or from a sequence of an event"
    )]
    Ahead {
        /// The scan.
        scan: ScanId,
        /// The cursor.
        after: i64,
        /// The newest event.
        newest: i64,
    },
    /// The server shuts down.
    #[error("the server is shutting down: watch again from the last sequence")]
    Draining,
    /// A storage failure; the watch can be repeated from the last sequence.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

struct Watch {
    app: Arc<App>,
    org: OrgId,
    scan: ScanId,
    after: i64,
    pending: VecDeque<Item>,
    last_progress: Option<Progress>,
    last_item: Instant,
    first: bool,
    over: bool,
}

/// Streams a scan's items after a cursor, up to its end. A watch from a cursor at or past the end of an ended scan gets
/// the terminal event again, because its caller asks how the scan ended. Dropping the stream does not affect the scan.
pub(crate) fn watch(
    app: Arc<App>,
    org: OrgId,
    scan: ScanId,
    after: i64,
) -> impl Stream<Item = Result<Item, WatchError>> + Send + use<> {
    let last_item = app.environment.instant();
    let watch = Watch {
        app,
        org,
        scan,
        after: after.max(0),
        pending: VecDeque::new(),
        last_progress: None,
        last_item,
        first: true,
        over: false,
    };
    stream::try_unfold(watch, |mut watch| async move {
        Ok(watch.next().await?.map(|item| (item, watch)))
    })
}

impl Watch {
    async fn next(&mut self) -> Result<Option<Item>, WatchError> {
        loop {
            if let Some(item) = self.pending.pop_front() {
                self.last_item = self.app.environment.instant();
                return Ok(Some(item));
            }
            if self.over {
                return Ok(None);
            }
            let app = self.app.clone();
            // Before the read: a subscription receives every notification from its creation on.
            let changed = app.wakeups.subscribe(self.scan);
            if self.read().await? {
                continue;
            }
            if self
                .app
                .environment
                .instant()
                .duration_since(self.last_item)
                >= limits::WATCH_IDLE
            {
                self.pending.push_back(Item::Alive);
                continue;
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(limits::WATCH_POLL) => {}
                () = app.drain.cancelled() => return Err(WatchError::Draining),
            }
        }
    }

    /// Reads the next page; returns whether there are items or the watch is over.
    async fn read(&mut self) -> Result<bool, WatchError> {
        let now = self.app.environment.now();
        let (org, scan, after) = (self.org, self.scan, self.after);
        let page = self
            .app
            .detached(
                move |app| async move { app.store.read_events(org, scan, after, PAGE, now).await },
            )
            .await?;
        let Some(page) = page else {
            let unknown = scans::unknown(&self.app, org, scan).await;
            return Err(WatchError::NotFound(Box::new(unknown)));
        };
        // Only on the first read. Later the cursor is this watch's own.
        if self.first && self.after > page.last_sequence && !page.state.is_terminal() {
            return Err(WatchError::Ahead {
                scan: self.scan,
                after: self.after,
                newest: page.last_sequence,
            });
        }
        if self.first && page.is_deleted {
            self.pending.push_back(Item::Note(DELETED));
        }
        self.first = false;
        let full = page.events.len() >= PAGE as usize;
        for event in page.events {
            self.after = event.sequence;
            let ended = matches!(event.event, LogEvent::Ended(_));
            self.pending.push_back(Item::Event(event));
            if ended {
                self.over = true;
                return Ok(true);
            }
        }
        if self
            .last_progress
            .as_ref()
            .is_none_or(|last| differs(last, &page.progress))
        {
            self.pending
                .push_back(Item::Progress(page.progress.clone()));
            self.last_progress = Some(page.progress);
        }
        // A full page may have successors, even of an ended scan.
        self.over = page.state.is_terminal() && !full;
        if self.over {
            self.repeat_end(page.last_sequence).await?;
        }
        Ok(self.over || !self.pending.is_empty())
    }

    /// Adds the terminal event of a scan that ended before the cursor.
    async fn repeat_end(&mut self, sequence: i64) -> Result<(), WatchError> {
        let now = self.app.environment.now();
        let (org, scan) = (self.org, self.scan);
        let row = self
            .app
            .detached(move |app| async move { app.store.scan(org, scan, now).await })
            .await?;
        if let Some(row) = row
            && let (Some(conclusion), Some(ledger)) = (row.conclusion, row.ledger)
        {
            self.pending.push_back(Item::Event(StoredEvent {
                sequence,
                event: LogEvent::Ended(ScanEnded { conclusion, ledger }),
            }));
        }
        Ok(())
    }
}

/// Whether progress differs in more than the elapsed time.
fn differs(last: &Progress, now: &Progress) -> bool {
    (last.done, last.total, &last.phase) != (now.done, now.total, &now.phase)
}

impl Refusal for WatchError {
    fn refusal(self) -> RpcError {
        match &self {
            Self::NotFound(error) => RpcError::clone(error),
            Self::Ahead { scan, newest, .. } => RpcError::out_of_range(self.to_string())
                .with_reason("CURSOR_AHEAD")
                .with_fact("scan_id", scan)
                .with_fact("limit", newest),
            Self::Draining => RpcError::unavailable(self.to_string()).with_reason("SHUTTING_DOWN"),
            Self::Storage(error) => failure::storage(error),
        }
    }
}

/// An item on the wire.
pub(crate) fn message(item: Item) -> WatchScanResponse {
    match item {
        Item::Alive => WatchScanResponse::default(),
        Item::Note(text) => WatchScanResponse {
            sequence: 0,
            event: Some(Event::Warning(ScanWarning {
                text: text.to_owned(),
            })),
        },
        Item::Progress(progress) => WatchScanResponse {
            sequence: 0,
            event: Some(Event::Progress(convert::progress(&progress))),
        },
        Item::Event(stored) => {
            let event = match &stored.event {
                LogEvent::Device(found) => Event::Device(convert::device_found(found)),
                LogEvent::Host(found) => Event::Host(convert::host_found(found)),
                LogEvent::Warning { text } => Event::Warning(ScanWarning { text: text.clone() }),
                LogEvent::Ended(ended) => Event::Ended(convert::scan_ended(ended)),
            };
            WatchScanResponse {
                sequence: stored.sequence,
                event: Some(event),
            }
        }
    }
}
