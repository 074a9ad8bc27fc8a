//! The error of a call, as handlers raise it and as clients receive it, with the details both sides know.

use std::{fmt, time::Duration};

use bytes::Bytes;
use prost::Message;

use crate::{
    common::{CommonErrorCode, FleetErrorDetails, fleet_error_details},
    google_rpc::RetryInfo,
};

const FLEET_DETAILS: &str = "common.v1.FleetErrorDetails";
const RETRY_INFO: &str = "google.rpc.RetryInfo";

/// Why a call failed: the codes that gRPC and Connect share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The caller gave up.
    Canceled,
    /// An error without a code.
    Unknown,
    /// The request can never succeed.
    InvalidArgument,
    /// Not done in time.
    DeadlineExceeded,
    /// What the request names is not there, for this caller.
    NotFound,
    /// What the request would create is there.
    AlreadyExists,
    /// The caller is known and may not.
    PermissionDenied,
    /// A limit is reached; later may do.
    ResourceExhausted,
    /// The state of things does not allow it.
    FailedPrecondition,
    /// Lost a race; the whole operation may be tried again.
    Aborted,
    /// Past the end of what there is.
    OutOfRange,
    /// Nobody here does that.
    Unimplemented,
    /// A fault of this side.
    Internal,
    /// Not now; the same call may be tried again.
    Unavailable,
    /// Data is damaged.
    DataLoss,
    /// The caller is not known.
    Unauthenticated,
}

impl Code {
    /// The name on the wire, `snake_case`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Canceled => "canceled",
            Self::Unknown => "unknown",
            Self::InvalidArgument => "invalid_argument",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::PermissionDenied => "permission_denied",
            Self::ResourceExhausted => "resource_exhausted",
            Self::FailedPrecondition => "failed_precondition",
            Self::Aborted => "aborted",
            Self::OutOfRange => "out_of_range",
            Self::Unimplemented => "unimplemented",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::DataLoss => "data_loss",
            Self::Unauthenticated => "unauthenticated",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A message that explains an error to programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail {
    /// The full name of the message, without a prefix.
    pub type_name: String,
    /// The encoded message.
    pub value: Bytes,
}

/// The failure of a call. What it says reaches the peer: nothing internal belongs into it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct RpcError {
    /// The kind of failure.
    pub code: Code,
    /// For people.
    pub message: String,
    /// For programs.
    pub details: Vec<Detail>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $code:ident;)*) => {
        $($(#[$doc])*
        pub fn $name(message: impl Into<String>) -> Self {
            Self::new(Code::$code, message)
        })*
    };
}

impl RpcError {
    /// Makes an error without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: Vec::new(),
        }
    }

    constructors! {
        /// The request can never succeed.
        invalid_argument => InvalidArgument;
        /// Not done in time.
        deadline_exceeded => DeadlineExceeded;
        /// What the request names is not there, for this caller.
        not_found => NotFound;
        /// What the request would create is there.
        already_exists => AlreadyExists;
        /// The caller is known and may not.
        permission_denied => PermissionDenied;
        /// A limit is reached.
        resource_exhausted => ResourceExhausted;
        /// The state of things does not allow it.
        failed_precondition => FailedPrecondition;
        /// Lost a race.
        aborted => Aborted;
        /// Past the end of what there is.
        out_of_range => OutOfRange;
        /// Nobody here does that.
        unimplemented => Unimplemented;
        /// A fault of this side; the message must not say more than an id that is in the log.
        internal => Internal;
        /// Not now.
        unavailable => Unavailable;
        /// The caller is not known.
        unauthenticated => Unauthenticated;
        /// The operation was canceled.
        canceled => Canceled;
    }

    /// The structured "this server does not serve now", on which nodes come back within 1.5 s.
    pub fn not_active(message: impl Into<String>) -> Self {
        let code = fleet_error_details::Code::Common(CommonErrorCode::NotActive.into());
        Self::unavailable(message)
            .with_detail(FLEET_DETAILS, &FleetErrorDetails { code: Some(code) })
    }

    /// Adds a detail; `type_name` is the full name of the message.
    #[must_use]
    pub fn with_detail(mut self, type_name: &str, message: &impl Message) -> Self {
        self.details.push(Detail {
            type_name: type_name.to_owned(),
            value: message.encode_to_vec().into(),
        });
        self
    }

    /// Adds the hint when to come back, a `google.rpc.RetryInfo`.
    #[must_use]
    pub fn with_retry_after(self, delay: Duration) -> Self {
        let seconds = i64::try_from(delay.as_secs()).unwrap_or(i64::MAX);
        let nanos = i32::try_from(delay.subsec_nanos()).unwrap_or(0);
        self.with_detail(
            RETRY_INFO,
            &RetryInfo {
                retry_delay: Some(crate::Duration { seconds, nanos }),
            },
        )
    }

    /// Decodes the first detail of that type; what does not decode is not there.
    pub fn detail<M: Message + Default>(&self, type_name: &str) -> Option<M> {
        let detail = self.details.iter().find(|d| d.type_name == type_name)?;
        M::decode(detail.value.clone()).ok()
    }

    /// Whether a server said in structure that it does not serve now.
    pub fn is_not_active(&self) -> bool {
        let wanted = Some(fleet_error_details::Code::Common(
            CommonErrorCode::NotActive.into(),
        ));
        self.code == Code::Unavailable
            && self
                .detail::<FleetErrorDetails>(FLEET_DETAILS)
                .is_some_and(|d| d.code == wanted)
    }

    /// When to come back, if the peer said so; negative and absurd values are no hint.
    pub fn retry_after(&self) -> Option<Duration> {
        let delay = self.detail::<RetryInfo>(RETRY_INFO)?.retry_delay?;
        Some(Duration::new(
            u64::try_from(delay.seconds).ok()?,
            u32::try_from(delay.nanos)
                .ok()
                .filter(|n| *n < 1_000_000_000)?,
        ))
    }
}
