//! The command line as typed; what it means is `config`'s.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnetwork::IpNetwork;

/// The fleet server: finds devices on private networks through nodes that dial out to it.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "Flags come before FLEETD_* variables, and those before the configuration file.\nExit status: 0 done, 1 failed, 64 wrong flags or configuration, 69 database or port unavailable."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs the server.
    Serve(ServeArgs),
    /// Shows the whole product on this machine: a server, a simulated site, a node, a scan.
    #[cfg(feature = "demo")]
    Demo(DemoArgs),
    /// Brings the database to this version's schema.
    Migrate(DatabaseArgs),
    /// Manages operators and keys from the server's own machine.
    Admin(AdminArgs),
    /// Writes a self-signed certificate for development.
    DevCert(DevCertArgs),
    /// Prints a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DatabaseArgs {
    /// The configuration file; fleetd.toml in the working folder is read when it is there.
    #[arg(long, env = "FLEETD_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// sqlite://PATH?mode=rwc or postgres://USER@HOST/DATABASE [default: sqlite://fleet.db?mode=rwc]
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
    /// Log lines for people or for machines [default: text]
    #[arg(long, env = "FLEETD_LOG_FORMAT", value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    /// What to log: a level, or directives such as `info,fleet_server=debug` [default: info]
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
    /// Where to listen [default: 127.0.0.1:8420]
    #[arg(long, env = "FLEETD_LISTEN", value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// The certificate chain, PEM; needs --tls-key.
    #[arg(long, env = "FLEETD_TLS_CERT", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM; needs --tls-cert.
    #[arg(long, env = "FLEETD_TLS_KEY", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Serves plain HTTP on an address that others can reach, for instance behind a proxy that ends TLS.
    #[arg(long, env = "FLEETD_ALLOW_INSECURE_TRANSPORT", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) allow_insecure_transport: Option<bool>,
    /// The URL under which operators and nodes reach this server.
    #[arg(long, env = "FLEETD_PUBLIC_URL", value_name = "URL")]
    pub(crate) public_url: Option<String>,
    /// A proxy whose X-Forwarded-For is believed and whose connections are not counted as one source; may be given several times.
    #[arg(
        long,
        env = "FLEETD_TRUSTED_PROXY",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub(crate) trusted_proxy: Vec<IpNetwork>,
    /// Brings a PostgreSQL database to this version's schema first (SQLite always is).
    #[arg(long, env = "FLEETD_MIGRATE", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) migrate: Option<bool>,
    /// Lets RFC 6598 addresses (100.64.0.0/10) be scanned too.
    #[arg(long, env = "FLEETD_ALLOW_CARRIER_SHARED", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) allow_carrier_shared: Option<bool>,
    /// Sends host names to nodes that cannot pin what they resolve to.
    #[arg(long, env = "FLEETD_ALLOW_UNPINNED_NAMES", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) allow_unpinned_names: Option<bool>,
    /// Lets the server itself scan and pair devices in the networks of --direct-network.
    #[arg(long, env = "FLEETD_DIRECT_ENABLED", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) direct_enabled: Option<bool>,
    /// A private network that the server itself may dial; may be given several times.
    #[arg(
        long,
        env = "FLEETD_DIRECT_NETWORK",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub(crate) direct_network: Vec<IpNetwork>,
    /// Lets loopback addresses be scanned, for demonstrations and tests with simulated devices on this machine.
    #[arg(long, hide = true)]
    pub(crate) demo_allow_loopback: bool,
}

#[cfg(feature = "demo")]
#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArgs {
    /// Simulated devices.
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u16).range(1..=5_000))]
    pub(crate) devices: u16,
    /// Ends after the scan.
    #[arg(long)]
    pub(crate) once: bool,
    /// Prints one JSON object a line, the ledger last.
    #[arg(long)]
    pub(crate) json: bool,
    /// Where to listen; the next free port is taken when this one is busy.
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
    /// Reads the password as one line of standard input.
    #[arg(long)]
    pub(crate) password_stdin: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AdminCommand {
    /// Creates an operator, and the organization when it is new.
    ///
    /// The password is asked for on a terminal; Enter, or no terminal, makes a one-time password, printed alone on
    /// standard output.
    CreateOperator {
        /// The organization's name.
        #[arg(long)]
        org: String,
        /// The operator's e-mail.
        #[arg(long)]
        email: String,
        /// viewer (reads), operator (manages nodes, scans and pairing) or admin (everything).
        #[arg(long)]
        role: fleet_core::Role,
        #[command(flatten)]
        password: PasswordArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Gives an operator another password, and ends the operator's browser sessions.
    ResetPassword {
        /// The operator's e-mail.
        #[arg(long)]
        email: String,
        #[command(flatten)]
        password: PasswordArgs,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Prints where the chain of each organization's audit trail ends, and the server's own: keep them elsewhere.
    AuditHead {
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Reads every chain of the audit trail and computes every hash anew; exits with 1 when one is broken.
    AuditVerify {
        /// A head that was kept, as audit-head prints it; may be given several times.
        #[arg(long, value_name = "CHAIN=SEQ:HASH")]
        expect: Vec<String>,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Creates an API key for an operator and prints it, alone, on standard output. It is shown once.
    CreateKey {
        /// The operator's e-mail.
        #[arg(long)]
        email: String,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DevCertArgs {
    /// Names and addresses that the certificate is for.
    #[arg(long = "name", default_values_t = [String::from("localhost"), String::from("127.0.0.1"), String::from("::1")])]
    pub(crate) names: Vec<String>,
    /// Where to write the certificate.
    #[arg(long, default_value = "dev-cert.pem", value_name = "FILE")]
    pub(crate) cert: PathBuf,
    /// Where to write the private key (0600).
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
