//! A server with scripted handlers on loopback, clients for it, and HTTP/1.1 by hand.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fleet_wire::{
    BoxStream, Code, Context, Peer, Protocol, Reply, RpcError, Timestamp,
    client::{CallOptions, Channel, ChannelConfig, Roots},
    fleet::*,
    gateway::*,
    listener::{self, DevCertificate, Drained, ListenerConfig, TlsIdentity},
    server::{Admission, Authenticate, Body, BodyLimits, Call, Health, HttpService, Services},
};
use futures::{StreamExt, stream};
use http::{HeaderName, HeaderValue, Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub(crate) const TOKEN: &str = "a-session-token";

/// Counts handlers that are alive, so that a test can wait until one was dropped.
#[derive(Debug, Clone, Default)]
pub(crate) struct Alive(Arc<(AtomicUsize, Notify)>);

pub(crate) struct AliveGuard(Alive);

impl Alive {
    fn enter(&self) -> AliveGuard {
        self.0.0.fetch_add(1, Ordering::SeqCst);
        self.0.1.notify_waiters();
        AliveGuard(self.clone())
    }

    /// Waits until that many handlers are alive.
    pub(crate) async fn reaches(&self, count: usize) {
        loop {
            let changed = self.0.1.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.0.0.load(Ordering::SeqCst) == count {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for AliveGuard {
    fn drop(&mut self) {
        self.0.0.0.fetch_sub(1, Ordering::SeqCst);
        self.0.0.1.notify_waiters();
    }
}

/// Handlers that do what the request's name says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scripted {
    pub(crate) alive: Alive,
}

impl FleetNodeGatewayService for Scripted {
    async fn register(
        &self,
        ctx: Context,
        request: RegisterRequest,
    ) -> Result<Reply<RegisterResponse>, RpcError> {
        match request.name.as_str() {
            "panic" => panic!("the secret of the handler"),
            "slow" => {
                let _alive = self.alive.enter();
                std::future::pending::<()>().await;
            }
            "refused" => {
                return Err(RpcError::resource_exhausted("not so fast: 100 % \"é\"")
                    .with_retry_after(Duration::from_millis(1_500)));
            }
            "inactive" => return Err(RpcError::not_active("another server serves")),
            _ => {}
        }
        let protocol = match ctx.protocol() {
            Protocol::Connect => "connect",
            Protocol::Grpc => "grpc",
            Protocol::GrpcWeb => "grpc-web",
        };
        let tls = ctx.peer().is_some_and(|p: Peer| p.tls);
        let response = RegisterResponse {
            fleet_node_id: 7,
            enrollment_status: EnrollmentStatus::Pending.into(),
            identity_fingerprint: format!("{protocol} tls={tls}"),
        };
        Ok(Reply::new(response).with_header(
            HeaderName::from_static("fleet-scan-id"),
            HeaderValue::from_static("s-1"),
        ))
    }

    async fn begin_auth_handshake(
        &self,
        _: Context,
        _: BeginAuthHandshakeRequest,
    ) -> Result<Reply<BeginAuthHandshakeResponse>, RpcError> {
        Err(RpcError::unimplemented("scripted"))
    }

    async fn complete_auth_handshake(
        &self,
        _: Context,
        _: CompleteAuthHandshakeRequest,
    ) -> Result<Reply<CompleteAuthHandshakeResponse>, RpcError> {
        Err(RpcError::unimplemented("scripted"))
    }

    async fn upload_heartbeat(
        &self,
        ctx: Context,
        request: UploadHeartbeatRequest,
    ) -> Result<Reply<UploadHeartbeatResponse>, RpcError> {
        assert_eq!(
            ctx.principal::<String>().map(String::as_str),
            Some("node-7"),
            "the principal reaches the handler"
        );
        Ok(UploadHeartbeatResponse {
            received_at: request.sent_at,
        }
        .into())
    }

    async fn report_discovered_devices(
        &self,
        _: Context,
        request: ReportDiscoveredDevicesRequest,
    ) -> Result<Reply<ReportDiscoveredDevicesResponse>, RpcError> {
        Ok(ReportDiscoveredDevicesResponse {
            accepted_count: request.devices.len() as i64,
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
        Ok(ReportPairedDevicesResponse {
            accepted_count: request.results.len() as i64,
            rejected_count: 0,
        }
        .into())
    }

    /// Answers each ack with a command of the same id; the payload's length says how many messages were bad so far.
    async fn control_stream(
        &self,
        _: Context,
        request: BoxStream<ControlStreamRequest>,
    ) -> Result<Reply<BoxStream<ControlStreamResponse>>, RpcError> {
        let alive = self.alive.enter();
        let answers = stream::unfold(
            (request, 0_usize, alive),
            |(mut inbound, mut bad, alive)| async move {
                loop {
                    let answer = match inbound.next().await? {
                        Err(error) => {
                            assert_eq!(error.code, Code::InvalidArgument);
                            bad += 1;
                            continue;
                        }
                        Ok(ControlStreamRequest {
                            kind: Some(control_stream_request::Kind::Ack(ack)),
                        }) if ack.command_id == "panic" => panic!("in mid-stream"),
                        Ok(ControlStreamRequest {
                            kind: Some(control_stream_request::Kind::Ack(ack)),
                        }) if ack.command_id == "refuse" => {
                            Err(RpcError::failed_precondition("refused"))
                        }
                        Ok(ControlStreamRequest {
                            kind: Some(control_stream_request::Kind::Ack(ack)),
                        }) => Ok(ControlStreamResponse {
                            kind: Some(control_stream_response::Kind::Command(ControlCommand {
                                command_id: ack.command_id,
                                payload: vec![0; bad].into(),
                            })),
                        }),
                        Ok(_) => Ok(ControlStreamResponse {
                            kind: Some(control_stream_response::Kind::Accepted(
                                ControlAccepted::default(),
                            )),
                        }),
                    };
                    return Some((answer, (inbound, bad, alive)));
                }
            },
        );
        Ok(Reply::stream(answers))
    }
}

impl ScanService for Scripted {
    async fn start_scan(
        &self,
        _: Context,
        _: StartScanRequest,
    ) -> Result<Reply<StartScanResponse>, RpcError> {
        Ok(StartScanResponse {
            scan: None,
            existing: true,
        }
        .into())
    }

    async fn plan_scan(
        &self,
        _: Context,
        request: PlanScanRequest,
    ) -> Result<Reply<PlanScanResponse>, RpcError> {
        Ok(PlanScanResponse {
            targets: request.fleet_node_id as u64,
            ..PlanScanResponse::default()
        }
        .into())
    }

    async fn get_scan(
        &self,
        _: Context,
        request: GetScanRequest,
    ) -> Result<Reply<GetScanResponse>, RpcError> {
        Ok(GetScanResponse {
            scan: Some(Scan {
                scan_id: request.scan_id,
                ..Scan::default()
            }),
        }
        .into())
    }

    async fn list_scans(
        &self,
        _: Context,
        _: ListScansRequest,
    ) -> Result<Reply<ListScansResponse>, RpcError> {
        Ok(ListScansResponse::default().into())
    }

    /// Three events; then the end, an error (`fail`), or silence for ever (`open`).
    async fn watch_scan(
        &self,
        _: Context,
        request: WatchScanRequest,
    ) -> Result<Reply<BoxStream<WatchScanResponse>>, RpcError> {
        let alive = self.alive.enter();
        let events = stream::iter(1..=3).map(|sequence| {
            Ok(WatchScanResponse {
                sequence,
                event: None,
            })
        });
        let end = match request.scan_id.as_str() {
            "fail" => {
                stream::once(async { Err(RpcError::out_of_range("older than the log")) }).boxed()
            }
            "open" => stream::pending().boxed(),
            _ => stream::empty().boxed(),
        };
        let held = events.chain(end).map(move |event| {
            let _ = &alive;
            event
        });
        let reply: Reply<BoxStream<_>> = Reply::stream(held);
        Ok(reply.with_header(
            HeaderName::from_static("fleet-scan-id"),
            HeaderValue::from_static("s-2"),
        ))
    }

    async fn cancel_scan(
        &self,
        _: Context,
        _: CancelScanRequest,
    ) -> Result<Reply<CancelScanResponse>, RpcError> {
        Ok(CancelScanResponse::default().into())
    }

    async fn list_scan_hosts(
        &self,
        _: Context,
        _: ListScanHostsRequest,
    ) -> Result<Reply<ListScanHostsResponse>, RpcError> {
        Ok(ListScanHostsResponse::default().into())
    }
}

/// Register, health and reflection are public; the rest needs [`TOKEN`].
struct Doorman;

impl Authenticate for Doorman {
    type Principal = String;

    async fn authenticate(&self, call: Call<'_>) -> Result<Admission<String>, RpcError> {
        if call.path().ends_with("/Register") || call.path().starts_with("/grpc.") {
            return Ok(Admission::Public);
        }
        match call.bearer() {
            Some(TOKEN) => Ok(Admission::Known("node-7".to_owned())),
            Some("panic") => panic!("at the door"),
            Some(_) | None => Err(RpcError::unauthenticated("no session")),
        }
    }
}

/// Plain HTTP: `/healthz` is fine, everything else is a page that names its path.
fn plain()
-> impl tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ Sync {
    tower::service_fn(|request: Request<Body>| async move {
        assert_ne!(request.uri().path(), "/panic");
        Ok(Response::new(Body::from(format!(
            "page {}",
            request.uri().path()
        ))))
    })
}

pub(crate) fn services(scripted: &Scripted) -> (HttpService, Health) {
    services_within(scripted, BodyLimits::default())
}

pub(crate) fn services_within(scripted: &Scripted, bodies: BodyLimits) -> (HttpService, Health) {
    Services::new()
        .bodies(bodies)
        .mount(FleetNodeGatewayServer::new(scripted.clone()))
        .mount(ScanServer::new(scripted.clone()))
        .plain(plain())
        .build(Doorman)
}

/// A running server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) scripted: Scripted,
    pub(crate) health: Health,
    pub(crate) config: ListenerConfig,
    pub(crate) shutdown: CancellationToken,
    pub(crate) running: JoinHandle<Drained>,
    pub(crate) certificate: DevCertificate,
}

impl Server {
    /// TLS and plaintext on one port.
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(adjust: impl FnOnce(&mut ListenerConfig)) -> Self {
        let certificate =
            listener::dev_certificate(&["localhost".to_owned(), "127.0.0.1".to_owned()])
                .expect("two good names");
        let identity = TlsIdentity::from_pem(&certificate.cert_pem, &certificate.key_pem)
            .expect("a certificate with its key");
        let mut config = ListenerConfig {
            plaintext: true,
            ..ListenerConfig::tls(identity)
        };
        adjust(&mut config);
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = socket.local_addr().expect("bound");
        let scripted = Scripted::default();
        let (service, health) = services(&scripted);
        let shutdown = CancellationToken::new();
        let running = tokio::spawn({
            let (config, shutdown) = (config.clone(), shutdown.clone());
            async move { listener::serve(socket, service, &config, shutdown).await }
        });
        Self {
            address,
            scripted,
            health,
            config,
            shutdown,
            running,
            certificate,
        }
    }

    pub(crate) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    pub(crate) fn channel(&self, scheme: &str, protocol: Protocol) -> Channel {
        let config = ChannelConfig {
            protocol,
            roots: Roots::Pem(self.certificate.cert_pem.clone()),
            ..ChannelConfig::default()
        };
        Channel::new(&self.url(scheme), &config).expect("a good URL and a good CA")
    }

    /// Sends one HTTP/1.1 request as it is written here and reads the whole answer.
    pub(crate) async fn http1(&self, head: &str, body: &str) -> Answer {
        let length = body.len();
        let mut stream = TcpStream::connect(self.address)
            .await
            .expect("the server listens");
        stream.write_all(format!("{head}\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}").as_bytes()).await.expect("sent");
        Answer::read(stream).await
    }
}

/// An HTTP/1.1 answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) async fn read(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        stream
            .read_to_end(&mut bytes)
            .await
            .expect("the server closes in order");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .expect("a status");
        Self {
            status,
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }
}

pub(crate) fn register(name: &str) -> RegisterRequest {
    RegisterRequest {
        enrollment_token: "fnc_0123456789abcdefghij".to_owned(),
        name: name.to_owned(),
        identity_pubkey: vec![1; 32].into(),
        encryption_pubkey: vec![2; 32].into(),
        ..RegisterRequest::default()
    }
}

pub(crate) fn heartbeat() -> UploadHeartbeatRequest {
    UploadHeartbeatRequest {
        sent_at: Some(Timestamp {
            seconds: 1_700_000_000,
            nanos: 5,
        }),
        ..UploadHeartbeatRequest::default()
    }
}

pub(crate) fn ack(command_id: &str) -> ControlStreamRequest {
    let ack = ControlAck {
        command_id: command_id.to_owned(),
        succeeded: true,
        ..ControlAck::default()
    };
    ControlStreamRequest {
        kind: Some(control_stream_request::Kind::Ack(ack)),
    }
}

pub(crate) fn signed_in() -> CallOptions {
    CallOptions::new()
        .bearer(TOKEN)
        .expect("a token that fits a header")
}
