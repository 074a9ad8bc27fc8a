//! A scripted server. Start with [`Gateway`]; [`Stream`] is its end of a control stream.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ed25519_dalek::{Signature, VerifyingKey};
use fleet_core::{Fingerprint, NodeId, Secret, SecretKind, challenge, key_statement};
use fleet_wire::{
    BoxStream, Context, Message, Reply, RpcError, Timestamp,
    fleet::{
        FetchNodeKeyRequest, FetchNodeKeyResponse, NodeKeyServer, NodeKeyService, NodeKeyState,
    },
    gateway::*,
    listener::{self, ListenerConfig},
    pairing::{DiscoverRequest, FleetNodePairRequest, IpListModeRequest, discover_request},
    server::{Admission, Authenticate, Call, Services},
};
use futures::StreamExt;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::within;

type Down = Result<ControlStreamResponse, RpcError>;

/// The server.
pub(crate) struct Gateway {
    address: SocketAddr,
    script: Arc<Script>,
    streams: tokio::sync::Mutex<mpsc::UnboundedReceiver<Stream>>,
    _serving: DropGuard,
}

/// The behavior of the server, which tests change while it runs.
pub(crate) struct Behavior {
    /// The fingerprint to return instead of the correct one.
    pub(crate) fingerprint: Option<String>,
    /// Whether challenges carry the tag.
    pub(crate) tagged: bool,
    /// The lifetime of sessions.
    pub(crate) session_life: Duration,
    /// An error for BeginAuthHandshake.
    pub(crate) begin: Option<RpcError>,
    /// An error for heartbeats.
    pub(crate) heartbeat: Option<RpcError>,
    /// Errors for the next reports. With `refuse_for_good`, the last one is repeated forever.
    pub(crate) reports: Vec<RpcError>,
    pub(crate) refuse_for_good: bool,
    /// The answer to FetchNodeKey. Without one, the server is older than this call.
    pub(crate) key: Option<KeyReply>,
}

/// What the server answers to a node that asks for its API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyReply {
    Awaiting,
    Pasted,
    Sealed,
    SealedToAnother,
}

/// What the server has received.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    pub(crate) registration: Option<RegisterRequest>,
    pub(crate) begun: usize,
    pub(crate) completed: usize,
    /// The reports that were accepted, in order.
    pub(crate) reports: Vec<ReportDiscoveredDevicesRequest>,
    /// The last halt in a heartbeat, or that there is none.
    pub(crate) halt: Option<Option<String>>,
    /// The results of pairing that were accepted, in order.
    pub(crate) paired: Vec<FleetNodePairResult>,
}

struct Script {
    behavior: Mutex<Behavior>,
    seen: watch::Sender<Seen>,
    streams: mpsc::UnboundedSender<Stream>,
}

/// The server's end of one control stream.
pub(crate) struct Stream {
    up: mpsc::UnboundedReceiver<control_stream_request::Kind>,
    down: mpsc::UnboundedSender<Down>,
}

impl Seen {
    /// Every reported device.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &DiscoveredDeviceReport> {
        self.reports.iter().flat_map(|report| &report.devices)
    }

    /// The addresses of all reported devices.
    pub(crate) fn addresses(&self) -> BTreeSet<IpAddr> {
        self.rows()
            .filter_map(|row| row.ip_address.parse().ok())
            .collect()
    }
}

impl Gateway {
    pub(crate) async fn start() -> Arc<Self> {
        let (streams_tx, streams) = mpsc::unbounded_channel();
        let script = Arc::new(Script {
            behavior: Mutex::new(Behavior {
                fingerprint: None,
                tagged: true,
                session_life: Duration::from_secs(24 * 3_600),
                begin: None,
                heartbeat: None,
                reports: Vec::new(),
                refuse_for_good: false,
                key: None,
            }),
            seen: watch::Sender::default(),
            streams: streams_tx,
        });
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("an address");
        let service = FleetNodeGatewayServer::from_arc(Arc::clone(&script));
        let keys = NodeKeyServer::from_arc(Arc::clone(&script));
        let (service, _) = Services::new().mount(service).mount(keys).build(Gate);
        let closing = CancellationToken::new();
        let serving = closing.clone();
        tokio::spawn(async move {
            let config = ListenerConfig {
                drain: Duration::ZERO,
                ..ListenerConfig::plaintext()
            };
            listener::serve(socket, service, &config, serving).await
        });
        Arc::new(Self {
            address,
            script,
            streams: tokio::sync::Mutex::new(streams),
            _serving: closing.drop_guard(),
        })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The behavior, to be changed.
    pub(crate) fn behavior(&self) -> MutexGuard<'_, Behavior> {
        self.script.behavior()
    }

