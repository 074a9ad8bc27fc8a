//! The handlers: each does what its request describes, and echoes what it received.

use std::time::Duration;

use bytes::Bytes;
use fleet_wire::{
    BoxStream, BrokenBound, Code, Context, Detail, ErrorMetadata, Method, MethodKind, Reply,
    RpcError, Validate,
    server::{Mount, Routes},
};
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    any::Any,
    messages::{
        BidiStreamRequest, BidiStreamResponse, Code as ErrorCode, ConformancePayload, Error,
        Header, IdempotentUnaryRequest, IdempotentUnaryResponse, ServerStreamRequest,
        ServerStreamResponse, StreamResponseDefinition, UnaryRequest, UnaryResponse,
        UnaryResponseDefinition, UnimplementedRequest, UnimplementedResponse,
        conformance_payload::{ConnectGetInfo, RequestInfo},
        unary_response_definition::Response,
    },
};

/// The limit of a request message, which the suite expects to be enforced.
pub(crate) const MESSAGE_LIMIT: usize = 200 << 10;

pub(crate) const UNARY: Method = method("Unary", MethodKind::Unary, false);
pub(crate) const IDEMPOTENT_UNARY: Method = method("IdempotentUnary", MethodKind::Unary, true);
pub(crate) const UNIMPLEMENTED: Method = method("Unimplemented", MethodKind::Unary, false);
pub(crate) const SERVER_STREAM: Method = method("ServerStream", MethodKind::ServerStream, false);
pub(crate) const BIDI_STREAM: Method = method("BidiStream", MethodKind::Bidi, false);

const fn method(name: &str, kind: MethodKind, idempotent: bool) -> Method {
    let path = match name.as_bytes() {
        b"Unary" => "/connectrpc.conformance.v1.ConformanceService/Unary",
        b"IdempotentUnary" => "/connectrpc.conformance.v1.ConformanceService/IdempotentUnary",
        b"Unimplemented" => "/connectrpc.conformance.v1.ConformanceService/Unimplemented",
        b"ServerStream" => "/connectrpc.conformance.v1.ConformanceService/ServerStream",
        _ => "/connectrpc.conformance.v1.ConformanceService/BidiStream",
    };
    Method::new(path, kind, idempotent).with_request_limit(MESSAGE_LIMIT)
}

/// The service of the suite. Client streams are not served: the project's protocol has none.
#[derive(Debug)]
pub(crate) struct Conformance;

impl Mount for Conformance {
    fn mount(self, routes: &mut Routes) {
        routes.unary(&UNARY, |ctx, request: UnaryRequest| async move {
            let echo = Any::pack("connectrpc.conformance.v1.UnaryRequest", &request);
            let payload = unary(&ctx, request.response_definition, echo).await?;
            Ok(payload.map(|payload| UnaryResponse { payload }))
        });
        routes.unary(
            &IDEMPOTENT_UNARY,
            |ctx, request: IdempotentUnaryRequest| async move {
                let echo = Any::pack("connectrpc.conformance.v1.IdempotentUnaryRequest", &request);
                let payload = unary(&ctx, request.response_definition, echo).await?;
                Ok(payload.map(|payload| IdempotentUnaryResponse { payload }))
            },
        );
        routes.unary(&UNIMPLEMENTED, |_, _: UnimplementedRequest| async {
            let refusal = RpcError::unimplemented("Unimplemented is not implemented");
            Err::<Reply<UnimplementedResponse>, _>(with_metadata(refusal, &[], &[]))
        });
        routes.server_stream(
            &SERVER_STREAM,
            |ctx, request: ServerStreamRequest| async move {
                let echo = Any::pack("connectrpc.conformance.v1.ServerStreamRequest", &request);
                let definition = request.response_definition.unwrap_or_default();
                let info = request_info(&ctx, vec![echo]);
                let payloads = payloads(definition.clone(), info);
                let messages = payloads.map(|payload| {
                    payload.map(|payload| ServerStreamResponse {
                        payload: Some(payload),
                    })
                });
                Ok(stream_reply(&definition, messages.boxed()))
            },
        );
        routes.bidi(&BIDI_STREAM, |ctx, requests| async move {
            bidi(ctx, requests).await
        });
    }
}

async fn unary(
    ctx: &Context,
    definition: Option<UnaryResponseDefinition>,
    echo: Any,
) -> Result<Reply<Option<ConformancePayload>>, RpcError> {
    let info = request_info(ctx, vec![echo]);
    let definition = definition.unwrap_or_default();
    delay(definition.response_delay_ms).await;
    let (headers, trailers) = (&definition.response_headers, &definition.response_trailers);
    let data = match definition.response {
        Some(Response::Error(error)) => {
            return Err(with_metadata(refusal(error, Some(info)), headers, trailers));
        }
        Some(Response::ResponseData(data)) => data,
        None => Bytes::new(),
    };
    let mut reply = Reply::new(Some(ConformancePayload {
        data,
        request_info: Some(info),
    }));
    (reply.headers, reply.trailers) = (map(headers), map(trailers));
    Ok(reply)
}

