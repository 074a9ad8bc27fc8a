//! Logging to standard error.

use std::io::IsTerminal;

use fleet_wire::VisibleWriter;
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
    let colors = log.log_format == LogFormat::Text && std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || VisibleWriter::with_colors(std::io::stderr(), colors));
    match log.log_format {
        LogFormat::Text => lines.with_ansi(colors).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}
