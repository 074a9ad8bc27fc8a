//! [`App`]: the state that all handlers and background tasks of a server share.

use std::{num::NonZeroU32, sync::Arc};

use fleet_core::{CommandId, NodeId, OrgId, ReplicaId, Timestamp, presence};
use fleet_discovery::PlanPolicy;
use fleet_store::{ListPage, NodeRow, Notification, OperatorIdentity, Store, StoreError};
use fleet_wire::RpcError;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use zeroize::Zeroizing;

use crate::{
    audit::Auditor,
    auth::UndeclaredProxies,
    call_limits::CallLimits,
    config::{DirectPath, Rates, ServerConfig},
    convert::next_cursor,
    credential_limits::{CredentialLimits, Lookups},
    direct_slots::DirectSlots,
    dispatch_queue::DispatchQueue,
    environment::Environment,
    failure::Answered,
    hub::Hub,
    key_slots::KeySlots,
    limiter::{Limiter, SourceLimiter},
    metrics::Metrics,
    pair::ForwardKey,
    passwords::Passwords,
    plans::Plans,
    provider::Provider,
    readiness::Readiness,
    replicas::Replicas,
    wakeups::Wakeups,
};

/// Clients of an undeclared proxy that may use their whole allowance of sign-ins within a minute.
const CLAIMED_CLIENTS: NonZeroU32 = NonZeroU32::new(10).expect("not zero");

#[derive(Debug)]
pub(crate) struct Limiters {
    pub(crate) register: SourceLimiter,
    pub(crate) handshakes: SourceLimiter,
    pub(crate) handshakes_of_a_key: Limiter,
    /// Apart from handshakes: nodes that wait for a confirmation must not keep confirmed ones out.
    pub(crate) key_fetches: SourceLimiter,
    pub(crate) sign_ins: SourceLimiter,
    /// Sign-ins that a peer forwards for clients that it names, if it is not a trusted proxy.
    pub(crate) claimed_sign_ins: Limiter,
    pub(crate) passwords_of_an_account: Limiter,
    pub(crate) credentials: CredentialLimits,
    pub(crate) calls: Limiter,
}

impl Limiters {
    fn new(rates: Rates) -> Self {
        Self {
            register: SourceLimiter::per_minute(rates.register),
            handshakes: SourceLimiter::per_minute(rates.handshakes),
            handshakes_of_a_key: Limiter::per_minute(rates.handshakes_of_a_key),
            key_fetches: SourceLimiter::per_minute(rates.key_fetches),
            sign_ins: SourceLimiter::per_minute(rates.sign_ins),
            claimed_sign_ins: Limiter::per_minute(rates.sign_ins.saturating_mul(CLAIMED_CLIENTS)),
            passwords_of_an_account: Limiter::per_minute(rates.passwords_of_an_account),
            credentials: CredentialLimits::new(rates.unknown_credentials, rates.calls_of_a_caller),
            calls: Limiter::per_minute(rates.calls_of_a_caller),
        }
    }
}

/// The shared state of a server.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) config: ServerConfig,
    // A call of the database costs a thousand times more than the indirection (decision 0004).
    pub(crate) store: Arc<dyn Store>,
    pub(crate) environment: Arc<dyn Environment>,
    pub(crate) replica: ReplicaId,
    pub(crate) replicas: Replicas,
    pub(crate) forward_key: ForwardKey,
    pub(crate) hub: Hub,
    pub(crate) dispatch_queue: Arc<DispatchQueue>,
    /// The database may have orders for a node that is connected here.
    pub(crate) orders: Notify,
    pub(crate) wakeups: Wakeups,
    pub(crate) direct_slots: DirectSlots,
    pub(crate) limiters: Option<Limiters>,
    pub(crate) call_limits: CallLimits,
    pub(crate) lookups: Lookups,
    /// A difference holds the rows of two scans: one at a time in each organization.
    pub(crate) differences: KeySlots<OrgId>,
    /// Answers of an organization that are in memory as a whole until they are sent, of up to 65,536 rows each.
    pub(crate) whole_answers: KeySlots<OrgId>,
    pub(crate) plans: Plans,
    pub(crate) undeclared_proxies: UndeclaredProxies,
    pub(crate) auditor: Auditor,
    pub(crate) passwords: Passwords,
    pub(crate) provider: Option<Provider>,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Metrics,
    /// Fires when the server begins to shut down: watches end, and nodes are notified.
    pub(crate) drain: CancellationToken,
    /// Streams, and actions that continue although their caller has hung up. A drain waits for them.
    pub(crate) tasks: TaskTracker,
}