/// The payloads of a stream, and its error. The first one echoes the request.
fn payloads(
    definition: StreamResponseDefinition,
    info: RequestInfo,
) -> impl futures::Stream<Item = Result<ConformancePayload, RpcError>> + Send {
    let wait = definition.response_delay_ms;
    let trailers = definition.response_trailers;
    let is_empty = definition.response_data.is_empty();
    let mut first = Some(info);
    let error_info = first.clone().filter(|_| is_empty);
    let error = definition
        .error
        .map(|error| Err(with_metadata(refusal(error, error_info), &[], &trailers)));
    let data = definition.response_data.into_iter().map(move |data| {
        Ok(ConformancePayload {
            data,
            request_info: first.take(),
        })
    });
    stream::iter(data)
        .then(move |payload| async move {
            delay(wait).await;
            payload
        })
        .chain(stream::iter(error))
}

async fn bidi(
    ctx: Context,
    mut requests: BoxStream<BidiStreamRequest>,
) -> Result<Reply<BoxStream<BidiStreamResponse>>, RpcError> {
    let respond = |payload: Result<ConformancePayload, RpcError>| {
        payload.map(|payload| BidiStreamResponse {
            payload: Some(payload),
        })
    };
    let Some(first) = requests.next().await.transpose().map_err(plain)? else {
        return Ok(Reply::stream(stream::empty()));
    };
    let definition = first.response_definition.clone().unwrap_or_default();
    if !first.full_duplex {
        let mut echoes = vec![echo(&first)];
        let later = definition.clone();
        let all = stream::once(async move {
            while let Some(request) = requests.next().await {
                match request {
                    Ok(request) => echoes.push(echo(&request)),
                    Err(error) => return stream::iter([Err(plain(error))]).boxed(),
                }
            }
            payloads(later, request_info(&ctx, echoes)).boxed()
        });
        return Ok(stream_reply(
            &definition,
            all.flatten().map(respond).boxed(),
        ));
    }
    let state = Duplex {
        ctx,
        requests,
        next: Some(first),
        sent: 0,
        definition: definition.clone(),
        over: false,
    };
    let messages = stream::unfold(state, |mut state| async {
        let message = state.step().await?;
        Some((message, state))
    });
    Ok(stream_reply(&definition, messages.map(respond).boxed()))
}

/// A stream in which responses alternate with requests.
struct Duplex {
    ctx: Context,
    requests: BoxStream<BidiStreamRequest>,
    next: Option<BidiStreamRequest>,
    sent: usize,
    definition: StreamResponseDefinition,
    over: bool,
}

impl Duplex {
    async fn step(&mut self) -> Option<Result<ConformancePayload, RpcError>> {
        if self.over {
            return None;
        }
        let request = match self.next.take() {
            Some(request) => Some(request),
            None => match self.requests.next().await.transpose() {
                Ok(request) => request,
                Err(error) => {
                    self.over = true;
                    return Some(Err(plain(error)));
                }
            },
        };
        let Some(data) = self.definition.response_data.get(self.sent).cloned() else {
            self.over = true;
            let info = request
                .filter(|_| self.sent == 0)
                .map(|request| request_info(&self.ctx, vec![echo(&request)]));
            let error = self.definition.error.take()?;
            let trailers = &self.definition.response_trailers;
            return Some(Err(with_metadata(refusal(error, info), &[], trailers)));
        };
        delay(self.definition.response_delay_ms).await;
        let request_info = request.map(|request| {
            let requests = vec![echo(&request)];
            if self.sent == 0 {
                request_info(&self.ctx, requests)
            } else {
                RequestInfo {
                    requests,
                    ..RequestInfo::default()
                }
            }
        });
        self.sent += 1;
        Some(Ok(ConformancePayload { data, request_info }))
    }
}

fn echo(request: &BidiStreamRequest) -> Any {
    Any::pack("connectrpc.conformance.v1.BidiStreamRequest", request)
}

fn stream_reply<T>(
    definition: &StreamResponseDefinition,
    messages: BoxStream<T>,
) -> Reply<BoxStream<T>> {
    let mut reply = Reply::new(messages);
    reply.headers = map(&definition.response_headers);
    reply.trailers = map(&definition.response_trailers);
    reply
}

fn request_info(ctx: &Context, requests: Vec<Any>) -> RequestInfo {
    let query = ctx.extension::<Query>().map(|query| ConnectGetInfo {
        query_params: query.pairs(),
    });
    RequestInfo {
        request_headers: headers(ctx.headers()),
        timeout_ms: timeout_ms(ctx),
        requests,
        connect_get_info: query,
    }
}

