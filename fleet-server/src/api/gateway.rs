//! `fleetnodegateway.v1.FleetNodeGatewayService`: the services that nodes call. The control stream is in
//! [`crate::stream`].

use std::{
    net::IpAddr,
    str::FromStr,
    time::{Duration, Instant},
};

use ed25519_dalek::{Signature, VerifyingKey};
use fleet_core::{
    CommandId, DeviceReport, Fingerprint, HostReport, PairRejectReason, PairResult, RawPairResult,
    SecretHash, SecretKind, challenge, limits, registration_statement,
};
use fleet_store::{
    Actor, BeginError, Challenged, Halt, Heartbeat, NewNode, NewPairResults, NewReport,
    NodeIdentity, OpenSessionError, PairRow, Principal, ReportAnswer, ReportError,
    SealedCredentials,
};
use fleet_wire::{
    BoxStream, Context, Message, Reply, RpcError,
    gateway::{
        BeginAuthHandshakeRequest, BeginAuthHandshakeResponse, CompleteAuthHandshakeRequest,
        CompleteAuthHandshakeResponse, ControlStreamRequest, ControlStreamResponse,
        DiscoveredDeviceReport, EnrollmentStatus, FleetNodeGatewayService, FleetNodePairResult,
        PairOutcome, RegisterRequest, RegisterResponse, ReportDiscoveredDevicesRequest,
        ReportDiscoveredDevicesResponse, ReportPairedDevicesRequest, ReportPairedDevicesResponse,
        UnidentifiedHostReport, UploadHeartbeatRequest, UploadHeartbeatResponse,
    },
};
use sha2::{Digest, Sha256};

use super::Api;
use crate::{
    app::App,
    audit::Attempt,
    auth::{call_permit, calling_address, calling_node},
    convert::{printable, raw_host, raw_report, timestamp},
    failure::{self, Answered},
    public_keys::{bytes32, encryption_key, identity_key},
    stream,
};

/// How long a report waits while the server itself dials its addresses: somewhat longer than those dials last.
const REPORT_WAIT: Duration = Duration::from_secs(20);
/// Rows of a report that are stored in one transaction. SQLite has one writer, and PostgreSQL one lock for the endpoints
/// of an organization. With 64 rows, calls of other nodes took more than twice as long beside a node that reports
/// without a pause; with 32, 1.5 times (SQLite) and 1.8 times (PostgreSQL), measured by the proof `crowd`.
const PART: usize = 32;
/// Interval of retries during that wait.
const REPORT_PAUSE: Duration = Duration::from_millis(100);
/// Longest stored reason of a halt.
const HALT_REASON: usize = 512;
/// Longest stored error text of a device that a node could not pair.
const PAIR_ERROR: usize = 512;

