//! What goes wrong, and the exit status it means.

use fleet_wire::{Code, RpcError, client::ChannelError, fleet::ScanState};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Wrong usage or configuration.
    #[error("{0}")]
    Usage(String),
    /// The URL or the certificates.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The server's answer, or why there was none.
    #[error("{}", .0.message)]
    Call(#[from] RpcError),
    /// Standard output is gone.
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
    /// The person said no.
    #[error("{0}")]
    Declined(String),
}

impl Failure {
    /// The way out, where the failure itself does not say it.
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::Call(error) => advice(error),
            Self::Usage(_) | Self::Channel(_) | Self::Output(_) | Self::Declined(_) => "",
        }
    }

    /// The exit status.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Channel(_) => 64,
            Self::Call(error) => of_code(error.code),
            Self::Output(_) | Self::Declined(_) => 1,
        }
    }
}

/// What to do about an unreachable server; servers' own words need no more.
fn advice(error: &RpcError) -> &'static str {
    if error.message.contains("invalid peer certificate") {
        return "; if the certificate is the server's own, name it with --ca";
    }
    if error.code == Code::Unavailable && error.message.contains("connect error") {
        return "; check that the server runs and that --server or FLEET_SERVER names it";
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

/// The exit status of a code by its name in snake_case.
pub(crate) fn of_code_named(code: &str) -> u8 {
    match code {
        "invalid_argument" => 64,
        "unavailable" => 69,
        "resource_exhausted" | "deadline_exceeded" => 75,
        "canceled" => 130,
        _ => 1,
    }
}

/// The exit status of a scan's end.
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
    fn a_scans_end_has_its_status() {
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
