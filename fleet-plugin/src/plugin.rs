//! One plugin from its start to its end: the shell around [`Supervisor`], and what others may know of it. Start with
//! [`Plugin`], then [`run`].

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
    client::Live,
    handshake::{self, Address},
    lines::{Line, Lines, Meter, escaped},
    names::Names,
    process::{Launch, Process},
    supervisor::{Output, Supervisor, Timing},
};

/// Answers in a row that did not come in time, after which a plugin is started anew.
const SILENCES: u32 = 16;
/// Longest logged line, in characters.
const LOGGED: usize = 512;
/// As much of what a plugin said last is told with its end, in characters.
const LAST_WORDS: usize = 160;
/// How long what a plugin said last may take to be read after its end.
const READ_OUT: Duration = Duration::from_millis(200);
/// A wait without an end, in a form that timers take.
const LONG: Duration = Duration::from_secs(24 * 3_600);

/// What is known of a plugin.
#[derive(Debug)]
pub(crate) struct Plugin {
    /// Its file's name.
    name: String,
    names: Arc<Names>,
    status: watch::Sender<Status>,
    /// Where its devices listen, by its newest word; kept while it is down.
    ports: Mutex<Vec<Port>>,
    /// Answers in a row that did not come in time.
    silences: AtomicU32,
    hangs: Notify,
}

#[derive(Clone, Debug)]
enum Status {
    Starting,
    Serving(Arc<Live>),
    /// Why.
    Down(String),
    Stopped,
}

