//! A server as a whole: its service for a listener, its background work, its orderly end.

use std::{convert::Infallible, sync::Arc, time::Duration};

use ::http::{Request, Response};
use fleet_store::Store;
use fleet_wire::{
    admin::FleetNodeAdminServer,
    fleet::{AccountServer, DeviceServer, NodeServer, ScanServer},
    gateway::FleetNodeGatewayServer,
    server::{Body, Health, HttpService, Services},
};
use tokio::task::JoinSet;

use crate::{
    admin::Admin,
    app::{App, ServerConfig},
    auth::Gate,
    dispatch,
    environment::Environment,
    gateway::Gateway,
    http,
    operators::OperatorApi,
    sweep,
};

/// How long nodes are heard after they were told to go: what they say last is still stored.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A server.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    service: HttpService,
    health: Health,
    work: JoinSet<()>,
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
            .mount(ScanServer::from_arc(operators.clone()))
            .mount(NodeServer::from_arc(operators.clone()))
            .mount(DeviceServer::from_arc(operators.clone()))
            .mount(AccountServer::from_arc(operators))
            .plain(plain)
            .build(Gate { app: app.clone() });
        let mut work = JoinSet::new();
        work.spawn(dispatch::run(app.clone()));
        work.spawn(sweep::run(app.clone()));
        work.spawn({
            let app = app.clone();
            async move { app.hub.run().await }
        });
        Self {
            app,
            service,
            health,
            work,
        }
    }

    /// What answers every request; cheap to clone.
    pub fn service(&self) -> HttpService {
        self.service.clone()
    }

    /// Ends in order: nothing new is admitted or dispatched, nodes get their slots to come back, watches
    /// end, what nodes say last is stored, streams end. Scans go on when a server starts again.
    pub async fn drain(mut self) {
        self.health.set_serving(false);
        self.app.drain.cancel();
        self.app.hub.drain(self.app.config.drain_window);
        tokio::time::sleep(LAST_WORDS).await;
        self.app.hub.end_all();
        self.work.shutdown().await;
    }
}
