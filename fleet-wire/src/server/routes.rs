//! The method table behind the engine's dispatcher. It decodes, checks, calls and encodes; panics become INTERNAL.

use std::{collections::HashMap, fmt, panic::AssertUnwindSafe};

use bytes::Bytes;
use connectrpc::{
    CodecFormat, ConnectError, Dispatcher, EncodedStream, MethodDescriptor, Payload,
    RequestContext, Response, Spec, StreamType,
    dispatcher::{RequestStream, StreamingResult, UnaryResult},
};
use futures::{
    future::FutureExt,
    stream::{self, StreamExt},
};

use super::explain::Origin;
use crate::{
    BoxStream, Context, Method, MethodKind, Reply, RpcError,
    bounds::Validate,
    engine::{self, Wire},
    limits,
};

/// A service with its handlers. The generated servers implement it.
pub trait Mount {
    /// Adds the methods of the service.
    fn mount(self, routes: &mut Routes);
}

type UnaryFn = Box<dyn Fn(RequestContext, Bytes, CodecFormat) -> UnaryResult + Send + Sync>;
type ServerStreamFn =
    Box<dyn Fn(RequestContext, Bytes, CodecFormat) -> StreamingResult + Send + Sync>;
type BidiFn =
    Box<dyn Fn(RequestContext, RequestStream, CodecFormat) -> StreamingResult + Send + Sync>;

enum Call {
    Unary(UnaryFn),
    ServerStream(ServerStreamFn),
    Bidi(BidiFn),
}

/// The served methods by path.
#[derive(Default)]
pub struct Routes {
    services: Vec<&'static str>,
    methods: HashMap<&'static str, (MethodDescriptor, Call)>,
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routes")
            .field("services", &self.services)
            .finish_non_exhaustive()
    }
}

impl Routes {
    pub(crate) fn services(&self) -> &[&'static str] {
        &self.services
    }

    pub(crate) fn service(&mut self, name: &'static str) {
        self.services.push(name);
    }

