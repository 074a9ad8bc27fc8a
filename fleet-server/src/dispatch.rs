//! Dispatch: sends stored chunks to connected nodes. The command's row is written before anything is sent, so a crash
//! in between costs an attempt and never a chunk.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fleet_core::{CommandId, NodeId};
use fleet_store::{Dispatch, IssuedCommand, StoreError};
use tokio::task::{Id, JoinSet};

use crate::{app::App, environment::Environment, hub::Hub};

/// Interval of polls, for chunks whose back-off is over and chunks that other servers stored.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// Nodes that are served at once. A node whose row is locked for long holds up one of these places and no other node.
/// Fewer than the connections of a pool, so that requests keep some.
const AT_ONCE: usize = 6;

/// Dispatches until the server drains.
pub(crate) async fn run(app: Arc<App>) {
    let unsent = Arc::new(Unsent::default());
    let mut serving = Serving::default();
    let mut polls = tokio::time::interval(POLL_EVERY);
    polls.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = app.drain.cancelled() => break,
            () = app.dispatch_queue.wait() => {}
            () = serving.next() => {}
            _ = polls.tick() => match app.store.nodes_with_work(app.environment.now()).await {
                Ok(nodes) => nodes
                    .into_iter()
                    .chain(unsent.nodes())
                    .for_each(|node| app.dispatch_queue.push(node)),
                Err(error) => tracing::warn!(%error, "cannot read which nodes have work"),
            }
        }
        serving.start(app.dispatch_queue.take(), |node| {
            serve(app.clone(), unsent.clone(), node)
        });
    }
    // What was begun is completed, so no command stays stored and unsent.
    serving.finish().await;
}

/// Serves one node.
async fn serve(app: Arc<App>, unsent: Arc<Unsent>, node: NodeId) {
    let dispatcher = Dispatcher {
        store: app.store.as_ref(),
        hub: &app.hub,
        environment: app.environment.as_ref(),
        unsent: &unsent,
    };
    match dispatcher.dispatch(node).await {
        Ok(Some(issued)) => app.wakeups.notify(issued.scan),
        Ok(None) => {}
        // The next poll retries.
        Err(error) => tracing::warn!(%node, %error, "cannot dispatch"),
    }
}

/// The nodes that are served now, each by a task of its own, and those that wait for a place. Tasks, because a future
/// that nothing polls could hold a connection of the pool.
#[derive(Default)]
struct Serving {
    tasks: JoinSet<()>,
    served: HashMap<Id, NodeId>,
    waiting: BTreeSet<NodeId>,
}

impl Serving {
    /// Adds nodes, and serves as many as there are places. A node is never served twice at once.
    fn start<F>(&mut self, nodes: impl IntoIterator<Item = NodeId>, serve: impl Fn(NodeId) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.waiting.extend(nodes);
        while self.served.len() < AT_ONCE {
            let is_free = |node: &&NodeId| !self.served.values().any(|served| served == *node);
            let Some(node) = self.waiting.iter().find(is_free).copied() else {
                return;
            };
            self.waiting.remove(&node);
            let task = self.tasks.spawn(serve(node));
            self.served.insert(task.id(), node);
        }
    }

    /// Waits until a node was served. Never returns if none is being served. Cancel-safe.
    async fn next(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => drop(self.served.remove(&id)),
            Some(Err(crashed)) => {
                tracing::error!(%crashed, "a dispatch crashed");
                self.served.remove(&crashed.id());
            }
            None => std::future::pending().await,
        }
    }

    /// Waits until no node is being served.
    async fn finish(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Commands that were not sent but may be stored, for example because the answer of a COMMIT was lost. Their nodes
/// get no other command until they are withdrawn. At most one per node.
#[derive(Default)]
struct Unsent(Mutex<BTreeMap<NodeId, CommandId>>);

impl Unsent {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, CommandId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.lock().keys().copied().collect()
    }

    fn of(&self, node: NodeId) -> Option<CommandId> {
        self.lock().get(&node).copied()
    }

    fn insert(&self, node: NodeId, command: CommandId) {
        self.lock().insert(node, command);
    }

    fn remove(&self, node: NodeId) {
        self.lock().remove(&node);
    }
}

/// Sends the chunks of one store to the nodes of one hub.
struct Dispatcher<'a, S: ?Sized> {
    store: &'a S,
    hub: &'a Hub,
    environment: &'a (dyn Environment + 'static),
    unsent: &'a Unsent,
}

