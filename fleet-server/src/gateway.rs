//! The node's side of the wire: registration, handshakes, heartbeats, reports. The control stream is in
//! [`crate::stream`].

use std::{str::FromStr, sync::Arc, time::Duration};

use ed25519_dalek::{Signature, VerifyingKey};
use fleet_core::{
    CommandId, DeviceReport, Fingerprint, PairRejectReason, PairResult, RawPairResult, SecretHash,
    SecretKind, challenge, limits, registration_statement,
};
use fleet_store::{
    Actor, Challenged, NewNode, NewPairResults, NewReport, OpenSessionError, PairRow, ReportAnswer,
    ReportError, SealedCredentials, Who,
};
use fleet_wire::{
    BoxStream, Context, Message, Reply, RpcError,
    gateway::{
        BeginAuthHandshakeRequest, BeginAuthHandshakeResponse, CompleteAuthHandshakeRequest,
        CompleteAuthHandshakeResponse, ControlStreamRequest, ControlStreamResponse,
        EnrollmentStatus, FleetNodeGatewayService, FleetNodePairResult, PairOutcome,
        RegisterRequest, RegisterResponse, ReportDiscoveredDevicesRequest,
        ReportDiscoveredDevicesResponse, ReportPairedDevicesRequest, ReportPairedDevicesResponse,
        UploadHeartbeatRequest, UploadHeartbeatResponse,
    },
};
use sha2::{Digest, Sha256};

use crate::{
    app::App,
    audit::Attempt,
    auth::{calling_address, calling_node},
    convert::{printable, raw_report, timestamp},
    failure::{self, Refusal},
    limiter::{self, Limiter},
    points::{bytes32, encryption_key, identity_key},
    stream,
};

/// How long a report waits for the server's own dials at its addresses: somewhat longer than those last.
const REPORT_WAIT: Duration = Duration::from_secs(20);
/// Between two looks.
const REPORT_PAUSE: Duration = Duration::from_millis(100);
/// What is kept of a node's words about a device that it could not pair.
const PAIR_ERROR: usize = 512;

/// The node services.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    pub(crate) app: Arc<App>,
}

impl FleetNodeGatewayService for Gateway {
    async fn register(
        &self,
        context: Context,
        request: RegisterRequest,
    ) -> Result<Reply<RegisterResponse>, RpcError> {
        let from = calling_address(&self.app, &context);
        if let Some(limits) = &self.app.limiters {
            allow(&limits.register, limiter::source(from), "registrations")?;
        }
        if request.name.chars().any(char::is_control) {
            return Err(RpcError::invalid_argument(format!(
                "name is `{}`, with control characters in it: enroll with another --name",
                printable(&request.name, 255)
            )));
        }
        let identity_key = identity_key(&request.identity_pubkey)?;
        let encryption_key = encryption_key(&request.encryption_pubkey)?;
        let code = SecretHash::of(&request.enrollment_token);
        verify_possession(&identity_key, &encryption_key, &request, &code)?;
        let fingerprint = Fingerprint::of(identity_key.as_bytes());
        let actor = Actor {
            who: Who::Anonymous,
            from: Some(from),
        };
        let attempt = Attempt {
            org: None,
            actor: actor.clone(),
            action: "node.register",
            subject: format!("identity {fingerprint}"),
        };
        let new = NewNode {
            code,
            name: request.name,
            identity_key: identity_key.to_bytes(),
            encryption_key,
            actor,
            now: self.app.environment.now(),
        };
        let registered = match self.app.store.register_node(new).await {
            Ok(registered) => registered,
            Err(error) => return Err(attempt.refused(&self.app, error.refusal()).await),
        };
        tracing::info!(node = %registered.node, %fingerprint, "node registered");
        Ok(Reply::new(RegisterResponse {
            fleet_node_id: registered.node.0,
            enrollment_status: EnrollmentStatus::Pending.into(),
            identity_fingerprint: fingerprint.to_string(),
        }))
    }

