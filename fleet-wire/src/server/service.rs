//! The service behind every request. It separates calls from plain requests, admits calls, and passes them to the
//! engine.

use std::{
    convert::Infallible,
    fmt,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use connectrpc::{
    Chain, ConnectError, ConnectRpcBody, ConnectRpcService, DeadlinePolicy, Dispatcher, Limits,
    MethodKind, Router,
};
use futures::future::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use tower::{Service, ServiceExt, util::BoxCloneSyncService};

use super::{
    auth::{Authenticate, Call, Gate},
    body::{Body, BoxError, Charge, RequestBody, Stalled},
    budget::{BodyBudget, BodyLimits, Meter},
    explain::{self, Origin},
    health::Health,
    prefix,
    routes::{Mount, Routes},
    unread::UnreadBodies,
};
use crate::{DESCRIPTORS, RpcError, health::HealthServer, listener::ConnectionGuard};

type Engine = ConnectRpcService<Chain<Routes, Router>>;
type Plain = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// The stream of health. Its callers have no credentials, and it stays open: the connection counts as one of plain
/// requests, whose number per source has a limit.
const WATCH: &str = "/grpc.health.v1.Health/Watch";
/// The body of status 415.
pub(super) const MEDIA_TYPES: &str = "this content type is not supported: use application/json, application/proto, application/connect+json, application/connect+proto, application/grpc or application/grpc-web\n";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// Maximum size of a request of reflection, which holds one or two names.
const SMALL: usize = 16 << 10;

/// Builds the set of services of one port.
#[derive(Default)]
pub struct Services {
    routes: Routes,
    plain: Option<Plain>,
    bodies: BodyLimits,
    bare_errors: bool,
}

impl Services {
    /// Creates an empty set. Health and reflection are always included.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a service, such as `FleetNodeGatewayServer::new(handlers)`.
    #[must_use]
    pub fn mount(mut self, service: impl Mount) -> Self {
        service.mount(&mut self.routes);
        self
    }

    /// Sets the handler of plain HTTP requests: `/`, `/healthz`, `/api/...`. Without it they get 404.
    #[must_use]
    pub fn plain<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.plain = Some(BoxCloneSyncService::new(service));
        self
    }

    /// Sets the memory that the bodies of all calls may take together.
    #[must_use]
    pub fn bodies(mut self, limits: BodyLimits) -> Self {
        self.bodies = limits;
        self
    }

    /// Sends errors of the engine without a reason, for Connect's conformance suite, which accepts no further details.
    #[must_use]
    pub fn bare_errors(mut self) -> Self {
        self.bare_errors = true;
        self
    }

    /// Builds the service. Every call must pass `authenticate`.
    pub fn build<A: Authenticate>(self, authenticate: A) -> (HttpService, Health) {
        let health = Health::new(self.routes.services());
        let Self {
            mut routes,
            plain,
            bodies,
            bare_errors,
        } = self;
        HealthServer::new(health.clone()).mount(&mut routes);
        let router = Router::new();
        let router = match connectrpc_reflection::Reflector::from_descriptor_set_bytes(DESCRIPTORS)
        {
            Ok(reflector) => connectrpc_reflection::install(router, reflector),
            Err(error) => {
                tracing::error!(%error, "reflection is off");
                router
            }
        };
        let limits = Limits::default()
            .with_max_message_size(SMALL)
            .with_max_request_body_size(SMALL);
        // There is no default deadline, because it would end every stream.
        let engine = ConnectRpcService::new(Chain(routes, router))
            .with_limits(limits)
            .with_deadline_policy(DeadlinePolicy::new().with_enforce_on_streams(true));
        let inner = Inner {
            engine,
            gate: Box::new(authenticate),
            plain,
            unread: UnreadBodies::default(),
            bodies: BodyBudget::new(bodies),
            bare_errors,
        };
        (HttpService(Arc::new(inner)), health)
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services")
            .field("routes", &self.routes)
            .finish_non_exhaustive()
    }
}

struct Inner {
    engine: Engine,
    gate: Box<dyn Gate>,
    plain: Option<Plain>,
    unread: UnreadBodies,
    bodies: BodyBudget,
    bare_errors: bool,
}

