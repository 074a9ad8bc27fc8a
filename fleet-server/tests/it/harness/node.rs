//! A scripted node: enrolls, proves its identity, opens a stream, reports, acks.

use std::net::SocketAddr;

use ed25519_dalek::{Signer, SigningKey};
use fleet_core::{NodeId, SecretHash, key_statement, registration_statement};
use fleet_wire::{
    Message, RpcError, Timestamp,
    admin::{ConfirmFleetNodeRequest, CreateEnrollmentCodeRequest},
    client::{CallOptions, Incoming, Outgoing},
    fleet::{FetchNodeKeyRequest, FetchNodeKeyResponse, NodeKeyClient},
    gateway::{
        AckCode, AgentCommand, BeginAuthHandshakeRequest, CompleteAuthHandshakeRequest, ControlAck,
        ControlGoodbye, ControlHello, ControlStreamRequest, ControlStreamResponse,
        DiscoveredDeviceReport, FleetNodeGatewayClient, FleetNodePairResult, RegisterRequest,
        RegisterResponse, ReportDiscoveredDevicesRequest, ReportDiscoveredDevicesResponse,
        ReportPairedDevicesRequest, ReportPairedDevicesResponse, UnidentifiedHostReport,
        UploadHeartbeatRequest, agent_command, control_stream_request,
        control_stream_response::Kind,
    },
    pairing::{DiscoverRequest, FleetNodePairRequest},
};
use x25519_dalek::StaticSecret;

use super::{Operator, World, channel, soon, unique};

/// Capabilities of our own node.
const OURS: [&str; 6] = [
    "progress",
    "cancel",
    "goodbye",
    "outcomes",
    "big-commands",
    "default-passwords",
];

/// The Hello of a node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Profile(pub(crate) ControlHello);

impl Profile {
    /// An upstream node: an empty Hello.
    pub(crate) fn upstream() -> Self {
        Self::default()
    }

    /// Our node, freshly started.
    pub(crate) fn ours() -> Self {
        let mut instance = [0; 16];
        instance[..8].copy_from_slice(&unique().to_be_bytes());
        Self(ControlHello {
            version: "test".to_owned(),
            capabilities: OURS.map(str::to_owned).to_vec(),
            instance_id: instance.to_vec().into(),
            max_targets: 16_384,
            max_ports: 64,
            default_ports: vec!["4028".to_owned()],
            ..ControlHello::default()
        })
    }

    /// The same, with one more running command.
    pub(crate) fn running(mut self, command: &str) -> Self {
        self.0.running.push(command.to_owned());
        self
    }
}

/// A node with its keys.
#[derive(Clone, Debug)]
pub(crate) struct Enrolled {
    pub(crate) id: NodeId,
    pub(crate) signing: SigningKey,
    pub(crate) api_key: String,
}

/// A new identity, unique in this process.
pub(crate) fn identity() -> SigningKey {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&unique().to_be_bytes());
    SigningKey::from_bytes(&seed)
}

/// A registration that will be accepted.
pub(crate) fn registration(code: &str, name: &str, signing: &SigningKey) -> RegisterRequest {
    RegisterRequest {
        enrollment_token: code.to_owned(),
        name: name.to_owned(),
        identity_pubkey: signing.verifying_key().to_bytes().to_vec().into(),
        encryption_pubkey: vec![9; 32].into(),
        identity_proof: Vec::new().into(),
    }
}

/// The private encryption key of nodes that prove their keys.
pub(crate) const ENCRYPTION: [u8; 32] = [3; 32];

/// Asks for the API key of a node.
pub(crate) async fn fetch_key(
    world: &World,
    signing: &SigningKey,
    node: i64,
    sequence: i64,
) -> Result<FetchNodeKeyResponse, RpcError> {
    let statement = key_statement(NodeId(node), sequence);
    let request = FetchNodeKeyRequest {
        fleet_node_id: node,
        sequence,
        signature: signing.sign(&statement).to_bytes().to_vec().into(),
    };
    let keys = NodeKeyClient::new(world.channel());
    keys.fetch_node_key(&request, CallOptions::new()).await
}

