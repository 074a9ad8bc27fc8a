//! `fleetd serve` and `fleetd migrate`: open the database, bind the port, run until a signal.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use fleet_core::AddressPolicy;
use fleet_server::{Server, ServerConfig, SystemEnvironment};
use fleet_store::{DatabaseUrl, MigrateMode, Operators, SqlStore, StoreError};
use fleet_wire::listener::{self, ListenerConfig, TlsIdentity};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{DatabaseArgs, ServeArgs},
    config::{self, Database, Serve},
    direct,
    lock::ServeLock,
    logging,
};

/// The server cannot listen on its address.
#[derive(Debug)]
pub(crate) struct BindError {
    pub(crate) address: SocketAddr,
    pub(crate) source: io::Error,
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "cannot listen on {}: {}; stop the process that uses the port, or use another address with --listen",
            self.address, self.source
        )
    }
}

impl std::error::Error for BindError {}

/// How long requests may continue after the port has closed. Streams have ended before. Nodes return 1.5 s
/// after the goodbye, of which the drain takes one second: the next server must listen by then, or their back-off begins.
const LAST_REQUESTS: Duration = Duration::from_millis(250);

const DAY: Duration = Duration::from_secs(24 * 3_600);

pub(crate) async fn run(args: ServeArgs) -> Result<()> {
    let config = config::serve(args)?;
    logging::start(&config.database.log, None)?;
    let url = DatabaseUrl::parse(&config.database.url)?;
    // Held until the process ends.
    let _lock = url.sqlite_file().map(ServeLock::acquire).transpose()?;
    tracing::info!(database = %url, "opening");
    if let Some(warning) = url.transport_warning() {
        tracing::warn!("{warning}");
    }
    let store = open(&config.database, config.migrate).await?;
    if config.direct.is_some()
        && config.direct_organization.is_none()
        && store.has_several_orgs().await?
    {
        return Err(config::ConfigError::new(
            "direct.organization is missing, and the database has several organizations: set `organization` under [direct] to the name of the one that owns direct.networks".to_owned(),
        )
        .into());
    }
    if let Some(provider) = &config.sign_in.provider
        && provider.organization.is_none()
        && store.has_several_orgs().await?
    {
        return Err(config::ConfigError::new(
            "oidc.organization is missing, and the database has several organizations: set it to the name of the one whose operators sign in through the provider".to_owned(),
        )
        .into());
    }
    if !store.has_operators().await? {
        tracing::warn!(
            page = page(&config),
            "no operator exists, so nobody can sign in: create one on this machine with `fleetd admin create-operator --org ORG --email EMAIL --role admin` and the same --config or --database-url, then sign in on the web page"
        );
    }
    let descriptors = raise_descriptor_limit();
    let listener = bind(config.listen).await?;
    let listening = listener_config(&config, descriptors)?;
    let counts = listening.counts.clone();
    let shutdown = on_signals()?;
    let server = Server::start(
        server_config(&config),
        Arc::new(store),
        Arc::new(SystemEnvironment),
    );
    let metrics = match config.metrics {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let address = listener.local_addr().context("the port has no address")?;
    tracing::info!(%address, tls = config.tls.is_some(), version = env!("CARGO_PKG_VERSION"), "serving");
    // The port is bound, so connections wait in its backlog until the loop below accepts them.
    notify(&[sd_notify::NotifyState::Ready]);

    let closing = CancellationToken::new();
    let port = {
        let (service, closing) = (server.service(), closing.clone());
        tokio::spawn(async move { listener::serve(listener, service, &listening, closing).await })
    };
    if let Some(metrics) = metrics {
        let address = metrics.local_addr().context("the port has no address")?;
        tracing::info!(%address, "serving metrics");
        let (service, closing) = (server.metrics(counts), closing.clone());
        tokio::spawn(async move {
            let config = fleet_wire::metrics::listener();
            listener::serve(metrics, service, &config, closing).await
        });
    }
    shutdown.cancelled().await;
    tracing::info!(
        "shutting down: notifying nodes and storing pending reports; a second signal exits at once"
    );
    notify(&[sd_notify::NotifyState::Stopping]);
    server.drain().await;
    // After the drain, because nodes send their last results over these connections.
    closing.cancel();
    let drained = port.await.context("the port's task failed")?;
    tracing::info!(cut = drained.cut, "shut down");
    Ok(())
}

pub(crate) async fn migrate(args: DatabaseArgs) -> Result<()> {
    let database = config::database(args)?;
    logging::start(&database.log, None)?;
    open(&database, true).await?;
    tracing::info!("the database has the schema of this version");
    Ok(())
}

/// Opens the database. SQLite is always migrated. PostgreSQL is migrated only on request, because other servers
/// may be using it with the old schema.
pub(crate) async fn open(database: &Database, migrate: bool) -> Result<SqlStore, StoreError> {
    let mode = if migrate || database.url.starts_with("sqlite:") {
        MigrateMode::Migrate
    } else {
        MigrateMode::Check
    };
    SqlStore::open(&database.url, mode).await
}

/// Raises the soft limit of open files to the hard limit and returns it. Every connection needs a descriptor, and
/// the soft limit of a login shell is often 1,024.
fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if setrlimit(Resource::Nofile, raised).is_err() {
        tracing::warn!(
            limit = limit.current,
            "cannot raise the limit of open files"
        );
    }
    // `None` means unlimited.
    let current = getrlimit(Resource::Nofile).current;
    current
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(usize::MAX)
}

