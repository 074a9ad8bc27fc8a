//! Connections that break in the middle of an answer.

use connectrpc::{ConnectError, ErrorCode};

use crate::RpcError;

/// How the engine begins to say that an answer has no end. To it these are internal errors.
const BROKEN: [&str; 3] = [
    "failed to read response body",
    "stream ended without grpc-status",
    "Connect streaming response ended without END_STREAM",
];

/// How the engine begins to report an HTTP error status without a gRPC or Connect error in the answer.
const BARE_STATUS: &str = "HTTP error ";

/// An error of a call, where a connection that broke under it is UNAVAILABLE: whoever is at the other end died
/// or was cut off, and may be asked again.
pub(super) fn failed(error: ConnectError) -> RpcError {
    let message = error.message.as_deref().unwrap_or_default();
    // A server of this protocol never answers so; a proxy does. The codes that the engine derives from such a status, such
    // as UNIMPLEMENTED for 404, would say something about the server that nobody asked.
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
    error.into()
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
