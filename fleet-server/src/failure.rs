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

/// Maps each operation's errors to a status, a stable reason and facts by stable keys, with the error's own sentence.
/// `Storage` is common to all. docs/api.md lists the reasons and keys.
macro_rules! refusals {
    ($($error:ident {
        $($variant:pat => $status:ident $reason:ident $([$($key:ident = $fact:expr),+])? $(, retry $after:expr)?;)+
    })+) => {$(
        impl Refusal for $error {
            fn refusal(self) -> RpcError {
                use $error::*;
                match &self {
                    $($variant => RpcError::$status(self.to_string())
                        .with_reason(stringify!($reason))
                        $($(.with_fact(stringify!($key), $fact))+)?
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
        NotFound(node) => not_found NODE_NOT_FOUND [node_id = node];
        NotRevoked(node) => failed_precondition NODE_NOT_REVOKED [node_id = node];
        Replaced { .. } => failed_precondition NODE_ALREADY_REPLACED;
        TooMany => resource_exhausted TOO_MANY_CODES;
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
        NotConfirmed(node) => failed_precondition NODE_NOT_CONFIRMED [node_id = node];
    }
    ConfirmError {
        NotFound(node) => not_found NODE_NOT_FOUND [node_id = node];
        Refused(_) => failed_precondition ENROLLMENT_STATE;
    }
    RevokeError {
        NotFound(node) => not_found NODE_NOT_FOUND [node_id = node];
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
        NotFound(node) => not_found NODE_NOT_FOUND [node_id = node];
        NoSite(site) => not_found SITE_NOT_FOUND [site_id = site];
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
        NodeNotFound(node) => not_found NODE_NOT_FOUND [node_id = node];
        NotConfirmed(node) => failed_precondition NODE_NOT_CONFIRMED [node_id = node];
        Busy(node) => resource_exhausted NODE_BUSY [node_id = node];
        QueueFull { node, most } => resource_exhausted QUEUE_FULL [node_id = node, limit = most];
    }
    ScheduleError {
        NotFound(_) => not_found SCHEDULE_NOT_FOUND;
        NodeNotFound(_) => not_found NODE_NOT_FOUND;
        NameTaken(_) => failed_precondition NAME_TAKEN;
        TooMany => resource_exhausted TOO_MANY_SCHEDULES;
        Paused(_) | NotPaused(_) => failed_precondition SCHEDULE_STATE;
    }
    CancelScanError {
        NotFound(scan) => not_found SCAN_NOT_FOUND [scan_id = scan];
    }
    ReportError {
        NotInFlight(command) => failed_precondition COMMAND_NOT_IN_FLIGHT [command_id = command];
        AwaitsPins(_) => unavailable NAMES_NOT_PINNED_YET, retry PINS_SOON;
        BeingDialed(_) => unavailable ADDRESS_BEING_DIALED, retry DIALED_SOON;
        OverQuota { command, quota } => resource_exhausted QUOTA_EXCEEDED [command_id = command, limit = quota];
        Flooded(command) => resource_exhausted QUOTA_EXCEEDED [command_id = command];
    }
    KeyError {
        NotFound(key) => not_found KEY_NOT_FOUND [key_id = key];
        NoOperator(_) => not_found OPERATOR_NOT_FOUND;
        TooMany(_) => resource_exhausted TOO_MANY_KEYS;
        MakerEnded => failed_precondition CREDENTIAL_INVALID;
        MadeByIt(key) => failed_precondition KEY_IS_THE_MAKER [key_id = key];
    }
    BindError {
        NodeNotFound(node) => not_found NODE_NOT_FOUND [node_id = node];
        DeviceNotFound(device) => not_found DEVICE_NOT_FOUND [device_id = device];
        BeingDialed(_) => unavailable ADDRESS_BEING_DIALED;
        Refused { device, .. } => failed_precondition DEVICE_NOT_AVAILABLE [device_id = device];
    }
    MemberError {
        NotFound(_) => not_found OPERATOR_NOT_FOUND;
        LastAdmin(_) => failed_precondition LAST_ADMINISTRATOR;
        PasswordChanged(_) => failed_precondition PASSWORD_CHANGED;
    }
    CreatePairingError {
        NodeNotFound(node) => not_found NODE_NOT_FOUND [node_id = node];
        NotConfirmed(node) => failed_precondition NODE_NOT_CONFIRMED [node_id = node];
        Busy(node) => resource_exhausted NODE_BUSY [node_id = node];
    }
    CancelPairingError {
        NotFound(pairing) => not_found PAIRING_NOT_FOUND [pairing_id = pairing];
    }
    UnbindError {
        NotFound(device) => not_found DEVICE_NOT_FOUND [device_id = device];
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
            Self::Changed(_) => {
                RpcError::failed_precondition(self.to_string()).with_reason("SCHEDULE_CHANGED")
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

#[cfg(test)]
mod tests {
    use fleet_core::NodeId;

    use super::*;

    #[test]
    fn an_error_states_its_cause_to_programs() {
        let full = CreateScanError::QueueFull {
            node: NodeId(7),
            most: 100,
        };
        let error = full.refusal();
        assert_eq!(error.reason().as_deref(), Some("QUEUE_FULL"));
        let facts: Vec<_> = error.facts().into_iter().collect();
        let expected = [("limit", "100"), ("node_id", "7")];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(facts, expected);
    }
}
