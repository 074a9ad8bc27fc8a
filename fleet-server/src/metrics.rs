//! Metrics of a server: counters that handlers count up, and values that are read when the endpoint is asked. No label
//! holds a value from outside: the label values are procedures of the policy table, states and outcomes.

use std::{sync::Arc, time::Duration};

use fleet_store::Totals;
use fleet_wire::{
    listener::ListenerCounts,
    metrics::{self, register_gauge},
    server::HttpService,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::Registry,
};

use crate::app::App;

/// How long an answer waits for the counts of the database. Collectors give up after ten seconds by default.
const COUNT_WITHIN: Duration = Duration::from_secs(3);

/// The counters of a server.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    calls: Family<Call, Counter>,
    sign_ins: Family<Outcome, Counter>,
    scans_started: Counter,
    reported_devices: Family<Outcome, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    procedure: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

impl Metrics {
    /// Counts a call of a known procedure by the decision of the gate.
    pub(crate) fn call(&self, procedure: &'static str, admitted: bool) {
        let outcome = if admitted { "admitted" } else { "refused" };
        let call = Call { procedure, outcome };
        self.calls.get_or_create(&call).inc();
    }

    /// Counts a sign-in of a browser.
    pub(crate) fn sign_in(&self, accepted: bool) {
        let outcome = if accepted { "accepted" } else { "refused" };
        self.sign_ins.get_or_create(&Outcome { outcome }).inc();
    }

    /// Counts a scan that was stored.
    pub(crate) fn scan_started(&self) {
        self.scans_started.inc();
    }

    /// Counts the devices of a report that was judged.
    pub(crate) fn reported(&self, accepted: u64, rejected: u64) {
        for (outcome, devices) in [("accepted", accepted), ("rejected", rejected)] {
            let counter = self.reported_devices.get_or_create(&Outcome { outcome });
            counter.inc_by(devices);
        }
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "rpc_calls",
            "Calls by procedure and by whether they were admitted",
            self.calls.clone(),
        );
        registry.register(
            "sign_ins",
            "Sign-ins of browsers by outcome",
            self.sign_ins.clone(),
        );
        registry.register(
            "scans_started",
            "Scans that this server has stored",
            self.scans_started.clone(),
        );
        registry.register(
            "reported_devices",
            "Devices in reports of nodes by outcome",
            self.reported_devices.clone(),
        );
    }
}

/// The service of the metrics endpoint. `connections` are the counters of the server's own port.
pub(crate) fn service(app: Arc<App>, connections: Arc<ListenerCounts>) -> HttpService {
    metrics::service(move |registry| {
        let (app, connections) = (app.clone(), connections.clone());
        async move { filled(registry, &app, &connections).await }
    })
}

async fn filled(mut registry: Registry, app: &Arc<App>, connections: &ListenerCounts) -> Registry {
    let fleet = registry.sub_registry_with_prefix("fleet");
    let version = Info::new(vec![("version", app.config.version.clone())]);
    fleet.register("build", "Version of the server", version);
    app.metrics.register(fleet);
    register_connections(fleet, connections);
    let connected = i64::try_from(app.hub.connected_nodes()).unwrap_or(i64::MAX);
    let help = "Nodes whose control stream this server holds";
    register_gauge(fleet, "connected_nodes", help, connected);
    let up = app.readiness.is_ready().await;
    let help = "Whether the database answers: 1 or 0";
    register_gauge(fleet, "database_up", help, up.into());
    let totals = app.detached(|app| async move { app.store.totals().await });
    match tokio::time::timeout(COUNT_WITHIN, totals).await {
        Ok(Ok(totals)) => register_totals(fleet, &totals),
        Ok(Err(error)) => tracing::debug!(%error, "the database's counts are missing in metrics"),
        Err(_) => tracing::debug!("the database's counts are missing in metrics: too slow"),
    }
    registry
}

fn register_connections(fleet: &mut Registry, counts: &ListenerCounts) {
    let outcomes = [
        ("accepted", counts.accepted()),
        ("full", counts.full()),
        ("crowded", counts.crowded()),
        ("evicted", counts.evicted()),
        ("tls_failed", counts.tls_failed()),
        ("silent", counts.silent()),
        ("stalled", counts.stalled()),
        ("broken", counts.broken()),
    ];
    let connections: Family<Outcome, Counter> = Family::default();
    for (outcome, count) in outcomes {
        let counter = connections.get_or_create(&Outcome { outcome });
        counter.inc_by(count);
    }
    let help = "Connections of the server's port by outcome";
    fleet.register("connections", help, connections);
}

/// The counts of the database are the same on every server that shares it.
fn register_totals(fleet: &mut Registry, totals: &Totals) {
    let number = |rows: u64| i64::try_from(rows).unwrap_or(i64::MAX);
    let devices = number(totals.devices);
    register_gauge(fleet, "devices", "Devices in all inventories", devices);
    let nodes: Family<State, Gauge> = Family::default();
    for (state, rows) in &totals.nodes {
        let state = state.as_str();
        nodes.get_or_create(&State { state }).set(number(*rows));
    }
    fleet.register("nodes", "Nodes that are not revoked, by state", nodes);
    let scans: Family<State, Gauge> = Family::default();
    for (state, rows) in &totals.scans {
        let state = state.as_str();
        scans.get_or_create(&State { state }).set(number(*rows));
    }
    fleet.register("scans", "Stored scans by state", scans);
}
