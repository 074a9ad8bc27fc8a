//! [`Server`]: mounts the services, runs the background tasks, and shuts down in order.

use std::{convert::Infallible, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use ::http::{Request, Response};
use fleet_store::Store;
use fleet_wire::{
    admin::FleetNodeAdminServer,
    fleet::{
        AccountServer, AlertServer, AuditServer, DeviceDetailServer, DevicePairingServer,
        DeviceSearchServer, DeviceServer, DirectServer, KeyServer, NodeConfirmationServer,
        NodeKeyServer, NodeServer, OperatorServer, OverviewServer, ResultServer, ScanServer,
        ScheduleServer, SiteServer,
    },
    gateway::FleetNodeGatewayServer,
    listener::ListenerCounts,
    pairing::PairingServer,
    server::{Body, Health, HttpService, Services},
};
use futures::FutureExt;
use tokio::task::{AbortHandle, JoinSet};

use crate::{
    alerts, api::Api, app::App, auth::Gate, changes, config::ServerConfig, dispatch,
    environment::Environment, http, metrics, orders, readiness, replicas, schedules, seal, sweep,
};

/// How long messages of nodes are still received after the goodbye, so that their last results are stored.
const LAST_MESSAGES: Duration = Duration::from_secs(1);
/// How long remaining tasks may take at the end: about as long as the store retries.
const LAST_TASKS: Duration = Duration::from_secs(5);
/// Delay between a panic of a background task and its restart.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// A server.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    service: HttpService,
    health: Health,
    work: JoinSet<()>,
    /// The one task of `work` that does not end by itself.
    deadlines: AbortHandle,
}

impl Server {
    /// Starts the background tasks of a server; requires a tokio runtime. Pass [`Server::service`] to a listener.
    pub fn start(
        config: ServerConfig,
        store: Arc<dyn Store>,
        environment: Arc<dyn Environment>,
    ) -> Self {
        let app = App::new(config, store, environment);
        let api = Arc::new(Api { app: app.clone() });
        let plain = {
            let app = app.clone();
            tower::service_fn(move |request: Request<Body>| {
                let app = app.clone();
                async move { Ok::<Response<Body>, Infallible>(http::answer(app, request).await) }
            })
        };
        let (service, health) = Services::new()
            .mount(FleetNodeGatewayServer::from_arc(api.clone()))
            .mount(FleetNodeAdminServer::from_arc(api.clone()))
            .mount(PairingServer::from_arc(api.clone()))
            .mount(DirectServer::from_arc(api.clone()))
            .mount(ScanServer::from_arc(api.clone()))
            .mount(ResultServer::from_arc(api.clone()))
            .mount(ScheduleServer::from_arc(api.clone()))
            .mount(AlertServer::from_arc(api.clone()))
            .mount(NodeKeyServer::from_arc(api.clone()))
            .mount(NodeConfirmationServer::from_arc(api.clone()))
            .mount(NodeServer::from_arc(api.clone()))
            .mount(DeviceSearchServer::from_arc(api.clone()))
            .mount(OverviewServer::from_arc(api.clone()))
            .mount(SiteServer::from_arc(api.clone()))
            .mount(DeviceServer::from_arc(api.clone()))
            .mount(DeviceDetailServer::from_arc(api.clone()))
            .mount(AuditServer::from_arc(api.clone()))
            .mount(DevicePairingServer::from_arc(api.clone()))
            .mount(AccountServer::from_arc(api.clone()))
            .mount(KeyServer::from_arc(api.clone()))
            .mount(OperatorServer::from_arc(api))
            .plain(plain)
            .build(Gate { app: app.clone() });
        let mut work = JoinSet::new();
        work.spawn(supervise("dispatch", app.clone(), dispatch::run));
        work.spawn(supervise("sweep", app.clone(), sweep::run));
        work.spawn(supervise("schedules", app.clone(), schedules::run));
        work.spawn(supervise("changes", app.clone(), changes::run));
        work.spawn(supervise("alerts", app.clone(), alerts::run));
        work.spawn(supervise("deliveries", app.clone(), alerts::deliver));
        work.spawn(supervise("orders", app.clone(), orders::run));
        work.spawn(supervise("replicas", app.clone(), replicas::run));
        work.spawn(supervise("seal", app.clone(), seal::run));
        work.spawn(supervise("readiness", app.clone(), readiness::run));
        let deadlines = work.spawn(supervise("deadlines", app.clone(), async |app| {
            app.hub.run().await
        }));
        Self {
            app,
            service,
            health,
            work,
            deadlines,
        }
    }

    /// The service that answers every request; cheap to clone.
    pub fn service(&self) -> HttpService {
        self.service.clone()
    }

    /// The service that answers `GET /metrics`, for a listener of its own: it needs no credential. `connections` are the
    /// counters of the listener that serves [`Server::service`].
    pub fn metrics(&self, connections: Arc<ListenerCounts>) -> HttpService {
        metrics::service(self.app.clone(), connections)
    }

    /// Shuts down in order: nothing new is admitted or dispatched, nodes get their times to reconnect, watches end, the
    /// nodes' last messages are stored, streams end. Scans continue when a server starts again. Takes at most a few
    /// seconds.
    pub async fn drain(mut self) {
        // First, so load balancers send new calls elsewhere.
        self.health.set_serving(false);
        self.app.drain.cancel();
        self.app.hub.drain(self.app.config.drain_window);
        tokio::time::sleep(LAST_MESSAGES).await;
        self.app.hub.end_all();
        // `wait` returns only for a tracker that is closed.
        self.app.tasks.close();
        let work = async {
            self.app.tasks.wait().await;
            self.deadlines.abort();
            while self.work.join_next().await.is_some() {}
        };
        if tokio::time::timeout(LAST_TASKS, work).await.is_err() {
            tracing::warn!(
                tasks = self.app.tasks.len(),
                "some tasks did not end in time"
            );
        }
        self.work.shutdown().await;
    }
}

/// Runs a background task, and restarts it when it panics: a defect that one node triggers must not stop the work for
/// all nodes.
async fn supervise<F>(name: &'static str, app: Arc<App>, work: impl Fn(Arc<App>) -> F)
where
    F: Future<Output = ()>,
{
    while AssertUnwindSafe(work(app.clone()))
        .catch_unwind()
        .await
        .is_err()
    {
        tracing::error!(name, "a background task panicked and is restarted");
        tokio::time::sleep(RESTART_AFTER).await;
    }
}
