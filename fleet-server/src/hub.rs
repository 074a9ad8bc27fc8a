//! The connected nodes: the tokio shell around [`fleet_registry::Registry`]. It turns calls into inputs
//! and carries the outputs out; nothing is decided here. The lock is never held across an await.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fleet_core::{CommandId, ConnectionId, Epoch, Lane, NodeId, Timestamp};
use fleet_registry::{
    Announced, Capability, Registry,
    registry::{
        self, Admission, Claim, CommandProgress, Dropped, EvictReason, Output, RegistryLimits,
        Released, Standing,
    },
};
use fleet_store::IssuedCommand;
use fleet_wire::{
    RpcError,
    gateway::{ControlCommand, ControlStreamResponse, control_stream_response::Kind},
};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{dispatch::Work, environment::Environment, messages};

/// Messages that may wait for one node: a sign of life, a command, cancels, a goodbye. A node that does
/// not take them is let go.
const OUTBOX: usize = 32;

/// Streams of one node at a time: its current one, a newer one that says Hello, and older ones on their way
/// out. No node can take the places of others.
const STREAMS_OF_A_NODE: u8 = 8;

/// What goes down a stream; an error is its last item.
pub(crate) type Outgoing = Result<ControlStreamResponse, RpcError>;

/// The connected nodes of this process.
#[derive(Debug)]
pub(crate) struct Hub {
    environment: Arc<dyn Environment>,
    work: Arc<Work>,
    version: String,
    state: Mutex<State>,
    timers_changed: Notify,
    next_connection: AtomicU64,
}

#[derive(Debug)]
struct State {
    registry: Registry,
    streams: BTreeMap<ConnectionId, Stream>,
    /// Whose each connection is, until it is closed.
    nodes: BTreeMap<ConnectionId, NodeId>,
    /// How many connections each node has, none of them zero.
    held: BTreeMap<NodeId, u8>,
}

/// Why a stream cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenRefused {
    /// The process is full or going down.
    #[error(transparent)]
    Registry(#[from] registry::OpenRefused),
    /// The node has too many.
    #[error(
        "node {0} has {STREAMS_OF_A_NODE} control streams open, the limit: close the older ones first"
    )]
    OfNode(NodeId),
}

/// The way to one stream; dropping it ends the stream after what was sent.
#[derive(Debug)]
struct Stream {
    outbox: mpsc::Sender<Outgoing>,
    over: CancellationToken,
    /// Sent as the end of a stream whose peer does not understand a goodbye.
    parting: Option<RpcError>,
}

/// A stream just opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) connection: ConnectionId,
    /// What to send; it ends when the stream shall end.
    pub(crate) outbox: mpsc::Receiver<Outgoing>,
    /// Fires when the stream was evicted.
    pub(crate) over: CancellationToken,
}

impl Hub {
    pub(crate) fn new(environment: Arc<dyn Environment>, work: Arc<Work>, version: String) -> Self {
        let registry = Registry::new(RegistryLimits::default());
        Self {
            environment,
            work,
            version,
            state: Mutex::new(State {
                registry,
                streams: BTreeMap::new(),
                nodes: BTreeMap::new(),
                held: BTreeMap::new(),
            }),
            timers_changed: Notify::new(),
            next_connection: AtomicU64::new(1),
        }
    }

    /// Carries out deadlines until the process ends.
    pub(crate) async fn run(&self) {
        loop {
            let next = self.lock().registry.poll_timeout();
            let due = async {
                match next {
                    Some(at) => {
                        tokio::time::sleep(at.saturating_duration_since(self.environment.instant()))
                            .await
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {
                    let now = self.environment.instant();
                    self.with(|registry| registry.handle_timeout(now));
                }
                () = self.timers_changed.notified() => {}
            }
        }
    }

    /// A node opened a stream.
    ///
    /// # Errors
    ///
    /// [`OpenRefused`] when the node or the process has too many, or the process is going down.
    pub(crate) fn open(&self, node: NodeId) -> Result<Opened, OpenRefused> {
        let connection = ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed));
        let (sender, outbox) = mpsc::channel(OUTBOX);
        let over = CancellationToken::new();
        let mut state = self.lock();
        let held = state.held.get(&node).copied().unwrap_or(0);
        if held >= STREAMS_OF_A_NODE {
            return Err(OpenRefused::OfNode(node));
        }
        state
            .registry
            .opened(self.environment.instant(), connection)?;
        state.nodes.insert(connection, node);
        state.held.insert(node, held + 1);
        state.streams.insert(
            connection,
            Stream {
                outbox: sender,
                over: over.clone(),
                parting: None,
            },
        );
        self.carry_out(&mut state);
        Ok(Opened {
            connection,
            outbox,
            over,
        })
    }

    /// Whether a stream that said Hello may claim its node.
    pub(crate) fn admit(&self, connection: ConnectionId, node: NodeId) -> Admission {
        let now = self.environment.instant();
        self.with(|registry| registry.admit(now, connection, node))
    }

