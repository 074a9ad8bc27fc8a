//! The unary calls of a running node, each in a task of its own that always answers. Start with [`Calls`].

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use fleet_registry::{
    link::{HandshakeFailure, HeartbeatFailure, WireCommandId},
    spool::{BatchId, UploadFailure},
};
use fleet_wire::{
    Code, RpcError, Timestamp,
    gateway::{
        FleetNodeGatewayClient, ReportDiscoveredDevicesRequest, ReportPairedDevicesRequest,
        UploadHeartbeatRequest,
    },
};
use futures::FutureExt;
use tokio::task::JoinSet;

use super::report::Row;
use crate::{
    session::{self, ServerClock, Session},
    state::StateFile,
    transport::now,
};

/// How long a heartbeat may take; the next one is due after 30 s.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// Calls under way: at most a handshake, a heartbeat and an upload.
#[derive(Debug, Default)]
pub(super) struct Calls(JoinSet<Done>);

/// What a call came to.
#[derive(Debug)]
pub(super) enum Done {
    Handshake(Result<Session, HandshakeFailure>),
    /// The server's time, if it went well.
    Heartbeat(Result<Option<Timestamp>, HeartbeatFailure>),
    Upload {
        batch: BatchId,
        result: Result<Taken, UploadFailure>,
    },
}

/// How many rows of a report the server took, and did not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) accepted: u64,
    pub(super) rejected: u64,
}

impl Calls {
    /// Opens a session.
    pub(super) fn handshake(
        &mut self,
        client: &FleetNodeGatewayClient,
        state: &StateFile,
        clock: ServerClock,
    ) {
        let (client, state) = (client.clone(), state.clone());
        let work = async move {
            let opened = session::open(&client, &state, clock).await;
            Done::Handshake(opened.map_err(|error| {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, cause, "no session with the server");
                error.failure()
            }))
        };
        self.spawn(work, || Done::Handshake(Err(HandshakeFailure::Other)));
    }

    /// Sends a heartbeat.
    pub(super) fn heartbeat(&mut self, client: &FleetNodeGatewayClient, session: &Session) {
        let (client, options) = (client.clone(), session.options().timeout(HEARTBEAT));
        let work = async move {
            let request = UploadHeartbeatRequest {
                sent_at: Some(now()),
            };
            Done::Heartbeat(match client.upload_heartbeat(&request, options).await {
                Ok(answer) => Ok(answer.received_at),
                Err(error) => Err(heartbeat_failure(&error)),
            })
        };
        self.spawn(work, || Done::Heartbeat(Err(HeartbeatFailure::Other)));
    }

    /// Uploads a report.
    pub(super) fn upload(
        &mut self,
        client: &FleetNodeGatewayClient,
        session: &Session,
        batch: BatchId,
        command: &WireCommandId,
        rows: &Arc<[Row]>,
    ) {
        let (client, options) = (client.clone(), session.options());
        // The rows of one command are of one kind.
        let (mut devices, mut results) = (Vec::new(), Vec::new());
        for row in rows.iter().cloned() {
            match row {
                Row::Found(device) => devices.push(device),
                Row::Paired(result) => results.push(result),
            }
        }
        let command_id = command.as_str().to_owned();
        let work = async move {
            let taken = |accepted: i64, rejected: i64| Taken {
                accepted: u64::try_from(accepted).unwrap_or(0),
                rejected: u64::try_from(rejected).unwrap_or(0),
            };
            let answer = if results.is_empty() {
                let request = ReportDiscoveredDevicesRequest {
                    devices,
                    command_id,
                };
                let answer = client.report_discovered_devices(&request, options).await;
                answer.map(|answer| taken(answer.accepted_count, answer.rejected_count))
            } else {
                let request = ReportPairedDevicesRequest {
                    command_id,
                    results,
                };
                let answer = client.report_paired_devices(&request, options).await;
                answer.map(|answer| taken(answer.accepted_count, answer.rejected_count))
            };
            Done::Upload {
                batch,
                result: answer.map_err(upload_failure),
            }
        };
        self.spawn(work, move || Done::Upload {
            batch,
            result: Err(UploadFailure::Later { retry_after: None }),
        });
    }

    /// Waits for the next call to end; none while there is no call. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Done> {
        loop {
            // A task cannot fail: panics are caught inside, and nobody aborts one.
            if let Ok(done) = self.0.join_next().await? {
                return Some(done);
            }
        }
    }

    fn spawn(
        &mut self,
        work: impl Future<Output = Done> + Send + 'static,
        crashed: impl FnOnce() -> Done + Send + 'static,
    ) {
        self.0.spawn(async move {
            AssertUnwindSafe(work)
                .catch_unwind()
                .await
                .unwrap_or_else(|_| crashed())
        });
    }
}

fn heartbeat_failure(error: &RpcError) -> HeartbeatFailure {
    if error.code == Code::NotFound {
        HeartbeatFailure::NodeUnknown
    } else if error.code == Code::Unauthenticated {
        HeartbeatFailure::Unauthenticated
    } else {
        tracing::debug!(%error, "heartbeat failed");
        HeartbeatFailure::Other
    }
}

fn upload_failure(error: RpcError) -> UploadFailure {
    let retry_after = error.retry_after();
    let RpcError { code, message, .. } = error;
    tracing::debug!(%code, message, "a report was not taken");
    let over_quota = code == Code::ResourceExhausted && retry_after.is_none();
    if code == Code::FailedPrecondition {
        UploadFailure::CommandDead { reason: message }
    } else if code == Code::InvalidArgument || over_quota {
        UploadFailure::Refused { reason: message }
    } else {
        UploadFailure::Later { retry_after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_final_refusals_drop_a_report() {
        let limit = || RpcError::resource_exhausted("quota");
        let hint = Duration::from_secs(3);
        for (error, expected) in [
            (
                RpcError::invalid_argument("bad"),
                UploadFailure::Refused {
                    reason: "bad".into(),
                },
            ),
            (
                limit(),
                UploadFailure::Refused {
                    reason: "quota".into(),
                },
            ),
            (
                limit().with_retry_after(hint),
                UploadFailure::Later {
                    retry_after: Some(hint),
                },
            ),
            (
                RpcError::failed_precondition("over"),
                UploadFailure::CommandDead {
                    reason: "over".into(),
                },
            ),
            (
                RpcError::unauthenticated("who"),
                UploadFailure::Later { retry_after: None },
            ),
            (
                RpcError::not_found("node"),
                UploadFailure::Later { retry_after: None },
            ),
            (
                RpcError::unavailable("later"),
                UploadFailure::Later { retry_after: None },
            ),
            (
                RpcError::internal("id 7"),
                UploadFailure::Later { retry_after: None },
            ),
        ] {
            assert_eq!(upload_failure(error.clone()), expected, "{error}");
        }
    }

    #[tokio::test]
    async fn a_call_that_panics_still_answers() {
        let mut calls = Calls::default();
        calls.spawn(async { panic!("on purpose") }, || {
            Done::Heartbeat(Err(HeartbeatFailure::Other))
        });
        assert!(matches!(
            calls.next().await,
            Some(Done::Heartbeat(Err(HeartbeatFailure::Other)))
        ));
        assert!(calls.next().await.is_none());
    }
}
