//! All plugins of a folder. Start with [`PluginHost::start`].

use std::{
    ffi::OsString,
    fmt, fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fleet_core::Port;
use fleet_scan::Driver;
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    driver::PluginDriver,
    environment::environment,
    folder::{self, FolderError, Listing, Skipped},
    names::Names,
    plugin::{self, Plugin},
    process::Launch,
    supervisor::Timing,
};

/// How long all plugins together may take to end, as the plugins' contract has it; then they are killed.
const STOP: Duration = Duration::from_secs(5);
/// Longest folder for sockets, in bytes: a socket's path has 107, and plugins add names of their own.
const SOCKETS: usize = 64;

/// How plugins are hosted.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// Where they are: each executable regular file is one.
    pub folder: PathBuf,
    /// The program that calls [`guard`](crate::guard).
    pub guard: PathBuf,
    /// What it is given before the path of the plugin.
    pub guard_arguments: Vec<OsString>,
    /// Variables of this process that plugins see, besides those that every program needs.
    pub pass_environment: Vec<OsString>,
    /// A folder for the plugins' Unix sockets, in which nothing else is: made anew, 0700, at the start. None leaves it
    /// to the plugins, as does a path too long for a socket.
    pub sockets: Option<PathBuf>,
    /// How long what may take.
    pub timing: Timing,
}

impl HostOptions {
    /// Plugins of this folder under this guard, with the times of the plugins' contract.
    pub fn new(folder: impl Into<PathBuf>, guard: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            guard: guard.into(),
            guard_arguments: Vec::new(),
            pass_environment: Vec::new(),
            sockets: None,
            timing: Timing::default(),
        }
    }
}

/// Plugins that run, or are about to run again. Dropping it kills them.
pub struct PluginHost {
    plugins: Vec<Arc<Plugin>>,
    drivers: Vec<Arc<dyn Driver>>,
    skipped: Vec<Skipped>,
    runs: JoinSet<()>,
    stop: CancellationToken,
}

impl PluginHost {
    /// Starts every plugin of a folder, all at a time, and keeps them running. Needs a tokio runtime; returns at once,
    /// [`PluginHost::settled`] says when they are up. Files that may not be run are left out.
    ///
    /// # Errors
    ///
    /// [`FolderError`] when the folder cannot be read or is not safe; nothing is started then.
    pub fn start(options: HostOptions) -> Result<Self, FolderError> {
        let Listing { files, skipped } = folder::read(&options.folder)?;
        let sockets = match &options.sockets {
            Some(folder) if !files.is_empty() => usable(folder),
            _ => None,
        };
        let environment = environment(
            std::env::vars_os(),
            &options.pass_environment,
            sockets.as_deref(),
        );
        let (names, stop) = (Arc::new(Names::default()), CancellationToken::new());
        let mut host = Self {
            plugins: Vec::new(),
            drivers: Vec::new(),
            skipped,
            runs: JoinSet::new(),
            stop,
        };
        for file in files {
            let launch = Launch {
                guard: (options.guard.clone(), options.guard_arguments.clone()),
                program: file.path,
                environment: environment.clone(),
            };
            let plugin = Arc::new(Plugin::new(file.name, Arc::clone(&names)));
            let driver = PluginDriver::new(Arc::clone(&plugin), options.timing.answer);
            host.drivers.push(Arc::new(driver));
            host.runs.spawn(plugin::run(
                Arc::clone(&plugin),
                launch,
                options.timing,
                host.stop.clone(),
            ));
            host.plugins.push(plugin);
        }
        Ok(host)
    }

    /// Files that look like plugins and are not run.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// The plugins as drivers, in the order of their file names. They stay the same while plugins come and go.
    pub fn drivers(&self) -> Vec<Arc<dyn Driver>> {
        self.drivers.clone()
    }

    /// The ports that plugins have named until now, each once.
    pub fn ports(&self) -> Vec<Port> {
        let mut ports = Vec::new();
        for port in self.plugins.iter().flat_map(|plugin| plugin.ports()) {
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        ports
    }

    /// Waits until the first start of every plugin has come to something, at most so long. Cancel-safe.
    pub async fn settled(&self, patience: Duration) {
        let all = async {
            for plugin in &self.plugins {
                plugin.settled().await;
            }
        };
        // Who needs longer is waited for by nobody; scans say that it is not up yet.
        let _ = timeout(patience, all).await;
    }

    /// Ends all plugins at a time: each is asked to shut down, and killed with all that it started when it takes longer
    /// than it may; after five seconds nothing is waited for any more. Dropping the future kills them.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let all = async { while self.runs.join_next().await.is_some() {} };
        if timeout(STOP, all).await.is_err() {
            tracing::warn!("some plugins had to be left to their guards");
        }
    }
}

impl fmt::Debug for PluginHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginHost")
            .field("plugins", &self.plugins)
            .field("skipped", &self.skipped)
            .finish_non_exhaustive()
    }
}

/// Makes the folder for sockets anew; none when that cannot be, which costs nothing but its privacy.
fn usable(folder: &Path) -> Option<PathBuf> {
    if folder.as_os_str().len() > SOCKETS || !folder.is_absolute() {
        tracing::debug!(
            folder = %folder.display(),
            "the path is too long for sockets: plugins choose their own"
        );
        return None;
    }
    let made = match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::DirBuilder::new().mode(0o700).create(folder),
    };
    match made {
        Ok(()) => Some(folder.to_owned()),
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "no folder for the sockets of plugins");
            None
        }
    }
}