impl Enrolled {
    /// Enrolls and confirms a node.
    pub(crate) async fn new(world: &World, operator: &Operator) -> Self {
        let (signing, code, registered) = Self::register(world, operator).await;
        let request = ConfirmFleetNodeRequest {
            fleet_node_id: registered.fleet_node_id,
            pending_enrollment_id: code,
        };
        let confirmed = operator
            .admin()
            .confirm_fleet_node(&request, operator.options())
            .await
            .expect("is confirmed");
        Self {
            id: NodeId(registered.fleet_node_id),
            signing,
            api_key: confirmed.api_key,
        }
    }

    /// Registers a node; returns its key, its pending enrollment and the response.
    pub(crate) async fn register(
        world: &World,
        operator: &Operator,
    ) -> (SigningKey, i64, RegisterResponse) {
        let code = operator
            .admin()
            .create_enrollment_code(&CreateEnrollmentCodeRequest::default(), operator.options())
            .await
            .expect("a code");
        let signing = identity();
        let request = registration(&code.code, &format!("node-{}", unique()), &signing);
        let registered = world
            .gateway()
            .register(&request, CallOptions::new())
            .await
            .expect("registers");
        (signing, code.pending_enrollment_id, registered)
    }

    /// The same for a node that proves both keys, as ours do. Its private encryption key is [`ENCRYPTION`].
    pub(crate) async fn register_proved(
        world: &World,
        operator: &Operator,
    ) -> (SigningKey, i64, RegisterResponse) {
        let code = operator
            .admin()
            .create_enrollment_code(&CreateEnrollmentCodeRequest::default(), operator.options())
            .await
            .expect("a code");
        let signing = identity();
        let encryption = x25519_dalek::PublicKey::from(&StaticSecret::from(ENCRYPTION));
        let name = format!("node-{}", unique());
        let statement = registration_statement(
            &SecretHash::of(&code.code),
            &name,
            signing.verifying_key().as_bytes(),
            encryption.as_bytes(),
        );
        let request = RegisterRequest {
            encryption_pubkey: encryption.to_bytes().to_vec().into(),
            identity_proof: signing.sign(&statement).to_bytes().to_vec().into(),
            ..registration(&code.code, &name, &signing)
        };
        let gateway = world.gateway();
        let registered = gateway.register(&request, CallOptions::new()).await;
        let registered = registered.expect("registers");
        (signing, code.pending_enrollment_id, registered)
    }

    pub(crate) async fn challenge(&self, world: &World) -> Result<Vec<u8>, RpcError> {
        let request = BeginAuthHandshakeRequest {
            api_key: self.api_key.clone(),
            identity_pubkey: self.signing.verifying_key().to_bytes().to_vec().into(),
        };
        let begun = world
            .gateway()
            .begin_auth_handshake(&request, CallOptions::new())
            .await?;
        Ok(begun.challenge.to_vec())
    }

    pub(crate) async fn answer(&self, world: &World, challenge: &[u8]) -> Result<String, RpcError> {
        let signature = self.signing.sign(challenge);
        complete(world, challenge, &signature.to_bytes()).await
    }

    /// Opens a session.
    pub(crate) async fn sign_in(&self, world: &World) -> String {
        let challenge = self.challenge(world).await.expect("a challenge");
        self.answer(world, &challenge).await.expect("a session")
    }

    /// Signs in and connects.
    pub(crate) async fn connect(&self, world: &World, profile: Profile) -> Node {
        let token = self.sign_in(world).await;
        let mut node = Node::dial(world, &token).await;
        node.say(control_stream_request::Kind::Hello(profile.0))
            .await;
        node.accepted().await;
        node
    }
}

