//! What callers are told when storage refuses or fails: refusals keep their sentence, trouble becomes
//! UNAVAILABLE with an id that is in the log.

use std::time::Duration;

use fleet_core::outcome;
use fleet_store::{
    BeginError, BindError, CancelCodeError, CancelPairingError, CancelScanError, ConfirmError,
    CreateCodeError, CreateOperatorError, CreatePairingError, CreateScanError, KeyError,
    MemberError, RegisterError, ReportError, RevokeError, StoreError, UnbindError, UndoError,
};
use fleet_wire::{Code, RpcError};

use crate::watch::WatchError;

/// When a report may come again that has overtaken what names resolve to: the two are moments apart.
const PINS_SOON: Duration = Duration::from_millis(100);
/// When a report may come again at whose addresses the server itself dials: it has waited already.
const DIALED_SOON: Duration = Duration::from_secs(2);

/// The answer for storage trouble; the database's words go to the log only.
pub(crate) fn storage(error: &StoreError) -> RpcError {
    let mut id = [0_u8; 4];
    let id = getrandom::fill(&mut id).map_or(0, |()| u32::from_be_bytes(id));
    tracing::error!(incident = format_args!("{id:08x}"), %error, "storage failed");
    RpcError::unavailable(format!(
        "the server cannot reach its storage now, try again shortly (incident {id:08x})"
    ))
}

