//! `fleetnode run`: options become an agent, signals end it, the service manager is told. Start with [`run`].

use std::{io, path::Path, pin::pin, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use fleet_agent::{Agent, AgentError, AgentOptions, AgentStatus, StateDir, StateError};
use fleet_scan::DriverSet;
use rustix::process::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{cli::RunArgs, halt, options, plugins};

/// A tick that nobody waits for, where no service manager watches.
const UNWATCHED: Duration = Duration::from_secs(3_600);

/// How long a start waits for the state folder.
const HOLD_ON: Duration = Duration::from_secs(2);

/// How long the node waits for plugins to come up before it asks for work: those that take longer are missed by scans,
/// which say so.
pub(crate) const PLUGINS: Duration = Duration::from_secs(10);

/// What a shell reports of a program that SIGINT ended.
const SECOND_SIGNAL: u8 = 130;

/// Runs the node until a signal, or until the server has ended it for good.
pub(crate) async fn run(state_dir: &Path, args: RunArgs) -> anyhow::Result<ExitCode> {
    let (plugin_dir, plugin_env) = (
        args.engine.plugin_dir.clone(),
        args.engine.plugin_env.clone(),
    );
    let mut options = AgentOptions {
        command_targets: args.max_targets,
        halt: halt::watch(state_dir),
        ..options::agent(args.site, args.engine)?
    };
    // Held until the process ends, so that no second one uses the same identity.
    let dir = open(state_dir).await?;
    let state = dir.load()?.ok_or(AgentError::NotEnrolled)?;
    raise_descriptor_limit();
    let mut signals = Signals::new().context("cannot listen for signals")?;
    tracing::info!(server = state.server_url, name = state.name, fingerprint = %state.fingerprint(), version = env!("CARGO_PKG_VERSION"), "the node starts");
    let plugins = plugins::start(plugin_dir, plugin_env, state_dir);
    if let Some(plugins) = &plugins {
        tokio::select! {
            () = plugins.wait_started(PLUGINS) => {}
            name = signals.next() => {
                tracing::info!(signal = name, "going down while plugins come up");
                return Ok(ExitCode::SUCCESS);
            }
        }
        options.drivers = Arc::new(DriverSet::built_in().with(plugins.drivers())?);
    }
    let agent = Agent::new(state, options)?;
    let ended = serve(agent, &mut signals).await;
    if let Some(plugins) = plugins
        && !matches!(ended, Ok(Ended::AtOnce))
    {
        tokio::select! {
            () = plugins.stop() => {}
            name = signals.next() => tracing::warn!(signal = name, "plugins are killed"),
        }
    }
    Ok(match ended? {
        Ended::Well => ExitCode::SUCCESS,
        Ended::AtOnce => SECOND_SIGNAL.into(),
    })
}

/// How a node came to its end.
enum Ended {
    Well,
    /// By a second signal.
    AtOnce,
}

/// Runs the agent until a signal, or until the server has ended it for good.
async fn serve(agent: Agent, signals: &mut Signals) -> anyhow::Result<Ended> {
    let mut status = agent.status();
    let shutdown = CancellationToken::new();
    let mut running = pin!(agent.run(shutdown.clone()));
    let mut told = String::new();
    notify(&[NotifyState::Ready]);
    let mut watchdog = interval(sd_notify::watchdog_enabled().map_or(UNWATCHED, |every| every / 2));
    watchdog.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // All in one task: where the agent hangs, the watchdog is not fed.
    loop {
        tokio::select! {
            ended = &mut running => {
                notify(&[NotifyState::Stopping]);
                return ended.map(|()| Ended::Well).map_err(anyhow::Error::new);
            }
            name = signals.next() => {
                if shutdown.is_cancelled() {
                    tracing::warn!(signal = name, "a second signal: ending at once");
                    return Ok(Ended::AtOnce);
                }
                tracing::info!(signal = name, "going down: what was found is reported; a second signal ends at once");
                notify(&[NotifyState::Stopping]);
                shutdown.cancel();
            }
            Ok(()) = status.changed() => {
                let text = sentence(&status.borrow_and_update());
                if text != told {
                    notify(&[NotifyState::Status(&text)]);
                    told = text;
                }
            }
            _ = watchdog.tick() => notify(&[NotifyState::Watchdog]),
        }
    }
}

/// Opens the state folder. A process that was killed a moment ago may not have let go of it yet.
async fn open(state_dir: &Path) -> Result<StateDir, StateError> {
    let until = Instant::now() + HOLD_ON;
    loop {
        match StateDir::open(state_dir) {
            Err(StateError::Locked { .. }) if Instant::now() < until => sleep(HOLD_ON / 20).await,
            opened => return opened,
        }
    }
}

/// What the service manager shows.
fn sentence(status: &AgentStatus) -> String {
    let link = match (status.connected, status.session) {
        (true, _) => "connected",
        (false, true) => "signed in, no control stream",
        (false, false) => "not connected",
    };
    match &status.running {
        Some(command) => format!("{link}; scanning ({command})"),
        None => link.to_owned(),
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

/// A scan holds as many connections as a quarter of the limit allows.
pub(crate) fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// The signals that end the process.
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

    /// Waits for the next one and names it. Cancel-safe.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}
