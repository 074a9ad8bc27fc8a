//! The command line as typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The operator's command line for a fleet server.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "The operator's key is read from FLEET_API_KEY, or from the file named with --api-key.\n\nExit status: 0 completed, 1 failed, 2 partial, 64 wrong usage or configuration, 69 server unavailable,\n75 busy or out of time, 77 not permitted, 130 canceled."
)]
pub(crate) struct Cli {
    /// The server's URL.
    #[arg(
        long,
        env = "FLEET_SERVER",
        default_value = "http://127.0.0.1:8420",
        global = true,
        value_name = "URL"
    )]
    pub(crate) server: String,
    /// A file with the operator's key, `-` for standard input. Without it the variable FLEET_API_KEY holds the key.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) api_key: Option<PathBuf>,
    /// Certificates to trust instead of the system's, PEM.
    #[arg(long, env = "FLEET_CA", global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Sends the key over plain HTTP to another machine.
    #[arg(long, global = true)]
    pub(crate) allow_insecure_transport: bool,
    /// How to print.
    #[arg(
        short,
        long,
        default_value = "table",
        global = true,
        value_name = "FORMAT"
    )]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// One JSON document.
    Json,
    /// One JSON object a line.
    Ndjson,
    /// RFC 4180 with a header line.
    Csv,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Nodes and their enrollment.
    #[command(subcommand)]
    Nodes(Nodes),
    /// Scans.
    #[command(subcommand)]
    Scan(Scan),
    /// The inventory.
    #[command(subcommand)]
    Devices(Devices),
    /// Devices that the server itself reaches, where its administrator allows that.
    #[command(subcommand)]
    Direct(Direct),
    /// The audit trail: who did what.
    #[command(subcommand)]
    Audit(Audit),
    /// API keys for scripts: your own, or with org:admin everybody's.
    #[command(subcommand)]
    Keys(Keys),
    /// The operators of the organization; needs org:admin.
    #[command(subcommand)]
    Operators(Operators),
    /// Your browser sessions.
    #[command(subcommand)]
    Sessions(Sessions),
    /// Changes your password; asks for it without echo, or reads the present and the new one as two lines of standard input.
    Password,
    /// Shows whose key is used.
    Whoami,
    /// Prints a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Lists the keys that are neither revoked nor over.
    List {
        /// Everybody's of the organization; needs org:admin.
        #[arg(long)]
        all: bool,
    },
    /// Makes a key and prints it, alone, on standard output. It is shown once.
    Create {
        /// What to call it, such as the script that it is for.
        #[arg(long)]
        name: String,
        /// Ends the key by itself after so many seconds.
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(60..))]
        expires_in: Option<i64>,
        /// For this operator; another one than yourself needs org:admin.
        #[arg(
            long,
            default_value_t = 0,
            hide_default_value = true,
            value_name = "ID"
        )]
        operator: i64,
    },
    /// Revokes a key at once, with the browser sessions that it opened.
    Revoke {
        /// The key's id.
        key: i64,
    },
    /// Makes a key in place of another one, which lives on for a while. It is shown once.
    Rotate {
        /// The id of the key to replace.
        key: i64,
        /// How long the older key lives on, in seconds, at most 30 days; 0 ends it at once.
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(0..=2_592_000))]
        grace: i64,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Operators {
    /// Lists the operators.
    List,
    /// Creates an operator and prints a one-time password, alone, on standard output. It is shown once.
    Create {
        /// The e-mail, unique on the server.
        #[arg(long)]
        email: String,
        /// viewer (reads), operator (manages nodes, scans and pairing) or admin (everything).
        #[arg(long)]
        role: fleet_core::Role,
    },
    /// Gives an operator another role.
    SetRole {
        /// The operator's id.
        operator: i64,
        /// viewer, operator or admin.
        role: fleet_core::Role,
    },
    /// Removes an operator; keys and sessions are void at once.
    Remove {
        /// The operator's id.
        operator: i64,
        /// Does not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Gives an operator a one-time password, printed alone on standard output, and ends the operator's browser sessions.
    ResetPassword {
        /// The operator's id.
        operator: i64,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Sessions {
    /// Lists your browser sessions.
    List,
    /// Ends one of your browser sessions.
    End {
        /// The session's id.
        session: i64,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Nodes {
    /// Lists the nodes.
    List {
        /// Lists the revoked ones instead.
        #[arg(long)]
        revoked: bool,
    },
    /// Makes an enrollment code; it is shown once and lives an hour.
    Code {
        /// The revoked node whose place the new one takes: devices that it knew by address, port and type
        /// alone go over to the new node when that reports the same.
        #[arg(
            long,
            value_name = "NODE",
            default_value_t = 0,
            hide_default_value = true
        )]
        replaces: i64,
    },
    /// Lists the open enrollment codes.
    Codes,
    /// Withdraws an enrollment code.
    CancelCode {
        /// The pending enrollment's id.
        id: i64,
    },
    /// Confirms a node and prints its API key, alone, on standard output. It is shown once.
    Confirm {
        /// The node's id.
        node: i64,
        /// The fingerprint that the node shows; without it you are asked to compare.
        #[arg(long, value_name = "HEX")]
        fingerprint: Option<String>,
    },
    /// Revokes a node for good and releases its devices.
    Revoke {
        /// The node's id.
        node: i64,
        /// Does not ask.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Scan {
    /// Starts a scan and watches it.
    Start(Start),
    /// Says what a scan would do, and starts nothing.
    Plan(What),
    /// Watches a scan from its beginning, or from a sequence.
    Watch {
        /// The scan's id.
        scan: String,
        /// Starts after this sequence.
        #[arg(long, default_value_t = 0, value_name = "SEQUENCE", value_parser = clap::value_parser!(i64).range(0..))]
        after: i64,
    },
    /// Lists scans, newest first.
    List {
        /// Of this node only.
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        node: i64,
        /// At most so many.
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Shows a scan with its ledger.
    Show {
        /// The scan's id.
        scan: String,
    },
    /// Cancels a scan; what it found stays.
    Cancel {
        /// The scan's id.
        scan: String,
    },
}

/// What to scan, and where.
#[derive(Clone, Debug, Args)]
pub(crate) struct What {
    /// The node to scan on.
    #[arg(long)]
    pub(crate) node: i64,
    #[command(flatten)]
    pub(crate) targets: Targets,
}

/// What to scan.
#[derive(Clone, Debug, Args)]
pub(crate) struct Targets {
    /// Ports to try; without them the drivers choose.
    #[arg(long, value_delimiter = ',', value_name = "PORT,...")]
    pub(crate) ports: Vec<String>,
    /// Reads the single TARGET as a list entry rather than as a target expression.
    #[arg(long)]
    pub(crate) list: bool,
    /// One target (10.0.0.0/24, 10.0.0.1-50, an address, a host name, fleetnode-local-subnet), a range (10.0.0.1..10.0.3.254), or several addresses and host names.
    #[arg(required_unless_present = "mdns", value_name = "TARGET")]
    pub(crate) targets: Vec<String>,
    /// Scans what announces this service by mDNS in the node's own subnets, _http._tcp unless named; the drivers choose the ports.
    #[arg(long, value_name = "SERVICE", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["targets", "list", "ports"])]
    pub(crate) mdns: Option<String>,
    /// Has the node listen to mDNS for so long, 1 to 60 [default: 5].
    #[arg(
        long,
        value_name = "SECONDS",
        requires = "mdns",
        conflicts_with = "targets"
    )]
    pub(crate) listen: Option<i32>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Start {
    #[command(flatten)]
    pub(crate) what: What,
    /// Makes a repeated start harmless; chosen at random without it.
    #[arg(long, value_name = "TEXT")]
    pub(crate) request_id: Option<String>,
    /// How long the scan may wait for its node, in seconds [default: 24 h].
    #[arg(long, value_name = "SECONDS")]
    pub(crate) queue_for: Option<i64>,
    /// Waits behind scans that people started.
    #[arg(long)]
    pub(crate) scheduled: bool,
    /// Prints the scan and leaves.
    #[arg(long)]
    pub(crate) no_watch: bool,
}

/// On which node, and with what. The password is never an argument.
#[derive(Clone, Debug, Args)]
pub(crate) struct PairOn {
    /// The node.
    #[arg(long)]
    pub(crate) node: i64,
    #[command(flatten)]
    pub(crate) login: Login,
}

/// What devices are tried with.
#[derive(Clone, Debug, Args)]
pub(crate) struct Login {
    /// The user name [default with a password: root].
    #[arg(long, value_name = "NAME")]
    pub(crate) username: Option<String>,
    /// A file with the password, `-` for standard input. Without it the variable FLEET_DEVICE_PASSWORD holds the password,
    /// and without that the devices are asked whether they want one.
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Direct {
    /// Scans the server's own network and watches it; leaving ends the scan. What has or had a node is left out.
    Scan(Targets),
    /// Pairs devices that the server found itself; exits 2 when some were not paired, and prints those.
    Pair {
        /// Their identifiers, such as mac:02:00:5E:10:00:01.
        #[arg(required_unless_present = "all", value_name = "IDENTIFIER")]
        devices: Vec<String>,
        /// Every device of the server's that is not paired.
        #[arg(long, conflicts_with = "devices")]
        all: bool,
        #[command(flatten)]
        login: Login,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Devices {
    /// Lists the devices.
    List {
        /// Of this node only.
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        node: i64,
    },
    /// Shows a device, with the names that it had and why they are its own.
    Show {
        /// Its id, or any identifier that it has or had.
        device: String,
    },
    /// Takes back what a report made one: the two names are two devices again, and stay so.
    Undo {
        /// The change, as `devices show` numbers it.
        change: i64,
    },
    /// Lists devices that were refused to a node because another has them, and the way out.
    Refused {
        /// Reported by this node only.
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        node: i64,
    },
    /// Binds devices to a node, which from then on is the one that they are reached through.
    Bind {
        /// The ids of the devices.
        #[arg(required = true, value_name = "DEVICE")]
        devices: Vec<i64>,
        /// The node.
        #[arg(long)]
        node: i64,
    },
    /// Pairs devices on a node, each tried once with the same credentials.
    Pair {
        /// Ids or identifiers of devices that the node found.
        #[arg(required = true, value_name = "DEVICE")]
        devices: Vec<String>,
        #[command(flatten)]
        how: PairOn,
    },
    /// Pairs everything that a node found and that is not paired.
    PairAll {
        #[command(flatten)]
        how: PairOn,
    },
    /// Ends a pairing; what was paired stays paired.
    CancelPairing {
        /// The pairing's id.
        pairing: String,
    },
    /// Releases devices: bound to nobody, paired nowhere, their stored credentials deleted.
    Unpair {
        /// The ids of the devices.
        #[arg(required = true, value_name = "DEVICE")]
        devices: Vec<i64>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Lists records, newest first.
    List {
        /// Only actions whose name begins so, such as `node.` or `scan.start`.
        #[arg(
            long,
            default_value = "",
            hide_default_value = true,
            value_name = "NAME"
        )]
        action: String,
        /// Only what was refused.
        #[arg(long)]
        refused: bool,
        /// Only the actions of this node.
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        node: i64,
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Prints the end of the chain as SEQ:HASH. Keep it where the server cannot reach it.
    Head,
    /// Reads the whole chain and computes every hash anew; exits with 1 and says which record is wrong.
    Verify {
        /// A head that was kept: shows that nothing up to it was cut off or written anew.
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
