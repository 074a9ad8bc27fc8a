//! Inputs and outputs of the [`Registry`](super::Registry), as values. Start with [`Output`].

use std::time::{Duration, Instant};

use fleet_core::{CommandId, ConnectionId, Epoch, NodeId, Priority};

use crate::Announced;

/// The capacity of one server process.
#[derive(Clone, Copy, Debug)]
pub struct RegistryLimits {
    /// Open control streams, whether or not their Hello has arrived.
    pub connections: usize,
    /// Nodes in memory: connected, with a command in flight, or disconnected for less than ten minutes.
    pub nodes: usize,
}

impl Default for RegistryLimits {
    /// 20,000 streams (33 KiB each at most, 660 MB) and twice as many nodes.
    fn default() -> Self {
        Self {
            connections: 20_000,
            nodes: 40_000,
        }
    }
}

/// Whether a node's stream may claim its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Admission {
    /// Claim the epoch in the store, then call [`Registry::connected`](super::Registry::connected), or
    /// [`Registry::closed`](super::Registry::closed) if the store refused.
    Proceed,
    /// This process holds its maximum of nodes: end the stream with RESOURCE_EXHAUSTED and the hint. The connection
    /// is already removed.
    Full {
        /// The delay for the hint.
        retry_after: Duration,
    },
    /// The connection is not waiting for a Hello: end it.
    Gone,
}

/// Why a connection cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenRefused {
    /// The limit [`RegistryLimits::connections`] is reached.
    #[error(
        "this server holds {0} control streams, which is its limit; try again later or at another server"
    )]
    TooMany(usize),
    /// This process is shutting down.
    #[error("this server is shutting down; try again in {} ms", retry_after.as_millis())]
    Draining {
        /// The reconnect slot of this node.
        retry_after: Duration,
    },
}

/// A claim that succeeded in the store.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The epoch that the claim made current.
    pub epoch: Epoch,
    /// The node's limits and capabilities.
    pub announced: Announced,
    /// The commands of Hello's `running` that the claim's transaction adopted. At most
    /// [`IN_FLIGHT_PER_NODE`](super::IN_FLIGHT_PER_NODE) are kept. Commands in flight here that are not listed are lost.
    pub adopted: Vec<Adopted>,
}

/// A command that continues under a new epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// The command.
    pub command: CommandId,
    /// The queue that it came from.
    pub priority: Priority,
    /// When it becomes overdue. Used only if this process did not know the command.
    pub deadline: Instant,
    /// Whether its scan is already canceled.
    pub canceled: bool,
}

/// The result of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Standing {
    /// The connection is the node's current one.
    Current,
    /// A newer epoch was already known, so the connection was evicted.
    Fenced,
    /// The connection ended during its claim: release the epoch in the store.
    Gone,
}

/// The epoch of a closed connection. Release it in the store, which compares the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    /// The node of the connection.
    pub node: NodeId,
    /// The epoch to release.
    pub epoch: Epoch,
}

/// Why a stream's message has no effect. The message is counted, and the stream stays open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    /// The connection is not its node's current one.
    #[error("the connection is not current")]
    NotCurrent,
    /// The command is not in flight on the connection's node: unknown, late, or another node's.
    #[error("command {0} is not in flight on this node")]
    NotInFlight(CommandId),
}

/// Why a command cannot be sent to its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DispatchRefused {
    /// The node has no stream on this process, or the process is shutting down.
    #[error("node {0} has no stream on this server")]
    Away(NodeId),
    /// The node has reconnected since the command was issued.
    #[error("node {node} is at epoch {current}, the command was issued under {issued}")]
    StaleEpoch {
        /// The node of the command.
        node: NodeId,
        /// The epoch of the command.
        issued: Epoch,
        /// The current epoch of the node.
        current: Epoch,
    },
    /// The node runs another command.
    #[error("node {node} already runs command {command}")]
    Busy {
        /// The node.
        node: NodeId,
        /// The command that it runs.
        command: CommandId,
    },
}

/// The progress of a command. `done` never decreases and never exceeds `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandProgress {
    /// Targets that are finished.
    pub done: u64,
    /// Targets of the command.
    pub total: u64,
}

