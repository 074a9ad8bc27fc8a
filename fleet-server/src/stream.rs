//! The control stream of a node: Hello, the claim of a new epoch, then what the node says. What goes down
//! is the hub's. From the claim on a stream lives in a task of its own: a peer that hangs up in the middle
//! of something leaves neither the store nor the hub halfway.

use std::{
    net::IpAddr,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use fleet_core::{
    CommandId, ConnectionId, Epoch, InstanceId,
    outcome::{AckCode, verdict_of_ack},
};
use fleet_registry::{
    Announced, Capabilities,
    registry::{Admission, Adopted, Claim, CommandProgress, OpenRefused, Standing},
};
use fleet_store::{Ack, Acked, ClaimError, ClaimedStream, NodeIdentity, Pins, StreamClaim};
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
    failure::{self, Refusal},
    hub::{self, Opened},
};

/// How often a stream asks storage whether it may still be: whether a session of the node lives, and
/// whether its epoch is still the newest of all servers.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// Between two tries to store an ack.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// Between two progress messages of a stream that are stored: each is a transaction, and watchers look once
/// a second.
const STORE_PROGRESS_EVERY: Duration = Duration::from_millis(900);
/// An ack's text for people.
const REASON_MOST: usize = 512;

/// Opens a node's stream: waits for Hello, claims the epoch, and answers the messages to send.
///
/// Dropping the future before Hello closes the connection; after it the claim is carried through, and the
/// stream found to be over.
pub(crate) async fn open(
    app: Arc<App>,
    node: NodeIdentity,
    mut inbound: BoxStream<ControlStreamRequest>,
) -> Result<Reply<BoxStream<ControlStreamResponse>>, RpcError> {
    let mut opened = app.hub.open(node.node).map_err(|refused| match refused {
        hub::OpenRefused::OfNode(_) => RpcError::resource_exhausted(refused.to_string()),
        hub::OpenRefused::Registry(OpenRefused::TooMany(_)) => {
            RpcError::resource_exhausted(refused.to_string())
        }
        hub::OpenRefused::Registry(OpenRefused::Draining { retry_after }) => {
            RpcError::not_active(refused.to_string()).with_retry_after(retry_after)
        }
    })?;
    let held = Held {
        app: app.clone(),
        connection: opened.connection,
    };
    let hello = greet(&mut inbound, &mut opened).await?;
    let Opened { outbox, over, .. } = opened;
    let (claimed, current) = oneshot::channel();
    let evicted = over.clone();
    let tasks = app.tasks.clone();
    tasks.spawn(async move {
        match claim(&held, &node, hello).await {
            Err(refused) => {
                // Nobody listens any more where the peer has hung up.
                let _ = claimed.send(Err(refused));
            }
            Ok(epoch) => {
                tracing::info!(node = %node.node, %epoch, "node connected");
                let _ = claimed.send(Ok(()));
                let mut listening = Listening {
                    app,
                    node,
                    epoch,
                    held,
                    progress_stored: None,
                };
                listening.listen(inbound, &over).await;
                listening.end().await;
            }
        }
    });
    // Evicted while it claimed: the outbox holds what to say of it.
    tokio::select! {
        biased;
        claimed = current => claimed.map_err(|_| RpcError::internal("internal error"))??,
        () = evicted.cancelled() => {}
    }
    Ok(Reply::stream(stream::unfold(
        outbox,
        |mut outbox| async move { outbox.recv().await.map(|message| (message, outbox)) },
    )))
}

/// Closes the connection in the hub when dropped, whatever ended it.
#[derive(Debug)]
struct Held {
    app: Arc<App>,
    connection: ConnectionId,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Nothing to release: either it never became current, or it was released before.
        let _ = self.app.hub.closed(self.connection);
    }
}

/// Waits for the first message, which must be Hello; the hub ends the stream when it does not come.
async fn greet(
    inbound: &mut BoxStream<ControlStreamRequest>,
    opened: &mut Opened,
) -> Result<ControlHello, RpcError> {
    let first = tokio::select! {
        first = inbound.next() => first,
        evicted = opened.outbox.recv() => {
            return Err(evicted.and_then(Result::err).unwrap_or_else(|| RpcError::unavailable("the stream was ended")));
        }
    };
    match first {
        Some(Ok(ControlStreamRequest {
            kind: Some(Kind::Hello(hello)),
        })) => hello.validate().map(|()| hello).map_err(RpcError::from),
        Some(Ok(_)) => Err(RpcError::invalid_argument(
            "the first message must be Hello",
        )),
        Some(Err(error)) => Err(error),
        None => Err(RpcError::failed_precondition(
            "the stream ended before its Hello",
        )),
    }
}

