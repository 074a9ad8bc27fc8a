//! How failures of operations reach callers. Refusals keep their sentence. Storage failures become UNAVAILABLE with an
//! id that is in the log.

mod plan;

use std::time::Duration;

use fleet_core::outcome;
use fleet_store::{
    ALERT_CHANNELS_OF_AN_ORG, ALERT_RULES_OF_AN_ORG, ALERTS_WAITING, AlertError, AnnotateError,
    BeginError, BindError, CancelCodeError, CancelPairingError, CancelScanError, ConfirmError,
    CreateCodeError, CreateOperatorError, CreatePairingError, CreateScanError, DeleteDevicesError,
    DifferenceError, FetchKeyError, KEYS_OF_AN_OPERATOR, KeyError, MemberError, MoveNodeError,
    RegisterError, RenameNodeError, ReportError, RevokeError, RunNowError, SCHEDULES_OF_AN_ORG,
    ScheduleError, SiteError, StoreError, UnbindError, UndoError,
};
use fleet_wire::{Code, RpcError};
pub(crate) use plan::plan;

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
    .with_fact("incident", format_args!("{id:08x}"))
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
        NameTaken(name) => failed_precondition NAME_TAKEN [value = name];
        KeyTaken => failed_precondition IDENTITY_KEY_TAKEN;
        ReplacementTaken { node, .. } => failed_precondition NODE_ALREADY_REPLACED [node_id = node];
    }
    CreateCodeError {
        NotFound(node) => not_found NODE_NOT_FOUND [node_id = node];
        NotRevoked(node) => failed_precondition NODE_NOT_REVOKED [node_id = node];
        Replaced { node, .. } => failed_precondition NODE_ALREADY_REPLACED [node_id = node];
        TooMany => resource_exhausted TOO_MANY_CODES;
    }
    DifferenceError {
        NotFound(scan) => not_found SCAN_NOT_FOUND [scan_id = scan];
        Itself(scan) => invalid_argument SAME_SCAN [scan_id = scan];
    }
    UndoError {
        NotFound(change) => not_found IDENTITY_CHANGE_NOT_FOUND [change_id = change];
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
        PendingIdMissing(node) => invalid_argument PENDING_ENROLLMENT_ID_MISSING [node_id = node];
        Refused(_) => failed_precondition ENROLLMENT_STATE;
    }
    CancelCodeError {
        NotFound(code) => not_found ENROLLMENT_CODE_NOT_FOUND [pending_enrollment_id = code];
        NotPending(code, state) => failed_precondition ENROLLMENT_STATE [pending_enrollment_id = code, state = state];
    }
    FetchKeyError {
        NotFound => unauthenticated NODE_NOT_ENROLLED;
        Repeated(_) => failed_precondition KEY_REQUEST_REPEATED;
        Used => failed_precondition NODE_KEY_USED;
        Expired => failed_precondition NODE_KEY_EXPIRED;
    }
    RenameNodeError {
        NotFound(node) => not_found NODE_NOT_FOUND [node_id = node];
        NameTaken { name, .. } => failed_precondition NAME_TAKEN [value = name];
    }
    AnnotateError {
        NotFound(device) => not_found DEVICE_NOT_FOUND [value = device];
        TooMany { device, most, .. } => failed_precondition TOO_MANY_LABELS [device_id = device, limit = most];
    }
    DeleteDevicesError {
        NotFound(device) => not_found DEVICE_NOT_FOUND [value = device];
    }
    MoveNodeError {
        NotFound(node) => not_found NODE_NOT_FOUND [node_id = node];
        NoSite(site) => not_found SITE_NOT_FOUND [site_id = site];
    }
    SiteError {
        NotFound(site) => not_found SITE_NOT_FOUND [site_id = site];
        NameTaken { name, .. } => failed_precondition SITE_NAME_TAKEN [value = name];
        NotEmpty { site, .. } => failed_precondition SITE_NOT_EMPTY [site_id = site];
        TooMany { site, most, .. } => failed_precondition TOO_MANY_EXCLUDES [site_id = site, limit = most];
        TooManyTogether { most, .. } => resource_exhausted TOO_MANY_EXCLUDES_OF_SITES [limit = most];
        TooManySites(most) => resource_exhausted TOO_MANY_SITES [limit = most];
        Excluded { site, target } => failed_precondition ALREADY_EXCLUDED [site_id = site, value = target];
        NoExclude(exclude) => not_found EXCLUDE_NOT_FOUND [exclude_id = exclude];
    }
    CreateScanError {
        NodeNotFound(node) => not_found NODE_NOT_FOUND [node_id = node];
        NotConfirmed(node) => failed_precondition NODE_NOT_CONFIRMED [node_id = node];
        Busy(node) => resource_exhausted NODE_BUSY [node_id = node];
        QueueFull { node, most } => resource_exhausted QUEUE_FULL [node_id = node, limit = most];
    }
    AlertError {
        ChannelNotFound(channel) => not_found ALERT_CHANNEL_NOT_FOUND [channel_id = channel];
        RuleNotFound(rule) => not_found ALERT_RULE_NOT_FOUND [rule_id = rule];
        DeliveryNotFound(delivery) => not_found ALERT_DELIVERY_NOT_FOUND [delivery_id = delivery];
        NameTaken(name) => failed_precondition NAME_TAKEN [value = name];
        TooManyRules => resource_exhausted TOO_MANY_ALERT_RULES [limit = ALERT_RULES_OF_AN_ORG];
        TooManyChannels => resource_exhausted TOO_MANY_ALERT_CHANNELS [limit = ALERT_CHANNELS_OF_AN_ORG];
        TooManyWaiting => resource_exhausted TOO_MANY_ALERTS [limit = ALERTS_WAITING];
        NotFailed(delivery, state) => failed_precondition ALERT_DELIVERY_STATE [delivery_id = delivery, state = state];
    }
    ScheduleError {
        NotFound(schedule) => not_found SCHEDULE_NOT_FOUND [schedule_id = schedule];
        NodeNotFound(node) => not_found NODE_NOT_FOUND [node_id = node];
        NameTaken(name) => failed_precondition NAME_TAKEN [value = name];
        TooMany => resource_exhausted TOO_MANY_SCHEDULES [limit = SCHEDULES_OF_AN_ORG];
        Paused(schedule) | NotPaused(schedule) => failed_precondition SCHEDULE_STATE [schedule_id = schedule];
    }
    CancelScanError {
        NotFound(scan) => not_found SCAN_NOT_FOUND [scan_id = scan];
    }
    ReportError {
        NotInFlight(command) => failed_precondition COMMAND_NOT_IN_FLIGHT [command_id = command];
        AwaitsPins(command) => unavailable NAMES_NOT_PINNED_YET [command_id = command], retry PINS_SOON;
        BeingDialed(ip) => unavailable ADDRESS_BEING_DIALED [value = ip], retry DIALED_SOON;
        OverQuota { command, quota } => resource_exhausted QUOTA_EXCEEDED [command_id = command, limit = quota];
        Flooded(command) => resource_exhausted QUOTA_EXCEEDED [command_id = command];
    }
    KeyError {
        NotFound(key) => not_found KEY_NOT_FOUND [key_id = key];
        NoOperator(operator) => not_found OPERATOR_NOT_FOUND [operator_id = operator];
        TooMany(operator) => resource_exhausted TOO_MANY_KEYS [operator_id = operator, limit = KEYS_OF_AN_OPERATOR];
        MakerEnded => failed_precondition CREDENTIAL_INVALID;
        MadeByIt(key) => failed_precondition KEY_IS_THE_MAKER [key_id = key];
    }
    BindError {
        NodeNotFound(node) => not_found NODE_NOT_FOUND [node_id = node];
        DeviceNotFound(device) => not_found DEVICE_NOT_FOUND [device_id = device];
        BeingDialed(ip) => unavailable ADDRESS_BEING_DIALED [value = ip], retry DIALED_SOON;
        Refused { device, .. } => failed_precondition DEVICE_NOT_AVAILABLE [device_id = device];
    }
    MemberError {
        NotFound(operator) => not_found OPERATOR_NOT_FOUND [operator_id = operator];
        LastAdmin(operator) => failed_precondition LAST_ADMINISTRATOR [operator_id = operator];
        NotLinked(operator) => failed_precondition OPERATOR_NOT_LINKED [operator_id = operator];
        PasswordChanged(operator) => failed_precondition PASSWORD_CHANGED [operator_id = operator];
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
            Self::NotFound(schedule) => RpcError::not_found(self.to_string())
                .with_reason("SCHEDULE_NOT_FOUND")
                .with_fact("schedule_id", schedule),
            Self::Open(scan) => RpcError::failed_precondition(self.to_string())
                .with_reason("SCHEDULE_RUNS")
                .with_fact("scan_id", scan),
            Self::Changed(schedule) => RpcError::failed_precondition(self.to_string())
                .with_reason("SCHEDULE_CHANGED")
                .with_fact("schedule_id", schedule),
            Self::Scan(error) => error.refusal(),
        }
    }
}

impl Refusal for CreateOperatorError {
    fn refusal(self) -> RpcError {
        match &self {
            Self::EmailTaken(email) => RpcError::failed_precondition(format!(
                "an operator of this organization has the e-mail `{email}` already: choose another one"
            )).with_reason("EMAIL_TAKEN").with_fact("value", email),
            Self::OrgDiffersInCase { existing, .. } => RpcError::failed_precondition(self.to_string()).with_reason("ORGANIZATION_TAKEN").with_fact("value", existing),
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
