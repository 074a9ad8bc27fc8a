//! Conversions between the RPC engine and this crate: errors, contexts and codecs. Only this file and the private
//! parts of `server` and `client` name the engine.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD},
};
use bytes::Bytes;
use connectrpc::{CodecFormat, ConnectError, EncodedBody, ErrorCode, ErrorDetail, RequestContext};
use prost::Message;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Code, Context, Detail, Protocol, RpcError,
    bounds::{self, Validate},
};

/// Maximum number of objects in a JSON request; a valid report holds up to 1,024. An object of three bytes becomes a
/// message of hundreds of bytes. Without this limit a small body could exhaust the memory.
const MAX_JSON_OBJECTS: usize = 8_192;

/// The traits that the runtime requires of a message.
pub trait Wire: Message + Default + Serialize + DeserializeOwned + 'static {}
impl<T: Message + Default + Serialize + DeserializeOwned + 'static> Wire for T {}

/// Decodes a request and checks its bounds. It never builds a value that exceeds the bounds.
pub(crate) fn decode<M: Wire + Validate>(bytes: Bytes, format: CodecFormat) -> Result<M, RpcError> {
    if format != CodecFormat::Json {
        return decode_checked(bytes);
    }
    let message: M = decode_json(&bytes)?;
    message.validate()?;
    Ok(message)
}

/// Decodes a message that is nested in another one, such as the payload of a command, in the same way as a request.
/// Elements are counted before a value is built, then the bounds are checked.
///
/// # Errors
///
/// INVALID_ARGUMENT if the message does not decode or a field breaks its bound.
pub fn decode_checked<M: Message + Default + Validate>(bytes: Bytes) -> Result<M, RpcError> {
    let message: M = decode_proto(bytes)?;
    message.validate()?;
    Ok(message)
}

fn decode_proto<M: Message + Default + Validate>(bytes: Bytes) -> Result<M, RpcError> {
    bounds::count_repeated(&bytes, M::REPEATED)?;
    M::decode(bytes).map_err(|e| {
        RpcError::invalid_argument(format!("the message does not decode: {e}"))
            .with_reason("INVALID_MESSAGE")
    })
}

fn decode_json<M: Wire>(bytes: &[u8]) -> Result<M, RpcError> {
    // Connect clients may send no body for an empty message.
    let body = if bytes.is_empty() { b"{}" } else { bytes };
    // Braces in strings count too, which only makes the limit stricter.
    if body.iter().filter(|b| **b == b'{').count() > MAX_JSON_OBJECTS {
        return Err(RpcError::invalid_argument(format!(
            "the JSON message has more than {MAX_JSON_OBJECTS} objects"
        ))
        .with_reason("INVALID_MESSAGE")
        .with_fact("limit", MAX_JSON_OBJECTS));
    }
    serde_json::from_slice(body).map_err(|e| {
        RpcError::invalid_argument(format!("the JSON message does not decode: {e}"))
            .with_reason("INVALID_MESSAGE")
            .with_fact("line", e.line())
            .with_fact("column", e.column())
    })
}

pub(crate) fn encode<M: Wire>(
    message: &M,
    format: CodecFormat,
) -> Result<EncodedBody, ConnectError> {
    if format == CodecFormat::Json {
        let json = serde_json::to_vec(message).map_err(|e| {
            tracing::error!(error = %e, "a response has no JSON form");
            ConnectError::internal("the response has no JSON form")
        })?;
        return Ok(Bytes::from(json).into());
    }
    Ok(Bytes::from(message.encode_to_vec()).into())
}

pub(crate) fn context(path: &'static str, ctx: RequestContext) -> Context {
    Context {
        path: path.to_owned(),
        protocol: ctx.protocol().map_or(Protocol::Connect, protocol),
        headers: ctx.headers().clone(),
        deadline: ctx.deadline(),
        extensions: ctx.extensions().clone(),
    }
}

fn protocol(protocol: connectrpc::Protocol) -> Protocol {
    if protocol == connectrpc::Protocol::Grpc {
        Protocol::Grpc
    } else if protocol == connectrpc::Protocol::GrpcWeb {
        Protocol::GrpcWeb
    } else {
        Protocol::Connect
    }
}

/// The code with this name.
pub(crate) fn code_of_name(name: &str) -> Option<Code> {
    let mut codes = CODES.iter().map(|(ours, _)| *ours);
    codes.find(|code| code.as_str() == name)
}

/// The code with this number of gRPC; none for 0, which is success.
pub(crate) fn code_of_number(number: usize) -> Option<Code> {
    let (ours, _) = CODES.get(number.checked_sub(1)?)?;
    Some(*ours)
}

/// The mapping between the codes of the engine and of this crate, in the order of gRPC's numbers from 1 on.
const CODES: [(Code, ErrorCode); 16] = [
    (Code::Canceled, ErrorCode::Canceled),
    (Code::Unknown, ErrorCode::Unknown),
    (Code::InvalidArgument, ErrorCode::InvalidArgument),
    (Code::DeadlineExceeded, ErrorCode::DeadlineExceeded),
    (Code::NotFound, ErrorCode::NotFound),
    (Code::AlreadyExists, ErrorCode::AlreadyExists),
    (Code::PermissionDenied, ErrorCode::PermissionDenied),
    (Code::ResourceExhausted, ErrorCode::ResourceExhausted),
    (Code::FailedPrecondition, ErrorCode::FailedPrecondition),
    (Code::Aborted, ErrorCode::Aborted),
    (Code::OutOfRange, ErrorCode::OutOfRange),
    (Code::Unimplemented, ErrorCode::Unimplemented),
    (Code::Internal, ErrorCode::Internal),
    (Code::Unavailable, ErrorCode::Unavailable),
    (Code::DataLoss, ErrorCode::DataLoss),
    (Code::Unauthenticated, ErrorCode::Unauthenticated),
];

impl From<RpcError> for ConnectError {
    fn from(error: RpcError) -> Self {
        let code = CODES
            .iter()
            .find(|(ours, _)| *ours == error.code)
            .map_or(ErrorCode::Unknown, |(_, theirs)| *theirs);
        let error = error.explained();
        let mut converted = Self::new(code, error.message);
        if let Some(metadata) = error.metadata {
            converted = converted
                .with_headers(metadata.headers)
                .with_trailers(metadata.trailers);
        }
        error.details.into_iter().fold(converted, |out, detail| {
            let value = Some(STANDARD_NO_PAD.encode(&detail.value));
            out.with_detail(ErrorDetail {
                type_url: detail.type_name,
                value,
                debug: None,
            })
        })
    }
}

impl From<ConnectError> for RpcError {
    fn from(error: ConnectError) -> Self {
        let code = CODES
            .iter()
            .find(|(_, theirs)| *theirs == error.code)
            .map_or(Code::Unknown, |(ours, _)| *ours);
        let details = error.details.iter().filter_map(|d| {
            let text = d.value.as_deref().unwrap_or_default();
            // Connect omits the padding. A peer that keeps it is understood too.
            let value = STANDARD_NO_PAD
                .decode(text)
                .or_else(|_| STANDARD.decode(text))
                .ok()?;
            // gRPC sends the type as a URL, `type.googleapis.com/NAME`.
            let type_name = d.type_url.rsplit('/').next().unwrap_or_default().to_owned();
            Some(Detail {
                type_name,
                value: value.into(),
            })
        });
        Self {
            code,
            message: error.message.clone().unwrap_or_default(),
            details: details.collect(),
            metadata: None,
        }
    }
}
