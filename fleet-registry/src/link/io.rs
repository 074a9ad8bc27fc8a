//! What goes into a [`NodeLink`](super::NodeLink) and what comes out, as values. [`Output`] first.

use std::{fmt, time::Duration};

/// A command's id as the server spelled it. An upstream server may use any text, so it is compared, never read.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireCommandId(Box<str>);

/// A command id that the wire does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a command id has 1 to 128 characters, this one has {0}")]
pub struct InvalidCommandId(usize);

impl WireCommandId {
    /// Takes an id of 1 to 128 characters.
    ///
    /// # Errors
    /// [`InvalidCommandId`] for any other length.
    pub fn new(text: &str) -> Result<Self, InvalidCommandId> {
        match text.chars().count() {
            1..=128 => Ok(Self(text.into())),
            length => Err(InvalidCommandId(length)),
        }
    }

    /// The text.
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

/// One try to hold a control stream; never reused by a link. What an earlier try still says is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt(pub u64);

/// What the shell must do. Exhaustive on purpose: a new one must break every shell that forgot it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Do a handshake, within 30 s; answer with `session_opened` or `handshake_failed`. The session in use, if
    /// any, stays in use until then.
    Handshake,
    /// Send a heartbeat, within 30 s; answer with `heartbeat_done`.
    Heartbeat,
    /// Open the control stream and say Hello with [`hello_running`](super::NodeLink::hello_running).
    OpenStream(Attempt),
    /// Drop the stream; nothing more is heard from it.
    CloseStream(Attempt),
    /// Start a command. Answer with `finished` when its last report is settled.
    Start(WireCommandId),
    /// Answer BUSY on the stream: another command runs. Not kept: a server that misses it sees the command
    /// missing in the next Hello.
    AckBusy {
        /// On which stream.
        attempt: Attempt,
        /// What is not started.
        command: WireCommandId,
    },
    /// Stop the packets of the running command within 1 s, keep what was found, finish as usual.
    CancelScan {
        /// Which.
        command: WireCommandId,
        /// Why.
        reason: CancelReason,
    },
    /// Send the ack of a finished command. Keep its content until [`Forget`](Self::Forget): it may be asked for again.
    SendAck {
        /// On which stream.
        attempt: Attempt,
        /// Whose.
        command: WireCommandId,
    },
    /// The ack of a command is not needed any more.
    Forget(WireCommandId),
    /// The link has ended for good: tell the advice and exit. Nothing comes after it.
    Stop(StopReason),
}

/// Why a running command is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// The server said so.
    Asked,
    /// The server cannot take it up again after the stream was lost (an upstream one).
    Abandoned,
    /// The link has ended for good.
    Stopping,
}

/// Why a link ends for good. `Display` is advice for the administrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    /// Begin answered UNAUTHENTICATED.
    #[error(
        "the server does not accept this node's API key: ask an operator whether the node was revoked; enroll it again with a new code if so"
    )]
    KeyRefused,
    /// A heartbeat or the stream answered NOT_FOUND.
    #[error("the server does not know this node any more: enroll it again with a new code")]
    NodeUnknown,
    /// The server said that the node was revoked.
    #[error("an operator revoked this node: enroll it again with a new code if that was a mistake")]
    Revoked,
}

/// Why a handshake opened no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// Begin answered UNAUTHENTICATED: final.
    KeyRefused,
    /// RESOURCE_EXHAUSTED with a hint.
    Limited {
        /// The hint.
        retry_after: Duration,
    },
    /// Anything else: no connection, not confirmed yet, Complete refused, an internal error.
    Other,
}

/// Why a heartbeat failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeartbeatFailure {
    /// NOT_FOUND: final.
    NodeUnknown,
    /// UNAUTHENTICATED: the session is not valid any more.
    Unauthenticated,
    /// Anything else.
    Other,
}

/// Why a stream ended, or could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// NOT_FOUND: final.
    NodeUnknown,
    /// UNAUTHENTICATED: the session is not valid any more.
    Unauthenticated,
    /// UNIMPLEMENTED: this server has no control stream (yet).
    Unimplemented,
    /// UNAVAILABLE with the structured NOT_ACTIVE: an upstream server that goes down or is on standby.
    NotActive,
    /// RESOURCE_EXHAUSTED with a hint.
    Limited {
        /// The hint.
        retry_after: Duration,
    },
    /// Anything else, a clean end too.
    Lost,
}

/// Why the server says goodbye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoodbyeReason {
    /// It goes down.
    Drain,
    /// A newer stream of this node.
    Replaced,
    /// The node was revoked: final.
    Revoked,
    /// Another machine holds this identity and stays.
    Duplicate,
    /// A reason of a later version.
    Unspecified,
}