    /// What was received until now.
    pub(crate) fn seen(&self) -> Seen {
        self.script.seen.borrow().clone()
    }

    /// Waits until the received messages satisfy a condition.
    pub(crate) async fn wait_for(&self, what: &str, condition: impl Fn(&Seen) -> bool) -> Seen {
        let mut seen = self.script.seen.subscribe();
        let seen = within(what, seen.wait_for(|seen| condition(seen))).await;
        seen.expect("the script lives").clone()
    }

    /// The next control stream that the node opens.
    pub(crate) async fn stream(&self) -> Stream {
        let mut streams = self.streams.lock().await;
        within("a control stream", streams.recv())
            .await
            .expect("the script lives")
    }

    /// The next control stream, after its Hello, accepted with all capabilities.
    pub(crate) async fn accepted(&self) -> (Stream, ControlHello) {
        let mut stream = self.stream().await;
        let hello = stream.hello().await;
        stream.accept(&[
            "progress",
            "cancel",
            "goodbye",
            "outcomes",
            "big-commands",
            "pins",
        ]);
        (stream, hello)
    }
}

impl Stream {
    /// The next message.
    pub(crate) async fn next(&mut self) -> control_stream_request::Kind {
        within("a message of the node", self.up.recv())
            .await
            .expect("the stream lives")
    }

    /// Waits for the node to end its half, and returns the remaining messages.
    pub(crate) async fn ended(&mut self) -> Vec<control_stream_request::Kind> {
        let mut rest = Vec::new();
        while let Some(kind) = within("the end of the stream", self.up.recv()).await {
            rest.push(kind);
        }
        rest
    }

    pub(crate) async fn hello(&mut self) -> ControlHello {
        let message = self.next().await;
        let control_stream_request::Kind::Hello(hello) = message else {
            panic!("not a Hello: {message:?}");
        };
        hello
    }

    /// The next ack, skipping progress.
    pub(crate) async fn ack(&mut self) -> ControlAck {
        loop {
            match self.next().await {
                control_stream_request::Kind::Ack(ack) => return ack,
                control_stream_request::Kind::Progress(_) => {}
                other @ (control_stream_request::Kind::Hello(_)
                | control_stream_request::Kind::Pins(_)) => panic!("not an ack: {other:?}"),
            }
        }
    }

    /// The next pins, skipping progress.
    pub(crate) async fn pins(&mut self) -> ControlPins {
        loop {
            match self.next().await {
                control_stream_request::Kind::Pins(pins) => return pins,
                control_stream_request::Kind::Progress(_) => {}
                other @ (control_stream_request::Kind::Hello(_)
                | control_stream_request::Kind::Ack(_)) => panic!("no pins: {other:?}"),
            }
        }
    }

    pub(crate) fn accept(&self, capabilities: &[&str]) {
        self.send(control_stream_response::Kind::Accepted(ControlAccepted {
            server_time: Some(now()),
            version: "test".to_owned(),
            capabilities: capabilities.iter().map(|name| (*name).to_owned()).collect(),
            epoch: 1,
        }));
    }

    /// Sends a scan of a list.
    pub(crate) fn discover(&self, id: &str, addresses: &[IpAddr], ports: &[u16]) {
        let entries: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        self.discover_entries(id, &entries, ports);
    }

    /// Sends a scan of a list that may contain names.
    pub(crate) fn discover_entries<T: ToString>(&self, id: &str, entries: &[T], ports: &[u16]) {
        let list = IpListModeRequest {
            ip_addresses: entries.iter().map(ToString::to_string).collect(),
            ports: ports.iter().map(ToString::to_string).collect(),
            explicit: true,
        };
        self.command(id, discover_request::Mode::IpList(list));
    }

    pub(crate) fn command(&self, id: &str, mode: discover_request::Mode) {
        let command = AgentCommand {
            command: Some(agent_command::Command::Discover(DiscoverRequest {
                mode: Some(mode),
                max_rate: 0,
            })),
        };
        self.send(control_stream_response::Kind::Command(ControlCommand {
            command_id: id.to_owned(),
            payload: command.encode_to_vec().into(),
        }));
    }

    /// Sends a pairing.
    pub(crate) fn pair(&self, id: &str, request: FleetNodePairRequest) {
        let command = AgentCommand {
            command: Some(agent_command::Command::Pair(request)),
        };
        self.send(control_stream_response::Kind::Command(ControlCommand {
            command_id: id.to_owned(),
            payload: command.encode_to_vec().into(),
        }));
    }

    pub(crate) fn cancel(&self, id: &str) {
        self.send(control_stream_response::Kind::Cancel(ControlCancel {
            command_id: id.to_owned(),
        }));
    }