impl FleetNodeGatewayService for Api {
    async fn register(
        &self,
        context: Context,
        request: RegisterRequest,
    ) -> Result<Reply<RegisterResponse>, RpcError> {
        let from = calling_address(&self.app, &context);
        if let Some(limits) = &self.app.limiters {
            limits
                .register
                .allow(from, "registrations", self.app.environment.instant())?;
        }
        let identity_key = identity_key(&request.identity_pubkey)?;
        let encryption_key = encryption_key(&request.encryption_pubkey)?;
        let code = SecretHash::of(&request.enrollment_token);
        let keys_proved = verify_possession(&identity_key, &encryption_key, &request, &code)?;
        let fingerprint = if keys_proved {
            Fingerprint::of_both(identity_key.as_bytes(), &encryption_key)
        } else {
            Fingerprint::of(identity_key.as_bytes())
        };
        let attempt = Attempt::anonymous(from, "node.register", format!("identity {fingerprint}"));
        let new = NewNode {
            code,
            name: request.name,
            identity_key: identity_key.to_bytes(),
            encryption_key,
            keys_proved,
            actor: attempt.actor.clone(),
            now: self.app.environment.now(),
        };
        let registered = self.app.store.register_node(new).await;
        let registered = attempt.or_refused(&self.app.auditor, registered).await?;
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
            limits
                .handshakes
                .allow(from, "handshakes", self.app.environment.instant())?;
            limits.handshakes_of_a_key.allow(
                key.as_bytes(),
                "handshakes with this key",
                self.app.environment.instant(),
            )?;
        }
        let identity_key = bytes32(&request.identity_pubkey, "identity_pubkey")?;
        let challenge = challenge(&self.app.environment.random());
        let expires = self.app.environment.now().plus(limits::CHALLENGE_LIFE);
        let hash = SecretHash::of_bytes(&challenge);
        let store = &self.app.store;
        let begun = store
            .begin_handshake(key, identity_key, hash, expires)
            .await;
        if let Err(BeginError::Credentials) = &begun {
            let reason = "a handshake with its identity was refused: its API key is not valid";
            handshake_refused(&self.app, identity_key, reason).await;
        }
        let subject = format!("identity {}", Fingerprint::of(&identity_key));
        Attempt::anonymous(from, "node.handshake", subject)
            .or_refused(&self.app.auditor, begun)
            .await?;
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
            limits
                .handshakes
                .allow(from, "handshakes", self.app.environment.instant())?;
        }
        let refused = || {
            RpcError::unauthenticated("the challenge was not answered: begin a new handshake")
                .with_reason("CHALLENGE_INVALID")
        };
        let now = self.app.environment.now();
        let store = &self.app.store;
        // Consumed before the signature is checked, so a challenge allows one guess.
        let taken = store
            .take_challenge(SecretHash::of_bytes(&request.challenge), now)
            .await
            .answered()?;
        let actor = Actor {
            principal: taken.map_or(Principal::Anonymous, |challenged| {
                Principal::Node(challenged.node)
            }),
            from: Some(from),
        };
        let attempt = Attempt {
            org: None,
            actor: actor.clone(),
            action: "node.sign_in",
            subject: String::new(),
        };
        let answered = taken
            .filter(|challenged| challenged.alive)
            .filter(|challenged| answers(challenged, &request));
        let Some(challenged) = answered else {
            if let Some(challenged) = taken {
                let reason = if challenged.alive {
                    "a handshake with its API key was refused: the signature is not of its identity key"
                } else {
                    "a handshake with its API key was refused: it was not completed in time"
                };
                handshake_refused(&self.app, challenged.identity_key, reason).await;
            }
            return Err(attempt.refused(&self.app.auditor, refused()).await);
        };
        let token = self.app.environment.secret(SecretKind::NodeSession);
        let expires = now.plus(limits::SESSION_LIFE);
        let (node, key) = (challenged.node, challenged.key);
        let opened = store.open_session(node, key, token.hash(), expires, actor, now);
        let opened = opened.await.map_err(|error| match error {
            OpenSessionError::Refused => refused(),
            OpenSessionError::Storage(error) => failure::storage(&error),
        });
        attempt.or_refused(&self.app.auditor, opened).await?;
        Ok(Reply::new(CompleteAuthHandshakeResponse {
            session_token: token.expose().to_owned(),
            expires_at: Some(timestamp(expires)),
        }))
    }

    async fn upload_heartbeat(
        &self,
        context: Context,
        request: UploadHeartbeatRequest,
    ) -> Result<Reply<UploadHeartbeatResponse>, RpcError> {
        let (node, _) = calling_node(&context)?;
        let now = self.app.environment.now();
        let halt = request.halted.map(|halted| {
            if halted {
                Halt::Halted(printable(&request.halt_reason, HALT_REASON))
            } else {
                Halt::Running
            }
        });
        let problem = printable(&request.stream_problem, HALT_REASON);
        let heartbeat = Heartbeat {
            halt,
            stream_problem: (!problem.is_empty()).then_some(problem),
        };
        let _beating = call_permit(&context)?.beating().await;
        let served = self.app.store.heartbeat(node.node, heartbeat, now).await;
        if !served.answered()? {
            return Err(
                RpcError::not_found(format!("node {} is no longer enrolled", node.node))
                    .with_reason("NODE_NOT_ENROLLED")
                    .with_fact("node_id", node.node),
            );
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
        let (node, from) = calling_node(&context)?;
        let command = command_id(&request.command_id)?;
        let recorded = self.record(node, from, command, &request).await;
        let subject = format!("command {command}");
        let answer = Attempt::by_node(node, from, "report.refuse", subject)
            .or_refused(&self.app.auditor, recorded)
            .await?;
        self.app.metrics.reported(answer.accepted, answer.rejected);
        self.app.wakeups.notify(answer.scan);
        if answer.ended {
            tracing::warn!(node = %node.node, %command, "a command was ended because too many of its rows were refused");
            self.app.end_command(node.node, command);
            // Another server may hold the node's stream.
            self.app.notify_node(node.node);
        }
        Ok(Reply::new(ReportDiscoveredDevicesResponse {
            accepted_count: count(answer.accepted),
            rejected_count: count(answer.rejected),
            owned_elsewhere_count: count(answer.owned_elsewhere),
        }))
    }

    async fn report_paired_devices(
        &self,
        context: Context,
        request: ReportPairedDevicesRequest,
    ) -> Result<Reply<ReportPairedDevicesResponse>, RpcError> {
        let (node, from) = calling_node(&context)?;
        let command = command_id(&request.command_id)?;
        let report = NewPairResults {
            node: node.node,
            org: node.org,
            from: Some(from),
            command,
            rows: request.results.into_iter().map(pair_row).collect(),
            now: self.app.environment.now(),
        };
        let recorded = self.app.store.record_pair_results(report).await;
        let subject = format!("command {command}");
        let answer = Attempt::by_node(node, from, "pairing.refuse", subject)
            .or_refused(&self.app.auditor, recorded)
            .await?;
        self.app.wakeups.notify(answer.pairing);
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
        let (node, _) = calling_node(&context)?;
        stream::open(self.app.clone(), node.clone(), inbound).await
    }
}

