//! `fleetnode run`: starts the agent, handles signals, and notifies the service manager. Start with [`run`].

use std::{
    io, net::SocketAddr, path::Path, pin::pin, process::ExitCode, sync::Arc, time::Duration,
};

use anyhow::Context;
use fleet_agent::{Agent, AgentError, AgentOptions, AgentStatus, StateDir, StateError};
use fleet_scan::DriverSet;
use fleet_wire::{listener, server::HttpService};
use rustix::process::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::RunArgs,
    exit::Usage,
    halt, options,
    plugins::{self, PluginFlags},
    status,
};

/// The configuration file of upstream nodes.
const UPSTREAM_CONFIG: &str = "/etc/fleetnode/config.yaml";

/// The watchdog interval if no service manager watches the node.
const UNWATCHED: Duration = Duration::from_secs(3_600);

/// How long a start waits for a locked state folder.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// How long the node waits for its plugins before it connects. Slower plugins are missing in the first scans, whose notes
/// say so.
pub(crate) const PLUGIN_WAIT: Duration = Duration::from_secs(10);

/// The exit code that a shell reports for a program ended by SIGINT.
const SECOND_SIGNAL: u8 = 130;

/// Runs the node until a signal, or until the server ends it permanently.
pub(crate) async fn run(state_dir: &Path, args: RunArgs) -> anyhow::Result<ExitCode> {
    let flags = PluginFlags::of(&args.engine);
    let mut options = AgentOptions {
        command_targets: args.max_targets,
        halt: halt::watch(state_dir),
        listen_announcements: args.listen_announcements,
        default_passwords: !args.no_default_logins,
        ..options::agent(args.site, args.engine)?
    };
    if let Some(value) = args.heartbeat_interval {
        return Err(Usage::new(format!(
            "--heartbeat-interval {value} is not supported: the interval is fixed at 30 s; remove the flag"
        ))
        .into());
    }
    if Path::new(UPSTREAM_CONFIG).exists() {
        tracing::warn!(
            file = UPSTREAM_CONFIG,
            "this node does not read upstream's configuration file; use flags or FLEETNODE_* variables"
        );
    }
    // Locked until the process ends: two processes must not use one identity.
    let dir = open(state_dir).await?;
    let state = dir.load()?.ok_or_else(|| not_enrolled(state_dir))?;
    raise_descriptor_limit();
    let mut signals = Signals::new().context("cannot install signal handlers")?;
    tracing::info!(server = state.server_url, name = state.name, fingerprint = %state.fingerprint(), version = env!("CARGO_PKG_VERSION"), "starting the node");
    let plugins = plugins::start(flags, !args.no_default_logins, state_dir);
    if let Some(plugins) = &plugins {
        tokio::select! {
            () = plugins.wait_started(PLUGIN_WAIT) => {}
            name = signals.next() => {
                tracing::info!(signal = name, "shutting down while plugins start");
                return Ok(ExitCode::SUCCESS);
            }
        }
        options.drivers = Arc::new(DriverSet::clone(&options.drivers).with(plugins.drivers())?);
    }
    let halt = options.halt.clone();
    let agent = Agent::new(state, options)?;
    if let Some(address) = args.metrics_listen {
        serve_metrics(address, fleet_agent::metrics(agent.status(), halt)).await?;
    }
    let ended = serve(agent, &mut signals, state_dir).await;
    if let Some(plugins) = plugins
        && !matches!(ended, Ok(Ended::BySecondSignal))
    {
        tokio::select! {
            () = plugins.stop() => {}
            name = signals.next() => tracing::warn!(signal = name, "killing the plugins"),
        }
    }
    Ok(match ended? {
        Ended::Normally => ExitCode::SUCCESS,
        Ended::BySecondSignal => SECOND_SIGNAL.into(),
    })
}

/// The error of a node without an enrollment, which names an upstream node's state if there is one.
fn not_enrolled(state_dir: &Path) -> anyhow::Error {
    let error = anyhow::Error::new(AgentError::NotEnrolled);
    match status::upstream_state(state_dir) {
        Some(advice) => error.context(advice),
        None => error,
    }
}

/// Serves metrics until the process ends.
async fn serve_metrics(address: SocketAddr, service: HttpService) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot serve metrics on {address}; use another port with --metrics-listen")
    })?;
    tracing::info!(%address, "serving metrics");
    tokio::spawn(async move {
        let config = fleet_wire::metrics::listener();
        listener::serve(listener, service, &config, CancellationToken::new()).await
    });
    Ok(())
}

/// How a node ended.
enum Ended {
    Normally,
    /// A second signal ended it.
    BySecondSignal,
}

/// Runs the agent until a signal, or until the server ends it permanently.
async fn serve(agent: Agent, signals: &mut Signals, state_dir: &Path) -> anyhow::Result<Ended> {
    let mut changes = agent.status();
    let shutdown = CancellationToken::new();
    let mut running = pin!(agent.run(shutdown.clone()));
    let mut reported = (String::new(), Vec::new());
    // Ready without a connection: a node that starts while its server is away keeps trying.
    notify(&[NotifyState::Ready]);
    // systemd recommends half of the interval (`sd_watchdog_enabled(3)`).
    let mut watchdog = interval(sd_notify::watchdog_enabled().map_or(UNWATCHED, |every| every / 2));
    watchdog.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Everything is in one task: if the agent hangs, the watchdog is not fed.
    loop {
        tokio::select! {
            ended = &mut running => {
                notify(&[NotifyState::Stopping]);
                return ended.map(|()| Ended::Normally).map_err(anyhow::Error::new);
            }
            name = signals.next() => {
                if shutdown.is_cancelled() {
                    tracing::warn!(signal = name, "second signal: exiting at once");
                    return Ok(Ended::BySecondSignal);
                }
                tracing::info!(signal = name, "shutting down after reporting all results; a second signal exits at once");
                notify(&[NotifyState::Stopping]);
                shutdown.cancel();
            }
            Ok(()) = changes.changed() => {
                let current = changes.borrow_and_update().clone();
                let text = sentence(&current);
                if text != reported.0 {
                    notify(&[NotifyState::Status(&text)]);
                    status::record(state_dir, &text);
                    reported.0 = text;
                }
                if current.subnets != reported.1 {
                    status::record_subnets(state_dir, &current.subnets);
                    reported.1 = current.subnets;
                }
            }
            _ = watchdog.tick() => notify(&[NotifyState::Watchdog]),
        }
    }
}

/// Opens the state folder. Waits briefly, because a killed process may still hold the lock.
async fn open(state_dir: &Path) -> Result<StateDir, StateError> {
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match StateDir::open(state_dir) {
            Err(StateError::Locked { .. }) if Instant::now() < until => sleep(LOCK_WAIT / 20).await,
            opened => return opened,
        }
    }
}

/// The status text for the service manager.
fn sentence(status: &AgentStatus) -> String {
    let link = match (status.connected, status.session) {
        (true, _) => "connected",
        (false, true) => "signed in, no control stream",
        (false, false) => "not connected",
    };
    let running = status.running.as_ref();
    let running = running.map_or_else(String::new, |command| format!("; scanning ({command})"));
    let problem = status.problem.as_ref();
    let problem = problem.map_or_else(String::new, |problem| format!("; {problem}"));
    format!("{link}{running}{problem}")
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}

/// Raises the limit of open files. A scan uses up to three quarters of it for connections.
pub(crate) fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
}

/// The signals that stop the process.
pub(crate) struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal and returns its name. Cancel-safe.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}
