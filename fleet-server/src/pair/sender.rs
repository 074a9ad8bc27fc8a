//! Sends the batches of a pairing to the node, one after the other and each once. Only this task has the credentials:
//! a restart or a lost stream ends the pairing, and unsent batches are never sent.

use std::sync::Arc;

use fleet_core::{NodeId, PairingId, limits, outcome::Code};
use fleet_store::{PairingStep, StoreError};

use super::batches;
use crate::{app::App, credentials::PairCredentials, messages};

/// A pairing and the credentials that only this server has.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) app: Arc<App>,
    pub(super) pairing: PairingId,
    pub(super) node: NodeId,
    /// Number of batches that were not sent yet.
    pub(super) unsent: usize,
    pub(super) credentials: PairCredentials,
}

/// Whether to continue.
enum Next {
    Wait,
    Over,
}

impl Sender {
    /// Ends when the last batch is sent. The gateway stores the results.
    pub(super) async fn run(mut self) {
        loop {
            let app = Arc::clone(&self.app);
            let changed = app.wakeups.subscribe(self.pairing);
            match self.step().await {
                Ok(Next::Over) => break,
                Ok(Next::Wait) => {}
                Err(error) => {
                    tracing::warn!(pairing = %self.pairing, %error, "pairing waits for storage");
                }
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(limits::WATCH_POLL) => {}
                () = app.drain.cancelled() => break,
            }
        }
        self.app.wakeups.notify(self.pairing);
    }

    async fn step(&mut self) -> Result<Next, StoreError> {
        let (app, now) = (&self.app, self.app.environment.now());
        if app.hub.is_connected(self.node) && app.hub.free_epoch(self.node).is_none() {
            // The node is busy. Without a renewal, other servers would end the pairing.
            let open = app.store.renew_pairing(self.pairing, now).await?;
            return Ok(if open { Next::Wait } else { Next::Over });
        }
        let (epoch, command) = (app.hub.free_epoch(self.node), app.environment.command_id());
        let step = app
            .store
            .issue_pairing(self.pairing, epoch, command, now)
            .await?;
        let (targets, deadline, epoch) = match (step, epoch) {
            (PairingStep::Over, _) => return Ok(Next::Over),
            (PairingStep::Waits, _) | (PairingStep::Issued { .. }, None) => return Ok(Next::Wait),
            (PairingStep::Issued { targets, deadline }, Some(epoch)) => (targets, deadline, epoch),
        };
        self.unsent = self.unsent.saturating_sub(1);
        let last = self.unsent == 0;
        let request = batches::request(&targets, self.credentials.to_wire());
        let message = messages::pair(command, request);
        tracing::debug!(node = %self.node, %command, pairing = %self.pairing, "pairing sent");
        if app
            .hub
            .send_pairing(self.node, epoch, command, deadline.since(now), message)
        {
            return Ok(if last { Next::Over } else { Next::Wait });
        }
        let why = "the node's stream was lost before it was sent: run it again".to_owned();
        app.store
            .end_pairing(self.pairing, Code::Unavailable, why, now)
            .await?;
        Ok(Next::Over)
    }
}