impl Api {
    /// Records a report, in parts. While the server itself dials one of its addresses it waits, because an upstream node
    /// uploads a report once and gives up at the first failure. A failure leaves the earlier parts stored: the node sends
    /// the report again, and parts that are stored already get their former answers.
    async fn record(
        &self,
        node: &NodeIdentity,
        from: IpAddr,
        command: CommandId,
        request: &ReportDiscoveredDevicesRequest,
    ) -> Result<ReportAnswer, ReportError> {
        let whole = Sha256::digest(request.encode_to_vec()).into();
        let deadline = self.app.environment.instant() + REPORT_WAIT;
        let (devices, hosts) = (request.devices.len(), request.hosts.len());
        let mut answer = None;
        for number in 0..devices.max(hosts).div_ceil(PART).max(1) {
            let part = Part {
                devices: part_of(&request.devices, number),
                hosts: part_of(&request.hosts, number),
                digest: digest_of_part(whole, number),
            };
            let recorded = self
                .record_part(node, from, command, part, deadline)
                .await?;
            let sum = sum_of(answer, recorded);
            if sum.ended {
                // The rest is refused with the command.
                let rest = devices.saturating_sub(PART * (number + 1));
                return Ok(ReportAnswer {
                    rejected: sum.rejected + rest as u64,
                    ..sum
                });
            }
            answer = Some(sum);
        }
        answer.ok_or(ReportError::NotInFlight(command))
    }