/// Serves every protocol: gRPC, gRPC-Web, Connect, and plain HTTP. Cheap to clone.
#[derive(Clone)]
pub struct HttpService(Arc<Inner>);

impl fmt::Debug for HttpService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpService").finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for HttpService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { Ok(inner.serve(request.map(Body::new)).await) })
    }
}

impl Inner {
    /// Answers a request, and reads the rest of its body.
    async fn serve(&self, request: Request<Body>) -> Response<Body> {
        let served = self.engine.dispatcher();
        // Before anything else, because limits and permissions are found by the path.
        let request = prefix::without(request, |procedure| served.lookup(procedure).is_some());
        let (request, loan) = UnreadBodies::lend(request);
        let mut response = self.answer(request).await;
        self.unread.settle(loan, &mut response).await;
        response
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path();
        match self
            .engine
            .dispatcher()
            .lookup(path.strip_prefix('/').unwrap_or(path))
        {
            Some(method) => {
                let limit = method
                    .limits
                    .map_or(SMALL, |limits| limits.max_message_size());
                self.call(method.kind, limit, request).await
            }
            None if looks_like_a_call(&request) => {
                // The engine answers 404 in Connect. The installed base expects UNIMPLEMENTED as 501.
                refuse(
                    RpcError::unimplemented(format!("{path} is not served here"))
                        .with_reason("UNIMPLEMENTED")
                        .with_fact("procedure", path.chars().take(256).collect::<String>()),
                    request.headers(),
                )
            }
            None => self.plain(request).await,
        }
    }

    async fn call(
        &self,
        kind: MethodKind,
        limit: usize,
        mut request: Request<Body>,
    ) -> Response<Body> {
        let connection = request.extensions().get::<ConnectionGuard>().cloned();
        if request.uri().path() == WATCH {
            connection.iter().for_each(ConnectionGuard::mark_plain);
        }
        // Counted before admission: connections without a call are evicted first.
        let active = connection.as_ref().map(ConnectionGuard::begin_call);
        // The principal may own a separate permit.
        let mut held = (active, None, None);
        let call = Call::new(
            request.uri().path(),
            request.headers(),
            request.extensions(),
        );
        let admitted = match self.gate.admit(call).await {
            Err(error) => return refuse(error, request.headers()).map(|body| body.holding(held)),
            Ok(admitted) => admitted,
        };
        held.2 = admitted.held;
        if let Some(principal) = admitted.principal {
            held.1 = Some(principal.clone());
            request.extensions_mut().extend(principal);
            if let Some(connection) = &connection {
                connection.mark_authenticated(admitted.payer);
            }
        }
        let origin = Origin::of(&request, limit);
        // The engine reads the body to its end before it reports an unknown method or encoding. An open stream has no
        // end, so such a request is passed on without its body.
        if unknown_encoding(request.headers()).is_some()
            || connectrpc::Protocol::detect(request.headers()).is_none()
        {
            return self
                .engine(request.map(|_| RequestBody::empty()), origin)
                .await
                .map(|body| body.holding(held));
        }
        let meter = self.bodies.meter(admitted.payer);
        if kind == MethodKind::BidiStreaming {
            let charge = Charge::messages(meter, limit);
            return self
                .engine(request.map(|body| RequestBody::open(body, charge)), origin)
                .await
                .map(|body| body.holding(held));
        }
        let (stalled, headers) = (Stalled::default(), request.headers().clone());
        let charge = Charge::whole(meter.clone(), limit, may_be_compressed(&headers));
        let response = self
            .engine(
                request.map(|body| RequestBody::timed(body, stalled.clone(), charge)),
                origin,
            )
            .await;
        let response = if stalled.is_set() {
            refuse(
                RpcError::deadline_exceeded("the request did not arrive in time")
                    .with_reason("DEADLINE_EXCEEDED"),
                &headers,
            )
        } else if meter.is_refused() {
            refuse(Meter::refusal(), &headers)
        } else {
            response
        };
        // Here the memory of the request ends, because the handler has returned. Its response may be a long stream.
        drop(meter);
        response.map(|body| body.holding(held))
    }