pub(crate) async fn complete(
    world: &World,
    challenge: &[u8],
    signature: &[u8],
) -> Result<String, RpcError> {
    let request = CompleteAuthHandshakeRequest {
        challenge: challenge.to_vec().into(),
        signature: signature.to_vec().into(),
    };
    let completed = world
        .gateway()
        .complete_auth_handshake(&request, CallOptions::new())
        .await?;
    Ok(completed.session_token)
}

/// A node's stream and its calls, on one connection.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) token: String,
    gateway: FleetNodeGatewayClient,
    up: Option<Outgoing<ControlStreamRequest>>,
    down: Incoming<ControlStreamResponse>,
}

impl Node {
    /// Opens a stream and says nothing.
    pub(crate) async fn dial(world: &World, token: &str) -> Self {
        Self::dial_at(world.address(), token).await
    }

    /// The same, at an address.
    pub(crate) async fn dial_at(address: SocketAddr, token: &str) -> Self {
        let gateway = FleetNodeGatewayClient::new(channel(address));
        let (up, down) = gateway
            .control_stream(bearer(token))
            .await
            .expect("the stream opens");
        Self {
            token: token.to_owned(),
            gateway,
            up: Some(up),
            down,
        }
    }

    /// Opens a stream with a Hello, and answers why it was refused.
    pub(crate) async fn try_connect(world: &World, token: &str, profile: Profile) -> RpcError {
        let mut node = Self::dial(world, token).await;
        node.say(control_stream_request::Kind::Hello(profile.0))
            .await;
        node.end().await.expect_err("is refused")
    }

    pub(crate) async fn say(&mut self, kind: control_stream_request::Kind) {
        let message = ControlStreamRequest { kind: Some(kind) };
        let up = self.up.as_mut().expect("not hung up");
        up.send(&message).await.expect("is sent");
    }

