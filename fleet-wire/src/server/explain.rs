//! Reasons of errors that the engine raises by itself, before or after a handler: a message that is too large, an unknown
//! compression, an envelope that does not decode. [`explained`] adds `google.rpc.ErrorInfo` to the answer, in the form
//! of its protocol. Errors of handlers have theirs already.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD},
};
use bytes::Bytes;
use connectrpc::{ConnectError, ConnectRpcBody, Protocol};
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::BodyExt;
use serde_json::Value;

use super::{body::Body, budget::Envelopes, service};
use crate::{Code, RpcError, engine};

const GRPC_STATUS: &str = "grpc-status";
const GRPC_MESSAGE: &str = "grpc-message";
const DETAILS: &str = "grpc-status-details-bin";
/// The type of a reason.
const ERROR_INFO: &str = "google.rpc.ErrorInfo";
/// Bit of the envelope that ends a stream of Connect.
const END_STREAM: u8 = 2;
/// Bit of the envelope with the trailers of gRPC-Web.
const TRAILERS: u8 = 0x80;
/// Characters of a header's value in an error.
const VALUE: usize = 64;

/// What is known about the request of an error.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    /// The largest message in bytes.
    limit: usize,
    cause: Cause,
}

/// What the engine does not accept, as far as the headers show it.
#[derive(Clone, Debug)]
enum Cause {
    /// The message.
    Message,
    /// The compression.
    Encoding(String),
    /// The content type; empty if there is none.
    ContentType(String),
}

impl Origin {
    /// The origin of errors in a message of a stream.
    pub(super) fn message(limit: usize) -> Self {
        let cause = Cause::Message;
        Self { limit, cause }
    }

    pub(super) fn of<B>(request: &Request<B>, limit: usize) -> Self {
        let headers = request.headers();
        let shown = |value: &HeaderValue| {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            text.chars().take(VALUE).collect::<String>()
        };
        let cause = if let Some(unknown) = service::unknown_encoding(headers) {
            Cause::Encoding(shown(unknown))
        } else if *request.method() != Method::GET && Protocol::detect(headers).is_none() {
            let given = headers.get(header::CONTENT_TYPE);
            Cause::ContentType(given.map(shown).unwrap_or_default())
        } else {
            Cause::Message
        };
        Self { limit, cause }
    }

    /// The error with its reason.
    pub(super) fn stated(&self, error: RpcError) -> RpcError {
        if error.reason().is_some() {
            return error;
        }
        match (error.code, &self.cause) {
            (Code::ResourceExhausted, _) => RpcError::resource_exhausted(error.message)
                .with_reason("MESSAGE_TOO_LARGE")
                .with_fact("limit", self.limit),
            (Code::Unimplemented, Cause::Encoding(value)) => RpcError::unimplemented(error.message)
                .with_reason("ENCODING_UNKNOWN")
                .with_fact("value", value),
            (Code::Unimplemented, Cause::ContentType(value)) => {
                RpcError::unimplemented(error.message)
                    .with_reason("CONTENT_TYPE_UNKNOWN")
                    .with_fact("value", value)
            }
            (Code::Unimplemented, Cause::Message) => {
                RpcError::unimplemented(error.message).with_reason("INVALID_MESSAGE")
            }
            (Code::InvalidArgument, _) => {
                RpcError::invalid_argument(error.message).with_reason("INVALID_MESSAGE")
            }
            (Code::DeadlineExceeded, _) => {
                RpcError::deadline_exceeded(error.message).with_reason("DEADLINE_EXCEEDED")
            }
            // Its reason is the code.
            _ => error,
        }
    }

    /// The error of a status that the engine sends without a call.
    fn of_status(&self, status: StatusCode) -> Option<RpcError> {
        match (status, &self.cause) {
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, Cause::ContentType(value)) => Some(
                RpcError::unknown(service::MEDIA_TYPES.trim_end())
                    .with_reason("CONTENT_TYPE_UNKNOWN")
                    .with_fact("value", value),
            ),
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, _) => Some(
                RpcError::unknown(service::MEDIA_TYPES.trim_end())
                    .with_reason("CONTENT_TYPE_UNKNOWN"),
            ),
            (StatusCode::METHOD_NOT_ALLOWED, _) => Some(
                RpcError::unknown("this procedure is called by POST")
                    .with_reason("METHOD_NOT_ALLOWED"),
            ),
            _ => None,
        }
    }
}

/// Adds a reason to the error of an answer that has none.
pub(super) fn explained(response: Response<ConnectRpcBody>, origin: Origin) -> Response<Body> {
    let content_type = response.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.map_or(&b""[..], HeaderValue::as_bytes);
    let form = if content_type.starts_with(b"application/grpc-web") {
        Form::GrpcWeb
    } else if content_type.starts_with(b"application/grpc") {
        Form::Grpc
    } else if content_type.starts_with(b"application/connect+") {
        Form::Connect
    } else if response.status() == StatusCode::OK {
        return response.map(service::body);
    } else {
        return unary(response, &origin);
    };
    response.map(|inner| {
        Body::new(Explained {
            inner,
            form,
            origin,
            envelopes: Envelopes::default(),
        })
    })
}

/// Where an answer has its error. An unary answer of Connect is its error as a whole.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// In the trailers.
    Grpc,
    /// In the last envelope, as the text of trailers.
    GrpcWeb,
    /// In the last envelope, as JSON.
    Connect,
}

