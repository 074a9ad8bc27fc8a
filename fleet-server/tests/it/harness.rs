//! The test harness: a server with its database and port, a clock that tests can advance, operators with their clients,
//! and plain HTTP.

mod database;
mod http;
mod node;
mod provider;
mod scan;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

pub(crate) use database::{on_both_databases, on_postgres, on_sqlite};
use fleet_core::{OrgId, Role, Secret, SecretKind, Timestamp};
use fleet_server::{Environment, Server, ServerConfig, SystemEnvironment};
use fleet_store::{
    Actor, AuditRow, Completion, Enrollment as _, MigrateMode, NewOperator, Operators, SqlStore,
};
use fleet_wire::{
    BoxStream, Code, Protocol, RpcError,
    admin::FleetNodeAdminClient,
    client::{CallOptions, Channel, ChannelConfig},
    fleet::{
        AccountClient, DeviceClient, DeviceDetailClient, DevicePairingClient, DeviceSearchClient,
        DirectClient, NodeClient, OverviewClient, ResultClient, ScanClient, SiteClient,
    },
    gateway::FleetNodeGatewayClient,
    listener::{self, Drained, ListenerConfig, ListenerCounts},
    pairing::{self, DiscoverRequest, PairingClient, discover_request::Mode},
};
use futures::StreamExt;
pub(crate) use http::{Http, request};
pub(crate) use node::{
    ENCRYPTION, Enrolled, Node, Profile, bearer, complete, device, fetch_key, heartbeat,
    heartbeat_with, identity, registration,
};
pub(crate) use provider::{Begun, PUBLIC, StandIn};
pub(crate) use scan::{Started, start, start_as, uncounted};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// The longest wait of any test. Only a failure takes this long; a busy machine needs most of it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The machine's clocks, which a test can advance, and its randomness, which a test can break.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    ahead: Mutex<Duration>,
    broken: AtomicBool,
    panics: AtomicU64,
}

impl Clock {
    /// Advances both clocks.
    pub(crate) fn pass(&self, by: Duration) {
        *self.ahead.lock().expect("not poisoned") += by;
    }

    /// Makes every use of randomness panic, or work again.
    pub(crate) fn break_randomness(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    /// How many uses of randomness have panicked.
    pub(crate) fn panics(&self) -> u64 {
        self.panics.load(Ordering::SeqCst)
    }

    fn ahead(&self) -> Duration {
        *self.ahead.lock().expect("not poisoned")
    }
}

impl Environment for Clock {
    fn now(&self) -> Timestamp {
        SystemEnvironment.now().plus(self.ahead())
    }

    fn instant(&self) -> Instant {
        SystemEnvironment.instant() + self.ahead()
    }

    fn fill(&self, bytes: &mut [u8]) {
        if self.broken.load(Ordering::SeqCst) {
            self.panics.fetch_add(1, Ordering::SeqCst);
            panic!("no randomness");
        }
        SystemEnvironment.fill(bytes);
    }
}

/// A listening server with its database and clock.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) clock: Arc<Clock>,
    pub(crate) store: SqlStore,
    url: String,
    config: ServerConfig,
    running: Option<Running>,
    folder: TempDir,
}

#[derive(Debug)]
struct Running {
    server: Server,
    address: std::net::SocketAddr,
    closing: CancellationToken,
    port: JoinHandle<Drained>,
}

impl World {
    /// A server without rate limits on an empty database.
    pub(crate) async fn new() -> Self {
        Self::with(ServerConfig {
            rates: None,
            ..ServerConfig::default()
        })
        .await
    }

