//! The errors of `fleetctl` and their exit status.

use fleet_wire::{Code, RpcError, client::ChannelError, fleet::ScanState};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Invalid usage or configuration.
    #[error("{0}")]
    Usage(String),
    /// Invalid URL or certificates.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// An error response of the server, or no response.
    #[error("{}", .0.message)]
    Call(#[from] RpcError),
    /// The system has no resources for the program.
    #[error("cannot start: {0}")]
    Runtime(#[source] std::io::Error),
    /// Standard output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
    /// The operator declined the confirmation.
    #[error("{0}")]
    Declined(String),
}

impl Failure {
    /// Returns what to do, if the message itself does not say it.
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::Call(error) => advice(error),
            Self::Usage(_)
            | Self::Channel(_)
            | Self::Runtime(_)
            | Self::Output(_)
            | Self::Declined(_) => "",
        }
    }

    /// Returns the exit status.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Channel(_) => 64,
            Self::Call(error) => of_code(error.code),
            Self::Runtime(_) | Self::Output(_) | Self::Declined(_) => 1,
        }
    }
}

/// Adds advice to errors of the connection. Errors of the server contain their own.
fn advice(error: &RpcError) -> &'static str {
    if error.message.contains("invalid peer certificate") {
        return "; if the certificate is self-signed, use --ca FILE";
    }
    if error.code == Code::Unavailable && error.message.contains("connect error") {
        return "; check that the server is running and that --server or FLEET_SERVER is correct";
    }
    ""
}

fn of_code(code: Code) -> u8 {
    match code {
        Code::InvalidArgument => 64,
        Code::Unavailable => 69,
        Code::ResourceExhausted | Code::DeadlineExceeded => 75,
        Code::PermissionDenied | Code::Unauthenticated => 77,
        Code::Canceled => 130,
        Code::Unknown
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => 1,
    }
}

/// Returns the exit status for the snake_case name of a code.
pub(crate) fn of_code_named(code: &str) -> u8 {
    match code {
        "invalid_argument" => 64,
        "unavailable" => 69,
        "resource_exhausted" | "deadline_exceeded" => 75,
        "canceled" => 130,
        _ => 1,
    }
}

/// Returns the exit status for the final state of a scan.
pub(crate) fn of_scan(state: ScanState, code: &str) -> u8 {
    match state {
        ScanState::Completed => 0,
        ScanState::Partial => 2,
        ScanState::Canceled => 130,
        ScanState::Expired => 75,
        ScanState::Failed if matches!(code, "deadline_exceeded" | "resource_exhausted") => 75,
        ScanState::Failed | ScanState::Unspecified | ScanState::Queued | ScanState::Running => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_final_state_has_its_exit_status() {
        for (state, code, status) in [
            (ScanState::Completed, "ok", 0),
            (ScanState::Partial, "ok", 2),
            (ScanState::Failed, "internal", 1),
            (ScanState::Failed, "deadline_exceeded", 75),
            (ScanState::Canceled, "canceled", 130),
            (ScanState::Expired, "deadline_exceeded", 75),
        ] {
            assert_eq!(of_scan(state, code), status, "{state:?}");
        }
    }
}
