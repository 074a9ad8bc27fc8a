//! The client under test: makes the calls that the runner describes with this project's client, and returns what it
//! received. Start with [`run`].

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use fleet_wire::{
    Message, Method, Protocol, RpcError, Wire,
    client::{CallOptions, Channel, ChannelConfig, Incoming, Roots},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::{
    io::AsyncReadExt,
    sync::{Mutex, Semaphore},
    task::JoinSet,
    time::sleep,
};

use crate::{
    any::Any,
    messages::{
        BidiStreamRequest, BidiStreamResponse, ClientCompatRequest, ClientCompatResponse,
        ClientErrorResult, ClientResponseResult, ConformancePayload, Error, IdempotentUnaryRequest,
        IdempotentUnaryResponse, Protocol as WireProtocol, ServerStreamRequest,
        ServerStreamResponse, StreamType, UnaryRequest, UnaryResponse, UnimplementedRequest,
        UnimplementedResponse, client_compat_request::cancel::CancelTiming, client_compat_response,
    },
    service::{
        BIDI_STREAM, IDEMPOTENT_UNARY, SERVER_STREAM, UNARY, UNIMPLEMENTED, error_code, headers,
    },
    write,
};

/// Calls at the same time.
const AT_ONCE: usize = 16;

/// Makes every call of the runner, until the end of the input.
pub(crate) async fn run() -> Result<()> {
    let mut input = tokio::io::stdin();
    let (permits, output) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(Mutex::new(())));
    let mut calls = JoinSet::new();
    while let Ok(length) = input.read_u32().await {
        let mut bytes = vec![0; usize::try_from(length)?];
        input.read_exact(&mut bytes).await?;
        let request = ClientCompatRequest::decode(&*bytes)?;
        let (permits, output) = (Arc::clone(&permits), Arc::clone(&output));
        calls.spawn(async move {
            let _permit = permits.acquire().await?;
            let test_name = request.test_name.clone();
            let result = match call(request).await {
                Ok(result) => client_compat_response::Result::Response(result),
                Err(message) => {
                    client_compat_response::Result::Error(ClientErrorResult { message })
                }
            };
            let _turn = output.lock().await;
            write(&ClientCompatResponse {
                test_name,
                result: Some(result),
            })
        });
    }
    while let Some(call) = calls.join_next().await {
        call??;
    }
    Ok(())
}

/// What a call has received so far.
#[derive(Default)]
struct Received(ClientResponseResult);

impl Received {
    fn payload(&mut self, payload: Option<ConformancePayload>) {
        self.0.payloads.push(payload.unwrap_or_default());
    }

    fn metadata(&mut self, head: Option<&HeaderMap>, trailers: Option<&HeaderMap>) {
        if let Some(head) = head {
            self.0.response_headers = headers(head);
        }
        if let Some(trailers) = trailers {
            self.0.response_trailers = headers(trailers);
        }
    }

    fn failed(mut self, error: RpcError) -> ClientResponseResult {
        if let Some(metadata) = &error.metadata {
            if self.0.response_headers.is_empty() {
                self.0.response_headers = headers(&metadata.headers);
            }
            if self.0.response_trailers.is_empty() {
                self.0.response_trailers = headers(&metadata.trailers);
            }
        }
        let details = error.details.into_iter().map(|detail| Any {
            type_url: format!("type.googleapis.com/{}", detail.type_name),
            value: detail.value,
        });
        self.0.error = Some(Error {
            code: error_code(error.code).into(),
            message: Some(error.message),
            details: details.collect(),
        });
        self.0
    }

    /// The result after the call was canceled by dropping it.
    fn canceled(self) -> ClientResponseResult {
        self.failed(RpcError::new(fleet_wire::Code::Canceled, "canceled"))
    }
}

