//! The command line of `fleetd`, as clap parses it. `config.rs` interprets it. Read [`Command`] first.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnetwork::IpNetwork;

use crate::oidc::OidcArgs;

/// Fleet server: finds devices on private networks through nodes that connect to it.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "Flags override FLEETD_* variables, which override the configuration file.\nExit status: 0 success, 1 failed, 64 invalid flags or configuration, 69 database or port unavailable."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server.
    Serve(Box<ServeArgs>),
    /// Run a demonstration on this machine: a server, a simulated site, a node and a scan.
    #[cfg(feature = "demo")]
    Demo(DemoArgs),
    /// Migrate the database to the schema of this version.
    Migrate(DatabaseArgs),
    /// Manage operators, keys and the audit trail directly in the database.
    Admin(AdminArgs),
    /// Write a self-signed certificate for development.
    DevCert(DevCertArgs),
    /// Print a completion script for a shell.
    Completions {
        /// Name of the shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DatabaseArgs {
    /// Configuration file [default: fleetd.toml in the working directory, if it exists].
    #[arg(long, env = "FLEETD_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Database: sqlite://PATH?mode=rwc or postgres://USER@HOST/DATABASE [default: sqlite://fleet.db?mode=rwc]
    #[arg(
        long,
        env = "FLEETD_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub(crate) database_url: Option<String>,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LogArgs {
    /// Format of log lines [default: text]
    #[arg(long, env = "FLEETD_LOG_FORMAT", value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    /// Log filter: a level, or directives such as `info,fleet_server=debug` [default: info]
    #[arg(long, env = "FLEETD_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
    /// Address and port to listen on [default: 127.0.0.1:8420]
    #[arg(long, env = "FLEETD_LISTEN", value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// PEM file with the certificate chain; needs --tls-key.
    #[arg(long, env = "FLEETD_TLS_CERT", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// PEM file with the private key of the certificate; needs --tls-cert.
    #[arg(long, env = "FLEETD_TLS_KEY", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Allow plain HTTP on an address that other machines can reach, for example behind a proxy that terminates TLS;
    /// needs --public-url.
    #[arg(long, env = "FLEETD_ALLOW_INSECURE_TRANSPORT", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) allow_insecure_transport: Option<bool>,
    /// URL at which operators and nodes reach this server.
    #[arg(long, env = "FLEETD_PUBLIC_URL", value_name = "URL")]
    pub(crate) public_url: Option<String>,
    /// Proxy whose X-Forwarded-For header is trusted and whose connections do not count as one source; repeatable.
    #[arg(
        long,
        env = "FLEETD_TRUSTED_PROXY",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub(crate) trusted_proxy: Vec<IpNetwork>,
    /// Migrate a PostgreSQL database to the schema of this version at start. SQLite is always migrated.
    #[arg(long, env = "FLEETD_MIGRATE", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) migrate: Option<bool>,
    /// Allow scans of shared carrier addresses (RFC 6598, 100.64.0.0/10).
    #[arg(long, env = "FLEETD_ALLOW_CARRIER_SHARED", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) allow_carrier_shared: Option<bool>,
    /// Send host names to nodes that cannot pin the resolved addresses.
    #[arg(long, env = "FLEETD_ALLOW_UNPINNED_NAMES", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) allow_unpinned_names: Option<bool>,
    /// Allow the server itself to scan and pair devices in the networks of --direct-network.
    #[arg(long, env = "FLEETD_DIRECT_ENABLED", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) direct_enabled: Option<bool>,
    /// Private network that the server itself may dial; repeatable.
    #[arg(
        long,
        env = "FLEETD_DIRECT_NETWORK",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub(crate) direct_network: Vec<IpNetwork>,
    #[command(flatten)]
    pub(crate) oidc: OidcArgs,
    /// Serve metrics for Prometheus at /metrics of this port, on loopback unless an address is given; needs no credential
    /// [default: off]
    #[arg(long, env = "FLEETD_METRICS_LISTEN", value_name = "[ADDRESS:]PORT", value_parser = fleet_wire::metrics::address)]
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// Allow scans of loopback addresses, for demonstrations and tests with simulated devices on this machine.
    #[arg(long, hide = true)]
    pub(crate) demo_allow_loopback: bool,
}

#[cfg(feature = "demo")]
#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArgs {
    /// Number of simulated devices.
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u16).range(1..=5_000))]
    pub(crate) devices: u16,
    /// Exit after the scan.
    #[arg(long)]
    pub(crate) once: bool,
    /// Print one JSON object per line; the last one is the scan summary.
    #[arg(long)]
    pub(crate) json: bool,
    /// Address and port to listen on. If the port is in use, the next free port is used.
    #[arg(long, default_value = "127.0.0.1:8420", value_name = "ADDRESS:PORT")]
    pub(crate) listen: SocketAddr,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

#[derive(Debug, Args)]
pub(crate) struct AdminArgs {
    #[command(subcommand)]
    pub(crate) command: AdminCommand,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct PasswordArgs {
    /// Read the password from standard input, as one line.
    #[arg(long)]
    pub(crate) password_stdin: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AdminCommand {
    /// Create an operator, and the organization if it does not exist.
    ///
    /// On a terminal, the command prompts for a password. If it is empty, or without a terminal, the command creates
    /// a one-time password and prints it on standard output.
    CreateOperator {
        /// Name of the organization.
        #[arg(long, value_parser = fleet_core::text::name)]
        org: String,
        /// E-mail of the operator.
        #[arg(long, value_parser = fleet_core::text::name)]
        email: String,
        /// viewer (reads), operator (manages nodes, scans and pairing) or admin (everything).
        #[arg(long)]
        role: fleet_core::Role,
        #[command(flatten)]
        password: PasswordArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Set a new password for an operator and end the operator's browser sessions.
    ResetPassword {
        /// E-mail of the operator.
        #[arg(long)]
        email: String,
        /// Name of the organization, if operators of several organizations have this e-mail.
        #[arg(long)]
        org: Option<String>,
        #[command(flatten)]
        password: PasswordArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Print the head of each audit chain, of every organization and of the server. Store them on another machine.
    AuditHead {
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Verify the hash of every audit record. Exits with 1 if a chain is broken.
    AuditVerify {
        /// Head that you stored earlier, as audit-head printed it; repeatable.
        #[arg(long, value_name = "CHAIN=SEQ:HASH")]
        expect: Vec<String>,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Create an API key for an operator and print it on standard output. It is shown only once.
    CreateKey {
        /// E-mail of the operator.
        #[arg(long)]
        email: String,
        /// Name of the organization, if operators of several organizations have this e-mail.
        #[arg(long)]
        org: Option<String>,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DevCertArgs {
    /// Host name or address that the certificate is valid for; repeatable.
    #[arg(long = "name", default_values_t = [String::from("localhost"), String::from("127.0.0.1"), String::from("::1")])]
    pub(crate) names: Vec<String>,
    /// File to write the certificate to.
    #[arg(long, default_value = "dev-cert.pem", value_name = "FILE")]
    pub(crate) cert: PathBuf,
    /// File to write the private key to, with mode 0600.
    #[arg(long, default_value = "dev-key.pem", value_name = "FILE")]
    pub(crate) key: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
