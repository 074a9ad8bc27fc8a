//! Logging to standard error.

use fleet_wire::VisibleWriter;
use tracing_subscriber::EnvFilter;

use crate::{
    cli::LogFormat,
    config::{ConfigError, Log},
};

/// The default filter. The named crates log too much at info.
const DEFAULT_FILTER: &str =
    "info,sea_orm_migration=warn,sqlx=warn,h2=warn,hyper=warn,mio=warn,rustls=warn";

/// Installs the global logger. `fallback` is the filter if the configuration has none.
pub(crate) fn start(log: &Log, fallback: Option<&str>) -> Result<(), ConfigError> {
    let text = log.filter.as_deref().or(fallback).unwrap_or(DEFAULT_FILTER);
    let filter = EnvFilter::try_new(text)
        .map_err(|error| ConfigError::new(format!("log is `{text}`: {error}; use a level such as debug, or directives such as info,fleet_server=debug")))?;
    let colors =
        log.format == LogFormat::Text && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || VisibleWriter::with_colors(std::io::stderr(), colors));
    match log.format {
        LogFormat::Text => lines.with_ansi(colors).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}
