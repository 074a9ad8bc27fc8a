//! Logging to standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::{
    cli::{LogArgs, LogFormat},
    exit::Usage,
};

/// Starts logging.
pub(crate) fn start(log: &LogArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.log).map_err(|error| {
        Usage::new(format!("--log {:?}: {error}; write a level such as debug, or directives such as info,fleet_agent=debug", log.log))
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match log.log_format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}