async fn call(request: ClientCompatRequest) -> Result<ClientResponseResult, String> {
    let tls = !request.server_tls_cert.is_empty();
    let protocol = match request.protocol() {
        WireProtocol::Connect => Protocol::Connect,
        WireProtocol::Grpc => Protocol::Grpc,
        WireProtocol::GrpcWeb => Protocol::GrpcWeb,
        WireProtocol::Unspecified => return Err("no protocol".to_owned()),
    };
    let mut config = ChannelConfig {
        protocol,
        ..ChannelConfig::default()
    };
    if tls {
        config.roots = Roots::Pem(String::from_utf8_lossy(&request.server_tls_cert).into_owned());
    }
    if request.message_receive_limit > 0 {
        config.max_response = usize::try_from(request.message_receive_limit).unwrap_or(usize::MAX);
    }
    let scheme = if tls { "https" } else { "http" };
    let url = format!("{scheme}://{}:{}", request.host, request.port);
    let channel = Channel::new(&url, &config).map_err(|error| error.to_string())?;
    match request.stream_type() {
        StreamType::Unary => match request.method() {
            "Unary" => {
                let payload = |response: UnaryResponse| response.payload;
                unary::<UnaryRequest, _>(&channel, &UNARY, &request, payload).await
            }
            "IdempotentUnary" => {
                let payload = |response: IdempotentUnaryResponse| response.payload;
                unary::<IdempotentUnaryRequest, _>(&channel, &IDEMPOTENT_UNARY, &request, payload)
                    .await
            }
            "Unimplemented" => {
                let payload = |_: UnimplementedResponse| None;
                unary::<UnimplementedRequest, _>(&channel, &UNIMPLEMENTED, &request, payload).await
            }
            other => Err(format!("no method {other}")),
        },
        StreamType::ServerStream => server_stream(&channel, &request).await,
        StreamType::HalfDuplexBidiStream | StreamType::FullDuplexBidiStream => {
            bidi(&channel, &request).await
        }
        StreamType::ClientStream | StreamType::Unspecified => {
            Err("the project's protocol has no client streams".to_owned())
        }
    }
}

fn options(request: &ClientCompatRequest) -> Result<CallOptions, String> {
    let mut options = CallOptions::new();
    for header in &request.request_headers {
        for value in &header.value {
            let name = HeaderName::from_bytes(header.name.as_bytes());
            let name = name.map_err(|error| error.to_string())?;
            let value = HeaderValue::from_str(value).map_err(|error| error.to_string())?;
            options = options.header(name, value);
        }
    }
    Ok(match request.timeout_ms {
        Some(limit) => options.timeout(Duration::from_millis(limit.into())),
        None => options.without_timeout(),
    })
}

