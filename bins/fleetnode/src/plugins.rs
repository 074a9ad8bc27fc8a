//! Driver plugins of a running node: which folder, under which guard. Start with [`start`].

use std::{
    env,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use fleet_plugin::{FolderError, HostOptions, PluginHost};

use crate::cli::GUARD;

/// The folder beside the program that is looked for when none is named.
const FOLDER: &str = "plugins";
/// The folder for plugins' sockets, in the state folder, which nobody else can look into.
const SOCKETS: &str = "sockets";
/// This program, also while it is being replaced by a newer one.
const MYSELF: &str = "/proc/self/exe";

/// Starts the plugins of the folder that was named, or of the usual one. A node runs without plugins where they cannot
/// be run safely, and says so.
pub(crate) fn start(
    named: Option<PathBuf>,
    pass_environment: Vec<OsString>,
    state_dir: &Path,
) -> Option<PluginHost> {
    let is_named = named.is_some();
    let started = named
        .map_or_else(usual, Ok)
        .and_then(|folder| Ok((folder, myself()?)))
        .map(|(folder, guard)| HostOptions {
            guard_arguments: vec![GUARD.into()],
            pass_environment,
            sockets: std::path::absolute(state_dir.join(SOCKETS)).ok(),
            ..HostOptions::new(folder, guard)
        })
        .map(PluginHost::start);
    match started {
        Ok(Ok(host)) => {
            for skipped in host.skipped() {
                let (file, problem) = (skipped.path.display(), &skipped.problem);
                tracing::warn!(%file, problem, "a file is not run as a plugin");
            }
            Some(host)
        }
        Ok(Err(FolderError::Missing(folder))) if !is_named => {
            tracing::debug!(folder = %folder.display(), "no folder with plugins");
            None
        }
        Ok(Err(error)) => {
            let error = anyhow::Error::new(error);
            tracing::warn!(error = format!("{error:#}"), "running without plugins");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "running without plugins: this program cannot find itself");
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