    pub(crate) async fn with(config: ServerConfig) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite://{}", folder.path().join("fleet.db").display());
        Self::of(config, &url, folder).await
    }

    /// The same as [`Self::new`] on the database with this URL.
    pub(crate) async fn at(url: &str) -> Self {
        let config = ServerConfig {
            rates: None,
            ..ServerConfig::default()
        };
        Self::of(config, url, tempfile::tempdir().expect("a folder")).await
    }

    /// A server with this configuration on the database with this URL.
    pub(crate) async fn at_with(url: &str, config: ServerConfig) -> Self {
        Self::of(config, url, tempfile::tempdir().expect("a folder")).await
    }

    /// Changes the configuration with which the server starts next.
    pub(crate) fn configure(&mut self, config: ServerConfig) {
        self.config = config;
    }

    async fn of(config: ServerConfig, url: &str, folder: TempDir) -> Self {
        let store = SqlStore::open(url, MigrateMode::Migrate)
            .await
            .expect("the database opens");
        let mut world = Self {
            clock: Arc::new(Clock::default()),
            store,
            url: url.to_owned(),
            config,
            running: None,
            folder,
        };
        world.start().await;
        world
    }

    /// Another server on the same database. On PostgreSQL it has its own connections, as in another process. A SQLite
    /// file is open only once.
    pub(crate) async fn another(&self) -> Self {
        let store = if self.url.starts_with("sqlite:") {
            self.store.clone()
        } else {
            let opened = SqlStore::open(&self.url, MigrateMode::Check).await;
            opened.expect("the database opens")
        };
        let mut world = Self {
            clock: self.clock.clone(),
            store,
            url: self.url.clone(),
            config: self.config.clone(),
            running: None,
            folder: tempfile::tempdir().expect("a folder"),
        };
        world.start().await;
        world
    }

    /// The folder of the database.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Starts a server on the database, on a new port.
    pub(crate) async fn start(&mut self) {
        let server = Server::start(
            self.config.clone(),
            Arc::new(self.store.clone()),
            self.clock.clone(),
        );
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("an address");
        let (closing, service) = (CancellationToken::new(), server.service());
        let port = tokio::spawn({
            let closing = closing.clone();
            async move {
                let config = ListenerConfig::plaintext();
                listener::serve(socket, service, &config, closing).await
            }
        });
        self.running = Some(Running {
            server,
            address,
            closing,
            port,
        });
    }

    /// Opens the server's metrics on a port of their own, until the test ends.
    pub(crate) async fn metrics(&self) -> std::net::SocketAddr {
        let running = self.running.as_ref().expect("it runs");
        let service = running.server.metrics(Arc::default());
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("an address");
        tokio::spawn(async move {
            let config = fleet_wire::metrics::listener();
            listener::serve(socket, service, &config, CancellationToken::new()).await
        });
        address
    }

    /// Opens another port of the server until the test ends. Its connections buffer little for peers that do not read.
    pub(crate) fn narrow_port(&self) -> NarrowPort {
        let running = self.running.as_ref().expect("it runs");
        let service = running.server.service();
        let socket = TcpSocket::new_v4().expect("a socket");
        // Accepted connections inherit it.
        socket.set_send_buffer_size(4_096).expect("is set");
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(any).expect("a port");
        let socket = socket.listen(64).expect("a port");
        let address = socket.local_addr().expect("an address");
        let config = ListenerConfig::plaintext();
        let counts = config.counts.clone();
        tokio::spawn(async move {
            listener::serve(socket, service, &config, CancellationToken::new()).await
        });
        NarrowPort { address, counts }
    }

    /// Stops the server's background work at once, as in a process that hangs or is killed. Its streams stay open until
    /// the returned port is dropped.
    pub(crate) fn hang(&mut self) -> Hung {
        let running = self.running.take().expect("it runs");
        // Dropping the server aborts its background tasks.
        drop(running.server);
        Hung { port: running.port }
    }

    /// Lets time pass during which a server sweeps, so that deadlines run. The server's own next sweep is the last one.
    pub(crate) async fn serve_for(&self, time: Duration) {
        let step = Duration::from_secs(20);
        let mut left = time;
        while left > step {
            self.clock.pass(step);
            let swept = Completion::sweep_commands(&self.store, self.clock.now()).await;
            swept.expect("swept");
            left -= step;
        }
        self.clock.pass(left);
    }

    /// Drains the server and closes its port.
    pub(crate) async fn stop(&mut self) -> Drained {
        let running = self.running.take().expect("it runs");
        running.server.drain().await;
        running.closing.cancel();
        running.port.await.expect("the port ends well")
    }

    /// Begins to drain; the port stays open until [`Draining::done`].
    pub(crate) fn draining(&mut self) -> Draining {
        let Running {
            server,
            address,
            closing,
            port,
        } = self.running.take().expect("it runs");
        Draining {
            address,
            drained: tokio::spawn(server.drain()),
            closing,
            port,
        }
    }

    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.running.as_ref().expect("it runs").address
    }

    /// A new connection's channel, by gRPC.
    pub(crate) fn channel(&self) -> Channel {
        channel(self.address())
    }

    pub(crate) fn gateway(&self) -> FleetNodeGatewayClient {
        FleetNodeGatewayClient::new(self.channel())
    }

    /// An operator of the organization `Acme`.
    pub(crate) async fn operator(&self, role: Role) -> Operator {
        self.operator_of("Acme", role).await
    }

    pub(crate) async fn operator_of(&self, org: &str, role: Role) -> Operator {
        let email = format!("{role}-{}@{}.example", unique(), org.to_lowercase());
        let now = self.clock.now();
        let new = NewOperator {
            org: org.to_owned(),
            email: email.clone(),
            role,
            now,
        };
        self.store
            .create_operator(new, Actor::SYSTEM)
            .await
            .expect("an operator");
        let mut random = [0; 32];
        self.clock.fill(&mut random);
        let key = Secret::new(SecretKind::OperatorKey, &random);
        self.store
            .create_operator_key(&email, key.hash(), Actor::SYSTEM, now)
            .await
            .expect("a key");
        let identity = self.store.operator_by_key(key.hash(), now).await;
        let identity = identity.expect("it reads").expect("it is there");
        Operator {
            key: key.expose().to_owned(),
            email,
            org: identity.org,
            channel: self.channel(),
        }
    }

    /// The audit records of an action, newest first.
    pub(crate) async fn audited(&self, org: OrgId, action: &str) -> Vec<AuditRow> {
        use fleet_store::Audit as _;
        let rows = self.store.list_audit(org, None, 1_000).await;
        let rows = rows.expect("the trail reads").into_iter();
        rows.filter(|row| row.entry.action == action).collect()
    }

    /// Whether the node is shown as a duplicate.
    pub(crate) async fn is_flagged(&self, operator: &Operator, node: &Enrolled) -> bool {
        let row = self.store.node(operator.org, node.id).await;
        row.expect("it reads")
            .expect("it is there")
            .duplicate_identity
    }
}