/// The state of a command that was sent to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// The queue that it came from.
    pub priority: Priority,
    /// When it was to become overdue as it was sent or adopted.
    pub deadline: Instant,
    /// Whether its scan was canceled. The command still holds the permit until its ack, or until the store ends it.
    pub canceled: bool,
    /// The latest progress that the node reported.
    pub progress: CommandProgress,
}

/// The number of messages of a connection that had no effect, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DroppedCounts {
    /// The command is not in flight on the node.
    pub not_in_flight: u64,
    /// The message is oversized, malformed, or a second Hello.
    pub malformed: u64,
}

/// An action for the caller. Exhaustive on purpose: a new variant must break callers that do not handle it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send Accepted: first as the answer to Hello, then every 30 s as a liveness signal.
    Accepted {
        /// The stream to use.
        connection: ConnectionId,
        /// The epoch to send.
        epoch: Epoch,
    },
    /// End the stream; its later messages have no effect. Send a goodbye first if `goodbye` is set.
    Evict {
        /// The stream to end.
        connection: ConnectionId,
        /// Why it is evicted.
        reason: EvictReason,
        /// When to reconnect. If absent, the node's own back-off applies.
        retry_after: Option<Duration>,
        /// Whether the peer understands a goodbye.
        goodbye: bool,
    },
    /// Notify the node that this server is shutting down. The stream stays valid until either side ends it.
    Goodbye {
        /// The stream to use.
        connection: ConnectionId,
        /// The node's reconnect slot.
        retry_after: Duration,
        /// Whether the peer understands a goodbye. Other peers get NOT_ACTIVE when their stream ends.
        goodbye: bool,
    },
    /// Send a cancel request to the node.
    SendCancel {
        /// The stream to use.
        connection: ConnectionId,
        /// The command to stop.
        command: CommandId,
    },
    /// A command continues under the new epoch.
    Adopted {
        /// The node that runs it.
        node: NodeId,
        /// The command.
        command: CommandId,
    },
    /// A command's deadline has passed. The store decides whether it has expired, because deadlines do not run while
    /// the store is away: if it has ended there, call `ended`. Emitted again every [`OVERDUE_EVERY`](super::OVERDUE_EVERY).
    Overdue {
        /// The node that runs it.
        node: NodeId,
        /// The command.
        command: CommandId,
    },
    /// A command is no longer in flight here. Emitted exactly once per dispatched or adopted command.
    Ended {
        /// The node that ran it.
        node: NodeId,
        /// The command.
        command: CommandId,
        /// How it ended.
        end: CommandEnd,
    },
    /// The node can accept a command: look for one in the store.
    Ready {
        /// The node.
        node: NodeId,
        /// The epoch under which to issue the command.
        epoch: Epoch,
    },
}

/// Why the server evicts a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictReason {
    /// A newer stream of the node has replaced it.
    Replaced,
    /// The node was revoked.
    Revoked,
    /// This process is shutting down, and the stream's Hello has not been accepted yet.
    Draining,
    /// No Hello arrived in time: FAILED_PRECONDITION.
    NoHello,
    /// The store did not finish the claim in time: UNAVAILABLE.
    ClaimStuck,
}

/// How a command ended, as seen by this process. The row in the store is authoritative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandEnd {
    /// The node acknowledged it.
    Acked,
    /// The store ended it without an ack: its deadline passed, or its rows were refused.
    Stored,
    /// The node reconnected without it. The claim's transaction has recorded that.
    Lost,
    /// Another process now holds the node's stream and with it the command.
    Moved,
    /// Its node was revoked.
    Revoked,
}

impl std::fmt::Display for EvictReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Replaced => "replaced by a newer stream",
            Self::Revoked => "node revoked",
            Self::Draining => "server shuts down",
            Self::NoHello => "no Hello in time",
            Self::ClaimStuck => "claim took too long",
        })
    }
}

impl std::fmt::Display for CommandEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Acked => "acknowledged",
            Self::Stored => "ended in the store",
            Self::Lost => "lost by the node",
            Self::Moved => "moved to another server",
            Self::Revoked => "node revoked",
        })
    }
}