    pub(crate) fn send(&self, kind: control_stream_response::Kind) {
        self.down
            .send(Ok(ControlStreamResponse { kind: Some(kind) }))
            .expect("the stream lives");
    }

    /// Breaks the stream with a short retry hint, which avoids the random delay.
    pub(crate) fn fail(self) {
        let soon =
            RpcError::resource_exhausted("come back").with_retry_after(Duration::from_millis(20));
        self.down.send(Err(soon)).expect("the stream lives");
    }
}

impl Script {
    fn behavior(&self) -> MutexGuard<'_, Behavior> {
        self.behavior.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, note: impl FnOnce(&mut Seen)) {
        self.seen.send_modify(note);
    }
}

impl FleetNodeGatewayService for Script {
    async fn register(
        &self,
        _: Context,
        request: RegisterRequest,
    ) -> Result<Reply<RegisterResponse>, RpcError> {
        let key: [u8; 32] = request.identity_pubkey[..]
            .try_into()
            .map_err(|_| RpcError::invalid_argument("key"))?;
        let encryption: [u8; 32] = request.encryption_pubkey[..]
            .try_into()
            .map_err(|_| RpcError::invalid_argument("key"))?;
        let fingerprint = if request.identity_proof.is_empty() {
            Fingerprint::of(&key)
        } else {
            Fingerprint::of_both(&key, &encryption)
        };
        self.record(|seen| seen.registration = Some(request));
        let claimed = self.behavior().fingerprint.clone();
        Ok(RegisterResponse {
            fleet_node_id: NODE_ID,
            enrollment_status: EnrollmentStatus::Pending.into(),
            identity_fingerprint: claimed.unwrap_or_else(|| fingerprint.to_string()),
        }
        .into())
    }

    async fn begin_auth_handshake(
        &self,
        _: Context,
        _: BeginAuthHandshakeRequest,
    ) -> Result<Reply<BeginAuthHandshakeResponse>, RpcError> {
        self.record(|seen| seen.begun += 1);
        let behavior = self.behavior();
        if let Some(error) = behavior.begin.clone() {
            return Err(error);
        }
        let challenge = if behavior.tagged {
            challenge(&[3; 32]).to_vec()
        } else {
            vec![3; 32]
        };
        Ok(BeginAuthHandshakeResponse {
            challenge: challenge.into(),
            expires_at: Some(after(Duration::from_secs(30))),
        }
        .into())
    }

    async fn complete_auth_handshake(
        &self,
        _: Context,
        _: CompleteAuthHandshakeRequest,
    ) -> Result<Reply<CompleteAuthHandshakeResponse>, RpcError> {
        self.record(|seen| seen.completed += 1);
        let life = self.behavior().session_life;
        Ok(CompleteAuthHandshakeResponse {
            session_token: "fns_of-the-tests-only".to_owned(),
            expires_at: Some(after(life)),
        }
        .into())
    }

    async fn upload_heartbeat(
        &self,
        _: Context,
        request: UploadHeartbeatRequest,
    ) -> Result<Reply<UploadHeartbeatResponse>, RpcError> {
        if let Some(halted) = request.halted {
            let halt = halted.then_some(request.halt_reason);
            self.seen.send_modify(|seen| seen.halt = Some(halt));
        }
        match self.behavior().heartbeat.clone() {
            Some(error) => Err(error),
            None => Ok(UploadHeartbeatResponse {
                received_at: Some(now()),
            }
            .into()),
        }
    }

    async fn report_discovered_devices(
        &self,
        _: Context,
        request: ReportDiscoveredDevicesRequest,
    ) -> Result<Reply<ReportDiscoveredDevicesResponse>, RpcError> {
        let refused = {
            let mut behavior = self.behavior();
            let last = behavior.reports.len() == 1 && behavior.refuse_for_good;
            if last {
                behavior.reports.first().cloned()
            } else {
                (!behavior.reports.is_empty()).then(|| behavior.reports.remove(0))
            }
        };
        if let Some(error) = refused {
            return Err(error);
        }
        let accepted_count = i64::try_from(request.devices.len()).unwrap_or(i64::MAX);
        self.record(|seen| seen.reports.push(request));
        Ok(ReportDiscoveredDevicesResponse {
            accepted_count,
            rejected_count: 0,
            owned_elsewhere_count: 0,
        }
        .into())
    }

    async fn report_paired_devices(
        &self,
        _: Context,
        request: ReportPairedDevicesRequest,
    ) -> Result<Reply<ReportPairedDevicesResponse>, RpcError> {
        let mut behavior = self.behavior();
        if !behavior.reports.is_empty() {
            return Err(behavior.reports.remove(0));
        }
        drop(behavior);
        let accepted_count = i64::try_from(request.results.len()).expect("a count");
        self.record(|seen| seen.paired.extend(request.results));
        Ok(ReportPairedDevicesResponse {
            accepted_count,
            rejected_count: 0,
        }
        .into())
    }