/// The query of a request, which a layer in front of the service keeps.
#[derive(Debug, Clone)]
pub(crate) struct Query(pub(crate) String);

impl Query {
    fn pairs(&self) -> Vec<Header> {
        let pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .map(|(name, value)| Header {
                name: decoded(name),
                value: vec![decoded(value)],
            })
            .collect()
    }
}

/// Decodes `%41` and `+`.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
                let text = String::from_utf8_lossy(&digits);
                u8::from_str_radix(&text, 16).unwrap_or(b'?')
            }
            other => other,
        };
        bytes.push(byte);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn timeout_ms(ctx: &Context) -> Option<i64> {
    if let Some(text) = ctx.header("connect-timeout-ms") {
        return text.parse().ok();
    }
    let text = ctx.header("grpc-timeout")?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: i64 = number.parse().ok()?;
    match unit {
        "H" => Some(number * 3_600_000),
        "M" => Some(number * 60_000),
        "S" => Some(number * 1_000),
        "m" => Some(number),
        "u" => Some(number / 1_000),
        "n" => Some(number / 1_000_000),
        _ => None,
    }
}

pub(crate) fn headers(map: &HeaderMap) -> Vec<Header> {
    map.keys()
        .map(|name| Header {
            name: name.to_string(),
            value: map
                .get_all(name)
                .iter()
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .collect(),
        })
        .collect()
}

fn map(headers: &[Header]) -> HeaderMap {
    let pairs = headers
        .iter()
        .flat_map(|header| header.value.iter().map(|value| (&header.name, value)));
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(value),
        ) {
            map.append(name, value);
        }
    }
    map
}

fn refusal(error: Error, info: Option<RequestInfo>) -> RpcError {
    let code = code(error.code());
    let mut refusal = RpcError::new(code, error.message.unwrap_or_default());
    let echo = info.map(|info| {
        Any::pack(
            "connectrpc.conformance.v1.ConformancePayload.RequestInfo",
            &info,
        )
    });
    for detail in error.details.into_iter().chain(echo) {
        refusal.details.push(Detail {
            type_name: detail.name().to_owned(),
            value: detail.value,
        });
    }
    refusal
}

/// An error of the dispatch without its reason, because the suite compares details.
fn plain(mut error: RpcError) -> RpcError {
    error.details.clear();
    with_metadata(error, &[], &[])
}

/// Adds headers and trailers. An error with them is sent as it is, without a reason.
fn with_metadata(mut error: RpcError, headers: &[Header], trailers: &[Header]) -> RpcError {
    error.metadata = Some(Box::new(ErrorMetadata {
        headers: map(headers),
        trailers: map(trailers),
    }));
    error
}

/// The codes of the suite and of this project.
const CODES: [(ErrorCode, Code); 16] = [
    (ErrorCode::Canceled, Code::Canceled),
    (ErrorCode::Unknown, Code::Unknown),
    (ErrorCode::InvalidArgument, Code::InvalidArgument),
    (ErrorCode::DeadlineExceeded, Code::DeadlineExceeded),
    (ErrorCode::NotFound, Code::NotFound),
    (ErrorCode::AlreadyExists, Code::AlreadyExists),
    (ErrorCode::PermissionDenied, Code::PermissionDenied),
    (ErrorCode::ResourceExhausted, Code::ResourceExhausted),
    (ErrorCode::FailedPrecondition, Code::FailedPrecondition),
    (ErrorCode::Aborted, Code::Aborted),
    (ErrorCode::OutOfRange, Code::OutOfRange),
    (ErrorCode::Unimplemented, Code::Unimplemented),
    (ErrorCode::Internal, Code::Internal),
    (ErrorCode::Unavailable, Code::Unavailable),
    (ErrorCode::DataLoss, Code::DataLoss),
    (ErrorCode::Unauthenticated, Code::Unauthenticated),
];

fn code(code: ErrorCode) -> Code {
    let found = CODES.iter().find(|(theirs, _)| *theirs == code);
    found.map_or(Code::Unknown, |(_, ours)| *ours)
}

/// The suite's name of a code.
pub(crate) fn error_code(code: Code) -> ErrorCode {
    let found = CODES.iter().find(|(_, ours)| *ours == code);
    found.map_or(ErrorCode::Unknown, |(theirs, _)| *theirs)
}

async fn delay(milliseconds: u32) {
    tokio::time::sleep(Duration::from_millis(milliseconds.into())).await;
}

macro_rules! unbounded {
    ($($message:ty),*) => {
        $(impl Validate for $message {
            fn validate(&self) -> Result<(), BrokenBound> {
                Ok(())
            }
        })*
    };
}
unbounded!(
    UnaryRequest,
    IdempotentUnaryRequest,
    UnimplementedRequest,
    ServerStreamRequest,
    BidiStreamRequest
);
