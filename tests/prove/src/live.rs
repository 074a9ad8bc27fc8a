//! A server on loopback, an operator, and nodes that the proof controls.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use ed25519_dalek::{Signer, SigningKey};
use fleet_core::{NodeId, OrgId, Role, Secret, SecretKind};
use fleet_server::{Environment, Server, ServerConfig, SystemEnvironment};
use fleet_store::{Actor, NewOperator, Operators as _, SqlStore};
use fleet_wire::{
    Message as _, Protocol,
    admin::{ConfirmFleetNodeRequest, CreateEnrollmentCodeRequest, FleetNodeAdminClient},
    client::{CallOptions, Channel, ChannelConfig, Incoming, Outgoing},
    fleet::{DeviceClient, NodeClient, ScanClient, StartScanRequest},
    gateway::{
        AgentCommand, BeginAuthHandshakeRequest, CompleteAuthHandshakeRequest, ControlAck,
        ControlHello, ControlStreamRequest, ControlStreamResponse, FleetNodeGatewayClient,
        RegisterRequest, agent_command, control_stream_request, control_stream_response::Kind,
    },
    listener::{self, Drained, ListenerConfig, ListenerCounts},
    pairing::DiscoverRequest,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// A server without rate limits, and an administrator of its only organization.
pub(crate) struct Live {
    pub(crate) org: OrgId,
    address: SocketAddr,
    key: String,
    server: Server,
    closing: CancellationToken,
    port: JoinHandle<Drained>,
    /// Counts of connections that the listener refused.
    pub(crate) counts: Arc<ListenerCounts>,
}

impl Live {
    pub(crate) async fn start(store: &SqlStore) -> Result<Self> {
        Self::serve(store, first_key(store).await?).await
    }

    /// The same with the rate limits of a server.
    pub(crate) async fn start_limited(store: &SqlStore) -> Result<Self> {
        let rates = Some(fleet_server::Rates::default());
        Self::serve_with(store, first_key(store).await?, rates).await
    }

    /// Starts a server on a database whose operator has this key: another replica, or a restarted server.
    pub(crate) async fn serve(store: &SqlStore, key: String) -> Result<Self> {
        Self::serve_with(store, key, None).await
    }

    async fn serve_with(
        store: &SqlStore,
        key: String,
        rates: Option<fleet_server::Rates>,
    ) -> Result<Self> {
        let environment: Arc<dyn Environment> = Arc::new(SystemEnvironment);
        let parsed = Secret::parse(SecretKind::OperatorKey, &key)?;
        let operator = store
            .operator_by_key(parsed.hash(), environment.now())
            .await?;
        let config = ServerConfig {
            rates,
            ..ServerConfig::default()
        };
        let server = Server::start(config, Arc::new(store.clone()), environment);
        let socket = TcpListener::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?;
        let (closing, service) = (CancellationToken::new(), server.service());
        let config = ListenerConfig::plaintext();
        let counts = config.counts.clone();
        let port = tokio::spawn({
            let closing = closing.clone();
            async move { listener::serve(socket, service, &config, closing).await }
        });
        Ok(Self {
            org: operator.context("the operator that was just created")?.org,
            address,
            key,
            server,
            closing,
            port,
            counts,
        })
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.server.drain().await;
        self.closing.cancel();
        self.port.await?;
        Ok(())
    }

    /// Stops the background work at once, as in a process that hangs. Its streams stay open until the returned task is
    /// aborted.
    pub(crate) fn hang(self) -> JoinHandle<Drained> {
        // Dropping the server aborts its background tasks.
        drop(self.server);
        self.port
    }

    /// Opens a new connection.
    pub(crate) fn channel(&self) -> Result<Channel> {
        let config = ChannelConfig {
            protocol: Protocol::Grpc,
            ..ChannelConfig::default()
        };
        Ok(Channel::new(&format!("http://{}", self.address), &config)?)
    }

    /// The operator's key.
    pub(crate) fn key(&self) -> String {
        self.key.clone()
    }

    /// The listening address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn admin(&self) -> Result<FleetNodeAdminClient> {
        Ok(FleetNodeAdminClient::new(self.channel()?))
    }

    pub(crate) fn scans(&self) -> Result<ScanClient> {
        Ok(ScanClient::new(self.channel()?))
    }

    pub(crate) fn nodes(&self) -> Result<NodeClient> {
        Ok(NodeClient::new(self.channel()?))
    }

    pub(crate) fn devices(&self) -> Result<DeviceClient> {
        Ok(DeviceClient::new(self.channel()?))
    }

    /// The operator's credential.
    pub(crate) fn operator(&self) -> Result<CallOptions> {
        Ok(CallOptions::new().bearer(&self.key)?)
    }

    /// Creates an enrollment code and returns it with its pending enrollment.
    pub(crate) async fn code(&self) -> Result<(String, i64)> {
        let code = FleetNodeAdminClient::new(self.channel()?)
            .create_enrollment_code(&CreateEnrollmentCodeRequest::default(), self.operator()?)
            .await?;
        Ok((code.code, code.pending_enrollment_id))
    }

    /// Enrolls a node and connects it.
    pub(crate) async fn node(&self, name: &str) -> Result<Node> {
        let (code, pending) = self.code().await?;
        let gateway = FleetNodeGatewayClient::new(self.channel()?);
        let signing = identity();
        let registered = gateway
            .register(&registration(&code, name, &signing), CallOptions::new())
            .await?;
        let confirm = ConfirmFleetNodeRequest {
            fleet_node_id: registered.fleet_node_id,
            pending_enrollment_id: pending,
        };
        let confirmed = FleetNodeAdminClient::new(self.channel()?)
            .confirm_fleet_node(&confirm, self.operator()?)
            .await?;
        let begin = BeginAuthHandshakeRequest {
            api_key: confirmed.api_key,
            identity_pubkey: signing.verifying_key().to_bytes().to_vec().into(),
        };
        let challenge = gateway
            .begin_auth_handshake(&begin, CallOptions::new())
            .await?
            .challenge;
        let signature = signing.sign(&challenge).to_bytes().to_vec().into();
        let answer = CompleteAuthHandshakeRequest {
            challenge,
            signature,
        };
        let token = gateway
            .complete_auth_handshake(&answer, CallOptions::new())
            .await?
            .session_token;
        let (mut up, mut down) = gateway
            .control_stream(CallOptions::new().bearer(&token)?)
            .await?;
        let hello = ControlHello {
            capabilities: ["big-commands", "outcomes", "cancel"]
                .map(str::to_owned)
                .to_vec(),
            max_targets: 16_384,
            max_ports: 64,
            ..ControlHello::default()
        };
        let hello = ControlStreamRequest {
            kind: Some(control_stream_request::Kind::Hello(hello)),
        };
        up.send(&hello).await?;
        // The server knows the node's capabilities after this message.
        while let Some(message) = down.message().await? {
            if matches!(message.kind, Some(Kind::Accepted(_))) {
                break;
            }
        }
        Ok(Node {
            id: NodeId(registered.fleet_node_id),
            token,
            gateway,
            up,
            down,
        })
    }

    /// Starts a scan on a node and returns its id.
    pub(crate) async fn scan(&self, node: &Node, request: DiscoverRequest) -> Result<String> {
        let environment: &dyn Environment = &SystemEnvironment;
        let request = StartScanRequest {
            request_id: environment.scan_id().to_string(),
            fleet_node_id: node.id.0,
            request: Some(request),
            ..StartScanRequest::default()
        };
        let started = ScanClient::new(self.channel()?)
            .start_scan(&request, self.operator()?)
            .await?;
        Ok(started.scan.context("a scan")?.scan_id)
    }
}

