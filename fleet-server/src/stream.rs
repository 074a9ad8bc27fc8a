//! The control stream of a node: Hello, the claim of a new epoch, then the node's messages. The hub sends the messages to
//! the node. From the claim on, a stream has its own task: a peer that hangs up at any moment leaves the store and the
//! hub consistent.

use std::{
    net::IpAddr,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use fleet_core::{
    CommandId, ConnectionId, Epoch, InstanceId,
    limits::HELLO_TIMEOUT,
    outcome::{AckCode, verdict_of_ack},
};
use fleet_registry::{
    Announced, Capabilities,
    registry::{Admission, Adopted, Claim, CommandProgress, OpenRefused, Standing},
};
use fleet_store::{
    Ack, Acked, ClaimError, ClaimedStream, NodeIdentity, Pins, PinsError, StreamClaim,
};
use fleet_wire::{
    BoxStream, Reply, RpcError, Validate,
    gateway::{
        ControlAck, ControlHello, ControlPins, ControlProgress, ControlStreamRequest,
        ControlStreamResponse, control_stream_request::Kind,
    },
};
use futures::{StreamExt, stream};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    convert::{self, printable},
    failure::{self, Answered},
    hub::{self, Opened},
};

/// Interval of checks in the store whether the stream may continue: the node must have a valid session, and the stream's
/// epoch must be the newest of all servers.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// Interval of attempts to store an ack, pins or the end of a stream.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// Minimum interval of stored progress messages: each is a transaction, and watchers read once a second.
const STORE_PROGRESS_EVERY: Duration = Duration::from_millis(900);
/// Longest stored text of an ack.
const REASON_MOST: usize = 512;

/// Opens a node's stream: waits for Hello, claims the epoch, and returns the messages to send.
///
/// Dropping the future before Hello closes the connection. After Hello the claim is completed, and the stream then ends.
pub(crate) async fn open(
    app: Arc<App>,
    node: NodeIdentity,
    mut inbound: BoxStream<ControlStreamRequest>,
) -> Result<Reply<BoxStream<ControlStreamResponse>>, RpcError> {
    let mut opened = app.hub.open(node.node).map_err(|refused| match refused {
        hub::OpenRefused::OfNode(_) | hub::OpenRefused::Registry(OpenRefused::TooMany(_)) => {
            RpcError::resource_exhausted(refused.to_string())
                .with_reason("TOO_MANY_STREAMS")
                .with_fact("node_id", node.node)
                .with_retry_after(HELLO_TIMEOUT)
        }
        hub::OpenRefused::Registry(OpenRefused::Draining { retry_after }) => {
            RpcError::not_active(refused.to_string())
                .with_reason("SHUTTING_DOWN")
                .with_retry_after(retry_after)
        }
    })?;
    let registered = Registered {
        app: app.clone(),
        connection: opened.connection,
    };
    let hello = hello(&mut inbound, &mut opened).await?;
    let Opened {
        outbox, over, why, ..
    } = opened;
    let (claimed, answer) = oneshot::channel();
    let evicted = over.clone();
    let tasks = app.tasks.clone();
    tasks.spawn(async move {
        match claim(&registered, &node, hello).await {
            Err(refused) => {
                // The peer may have hung up.
                let _ = claimed.send(Err(refused));
            }
            Ok(epoch) => {
                tracing::info!(node = %node.node, %epoch, "node connected");
                let _ = claimed.send(Ok(()));
                let mut current = Current {
                    app,
                    node,
                    epoch,
                    registered,
                    progress_stored: None,
                };
                let ended = current.receive(inbound, &over).await;
                // The hub knows why it evicts a stream, which also ends it for the node.
                let ended = why.get().cloned().unwrap_or(ended);
                current.end(ended).await;
            }
        }
    });
    // If the stream is evicted during the claim, the outbox contains the reason.
    tokio::select! {
        biased;
        // An answer counts even if the stream is evicted at the same moment.
        claimed = answer => claimed.map_err(|_| RpcError::internal("internal error"))??,
        () = evicted.cancelled() => {}
    }
    Ok(Reply::stream(stream::unfold(
        outbox,
        |mut outbox| async move { outbox.recv().await.map(|message| (message, outbox)) },
    )))
}

/// A connection that is registered in the hub. Dropping it removes the connection.
#[derive(Debug)]
struct Registered {
    app: Arc<App>,
    connection: ConnectionId,
}

impl Drop for Registered {
    fn drop(&mut self) {
        // Nothing is released here: the connection never became current, or was released before.
        let _ = self.app.hub.closed(self.connection);
    }
}