/// Binds a listening socket.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| BindError { address, source })
}

fn listener_config(config: &Serve, descriptors: usize) -> Result<ListenerConfig> {
    let mut listening = match &config.tls {
        None => ListenerConfig::plaintext(),
        Some(files) => {
            let identity = TlsIdentity::load(&files.cert, &files.key)
                .map_err(|error| config::ConfigError::new(format!("tls-cert, tls-key: {error}")))?;
            ListenerConfig::tls(identity)
        }
    };
    listening
        .trusted_proxies
        .clone_from(&config.trusted_proxies);
    listening.drain = LAST_REQUESTS;
    let listening = listening.within_descriptors(descriptors);
    tracing::info!(
        most = listening.max_connections,
        reserved = listening.reserved,
        descriptors,
        "connections"
    );
    Ok(listening)
}

/// Returns the URL of the web page.
fn page(config: &Serve) -> String {
    let scheme = if config.tls.is_some() {
        "https"
    } else {
        "http"
    };
    config
        .public_url
        .clone()
        .unwrap_or_else(|| format!("{scheme}://{}/", config.listen))
}

/// A time in days; 0 means no end.
fn days(days: u32) -> Option<Duration> {
    (days > 0).then(|| DAY * days)
}

fn server_config(config: &Serve) -> ServerConfig {
    ServerConfig {
        addresses: AddressPolicy {
            carrier_shared: config.carrier_shared,
            loopback: config.demo_loopback,
        },
        unpinned_names: config.unpinned_names,
        rates: Some(config.rates),
        direct: config
            .direct
            .clone()
            .map(|networks| direct::path(networks, config.direct_organization.clone())),
        network_owner: config.direct_organization.clone(),
        scan_events_kept: days(config.scan_events_days),
        scans_kept: days(config.scan_results_days),
        last_scans_kept: config.keep_last_results,
        smtp: config.smtp.clone(),
        provider: config.sign_in.provider.clone(),
        password_sign_in: config.sign_in.passwords,
        webhook_roots: config.webhook_roots.clone(),
        trusted_proxies: config.trusted_proxies.clone(),
        public_https: page(config).starts_with("https://"),
        ..ServerConfig::default()
    }
}

/// Returns a token that the first SIGTERM or SIGINT cancels. The second signal exits the process at once.
pub(crate) fn on_signals() -> Result<CancellationToken> {
    let mut term = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let token = CancellationToken::new();
    let fired = token.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            if fired.is_cancelled() {
                std::process::exit(130);
            }
            fired.cancel();
        }
    });
    Ok(token)
}

/// Notifies systemd, if it runs this process.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot notify systemd");
    }
}