    /// The store made a stream the newest of its node.
    pub(crate) fn connected(
        &self,
        node: NodeId,
        connection: ConnectionId,
        claim: Claim,
    ) -> Standing {
        let now = self.environment.instant();
        self.with(|registry| registry.connected(now, node, connection, claim))
    }

    /// A stream ended; a second time nothing happens.
    pub(crate) fn closed(&self, connection: ConnectionId) -> Option<Released> {
        let now = self.environment.instant();
        let mut state = self.lock();
        let released = state.registry.closed(now, connection);
        state.streams.remove(&connection);
        if let Some(node) = state.nodes.remove(&connection)
            && let Entry::Occupied(mut held) = state.held.entry(node)
        {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
        self.carry_out(&mut state);
        released
    }

    /// Ends a stream with an error.
    pub(crate) fn fail(&self, connection: ConnectionId, error: RpcError) {
        if let Some(stream) = self.lock().streams.remove(&connection) {
            let _ = stream.outbox.try_send(Err(error));
            stream.over.cancel();
        }
    }

    /// Another server claimed the node under this epoch; nothing happens when it is no newer than what is known.
    pub(crate) fn superseded(&self, node: NodeId, epoch: Epoch) {
        let now = self.environment.instant();
        self.with(|registry| registry.superseded(now, node, epoch));
    }

    /// The node was revoked.
    pub(crate) fn revoked(&self, node: NodeId) {
        let now = self.environment.instant();
        self.with(|registry| registry.revoked(now, node));
    }

    /// Whether a message about a command takes effect.
    pub(crate) fn check(
        &self,
        connection: ConnectionId,
        command: CommandId,
    ) -> Result<NodeId, Dropped> {
        self.with(|registry| registry.check(connection, command))
    }

    /// A command was acknowledged, and that is stored.
    pub(crate) fn acknowledged(&self, connection: ConnectionId, command: CommandId) {
        let now = self.environment.instant();
        // Dropped: the deadline came first, and the store has judged that.
        let _ = self.with(|registry| registry.ack(now, connection, command));
    }

    /// How far a command is, when it is time to pass that on.
    pub(crate) fn progress(
        &self,
        connection: ConnectionId,
        command: CommandId,
        reported: CommandProgress,
    ) -> Result<Option<CommandProgress>, Dropped> {
        let now = self.environment.instant();
        self.with(|registry| registry.progress(now, connection, command, reported))
    }

    /// Counts a message that says nothing.
    pub(crate) fn malformed(&self, connection: ConnectionId) {
        self.with(|registry| registry.malformed(connection));
    }

    /// Tells the node to stop a command, now or when it comes back.
    pub(crate) fn cancel(&self, node: NodeId, command: CommandId) {
        self.with(|registry| registry.cancel(node, command));
    }

    /// The store ended a command without its node's word: the lane is free here too.
    pub(crate) fn forget(&self, node: NodeId, command: CommandId) {
        let now = self.environment.instant();
        self.with(|registry| {
            if let Some((connection, _)) = registry.current(node) {
                // Dropped: it was not in flight here any more.
                let _ = registry.ack(now, connection, command);
            }
        });
    }

    /// The epoch under which a command could be issued to the node now.
    pub(crate) fn free_lane(&self, node: NodeId) -> Option<Epoch> {
        let state = self.lock();
        state
            .registry
            .epoch(node)
            .filter(|_| state.registry.can_dispatch(node))
    }

    /// Hands a stored command to the node's stream. Whether it is on its way.
    pub(crate) fn send_command(
        &self,
        node: NodeId,
        epoch: Epoch,
        issued: &IssuedCommand,
        now: Timestamp,
    ) -> bool {
        let wait = issued.deadline.since(now);
        let message = messages::command(issued);
        self.hand_over(node, epoch, (issued.command, issued.lane), wait, message)
    }

    /// Hands a stored command of pairing to the node's stream. Whether it is on its way.
    pub(crate) fn send_pairing(
        &self,
        node: NodeId,
        epoch: Epoch,
        command: CommandId,
        wait: Duration,
        message: ControlCommand,
    ) -> bool {
        self.hand_over(node, epoch, (command, Lane::Interactive), wait, message)
    }

    fn hand_over(
        &self,
        node: NodeId,
        epoch: Epoch,
        (command, lane): (CommandId, Lane),
        wait: Duration,
        message: ControlCommand,
    ) -> bool {
        let deadline = self.environment.instant() + wait;
        let mut state = self.lock();
        let sent = match state
            .registry
            .dispatched(node, epoch, command, lane, deadline)
        {
            Ok(connection) => {
                // From here on the command is in flight: a stream that fails now is found out by its node's
                // next Hello, which will not list the command.
                self.send(&mut state, connection, Kind::Command(message));
                true
            }
            Err(refused) => {
                tracing::debug!(%node, %command, %refused, "command not sent");
                false
            }
        };
        self.carry_out(&mut state);
        sent
    }

    /// Whether the node has a stream here.
    pub(crate) fn is_connected(&self, node: NodeId) -> bool {
        self.lock().registry.current(node).is_some()
    }

    /// Whether the node has a stream here and can be told to stop a command.
    pub(crate) fn can_cancel(&self, node: NodeId) -> bool {
        let current = self.lock().registry.current(node);
        current
            .is_some_and(|(_, Announced { capabilities, .. })| capabilities.has(Capability::Cancel))
    }

    /// Tells every node when to come back, spread over `window`.
    pub(crate) fn drain(&self, window: Duration) {
        let (now, seed) = (
            self.environment.instant(),
            u64::from_be_bytes(self.environment.random()),
        );
        self.with(|registry| registry.drain(now, window, seed));
    }

    /// Ends what streams are left.
    pub(crate) fn end_all(&self) {
        let mut state = self.lock();
        for (_, stream) in std::mem::take(&mut state.streams) {
            if let Some(parting) = stream.parting {
                let _ = stream.outbox.try_send(Err(parting));
            }
            stream.over.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, call: impl FnOnce(&mut Registry) -> T) -> T {
        let mut state = self.lock();
        let answer = call(&mut state.registry);
        self.carry_out(&mut state);
        answer
    }

    fn carry_out(&self, state: &mut State) {
        while let Some(output) = state.registry.poll_output() {
            match output {
                Output::Accepted { connection, epoch } => {
                    let accepted = messages::accepted(self.environment.now(), &self.version, epoch);
                    self.send(state, connection, Kind::Accepted(accepted));
                }
                Output::Evict {
                    connection,
                    reason,
                    retry_after,
                    goodbye,
                } => {
                    tracing::debug!(?connection, ?reason, "stream evicted");
                    self.evict(state, connection, reason, retry_after, goodbye);
                }
                Output::Goodbye {
                    connection,
                    retry_after,
                    goodbye,
                } => {
                    if goodbye {
                        self.send(
                            state,
                            connection,
                            Kind::Goodbye(messages::draining(retry_after)),
                        );
                    } else if let Some(stream) = state.streams.get_mut(&connection) {
                        stream.parting = Some(RpcError::not_active(
                            "the server is going down, come back shortly",
                        ));
                    }
                }
                Output::SendCancel {
                    connection,
                    command,
                } => {
                    self.send(state, connection, Kind::Cancel(messages::cancel(command)));
                }
                Output::Ready { node, .. } => self.work.look_at(node),
                Output::Adopted { node, command } => {
                    tracing::debug!(%node, %command, "command goes on")
                }
                Output::Ended { node, command, end } => {
                    tracing::debug!(%node, %command, ?end, "command left flight")
                }
            }
        }
        self.timers_changed.notify_one();
    }

    /// Sends one message; a node that takes none is let go.
    fn send(&self, state: &mut State, connection: ConnectionId, kind: Kind) {
        let Some(stream) = state.streams.get(&connection) else {
            return;
        };
        if stream
            .outbox
            .try_send(Ok(ControlStreamResponse { kind: Some(kind) }))
            .is_err()
            && let Some(stream) = state.streams.remove(&connection)
        {
            tracing::info!(?connection, "a stream that takes no messages is ended");
            stream.over.cancel();
        }
    }

    fn evict(
        &self,
        state: &mut State,
        connection: ConnectionId,
        reason: EvictReason,
        retry_after: Option<Duration>,
        goodbye: bool,
    ) {
        let Some(stream) = state.streams.remove(&connection) else {
            return;
        };
        let last = match reason {
            EvictReason::NoHello => Some(Err(RpcError::failed_precondition(
                "the first message must be Hello and come within 5 s",
            ))),
            EvictReason::ClaimStuck => Some(Err(RpcError::unavailable(
                "the server cannot take this node now, try again shortly",
            ))),
            EvictReason::Draining => Some(Err(RpcError::not_active(
                "the server is going down, come back shortly",
            ))),
            EvictReason::Replaced | EvictReason::Revoked => goodbye.then(|| {
                Ok(ControlStreamResponse {
                    kind: Some(Kind::Goodbye(messages::goodbye(reason, retry_after))),
                })
            }),
        };
        if let Some(last) = last {
            let _ = stream.outbox.try_send(last);
        }
        stream.over.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::SystemEnvironment;

    #[test]
    fn a_nodes_places_are_counted_and_given_back_once() {
        let hub = Hub::new(
            Arc::new(SystemEnvironment),
            Arc::new(Work::new()),
            String::new(),
        );
        let node = NodeId(1);
        let held: Vec<_> = (0..STREAMS_OF_A_NODE)
            .map(|_| hub.open(node).expect("has a place").connection)
            .collect();
        assert!(matches!(hub.open(node), Err(OpenRefused::OfNode(_))));
        assert!(
            hub.open(NodeId(2)).is_ok(),
            "another node's places are its own"
        );
        for connection in held {
            hub.closed(connection);
            hub.closed(connection);
        }
        assert!(!hub.lock().held.contains_key(&node));
    }
}