/// Waits for the first message, which must be Hello. The hub ends a stream that does not send it in time.
async fn hello(
    inbound: &mut BoxStream<ControlStreamRequest>,
    opened: &mut Opened,
) -> Result<ControlHello, RpcError> {
    let first = tokio::select! {
        first = inbound.next() => first,
        evicted = opened.outbox.recv() => {
            let ended = || RpcError::unavailable("the stream was ended").with_reason("STREAM_ENDED");
            return Err(evicted.and_then(Result::err).unwrap_or_else(ended));
        }
    };
    match first {
        Some(Ok(ControlStreamRequest {
            kind: Some(Kind::Hello(hello)),
        })) => hello.validate().map(|()| hello).map_err(RpcError::from),
        Some(Ok(_)) => Err(
            RpcError::invalid_argument("the first message must be Hello")
                .with_reason("HELLO_MISSING"),
        ),
        Some(Err(error)) => Err(error),
        None => Err(
            RpcError::failed_precondition("the stream ended before its Hello")
                .with_reason("HELLO_MISSING"),
        ),
    }
}

/// Requests admission, claims the epoch in the store, and makes the stream current.
async fn claim(
    registered: &Registered,
    node: &NodeIdentity,
    hello: ControlHello,
) -> Result<Epoch, RpcError> {
    let (app, connection) = (&registered.app, registered.connection);
    let instance = <[u8; 16]>::try_from(hello.instance_id.as_ref())
        .ok()
        .map(InstanceId);
    // Before the claim in the store, which would end the node's current stream for nothing.
    match app.hub.admit(connection, node.node) {
        Admission::Proceed => {}
        Admission::Gone => {
            return Err(RpcError::unavailable("the stream was ended").with_reason("STREAM_ENDED"));
        }
        Admission::Full { retry_after } => {
            let full = "this server has reached its limit of nodes, try again later";
            return Err(RpcError::resource_exhausted(full)
                .with_reason("TOO_MANY_NODES")
                .with_retry_after(retry_after));
        }
    }
    let announced = announced(&hello);
    let running = hello
        .running
        .iter()
        // An id of another form was never issued by a server of ours.
        .filter_map(|id| CommandId::from_str(id).ok())
        .collect();
    let claim = StreamClaim {
        node: node.node,
        session: node.session,
        replica: app.replica,
        instance,
        hello: convert::hello(hello),
        running,
        now: app.environment.now(),
    };
    let claimed = app
        .store
        .claim_stream(claim)
        .await
        .map_err(|error| match &error {
            ClaimError::NotFound(_) => RpcError::not_found(error.to_string())
                .with_reason("NODE_NOT_ENROLLED")
                .with_fact("node_id", node.node),
            ClaimError::Duplicate { node, hold } => {
                tracing::warn!(%node, hold_s = hold.as_secs(), "two machines use one identity");
                RpcError::resource_exhausted(error.to_string())
                    .with_reason("DUPLICATE_IDENTITY")
                    .with_fact("node_id", node)
                    .with_retry_after(*hold)
            }
            ClaimError::Storage(error) => failure::storage(error),
        })?;
    for scan in &claimed.ended {
        app.wakeups.notify(*scan);
    }
    let epoch = claimed.epoch;
    match app.hub.connected(
        node.node,
        connection,
        registry_claim(app, &claimed, announced),
    ) {
        // The outbox of a fenced stream already contains its goodbye.
        Standing::Current | Standing::Fenced => Ok(epoch),
        Standing::Gone => {
            app.store
                .release_stream(
                    node.node,
                    epoch,
                    "the stream was ended".to_owned(),
                    app.environment.now(),
                )
                .await
                .answered()?;
            Err(RpcError::unavailable("the stream was ended").with_reason("STREAM_ENDED"))
        }
    }
}

fn announced(hello: &ControlHello) -> Announced {
    let capabilities = Capabilities::parse(hello.capabilities.iter().map(String::as_str));
    Announced::new(capabilities, convert::max_targets(hello), hello.max_ports)
}

fn registry_claim(app: &App, claimed: &ClaimedStream, announced: Announced) -> Claim {
    let (now, instant) = (app.environment.now(), app.environment.instant());
    let adopted = claimed.adopted.iter().map(|adopted| Adopted {
        command: adopted.command,
        priority: adopted.priority,
        deadline: instant + adopted.deadline.since(now),
        canceled: adopted.canceled,
    });
    Claim {
        epoch: claimed.epoch,
        announced,
        adopted: adopted.collect(),
    }
}

/// A stream that holds the current epoch of its node.
#[derive(Debug)]
struct Current {
    app: Arc<App>,
    node: NodeIdentity,
    epoch: Epoch,
    registered: Registered,
    /// When progress was last stored.
    progress_stored: Option<Instant>,
}