    /// Adds a method with one message each way.
    pub fn unary<I, O, F, R>(&mut self, method: &'static Method, handler: F)
    where
        I: Wire + Validate,
        O: Wire,
        F: Fn(Context, I) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Reply<O>, RpcError>> + Send + 'static,
    {
        let path = method.path();
        let call = move |ctx: RequestContext, body: Bytes, format| -> UnaryResult {
            let call = engine::decode(body, format)
                .map(|request| handler(engine::context(path, ctx), request));
            Box::pin(async move {
                let reply = guarded(path, call?).await?;
                Ok(Response {
                    headers: reply.headers,
                    trailers: reply.trailers,
                    ..Response::new(engine::encode(&reply.message, format)?)
                })
            })
        };
        self.add(method, Call::Unary(Box::new(call)));
    }

    /// Adds a method that answers one message with a stream.
    pub fn server_stream<I, O, F, R>(&mut self, method: &'static Method, handler: F)
    where
        I: Wire + Validate,
        O: Wire,
        F: Fn(Context, I) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Reply<BoxStream<O>>, RpcError>> + Send + 'static,
    {
        let path = method.path();
        let call = move |ctx: RequestContext, body: Bytes, format| -> StreamingResult {
            let call = engine::decode(body, format)
                .map(|request| handler(engine::context(path, ctx), request));
            Box::pin(async move { Ok(outbound(path, guarded(path, call?).await?, format)) })
        };
        self.add(method, Call::ServerStream(Box::new(call)));
    }

    /// Adds a method with streams both ways.
    pub fn bidi<I, O, F, R>(&mut self, method: &'static Method, handler: F)
    where
        I: Wire + Validate,
        O: Wire,
        F: Fn(Context, BoxStream<I>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Reply<BoxStream<O>>, RpcError>> + Send + 'static,
    {
        let path = method.path();
        let origin = Origin::message(limits::request_limit(method));
        let call = move |ctx: RequestContext, inbound: RequestStream, format| -> StreamingResult {
            let inbound = self::inbound(inbound, format, origin.clone());
            let call = handler(engine::context(path, ctx), inbound);
            Box::pin(async move { Ok(outbound(path, guarded(path, call).await?, format)) })
        };
        self.add(method, Call::Bidi(Box::new(call)));
    }

    fn add(&mut self, method: &'static Method, call: Call) {
        let spec = Spec::server(
            method.path(),
            match method.kind() {
                MethodKind::Unary => StreamType::Unary,
                MethodKind::ServerStream => StreamType::ServerStream,
                MethodKind::Bidi => StreamType::BidiStream,
            },
        );
        let limit = limits::request_limit(method);
        let descriptor = MethodDescriptor::from_kind(match method.kind() {
            MethodKind::Unary => connectrpc::MethodKind::Unary,
            MethodKind::ServerStream => connectrpc::MethodKind::ServerStreaming,
            MethodKind::Bidi => connectrpc::MethodKind::BidiStreaming,
        })
        .with_idempotent(method.idempotent())
        .with_spec(spec)
        .with_limits(
            connectrpc::Limits::default()
                .with_max_request_body_size(limit + ENVELOPE)
                .with_max_message_size(limit),
        );
        // The engine looks methods up without the slash.
        self.methods.insert(&method.path()[1..], (descriptor, call));
    }

    fn call(&self, path: &str) -> Option<&Call> {
        self.methods.get(path).map(|(_, call)| call)
    }
}

/// Length of the prefix that gRPC and Connect streams put before a message.
const ENVELOPE: usize = 5;

impl Dispatcher for Routes {
    fn lookup(&self, path: &str) -> Option<MethodDescriptor> {
        self.methods.get(path).map(|(descriptor, _)| *descriptor)
    }

    fn call_unary(
        &self,
        path: &str,
        ctx: RequestContext,
        request: Payload,
        format: CodecFormat,
    ) -> UnaryResult {
        match (self.call(path), request.encoded()) {
            (_, Err(error)) => Box::pin(async { Err(error) }),
            (Some(Call::Unary(call)), Ok(body)) => call(ctx, body, format),
            (Some(Call::ServerStream(_) | Call::Bidi(_)) | None, _) => {
                Box::pin(async { Err(missing()) })
            }
        }
    }

    fn call_server_streaming(
        &self,
        path: &str,
        ctx: RequestContext,
        request: Bytes,
        format: CodecFormat,
    ) -> StreamingResult {
        match self.call(path) {
            Some(Call::ServerStream(call)) => call(ctx, request, format),
            Some(Call::Unary(_) | Call::Bidi(_)) | None => Box::pin(async { Err(missing()) }),
        }
    }

    fn call_client_streaming(
        &self,
        _: &str,
        _: RequestContext,
        _: RequestStream,
        _: CodecFormat,
    ) -> UnaryResult {
        Box::pin(async { Err(missing()) })
    }

    fn call_bidi_streaming(
        &self,
        path: &str,
        ctx: RequestContext,
        requests: RequestStream,
        format: CodecFormat,
    ) -> StreamingResult {
        match self.call(path) {
            Some(Call::Bidi(call)) => call(ctx, requests, format),
            Some(Call::Unary(_) | Call::ServerStream(_)) | None => {
                Box::pin(async { Err(missing()) })
            }
        }
    }
}

fn missing() -> ConnectError {
    ConnectError::unimplemented("no such method")
}

/// Awaits a handler. A panic ends only this call, and its text is not sent to the peer.
async fn guarded<T>(
    path: &'static str,
    handler: impl Future<Output = Result<T, RpcError>>,
) -> Result<T, RpcError> {
    AssertUnwindSafe(handler)
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(panicked(path)))
}

fn panicked(path: &'static str) -> RpcError {
    tracing::error!(path, "a handler panicked");
    RpcError::internal("internal error")
}

/// Decodes each message separately. A message that does not decode becomes an error item, and the stream continues.
fn inbound<M: Wire + Validate>(
    messages: RequestStream,
    format: CodecFormat,
    origin: Origin,
) -> BoxStream<M> {
    let start = Some((messages, origin));
    Box::pin(stream::unfold(start, move |open| async move {
        let (mut messages, origin) = open?;
        match messages.next().await? {
            Ok(bytes) => Some((engine::decode(bytes, format), Some((messages, origin)))),
            Err(error) => Some((Err(origin.stated(error.into())), None)),
        }
    }))
}

/// Encodes each message. An error or a panic becomes the last item.
fn outbound<M: Wire>(
    path: &'static str,
    reply: Reply<BoxStream<M>>,
    format: CodecFormat,
) -> Response<EncodedStream> {
    let encoded: EncodedStream = Box::pin(stream::unfold(
        Some(reply.message),
        move |messages| async move {
            let mut messages = messages?;
            let item = AssertUnwindSafe(messages.next())
                .catch_unwind()
                .await
                .unwrap_or_else(|_| Some(Err(panicked(path))))?;
            match item
                .map_err(ConnectError::from)
                .and_then(|m| engine::encode(&m, format))
            {
                Ok(body) => Some((Ok(body), Some(messages))),
                Err(error) => Some((Err(error), None)),
            }
        },
    ));
    Response {
        headers: reply.headers,
        trailers: reply.trailers,
        ..Response::new(encoded)
    }
}