fn messages<M: Message + Default>(request: &ClientCompatRequest) -> Result<Vec<M>, String> {
    let messages = request.request_messages.iter();
    let messages = messages.map(|any| M::decode(any.value.clone()));
    messages
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

fn timing(request: &ClientCompatRequest) -> Option<&CancelTiming> {
    request.cancel.as_ref()?.cancel_timing.as_ref()
}

/// Waits until a call is to be canceled after its request; forever if it is not.
async fn cancel_later(request: &ClientCompatRequest) {
    let after = match (&request.cancel, timing(request)) {
        (Some(_), Some(CancelTiming::AfterCloseSendMs(after))) => *after,
        (Some(_), None) => 0,
        _ => return std::future::pending().await,
    };
    sleep(Duration::from_millis(after.into())).await;
}

async fn delay(request: &ClientCompatRequest) {
    sleep(Duration::from_millis(request.request_delay_ms.into())).await;
}

async fn unary<I: Wire, O: Wire>(
    channel: &Channel,
    method: &Method,
    request: &ClientCompatRequest,
    payload: impl Fn(O) -> Option<ConformancePayload>,
) -> Result<ClientResponseResult, String> {
    let messages = messages::<I>(request)?;
    let [message] = messages.as_slice() else {
        return Err("a unary call has one message".to_owned());
    };
    let options = options(request)?;
    delay(request).await;
    let mut received = Received::default();
    let reply = tokio::select! {
        reply = channel.call::<I, O>(method, message, options) => reply,
        () = cancel_later(request) => return Ok(received.canceled()),
    };
    match reply {
        Ok(reply) => {
            received.metadata(Some(&reply.headers), Some(&reply.trailers));
            received.payload(payload(reply.message));
            Ok(received.0)
        }
        Err(error) => Ok(received.failed(error)),
    }
}

async fn server_stream(
    channel: &Channel,
    request: &ClientCompatRequest,
) -> Result<ClientResponseResult, String> {
    let messages = messages::<ServerStreamRequest>(request)?;
    let [message] = messages.as_slice() else {
        return Err("a server stream has one request".to_owned());
    };
    let options = options(request)?;
    delay(request).await;
    let opening =
        channel.server_stream::<_, ServerStreamResponse>(&SERVER_STREAM, message, options);
    let incoming = tokio::select! {
        incoming = opening => incoming,
        () = cancel_later(request) => return Ok(Received::default().canceled()),
    };
    match incoming {
        Ok(incoming) => {
            let payload = |response: ServerStreamResponse| response.payload;
            Ok(receive(incoming, request, Received::default(), payload).await)
        }
        Err(error) => Ok(Received::default().failed(error)),
    }
}

/// Reads a stream to its end or its cancellation.
async fn receive<O: Wire>(
    mut incoming: Incoming<O>,
    request: &ClientCompatRequest,
    mut received: Received,
    payload: impl Fn(O) -> Option<ConformancePayload>,
) -> ClientResponseResult {
    let cancel = cancel_later(request);
    tokio::pin!(cancel);
    loop {
        if is_enough(request, &received) {
            received.metadata(incoming.headers(), None);
            return received.canceled();
        }
        let message = tokio::select! {
            message = incoming.message() => message,
            () = &mut cancel => {
                received.metadata(incoming.headers(), None);
                return received.canceled();
            }
        };
        received.metadata(incoming.headers(), incoming.trailers());
        match message {
            Ok(Some(message)) => received.payload(payload(message)),
            Ok(None) => return received.0,
            Err(error) => return received.failed(error),
        }
    }
}

/// Whether a call is to be canceled after the responses so far.
fn is_enough(request: &ClientCompatRequest, received: &Received) -> bool {
    let count = u32::try_from(received.0.payloads.len()).unwrap_or(u32::MAX);
    matches!(timing(request), Some(CancelTiming::AfterNumResponses(most)) if *most == count)
}

async fn bidi(
    channel: &Channel,
    request: &ClientCompatRequest,
) -> Result<ClientResponseResult, String> {
    let messages = messages::<BidiStreamRequest>(request)?;
    let alternates = request.stream_type() == StreamType::FullDuplexBidiStream;
    let mut received = Received::default();
    let opened = channel.bidi(&BIDI_STREAM, options(request)?).await;
    let (mut outgoing, mut incoming) = match opened {
        Ok(halves) => halves,
        Err(error) => return Ok(received.failed(error)),
    };
    let payload = |response: BidiStreamResponse| response.payload;
    for (sent, message) in messages.iter().enumerate() {
        delay(request).await;
        if outgoing.send(message).await.is_err() {
            let unsent = messages.len() - sent;
            received.0.num_unsent_requests = i32::try_from(unsent).unwrap_or(i32::MAX);
            break;
        }
        if !alternates {
            continue;
        }
        let response = incoming.message().await;
        received.metadata(incoming.headers(), incoming.trailers());
        match response {
            Ok(Some(response)) => received.payload(payload(response)),
            Ok(None) => return Ok(received.0),
            Err(error) => {
                let unsent = messages.len() - sent - 1;
                received.0.num_unsent_requests = i32::try_from(unsent).unwrap_or(i32::MAX);
                return Ok(received.failed(error));
            }
        }
        if is_enough(request, &received) {
            return Ok(received.canceled());
        }
    }
    if matches!(timing(request), Some(CancelTiming::BeforeCloseSend(_))) {
        return Ok(received.canceled());
    }
    drop(outgoing);
    Ok(receive(incoming, request, received, payload).await)
}
