//! Unary calls of a running node. Each runs in its own task and always produces a result. Start with [`Calls`].

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

/// Time limit of a heartbeat. The next one is due after 30 s.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// Longest reason of a halt on the wire, in characters.
const HALT_REASON: usize = 512;

/// Calls in progress: at most a handshake, a heartbeat and an upload.
#[derive(Debug, Default)]
pub(super) struct Calls(JoinSet<CallResult>);

/// The result of a call.
#[derive(Debug)]
pub(super) enum CallResult {
    /// The failure comes with its reason, as a sentence for the log.
    Handshake(Result<Session, (HandshakeFailure, String)>),
    /// The server's time, if the call succeeded.
    Heartbeat(Result<Option<Timestamp>, HeartbeatFailure>),
    Upload {
        batch: BatchId,
        result: Result<UploadCounts, UploadFailure>,
    },
}

/// The number of accepted and rejected rows of a report.
#[derive(Clone, Copy, Debug)]
pub(super) struct UploadCounts {
    pub(super) accepted: u64,
    pub(super) rejected: u64,
    /// Rejected rows of devices that belong to another owner. They are not in `rejected`.
    pub(super) owned_elsewhere: u64,
}

impl Calls {
    /// Starts a handshake.
    pub(super) fn handshake(
        &mut self,
        client: &FleetNodeGatewayClient,
        state: &StateFile,
        clock: ServerClock,
    ) {
        let (client, state) = (client.clone(), state.clone());
        let work = async move {
            let opened = session::open(&client, &state, clock).await;
            CallResult::Handshake(opened.map_err(|error| {
                let reason = match std::error::Error::source(&error) {
                    Some(cause) => format!("{error}: {cause}"),
                    None => error.to_string(),
                };
                (error.failure(), reason)
            }))
        };
        self.spawn(work, || {
            let reason = "the task of the handshake crashed".to_owned();
            CallResult::Handshake(Err((HandshakeFailure::Other, reason)))
        });
    }

    /// Starts a heartbeat, which reports whether the node is halted and why it has no stream.
    pub(super) fn heartbeat(
        &mut self,
        client: &FleetNodeGatewayClient,
        session: &Session,
        halt: Option<String>,
        problem: Option<String>,
    ) {
        let (client, options) = (client.clone(), session.options().timeout(HEARTBEAT));
        let work = async move {
            let request = UploadHeartbeatRequest {
                sent_at: Some(now()),
                halted: Some(halt.is_some()),
                halt_reason: halt.unwrap_or_default().chars().take(HALT_REASON).collect(),
                stream_problem: problem
                    .unwrap_or_default()
                    .chars()
                    .take(HALT_REASON)
                    .collect(),
            };
            CallResult::Heartbeat(match client.upload_heartbeat(&request, options).await {
                Ok(answer) => Ok(answer.received_at),
                Err(error) => Err(heartbeat_failure(&error)),
            })
        };
        self.spawn(work, || CallResult::Heartbeat(Err(HeartbeatFailure::Other)));
    }

    /// Starts the upload of a report.
    pub(super) fn upload(
        &mut self,
        client: &FleetNodeGatewayClient,
        session: &Session,
        batch: BatchId,
        command: &WireCommandId,
        rows: &Arc<[Row]>,
    ) {
        let (client, options) = (client.clone(), session.options());
        let (mut devices, mut hosts, mut results) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows.iter().cloned() {
            match row {
                Row::Found(device) => devices.push(device),
                Row::Host(host) => hosts.push(host),
                Row::Paired(result) => results.push(result),
            }
        }
        let command_id = command.as_str().to_owned();
        let work = async move {
            let number = |count: i64| u64::try_from(count).unwrap_or(0);
            let counts = |accepted: i64, rejected: i64, elsewhere: i64| {
                // An upstream server states none.
                let elsewhere = number(elsewhere).min(number(rejected));
                UploadCounts {
                    accepted: number(accepted),
                    rejected: number(rejected) - elsewhere,
                    owned_elsewhere: elsewhere,
                }
            };
            let answer = if results.is_empty() {
                let request = ReportDiscoveredDevicesRequest {
                    devices,
                    command_id,
                    hosts,
                };
                let answer = client.report_discovered_devices(&request, options).await;
                answer.map(|answer| {
                    counts(
                        answer.accepted_count,
                        answer.rejected_count,
                        answer.owned_elsewhere_count,
                    )
                })
            } else {
                let request = ReportPairedDevicesRequest {
                    command_id,
                    results,
                };
                let answer = client.report_paired_devices(&request, options).await;
                answer.map(|answer| counts(answer.accepted_count, answer.rejected_count, 0))
            };
            CallResult::Upload {
                batch,
                result: answer.map_err(upload_failure),
            }
        };
        self.spawn(work, move || CallResult::Upload {
            batch,
            result: Err(UploadFailure::Later { retry_after: None }),
        });
    }

    /// Waits for the next result. Returns none if no call is in progress. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<CallResult> {
        loop {
            // The tasks catch panics, and nothing aborts them, so `Err` does not occur.
            if let Ok(done) = self.0.join_next().await? {
                return Some(done);
            }
        }
    }

    fn spawn(
        &mut self,
        work: impl Future<Output = CallResult> + Send + 'static,
        crashed: impl FnOnce() -> CallResult + Send + 'static,
    ) {
        // The state machines wait for each result. A call
        // that ends without one would stop them for ever.
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
    tracing::debug!(%code, message, "a report was rejected");
    // With a hint it is a rate limit, which passes.
    // Without one, the quota of the command is used up.
    let over_quota = code == Code::ResourceExhausted && retry_after.is_none();
    if code == Code::FailedPrecondition {
        UploadFailure::CommandDead { reason: message }
    } else if code == Code::InvalidArgument || over_quota {
        UploadFailure::Refused { reason: message }
    // UNAUTHENTICATED is a reason to wait too, because the next attempt uses the new session.
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
            CallResult::Heartbeat(Err(HeartbeatFailure::Other))
        });
        assert!(matches!(
            calls.next().await,
            Some(CallResult::Heartbeat(Err(HeartbeatFailure::Other)))
        ));
        assert!(calls.next().await.is_none());
    }
}