    async fn record_part(
        &self,
        node: &NodeIdentity,
        from: IpAddr,
        command: CommandId,
        part: Part<'_>,
        deadline: Instant,
    ) -> Result<ReportAnswer, ReportError> {
        let app = &self.app;
        loop {
            // Built anew for each retry: retries are rare, and a report of a thousand devices is not cloned for them.
            let rows = part.devices.iter().map(|device| {
                DeviceReport::parse(raw_report(device))
                    .map_err(|reason| (reason, printable(&device.ip_address, 64)))
            });
            let hosts = part.hosts.iter().map(|host| {
                HostReport::parse(raw_host(host))
                    .map_err(|reason| (reason, printable(&host.ip_address, 64)))
            });
            let report = NewReport {
                node: node.node,
                org: node.org,
                from: Some(from),
                command,
                digest: part.digest,
                rows: rows.collect(),
                hosts: hosts.collect(),
                addresses: app.config.addresses,
                now: app.environment.now(),
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

/// The rows of a report that are stored together.
struct Part<'a> {
    devices: &'a [DiscoveredDeviceReport],
    hosts: &'a [UnidentifiedHostReport],
    digest: [u8; 32],
}

fn part_of<T>(rows: &[T], number: usize) -> &[T] {
    rows.chunks(PART).nth(number).unwrap_or_default()
}

/// What a part of a report is remembered by. The first one has the digest of the whole report.
fn digest_of_part(whole: [u8; 32], number: usize) -> [u8; 32] {
    if number == 0 {
        return whole;
    }
    let part = Sha256::new_with_prefix(whole);
    part.chain_update((number as u64).to_be_bytes())
        .finalize()
        .into()
}

fn sum_of(before: Option<ReportAnswer>, part: ReportAnswer) -> ReportAnswer {
    let Some(before) = before else { return part };
    ReportAnswer {
        accepted: before.accepted + part.accepted,
        rejected: before.rejected + part.rejected,
        owned_elsewhere: before.owned_elsewhere + part.owned_elsewhere,
        ..part
    }
}

/// Parses one result of a pairing. The error text is escaped and bounded, sealed credentials are bounded.
fn pair_row(result: FleetNodePairResult) -> Result<PairRow, (PairRejectReason, String)> {
    let refused = |reason| (reason, printable(&result.device_identifier, 64));
    let outcome = match result.outcome() {
        PairOutcome::Unspecified => None,
        PairOutcome::Paired => Some(fleet_core::PairOutcome::Paired),
        PairOutcome::AuthNeeded => Some(fleet_core::PairOutcome::AuthNeeded),
        PairOutcome::AuthFailed => Some(fleet_core::PairOutcome::AuthFailed),
        PairOutcome::Error => Some(fleet_core::PairOutcome::Error),
    };
    let mut parsed = PairResult::parse(RawPairResult {
        identifier: &result.device_identifier,
        outcome,
        default_password: result.default_password_active,
        open: result.open,
        serial: &result.serial_number,
        mac: &result.mac_address,
        model: &result.model,
        manufacturer: &result.manufacturer,
        firmware: &result.firmware_version,
        error: &result.error_message,
    })
    .map_err(refused)?;
    parsed.error = printable(&parsed.error, PAIR_ERROR);
    let sealed = result.encrypted_credentials.as_ref();
    if sealed.is_some_and(|sealed| {
        sealed.username.len().max(sealed.password.len()) > limits::SEALED_BYTES
    }) {
        return Err(refused(PairRejectReason::Credentials));
    }
    let sealed = sealed
        // No password worked at a device that needs none.
        .filter(|sealed| {
            let is_empty = sealed.username.is_empty() && sealed.password.is_empty();
            !parsed.open && !is_empty
        })
        .map(|sealed| SealedCredentials {
            username: sealed.username.to_vec(),
            password: sealed.password.to_vec(),
        });
    Ok(PairRow {
        result: parsed,
        sealed,
    })
}

/// Whether the answer is the challenged key's signature over the challenge.
fn answers(challenged: &Challenged, answer: &CompleteAuthHandshakeRequest) -> bool {
    let (Ok(key), Ok(signature)) = (
        VerifyingKey::from_bytes(&challenged.identity_key),
        Signature::from_slice(&answer.signature),
    ) else {
        return false;
    };
    // `verify` alone accepts keys of low order, under which one signature fits many messages.
    key.verify_strict(&answer.challenge, &signature).is_ok()
}

/// Verifies the proof of possession of the identity key, where the request contains one, and returns whether it does.
/// Upstream nodes send none. If somebody drops the proof of another node, its fingerprint differs from the node's own.
fn verify_possession(
    key: &VerifyingKey,
    encryption_key: &[u8; 32],
    request: &RegisterRequest,
    code: &SecretHash,
) -> Result<bool, RpcError> {
    if request.identity_proof.is_empty() {
        return Ok(false);
    }
    let refused = || {
        RpcError::invalid_argument(
            "identity_proof is not identity_pubkey's signature over code, name and keys",
        )
        .with_reason("INVALID_FIELD")
        .with_fact("field", "identity_proof")
    };
    let signature = Signature::from_slice(&request.identity_proof).map_err(|_| refused())?;
    let statement = registration_statement(code, &request.name, key.as_bytes(), encryption_key);
    key.verify_strict(&statement, &signature)
        .map_err(|_| refused())?;
    Ok(true)
}

/// Records a refused handshake for the list of nodes. A failure is logged only: the refusal itself is more important.
async fn handshake_refused(app: &App, identity_key: [u8; 32], reason: &str) {
    let live = app.replicas.live(app.environment.instant());
    let recorded = app
        .store
        .handshake_refused(identity_key, live, reason.to_owned());
    if let Err(error) = recorded.await {
        tracing::warn!(%error, "a refused handshake could not be recorded");
    }
}

/// A malformed command id is answered like a command that is not in flight.
fn command_id(text: &str) -> Result<CommandId, RpcError> {
    CommandId::from_str(text).map_err(|_| {
        RpcError::failed_precondition(format!(
            "command {} is not in flight for this node",
            printable(text, 64)
        ))
        .with_reason("COMMAND_NOT_IN_FLIGHT")
        .with_fact("command_id", printable(text, 64))
    })
}

fn count(rows: u64) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}
