//! Exit codes, following sysexits, and their mapping from errors.

use fleet_agent::{AgentError, EnrollError, SessionError, StateError, StopReason, TransportError};
use fleet_wire::Code;

use crate::halt::Halted;

/// The scan is partial.
pub(crate) const PARTIAL: u8 = 2;
/// The scan was canceled.
pub(crate) const CANCELED: u8 = 130;
/// The flags or values are invalid.
pub(crate) const USAGE: u8 = 64;
/// The server or the state folder is unavailable.
pub(crate) const UNAVAILABLE: u8 = 69;
/// Credentials are missing, rejected or unsafe.
pub(crate) const PERMISSION: u8 = 77;
const FAILURE: u8 = 1;

/// Invalid flags or values.
#[derive(Debug)]
pub(crate) struct Usage(String);

impl Usage {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The exit code of an error.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    if error.is::<Usage>() || error.is::<TransportError>() {
        USAGE
    } else if error.is::<StopReason>() || error.is::<Halted>() {
        PERMISSION
    } else if let Some(error) = error.downcast_ref::<StateError>() {
        of_state(error)
    } else if let Some(error) = error.downcast_ref::<EnrollError>() {
        of_enrollment(error)
    } else if let Some(error) = error.downcast_ref::<AgentError>() {
        match error {
            AgentError::NotEnrolled => PERMISSION,
            AgentError::Transport(_) => USAGE,
            AgentError::Random(_) => FAILURE,
        }
    } else {
        FAILURE
    }
}

fn of_enrollment(error: &EnrollError) -> u8 {
    match error {
        EnrollError::State(error) => of_state(error),
        EnrollError::Transport(_) => USAGE,
        EnrollError::Session(SessionError::NoKey | SessionError::KeyRefused) => PERMISSION,
        EnrollError::Session(
            SessionError::UntaggedChallenge | SessionError::NotUpstream { .. },
        ) => FAILURE,
        EnrollError::Session(SessionError::Call { source, .. })
        | EnrollError::Refused { source, .. }
        | EnrollError::NotFetched(source) => of_call(source.code),
        EnrollError::AlreadyRegistered { .. }
        | EnrollError::Import { .. }
        | EnrollError::Random(_) => FAILURE,
        EnrollError::NotRegistered
        | EnrollError::FingerprintDiffers { .. }
        | EnrollError::Unsealed => PERMISSION,
        EnrollError::NotConfirmed => UNAVAILABLE,
    }
}

fn of_state(error: &StateError) -> u8 {
    match error {
        StateError::Unsafe { .. } => PERMISSION,
        StateError::Locked { .. } => UNAVAILABLE,
        StateError::Io { .. } | StateError::Malformed { .. } => FAILURE,
    }
}

fn of_call(code: Code) -> u8 {
    match code {
        Code::Unauthenticated | Code::PermissionDenied => PERMISSION,
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Unimplemented
        | Code::NotFound
        | Code::Unknown => UNAVAILABLE,
        Code::InvalidArgument => USAGE,
        Code::Canceled
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::DataLoss => FAILURE,
    }
}
