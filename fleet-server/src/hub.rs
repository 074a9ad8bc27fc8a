//! [`Hub`]: the nodes that are connected to this process. It is the tokio shell around [`fleet_registry::Registry`]:
//! it turns calls into inputs and executes the outputs, and contains no rules. Its lock is never held across an await.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fleet_core::{CommandId, ConnectionId, Epoch, NodeId, Priority, Timestamp};
use fleet_registry::{
    Capability, Registry,
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

use crate::{dispatch_queue::DispatchQueue, environment::Environment, messages};

/// Messages that may wait for one node: a liveness signal, a command, cancels, a goodbye. The stream of a node that
/// does not read them is ended.
const OUTBOX: usize = 32;

/// Streams of one node at a time: its current one, a newer one that sends Hello, and older ones that are ending. The
/// limit keeps one node from using up the streams of the process.
const STREAMS_OF_A_NODE: u8 = 8;

/// Time for the next server to start before the first node reconnects. A node that comes earlier is refused, and its
/// back-off then takes longer than this.
const RESTART: Duration = Duration::from_millis(1_500);
/// Average interval of reconnecting nodes after a drain: 500 a second.
const RECONNECT_EVERY: Duration = Duration::from_millis(2);
/// The shortest time over which nodes reconnect.
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);

/// An item that a stream sends; an error is the last one.
pub(crate) type Outgoing = Result<ControlStreamResponse, RpcError>;

/// The nodes that are connected to this process.
#[derive(Debug)]
pub(crate) struct Hub {
    environment: Arc<dyn Environment>,
    dispatch_queue: Arc<DispatchQueue>,
    version: String,
    state: Mutex<State>,
    timers_changed: Notify,
    next_connection: AtomicU64,
}

#[derive(Debug)]
struct State {
    registry: Registry,
    streams: BTreeMap<ConnectionId, Stream>,
    /// The node of each connection, until the connection is closed.
    nodes: BTreeMap<ConnectionId, NodeId>,
    /// Open connections per node; no entry is zero.
    open: BTreeMap<NodeId, u8>,
    /// Commands past their deadline that the store was not asked about since; at most those in flight.
    overdue: BTreeSet<(NodeId, CommandId)>,
}

/// The reason why a stream is not opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenRefused {
    /// The process has too many streams, or shuts down.
    #[error(transparent)]
    Registry(#[from] registry::OpenRefused),
    /// The node has too many streams.
    #[error(
        "node {0} has {STREAMS_OF_A_NODE} control streams open, the limit: close the older ones first"
    )]
    OfNode(NodeId),
}

/// The sending end of one stream. Dropping it ends the stream after the messages that were sent.
#[derive(Debug)]
struct Stream {
    outbox: mpsc::Sender<Outgoing>,
    over: CancellationToken,
    /// Ends the stream of a peer that does not understand a goodbye.
    parting: Option<RpcError>,
    why: Arc<OnceLock<String>>,
}

/// A stream that was just opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) connection: ConnectionId,
    /// The messages to send. It ends when the stream must end.
    pub(crate) outbox: mpsc::Receiver<Outgoing>,
    /// Fires when the stream is evicted.
    pub(crate) over: CancellationToken,
    /// Why it was evicted; set before `over` fires.
    pub(crate) why: Arc<OnceLock<String>>,
}

impl Hub {
    pub(crate) fn new(
        environment: Arc<dyn Environment>,
        dispatch_queue: Arc<DispatchQueue>,
        version: String,
    ) -> Self {
        let registry = Registry::new(RegistryLimits::default());
        Self {
            environment,
            dispatch_queue,
            version,
            state: Mutex::new(State {
                registry,
                streams: BTreeMap::new(),
                nodes: BTreeMap::new(),
                open: BTreeMap::new(),
                overdue: BTreeSet::new(),
            }),
            timers_changed: Notify::new(),
            next_connection: AtomicU64::new(1),
        }
    }

