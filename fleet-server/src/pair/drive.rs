//! Driving a pairing: its parts go to the node one after the other, each once, with credentials that
//! only this task has. When they go, by a restart or a lost stream, what was not sent is not sent.

use std::sync::Arc;

use fleet_core::{NodeId, PairingId, limits, outcome::Code};
use fleet_store::{PairingStep, StoreError};

use super::{credentials::PairCredentials, parts};
use crate::{app::App, messages};

/// A pairing and what only this server knows of it.
#[derive(Debug)]
pub(super) struct Drive {
    pub(super) app: Arc<App>,
    pub(super) pairing: PairingId,
    pub(super) node: NodeId,
    /// Parts that were not sent yet.
    pub(super) parts: usize,
    pub(super) credentials: PairCredentials,
}

/// Whether to go on.
enum Next {
    Wait,
    Over,
}

impl Drive {
    /// Sends part after part. Ends when the last is on its way: what comes of it is stored without us.
    pub(super) async fn run(mut self) {
        loop {
            let app = Arc::clone(&self.app);
            let bell = app.bells.listen(self.pairing);
            match self.step().await {
                Ok(Next::Over) => break,
                Ok(Next::Wait) => {}
                Err(error) => {
                    tracing::warn!(pairing = %self.pairing, %error, "pairing waits for storage");
                }
            }
            tokio::select! {
                () = bell => {}
                () = tokio::time::sleep(limits::WATCH_POLL) => {}
                () = app.drain.cancelled() => break,
            }
        }
        self.app.bells.ring(self.pairing);
    }

    async fn step(&mut self) -> Result<Next, StoreError> {
        let (app, now) = (&self.app, self.app.environment.now());
        if app.hub.is_connected(self.node) && app.hub.free_lane(self.node).is_none() {
            let open = app.store.keep_pairing(self.pairing, now).await?;
            return Ok(if open { Next::Wait } else { Next::Over });
        }
        let (epoch, command) = (app.hub.free_lane(self.node), app.environment.command_id());
        let step = app
            .store
            .issue_pairing(self.pairing, epoch, command, now)
            .await?;
        let (targets, deadline, epoch) = match (step, epoch) {
            (PairingStep::Over, _) => return Ok(Next::Over),
            (PairingStep::Waits, _) | (PairingStep::Issued { .. }, None) => return Ok(Next::Wait),
            (PairingStep::Issued { targets, deadline }, Some(epoch)) => (targets, deadline, epoch),
        };
        self.parts = self.parts.saturating_sub(1);
        let last = self.parts == 0;
        let request = parts::request(&targets, self.credentials.to_wire());
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