/// Asks for admission, claims the epoch in the store, and makes the stream current.
async fn claim(held: &Held, node: &NodeIdentity, hello: ControlHello) -> Result<Epoch, RpcError> {
    let (app, connection) = (&held.app, held.connection);
    let instance = <[u8; 16]>::try_from(hello.instance_id.as_ref())
        .ok()
        .map(InstanceId);
    match app.hub.admit(connection, node.node) {
        Admission::Proceed => {}
        Admission::Gone => return Err(RpcError::unavailable("the stream was ended")),
        Admission::Full { retry_after } => {
            let full = "this server remembers as many nodes as it may, try again later";
            return Err(RpcError::resource_exhausted(full).with_retry_after(retry_after));
        }
    }
    let announced = announced(&hello);
    let running = hello
        .running
        .iter()
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
            ClaimError::NotFound(_) => RpcError::not_found(error.to_string()),
            ClaimError::Duplicate { node, hold } => {
                tracing::warn!(%node, ?hold, "two machines use one identity");
                RpcError::resource_exhausted(error.to_string()).with_retry_after(*hold)
            }
            ClaimError::Storage(error) => failure::storage(error),
        })?;
    for scan in &claimed.ended {
        app.bells.ring(*scan);
    }
    let epoch = claimed.epoch;
    match app
        .hub
        .connected(node.node, connection, in_registry(app, &claimed, announced))
    {
        // A fenced stream has its goodbye in the outbox already.
        Standing::Current | Standing::Fenced => Ok(epoch),
        Standing::Gone => {
            app.store
                .release_stream(node.node, epoch, app.environment.now())
                .await
                .map_err(Refusal::refusal)?;
            Err(RpcError::unavailable("the stream was ended"))
        }
    }
}

fn announced(hello: &ControlHello) -> Announced {
    let capabilities = Capabilities::parse(hello.capabilities.iter().map(String::as_str));
    Announced::new(capabilities, hello.max_targets, hello.max_ports)
}

fn in_registry(app: &App, claimed: &ClaimedStream, announced: Announced) -> Claim {
    let (now, instant) = (app.environment.now(), app.environment.instant());
    let adopted = claimed.adopted.iter().map(|adopted| Adopted {
        command: adopted.command,
        lane: adopted.lane,
        deadline: instant + adopted.deadline.since(now),
        canceled: adopted.canceled,
    });
    Claim {
        epoch: claimed.epoch,
        announced,
        adopted: adopted.collect(),
    }
}

/// A current stream and what it hears.
#[derive(Debug)]
struct Listening {
    app: Arc<App>,
    node: NodeIdentity,
    epoch: Epoch,
    held: Held,
    /// When progress was last stored.
    progress_stored: Option<Instant>,
}

impl Listening {
    /// Hears the node until it ends the stream, is evicted, or may not have a stream any more. A message
    /// that was received is stored to its end, whatever becomes of the stream meanwhile; whether it still
    /// counts is for the store to say, by the epoch.
    async fn listen(
        &mut self,
        mut inbound: BoxStream<ControlStreamRequest>,
        over: &CancellationToken,
    ) {
        let mut check = tokio::time::interval(CHECK_EVERY);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        check.tick().await;
        loop {
            // None of the three loses anything when another one is first.
            let message = tokio::select! {
                message = inbound.next() => message,
                () = over.cancelled() => return,
                _ = check.tick() => {
                    if self.may_stay().await { continue } else { return }
                }
            };
            match message {
                Some(Ok(ControlStreamRequest { kind: Some(kind) })) => self.hear(kind, over).await,
                Some(Ok(ControlStreamRequest { kind: None }) | Err(_)) => {
                    self.app.hub.malformed(self.held.connection);
                }
                None => return,
            }
        }
    }

    /// Storage trouble ends nothing: a node that was revoked is found out later.
    async fn may_stay(&self) -> bool {
        let (store, node) = (&self.app.store, self.node.node);
        if let Ok(false) = store
            .has_live_session(node, self.app.environment.now())
            .await
        {
            self.app.hub.fail(
                self.held.connection,
                RpcError::unauthenticated(
                    "the session is over: open a new one with BeginAuthHandshake",
                ),
            );
            return false;
        }
        if let Ok(false) = store.is_current(node, self.epoch).await {
            // By at least the next one: which it is makes no difference here.
            self.app.hub.superseded(node, Epoch(self.epoch.0 + 1));
            return false;
        }
        true
    }