    async fn engine(&self, request: Request<RequestBody>, origin: Origin) -> Response<Body> {
        let answer: Result<Response<ConnectRpcBody>, Infallible> =
            self.engine.clone().oneshot(request).await;
        let Ok(response) = answer;
        let mut response = with_one_status(response);
        if !self.bare_errors {
            return explain::explained(response, origin);
        }
        if response.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, text);
            // No JSON: clients derive the code from the status, as Connect requires.
            return response.map(|_| Body::from(MEDIA_TYPES));
        }
        response.map(body)
    }

    async fn plain(&self, request: Request<Body>) -> Response<Body> {
        if let Some(connection) = request.extensions().get::<ConnectionGuard>() {
            connection.mark_plain();
        }
        let Some(plain) = self.plain.clone() else {
            return status(StatusCode::NOT_FOUND);
        };
        match AssertUnwindSafe(plain.oneshot(request))
            .catch_unwind()
            .await
        {
            Ok(Ok(response)) => response,
            Err(_) => {
                tracing::error!("a plain request panicked");
                status(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }
}

/// Converts the engine's body. A complete body keeps its length, which the engine's type does not expose.
pub(super) fn body(engine: ConnectRpcBody) -> Body {
    if let ConnectRpcBody::Full(whole) = engine {
        Body::new(whole)
    } else {
        Body::new(engine)
    }
}

/// Formats an error in the protocol of the request. The rest of the request is not read.
fn refuse(error: RpcError, headers: &HeaderMap) -> Response<Body> {
    with_one_status(ConnectError::from(error).into_http_response(headers)).map(body)
}

/// Removes the status of gRPC from the headers. The engine repeats it there, although the trailers have it together with
/// the details. Clients that read it from the headers miss the details, such as the retry delay.
fn with_one_status<B>(mut response: Response<B>) -> Response<B> {
    for name in [GRPC_STATUS, GRPC_MESSAGE] {
        response.headers_mut().remove(name);
    }
    response
}

fn status(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    response
}

/// Whether a request for an unknown path came from an RPC client. Such a client gets an error in its own protocol. It
/// is recognized by its headers, or by a POST to a path of the form `/<package>.<Service>/<Method>`.
fn looks_like_a_call(request: &Request<Body>) -> bool {
    const TYPES: [&str; 3] = [
        "application/grpc",
        "application/connect+",
        "application/proto",
    ];
    let headers = request.headers();
    let content_type = headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let mut segments = request.uri().path().split('/').skip(1);
    // Only for POST, because files of the page have dots in their paths too.
    let shaped = matches!(
        (segments.next(), segments.next(), segments.next()),
        (Some(service), Some(method), None) if service.contains('.') && !method.is_empty()
    );
    let is_call = match *request.method() {
        Method::POST => true,
        Method::GET => request.uri().query().is_some_and(is_connect_get),
        _ => false,
    };
    TYPES.iter().any(|prefix| content_type.starts_with(prefix))
        || headers.contains_key("connect-protocol-version")
        || (is_call && shaped)
}

/// Whether a query is that of a Connect GET, in which the encoding is required and the version is not.
fn is_connect_get(query: &str) -> bool {
    let mut pairs = query.split('&');
    pairs.any(|pair| pair == "connect=v1" || pair.starts_with("encoding="))
}

/// The headers that name the compression of a request.
const ENCODINGS: [&str; 3] = [
    "connect-content-encoding",
    "grpc-encoding",
    "content-encoding",
];

/// The name of a compression that the engine does not know.
pub(super) fn unknown_encoding(headers: &HeaderMap) -> Option<&HeaderValue> {
    let is_known =
        |value: &&HeaderValue| matches!(value.as_bytes(), b"identity" | b"gzip" | b"zstd");
    let mut given = ENCODINGS.iter().filter_map(|name| headers.get(*name));
    given.find(|value| !is_known(value))
}

fn may_be_compressed(headers: &HeaderMap) -> bool {
    let mut encodings = ENCODINGS.iter().filter_map(|name| headers.get(*name));
    encodings.any(|value| value.as_bytes() != b"identity")
}
