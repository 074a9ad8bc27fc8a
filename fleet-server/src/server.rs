//! A server as a whole: its service for a listener, its background work, its orderly end.

use std::{convert::Infallible, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use ::http::{Request, Response};
use fleet_store::Store;
use fleet_wire::{
    admin::FleetNodeAdminServer,
    fleet::{
        AccountServer, AuditServer, DevicePairingServer, DeviceServer, DirectServer, KeyServer,
        NodeServer, OperatorServer, ScanServer,
    },
    gateway::FleetNodeGatewayServer,
    pairing::PairingServer,
    server::{Body, Health, HttpService, Services},
};
use futures::FutureExt;
use tokio::task::{AbortHandle, JoinSet};

use crate::{
    accounts::Accounts,
    admin::Admin,
    app::{App, ServerConfig},
    auth::Gate,
    direct::OwnNetwork,
    dispatch,
    environment::Environment,
    gateway::Gateway,
    http,
    operators::OperatorApi,
    seal, sweep,
};

/// How long nodes are heard after they were told to go: what they say last is still stored.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long what is being stored at the end may take: about as long as storage retries.
const LAST_ACTIONS: Duration = Duration::from_secs(5);
/// Between a panic of background work and its next start.
const START_AGAIN: Duration = Duration::from_secs(1);

/// A server.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    service: HttpService,
    health: Health,
    work: JoinSet<()>,
    /// The part of `work` that has no end of its own.
    deadlines: AbortHandle,
}

impl Server {
    /// Starts a server's background work; needs a tokio runtime. Give [`Server::service`] to a listener.
    pub fn start(
        config: ServerConfig,
        store: Arc<dyn Store>,
        environment: Arc<dyn Environment>,
    ) -> Self {
        let app = App::new(config, store, environment);
        let operators = Arc::new(OperatorApi { app: app.clone() });
        let accounts = Arc::new(Accounts { app: app.clone() });
        let own_network = Arc::new(OwnNetwork { app: app.clone() });
        let plain = {
            let app = app.clone();
            tower::service_fn(move |request: Request<Body>| {
                let app = app.clone();
                async move { Ok::<Response<Body>, Infallible>(http::answer(app, request).await) }
            })
        };
        let (service, health) = Services::new()
            .mount(FleetNodeGatewayServer::new(Gateway { app: app.clone() }))
            .mount(FleetNodeAdminServer::new(Admin { app: app.clone() }))
            .mount(PairingServer::from_arc(own_network.clone()))
            .mount(DirectServer::from_arc(own_network))
            .mount(ScanServer::from_arc(operators.clone()))
            .mount(NodeServer::from_arc(operators.clone()))
            .mount(DeviceServer::from_arc(operators.clone()))
            .mount(AuditServer::from_arc(operators.clone()))
            .mount(DevicePairingServer::from_arc(operators))
            .mount(AccountServer::from_arc(accounts.clone()))
            .mount(KeyServer::from_arc(accounts.clone()))
            .mount(OperatorServer::from_arc(accounts))
            .plain(plain)
            .build(Gate { app: app.clone() });
        let mut work = JoinSet::new();
        work.spawn(supervise("dispatch", app.clone(), dispatch::run));
        work.spawn(supervise("sweep", app.clone(), sweep::run));
        work.spawn(supervise("seal", app.clone(), seal::run));
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

    /// What answers every request; cheap to clone.
    pub fn service(&self) -> HttpService {
        self.service.clone()
    }

    /// Ends in order: nothing new is admitted or dispatched, nodes get their slots to come back, watches
    /// end, what nodes say last is stored, streams end. Scans go on when a server starts again. Takes a few
    /// seconds at the most.
    pub async fn drain(mut self) {
        self.health.set_serving(false);
        self.app.drain.cancel();
        self.app.hub.drain(self.app.config.drain_window);
        tokio::time::sleep(LAST_WORDS).await;
        self.app.hub.end_all();
        self.app.tasks.close();
        let work = async {
            self.app.tasks.wait().await;
            self.deadlines.abort();
            while self.work.join_next().await.is_some() {}
        };
        if tokio::time::timeout(LAST_ACTIONS, work).await.is_err() {
            tracing::warn!(
                tasks = self.app.tasks.len(),
                "not everything came to its end"
            );
        }
        self.work.shutdown().await;
    }
}

/// Runs background work and runs it anew when it panics: one node's bad luck must not end everybody's.
async fn supervise<F>(name: &'static str, app: Arc<App>, work: impl Fn(Arc<App>) -> F)
where
    F: Future<Output = ()>,
{
    while AssertUnwindSafe(work(app.clone()))
        .catch_unwind()
        .await
        .is_err()
    {
        tracing::error!(name, "background work panicked and starts anew");
        tokio::time::sleep(START_AGAIN).await;
    }
}
