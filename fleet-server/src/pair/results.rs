//! Follows a pairing: its results as they are stored, then its end. Closing the stream does not affect the pairing.

use std::{sync::Arc, time::Instant};

use fleet_core::{OrgId, PairingId, limits, outcome::Code};
use fleet_wire::{
    RpcError,
    admin::{DevicePairingResult, PairDiscoveredDevicesOnFleetNodeResponse},
};
use futures::{Stream, stream};

use crate::{
    app::App,
    convert,
    failure::{self, Refusal},
};

/// Maximum number of results in one message.
pub(crate) const PAGE: u32 = 256;

type Message = PairDiscoveredDevicesOnFleetNodeResponse;

struct Following {
    app: Arc<App>,
    org: OrgId,
    pairing: PairingId,
    after: i64,
    /// Sent before the stored results.
    first: Vec<DevicePairingResult>,
    last_message: Instant,
    over: bool,
}

/// Streams the refused devices, then the results in their order. Ends with OK or the code of the pairing. A message
/// without results is a liveness signal.
pub(super) fn stream(
    app: Arc<App>,
    org: OrgId,
    pairing: PairingId,
    refused: Vec<DevicePairingResult>,
) -> impl Stream<Item = Result<Message, RpcError>> + Send {
    let following = Following {
        last_message: app.environment.instant(),
        app,
        org,
        pairing,
        after: 0,
        first: refused,
        over: false,
    };
    stream::unfold(following, |mut following| async move {
        let message = following.next().await?;
        // An error is the last message of a stream.
        following.over |= message.is_err();
        following.last_message = following.app.environment.instant();
        Some((message, following))
    })
}

impl Following {
    async fn next(&mut self) -> Option<Result<Message, RpcError>> {
        if self.over {
            return None;
        }
        if !self.first.is_empty() {
            let results = std::mem::take(&mut self.first);
            return Some(Ok(Message { results }));
        }
        loop {
            let app = Arc::clone(&self.app);
            let changed = app.wakeups.subscribe(self.pairing);
            let (org, pairing, after) = (self.org, self.pairing, self.after);
            let page = app.detached(move |app| async move {
                app.store.read_pairing(org, pairing, after, PAGE).await
            });
            let page = match page.await {
                Ok(Some(page)) => page,
                Ok(None) => {
                    let why = format!("no pairing {} in this organization", self.pairing);
                    return Some(Err(RpcError::not_found(why)
                        .with_reason("PAIRING_NOT_FOUND")
                        .with_fact("pairing_id", self.pairing)));
                }
                Err(error) => return Some(Err(error.refusal())),
            };
            if let Some(last) = page.results.last() {
                self.after = last.sequence;
                let results = page.results.into_iter().map(convert::paired).collect();
                return Some(Ok(Message { results }));
            }
            if let Some((code, reason)) = page.pairing.ended {
                self.over = true;
                let ended_well = matches!(code, Code::Ok);
                return (!ended_well).then(|| {
                    Err(RpcError::new(failure::code(code), reason)
                        .with_reason("PAIRING_ENDED")
                        .with_fact("pairing_id", self.pairing))
                });
            }
            let idle = app.environment.instant().duration_since(self.last_message);
            if idle >= limits::WATCH_IDLE {
                return Some(Ok(Message::default()));
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(limits::WATCH_POLL) => {}
                () = app.drain.cancelled() => {
                    return Some(Err(RpcError::unavailable(
                        "the server is shutting down; batches that were sent continue",
                    ).with_reason("SHUTTING_DOWN").with_fact("pairing_id", self.pairing)));
                }
            }
        }
    }
}