impl<S: Dispatch + ?Sized> Dispatcher<'_, S> {
    /// Issues a node's next chunk and sends it to the stream that holds the current epoch. Returns the issued command.
    ///
    /// # Errors
    ///
    /// An error of the store. The next call for the node first withdraws what this one may have stored.
    async fn dispatch(&self, node: NodeId) -> Result<Option<IssuedCommand>, StoreError> {
        let (store, environment) = (self.store, self.environment);
        if let Some(command) = self.unsent.of(node) {
            let now = environment.now();
            store.withdraw_command(node, command, now).await?;
            self.unsent.remove(node);
        }
        let Some(epoch) = self.hub.free_epoch(node) else {
            return Ok(None);
        };
        let (command, now) = (environment.command_id(), environment.now());
        // An error does not show whether the command was stored.
        self.unsent.insert(node, command);
        let Some(issued) = store.issue_command(node, epoch, command, now).await? else {
            self.unsent.remove(node);
            return Ok(None);
        };
        let scan = issued.scan;
        tracing::debug!(%node, %epoch, %command, %scan, "command issued");
        let sent = self
            .hub
            .send_command(node, epoch, &issued, environment.now());
        if !sent {
            // The stream ended in between. A withdrawal costs no attempt, and waiting for the deadline
            // would cost 12 minutes.
            store
                .withdraw_command(node, command, environment.now())
                .await?;
        }
        self.unsent.remove(node);
        Ok(Some(issued))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use fleet_core::{Epoch, Priority, ScanId, Timestamp, limits};
    use fleet_discovery::ChunkCommand;
    use fleet_registry::{
        Announced,
        registry::{Admission, Claim, Standing},
    };
    use fleet_wire::gateway::control_stream_response::Kind;

    use super::*;
    use crate::{dispatch_queue::DispatchQueue, environment::SystemEnvironment, hub::Opened};

    const NODE: NodeId = NodeId(1);

    /// A store with one chunk for one node. It can lose the answers of its COMMITs.
    #[derive(Default)]
    struct Lossy(Mutex<State>);

    #[derive(Default)]
    struct State {
        in_flight: Option<CommandId>,
        answers_to_lose: u32,
    }

    impl Lossy {
        fn lose_answers(&self, count: u32) {
            self.0.lock().expect("not poisoned").answers_to_lose = count;
        }

        fn in_flight(&self) -> Option<CommandId> {
            self.0.lock().expect("not poisoned").in_flight
        }

        /// Changes the state, and loses the answer if it has to.
        fn commit<T>(&self, change: impl FnOnce(&mut State) -> T) -> Result<T, StoreError> {
            let mut state = self.0.lock().expect("not poisoned");
            let answer = change(&mut state);
            if state.answers_to_lose == 0 {
                return Ok(answer);
            }
            state.answers_to_lose -= 1;
            Err(StoreError::Unavailable {
                operation: "commit",
                detail: "the answer is lost".to_owned(),
            })
        }
    }

    #[async_trait::async_trait]
    impl Dispatch for Lossy {
        async fn issue_command(
            &self,
            _: NodeId,
            _: Epoch,
            command: CommandId,
            now: Timestamp,
        ) -> Result<Option<IssuedCommand>, StoreError> {
            self.commit(|state| {
                if state.in_flight.is_some() {
                    return None;
                }
                state.in_flight = Some(command);
                Some(IssuedCommand {
                    command,
                    scan: ScanId::new(now, [1; 10]),
                    priority: Priority::Interactive,
                    request: ChunkCommand::List(vec!["10.0.0.1".to_owned()]),
                    ports: Vec::new(),
                    rate: 0,
                    is_explicit: true,
                    deadline: now.plus(limits::COMMAND_DEADLINE),
                })
            })
        }

        async fn withdraw_command(
            &self,
            _: NodeId,
            command: CommandId,
            _: Timestamp,
        ) -> Result<(), StoreError> {
            self.commit(|state| {
                state.in_flight.take_if(|issued| *issued == command);
            })
        }

        async fn nodes_with_work(&self, _: Timestamp) -> Result<Vec<NodeId>, StoreError> {
            Ok(Vec::new())
        }
    }

    fn hub() -> (Hub, Opened) {
        let hub = Hub::new(
            Arc::new(SystemEnvironment),
            Arc::new(DispatchQueue::default()),
            String::new(),
        );
        let opened = hub.open(NODE).expect("opens");
        assert_eq!(hub.admit(opened.connection, NODE), Admission::Proceed);
        let claim = Claim {
            epoch: Epoch(1),
            announced: Announced::UPSTREAM,
            adopted: Vec::new(),
        };
        let standing = hub.connected(NODE, opened.connection, claim);
        assert_eq!(standing, Standing::Current);
        (hub, opened)
    }

    /// The ids of the commands that were sent.
    fn sent(stream: &mut Opened) -> Vec<String> {
        let mut sent = Vec::new();
        while let Ok(Ok(message)) = stream.outbox.try_recv() {
            if let Some(Kind::Command(command)) = message.kind {
                sent.push(command.command_id);
            }
        }
        sent
    }

    fn dispatcher<'a>(store: &'a Lossy, hub: &'a Hub, unsent: &'a Unsent) -> Dispatcher<'a, Lossy> {
        Dispatcher {
            store,
            hub,
            environment: &SystemEnvironment,
            unsent,
        }
    }

    #[tokio::test]
    async fn a_slow_node_holds_up_no_other_and_is_not_served_twice_at_once() {
        let (served, mut done) = tokio::sync::mpsc::unbounded_channel();
        let slow = Arc::new(tokio::sync::Notify::new());
        let serve = |node: NodeId| {
            let (served, slow) = (served.clone(), slow.clone());
            async move {
                if node == NODE {
                    slow.notified().await;
                }
                served.send(node).expect("somebody listens");
            }
        };
        let mut serving = Serving::default();
        let most = i64::try_from(AT_ONCE).expect("small");
        // More nodes than places, in two groups. The first waits for its row.
        serving.start((1..=3 * most).map(NodeId), serve);
        assert_eq!(serving.served.len(), AT_ONCE);
        serving.start([NODE], serve);
        for expected in 2..=3 * most {
            assert_eq!(done.recv().await, Some(NodeId(expected)));
            serving.next().await;
            serving.start([], serve);
        }
        assert_eq!(serving.served.len(), 1, "it waits for itself");
        for _ in 0..2 {
            slow.notify_one();
            assert_eq!(done.recv().await, Some(NODE));
            serving.next().await;
            serving.start([], serve);
        }
        assert!(serving.served.is_empty() && serving.waiting.is_empty());
    }

    #[tokio::test]
    async fn a_crashed_dispatch_frees_its_place() {
        let mut serving = Serving::default();
        serving.start([NODE], |_| async { panic!("for the test") });
        serving.next().await;
        assert!(serving.served.is_empty());
    }

    #[tokio::test]
    async fn a_command_whose_answer_was_lost_is_withdrawn_until_that_succeeds() {
        let store = Lossy::default();
        let (hub, mut stream) = hub();
        let unsent = Unsent::default();
        let dispatcher = dispatcher(&store, &hub, &unsent);
        // The answers of the issue and of the first withdrawal are lost.
        store.lose_answers(1);
        dispatcher.dispatch(NODE).await.expect_err("lost");
        let lost = store.in_flight().expect("it is stored");
        store.lose_answers(1);
        dispatcher.dispatch(NODE).await.expect_err("lost");
        assert_eq!(sent(&mut stream), [""; 0]);
        let issued = dispatcher.dispatch(NODE).await.expect("answered");
        let issued = issued.expect("the chunk is issued again").command;
        assert_ne!(issued, lost);
        assert_eq!(sent(&mut stream), [issued.to_string()]);
        // What was sent is never withdrawn.
        assert_eq!(dispatcher.dispatch(NODE).await.expect("answered"), None);
        assert_eq!(store.in_flight(), Some(issued));
    }

    #[tokio::test]
    async fn a_command_for_a_stream_that_ended_is_withdrawn() {
        let store = Lossy::default();
        let (hub, mut stream) = hub();
        let unsent = Unsent::default();
        let dispatcher = dispatcher(&store, &hub, &unsent);
        store.lose_answers(1);
        dispatcher.dispatch(NODE).await.expect_err("lost");
        let _released = hub.closed(stream.connection);
        assert_eq!(dispatcher.dispatch(NODE).await.expect("answered"), None);
        assert_eq!((store.in_flight(), sent(&mut stream)), (None, vec![]));
    }
}