impl App {
    /// All live nodes of an organization, read page by page.
    pub(crate) async fn all_nodes(&self, org: OrgId) -> Result<Vec<NodeRow>, StoreError> {
        let (mut nodes, mut page) = (Vec::new(), ListPage::FIRST);
        loop {
            let rows = self.store.list_nodes(org, page).await?;
            page.after = next_cursor(&rows, page, |row| row.id.0);
            nodes.extend(rows);
            if page.after == 0 {
                return Ok(nodes);
            }
        }
    }

    pub(crate) fn new(
        config: ServerConfig,
        store: Arc<dyn Store>,
        environment: Arc<dyn Environment>,
    ) -> Arc<Self> {
        let dispatch_queue = Arc::new(DispatchQueue::default());
        let replica = ReplicaId(environment.random());
        Arc::new(Self {
            replica,
            replicas: Replicas::new(replica, environment.instant()),
            forward_key: ForwardKey::new(&Zeroizing::new(environment.random())),
            hub: Hub::new(
                environment.clone(),
                dispatch_queue.clone(),
                config.version.clone(),
            ),
            dispatch_queue,
            orders: Notify::new(),
            wakeups: Wakeups::new(),
            direct_slots: DirectSlots::default(),
            limiters: config.rates.map(Limiters::new),
            auditor: Auditor::new(store.clone(), environment.clone()),
            call_limits: CallLimits::default(),
            lookups: Lookups::default(),
            differences: KeySlots::new(1, 16),
            whole_answers: KeySlots::new(4, 16),
            plans: Plans::new(),
            undeclared_proxies: UndeclaredProxies::default(),
            passwords: Passwords::new(),
            provider: config.provider.clone().map(Provider::new),
            readiness: Readiness::new(),
            metrics: Metrics::default(),
            drain: CancellationToken::new(),
            tasks: TaskTracker::new(),
            config,
            store,
            environment,
        })
    }

