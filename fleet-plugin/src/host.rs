//! The plugins of a folder. Start with [`PluginHost::start`].

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
    driver_names::DriverNames,
    environment::environment,
    folder::{self, FolderError, Listing, Skipped},
    plugin::{self, Plugin},
    process::Launch,
    supervisor::Timing,
};

/// Time limit for the shutdown of all plugins, as the plugin protocol defines it. Then they are killed.
const STOP: Duration = Duration::from_secs(5);
/// Longest path of the socket folder, in bytes. A socket's path has at most 107, and plugins append their own names.
const SOCKETS: usize = 64;

/// Options of a plugin host.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// The plugin folder. Each executable regular file in it is a plugin.
    pub folder: PathBuf,
    /// The program that calls [`guard`](crate::guard).
    pub guard: PathBuf,
    /// Arguments of the guard, before the plugin's path.
    pub guard_arguments: Vec<OsString>,
    /// Environment variables that are passed to plugins, in addition to the common ones.
    pub pass_environment: Vec<OsString>,
    /// A dedicated folder for the plugins' Unix sockets. It is emptied and created (0700) at the start. If absent, or if
    /// the path is too long for a socket, plugins choose their own folder.
    pub sockets: Option<PathBuf>,
    /// Whether pairing without a login may try the logins that a plugin names as a device's defaults.
    pub default_logins: bool,
    /// File names of plugins that are also asked about listed addresses at which no port answered.
    pub ask_silent: Vec<String>,
    /// Time limits.
    pub timing: Timing,
}

impl HostOptions {
    /// Options for this folder and guard, with the time limits of the plugin protocol.
    pub fn new(folder: impl Into<PathBuf>, guard: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            guard: guard.into(),
            guard_arguments: Vec::new(),
            pass_environment: Vec::new(),
            sockets: None,
            default_logins: true,
            ask_silent: Vec::new(),
            timing: Timing::default(),
        }
    }
}

/// Supervised plugins. Dropping the host kills them.
pub struct PluginHost {
    plugins: Vec<Arc<Plugin>>,
    drivers: Vec<Arc<dyn Driver>>,
    skipped: Vec<Skipped>,
    runs: JoinSet<()>,
    stop: CancellationToken,
}

impl PluginHost {
    /// Starts every plugin of a folder in parallel and keeps them running. Needs a tokio runtime. Returns at once; use
    /// [`PluginHost::wait_started`] to wait for them. Unsafe files are skipped.
    ///
    /// # Errors
    ///
    /// [`FolderError`] if the folder cannot be read or is unsafe. Nothing is started then.
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
        let (names, stop) = (Arc::new(DriverNames::default()), CancellationToken::new());
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
            let driver = PluginDriver::new(
                Arc::clone(&plugin),
                options.timing.answer_timeout,
                options.default_logins,
            )
            .pairing_within(options.timing.pair_timeout)
            .asking_silent(options.ask_silent.iter().any(|name| name == plugin.name()));
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

    /// Files that look like plugins but were not started.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Whether a file of this name is a plugin.
    pub fn has(&self, name: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin.name() == name)
    }

    /// The plugins as drivers, in the order of their file names. The list stays the same when plugins restart.
    pub fn drivers(&self) -> Vec<Arc<dyn Driver>> {
        self.drivers.clone()
    }

    /// The default ports that plugins have reported until now, without duplicates.
    pub fn ports(&self) -> Vec<Port> {
        let mut ports = Vec::new();
        for port in self.plugins.iter().flat_map(|plugin| plugin.ports()) {
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        ports
    }

    /// Waits, for at most `patience`, until the first start of every plugin has succeeded or failed. Cancel-safe.
    pub async fn wait_started(&self, patience: Duration) {
        let all = async {
            for plugin in &self.plugins {
                plugin.wait_started().await;
            }
        };
        // Slower plugins come up later. Scans report that they are not up yet.
        let _ = timeout(patience, all).await;
    }

    /// Stops all plugins in parallel: each gets a shutdown request and is killed with its children after its time limit.
    /// Returns after at most five seconds. Dropping the future kills the plugins.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let all = async { while self.runs.join_next().await.is_some() {} };
        if timeout(STOP, all).await.is_err() {
            tracing::warn!("some plugins did not end in time and were left to their guards");
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

/// Creates the socket folder. Returns none on failure; plugins then choose their own folder, which may be less private.
fn usable(folder: &Path) -> Option<PathBuf> {
    if folder.as_os_str().len() > SOCKETS || !folder.is_absolute() {
        tracing::debug!(
            folder = %folder.display(),
            "the path is too long for sockets; plugins choose their own folder"
        );
        return None;
    }
    // Plugins that were killed leave their sockets behind.
    let made = match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::DirBuilder::new().mode(0o700).create(folder),
    };
    match made {
        Ok(()) => Some(folder.to_owned()),
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "cannot create the folder for plugin sockets");
            None
        }
    }
}
