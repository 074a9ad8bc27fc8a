//! How failures of operations reach callers. Refusals keep their sentence. Storage failures become UNAVAILABLE with an
//! id that is in the log.

use std::time::Duration;

use fleet_core::outcome;
use fleet_store::{
    BeginError, BindError, CancelCodeError, CancelPairingError, CancelScanError, ConfirmError,
    CreateCodeError, CreateOperatorError, CreatePairingError, CreateScanError, DeleteDevicesError,
    DifferenceError, FetchKeyError, KeyError, MemberError, MoveNodeError, RegisterError,
    RenameNodeError, ReportError, RevokeError, RunNowError, ScheduleError, SiteError, StoreError,
    UnbindError, UndoError,
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
    .with_reason("STORAGE_UNAVAILABLE")
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

/// Maps each operation's errors to a status and a stable reason, with the error's own sentence. `Storage` is common to
/// all. docs/api.md lists the reasons.
macro_rules! refusals {
    ($($error:ident { $($variant:pat => $status:ident $reason:ident $(, retry $after:expr)?;)+ })+) => {$(
        impl Refusal for $error {
            fn refusal(self) -> RpcError {
                use $error::*;
                match &self {
                    $($variant => RpcError::$status(self.to_string())
                        .with_reason(stringify!($reason))
                        $(.with_retry_after($after))?,)+
                    Storage(error) => storage(error),
                }
            }
        }
    )+};
}

refusals! {
    RegisterError {
        Code => unauthenticated ENROLLMENT_CODE_INVALID;
        NameTaken(_) => failed_precondition NAME_TAKEN;
        KeyTaken => failed_precondition IDENTITY_KEY_TAKEN;
        ReplacementTaken { .. } => failed_precondition NODE_ALREADY_REPLACED;
    }
    CreateCodeError {
        NotFound(_) => not_found NODE_NOT_FOUND;
        NotRevoked(_) => failed_precondition NODE_NOT_REVOKED;
        Replaced { .. } => failed_precondition NODE_ALREADY_REPLACED;
    }
    DifferenceError {
        NotFound(_) => not_found SCAN_NOT_FOUND;
        Itself(_) => invalid_argument SAME_SCAN;
    }
    UndoError {
        NotFound(_) => not_found IDENTITY_CHANGE_NOT_FOUND;
        Refused(_) => failed_precondition IDENTITY_CHANGE_FINAL;
    }
    BeginError {
        Credentials => unauthenticated NODE_KEY_INVALID;
        NotConfirmed(_) => failed_precondition NODE_NOT_CONFIRMED;
    }
    ConfirmError {
        NotFound(_) => not_found NODE_NOT_FOUND;
        Refused(_) => failed_precondition ENROLLMENT_STATE;
    }
    RevokeError {
        NotFound(_) => not_found NODE_NOT_FOUND;
        PendingIdMissing(_) => invalid_argument PENDING_ENROLLMENT_ID_MISSING;
        Refused(_) => failed_precondition ENROLLMENT_STATE;
    }
    CancelCodeError {
        NotFound(_) => not_found ENROLLMENT_CODE_NOT_FOUND;
        NotPending(..) => failed_precondition ENROLLMENT_STATE;
    }
    FetchKeyError {
        NotFound => unauthenticated NODE_NOT_ENROLLED;
        Repeated(_) => failed_precondition KEY_REQUEST_REPEATED;
        Used => failed_precondition NODE_KEY_USED;
        Expired => failed_precondition NODE_KEY_EXPIRED;
    }
    RenameNodeError {
        NotFound(_) => not_found NODE_NOT_FOUND;
        NameTaken { .. } => failed_precondition NAME_TAKEN;
    }
    DeleteDevicesError {
        NotFound(_) => not_found DEVICE_NOT_FOUND;
    }
    MoveNodeError {
        NotFound(_) => not_found NODE_NOT_FOUND;
        NoSite(_) => not_found SITE_NOT_FOUND;
    }
    SiteError {
        NotFound(_) => not_found SITE_NOT_FOUND;
        NameTaken { .. } => failed_precondition SITE_NAME_TAKEN;
        NotEmpty { .. } => failed_precondition SITE_NOT_EMPTY;
        TooMany { .. } => failed_precondition TOO_MANY_EXCLUDES;
        Excluded { .. } => failed_precondition ALREADY_EXCLUDED;
        NoExclude(_) => not_found EXCLUDE_NOT_FOUND;
    }
    CreateScanError {
        NodeNotFound(_) => not_found NODE_NOT_FOUND;
        NotConfirmed(_) => failed_precondition NODE_NOT_CONFIRMED;
        Busy(_) => resource_exhausted NODE_BUSY;
        QueueFull { .. } => resource_exhausted QUEUE_FULL;
    }
    ScheduleError {
        NotFound(_) => not_found SCHEDULE_NOT_FOUND;
        NodeNotFound(_) => not_found NODE_NOT_FOUND;
        NameTaken(_) => failed_precondition NAME_TAKEN;
        TooMany => resource_exhausted TOO_MANY_SCHEDULES;
        Paused(_) | NotPaused(_) => failed_precondition SCHEDULE_STATE;
    }
    CancelScanError {
        NotFound(_) => not_found SCAN_NOT_FOUND;
    }
    ReportError {
        NotInFlight(_) => failed_precondition COMMAND_NOT_IN_FLIGHT;
        AwaitsPins(_) => unavailable NAMES_NOT_PINNED_YET, retry PINS_SOON;
        BeingDialed(_) => unavailable ADDRESS_BEING_DIALED, retry DIALED_SOON;
        OverQuota { .. } | Flooded(_) => resource_exhausted QUOTA_EXCEEDED;
    }
    KeyError {
        NotFound(_) => not_found KEY_NOT_FOUND;
        NoOperator(_) => not_found OPERATOR_NOT_FOUND;
        TooMany(_) => resource_exhausted TOO_MANY_KEYS;
        MakerEnded => failed_precondition CREDENTIAL_INVALID;
    }
    BindError {
        NodeNotFound(_) => not_found NODE_NOT_FOUND;
        DeviceNotFound(_) => not_found DEVICE_NOT_FOUND;
        BeingDialed(_) => unavailable ADDRESS_BEING_DIALED;
        Refused { .. } => failed_precondition DEVICE_NOT_AVAILABLE;
    }
    MemberError {
        NotFound(_) => not_found OPERATOR_NOT_FOUND;
        LastAdmin(_) => failed_precondition LAST_ADMINISTRATOR;
        PasswordChanged(_) => failed_precondition PASSWORD_CHANGED;
    }
    CreatePairingError {
        NodeNotFound(_) => not_found NODE_NOT_FOUND;
        NotConfirmed(_) => failed_precondition NODE_NOT_CONFIRMED;
        Busy(_) => resource_exhausted NODE_BUSY;
    }
    CancelPairingError {
        NotFound(_) => not_found PAIRING_NOT_FOUND;
    }
    UnbindError {
        NotFound(_) => not_found DEVICE_NOT_FOUND;
    }
}

impl Refusal for RunNowError {
    fn refusal(self) -> RpcError {
        match self {
            Self::NotFound(_) => {
                RpcError::not_found(self.to_string()).with_reason("SCHEDULE_NOT_FOUND")
            }
            Self::Open(_) => {
                RpcError::failed_precondition(self.to_string()).with_reason("SCHEDULE_RUNS")
            }
            Self::Scan(error) => error.refusal(),
        }
    }
}

impl Refusal for CreateOperatorError {
    fn refusal(self) -> RpcError {
        match &self {
            Self::EmailTaken(email) => RpcError::failed_precondition(format!(
                "an operator of this organization has the e-mail `{email}` already: choose another one"
            )),
            Self::OrgDiffersInCase { .. } => RpcError::failed_precondition(self.to_string()),
            Self::Storage(error) => storage(error),
        }
    }
}
