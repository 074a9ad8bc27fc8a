//! The error of a call, as handlers return it and clients receive it, with the details that both sides know.

use std::{collections::BTreeMap, fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use http::HeaderMap;
use prost::Message;

use crate::{
    common::{CommonErrorCode, FleetErrorDetails, fleet_error_details},
    google_rpc::{ErrorInfo, RetryInfo},
};

const FLEET_DETAILS: &str = "common.v1.FleetErrorDetails";
const RETRY_INFO: &str = "google.rpc.RetryInfo";
const ERROR_INFO: &str = "google.rpc.ErrorInfo";
/// The domain of every reason.
const DOMAIN: &str = "fleet";

/// Why a call failed. gRPC and Connect share these codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The caller canceled the call.
    Canceled,
    /// The error has no code.
    Unknown,
    /// The request is invalid and can never succeed.
    InvalidArgument,
    /// The deadline passed.
    DeadlineExceeded,
    /// The requested object does not exist, or is not visible to this caller.
    NotFound,
    /// The object to create already exists.
    AlreadyExists,
    /// The caller is authenticated but lacks the permission.
    PermissionDenied,
    /// A limit is reached. A later retry may succeed.
    ResourceExhausted,
    /// The current state does not allow the operation.
    FailedPrecondition,
    /// A concurrent change won. The whole operation may be retried.
    Aborted,
    /// The position is past the end.
    OutOfRange,
    /// The server does not implement the method.
    Unimplemented,
    /// An internal fault of the server.
    Internal,
    /// The server is temporarily unavailable. The same call may be retried.
    Unavailable,
    /// Data is lost or corrupt.
    DataLoss,
    /// The caller is not authenticated.
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

/// A message that describes an error to programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail {
    /// The full name of the message type, without a prefix.
    pub type_name: String,
    /// The encoded message.
    pub value: Bytes,
}

/// Headers and trailers that go with an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorMetadata {
    /// Headers, sent before the error.
    pub headers: HeaderMap,
    /// Trailers, sent with the error.
    pub trailers: HeaderMap,
}

/// The failure of a call. All its fields are sent to the peer and must not contain internal information.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct RpcError {
    /// The kind of failure.
    pub code: Code,
    /// The message for people.
    pub message: String,
    /// The details for programs.
    pub details: Vec<Detail>,
    /// Headers and trailers, which few errors have.
    pub metadata: Option<Box<ErrorMetadata>>,
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
    /// Creates an error without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: Vec::new(),
            metadata: None,
        }
    }

    constructors! {
        /// The request is invalid and can never succeed.
        invalid_argument => InvalidArgument;
        /// The deadline passed.
        deadline_exceeded => DeadlineExceeded;
        /// The requested object does not exist, or is not visible to this caller.
        not_found => NotFound;
        /// The object to create already exists.
        already_exists => AlreadyExists;
        /// The caller is authenticated but lacks the permission.
        permission_denied => PermissionDenied;
        /// A limit is reached.
        resource_exhausted => ResourceExhausted;
        /// The current state does not allow the operation.
        failed_precondition => FailedPrecondition;
        /// A concurrent change won.
        aborted => Aborted;
        /// The position is past the end.
        out_of_range => OutOfRange;
        /// The server does not implement the method.
        unimplemented => Unimplemented;
        /// An internal fault. The message must contain no more than an id that is in the log.
        internal => Internal;
        /// The server is temporarily unavailable.
        unavailable => Unavailable;
        /// The caller is not authenticated.
        unauthenticated => Unauthenticated;
        /// The operation was canceled.
        canceled => Canceled;
        /// The request has no code that fits, such as one with a wrong HTTP method.
        unknown => Unknown;
    }

    /// Creates the structured error of a server that is not active. Nodes retry within 1.5 s.
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

    /// Adds a retry delay as `google.rpc.RetryInfo`.
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

    /// States the reason as `google.rpc.ErrorInfo`, for programs: an upper-case word that no later version changes.
    #[must_use]
    pub fn with_reason(self, reason: &str) -> Self {
        let info = ErrorInfo {
            reason: reason.to_owned(),
            domain: DOMAIN.to_owned(),
            ..ErrorInfo::default()
        };
        self.with_detail(ERROR_INFO, &info)
    }

    /// Returns the reason, if the error states one.
    pub fn reason(&self) -> Option<String> {
        Some(self.detail::<ErrorInfo>(ERROR_INFO)?.reason)
    }

    /// Adds a fact about the cause to the reason, for programs. docs/api.md lists the keys, which no later version
    /// changes. Without a reason, the error stays as it is.
    #[must_use]
    pub fn with_fact(mut self, key: &str, value: impl fmt::Display) -> Self {
        let info = self.detail::<ErrorInfo>(ERROR_INFO);
        let stated = self.details.iter_mut().find(|d| d.type_name == ERROR_INFO);
        if let (Some(mut info), Some(stated)) = (info, stated) {
            info.metadata.insert(key.to_owned(), value.to_string());
            stated.value = info.encode_to_vec().into();
        }
        self
    }

    /// Returns the facts about the cause, by key.
    pub fn facts(&self) -> BTreeMap<String, String> {
        let info = self.detail::<ErrorInfo>(ERROR_INFO);
        info.map_or_else(BTreeMap::new, |info| info.metadata.into_iter().collect())
    }

    /// The error as servers send it: with the code as the reason, unless it states one, and with the retry delay as a
    /// fact. An error with its own headers and trailers is sent as it is.
    #[must_use]
    pub fn explained(self) -> Self {
        if self.metadata.is_some() {
            return self;
        }
        let delay = self.retry_after();
        let explained = if self.details.iter().any(|d| d.type_name == ERROR_INFO) {
            self
        } else {
            let reason = self.code.as_str().to_ascii_uppercase();
            self.with_reason(&reason)
        };
        match delay {
            Some(delay) => explained.with_fact("retry_after_ms", delay.as_millis()),
            None => explained,
        }
    }

    /// The error as the body of a Connect response.
    pub fn to_json(&self) -> serde_json::Value {
        let details = self.details.iter().map(|detail| {
            let value = STANDARD_NO_PAD.encode(&detail.value);
            serde_json::json!({ "type": detail.type_name, "value": value })
        });
        serde_json::json!({
            "code": self.code.as_str(),
            "message": self.message,
            "details": details.collect::<Vec<_>>(),
        })
    }

    /// Decodes the first detail of this type. A detail that does not decode counts as missing.
    pub fn detail<M: Message + Default>(&self, type_name: &str) -> Option<M> {
        let detail = self.details.iter().find(|d| d.type_name == type_name)?;
        M::decode(detail.value.clone()).ok()
    }

    /// Whether the error states, as a detail, that the server is not active.
    pub fn is_not_active(&self) -> bool {
        let wanted = Some(fleet_error_details::Code::Common(
            CommonErrorCode::NotActive.into(),
        ));
        self.code == Code::Unavailable
            && self
                .detail::<FleetErrorDetails>(FLEET_DETAILS)
                .is_some_and(|d| d.code == wanted)
    }

    /// Returns the retry delay that the peer sent, if any. Negative and absurd values count as none.
    pub fn retry_after(&self) -> Option<Duration> {
        let delay = self.detail::<RetryInfo>(RETRY_INFO)?.retry_delay?;
        // `Duration::new` carries excess nanoseconds over, which can overflow and panic.
        Some(Duration::new(
            u64::try_from(delay.seconds).ok()?,
            u32::try_from(delay.nanos)
                .ok()
                .filter(|n| *n < 1_000_000_000)?,
        ))
    }
}