impl Current {
    /// Receives messages until the node ends the stream, is evicted, or may no longer have a stream. A received message
    /// is always processed to its end; the store decides by the epoch whether it still takes effect. Returns why the
    /// stream ended, for operators.
    async fn receive(
        &mut self,
        mut inbound: BoxStream<ControlStreamRequest>,
        over: &CancellationToken,
    ) -> String {
        let mut lost = None;
        let mut check = tokio::time::interval(CHECK_EVERY);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first tick fires at once, and the claim has just checked both.
        check.tick().await;
        loop {
            // All three are cancel-safe.
            let message = tokio::select! {
                message = inbound.next() => message,
                () = over.cancelled() => return "ended by the server".to_owned(),
                _ = check.tick() => {
                    if self.may_continue().await { continue }
                    return "ended by the server".to_owned();
                }
            };
            match message {
                Some(Ok(ControlStreamRequest { kind: Some(kind) })) => {
                    lost = None;
                    self.handle(kind, over).await
                }
                // A peer that is newer than this server may send other messages. They must not end
                // its stream.
                Some(Ok(ControlStreamRequest { kind: None })) => {
                    self.app.hub.malformed(self.registered.connection);
                }
                Some(Err(error)) => {
                    self.app.hub.malformed(self.registered.connection);
                    lost = Some(error.message);
                }
                None => {
                    return match lost {
                        Some(error) => {
                            format!("the connection was lost: {}", printable(&error, 256))
                        }
                        None => "the node closed the stream".to_owned(),
                    };
                }
            }
        }
    }

    /// Checks the session and the epoch. A storage failure ends nothing; a later check finds a revoked node.
    async fn may_continue(&self) -> bool {
        let (store, node) = (&self.app.store, self.node.node);
        if let Ok(false) = store
            .has_live_session(node, self.app.environment.now())
            .await
        {
            self.app.hub.fail(
                self.registered.connection,
                RpcError::unauthenticated(
                    "the session expired: open a new one with BeginAuthHandshake",
                )
                .with_reason("SESSION_INVALID"),
            );
            return false;
        }
        if let Ok(false) = store.is_current(node, self.epoch).await {
            self.app.hub.replaced(node, self.registered.connection);
            return false;
        }
        true
    }

    async fn handle(&mut self, kind: Kind, over: &CancellationToken) {
        let valid =
            match &kind {
                Kind::Ack(ack) => ack.validate().map_err(RpcError::from),
                Kind::Progress(progress) => progress.validate().map_err(RpcError::from),
                Kind::Pins(pins) => pins.validate().map_err(RpcError::from),
                Kind::Hello(_) => Err(RpcError::invalid_argument("Hello was sent before")
                    .with_reason("HELLO_REPEATED")),
            };
        if let Err(error) = valid {
            tracing::debug!(node = %self.node.node, %error, "a message of the node was dropped");
            return self.app.hub.malformed(self.registered.connection);
        }
        match kind {
            Kind::Ack(ack) => self.ack(ack, over).await,
            Kind::Progress(progress) => self.progress(progress).await,
            Kind::Pins(pins) => self.pins(pins, over).await,
            Kind::Hello(_) => {}
        }
    }

    /// The command, if it is in flight on this stream.
    fn in_flight(&self, id: &str) -> Option<CommandId> {
        let Ok(command) = CommandId::from_str(id) else {
            self.app.hub.malformed(self.registered.connection);
            return None;
        };
        match self.app.hub.check(self.registered.connection, command) {
            Ok(_) => Some(command),
            Err(dropped) => {
                tracing::debug!(node = %self.node.node, %dropped, "a message of the node was dropped");
                None
            }
        }
    }

    /// The end of a command is stored before its permit is released.
    async fn ack(&self, ack: ControlAck, over: &CancellationToken) {
        let Some(command) = self.in_flight(&ack.command_id) else {
            return;
        };
        let reason = printable(&ack.error_message, REASON_MOST);
        let stored = Ack {
            node: self.node.node,
            epoch: self.epoch,
            command,
            verdict: verdict_of_ack(AckCode::from_number(ack.code), ack.succeeded, &reason),
            outcomes: (!ack.outcomes.is_empty()).then(|| ack.outcomes.to_vec()),
            notes: ack
                .notes
                .iter()
                .map(|note| printable(note, REASON_MOST))
                .collect(),
            now: self.app.environment.now(),
        };
        match self.store_ack(stored, over).await {
            Some(Acked::Chunk { scan, .. } | Acked::Waits { scan, .. }) => {
                self.app.wakeups.notify(scan);
            }
            Some(Acked::Pairing(pairing)) => self.app.wakeups.notify(pairing),
            Some(Acked::Stale) => {}
            None => return,
        }
        self.app
            .hub
            .acknowledged(self.registered.connection, command);
        self.app.dispatch_queue.push(self.node.node);
    }

