//! The command line of `fleetctl`, as clap parses it. Read [`Command`] first.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{choice, difference, search};

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
pub(crate) enum Keys {
    /// List the keys that are neither revoked nor expired.
    List {
        /// List the keys of all operators of the organization; needs org:admin.
        #[arg(long)]
        all: bool,
    },
    /// Create a key and print it on standard output. It is shown only once.
    Create {
        /// Name of the key, such as the script that uses it.
        #[arg(long)]
        name: String,
        /// Time until the key expires, in seconds. Without it, the key does not expire.
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(60..))]
        expires_in: Option<i64>,
        /// Id of the operator that the key is for [default: yourself]; another operator needs org:admin.
        #[arg(
            long,
            default_value_t = 0,
            hide_default_value = true,
            value_name = "ID"
        )]
        operator: i64,
    },
    /// Revoke a key and end the browser sessions that were opened with it.
    Revoke {
        /// Id of the key.
        key: i64,
    },
    /// Create a key that replaces another one. It is shown only once.
    Rotate {
        /// Id of the key to replace.
        key: i64,
        /// Time until the replaced key expires, in seconds, at most 30 days; 0 revokes it at once.
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(0..=2_592_000))]
        grace: i64,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Operators {
    /// List the operators.
    List,
    /// Create an operator and print a one-time password on standard output. It is shown only once.
    Create {
        /// E-mail of the operator, unique on the server.
        #[arg(long)]
        email: String,
        /// viewer (reads), operator (manages nodes, scans and pairing) or admin (everything).
        #[arg(long)]
        role: fleet_core::Role,
    },
    /// Change the role of an operator.
    SetRole {
        /// Id of the operator.
        operator: i64,
        /// viewer, operator or admin.
        role: fleet_core::Role,
    },
    /// Remove an operator. The operator's keys and sessions become invalid at once.
    Remove {
        /// Id of the operator.
        operator: i64,
        /// Skip the confirmation.
        #[arg(long)]
        yes: bool,
    },
    /// Remove the link between an operator and an account of the sign-in provider, and end the sessions that it opened.
    Unlink {
        /// Id of the operator.
        operator: i64,
    },
    /// Print a one-time password for an operator on standard output and end the operator's browser sessions.
    ResetPassword {
        /// Id of the operator.
        operator: i64,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Sessions {
    /// List your browser sessions.
    List {
        /// List the sessions of all operators of the organization; needs org:admin.
        #[arg(long)]
        all: bool,
    },
    /// End one of your browser sessions; with org:admin, a session of any operator.
    End {
        /// Id of the session.
        session: i64,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Nodes {
    /// List the nodes.
    List {
        /// List the revoked nodes instead.
        #[arg(long)]
        revoked: bool,
    },
    /// Create an enrollment code. It is shown only once and expires after one hour.
    Code {
        /// Revoked node that the new node replaces. Devices that the revoked node knew only by address, port
        /// and type move to the new node when it reports them again.
        #[arg(
            long,
            value_name = "NODE",
            default_value_t = 0,
            hide_default_value = true
        )]
        replaces: i64,
    },
    /// List the open enrollment codes.
    Codes,
    /// Cancel an enrollment code.
    CancelCode {
        /// Id of the pending enrollment.
        id: i64,
    },
    /// Confirm a node. A waiting node fetches its API key itself; otherwise the key is printed once on standard output.
    Confirm {
        /// Id or name of the node.
        node: String,
        /// Fingerprint that the node shows. Without it, you are asked to compare the fingerprints.
        #[arg(long, value_name = "HEX")]
        fingerprint: Option<String>,
        /// Print the API key even if the node waits to fetch it itself.
        #[arg(long)]
        paste: bool,
    },
    /// Change the name under which operators see a node. The node's own logs keep the old name.
    Rename {
        /// Id or name of the node.
        node: String,
        /// New name, unique among the nodes.
        name: String,
    },
    /// Put two nodes on one site. Needs org:admin.
    ///
    /// A device without MAC or serial at one address and port of a site is one device for all nodes of the site. The
    /// next scan of either node joins what both know.
    ShareSite {
        /// Node that joins the site, by id or name.
        node: String,
        /// Node whose site it joins, by id or name.
        #[arg(long, value_name = "NODE")]
        with: String,
    },
    /// Move a node to a site of its own. Needs org:admin.
    OwnSite {
        /// Id or name of the node.
        node: String,
    },
    /// Revoke a node permanently and release its devices.
    Revoke {
        /// Id or name of the node.
        node: String,
        /// Skip the confirmation.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Sites {
    /// List the sites.
    List,
    /// Show a site and the targets that it excludes.
    Show {
        /// Id or name of the site.
        site: String,
    },
    /// Create a site without nodes. Needs org:admin.
    Create {
        /// Name of the site.
        name: String,
    },
    /// Rename a site. Needs org:admin.
    Rename {
        /// Id or name of the site.
        site: String,
        /// New name.
        name: String,
    },
    /// Delete a site without nodes. Needs org:admin.
    Delete {
        /// Id or name of the site.
        site: String,
    },
    /// Move a node to a site. Needs org:admin.
    AddNode {
        /// Id or name of the site.
        site: String,
        /// Id or name of the node.
        node: String,
    },
    /// Exclude targets from every later scan of the site's nodes. Needs org:admin.
    Exclude {
        /// Id or name of the site.
        site: String,
        /// Addresses, networks or ranges.
        #[arg(required = true, value_name = "TARGET")]
        targets: Vec<String>,
        /// Why the targets are excluded. Plans and summaries show it.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Remove an exclude. Needs org:admin.
    RemoveExclude {
        /// Id of the exclude in the output of `sites show`.
        id: i64,
    },
    /// Replace the blackouts of a site, in which its nodes run no scan. Needs org:admin.
    Blackouts {
        /// Id or name of the site.
        site: String,
        /// Windows such as `08:00-18:00` or `mon-fri 22:00-06:00`. Without one, the site has no blackouts.
        #[arg(value_name = "WINDOW")]
        windows: Vec<String>,
        /// Time zone of the windows, as an IANA name.
        #[arg(long, value_name = "ZONE", default_value = "UTC")]
        time_zone: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Scan {
    /// Start a scan and watch it.
    Start(Start),
    /// Show what a scan would do without starting it: its targets, the share of each node, and the uncovered targets.
    Plan(ScanTarget),
    /// Watch a scan from its first event.
    Watch {
        /// Id of the scan.
        scan: String,
        /// Skip the events up to this sequence number.
        #[arg(long, default_value_t = 0, value_name = "SEQUENCE", value_parser = clap::value_parser!(i64).range(0..))]
        after: i64,
    },
    /// List scans, newest first.
    List {
        /// Show only scans of this node, by id or name.
        #[arg(long)]
        node: Option<String>,
        /// Maximum number of scans.
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Show a scan and its summary.
    Show {
        /// Id of the scan.
        scan: String,
    },
    /// Start a scan of the same targets as an earlier one, and watch it.
    Again {
        /// Id of the earlier scan.
        scan: String,
        /// Print the scan and exit without watching it.
        #[arg(long)]
        no_watch: bool,
    },
    /// Show what changed since the previous scan of the same targets, or since another scan.
    Diff(difference::Arguments),
    /// List the hosts that answered a scan and that no driver identified, each with the command that records it.
    Hosts {
        /// Id of the scan.
        scan: String,
    },
    /// Cancel a scan. The devices found so far are kept.
    Cancel {
        /// Id of the scan.
        scan: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Alerts {
    /// List the rules by name.
    Rules,
    /// Create a rule. Needs org:admin.
    CreateRule(AlertRuleArgs),
    /// Replace the content of a rule. Needs org:admin.
    UpdateRule {
        /// Id or name of the rule.
        rule: String,
        #[command(flatten)]
        new: AlertRuleArgs,
    },
    /// Delete a rule. Its waiting messages are sent. Needs org:admin.
    DeleteRule {
        /// Id or name of the rule.
        rule: String,
    },
    /// List the channels by name.
    Channels,
    /// Create a channel and print the signing secret of a webhook, which is not shown again. Needs org:admin.
    CreateChannel {
        /// Name of the channel, unique in the organization.
        #[arg(long)]
        name: String,
        /// URL to which messages are sent.
        #[arg(
            long,
            value_name = "URL",
            required_unless_present = "email",
            conflicts_with = "email"
        )]
        webhook: Option<String>,
        /// Address to which messages are sent.
        #[arg(long, value_name = "ADDRESS")]
        email: Option<String>,
    },
    /// Delete a channel. Its waiting messages fail. Needs org:admin.
    DeleteChannel {
        /// Id or name of the channel.
        channel: String,
    },
    /// Send a test message to a channel. Needs org:admin.
    Test {
        /// Id or name of the channel.
        channel: String,
    },
    /// List messages and their deliveries, newest first.
    Deliveries {
        /// Only this state: waiting, delivered or failed.
        #[arg(long)]
        state: Option<String>,
        /// Number of deliveries, at most 200.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
        limit: u32,
        /// Only deliveries before this one.
        #[arg(long, value_name = "DELIVERY")]
        before: Option<String>,
    },
    /// Send a failed message again, for another 24 hours. Needs org:admin.
    Retry {
        /// Id of the delivery.
        delivery: String,
    },
}

/// The content of a rule.
#[derive(Clone, Debug, Args)]
pub(crate) struct AlertRuleArgs {
    /// Name of the rule, unique in the organization.
    #[arg(long)]
    pub(crate) name: String,
    /// device.new, device.missing, device.moved, device.firmware, node.silent or scan.failed.
    #[arg(long)]
    pub(crate) event: String,
    /// Scans in a row (device.missing) or minutes (node.silent) [default: 2 scans, 10 minutes]
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        value_name = "NUMBER"
    )]
    pub(crate) threshold: u32,
    /// Id or name of a channel that receives the messages; repeatable.
    #[arg(long = "channel", value_name = "CHANNEL")]
    pub(crate) channels: Vec<String>,
    /// Window in which messages wait, such as "22:00-06:00"; repeatable.
    #[arg(long = "quiet", value_name = "WINDOW")]
    pub(crate) quiet: Vec<String>,
    /// IANA name of the time zone of the quiet hours, such as Europe/Berlin.
    #[arg(long, default_value = "UTC", value_name = "ZONE")]
    pub(crate) zone: String,
    /// Store the rule without notifying.
    #[arg(long)]
    pub(crate) disabled: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Schedule {
    /// Create a schedule.
    Create(Scheduled),
    /// Replace the scan and the times of a schedule.
    Update {
        /// Id or name of the schedule.
        schedule: String,
        #[command(flatten)]
        new: Scheduled,
    },
    /// List the schedules by name.
    List,
    /// Show a schedule and its last runs.
    Show {
        /// Id or name of the schedule.
        schedule: String,
    },
    /// Stop the runs of a schedule until it is resumed.
    Pause {
        /// Id or name of the schedule.
        schedule: String,
    },
    /// Resume a paused schedule. Its runs act for you from now on.
    Resume {
        /// Id or name of the schedule.
        schedule: String,
    },
    /// Start the scan of a schedule now and print its id. The next run stays.
    Run {
        /// Id or name of the schedule.
        schedule: String,
    },
    /// Delete a schedule. Its scans are kept.
    Delete {
        /// Id or name of the schedule.
        schedule: String,
    },
    /// Show the next runs of a timing without storing it.
    Preview {
        #[command(flatten)]
        timing: Timing,
        /// Number of runs, at most 50.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
        count: u32,
    },
}

/// A scan with its name and times.
#[derive(Clone, Debug, Args)]
pub(crate) struct Scheduled {
    /// Name of the schedule, unique in the organization.
    #[arg(long)]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) timing: Timing,
    #[command(flatten)]
    pub(crate) target: ScanTarget,
}

/// The times of a schedule.
#[derive(Clone, Debug, Args)]
pub(crate) struct Timing {
    /// Five fields of cron ("30 2 * * mon-fri"), @hourly, @daily, @weekly, @monthly, @yearly, or "every 30m", "every 6h", "every 7d".
    #[arg(long, value_name = "TIMES")]
    pub(crate) when: String,
    /// IANA name of the time zone, such as Europe/Berlin.
    #[arg(long, default_value = "UTC", value_name = "ZONE")]
    pub(crate) zone: String,
    /// Delay each run by up to this time, in seconds, at most 3600.
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(0..=3600))]
    pub(crate) jitter: i64,
    /// Window without runs, such as "mon-fri 08:00-18:00" or "22:00-06:00"; repeatable.
    #[arg(long = "blackout", value_name = "WINDOW")]
    pub(crate) blackouts: Vec<String>,
}

/// The nodes and the targets of a scan.
#[derive(Clone, Debug, Args)]
pub(crate) struct ScanTarget {
    #[command(flatten)]
    pub(crate) choice: choice::Choice,
    #[command(flatten)]
    pub(crate) targets: Targets,
}

/// The targets of a scan.
#[derive(Clone, Debug, Args)]
pub(crate) struct Targets {
    /// Port to scan instead of the drivers' default ports; repeat the flag or separate ports by commas.
    #[arg(
        short,
        long = "port",
        alias = "ports",
        value_name = "PORT",
        value_delimiter = ','
    )]
    pub(crate) ports: Vec<String>,
    /// Maximum number of probes per second [default: the rate of the node].
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        value_name = "NUMBER"
    )]
    pub(crate) rate: u32,
    /// Treat a single TARGET as an entry of a list instead of a target expression.
    #[arg(long)]
    pub(crate) list: bool,
    /// Targets: addresses, host names, networks (10.0.0.0/24), ranges (10.0.0.1-50, 10.0.0.1..10.0.3.254, 10.0.0-3.*), or fleetnode-local-subnet. @FILE and - (standard input) stand for the targets in them. Exclude with !10.0.0.9.
    #[arg(required_unless_present = "listening", value_name = "TARGET")]
    pub(crate) targets: Vec<String>,
    /// Scan the hosts in the node's local subnets that announce this mDNS service [default: _http._tcp]. The drivers choose the ports.
    #[arg(long, value_name = "SERVICE", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["targets", "list", "ports"], group = "listening")]
    pub(crate) mdns: Option<String>,
    /// Scan the devices whose IP report button is pressed, and print them in that order. The node must run with --listen-announcements.
    #[arg(long, conflicts_with_all = ["targets", "list", "ports"], group = "listening")]
    pub(crate) announcements: bool,
    /// Time to listen, in seconds: for mDNS 1 to 60 [default: 5], for IP report buttons 1 to 540 [default: 300].
    #[arg(
        long,
        value_name = "SECONDS",
        requires = "listening",
        conflicts_with = "targets"
    )]
    pub(crate) listen: Option<i32>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Start {
    #[command(flatten)]
    pub(crate) target: ScanTarget,
    /// Identifies the request: repeating it does not start a second scan [default: random].
    #[arg(long, value_name = "TEXT")]
    pub(crate) request_id: Option<String>,
    /// Name of the scan in lists.
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "TEXT"
    )]
    pub(crate) name: String,
    /// Maximum time that the scan waits for its node, in seconds [default: 24 h].
    #[arg(long, value_name = "SECONDS")]
    pub(crate) queue_for: Option<i64>,
    /// Queue the scan behind interactive scans. In a blackout of the site, the scan waits.
    #[arg(long)]
    pub(crate) scheduled: bool,
    /// Start the scan in spite of a blackout of the site. Needs org:admin and is recorded in the audit trail.
    #[arg(long)]
    pub(crate) override_blackout: bool,
    /// Print the scan and exit without watching it.
    #[arg(long)]
    pub(crate) no_watch: bool,
}