    async fn control_stream(
        &self,
        _: Context,
        mut request: BoxStream<ControlStreamRequest>,
    ) -> Result<Reply<BoxStream<ControlStreamResponse>>, RpcError> {
        let (up_tx, up) = mpsc::unbounded_channel();
        let (down, mut down_rx) = mpsc::unbounded_channel::<Down>();
        tokio::spawn(async move {
            while let Some(message) = request.next().await {
                if let Some(kind) = message.ok().and_then(|message| message.kind)
                    && up_tx.send(kind).is_err()
                {
                    break;
                }
            }
        });
        self.streams
            .send(Stream { up, down })
            .map_err(|_| RpcError::unavailable("the test is over"))?;
        Ok(Reply::stream(futures::stream::poll_fn(move |context| {
            down_rx.poll_recv(context)
        })))
    }
}

/// Admits everyone to public procedures, and holders of the session token to the others.
struct Gate;

impl Authenticate for Gate {
    type Principal = ();

    async fn authenticate(&self, call: Call<'_>) -> Result<Admission<()>, RpcError> {
        if [
            "Register",
            "BeginAuthHandshake",
            "CompleteAuthHandshake",
            "FetchNodeKey",
        ]
        .iter()
        .any(|public| call.path().ends_with(public))
        {
            return Ok(Admission::Public);
        }
        match call.bearer() {
            Some("fns_of-the-tests-only") => Ok(Admission::Known(())),
            Some(_) | None => Err(RpcError::unauthenticated("no session")),
        }
    }
}

const NODE_ID: i64 = crate::NODE;

/// The server clock is one hour ahead of the node, so tests fail if the node uses its own clock.
fn now() -> Timestamp {
    after(Duration::ZERO)
}

fn after(life: Duration) -> Timestamp {
    let ahead = Duration::from_secs(3_600) + life;
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        + ahead;
    Timestamp {
        seconds: i64::try_from(time.as_secs()).expect("a time"),
        nanos: i32::try_from(time.subsec_nanos()).expect("below a second"),
    }
}

impl NodeKeyService for Script {
    async fn fetch_node_key(
        &self,
        _: Context,
        request: FetchNodeKeyRequest,
    ) -> Result<Reply<FetchNodeKeyResponse>, RpcError> {
        let reply = self.behavior().key;
        let reply = reply.ok_or_else(|| RpcError::unimplemented("not known here"))?;
        let registered = self.seen.borrow().registration.clone();
        let registered = registered.expect("a registration");
        let statement = key_statement(NodeId(request.fleet_node_id), request.sequence);
        let identity = registered.identity_pubkey.as_ref().try_into();
        let identity = VerifyingKey::from_bytes(identity.expect("32 bytes")).expect("a key");
        let signature = Signature::from_slice(&request.signature).expect("64 bytes");
        identity
            .verify_strict(&statement, &signature)
            .expect("is signed by the registered key");
        let state = match reply {
            KeyReply::Awaiting => NodeKeyState::AwaitingConfirmation,
            KeyReply::Pasted => NodeKeyState::Pasted,
            KeyReply::Sealed | KeyReply::SealedToAnother => NodeKeyState::Fetched,
        };
        let sealed_key = match reply {
            KeyReply::Awaiting | KeyReply::Pasted => Vec::new(),
            KeyReply::Sealed => sealed(&registered.encryption_pubkey, &statement),
            KeyReply::SealedToAnother => sealed(&[9; 32], &statement),
        };
        Ok(Reply::new(FetchNodeKeyResponse {
            state: state.into(),
            sealed_key: sealed_key.into(),
        }))
    }
}

/// An API key, sealed as the server does.
fn sealed(to: &[u8], statement: &[u8]) -> Vec<u8> {
    use hpke::{
        Deserializable, OpModeS, Serializable, aead::ChaCha20Poly1305, kdf::HkdfSha256,
        kem::X25519HkdfSha256,
    };
    type Kem = X25519HkdfSha256;
    let to = <Kem as hpke::Kem>::PublicKey::from_bytes(to).expect("a key");
    let key = Secret::new(SecretKind::NodeKey, &[5; 32]);
    let (ephemeral, sealed) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, Kem>(
        &OpModeS::Base,
        &to,
        b"fleet node api key 1",
        key.expose().as_bytes(),
        statement,
    )
    .expect("is sealed");
    [ephemeral.to_bytes().as_slice(), &sealed].concat()
}