    async fn begin_auth_handshake(
        &self,
        context: Context,
        request: BeginAuthHandshakeRequest,
    ) -> Result<Reply<BeginAuthHandshakeResponse>, RpcError> {
        let from = calling_address(&self.app, &context);
        let key = SecretHash::of(&request.api_key);
        if let Some(limits) = &self.app.limiters {
            allow(&limits.handshakes, limiter::source(from), "handshakes")?;
            allow(
                &limits.handshakes_of_a_key,
                key.as_bytes(),
                "handshakes with this key",
            )?;
        }
        let identity_key = bytes32(&request.identity_pubkey, "identity_pubkey")?;
        let challenge = challenge(&self.app.environment.random());
        let now = self.app.environment.now();
        let expires = now.plus(limits::CHALLENGE_LIFE);
        let begun = self
            .app
            .store
            .begin_handshake(key, identity_key, SecretHash::of_bytes(&challenge), expires)
            .await;
        if let Err(error) = begun {
            let attempt = Attempt {
                org: None,
                actor: Actor {
                    who: Who::Anonymous,
                    from: Some(from),
                },
                action: "node.handshake",
                subject: format!("identity {}", Fingerprint::of(&identity_key)),
            };
            return Err(attempt.refused(&self.app, error.refusal()).await);
        }
        Ok(Reply::new(BeginAuthHandshakeResponse {
            challenge: challenge.to_vec().into(),
            expires_at: Some(timestamp(expires)),
        }))
    }

    async fn complete_auth_handshake(
        &self,
        context: Context,
        request: CompleteAuthHandshakeRequest,
    ) -> Result<Reply<CompleteAuthHandshakeResponse>, RpcError> {
        let from = calling_address(&self.app, &context);
        if let Some(limits) = &self.app.limiters {
            allow(&limits.handshakes, limiter::source(from), "handshakes")?;
        }
        let refused =
            || RpcError::unauthenticated("the challenge was not met: begin a new handshake");
        let now = self.app.environment.now();
        let taken = self
            .app
            .store
            .take_challenge(SecretHash::of_bytes(&request.challenge), now)
            .await
            .map_err(Refusal::refusal)?;
        let met = taken
            .filter(|challenged| challenged.alive)
            .filter(|challenged| meets(challenged, &request));
        let attempt = Attempt {
            org: None,
            actor: Actor {
                who: taken.map_or(Who::Anonymous, |challenged| Who::Node(challenged.node)),
                from: Some(from),
            },
            action: "node.sign_in",
            subject: String::new(),
        };
        let Some(challenged) = met else {
            return Err(attempt.refused(&self.app, refused()).await);
        };
        let token = self.app.environment.secret(SecretKind::NodeSession);
        let expires = now.plus(limits::SESSION_LIFE);
        let actor = Actor {
            who: Who::Node(challenged.node),
            from: Some(from),
        };
        let opened = self
            .app
            .store
            .open_session(
                challenged.node,
                challenged.key,
                token.hash(),
                expires,
                actor,
                now,
            )
            .await;
        match opened {
            Ok(_) => {}
            Err(OpenSessionError::Refused) => {
                return Err(attempt.refused(&self.app, refused()).await);
            }
            Err(OpenSessionError::Storage(error)) => return Err(failure::storage(&error)),
        }
        Ok(Reply::new(CompleteAuthHandshakeResponse {
            session_token: token.expose().to_owned(),
            expires_at: Some(timestamp(expires)),
        }))
    }

    async fn upload_heartbeat(
        &self,
        context: Context,
        _: UploadHeartbeatRequest,
    ) -> Result<Reply<UploadHeartbeatResponse>, RpcError> {
        let node = calling_node(&context)?;
        let now = self.app.environment.now();
        if !self
            .app
            .store
            .heartbeat(node.node, now)
            .await
            .map_err(Refusal::refusal)?
        {
            return Err(RpcError::not_found(format!(
                "node {} is not enrolled any more",
                node.node
            )));
        }
        Ok(Reply::new(UploadHeartbeatResponse {
            received_at: Some(timestamp(now)),
        }))
    }