    /// Half-closes the stream.
    pub(crate) fn hang_up(&mut self) {
        self.up = None;
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> Result<Option<Kind>, RpcError> {
        let message = soon(self.down.message()).await?;
        Ok(message.map(|message| message.kind.expect("has a kind")))
    }

    /// The next message, which must be there.
    pub(crate) async fn message(&mut self) -> Kind {
        let next = self.next().await.expect("the stream is open");
        next.expect("the stream continues")
    }

    /// The next message, which must be Accepted; returns its epoch.
    pub(crate) async fn accepted(&mut self) -> u64 {
        let message = self.message().await;
        let Kind::Accepted(accepted) = message else {
            panic!("not accepted: {message:?}");
        };
        accepted.epoch
    }

    /// The next command, which must be a scan: its id and its request.
    pub(crate) async fn command(&mut self) -> (String, DiscoverRequest) {
        match self.payload().await {
            (id, agent_command::Command::Discover(request)) => (id, request),
            (_, other) => panic!("not a scan: {other:?}"),
        }
    }

    /// The next command, which must be a pairing: its id and its request.
    pub(crate) async fn pairing(&mut self) -> (String, FleetNodePairRequest) {
        match self.payload().await {
            (id, agent_command::Command::Pair(request)) => (id, request),
            (_, other) => panic!("not a pairing: {other:?}"),
        }
    }

    /// The next message except liveness signals, which must be a command.
    async fn payload(&mut self) -> (String, agent_command::Command) {
        let mut message = self.message().await;
        while matches!(message, Kind::Accepted(_)) {
            message = self.message().await;
        }
        let Kind::Command(command) = message else {
            panic!("not a command: {message:?}");
        };
        let payload = AgentCommand::decode(command.payload).expect("decodes");
        (command.command_id, payload.command.expect("has a kind"))
    }

    pub(crate) async fn report_paired(
        &self,
        command: &str,
        results: Vec<FleetNodePairResult>,
    ) -> Result<ReportPairedDevicesResponse, RpcError> {
        let request = ReportPairedDevicesRequest {
            command_id: command.to_owned(),
            results,
        };
        self.gateway
            .report_paired_devices(&request, bearer(&self.token))
            .await
    }

    /// The next message except liveness signals, which must be a cancel; returns the command's id.
    pub(crate) async fn cancel(&mut self) -> String {
        let mut message = self.message().await;
        while matches!(message, Kind::Accepted(_)) {
            message = self.message().await;
        }
        let Kind::Cancel(cancel) = message else {
            panic!("not canceled: {message:?}");
        };
        cancel.command_id
    }

    /// The next message, which must be a goodbye.
    pub(crate) async fn goodbye(&mut self) -> ControlGoodbye {
        let message = self.message().await;
        let Kind::Goodbye(goodbye) = message else {
            panic!("no goodbye: {message:?}");
        };
        goodbye
    }

    /// How the stream ends; earlier messages are skipped.
    pub(crate) async fn end(&mut self) -> Result<(), RpcError> {
        while self.next().await?.is_some() {}
        Ok(())
    }

    pub(crate) async fn ack(&mut self, command: &str, code: AckCode) {
        self.ack_with(command, code, "").await;
    }

    pub(crate) async fn ack_with(&mut self, command: &str, code: AckCode, reason: &str) {
        self.say(control_stream_request::Kind::Ack(ControlAck {
            command_id: command.to_owned(),
            succeeded: matches!(code, AckCode::Ok | AckCode::Partial),
            code: code.into(),
            error_message: reason.to_owned(),
            ..ControlAck::default()
        }))
        .await;
    }

    pub(crate) async fn report(
        &self,
        command: &str,
        devices: Vec<DiscoveredDeviceReport>,
    ) -> Result<ReportDiscoveredDevicesResponse, RpcError> {
        self.report_with(command, devices, Vec::new()).await
    }

    /// The same, with unidentified hosts.
    pub(crate) async fn report_with(
        &self,
        command: &str,
        devices: Vec<DiscoveredDeviceReport>,
        hosts: Vec<UnidentifiedHostReport>,
    ) -> Result<ReportDiscoveredDevicesResponse, RpcError> {
        let request = ReportDiscoveredDevicesRequest {
            hosts,
            devices,
            command_id: command.to_owned(),
        };
        self.gateway
            .report_discovered_devices(&request, bearer(&self.token))
            .await
    }
}

pub(crate) async fn heartbeat(
    gateway: &FleetNodeGatewayClient,
    token: &str,
) -> Result<(), RpcError> {
    heartbeat_with(gateway, token, UploadHeartbeatRequest::default()).await
}

/// The same, with the node's status.
pub(crate) async fn heartbeat_with(
    gateway: &FleetNodeGatewayClient,
    token: &str,
    status: UploadHeartbeatRequest,
) -> Result<(), RpcError> {
    let request = UploadHeartbeatRequest {
        sent_at: Some(Timestamp::default()),
        ..status
    };
    gateway
        .upload_heartbeat(&request, bearer(token))
        .await
        .map(|_| ())
}

pub(crate) fn bearer(token: &str) -> CallOptions {
    CallOptions::new().bearer(token).expect("a header")
}

/// A device as a node reports it; another MAC for each address.
pub(crate) fn device(ip: &str) -> DiscoveredDeviceReport {
    let octets: Vec<u8> = ip
        .split('.')
        .map(|o| o.parse().expect("an octet"))
        .collect();
    let mac = format!(
        "02:00:{:02X}:{:02X}:{:02X}:{:02X}",
        octets[0], octets[1], octets[2], octets[3]
    );
    DiscoveredDeviceReport {
        device_identifier: format!("mac:{mac}"),
        ip_address: ip.to_owned(),
        port: "4028".to_owned(),
        url_scheme: "http".to_owned(),
        driver_name: "antminer".to_owned(),
        model: "S19".to_owned(),
        manufacturer: "Bitmain".to_owned(),
        mac_address: mac,
        ..DiscoveredDeviceReport::default()
    }
}
