//! The command line of `fleetctl`, as clap parses it. Read [`Command`] first.

mod alerts;
mod devices;
mod nodes;
mod people;
mod scans;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

pub(crate) use self::{
    alerts::{AlertRuleArgs, Alerts},
    devices::{Devices, Direct, Login, PairOn},
    nodes::{Nodes, Sites},
    people::{Keys, Operators, Sessions},
    scans::{Scan, Schedule, Scheduled, Start, Targets, Timing},
};

/// Headings of the flags that every command has, so that help shows a command's own flags first.
const CONNECTION: &str = "Connection";
const OUTPUT: &str = "Output";

/// Command-line client for operators of a fleet server.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "The operator key is read from FLEET_API_KEY or from the file given with --api-key.\n\nExit status: 0 completed, 1 failed, 2 partial, 64 invalid usage or configuration, 69 server unavailable,\n75 busy or timed out, 77 not permitted, 130 canceled."
)]
pub(crate) struct Cli {
    /// URL of the server.
    #[arg(
        long,
        env = "FLEET_SERVER",
        default_value = "http://127.0.0.1:8420",
        global = true,
        help_heading = CONNECTION,
        value_name = "URL"
    )]
    pub(crate) server: String,
    /// File that contains the operator key, or `-` for standard input. The default is the variable FLEET_API_KEY.
    #[arg(
        long,
        global = true,
        help_heading = CONNECTION,
        value_name = "FILE"
    )]
    pub(crate) api_key: Option<PathBuf>,
    /// PEM file with the certificates to trust instead of those of the system.
    #[arg(
        long,
        env = "FLEET_CA",
        global = true,
        help_heading = CONNECTION,
        value_name = "FILE"
    )]
    pub(crate) ca: Option<PathBuf>,
    /// Allow plain HTTP to another machine. The key is then sent in clear text.
    #[arg(long, global = true, help_heading = CONNECTION)]
    pub(crate) allow_insecure_transport: bool,
    /// Output format.
    #[arg(
        short,
        long,
        default_value = "table",
        global = true,
        help_heading = OUTPUT,
        value_name = "FORMAT"
    )]
    pub(crate) output: Format,
    /// Show all columns of a table, however wide it is.
    #[arg(long, global = true, help_heading = OUTPUT)]
    pub(crate) wide: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Returns the output format that `--output` and `--wide` select.
    pub(crate) fn format(&self) -> Format {
        match (self.output, self.wide) {
            (Format::Table, true) => Format::Wide,
            (format, _) => format,
        }
    }
}

impl Format {
    /// Returns whether the output is for people.
    pub(crate) fn is_table(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// Output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Table for people. It drops columns until it fits the terminal, or 80 columns without a terminal.
    Table,
    /// Table with all columns, selected by `--wide`.
    #[value(skip)]
    Wide,
    /// One JSON document with the names and types of the API.
    Json,
    /// One JSON object per line.
    Ndjson,
    /// CSV as in RFC 4180, with a header line.
    Csv,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show counts of devices, nodes and scans, the last 30 days, or the map of a site.
    Overview(crate::overview::Arguments),
    /// Manage nodes and their enrollment.
    #[command(subcommand)]
    Nodes(Nodes),
    /// Manage sites: their nodes, excluded targets and blackouts.
    #[command(subcommand)]
    Sites(Sites),
    /// Start, watch and cancel scans.
    #[command(subcommand)]
    Scan(Scan),
    /// Repeat scans at set times.
    #[command(subcommand)]
    Schedule(Schedule),
    /// Manage alerts: rules, channels and deliveries.
    #[command(subcommand)]
    Alerts(Alerts),
    /// List, pair and bind devices of the inventory.
    #[command(subcommand)]
    Devices(Devices),
    /// Scan and pair in the networks of the server itself, if the server allows it.
    #[command(subcommand)]
    Direct(Direct),
    /// Read and verify the audit trail.
    #[command(subcommand)]
    Audit(Audit),
    /// Manage API keys: your own, or with org:admin those of all operators.
    #[command(subcommand)]
    Keys(Keys),
    /// Manage the operators of the organization; needs org:admin.
    #[command(subcommand)]
    Operators(Operators),
    /// List and end browser sessions.
    #[command(subcommand)]
    Sessions(Sessions),
    /// Change your password. Without a terminal, standard input holds the current and the new password, one per line.
    Password,
    /// Show the operator that the key belongs to.
    Whoami,
    /// Print a completion script for a shell.
    Completions {
        /// Name of the shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// List records, newest first.
    List {
        /// Show only actions whose name has this prefix, such as `node.` or `scan.start`.
        #[arg(
            long,
            default_value = "",
            hide_default_value = true,
            value_name = "NAME"
        )]
        action: String,
        /// Show only refused actions.
        #[arg(long)]
        refused: bool,
        /// Show only actions of this node, by id or name.
        #[arg(long)]
        node: Option<String>,
        /// Maximum number of records.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Print the head of the chain as SEQ:HASH. Store it where the server cannot change it.
    Head,
    /// Verify the hash of every record in the chain. Exits with 1 and names the first invalid records.
    Verify {
        /// Head that you stored earlier. Verifies that no record up to it was removed or rewritten.
        #[arg(long, value_name = "SEQ:HASH")]
        expect: Option<fleet_core::ChainHead>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