    async fn report_discovered_devices(
        &self,
        context: Context,
        request: ReportDiscoveredDevicesRequest,
    ) -> Result<Reply<ReportDiscoveredDevicesResponse>, RpcError> {
        let node = calling_node(&context)?;
        let from = calling_address(&self.app, &context);
        let command = command_id(&request.command_id)?;
        let digest = Sha256::digest(request.encode_to_vec()).into();
        let rows = request.devices.iter().map(|device| {
            DeviceReport::parse(raw_report(device))
                .map_err(|reason| (reason, printable(&device.ip_address, 64)))
        });
        let report = NewReport {
            node: node.node,
            org: node.org,
            from: Some(from),
            command,
            digest,
            rows: rows.collect(),
            addresses: self.app.config.addresses,
            now: self.app.environment.now(),
        };
        let answer = match self.record(report).await {
            Ok(answer) => answer,
            Err(error) => {
                let attempt = Attempt {
                    org: Some(node.org),
                    actor: Actor {
                        who: Who::Node(node.node),
                        from: Some(from),
                    },
                    action: "report.refuse",
                    subject: format!("command {command}"),
                };
                return Err(attempt.refused(&self.app, error.refusal()).await);
            }
        };
        self.app.bells.ring(answer.scan);
        if answer.ended {
            tracing::warn!(node = %node.node, %command, "a command was ended because too many of its rows were refused");
            self.app.hub.cancel(node.node, command);
            self.app.hub.forget(node.node, command);
            self.app.work.look_at(node.node);
        }
        Ok(Reply::new(ReportDiscoveredDevicesResponse {
            accepted_count: count(answer.accepted),
            rejected_count: count(answer.rejected),
        }))
    }

    async fn report_paired_devices(
        &self,
        context: Context,
        request: ReportPairedDevicesRequest,
    ) -> Result<Reply<ReportPairedDevicesResponse>, RpcError> {
        let node = calling_node(&context)?;
        let from = calling_address(&self.app, &context);
        let command = command_id(&request.command_id)?;
        let report = NewPairResults {
            node: node.node,
            org: node.org,
            from: Some(from),
            command,
            rows: request.results.into_iter().map(pair_row).collect(),
            now: self.app.environment.now(),
        };
        let answer = match self.app.store.record_pair_results(report).await {
            Ok(answer) => answer,
            Err(error) => {
                let attempt = Attempt {
                    org: Some(node.org),
                    actor: Actor {
                        who: Who::Node(node.node),
                        from: Some(from),
                    },
                    action: "pairing.refuse",
                    subject: format!("command {command}"),
                };
                return Err(attempt.refused(&self.app, error.refusal()).await);
            }
        };
        self.app.bells.ring(answer.pairing);
        Ok(Reply::new(ReportPairedDevicesResponse {
            accepted_count: count(answer.accepted),
            rejected_count: count(answer.rejected),
        }))
    }

    async fn control_stream(
        &self,
        context: Context,
        inbound: BoxStream<ControlStreamRequest>,
    ) -> Result<Reply<BoxStream<ControlStreamResponse>>, RpcError> {
        let node = calling_node(&context)?.clone();
        stream::open(self.app.clone(), node, inbound).await
    }
}

impl Gateway {
    /// Records a report. While the server itself dials at one of its addresses it waits: an upstream node
    /// uploads once, and gives up at the first trouble.
    async fn record(&self, report: NewReport) -> Result<ReportAnswer, ReportError> {
        let app = &self.app;
        let deadline = app.environment.instant() + REPORT_WAIT;
        loop {
            let report = NewReport {
                now: app.environment.now(),
                ..report.clone()
            };
            match app.store.record_report(report).await {
                Err(waits @ ReportError::BeingDialed(_))
                    if app.environment.instant() < deadline =>
                {
                    tokio::select! {
                        () = app.drain.cancelled() => return Err(waits),
                        () = tokio::time::sleep(REPORT_PAUSE) => {}
                    }
                }
                answer => return answer,
            }
        }
    }
}