    /// Executes deadlines until the process ends.
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
                // `notify_one` stores a permit, so a change since `poll_timeout` is not missed.
                () = self.timers_changed.notified() => {}
            }
        }
    }

    /// Registers a stream that a node opened.
    ///
    /// # Errors
    ///
    /// [`OpenRefused`] when the node or the process has too many, or the process is going down.
    pub(crate) fn open(&self, node: NodeId) -> Result<Opened, OpenRefused> {
        let connection = ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed));
        let (sender, outbox) = mpsc::channel(OUTBOX);
        let over = CancellationToken::new();
        let why = Arc::new(OnceLock::new());
        let mut state = self.lock();
        let open = state.open.get(&node).copied().unwrap_or(0);
        if open >= STREAMS_OF_A_NODE {
            return Err(OpenRefused::OfNode(node));
        }
        // Before anything is counted, because a refusal must leave nothing behind.
        state
            .registry
            .opened(self.environment.instant(), connection)?;
        state.nodes.insert(connection, node);
        state.open.insert(node, open + 1);
        state.streams.insert(
            connection,
            Stream {
                outbox: sender,
                over: over.clone(),
                parting: None,
                why: why.clone(),
            },
        );
        self.execute(&mut state);
        Ok(Opened {
            connection,
            outbox,
            over,
            why,
        })
    }

    /// Whether a stream that sent Hello may claim its node.
    pub(crate) fn admit(&self, connection: ConnectionId, node: NodeId) -> Admission {
        let now = self.environment.instant();
        self.with(|registry| registry.admit(now, connection, node))
    }

    /// Makes a stream current after the store has made it the newest of its node.
    pub(crate) fn connected(
        &self,
        node: NodeId,
        connection: ConnectionId,
        claim: Claim,
    ) -> Standing {
        let now = self.environment.instant();
        self.with(|registry| registry.connected(now, node, connection, claim))
    }

    /// Removes a stream that ended; idempotent.
    pub(crate) fn closed(&self, connection: ConnectionId) -> Option<Released> {
        let now = self.environment.instant();
        let mut state = self.lock();
        let released = state.registry.closed(now, connection);
        state.streams.remove(&connection);
        if let Some(node) = state.nodes.remove(&connection)
            && let Entry::Occupied(mut open) = state.open.entry(node)
        {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
        self.execute(&mut state);
        released
    }

    /// Ends a stream with an error.
    pub(crate) fn fail(&self, connection: ConnectionId, error: RpcError) {
        if let Some(stream) = self.lock().streams.remove(&connection) {
            let _ = stream.why.set(error.message.clone());
            // If the outbox is full, the node reads nothing and would not receive the error either.
            let _ = stream.outbox.try_send(Err(error));
            stream.over.cancel();
        }
    }

    /// Ends the node's stream because another server claimed the node under this epoch. An epoch that is not newer than
    /// the known one has no effect.
    pub(crate) fn superseded(&self, node: NodeId, epoch: Epoch) {
        let now = self.environment.instant();
        self.with(|registry| registry.superseded(now, node, epoch));
    }

    /// Ends a stream whose node has claimed a newer one. Fencing the node by its epoch instead would also end the newer
    /// stream, if this server holds it and has not made it current yet.
    pub(crate) fn replaced(&self, node: NodeId, connection: ConnectionId) {
        let mut state = self.lock();
        let current = state.registry.current(node);
        let goodbye = current.is_some_and(|(current, announced)| {
            current == connection && announced.capabilities.has(Capability::Goodbye)
        });
        self.evict(&mut state, connection, EvictReason::Replaced, None, goodbye);
    }

    /// Ends all streams of a revoked node.
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

    /// Releases the permit of a command whose ack is stored.
    pub(crate) fn acknowledged(&self, connection: ConnectionId, command: CommandId) {
        let now = self.environment.instant();
        // Dropped: the deadline came first, and the store has handled it.
        let _ = self.with(|registry| registry.ack(now, connection, command));
    }

    /// Records the progress of a command; returns it when it is due to be stored.
    pub(crate) fn progress(
        &self,
        connection: ConnectionId,
        command: CommandId,
        reported: CommandProgress,
    ) -> Result<Option<CommandProgress>, Dropped> {
        let now = self.environment.instant();
        self.with(|registry| registry.progress(now, connection, command, reported))
    }

    /// Counts a malformed message.
    pub(crate) fn malformed(&self, connection: ConnectionId) {
        self.with(|registry| registry.malformed(connection));
    }

    /// Sends a cancel to the node, now or when it reconnects.
    pub(crate) fn cancel(&self, node: NodeId, command: CommandId) {
        self.with(|registry| registry.cancel(node, command));
    }

    /// Releases the permit of a command that the store ended without the node's ack.
    pub(crate) fn forget(&self, node: NodeId, command: CommandId) {
        let now = self.environment.instant();
        self.with(|registry| registry.ended(now, node, command));
    }

    /// Whether a command is in flight on a node that is connected here.
    pub(crate) fn is_in_flight(&self, node: NodeId, command: CommandId) -> bool {
        let state = self.lock();
        let mut flights = state.registry.in_flight(node);
        flights.any(|(id, _)| id == command)
    }

    /// Removes and returns the commands whose deadline has passed. The store knows which of them are still in flight.
    pub(crate) fn take_overdue(&self) -> BTreeSet<(NodeId, CommandId)> {
        std::mem::take(&mut self.lock().overdue)
    }

    /// The epoch under which a command could be issued to the node now; none while its permit is taken.
    pub(crate) fn free_epoch(&self, node: NodeId) -> Option<Epoch> {
        let state = self.lock();
        state
            .registry
            .epoch(node)
            .filter(|_| state.registry.can_dispatch(node))
    }

    /// Sends a stored command on the node's stream; returns whether it was sent.
    pub(crate) fn send_command(
        &self,
        node: NodeId,
        epoch: Epoch,
        issued: &IssuedCommand,
        now: Timestamp,
    ) -> bool {
        let wait = issued.deadline.since(now);
        let message = messages::command(issued);
        self.send_stored(
            node,
            epoch,
            (issued.command, issued.priority),
            wait,
            message,
        )
    }

    /// Sends a stored command of a pairing on the node's stream; returns whether it was sent.
    pub(crate) fn send_pairing(
        &self,
        node: NodeId,
        epoch: Epoch,
        command: CommandId,
        wait: Duration,
        message: ControlCommand,
    ) -> bool {
        self.send_stored(node, epoch, (command, Priority::Interactive), wait, message)
    }

    fn send_stored(
        &self,
        node: NodeId,
        epoch: Epoch,
        (command, priority): (CommandId, Priority),
        wait: Duration,
        message: ControlCommand,
    ) -> bool {
        let deadline = self.environment.instant() + wait;
        let mut state = self.lock();
        let sent = match state
            .registry
            .dispatched(node, epoch, command, priority, deadline)
        {
            Ok(connection) => {
                // From here on the command is in flight. If the stream fails now, the node's next Hello does not
                // list the command, which ends it.
                self.send(&mut state, connection, Kind::Command(message));
                true
            }
            Err(refused) => {
                tracing::debug!(%node, %command, %refused, "command not sent");
                false
            }
        };
        self.execute(&mut state);
        sent
    }

    /// Whether the node has a stream here.
    pub(crate) fn is_connected(&self, node: NodeId) -> bool {
        self.lock().registry.current(node).is_some()
    }

    /// The number of nodes that have a stream here.
    pub(crate) fn connected_nodes(&self) -> usize {
        self.lock().registry.connected_nodes().count()
    }

    /// Sends every node its time to reconnect: after the next server had time to start, spread by the number of nodes
    /// over at most `longest`.
    pub(crate) fn drain(&self, longest: Duration) {
        let streams = u32::try_from(self.lock().streams.len()).unwrap_or(u32::MAX);
        let window = RECONNECT_EVERY
            .saturating_mul(streams)
            .clamp(SHORTEST_WINDOW.min(longest), longest);
        let (now, seed) = (
            self.environment.instant(),
            u64::from_be_bytes(self.environment.random()),
        );
        self.with(|registry| registry.drain(now, window, seed));
    }

    /// Ends the remaining streams.
    pub(crate) fn end_all(&self) {
        let mut state = self.lock();
        for (_, stream) in std::mem::take(&mut state.streams) {
            if let Some(parting) = stream.parting {
                let _ = stream.outbox.try_send(Err(parting));
            }
            let _ = stream.why.set("the server shut down".to_owned());
            stream.over.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls the registry and executes its outputs.
    fn with<T>(&self, call: impl FnOnce(&mut Registry) -> T) -> T {
        let mut state = self.lock();
        // Under one lock with its outputs, so streams receive them in the order of the decisions.
        let answer = call(&mut state.registry);
        self.execute(&mut state);
        answer
    }

    fn execute(&self, state: &mut State) {
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
                    tracing::debug!(connection = connection.0, %reason, "stream evicted");
                    self.evict(state, connection, reason, retry_after, goodbye);
                }
                Output::Goodbye {
                    connection,
                    retry_after,
                    goodbye,
                } => {
                    let retry_after = retry_after + RESTART;
                    if goodbye {
                        self.send(
                            state,
                            connection,
                            Kind::Goodbye(messages::draining(retry_after)),
                        );
                    } else if let Some(stream) = state.streams.get_mut(&connection) {
                        stream.parting = Some(
                            RpcError::not_active("the server is shutting down, reconnect shortly")
                                .with_reason("SHUTTING_DOWN"),
                        );
                    }
                }
                Output::SendCancel {
                    connection,
                    command,
                } => {
                    self.send(state, connection, Kind::Cancel(messages::cancel(command)));
                }
                Output::Ready { node, .. } => self.dispatch_queue.push(node),
                Output::Overdue { node, command } => {
                    state.overdue.insert((node, command));
                }
                Output::Adopted { node, command } => {
                    tracing::debug!(%node, %command, "command adopted by the new stream")
                }
                Output::Ended { node, command, end } => {
                    tracing::debug!(%node, %command, reason = %end, "command is no longer in flight")
                }
            }
        }
        self.timers_changed.notify_one();
    }

    /// Sends one message. A full outbox ends the stream, because its node reads no messages.
    fn send(&self, state: &mut State, connection: ConnectionId, kind: Kind) {
        let Some(stream) = state.streams.get(&connection) else {
            return;
        };
        if stream
            .outbox
            // Never awaited, because the caller holds the lock.
            .try_send(Ok(ControlStreamResponse { kind: Some(kind) }))
            .is_err()
            && let Some(stream) = state.streams.remove(&connection)
        {
            tracing::info!(
                connection = connection.0,
                "a stream was ended because its node reads no messages"
            );
            let _ = stream.why.set("the node reads no messages".to_owned());
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
        let _ = stream.why.set(reason.to_string());
        let last = match reason {
            EvictReason::NoHello => Some(Err(RpcError::failed_precondition(
                "the first message must be Hello and come within 5 s",
            )
            .with_reason("HELLO_MISSING")
            .with_fact("limit_s", 5))),
            EvictReason::ClaimStuck => Some(Err(RpcError::unavailable(
                "the server cannot take this node now, try again shortly",
            )
            .with_reason("SERVER_BUSY"))),
            EvictReason::Draining => Some(Err(RpcError::not_active(
                "the server is shutting down, reconnect shortly",
            )
            .with_reason("SHUTTING_DOWN"))),
            // An upstream node would reject a message that it does not know. Its stream ends
            // without one.
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
    use fleet_registry::{Announced, Capabilities};

    use super::*;
    use crate::environment::SystemEnvironment;

    #[test]
    fn the_streams_of_a_node_are_counted_and_released_once() {
        let hub = Hub::new(
            Arc::new(SystemEnvironment),
            Arc::new(DispatchQueue::default()),
            String::new(),
        );
        let node = NodeId(1);
        let open: Vec<_> = (0..STREAMS_OF_A_NODE)
            .map(|_| hub.open(node).expect("is below the limit").connection)
            .collect();
        assert!(matches!(hub.open(node), Err(OpenRefused::OfNode(_))));
        assert!(
            hub.open(NodeId(2)).is_ok(),
            "another node has its own limit"
        );
        for connection in open {
            hub.closed(connection);
            hub.closed(connection);
        }
        assert!(!hub.lock().open.contains_key(&node));
    }

    #[test]
    fn a_reconnect_is_not_fenced_by_the_stream_that_it_replaces() {
        let hub = Hub::new(
            Arc::new(SystemEnvironment),
            Arc::new(DispatchQueue::default()),
            String::new(),
        );
        let node = NodeId(1);
        let claim = |epoch| Claim {
            epoch: Epoch(epoch),
            announced: Announced::UPSTREAM,
            adopted: Vec::new(),
        };
        let older = hub.open(node).expect("opens");
        assert_eq!(hub.admit(older.connection, node), Admission::Proceed);
        let standing = hub.connected(node, older.connection, claim(1));
        assert_eq!(standing, Standing::Current);
        let newer = hub.open(node).expect("opens");
        assert_eq!(hub.admit(newer.connection, node), Admission::Proceed);
        // The store has epoch 2. The older stream finds that before the newer one is current here.
        hub.replaced(node, older.connection);
        assert!(older.over.is_cancelled());
        let standing = hub.connected(node, newer.connection, claim(2));
        assert_eq!(standing, Standing::Current);
        assert!(!newer.over.is_cancelled());
    }

    #[test]
    fn few_nodes_reconnect_soon_after_a_drain() {
        let hub = Hub::new(
            Arc::new(SystemEnvironment),
            Arc::new(DispatchQueue::default()),
            String::new(),
        );
        let goodbye = Announced {
            capabilities: Capabilities::all(),
            ..Announced::UPSTREAM
        };
        let mut opened: Vec<_> = (0..40)
            .map(|id| {
                let opened = hub.open(NodeId(id)).expect("opens");
                assert_eq!(hub.admit(opened.connection, NodeId(id)), Admission::Proceed);
                let claim = Claim {
                    epoch: Epoch(1),
                    announced: goodbye,
                    adopted: Vec::new(),
                };
                let standing = hub.connected(NodeId(id), opened.connection, claim);
                assert_eq!(standing, Standing::Current);
                opened
            })
            .collect();
        hub.drain(Duration::from_secs(10));
        for opened in &mut opened {
            let mut last = None;
            while let Ok(Ok(message)) = opened.outbox.try_recv() {
                last = message.kind;
            }
            let Some(Kind::Goodbye(goodbye)) = last else {
                panic!("not a goodbye: {last:?}");
            };
            assert!(
                (1_500..=2_500).contains(&goodbye.retry_after_ms),
                "{goodbye:?}"
            );
        }
    }
}