    async fn hear(&mut self, kind: Kind, over: &CancellationToken) {
        let heard = match &kind {
            Kind::Ack(ack) => ack.validate().map_err(RpcError::from),
            Kind::Progress(progress) => progress.validate().map_err(RpcError::from),
            Kind::Pins(pins) => pins.validate().map_err(RpcError::from),
            Kind::Hello(_) => Err(RpcError::invalid_argument("Hello was said before")),
        };
        if let Err(error) = heard {
            tracing::debug!(node = %self.node.node, %error, "a node's message was dropped");
            return self.app.hub.malformed(self.held.connection);
        }
        match kind {
            Kind::Ack(ack) => self.ack(ack, over).await,
            Kind::Progress(progress) => self.progress(progress).await,
            Kind::Pins(pins) => self.pins(pins).await,
            Kind::Hello(_) => {}
        }
    }

    /// The command, if it is in flight on this stream.
    fn in_flight(&self, id: &str) -> Option<CommandId> {
        let Ok(command) = CommandId::from_str(id) else {
            self.app.hub.malformed(self.held.connection);
            return None;
        };
        match self.app.hub.check(self.held.connection, command) {
            Ok(_) => Some(command),
            Err(dropped) => {
                tracing::debug!(node = %self.node.node, %dropped, "a node's message was dropped");
                None
            }
        }
    }

    /// The end of a command is stored before the lane is free.
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
                self.app.bells.ring(scan);
            }
            Some(Acked::Pairing(pairing)) => self.app.bells.ring(pairing),
            Some(Acked::Stale) => {}
            None => return,
        }
        self.app.hub.acknowledged(self.held.connection, command);
        self.app.work.look_at(self.node.node);
    }

    /// Stores an ack, which an upstream node says once and never again: storage trouble is waited out, until
    /// the stream ends or the deadline has judged the command.
    async fn store_ack(&self, ack: Ack, over: &CancellationToken) -> Option<Acked> {
        let mut told = false;
        loop {
            let error = match self.app.store.record_ack(ack.clone()).await {
                Ok(acked) => return Some(acked),
                Err(error) => error,
            };
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(node = %ack.node, command = %ack.command, %error, "an ack waits for storage");
            }
            tokio::select! {
                () = tokio::time::sleep(STORE_AGAIN) => {}
                () = over.cancelled() => return None,
            }
            self.app.hub.check(self.held.connection, ack.command).ok()?;
        }
    }

    async fn progress(&mut self, said: ControlProgress) {
        let Some(command) = self.in_flight(&said.command_id) else {
            return;
        };
        let progress = CommandProgress {
            done: said.targets_done,
            total: said.targets_total,
        };
        let Ok(Some(progress)) = self
            .app
            .hub
            .progress(self.held.connection, command, progress)
        else {
            return;
        };
        let now = self.app.environment.instant();
        let recent = |at: Instant| now.saturating_duration_since(at) < STORE_PROGRESS_EVERY;
        if self.progress_stored.is_some_and(recent) {
            return;
        }
        self.progress_stored = Some(now);
        let phase = printable(&said.phase, 64);
        match self
            .app
            .store
            .record_progress(self.node.node, self.epoch, command, progress.done, &phase)
            .await
        {
            Ok(Some(scan)) => self.app.bells.ring(scan),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "progress was not stored"),
        }
    }

    async fn pins(&self, said: ControlPins) {
        let Some(command) = self.in_flight(&said.command_id) else {
            return;
        };
        let names = said.names.into_iter().map(|pinned| {
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
        match self.app.store.record_pins(pins).await {
            Ok(taken) => {
                self.app.bells.ring(taken.scan);
                taken
                    .refused
                    .iter()
                    .for_each(|_| self.app.hub.malformed(self.held.connection));
            }
            Err(error) => {
                tracing::warn!(node = %self.node.node, %command, %error, "pins were not taken")
            }
        }
    }

    /// Gives the node free, unless a newer stream has it.
    async fn end(self) {
        let Some(released) = self.app.hub.closed(self.held.connection) else {
            return;
        };
        tracing::info!(node = %released.node, epoch = %released.epoch, "node disconnected");
        if let Err(error) = self
            .app
            .store
            .release_stream(released.node, released.epoch, self.app.environment.now())
            .await
        {
            tracing::warn!(%error, "a stream's end was not stored");
        }
    }
}

/// What a node says a name resolves to. One text that is no address leaves the name out, as one address that may not
/// be scanned does.
fn addresses(texts: &[String]) -> Result<Vec<IpAddr>, String> {
    let parsed = texts.iter().map(|text| {
        fleet_core::parse_literal(text)
            .ok_or_else(|| format!("`{}` is no address", printable(text, 45)))
    });
    parsed.collect()
}