/// A result as it may be stored: its words escaped and bounded, what was sealed bounded.
fn pair_row(said: FleetNodePairResult) -> Result<PairRow, (PairRejectReason, String)> {
    let refused = |reason| (reason, printable(&said.device_identifier, 64));
    let outcome = match said.outcome() {
        PairOutcome::Unspecified => None,
        PairOutcome::Paired => Some(fleet_core::PairOutcome::Paired),
        PairOutcome::AuthNeeded => Some(fleet_core::PairOutcome::AuthNeeded),
        PairOutcome::AuthFailed => Some(fleet_core::PairOutcome::AuthFailed),
        PairOutcome::Error => Some(fleet_core::PairOutcome::Error),
    };
    let mut result = PairResult::parse(RawPairResult {
        identifier: &said.device_identifier,
        outcome,
        default_password: said.default_password_active,
        serial: &said.serial_number,
        mac: &said.mac_address,
        model: &said.model,
        manufacturer: &said.manufacturer,
        firmware: &said.firmware_version,
        error: &said.error_message,
    })
    .map_err(refused)?;
    result.error = printable(&result.error, PAIR_ERROR);
    let sealed = said.encrypted_credentials.as_ref();
    if sealed.is_some_and(|sealed| {
        sealed.username.len().max(sealed.password.len()) > limits::SEALED_BYTES
    }) {
        return Err(refused(PairRejectReason::Credentials));
    }
    let sealed = sealed
        .filter(|sealed| !sealed.username.is_empty() || !sealed.password.is_empty())
        .map(|sealed| SealedCredentials {
            username: sealed.username.to_vec(),
            password: sealed.password.to_vec(),
        });
    Ok(PairRow { result, sealed })
}

/// Whether the answer is the challenged key's signature over the challenge.
fn meets(challenged: &Challenged, answer: &CompleteAuthHandshakeRequest) -> bool {
    let (Ok(key), Ok(signature)) = (
        VerifyingKey::from_bytes(&challenged.identity_key),
        Signature::from_slice(&answer.signature),
    ) else {
        return false;
    };
    key.verify_strict(&answer.challenge, &signature).is_ok()
}

/// Takes one call from an allowance.
fn allow(limiter: &Limiter, key: impl std::hash::Hash, what: &str) -> Result<(), RpcError> {
    limiter.take(key).map_err(|wait| {
        RpcError::resource_exhausted(format!(
            "too many {what}: try again in {} s",
            wait.as_secs() + 1
        ))
        .with_retry_after(wait)
    })
}

/// Where a node proves possession of its key already at registration, the proof must hold.
fn verify_possession(
    key: &VerifyingKey,
    encryption_key: &[u8; 32],
    request: &RegisterRequest,
    code: &SecretHash,
) -> Result<(), RpcError> {
    if request.identity_proof.is_empty() {
        return Ok(());
    }
    let refused = || {
        RpcError::invalid_argument(
            "identity_proof is not identity_pubkey's signature over code, name and keys",
        )
    };
    let signature = Signature::from_slice(&request.identity_proof).map_err(|_| refused())?;
    let statement = registration_statement(code, &request.name, key.as_bytes(), encryption_key);
    key.verify_strict(&statement, &signature)
        .map_err(|_| refused())
}

/// A command that cannot be ours is not in flight either.
fn command_id(text: &str) -> Result<CommandId, RpcError> {
    CommandId::from_str(text).map_err(|_| {
        RpcError::failed_precondition(format!(
            "command {} is not in flight for this node",
            printable(text, 64)
        ))
    })
}

fn count(rows: u64) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}
