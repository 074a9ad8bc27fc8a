//! Dispatch: sends stored chunks to connected nodes. The command's row is written before anything is sent, so a crash
//! in between costs an attempt and never a chunk.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fleet_core::{CommandId, NodeId};
use fleet_store::{Dispatch, IssuedCommand, StoreError};

use crate::{app::App, environment::Environment, hub::Hub};

/// Interval of polls, for chunks whose back-off is over and chunks that other servers stored.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// Dispatches until the server drains.
pub(crate) async fn run(app: Arc<App>) {
    let mut dispatcher = Dispatcher {
        store: app.store.as_ref(),
        hub: &app.hub,
        environment: app.environment.as_ref(),
        unsent: BTreeMap::new(),
    };
    let mut polls = tokio::time::interval(POLL_EVERY);
    polls.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = app.drain.cancelled() => return,
            () = app.dispatch_queue.wait() => {}
            _ = polls.tick() => match app.store.nodes_with_work(app.environment.now()).await {
                Ok(nodes) => nodes
                    .into_iter()
                    .chain(dispatcher.unsent.keys().copied())
                    .for_each(|node| app.dispatch_queue.push(node)),
                Err(error) => tracing::warn!(%error, "cannot read which nodes have work"),
            }
        }
        for node in app.dispatch_queue.take() {
            if app.drain.is_cancelled() {
                return;
            }
            match dispatcher.dispatch(node).await {
                Ok(Some(issued)) => app.wakeups.notify(issued.scan),
                Ok(None) => {}
                // The next poll retries.
                Err(error) => tracing::warn!(%node, %error, "cannot dispatch"),
            }
        }
    }
}

/// Sends the chunks of one store to the nodes of one hub.
struct Dispatcher<'a, S: ?Sized> {
    store: &'a S,
    hub: &'a Hub,
    environment: &'a (dyn Environment + 'static),
    /// Commands that were not sent but may be stored, for example because the answer of a COMMIT was lost. Their nodes
    /// get no other command until they are withdrawn. At most one per node.
    unsent: BTreeMap<NodeId, CommandId>,
}

impl<S: Dispatch + ?Sized> Dispatcher<'_, S> {
    /// Issues a node's next chunk and sends it to the stream that holds the current epoch. Returns the issued command.
    ///
    /// # Errors
    ///
    /// An error of the store. The next call for the node first withdraws what this one may have stored.
    async fn dispatch(&mut self, node: NodeId) -> Result<Option<IssuedCommand>, StoreError> {
        let (store, environment) = (self.store, self.environment);
        if let Some(command) = self.unsent.get(&node) {
            let now = environment.now();
            store.withdraw_command(node, *command, now).await?;
            self.unsent.remove(&node);
        }
        let Some(epoch) = self.hub.free_epoch(node) else {
            return Ok(None);
        };
        let (command, now) = (environment.command_id(), environment.now());
        // An error does not show whether the command was stored.
        self.unsent.insert(node, command);
        let Some(issued) = store.issue_command(node, epoch, command, now).await? else {
            self.unsent.remove(&node);
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
        self.unsent.remove(&node);
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

    fn dispatcher<'a>(store: &'a Lossy, hub: &'a Hub) -> Dispatcher<'a, Lossy> {
        Dispatcher {
            store,
            hub,
            environment: &SystemEnvironment,
            unsent: BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn a_command_whose_answer_was_lost_is_withdrawn_until_that_succeeds() {
        let store = Lossy::default();
        let (hub, mut stream) = hub();
        let mut dispatcher = dispatcher(&store, &hub);
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
        let mut dispatcher = dispatcher(&store, &hub);
        store.lose_answers(1);
        dispatcher.dispatch(NODE).await.expect_err("lost");
        let _released = hub.closed(stream.connection);
        assert_eq!(dispatcher.dispatch(NODE).await.expect("answered"), None);
        assert_eq!((store.in_flight(), sent(&mut stream)), (None, vec![]));
    }
}