    /// Runs an action to its end even if the caller hangs up, so that the hub always learns what the store has done.
    ///
    /// # Errors
    ///
    /// Those of `action`; INTERNAL when it panicked.
    pub(crate) async fn carry_through<T: Send + 'static>(
        &self,
        action: impl Future<Output = Result<T, RpcError>> + Send + 'static,
    ) -> Result<T, RpcError> {
        self.tasks
            .spawn(action)
            .await
            .map_err(|_| RpcError::internal("internal error"))?
    }

    /// Runs an operation of the store on a task of its own.
    ///
    /// Streams use this for every operation. A stream is polled only while its consumer reads, so an operation inside
    /// it could hold a connection of the pool, or the next turn for one, while nothing polls it. With as many such
    /// streams as connections, the whole server would stop.
    ///
    /// # Errors
    ///
    /// Those of the operation.
    pub(crate) async fn detached<T, F>(
        self: &Arc<Self>,
        operation: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        match tokio::spawn(operation(self.clone())).await {
            Ok(result) => result,
            Err(error) => Err(StoreError::Broken {
                operation: "detached",
                detail: error.to_string(),
            }),
        }
    }

    /// Notifies the server that holds a node's stream, this one or another, that the database has something for the
    /// node. Call it after the transaction that stored it.
    pub(crate) fn notify_node(self: &Arc<Self>, node: NodeId) {
        self.notify(Notification::Node(node));
    }

    /// Notifies every server that a credential or a role of an organization's operator was changed. What a revoked
    /// credential has started then ends. Call it after the transaction.
    pub(crate) fn notify_credentials(self: &Arc<Self>, org: OrgId) {
        self.notify(Notification::Credentials(org));
    }

    fn notify(self: &Arc<Self>, notification: Notification) {
        self.notified(notification);
        let app = self.clone();
        self.tasks.spawn(async move {
            // Every server also reads once a second.
            if let Err(error) = app.store.notify(notification).await {
                tracing::debug!(?notification, %error, "the other servers were not notified");
            }
        });
    }

    /// Handles a notification of any server, this one included.
    pub(crate) fn notified(&self, notification: Notification) {
        match notification {
            Notification::Node(node) => {
                self.dispatch_queue.push(node);
                self.orders.notify_one();
            }
            Notification::Credentials(org) => self.wakeups.notify(org),
        }
    }

    /// Stops a command that the store has ended, if its node is connected here.
    pub(crate) fn end_command(&self, node: NodeId, command: CommandId) {
        if !self.hub.is_in_flight(node, command) {
            return;
        }
        // Before `forget`, after which the hub no longer knows the command.
        self.hub.cancel(node, command);
        self.hub.forget(node, command);
        self.dispatch_queue.push(node);
    }

    /// Whether a node is connected, to this or another server.
    pub(crate) fn is_connected(&self, node: &NodeRow) -> bool {
        let now = self.environment.instant();
        self.replicas.is_connected(node.stream, now)
    }

    /// Whether a node is connected to this server.
    pub(crate) fn holds(&self, node: &NodeRow) -> bool {
        let own = |stream: presence::LastStream| stream.replica == self.replica;
        self.is_connected(node) && node.stream.is_some_and(own)
    }

    /// Whether a node counts as online.
    pub(crate) fn is_online(&self, node: &NodeRow, now: Timestamp) -> bool {
        let connected = self.is_connected(node);
        let stale_for = self
            .replicas
            .stale_for(node.stream, self.environment.instant());
        presence::is_online(connected, node.stream, stale_for, node.last_seen_at, now)
    }

    /// The server's part of the rules for plans.
    pub(crate) fn plan_policy(&self) -> PlanPolicy {
        PlanPolicy {
            addresses: self.config.addresses,
            unpinned_names: self.config.unpinned_names,
        }
    }

    /// The configuration for dialing devices from the server itself, in the network of the caller's organization.
    ///
    /// # Errors
    ///
    /// FAILED_PRECONDITION when that is switched off, or the network is not this organization's.
    pub(crate) async fn direct_path(
        &self,
        caller: &OperatorIdentity,
    ) -> Result<&DirectPath, RpcError> {
        let path = self.config.direct.as_ref().ok_or_else(|| {
            RpcError::failed_precondition(
                "the server does not dial devices itself: enroll a node in their network and scan through it (fleet.v1 StartScan, DiscoverOnFleetNode), or have the administrator set `enabled` and `networks` under [direct] in fleetd.toml",
            ).with_reason("DIRECT_SCANS_DISABLED")
        })?;
        let refused = match &path.organization {
            Some(owner) if owner.to_lowercase() == caller.org_name.to_lowercase() => None,
            Some(_) => Some(
                "the server's own network belongs to another organization: scan through a node of yours",
            ),
            // An organization may have been created since the server started.
            None if self.store.has_several_orgs().await.answered()? => Some(
                "the server has several organizations, and the configuration does not say whose network this is: have the administrator set `organization` under [direct] in fleetd.toml",
            ),
            None => None,
        };
        match refused {
            Some(text) => Err(RpcError::failed_precondition(text).with_reason("NETWORK_NOT_YOURS")),
            None => Ok(path),
        }
    }
}
