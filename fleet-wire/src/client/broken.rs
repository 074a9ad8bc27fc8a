//! Connections that break in the middle of an answer.

use connectrpc::{ConnectError, ErrorCode};

use crate::RpcError;

/// How the engine begins to say that an answer has no end. To it these are internal errors.
const BROKEN: [&str; 3] = [
    "failed to read response body",
    "stream ended without grpc-status",
    "Connect streaming response ended without END_STREAM",
];

/// An error of a call, where a connection that broke under it is UNAVAILABLE: whoever is at the other end died
/// or was cut off, and may be asked again.
pub(super) fn failed(error: ConnectError) -> RpcError {
    let message = error.message.as_deref().unwrap_or_default();
    let broke =
        error.code == ErrorCode::Internal && BROKEN.iter().any(|begin| message.starts_with(begin));
    if broke {
        return RpcError::unavailable(format!("the connection broke: {message}"));
    }
    error.into()
}