/// A port whose connections buffer little.
#[derive(Debug)]
pub(crate) struct NarrowPort {
    pub(crate) address: std::net::SocketAddr,
    pub(crate) counts: Arc<ListenerCounts>,
}

/// The port of a server that does nothing any more.
#[derive(Debug)]
pub(crate) struct Hung {
    port: JoinHandle<Drained>,
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.port.abort();
    }
}

/// A server that shuts down.
#[derive(Debug)]
pub(crate) struct Draining {
    pub(crate) address: std::net::SocketAddr,
    drained: JoinHandle<()>,
    closing: CancellationToken,
    port: JoinHandle<Drained>,
}

impl Draining {
    /// Waits until it has shut down, and closes its port.
    pub(crate) async fn done(self) {
        soon(self.drained).await.expect("drains");
        self.closing.cancel();
        soon(self.port).await.expect("the port ends well");
    }
}

/// A channel by gRPC to an address.
pub(crate) fn channel(address: std::net::SocketAddr) -> Channel {
    let config = ChannelConfig {
        protocol: Protocol::Grpc,
        ..ChannelConfig::default()
    };
    Channel::new(&format!("http://{address}"), &config).expect("a channel")
}

/// An operator's credential and clients.
#[derive(Clone, Debug)]
pub(crate) struct Operator {
    pub(crate) key: String,
    pub(crate) email: String,
    pub(crate) org: OrgId,
    channel: Channel,
}