    /// Stores an ack. An upstream node sends an ack only once, so a storage failure is retried until the stream ends or
    /// the command's deadline passes.
    async fn store_ack(&self, ack: Ack, over: &CancellationToken) -> Option<Acked> {
        let mut logged = false;
        loop {
            let error = match self.app.store.record_ack(ack.clone()).await {
                Ok(acked) => return Some(acked),
                Err(error) => error,
            };
            if !std::mem::replace(&mut logged, true) {
                tracing::warn!(node = %ack.node, command = %ack.command, %error, "an ack waits for storage");
            }
            if !self.may_store_again(ack.command, over).await {
                return None;
            }
        }
    }

    /// Waits before a write about a command is repeated. Returns whether the stream and the command still exist.
    async fn may_store_again(&self, command: CommandId, over: &CancellationToken) -> bool {
        tokio::select! {
            () = tokio::time::sleep(STORE_AGAIN) => {}
            () = over.cancelled() => return false,
        }
        self.app
            .hub
            .check(self.registered.connection, command)
            .is_ok()
    }

    async fn progress(&mut self, reported: ControlProgress) {
        let Some(command) = self.in_flight(&reported.command_id) else {
            return;
        };
        let progress = CommandProgress {
            done: reported.targets_done,
            total: reported.targets_total,
        };
        let Ok(Some(progress)) =
            self.app
                .hub
                .progress(self.registered.connection, command, progress)
        else {
            return;
        };
        let now = self.app.environment.instant();
        let recent = |at: Instant| now.saturating_duration_since(at) < STORE_PROGRESS_EVERY;
        if self.progress_stored.is_some_and(recent) {
            return;
        }
        // Before the result is known: a database that fails must not be asked for every message.
        self.progress_stored = Some(now);
        let phase = printable(&reported.phase, 64);
        match self
            .app
            .store
            .record_progress(self.node.node, self.epoch, command, progress.done, &phase)
            .await
        {
            Ok(Some(scan)) => self.app.wakeups.notify(scan),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "progress was not stored"),
        }
    }

    /// Stores pins. A storage failure is retried until the stream or the command ends, because all reports of the
    /// command wait for its pins.
    async fn pins(&self, pins: ControlPins, over: &CancellationToken) {
        let Some(command) = self.in_flight(&pins.command_id) else {
            return;
        };
        let names = pins.names.into_iter().map(|pinned| {
            let skipped = printable(&pinned.skipped_reason, REASON_MOST);
            let answer = if skipped.is_empty() {
                addresses(&pinned.addresses)
            } else {
                Err(skipped)
            };
            (pinned.name, answer)
        });
        let pins = Pins {
            node: self.node.node,
            command,
            names: names.collect(),
            addresses: self.app.config.addresses,
            now: self.app.environment.now(),
        };
        let mut logged = false;
        let taken = loop {
            match self.app.store.record_pins(pins.clone()).await {
                Ok(taken) => break taken,
                Err(PinsError::NotInFlight(_)) => return,
                Err(PinsError::Storage(error)) => {
                    if !std::mem::replace(&mut logged, true) {
                        tracing::warn!(node = %self.node.node, %command, %error, "pins wait for storage");
                    }
                }
            }
            if !self.may_store_again(command, over).await {
                return;
            }
        };
        self.app.wakeups.notify(taken.scan);
        taken
            .refused
            .iter()
            .for_each(|_| self.app.hub.malformed(self.registered.connection));
    }

    /// Stores the end of the stream, unless a newer one was claimed. While the database is away, every server shows the
    /// node as connected, so a failure is retried until the server drains.
    async fn end(self, why: String) {
        let Self {
            app,
            node,
            epoch,
            registered,
            ..
        } = self;
        drop(registered);
        tracing::info!(node = %node.node, %epoch, why, "node disconnected");
        let ended = app.environment.now();
        let mut logged = false;
        while let Err(error) = app
            .store
            .release_stream(node.node, epoch, why.clone(), ended)
            .await
        {
            if !std::mem::replace(&mut logged, true) {
                tracing::warn!(node = %node.node, %error, "the end of a stream waits for storage");
            }
            tokio::select! {
                () = tokio::time::sleep(STORE_AGAIN) => {}
                () = app.drain.cancelled() => return,
            }
        }
    }
}

/// The addresses that a node resolved a name to. One malformed address leaves the name out, as does one address that may
/// not be scanned.
fn addresses(texts: &[String]) -> Result<Vec<IpAddr>, String> {
    let parsed = texts.iter().map(|text| {
        fleet_core::parse_literal(text)
            .ok_or_else(|| format!("`{}` is not an address", printable(text, 45)))
    });
    parsed.collect()
}
