//! Errors of connections that break in the middle of a response.

use connectrpc::{ConnectError, ErrorCode};

use crate::{ErrorMetadata, RpcError};

/// Prefixes of engine errors about a truncated response. The engine classifies them as internal errors.
const BROKEN: [&str; 3] = [
    "failed to read response body",
    "stream ended without grpc-status",
    "Connect streaming response ended without END_STREAM",
];

/// Prefix of engine errors about an HTTP error status without a gRPC or Connect error in the response.
const BARE_STATUS: &str = "HTTP error ";

/// Converts an error of a call. A broken connection becomes UNAVAILABLE: the peer died or was cut off, and the call
/// may be retried.
pub(super) fn failed(error: ConnectError) -> RpcError {
    let message = error.message.as_deref().unwrap_or_default();
    // A server of this protocol never sends a bare status, but a proxy does. The engine derives codes such as
    // UNIMPLEMENTED from 404. They would describe the server, which never received the call.
    if let Some(rest) = message.strip_prefix(BARE_STATUS) {
        let status: String = rest.chars().take_while(char::is_ascii_digit).collect();
        return RpcError::unavailable(format!(
            "HTTP {status} without a gRPC or Connect error: a proxy or another web server answered"
        ));
    }
    let broke =
        error.code == ErrorCode::Internal && BROKEN.iter().any(|begin| message.starts_with(begin));
    if broke {
        return RpcError::unavailable(format!("the connection broke: {message}"));
    }
    let metadata = ErrorMetadata {
        headers: error.response_headers().clone(),
        trailers: error.trailers().clone(),
    };
    let mut error = RpcError::from(error);
    if metadata != ErrorMetadata::default() {
        error.metadata = Some(Box::new(metadata));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    #[test]
    fn a_bare_http_status_says_nothing_about_the_server() {
        for (code, message) in [
            (
                ErrorCode::Unimplemented,
                "HTTP error 404: <html>not found</html>",
            ),
            (ErrorCode::Unauthenticated, "HTTP error 401"),
            (
                ErrorCode::Unavailable,
                "HTTP error 502: unexpected content-type: text/html",
            ),
        ] {
            let error = failed(ConnectError::new(code, message));
            assert_eq!(error.code, Code::Unavailable, "{message}");
            assert!(
                error
                    .message
                    .starts_with(&message.replace("error ", "")[..8]),
                "{error}"
            );
        }
        let answered = failed(ConnectError::new(
            ErrorCode::Unimplemented,
            "no such method",
        ));
        assert_eq!(answered.code, Code::Unimplemented);
    }
}
