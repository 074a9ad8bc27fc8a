//! How failures of operations reach callers. Refusals keep their sentence. Storage failures become UNAVAILABLE with an
//! id that is in the log.

use std::time::Duration;

use fleet_core::outcome;
use fleet_store::{
    BeginError, BindError, CancelCodeError, CancelPairingError, CancelScanError, ConfirmError,
    CreateCodeError, CreateOperatorError, CreatePairingError, CreateScanError, KeyError,
    MemberError, MoveNodeError, RegisterError, ReportError, RevokeError, StoreError, UnbindError,
    UndoError,
};
use fleet_wire::{Code, RpcError};

/// When a report may be retried that overtook the addresses of its names: the two messages are moments apart.
const PINS_SOON: Duration = Duration::from_millis(100);
/// When a report may be retried while the server itself dials its addresses. The report has waited already.
const DIALED_SOON: Duration = Duration::from_secs(2);

/// The answer to a storage failure. The text of the database goes to the log only.
pub(crate) fn storage(error: &StoreError) -> RpcError {
    let mut id = [0_u8; 4];
    let id = getrandom::fill(&mut id).map_or(0, |()| u32::from_be_bytes(id));
    tracing::error!(incident = format_args!("{id:08x}"), %error, "storage failed");
    RpcError::unavailable(format!(
        "the server cannot reach its storage now, try again shortly (incident {id:08x})"
    ))
}

/// An outcome's code on the wire.
pub(crate) fn code(code: outcome::Code) -> Code {
    match code {
        // A successful outcome has no failure to report.
        outcome::Code::Ok => Code::Unknown,
        outcome::Code::Canceled => Code::Canceled,
        outcome::Code::InvalidArgument => Code::InvalidArgument,
        outcome::Code::DeadlineExceeded => Code::DeadlineExceeded,
        outcome::Code::ResourceExhausted => Code::ResourceExhausted,
        outcome::Code::FailedPrecondition => Code::FailedPrecondition,
        outcome::Code::Internal => Code::Internal,
        outcome::Code::Unavailable => Code::Unavailable,
    }
}

/// A failure that becomes a caller's RPC error.
pub(crate) trait Refusal {
    fn refusal(self) -> RpcError;
}

impl Refusal for RpcError {
    fn refusal(self) -> RpcError {
        self
    }
}

impl Refusal for StoreError {
    fn refusal(self) -> RpcError {
        storage(&self)
    }
}

/// `result.answered()?` where no refusal needs an audit record.
pub(crate) trait Answered<T> {
    /// # Errors
    ///
    /// The failure as the caller receives it.
    fn answered(self) -> Result<T, RpcError>;
}

impl<T, E: Refusal> Answered<T> for Result<T, E> {
    fn answered(self) -> Result<T, RpcError> {
        self.map_err(Refusal::refusal)
    }
}

/// Maps each operation's errors to a status, with the error's own sentence. `Storage` is common to all.
macro_rules! refusals {
    ($($error:ident { $($variant:pat => $status:ident $(, retry $after:expr)?;)+ })+) => {$(
        impl Refusal for $error {
            fn refusal(self) -> RpcError {
                use $error::*;
                match &self {
                    $($variant => RpcError::$status(self.to_string()) $(.with_retry_after($after))?,)+
                    Storage(error) => storage(error),
                }
            }
        }
    )+};
}

refusals! {
    RegisterError {
        Code => unauthenticated;
        NameTaken(_) | KeyTaken | ReplacementTaken { .. } => failed_precondition;
    }
    CreateCodeError {
        NotFound(_) => not_found;
        NotRevoked(_) | Replaced { .. } => failed_precondition;
    }
    UndoError {
        NotFound(_) => not_found;
        Refused(_) => failed_precondition;
    }
    BeginError {
        Credentials => unauthenticated;
        NotConfirmed(_) => failed_precondition;
    }
    ConfirmError {
        NotFound(_) => not_found;
        Refused(_) => failed_precondition;
    }
    RevokeError {
        NotFound(_) => not_found;
        PendingIdMissing(_) => invalid_argument;
        Refused(_) => failed_precondition;
    }
    CancelCodeError {
        NotFound(_) => not_found;
        NotPending(..) => failed_precondition;
    }
    MoveNodeError {
        NotFound(_) | NoSite(_) => not_found;
    }
    CreateScanError {
        NodeNotFound(_) => not_found;
        NotConfirmed(_) => failed_precondition;
        Busy(_) | QueueFull { .. } => resource_exhausted;
    }
    CancelScanError {
        NotFound(_) => not_found;
    }
    ReportError {
        NotInFlight(_) => failed_precondition;
        AwaitsPins(_) => unavailable, retry PINS_SOON;
        BeingDialed(_) => unavailable, retry DIALED_SOON;
        OverQuota { .. } | Flooded(_) => resource_exhausted;
    }
    KeyError {
        NotFound(_) | NoOperator(_) => not_found;
        TooMany(_) => resource_exhausted;
    }
    BindError {
        NodeNotFound(_) | DeviceNotFound(_) => not_found;
        BeingDialed(_) => unavailable;
        Refused { .. } => failed_precondition;
    }
    MemberError {
        NotFound(_) => not_found;
        LastAdmin(_) => failed_precondition;
    }
    CreatePairingError {
        NodeNotFound(_) => not_found;
        NotConfirmed(_) => failed_precondition;
        Busy(_) => resource_exhausted;
    }
    CancelPairingError {
        NotFound(_) => not_found;
    }
    UnbindError {
        NotFound(_) => not_found;
    }
}

impl Refusal for CreateOperatorError {
    fn refusal(self) -> RpcError {
        match &self {
            // The sentence does not say in which organization the operator exists.
            Self::EmailTaken(email) => RpcError::failed_precondition(format!(
                "an operator with the e-mail `{email}` exists already: choose another one"
            )),
            Self::OrgDiffersInCase { .. } => RpcError::failed_precondition(self.to_string()),
            Self::Storage(error) => storage(error),
        }
    }
}
