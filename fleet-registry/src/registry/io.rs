//! What goes into the [`Registry`](super::Registry) and what comes out, as values. [`Output`] first.

use std::time::{Duration, Instant};

use fleet_core::{CommandId, ConnectionId, Epoch, Lane, NodeId};

use crate::Announced;

/// How much one server process takes on.
#[derive(Clone, Copy, Debug)]
pub struct RegistryLimits {
    /// Control streams, greeted or not.
    pub connections: usize,
    /// Nodes remembered: connected, with something in flight, or gone for less than ten minutes.
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
    /// [`Registry::closed`](super::Registry::closed) when the store refused.
    Proceed,
    /// This process remembers as many nodes as it may: end the stream with RESOURCE_EXHAUSTED and the hint; the
    /// connection is forgotten.
    Full {
        /// When the node may try again.
        retry_after: Duration,
    },
    /// The connection is not waiting for its Hello (any more): end it.
    Gone,
}

/// Why a connection cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenRefused {
    /// The bound of [`RegistryLimits::connections`] is reached.
    #[error(
        "this server holds {0} control streams, its limit; try again later or at another server"
    )]
    TooMany(usize),
    /// This process is going down.
    #[error("this server is going down; try again in {retry_after:?}")]
    Draining {
        /// The slot of this connection.
        retry_after: Duration,
    },
}

/// What the store answered to a claim.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The epoch that the claim made current.
    pub epoch: Epoch,
    /// What the node takes.
    pub announced: Announced,
    /// The commands of Hello's `running` that the claim's transaction adopted. At most
    /// [`IN_FLIGHT_PER_NODE`](super::IN_FLIGHT_PER_NODE) are kept. What is in flight here and not listed is lost.
    pub adopted: Vec<Adopted>,
}

/// A command that goes on under a new epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Which.
    pub command: CommandId,
    /// Its lane.
    pub lane: Lane,
    /// Until when its ack is waited for. Counts only where this process did not know the command.
    pub deadline: Instant,
    /// Whether its scan was canceled already.
    pub canceled: bool,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Standing {
    /// The connection is the node's current one.
    Current,
    /// A newer epoch was known already: the connection was evicted.
    Fenced,
    /// The connection ended while its claim was on the way: release the epoch in the store.
    Gone,
}

/// The hold that a closed connection had on its node: release it in the store, which compares the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    /// Whose.
    pub node: NodeId,
    /// The epoch that ended.
    pub epoch: Epoch,
}

/// A stream's message that takes no effect. It is counted; the stream lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    /// The connection is not its node's current one.
    #[error("the connection is not current")]
    NotCurrent,
    /// The command is not in flight on the connection's node: unknown, late or another node's.
    #[error("command {0} is not in flight on this node")]
    NotInFlight(CommandId),
}

/// Why a command cannot be handed to its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DispatchRefused {
    /// The node has no stream on this process, or the process is going down.
    #[error("node {0} has no stream here")]
    Away(NodeId),
    /// The stream changed after the command was issued.
    #[error("node {node} is at epoch {current}, the command was issued under {issued}")]
    StaleEpoch {
        /// Whose.
        node: NodeId,
        /// The command's.
        issued: Epoch,
        /// The node's.
        current: Epoch,
    },
    /// The heavy lane is taken.
    #[error("node {node} already runs command {command}")]
    Busy {
        /// Whose.
        node: NodeId,
        /// What it runs.
        command: CommandId,
    },
}

/// How far a command is. `done` never falls and never passes `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Targets tried.
    pub done: u64,
    /// Targets in all.
    pub total: u64,
}

/// A command that a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Which queue it came from.
    pub lane: Lane,
    /// When it expires.
    pub deadline: Instant,
    /// Whether its scan was canceled; it keeps the lane until ack or deadline.
    pub canceled: bool,
    /// The latest that the node said.
    pub progress: Progress,
}

/// How many messages of a connection took no effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DroppedCounts {
    /// For a command that is not in flight on the node.
    pub not_in_flight: u64,
    /// Oversized, malformed, or a second Hello.
    pub malformed: u64,
}

/// What the shell must do. Exhaustive on purpose: a new one must break every shell that forgot it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send Accepted: at first as the answer to Hello, then every 30 s as a sign of life.
    Accepted {
        /// On which stream.
        connection: ConnectionId,
        /// To say in it.
        epoch: Epoch,
    },
    /// End the stream; whatever it still says takes no effect. A goodbye goes first where it was announced.
    Evict {
        /// Which stream.
        connection: ConnectionId,
        /// Why.
        reason: EvictReason,
        /// When to come back; without it the node's own back-off decides.
        retry_after: Option<Duration>,
        /// Whether the peer understands a goodbye.
        goodbye: bool,
    },
    /// Tell the node that this server is going down. The stream stays valid until either side ends it.
    Goodbye {
        /// Which stream.
        connection: ConnectionId,
        /// The node's slot.
        retry_after: Duration,
        /// Whether the peer understands a goodbye; others get NOT_ACTIVE when their stream ends.
        goodbye: bool,
    },
    /// Tell the node to stop a command.
    SendCancel {
        /// On which stream.
        connection: ConnectionId,
        /// What to stop.
        command: CommandId,
    },
    /// A command goes on under the new epoch.
    Adopted {
        /// Whose.
        node: NodeId,
        /// Which.
        command: CommandId,
    },
    /// A command is not in flight here any more. Comes exactly once for every command dispatched or adopted.
    Ended {
        /// Whose.
        node: NodeId,
        /// Which.
        command: CommandId,
        /// How.
        end: CommandEnd,
    },
    /// The node can take a command: look for one in the store.
    Ready {
        /// Which.
        node: NodeId,
        /// Under which epoch to issue it.
        epoch: Epoch,
    },
}

/// Why a stream is ended by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictReason {
    /// A newer stream of the node.
    Replaced,
    /// The node was revoked.
    Revoked,
    /// This process is going down and the stream was not greeted yet.
    Draining,
    /// No Hello in time: FAILED_PRECONDITION.
    NoHello,
    /// The store did not answer the claim in time: UNAVAILABLE.
    ClaimStuck,
}

/// How a command left flight. The row in the store decides; this process only says what it saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandEnd {
    /// The node acknowledged it.
    Acked,
    /// Its deadline passed.
    Expired,
    /// The node came back without it; the claim's transaction has recorded that.
    Lost,
    /// The node's stream is another process's now, and with it the command.
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
            Self::Expired => "deadline passed",
            Self::Lost => "lost by the node",
            Self::Moved => "moved to another server",
            Self::Revoked => "node revoked",
        })
    }
}