impl Plugin {
    pub(crate) fn new(name: String, names: Arc<Names>) -> Self {
        Self {
            name,
            names,
            status: watch::Sender::new(Status::Starting),
            ports: Mutex::default(),
            silences: AtomicU32::new(0),
            hangs: Notify::new(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The running plugin.
    ///
    /// # Errors
    ///
    /// Why it cannot be asked, in words that follow its name.
    pub(crate) fn live(&self) -> Result<Arc<Live>, String> {
        match &*self.status.borrow() {
            Status::Serving(live) => match self.names.owner(&live.driver) {
                Some(owner) if owner != self.name => Err(format!(
                    "is not asked: plugin {owner} has the driver name `{}` too, remove one of them",
                    live.driver
                )),
                _ => Ok(Arc::clone(live)),
            },
            Status::Starting => Err("is not up yet".to_owned()),
            Status::Down(why) => Err(format!("is down: {why}")),
            Status::Stopped => Err("is stopped".to_owned()),
        }
    }

    pub(crate) fn ports(&self) -> Vec<Port> {
        self.ports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// It has answered a question.
    pub(crate) fn heard(&self) {
        self.silences.store(0, Ordering::Relaxed);
    }

    /// It has not answered a question in time. A plugin that answers none is started anew.
    pub(crate) fn silent(&self) {
        if self.silences.fetch_add(1, Ordering::Relaxed) + 1 >= SILENCES {
            self.hangs.notify_one();
        }
    }

    /// Waits until its first start has come to something. Cancel-safe.
    pub(crate) async fn settled(&self) {
        let mut status = self.status.subscribe();
        // The sender lives as long as this.
        let _ = status
            .wait_for(|status| !matches!(status, Status::Starting))
            .await;
    }

    fn set(&self, status: Status) {
        self.status.send_replace(status);
    }

    fn serves(&self, live: Arc<Live>) {
        self.names.claim(&live.driver, &self.name);
        self.heard();
        *self.ports.lock().unwrap_or_else(PoisonError::into_inner) = live.ports.clone();
        let (plugin, driver) = (&self.name, live.driver.clone());
        let ports: Vec<_> = live.ports.iter().map(|port| port.number()).collect();
        self.set(Status::Serving(live));
        match self.live() {
            Ok(_) => tracing::info!(plugin, %driver, ?ports, "a plugin serves"),
            Err(why) => tracing::warn!(plugin, %driver, why, "a plugin is not asked"),
        }
    }
}

/// Runs a plugin until `stop` fires and it is gone. Dropping it kills the plugin.
pub(crate) async fn run(
    plugin: Arc<Plugin>,
    launch: Launch,
    timing: Timing,
    stop: CancellationToken,
) {
    let mut supervisor = Supervisor::new(timing, Instant::now());
    let mut body = None;
    let mut is_stopping = false;
    loop {
        while let Some(output) = supervisor.poll_output() {
            match output {
                Output::Start => match Process::spawn(&launch).await {
                    Ok(process) => body = Some(Body::new(&plugin, process)),
                    Err(error) => {
                        let program = launch.program().display();
                        let why = format!("{program} cannot be started: {error}");
                        supervisor.exited(Instant::now(), why);
                    }
                },
                Output::Shutdown => {
                    if let Some(body) = &mut body {
                        body.shut_down(timing.shutdown);
                    }
                }
                Output::Kill => {
                    if let Some(body) = &mut body {
                        body.process.kill();
                    }
                }
                Output::Rest { why, rest } => {
                    tracing::warn!(plugin = plugin.name, why, ?rest, "a plugin is down");
                    plugin.set(Status::Down(why));
                }
                Output::Over => {
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
            news = next(&mut body) => match news {
                News::Ended(how) => {
                    let how = match body.take() {
                        Some(body) if !is_stopping => body.last_words(how).await,
                        _ => how,
                    };
                    supervisor.exited(Instant::now(), how);
                }
                News::Greeted(Ok(live)) => {
                    if let Some(body) = &mut body {
                        body.serves(&plugin, &live);
                    }
                    supervisor.serves(Instant::now());
                    plugin.serves(live);
                }
                News::Greeted(Err(why)) => supervisor.reject(Instant::now(), why),
                // Whoever took the request ends by himself; others will not.
                News::ShutDown(answer) => if answer.is_err() {
                    supervisor.reject(Instant::now(), String::new());
                }
            },
            () = plugin.hangs.notified() => {
                if plugin.silences.swap(0, Ordering::Relaxed) >= SILENCES {
                    let why = format!("it left {SILENCES} questions in a row unanswered");
                    supervisor.reject(Instant::now(), why);
                }
            }
            () = sleep_until(deadline.into()) => supervisor.handle_timeout(Instant::now()),
        }
    }
}

/// A process with what is going on around it.
struct Body {
    process: Process,
    greeting: Option<AbortOnDropHandle<Result<Arc<Live>, String>>>,
    shutdown: Option<AbortOnDropHandle<Result<(), RpcError>>>,
    live: Option<Arc<Live>>,
    prints: JoinSet<()>,
    last_line: LastLine,
}

type LastLine = Arc<Mutex<String>>;

enum News {
    Ended(String),
    Greeted(Result<Arc<Live>, String>),
    ShutDown(Result<(), RpcError>),
}

/// What comes of the process next; waits forever when there is none. Cancel-safe.
async fn next(body: &mut Option<Body>) -> News {
    let Some(body) = body else {
        return pending().await;
    };
    tokio::select! {
        biased;
        how = body.process.ended() => News::Ended(how),
        greeted = finished(&mut body.greeting) => {
            News::Greeted(greeted.unwrap_or_else(|crash| Err(crash.to_string())))
        }
        answer = finished(&mut body.shutdown) => {
            News::ShutDown(answer.unwrap_or_else(|crash| Err(RpcError::internal(crash.to_string()))))
        }
    }
}

async fn finished<T>(task: &mut Option<AbortOnDropHandle<T>>) -> Result<T, JoinError> {
    let Some(running) = task else {
        return pending().await;
    };
    let result = running.await;
    *task = None;
    result
}

impl Body {
    fn new(plugin: &Plugin, mut process: Process) -> Self {
        let last_line = LastLine::default();
        let (tell_first, first) = oneshot::channel();
        let mut prints = JoinSet::new();
        if let Some(stdout) = process.stdout.take() {
            let log = Log::new(plugin, "stdout", None);
            prints.spawn(drain(stdout, log, Some(tell_first)));
        }
        if let Some(stderr) = process.stderr.take() {
            let log = Log::new(plugin, "stderr", Some(Arc::clone(&last_line)));
            prints.spawn(drain(stderr, log, None));
        }
        let greeting = tokio::spawn(async move {
            let Ok(first) = first.await else {
                // It closed its output; how it ends says more.
                return pending().await;
            };
            let address = address(&first).map_err(|error| error.to_string())?;
            Live::greet(&address).await.map(Arc::new)
        });
        Self {
            process,
            greeting: Some(AbortOnDropHandle::new(greeting)),
            shutdown: None,
            live: None,
            prints,
            last_line,
        }
    }

    fn serves(&mut self, plugin: &Plugin, live: &Arc<Live>) {
        let mut log = Log::new(plugin, "grpc", None);
        let mut lines = Lines::new(handshake::LINE);
        let served = Arc::clone(live);
        self.prints.spawn(async move {
            let print = |data: &[u8]| lines.push(data, |line| log.print(&line));
            served.read_prints(print).await;
        });
        self.live = Some(Arc::clone(live));
    }

    fn shut_down(&mut self, most: Duration) {
        if let Some(live) = self.live.take() {
            let asking = tokio::spawn(async move { live.shut_down(most).await });
            self.shutdown = Some(AbortOnDropHandle::new(asking));
        }
    }

    /// How it ended, with what it said last where it never served: what it says later may name devices.
    async fn last_words(mut self, how: String) -> String {
        if self.live.is_some() {
            return how;
        }
        let read_out = async { while self.prints.join_next().await.is_some() {} };
        // Whoever holds the pipe still is not waited for.
        let _ = timeout(READ_OUT, read_out).await;
        let line = self
            .last_line
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if line.is_empty() {
            how
        } else {
            format!("{how}, and said `{line}`")
        }
    }
}

fn address(first: &Line) -> Result<Address, handshake::HandshakeError> {
    if first.is_cut {
        return Err(handshake::HandshakeError::TooLong);
    }
    Address::parse(&first.bytes)
}

/// Reads a stream to its end, hands on its first line if somebody wants it, and logs the rest.
async fn drain(
    mut stream: impl AsyncRead + Unpin,
    mut log: Log,
    mut first: Option<oneshot::Sender<Line>>,
) {
    let mut lines = Lines::new(handshake::LINE);
    let mut block = vec![0; 4_096];
    let mut take = |line: Line| match first.take() {
        // Nobody waits for it any more: the plugin is being killed.
        Some(first) => drop(first.send(line)),
        None => log.print(&line),
    };
    while let Ok(count @ 1..) = stream.read(&mut block).await {
        lines.push(block.get(..count).unwrap_or_default(), &mut take);
    }
    if let Some(line) = lines.finish() {
        take(line);
    }
}

/// What a plugin prints, on its way into the node's log.
struct Log {
    plugin: String,
    channel: &'static str,
    meter: Meter,
    last_line: Option<LastLine>,
}

impl Log {
    fn new(plugin: &Plugin, channel: &'static str, last_line: Option<LastLine>) -> Self {
        Self {
            plugin: plugin.name.clone(),
            channel,
            meter: Meter::new(Instant::now()),
            last_line,
        }
    }

    fn print(&mut self, line: &Line) {
        if let Some(last) = &self.last_line
            && !line.bytes.trim_ascii().is_empty()
        {
            *last.lock().unwrap_or_else(PoisonError::into_inner) = escaped(&line.bytes, LAST_WORDS);
        }
        if let Some(dropped) = self.meter.pass(Instant::now()) {
            let (plugin, channel) = (&self.plugin, self.channel);
            let text = escaped(&line.bytes, LOGGED);
            tracing::debug!(plugin, channel, text, dropped, "a plugin prints");
        }
    }
}