/// The node and the credentials of a pairing. A password is never an argument, because other users can read arguments.
#[derive(Clone, Debug, Args)]
pub(crate) struct PairOn {
    /// Node that pairs the devices, by id or name.
    #[arg(long)]
    pub(crate) node: String,
    #[command(flatten)]
    pub(crate) login: Login,
}

/// Credentials for devices.
#[derive(Clone, Debug, Args)]
pub(crate) struct Login {
    /// User name [default with a password: root].
    #[arg(long, value_name = "NAME")]
    pub(crate) username: Option<String>,
    /// File that contains the password, or `-` for standard input. The default is the variable FLEET_DEVICE_PASSWORD.
    /// Without a password, the command finds out which devices need one.
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Also try the default passwords of the make, each once, at most three per device. Some devices lock their login after several
    /// refused passwords.
    #[arg(long)]
    pub(crate) try_defaults: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Direct {
    /// Scan networks of the server and watch the scan; Ctrl-C ends it. Addresses of current and former nodes are excluded.
    Scan(Targets),
    /// Pair devices that the server found itself. Prints the devices that were not paired, and then exits with 2.
    Pair {
        /// Identifiers of the devices, such as mac:02:00:5E:10:00:01.
        #[arg(required_unless_present = "all", value_name = "IDENTIFIER")]
        devices: Vec<String>,
        /// Pair all unpaired devices of the server.
        #[arg(long, conflicts_with = "devices")]
        all: bool,
        #[command(flatten)]
        login: Login,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Devices {
    /// List the devices.
    List {
        /// Show only devices of this node, by id or name.
        #[arg(long)]
        node: Option<String>,
        #[command(flatten)]
        search: search::Arguments,
    },
    /// Show a device with its former identifiers and why they belong to it.
    Show {
        /// Id of the device, or a current or former identifier.
        device: String,
    },
    /// Delete devices from the inventory, all or none, and unpair them. A later scan that finds one creates a new record.
    Delete {
        /// Ids of the devices, at most 256.
        #[arg(required = true, value_name = "DEVICE")]
        devices: Vec<i64>,
        /// The reason, which the audit trail keeps.
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Skip the confirmation.
        #[arg(long)]
        yes: bool,
    },
    /// Show what happened to a device, its open ports and its note.
    History {
        /// Id of the device.
        device: i64,
    },
    /// Add or remove labels of devices, of all or none.
    Label {
        /// Ids of the devices, at most 256.
        #[arg(required = true, value_name = "DEVICE")]
        devices: Vec<i64>,
        /// Label to add, such as rack-7; can be repeated.
        #[arg(long, value_name = "LABEL")]
        add: Vec<String>,
        /// Label to remove; can be repeated.
        #[arg(long, value_name = "LABEL", required_unless_present = "add")]
        remove: Vec<String>,
    },
    /// Replace the note of a device.
    Note {
        /// Id of the device.
        device: i64,
        /// The note, at most 2,000 characters; an empty text deletes it.
        text: String,
    },
    /// Undo a merge of two devices. Later reports do not merge them again.
    Undo {
        /// Number of the change in the output of `devices show`.
        change: i64,
    },
    /// List devices that a node reported but that belong to another node, with the remedy.
    Refused {
        /// Show only devices reported by this node, by id or name.
        #[arg(long)]
        node: Option<String>,
    },
    /// Bind devices to the node through which they are reached from now on.
    Bind {
        /// Ids of the devices.
        #[arg(required = true, value_name = "DEVICE")]
        devices: Vec<i64>,
        /// Node to bind the devices to, by id or name.
        #[arg(long)]
        node: String,
    },
    /// Pair devices of a node. The credentials are tried once on each device.
    Pair {
        /// Ids or identifiers of devices that the node found.
        #[arg(required_unless_present = "search", value_name = "DEVICE")]
        devices: Vec<String>,
        /// Pair the devices of the node that match, such as "model:S19 pairing:failed".
        #[arg(long, value_name = "TERMS", conflicts_with = "devices")]
        search: Option<String>,
        #[command(flatten)]
        how: PairOn,
    },
    /// Pair all unpaired devices of a node.
    PairAll {
        #[command(flatten)]
        how: PairOn,
    },
    /// Cancel a pairing. Devices that are already paired stay paired.
    CancelPairing {
        /// Id of the pairing.
        pairing: String,
    },
    /// Unpair devices: remove their binding and delete their stored credentials.
    Unpair {
        /// Ids of the devices.
        #[arg(required_unless_present = "search", value_name = "DEVICE")]
        devices: Vec<i64>,
        /// Unpair the devices that match, such as "site:barn pairing:paired".
        #[arg(long, value_name = "TERMS", conflicts_with = "devices")]
        search: Option<String>,
        /// Skip the confirmation of --search.
        #[arg(long)]
        yes: bool,
    },
    /// Scan the addresses of devices again, each from the node that found it. Prints the scans.
    Rescan {
        /// Ids of the devices.
        #[arg(required_unless_present = "search", value_name = "DEVICE")]
        devices: Vec<i64>,
        /// Scan the devices that match, such as "seen:>1d".
        #[arg(long, value_name = "TERMS", conflicts_with = "devices")]
        search: Option<String>,
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
