//! The life of one plugin: the IO around [`Supervisor`], and the state that other modules see. Start with [`Plugin`],
//! then [`run`].

use std::{
    future::pending,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use fleet_core::Port;
use fleet_wire::RpcError;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::{Notify, oneshot, watch},
    task::{JoinError, JoinSet},
    time::{sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    client::PluginClient,
    driver_names::DriverNames,
    handshake::{self, Address},
    lines::{Line, LineLimiter, Lines, escaped},
    process::{Launch, Process},
    supervisor::{Output, Supervisor, Timing},
};

/// Consecutive unanswered calls after which a plugin is restarted.
const MAX_TIMEOUTS: u32 = 16;
/// Longest logged line, in characters.
const LOGGED: usize = 512;
/// Longest quotation of a plugin's last output line, in characters.
const LAST_OUTPUT: usize = 160;
/// Time limit for reading the rest of a plugin's output after it has ended.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(200);
/// A wait without a deadline, in a form that timers accept.
const LONG: Duration = Duration::from_secs(24 * 3_600);

/// The shared state of a plugin.
#[derive(Debug)]
pub(crate) struct Plugin {
    /// Its file's name.
    name: String,
    names: Arc<DriverNames>,
    status: watch::Sender<Status>,
    /// The default ports of its devices, as last reported. Kept while the plugin is down.
    ports: Mutex<Vec<Port>>,
    /// Consecutive unanswered calls.
    timeouts: AtomicU32,
    unresponsive: Notify,
}

#[derive(Clone, Debug)]
enum Status {
    Starting,
    Serving(Arc<PluginClient>),
    /// The reason.
    Down(String),
    Stopped,
}

impl Plugin {
    pub(crate) fn new(name: String, names: Arc<DriverNames>) -> Self {
        Self {
            name,
            names,
            status: watch::Sender::new(Status::Starting),
            ports: Mutex::default(),
            timeouts: AtomicU32::new(0),
            unresponsive: Notify::new(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The connection to the running plugin.
    ///
    /// # Errors
    ///
    /// Why it cannot be called, as the rest of a sentence that begins with its name.
    pub(crate) fn client(&self) -> Result<Arc<PluginClient>, String> {
        match &*self.status.borrow() {
            Status::Serving(client) => match self.names.owner(&client.driver) {
                Some(owner) if owner != self.name => Err(format!(
                    "is disabled: plugin {owner} also has the driver name `{}`; remove one of them",
                    client.driver
                )),
                _ => Ok(Arc::clone(client)),
            },
            Status::Starting => Err("is not up yet".to_owned()),
            Status::Down(reason) => Err(format!("is down: {reason}")),
            Status::Stopped => Err("is stopped".to_owned()),
        }
    }

    pub(crate) fn ports(&self) -> Vec<Port> {
        self.ports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Records that the plugin answered a call.
    pub(crate) fn record_answer(&self) {
        self.timeouts.store(0, Ordering::Relaxed);
    }

    /// Records an unanswered call. After too many in a row, the plugin is restarted.
    pub(crate) fn record_timeout(&self) {
        if self.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_TIMEOUTS {
            self.unresponsive.notify_one();
        }
    }

    /// Waits until the first start has succeeded or failed. Cancel-safe.
    pub(crate) async fn wait_started(&self) {
        let mut status = self.status.subscribe();
        // Cannot fail: `self` holds the sender.
        let _ = status
            .wait_for(|status| !matches!(status, Status::Starting))
            .await;
    }

    fn set(&self, status: Status) {
        self.status.send_replace(status);
    }

    fn set_serving(&self, client: Arc<PluginClient>) {
        // Before the new status, because callers then ask at once who owns the name.
        self.names.claim(&client.driver, &self.name);
        self.record_answer();
        *self.ports.lock().unwrap_or_else(PoisonError::into_inner) = client.ports.clone();
        let (plugin, driver) = (&self.name, client.driver.clone());
        let ports: Vec<_> = client.ports.iter().map(ToString::to_string).collect();
        let ports = ports.join(", ");
        self.set(Status::Serving(client));
        match self.client() {
            Ok(_) => tracing::info!(plugin, %driver, ports, "a plugin is serving"),
            Err(reason) => tracing::warn!(plugin, %driver, reason, "a plugin is disabled"),
        }
    }
}

/// Runs a plugin until `stop` fires and the process has ended. Dropping the future kills the plugin.
pub(crate) async fn run(
    plugin: Arc<Plugin>,
    launch: Launch,
    timing: Timing,
    stop: CancellationToken,
) {
    let mut supervisor = Supervisor::new(timing, Instant::now());
    let mut running = None;
    let mut is_stopping = false;
    loop {
        while let Some(output) = supervisor.poll_output() {
            match output {
                Output::Start => match Process::spawn(&launch).await {
                    Ok(process) => running = Some(Running::new(&plugin, process)),
                    Err(error) => {
                        let program = launch.program().display();
                        let reason = format!("{program} cannot be started: {error}");
                        supervisor.exited(Instant::now(), reason);
                    }
                },
                Output::Shutdown => {
                    if let Some(running) = &mut running {
                        running.shut_down(timing.shutdown_timeout);
                    }
                }
                Output::Kill => {
                    if let Some(running) = &mut running {
                        running.process.kill();
                    }
                }
                Output::BackOff { reason, delay } => {
                    tracing::warn!(
                        plugin = plugin.name,
                        reason,
                        delay_ms = delay.as_millis(),
                        "a plugin is down"
                    );
                    plugin.set(Status::Down(reason));
                }
                Output::Stopped => {
                    plugin.set(Status::Stopped);
                    return;
                }
            }
        }
        let deadline = supervisor.poll_timeout();
        let deadline = deadline.unwrap_or_else(|| Instant::now() + LONG);
        tokio::select! {
            biased;
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                supervisor.stop(Instant::now());
            }
            event = next(&mut running) => match event {
                ProcessEvent::Ended(how) => {
                    let how = match running.take() {
                        // A stop does not wait for output.
                        Some(running) if !is_stopping => running.with_last_output(how).await,
                        _ => how,
                    };
                    supervisor.exited(Instant::now(), how);
                }
                ProcessEvent::Connected(Ok(client)) => {
                    if let Some(running) = &mut running {
                        running.on_connected(&plugin, &client);
                    }
                    supervisor.ready(Instant::now());
                    plugin.set_serving(client);
                }
                ProcessEvent::Connected(Err(reason)) => supervisor.reject(Instant::now(), reason),
                // A plugin that accepted the request ends by itself. Others must be killed.
                ProcessEvent::ShutDown(answer) => if answer.is_err() {
                    supervisor.reject(Instant::now(), String::new());
                }
            },
            () = plugin.unresponsive.notified() => {
                // The plugin may have answered since the notification, which `Notify` keeps.
                if plugin.timeouts.swap(0, Ordering::Relaxed) >= MAX_TIMEOUTS {
                    let reason = format!("it left {MAX_TIMEOUTS} calls in a row unanswered");
                    supervisor.reject(Instant::now(), reason);
                }
            }
            () = sleep_until(deadline.into()) => supervisor.handle_timeout(Instant::now()),
        }
    }
}

/// A running process and the tasks around it.
struct Running {
    process: Process,
    connecting: Option<AbortOnDropHandle<Result<Arc<PluginClient>, String>>>,
    shutdown: Option<AbortOnDropHandle<Result<(), RpcError>>>,
    client: Option<Arc<PluginClient>>,
    output: JoinSet<()>,
    last_line: LastLine,
}

type LastLine = Arc<Mutex<String>>;

enum ProcessEvent {
    Ended(String),
    Connected(Result<Arc<PluginClient>, String>),
    ShutDown(Result<(), RpcError>),
}

/// Waits for the next event of the process; forever if there is none. Cancel-safe.
async fn next(running: &mut Option<Running>) -> ProcessEvent {
    let Some(running) = running else {
        return pending().await;
    };
    tokio::select! {
        // The end of the process comes first, because it explains failed calls.
        biased;
        how = running.process.ended() => ProcessEvent::Ended(how),
        connected = finished(&mut running.connecting) => {
            ProcessEvent::Connected(connected.unwrap_or_else(|crash| Err(crash.to_string())))
        }
        answer = finished(&mut running.shutdown) => {
            ProcessEvent::ShutDown(answer.unwrap_or_else(|crash| Err(RpcError::internal(crash.to_string()))))
        }
    }
}

async fn finished<T>(task: &mut Option<AbortOnDropHandle<T>>) -> Result<T, JoinError> {
    let Some(running) = task else {
        return pending().await;
    };
    let result = running.await;
    // A task that has ended must not be polled again.
    *task = None;
    result
}

impl Running {
    fn new(plugin: &Plugin, mut process: Process) -> Self {
        let last_line = LastLine::default();
        let (first_tx, first) = oneshot::channel();
        let mut output = JoinSet::new();
        if let Some(stdout) = process.stdout.take() {
            let log = Log::new(plugin, "stdout", None);
            output.spawn(drain(stdout, log, Some(first_tx)));
        }
        if let Some(stderr) = process.stderr.take() {
            let log = Log::new(plugin, "stderr", Some(Arc::clone(&last_line)));
            output.spawn(drain(stderr, log, None));
        }
        let connecting = tokio::spawn(async move {
            let Ok(first) = first.await else {
                // The plugin closed its output. The way it ends tells more, so the error is left to that.
                return pending().await;
            };
            let address = address(&first).map_err(|error| error.to_string())?;
            PluginClient::connect(&address).await.map(Arc::new)
        });
        Self {
            process,
            connecting: Some(AbortOnDropHandle::new(connecting)),
            shutdown: None,
            client: None,
            output,
            last_line,
        }
    }

    fn on_connected(&mut self, plugin: &Plugin, client: &Arc<PluginClient>) {
        let mut log = Log::new(plugin, "grpc", None);
        let mut lines = Lines::new(handshake::LINE);
        let served = Arc::clone(client);
        self.output.spawn(async move {
            let print = |data: &[u8]| lines.push(data, |line| log.print(&line));
            served.forward_output(print).await;
        });
        self.client = Some(Arc::clone(client));
    }

    fn shut_down(&mut self, limit: Duration) {
        if let Some(client) = self.client.take() {
            let asking = tokio::spawn(async move { client.shut_down(limit).await });
            self.shutdown = Some(AbortOnDropHandle::new(asking));
        }
    }

    /// Appends the last line of standard error to the reason, unless the plugin was serving: then the line may name devices.
    async fn with_last_output(mut self, how: String) -> String {
        if self.client.is_some() {
            return how;
        }
        let drained = async { while self.output.join_next().await.is_some() {} };
        // A child that still holds the pipe is not waited for.
        let _ = timeout(DRAIN_TIMEOUT, drained).await;
        let line = self
            .last_line
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if line.is_empty() {
            how
        } else {
            format!("{how}; its last output was `{line}`")
        }
    }
}

fn address(first: &Line) -> Result<Address, handshake::HandshakeError> {
    if first.is_cut {
        return Err(handshake::HandshakeError::TooLong);
    }
    Address::parse(&first.bytes)
}

/// Reads a stream to its end. The first line goes to `first` if that is set, the rest to the log.
async fn drain(
    mut stream: impl AsyncRead + Unpin,
    mut log: Log,
    mut first: Option<oneshot::Sender<Line>>,
) {
    let mut lines = Lines::new(handshake::LINE);
    let mut block = vec![0; 4_096];
    let mut take = |line: Line| match first.take() {
        // The receiver is gone if the plugin is being killed.
        Some(first) => drop(first.send(line)),
        None => log.print(&line),
    };
    // Read to the end: a plugin that writes to a full pipe would stop.
    while let Ok(count @ 1..) = stream.read(&mut block).await {
        lines.push(block.get(..count).unwrap_or_default(), &mut take);
    }
    if let Some(line) = lines.finish() {
        take(line);
    }
}

/// Writes a plugin's output to the node's log.
struct Log {
    plugin: String,
    channel: &'static str,
    limiter: LineLimiter,
    last_line: Option<LastLine>,
}

impl Log {
    fn new(plugin: &Plugin, channel: &'static str, last_line: Option<LastLine>) -> Self {
        Self {
            plugin: plugin.name.clone(),
            channel,
            limiter: LineLimiter::new(Instant::now()),
            last_line,
        }
    }

    fn print(&mut self, line: &Line) {
        if let Some(last) = &self.last_line
            && !line.bytes.trim_ascii().is_empty()
        {
            *last.lock().unwrap_or_else(PoisonError::into_inner) =
                escaped(&line.bytes, LAST_OUTPUT);
        }
        if let Some(dropped) = self.limiter.pass(Instant::now()) {
            let (plugin, channel) = (&self.plugin, self.channel);
            let text = escaped(&line.bytes, LOGGED);
            tracing::debug!(plugin, channel, text, dropped, "output of a plugin");
        }
    }
}