impl Operator {
    pub(crate) fn options(&self) -> CallOptions {
        CallOptions::new().bearer(&self.key).expect("a header")
    }

    pub(crate) fn admin(&self) -> FleetNodeAdminClient {
        FleetNodeAdminClient::new(self.channel.clone())
    }

    pub(crate) fn scans(&self) -> ScanClient {
        ScanClient::new(self.channel.clone())
    }

    pub(crate) fn search(&self) -> DeviceSearchClient {
        DeviceSearchClient::new(self.channel.clone())
    }

    pub(crate) fn results(&self) -> ResultClient {
        ResultClient::new(self.channel.clone())
    }

    pub(crate) fn nodes(&self) -> NodeClient {
        NodeClient::new(self.channel.clone())
    }

    pub(crate) fn sites(&self) -> SiteClient {
        SiteClient::new(self.channel.clone())
    }

    pub(crate) fn overview(&self) -> OverviewClient {
        OverviewClient::new(self.channel.clone())
    }

    pub(crate) fn details(&self) -> DeviceDetailClient {
        DeviceDetailClient::new(self.channel.clone())
    }

    pub(crate) fn devices(&self) -> DeviceClient {
        DeviceClient::new(self.channel.clone())
    }

    pub(crate) fn direct(&self) -> DirectClient {
        DirectClient::new(self.channel.clone())
    }

    pub(crate) fn account(&self) -> AccountClient {
        AccountClient::new(self.channel.clone())
    }

    pub(crate) fn device_pairing(&self) -> DevicePairingClient {
        DevicePairingClient::new(self.channel.clone())
    }

    pub(crate) fn pairing(&self) -> PairingClient {
        PairingClient::new(self.channel.clone())
    }

    /// The same operator, connected to another server.
    pub(crate) fn at(mut self, world: &World) -> Self {
        self.channel = world.channel();
        self
    }
}

/// A number that is unique in this process.
pub(crate) fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The refusal; checks its code.
pub(crate) fn refused<T: std::fmt::Debug>(answer: Result<T, RpcError>, code: Code) -> RpcError {
    let error = answer.expect_err("is refused");
    assert_eq!(error.code, code, "{error}");
    error
}

/// The refusal of a stream, at its opening or as its first message.
pub(crate) async fn stream_refused<T: std::fmt::Debug>(
    opened: Result<BoxStream<T>, RpcError>,
    code: Code,
) -> RpcError {
    let answer = match opened {
        Ok(mut stream) => soon(stream.next()).await.transpose(),
        Err(error) => Err(error),
    };
    refused(answer, code)
}

/// The output of a future; panics if it takes too long.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it comes in time")
}

/// Polls a condition until it holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    soon(async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

pub(crate) fn list(addresses: &[&str], ports: &[&str]) -> DiscoverRequest {
    request_of(Mode::IpList(pairing::IpListModeRequest {
        ip_addresses: owned(addresses),
        ports: owned(ports),
        explicit: false,
    }))
}

pub(crate) fn range(start: &str, end: &str, ports: &[&str]) -> DiscoverRequest {
    request_of(Mode::IpRange(pairing::IpRangeModeRequest {
        start_ip: start.to_owned(),
        end_ip: end.to_owned(),
        ports: owned(ports),
    }))
}

pub(crate) fn target(target: &str, ports: &[&str]) -> DiscoverRequest {
    request_of(Mode::Nmap(pairing::NmapModeRequest {
        target: target.to_owned(),
        ports: owned(ports),
    }))
}

pub(crate) fn mdns(service_type: &str) -> DiscoverRequest {
    request_of(Mode::Mdns(pairing::MdnsModeRequest {
        service_type: service_type.to_owned(),
        domain: String::new(),
        timeout_seconds: 5,
    }))
}

fn request_of(mode: Mode) -> DiscoverRequest {
    DiscoverRequest {
        mode: Some(mode),
        max_rate: 0,
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
