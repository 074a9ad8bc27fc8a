//! Watching a scan: events after a cursor from the database, then a wait for the bell or a second, then
//! again. Nothing is pushed, so that no watcher can be too slow. Every way of watching is built on
//! [`watch`].

use std::{collections::VecDeque, sync::Arc, time::Instant};

use fleet_core::{OrgId, ScanId, limits};
use fleet_discovery::LogEvent;
use fleet_store::{Progress, StoreError, StoredEvent};
use futures::{Stream, stream};

use crate::app::App;

/// Events read at once.
const PAGE: u32 = 256;

/// What a watcher sees.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Item {
    /// The next event of the log.
    Event(StoredEvent),
    /// How far the scan is; not part of the log.
    Progress(Progress),
    /// A sign of life: nothing happened for a while.
    Alive,
}

/// Why a watch ended before its scan did.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    /// No such scan in this organization.
    #[error("no scan {0} in this organization")]
    NotFound(ScanId),
    /// The cursor lies ahead of the log.
    #[error(
        "the cursor {after} lies ahead of scan {scan}, whose newest event is {newest}: start from 0, or from a sequence that was seen"
    )]
    Ahead {
        /// The scan.
        scan: ScanId,
        /// The cursor.
        after: i64,
        /// The newest event.
        newest: i64,
    },
    /// The server goes down: watch again from the last sequence.
    #[error("the server is going down: watch again from the last sequence")]
    Draining,
    /// Storage trouble: watch again from the last sequence.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

struct Watch {
    app: Arc<App>,
    org: OrgId,
    scan: ScanId,
    after: i64,
    pending: VecDeque<Item>,
    shown: Option<Progress>,
    spoke: Instant,
    first: bool,
    over: bool,
}

/// Everything about a scan after a cursor, until its end. Ends after the terminal event, or at once
/// when the cursor lies behind it. Dropping the stream changes nothing about the scan.
pub(crate) fn watch(
    app: Arc<App>,
    org: OrgId,
    scan: ScanId,
    after: i64,
) -> impl Stream<Item = Result<Item, WatchError>> + Send + use<> {
    let spoke = app.environment.instant();
    let watch = Watch {
        app,
        org,
        scan,
        after: after.max(0),
        pending: VecDeque::new(),
        shown: None,
        spoke,
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
                self.spoke = self.app.environment.instant();
                return Ok(Some(item));
            }
            if self.over {
                return Ok(None);
            }
            let app = self.app.clone();
            let bell = app.bells.listen(self.scan);
            if self.look().await? {
                continue;
            }
            if self.app.environment.instant().duration_since(self.spoke) >= limits::WATCH_IDLE {
                self.pending.push_back(Item::Alive);
                continue;
            }
            tokio::select! {
                () = bell => {}
                () = tokio::time::sleep(limits::WATCH_POLL) => {}
                () = app.drain.cancelled() => return Err(WatchError::Draining),
            }
        }
    }

    /// Reads the next page; whether there is anything to say or the watch is over.
    async fn look(&mut self) -> Result<bool, WatchError> {
        let now = self.app.environment.now();
        let page = self
            .app
            .store
            .read_events(self.org, self.scan, self.after, PAGE, now)
            .await?;
        let page = page.ok_or(WatchError::NotFound(self.scan))?;
        if self.first && self.after > page.last_sequence {
            return Err(WatchError::Ahead {
                scan: self.scan,
                after: self.after,
                newest: page.last_sequence,
            });
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
            .shown
            .as_ref()
            .is_none_or(|shown| differs(shown, &page.progress))
        {
            self.pending
                .push_back(Item::Progress(page.progress.clone()));
            self.shown = Some(page.progress);
        }
        self.over = page.state.is_terminal() && !full;
        Ok(self.over || !self.pending.is_empty())
    }
}

/// Whether progress is worth telling: the clock alone is not.
fn differs(shown: &Progress, now: &Progress) -> bool {
    (shown.done, shown.total, &shown.phase) != (now.done, now.total, &now.phase)
}