/// Creates an administrator and returns a key of theirs.
async fn first_key(store: &SqlStore) -> Result<String> {
    let environment: &dyn Environment = &SystemEnvironment;
    let (email, now) = ("prover@example.org", environment.now());
    let new = NewOperator {
        org: "Proof".to_owned(),
        email: email.to_owned(),
        role: Role::Admin,
        now,
    };
    store.create_operator(new, Actor::SYSTEM).await?;
    let key = Secret::new(SecretKind::OperatorKey, &environment.random());
    store
        .create_operator_key(email, key.hash(), Actor::SYSTEM, now)
        .await?;
    Ok(key.expose().to_owned())
}

/// Creates an identity key.
pub(crate) fn identity() -> SigningKey {
    let environment: &dyn Environment = &SystemEnvironment;
    SigningKey::from_bytes(&environment.random())
}

/// Returns a valid registration.
pub(crate) fn registration(code: &str, name: &str, signing: &SigningKey) -> RegisterRequest {
    RegisterRequest {
        enrollment_token: code.to_owned(),
        name: name.to_owned(),
        identity_pubkey: signing.verifying_key().to_bytes().to_vec().into(),
        encryption_pubkey: vec![9; 32].into(),
        identity_proof: Vec::new().into(),
    }
}

/// A connected node.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) gateway: FleetNodeGatewayClient,
    token: String,
    up: Outgoing<ControlStreamRequest>,
    down: Incoming<ControlStreamResponse>,
}

impl Node {
    pub(crate) fn options(&self) -> Result<CallOptions> {
        Ok(CallOptions::new().bearer(&self.token)?)
    }

    /// Waits for the next command and returns its id.
    pub(crate) async fn command(&mut self) -> Result<String> {
        while let Some(message) = self.down.message().await? {
            if let Some(Kind::Command(command)) = message.kind {
                return Ok(command.command_id);
            }
        }
        bail!("the stream of node {} ended without a command", self.id)
    }

    /// Waits for the next command. Returns its id and its content.
    pub(crate) async fn commanded(&mut self) -> Result<(String, Option<agent_command::Command>)> {
        while let Some(message) = self.down.message().await? {
            if let Some(Kind::Command(command)) = message.kind {
                let content = AgentCommand::decode(command.payload)?;
                return Ok((command.command_id, content.command));
            }
        }
        bail!("the stream of node {} ended without a command", self.id)
    }

    /// The session token.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// The next message. None if the stream ended cleanly.
    pub(crate) async fn message(&mut self) -> Result<Option<ControlStreamResponse>> {
        Ok(self.down.message().await?)
    }

    /// Acknowledges a command.
    pub(crate) async fn ack(&mut self, ack: ControlAck) -> Result<()> {
        let kind = Some(control_stream_request::Kind::Ack(ack));
        self.up.send(&ControlStreamRequest { kind }).await?;
        Ok(())
    }

    /// Waits until the server ends the stream, cleanly or not.
    pub(crate) async fn ends(&mut self) -> Result<()> {
        let end = async { while let Ok(Some(_)) = self.down.message().await {} };
        tokio::time::timeout(Duration::from_secs(20), end)
            .await
            .context("the stream did not end within 20 s")
    }

    /// Ends the stream and returns the node's id.
    pub(crate) fn leave(self) -> NodeId {
        self.id
    }
}