/// The code on the wire.
pub(crate) fn code(code: outcome::Code) -> Code {
    match code {
        // A scan that ended well is no failure; asked for its failure, nothing is known of one.
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

/// Turns an operation's refusal into the answer.
pub(crate) trait Refusal {
    /// The answer.
    fn refusal(self) -> RpcError;
}

impl Refusal for StoreError {
    fn refusal(self) -> RpcError {
        storage(&self)
    }
}

impl Refusal for RegisterError {
    fn refusal(self) -> RpcError {
        match &self {
            Self::Code => RpcError::unauthenticated(self.to_string()),
            Self::NameTaken(_) | Self::KeyTaken | Self::ReplacementTaken { .. } => {
                RpcError::failed_precondition(self.to_string())
            }
            Self::Storage(error) => storage(error),
        }
    }
}

impl Refusal for CreateCodeError {
    fn refusal(self) -> RpcError {
        match &self {
            Self::NotFound(_) => RpcError::not_found(self.to_string()),
            Self::NotRevoked(_) | Self::Replaced { .. } => {
                RpcError::failed_precondition(self.to_string())
            }
            Self::Storage(error) => storage(error),
        }
    }
}

impl Refusal for UndoError {
    fn refusal(self) -> RpcError {
        match &self {
            Self::NotFound(_) => RpcError::not_found(self.to_string()),
            Self::Refused(_) => RpcError::failed_precondition(self.to_string()),
            Self::Storage(error) => storage(error),
        }
    }
}

impl Refusal for BeginError {
    fn refusal(self) -> RpcError {
        match &self {
            Self::Credentials => RpcError::unauthenticated(self.to_string()),
            Self::NotConfirmed(_) => RpcError::failed_precondition(self.to_string()),
            Self::Storage(error) => storage(error),
        }
    }
}

impl Refusal for ConfirmError {
    fn refusal(self) -> RpcError {
        match &self {
            Self::NotFound(_) => RpcError::not_found(self.to_string()),
            Self::Refused(_) => RpcError::failed_precondition(self.to_string()),
            Self::Storage(error) => storage(error),
        }
    }
}

impl Refusal for RevokeError {
    fn refusal(self) -> RpcError {
        match &self {
            Self::NotFound(_) => RpcError::not_found(self.to_string()),
            Self::PendingIdMissing(_) => RpcError::invalid_argument(self.to_string()),
            Self::Refused(_) => RpcError::failed_precondition(self.to_string()),
            Self::Storage(error) => storage(error),
        }
    }
}

impl Refusal for CancelCodeError {
    fn refusal(self) -> RpcError {
        match &self {
            Self::NotFound(_) => RpcError::not_found(self.to_string()),
            Self::NotPending(..) => RpcError::failed_precondition(self.to_string()),
            Self::Storage(error) => storage(error),
        }
    }
}

impl Refusal for CreateScanError {
    fn refusal(self) -> RpcError {
        match &self {
            Self::NodeNotFound(_) => RpcError::not_found(self.to_string()),
            Self::NotConfirmed(_) => RpcError::failed_precondition(self.to_string()),
            Self::Busy(_) | Self::QueueFull { .. } => {
                RpcError::resource_exhausted(self.to_string())
            }
            Self::Storage(error) => storage(error),
        }
    }
}

impl Refusal for CancelScanError {
    fn refusal(self) -> RpcError {
        match &self {
            Self::NotFound(_) => RpcError::not_found(self.to_string()),
            Self::Storage(error) => storage(error),
        }
    }
}

impl Refusal for ReportError {
    fn refusal(self) -> RpcError {
        match &self {
            Self::NotInFlight(_) => RpcError::failed_precondition(self.to_string()),
            Self::AwaitsPins(_) => {
                RpcError::unavailable(self.to_string()).with_retry_after(PINS_SOON)
            }
            Self::BeingDialed(_) => {
                RpcError::unavailable(self.to_string()).with_retry_after(DIALED_SOON)
            }
            Self::OverQuota { .. } | Self::Flooded(_) => {
                RpcError::resource_exhausted(self.to_string())
            }
            Self::Storage(error) => storage(error),
        }
    }
}

impl Refusal for KeyError {
    fn refusal(self) -> RpcError {
        match &self {
            Self::NotFound(_) | Self::NoOperator(_) => RpcError::not_found(self.to_string()),
            Self::TooMany(_) => RpcError::resource_exhausted(self.to_string()),
            Self::Storage(error) => storage(error),
        }
    }
}

impl Refusal for BindError {
    fn refusal(self) -> RpcError {
        match &self {
            Self::NodeNotFound(_) | Self::DeviceNotFound(_) => {
                RpcError::not_found(self.to_string())
            }
            Self::BeingDialed(_) => RpcError::unavailable(self.to_string()),
            Self::Refused { .. } => RpcError::failed_precondition(self.to_string()),
            Self::Storage(error) => storage(error),
        }
    }
}

impl Refusal for MemberError {
    fn refusal(self) -> RpcError {
        match &self {
            Self::NotFound(_) => RpcError::not_found(self.to_string()),
            Self::LastAdmin(_) => RpcError::failed_precondition(self.to_string()),
            Self::Storage(error) => storage(error),
        }
    }
}

impl Refusal for CreatePairingError {
    fn refusal(self) -> RpcError {
        match &self {
            Self::NodeNotFound(_) => RpcError::not_found(self.to_string()),
            Self::NotConfirmed(_) => RpcError::failed_precondition(self.to_string()),
            Self::Busy(_) => RpcError::resource_exhausted(self.to_string()),
            Self::Storage(error) => storage(error),
        }
    }
}

impl Refusal for CancelPairingError {
    fn refusal(self) -> RpcError {
        match &self {
            Self::NotFound(_) => RpcError::not_found(self.to_string()),
            Self::Storage(error) => storage(error),
        }
    }
}

impl Refusal for CreateOperatorError {
    fn refusal(self) -> RpcError {
        match &self {
            // Whose it is, in this organization or another, is nobody's business.
            Self::EmailTaken(email) => RpcError::failed_precondition(format!(
                "an operator with the e-mail `{email}` exists already: choose another one"
            )),
            Self::Storage(error) => storage(error),
        }
    }
}

impl Refusal for UnbindError {
    fn refusal(self) -> RpcError {
        match &self {
            Self::NotFound(_) => RpcError::not_found(self.to_string()),
            Self::Storage(error) => storage(error),
        }
    }
}

impl Refusal for WatchError {
    fn refusal(self) -> RpcError {
        match &self {
            Self::NotFound(_) => RpcError::not_found(self.to_string()),
            Self::Ahead { .. } => RpcError::out_of_range(self.to_string()),
            Self::Draining => RpcError::unavailable(self.to_string()),
            Self::Storage(error) => storage(error),
        }
    }
}
