//! Starts the driver plugins of a node. Start with [`start`].

use std::{
    env,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use fleet_plugin::{FolderError, HostOptions, PluginHost};

use crate::cli::{EngineArgs, GUARD};

/// The default plugin folder, beside the program.
const FOLDER: &str = "plugins";
/// The folder for the plugins' sockets, in the state folder, which is private.
const SOCKETS: &str = "sockets";
/// This program. The link works even while the file is being replaced by an update.
const MYSELF: &str = "/proc/self/exe";

/// The flags about plugins.
#[derive(Debug)]
pub(crate) struct PluginFlags {
    folder: Option<PathBuf>,
    pass_environment: Vec<OsString>,
    ask_silent: Vec<String>,
}

impl PluginFlags {
    pub(crate) fn of(args: &EngineArgs) -> Self {
        Self {
            folder: args.plugin_dir.clone(),
            pass_environment: args.plugin_env.clone(),
            ask_silent: args.ask_silent.clone(),
        }
    }
}

/// Starts the plugins of the given or the default folder. If they cannot run safely, the node logs the reason and runs
/// without plugins.
pub(crate) fn start(
    flags: PluginFlags,
    default_logins: bool,
    state_dir: &Path,
) -> Option<PluginHost> {
    let is_named = flags.folder.is_some();
    let ask_silent = flags.ask_silent.clone();
    let started = flags
        .folder
        .map_or_else(usual, Ok)
        .and_then(|folder| Ok((folder, myself()?)))
        .map(|(folder, guard)| HostOptions {
            guard_arguments: vec![GUARD.into()],
            pass_environment: flags.pass_environment,
            ask_silent: flags.ask_silent,
            default_logins,
            sockets: std::path::absolute(state_dir.join(SOCKETS)).ok(),
            ..HostOptions::new(folder, guard)
        })
        .map(PluginHost::start);
    match started {
        Ok(Ok(host)) => {
            for skipped in host.skipped() {
                let (file, problem) = (skipped.path.display(), &skipped.problem);
                tracing::warn!(%file, problem, "skipped a plugin file");
            }
            for plugin in ask_silent.iter().filter(|name| !host.has(name)) {
                tracing::warn!(%plugin, "no plugin has the file name that --ask-silent gives");
            }
            Some(host)
        }
        Ok(Err(FolderError::Missing(folder))) if !is_named => {
            tracing::debug!(folder = %folder.display(), "there is no plugin folder");
            None
        }
        Ok(Err(error)) => {
            let error = anyhow::Error::new(error);
            tracing::warn!(error = format!("{error:#}"), "running without plugins");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "running without plugins, because the path of this program is unknown");
            None
        }
    }
}

fn usual() -> io::Result<PathBuf> {
    let program = env::current_exe()?;
    let beside = program.parent().unwrap_or(Path::new("/"));
    Ok(beside.join(FOLDER))
}

fn myself() -> io::Result<PathBuf> {
    if Path::new(MYSELF).exists() {
        return Ok(MYSELF.into());
    }
    env::current_exe()
}