fn unary(response: Response<ConnectRpcBody>, origin: &Origin) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    // The body is complete, so it does not wait.
    let whole = body.collect().now_or_never();
    let whole = whole.and_then(Result::ok).map(|whole| whole.to_bytes());
    let whole = whole.unwrap_or_default();
    let error = match origin.of_status(head.status) {
        Some(error) => error,
        None => match serde_json::from_slice(&whole).ok().and_then(bare) {
            Some(error) => origin.stated(error),
            None => return Response::from_parts(head, Body::from(whole)),
        },
    };
    head.headers.remove(header::CONTENT_LENGTH);
    let json = HeaderValue::from_static("application/json");
    head.headers.insert(header::CONTENT_TYPE, json);
    let body = error.explained().to_json().to_string();
    Response::from_parts(head, Body::from(body))
}

/// An error of Connect without details.
fn bare(error: Value) -> Option<RpcError> {
    if error.get("details").is_some() {
        return None;
    }
    let code = engine::code_of_name(error.get("code")?.as_str()?)?;
    let message = error.get("message").and_then(Value::as_str);
    Some(without_reason(code, message.unwrap_or_default()))
}

fn without_reason(code: Code, message: impl Into<String>) -> RpcError {
    RpcError {
        code,
        message: message.into(),
        details: Vec::new(),
        metadata: None,
    }
}

/// An answer whose last part may be an error without a reason.
struct Explained {
    inner: ConnectRpcBody,
    form: Form,
    origin: Origin,
    envelopes: Envelopes,
}

impl http_body::Body for Explained {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map(|frame| this.explain(frame))))
    }
}

impl Explained {
    fn explain(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_data() {
            Ok(data) => Frame::data(self.data(data)),
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => Frame::trailers(self.trailers(trailers)),
                Err(frame) => frame,
            },
        }
    }

    fn trailers(&self, mut trailers: HeaderMap) -> HeaderMap {
        let text = |name: &str| trailers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
        let (status, message) = (text(GRPC_STATUS), text(GRPC_MESSAGE));
        if let Some(details) = self.details(status, message, text(DETAILS)) {
            trailers.insert(DETAILS, details);
        }
        trailers
    }

    /// The engine sends the last envelope as a part of its own.
    fn data(&mut self, data: Bytes) -> Bytes {
        let last = match self.form {
            Form::Grpc => return data,
            Form::GrpcWeb => TRAILERS,
            Form::Connect => END_STREAM,
        };
        let begins = self.envelopes.is_at_boundary();
        self.envelopes.follow(&data);
        let (true, true, [flags, _, _, _, _, payload @ ..]) =
            (begins, self.envelopes.is_at_boundary(), &data[..])
        else {
            return data;
        };
        if flags & last == 0 {
            return data;
        }
        let payload = match self.form {
            Form::Connect => self.end_of_stream(payload),
            Form::GrpcWeb | Form::Grpc => self.web_trailers(payload),
        };
        let Some(payload) = payload else { return data };
        // An error has a few kilobytes.
        let mut envelope = vec![*flags];
        envelope.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        envelope.extend_from_slice(&payload);
        envelope.into()
    }

    fn end_of_stream(&self, payload: &[u8]) -> Option<Vec<u8>> {
        let mut end: Value = serde_json::from_slice(payload).ok()?;
        let error = end.get("error")?.clone();
        let stated = self.origin.stated(bare(error)?).explained();
        end["error"]["details"] = stated.to_json().get("details")?.clone();
        serde_json::to_vec(&end).ok()
    }

    fn web_trailers(&self, payload: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(payload).ok()?;
        let lines = || text.split("\r\n").filter_map(|line| line.split_once(": "));
        let value = |name: &str| {
            let mut found = lines().filter(|(other, _)| *other == name);
            found.next().map_or("", |(_, value)| value).as_bytes()
        };
        let details = self.details(value(GRPC_STATUS), value(GRPC_MESSAGE), value(DETAILS))?;
        let kept = lines().filter(|(name, _)| *name != DETAILS);
        let mut all: String = kept
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        all.push_str(&format!("{DETAILS}: {}\r\n", details.to_str().ok()?));
        Some(all.into_bytes())
    }

    /// The details of an error of gRPC that states no reason.
    fn details(&self, status: &[u8], message: &[u8], details: &[u8]) -> Option<HeaderValue> {
        let code = engine::code_of_number(std::str::from_utf8(status).ok()?.parse().ok()?)?;
        let details = STANDARD_NO_PAD
            .decode(details)
            .or_else(|_| STANDARD.decode(details))
            .unwrap_or_default();
        let name = ERROR_INFO.as_bytes();
        if details.windows(name.len()).any(|part| part == name) {
            return None;
        }
        let error = without_reason(code, unescaped(message));
        status_details(self.origin.stated(error))
    }
}

/// The details of an error in the trailers of gRPC, as the engine encodes them.
fn status_details(error: RpcError) -> Option<HeaderValue> {
    let grpc = HeaderValue::from_static("application/grpc");
    let request = HeaderMap::from_iter([(header::CONTENT_TYPE, grpc)]);
    let mut body = ConnectError::from(error)
        .into_http_response(&request)
        .into_body();
    let frame = body.frame().now_or_never()??.ok()?;
    frame.trailers_ref()?.get(DETAILS).cloned()
}

/// The text of `grpc-message`, whose bytes are percent-encoded.
fn unescaped(text: &[u8]) -> String {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let digits = (digit(text.get(at + 1)), digit(text.get(at + 2)));
        match digits {
            (Some(high), Some(low)) if *byte == b'%' => {
                // Two digits are at most 255.
                bytes.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                bytes.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_grpc_are_unescaped() {
        for (escaped, expected) in [
            ("plain", "plain"),
            ("100%25 of%0Ait", "100% of\nit"),
            ("%C3%A4", "ä"),
            ("%", "%"),
            ("%2", "%2"),
            ("%zz", "%zz"),
        ] {
            assert_eq!(unescaped(escaped.as_bytes()), expected);
        }
    }
}
