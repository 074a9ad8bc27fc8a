//! Inputs and outputs of a [`NodeLink`](super::NodeLink), as values. Start with [`Output`].

use std::{fmt, time::Duration};

/// A command id as the server wrote it. An upstream server may use any text, so ids are compared and never parsed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireCommandId(Box<str>);

/// A command id with a length that the wire protocol forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a command id has 1 to 128 characters, this one has {0}")]
pub struct InvalidCommandId(usize);

impl WireCommandId {
    /// Accepts an id of 1 to 128 characters.
    ///
    /// # Errors
    /// [`InvalidCommandId`] for any other length.
    pub fn new(text: &str) -> Result<Self, InvalidCommandId> {
        match text.chars().count() {
            1..=128 => Ok(Self(text.into())),
            length => Err(InvalidCommandId(length)),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WireCommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_debug().fmt(f)
    }
}

impl fmt::Debug for WireCommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WireCommandId({:?})", self.0)
    }
}

/// The number of a connection attempt, never reused by a link. Messages of earlier attempts are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt(pub u64);

/// An action for the caller. Exhaustive on purpose: a new variant must break callers that do not handle it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Do a handshake within 30 s, then call `session_opened` or `handshake_failed`. The session in use stays in use
    /// until then.
    Handshake,
    /// Send a heartbeat within 30 s, then call `heartbeat_done`.
    Heartbeat,
    /// Open the control stream and send Hello with [`hello_running`](super::NodeLink::hello_running).
    OpenStream(Attempt),
    /// Drop the stream. Its later messages are ignored.
    CloseStream(Attempt),
    /// Start a command. Call `finished` when its last report is settled.
    Start(WireCommandId),
    /// Send a BUSY ack, because another command runs. The ack is not kept: a server that misses it sees that the
    /// next Hello does not list the command.
    AckBusy {
        /// The stream to use.
        attempt: Attempt,
        /// The command that is not started.
        command: WireCommandId,
    },
    /// Stop the packets of the running command within 1 s, keep its results, and finish as usual.
    CancelScan {
        /// The command to stop.
        command: WireCommandId,
        /// Why it stops.
        reason: CancelReason,
    },
    /// Send the ack of a finished command. Keep the ack until [`Forget`](Self::Forget): it may have to be sent again.
    SendAck {
        /// The stream to use.
        attempt: Attempt,
        /// The finished command.
        command: WireCommandId,
    },
    /// Delete the stored ack of a command.
    Forget(WireCommandId),
    /// The link has ended permanently: display the advice and exit. This is the last output.
    Stop(StopReason),
}

/// Why a running command must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// The server requested it.
    Requested,
    /// The stream was lost, and the server (an upstream one) cannot resume the command.
    Abandoned,
    /// The link has ended permanently.
    Stopping,
}

/// Why a link ends permanently. `Display` is advice for the administrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    /// BeginAuthHandshake returned UNAUTHENTICATED.
    #[error(
        "the server rejects this node's API key; ask an operator whether the node was revoked, and if so, enroll it again with a new code"
    )]
    KeyRefused,
    /// A heartbeat or the stream returned NOT_FOUND.
    #[error("the server no longer knows this node; enroll it again with a new code")]
    NodeUnknown,
    /// The server reported that the node was revoked.
    #[error(
        "an operator revoked this node; if that was a mistake, enroll it again with a new code"
    )]
    Revoked,
}

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// BeginAuthHandshake returned UNAUTHENTICATED. This is final.
    KeyRefused,
    /// RESOURCE_EXHAUSTED with a retry hint.
    Limited {
        /// The delay in the hint.
        retry_after: Duration,
    },
    /// Any other failure: no connection, not confirmed yet, Complete rejected, an internal error.
    Other,
}

/// Why a heartbeat failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatFailure {
    /// NOT_FOUND. This is final.
    NodeUnknown,
    /// UNAUTHENTICATED: the session is no longer valid.
    Unauthenticated,
    /// Any other failure.
    Other,
}

/// Why a stream ended, or could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// NOT_FOUND. This is final.
    NodeUnknown,
    /// UNAUTHENTICATED: the session is no longer valid.
    Unauthenticated,
    /// UNIMPLEMENTED: this server has no control stream.
    Unimplemented,
    /// UNAVAILABLE with the structured detail NOT_ACTIVE: an upstream server that shuts down or is on standby.
    NotActive,
    /// RESOURCE_EXHAUSTED with a retry hint.
    Limited {
        /// The delay in the hint.
        retry_after: Duration,
    },
    /// Any other end, including a clean one.
    Lost,
}

/// The reason in a goodbye of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoodbyeReason {
    /// The server is shutting down.
    Drain,
    /// A newer stream of this node has replaced this one.
    Replaced,
    /// The node was revoked. This is final.
    Revoked,
    /// Another machine uses this identity and keeps its stream.
    Duplicate,
    /// A reason of a later version.
    Unspecified,
}

impl fmt::Display for StreamEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NodeUnknown => "the server does not know this node",
            Self::Unauthenticated => "the session is no longer valid",
            Self::Unimplemented => "the server has no control stream",
            Self::NotActive => "the server is not active",
            Self::Limited { retry_after } => {
                return write!(
                    f,
                    "the server limits this node for {} ms",
                    retry_after.as_millis()
                );
            }
            Self::Lost => "the connection was lost",
        })
    }
}

impl fmt::Display for GoodbyeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drain => "the server is shutting down",
            Self::Replaced => "a newer stream of this node replaced it",
            Self::Revoked => "the node was revoked",
            Self::Duplicate => "another machine uses this node's identity",
            Self::Unspecified => "no known reason",
        })
    }
}
