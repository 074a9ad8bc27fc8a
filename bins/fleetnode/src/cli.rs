//! The command line: flags, variables and their values.

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use fleet_core::{
    Port,
    limits::{COMMAND_TARGETS, DEFAULT_RATE, FULL_RATE, UPSTREAM_COMMAND_TARGETS},
};
use ipnetwork::{IpNetwork, Ipv4Network};

use crate::exit::Usage;

/// The number of targets that a server sends to any node in one command.
const LEAST_TARGETS: i64 = UPSTREAM_COMMAND_TARGETS as i64;
/// The most targets that a server sends in one command.
const MOST_TARGETS: u32 = COMMAND_TARGETS as u32;

/// The subcommand that guards a plugin process.
pub(crate) const GUARD: &str = "plugin-guard";

/// Scans the local network for devices on request of a fleet server
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "Exit status: 0 success, 1 failure, 2 partial scan, 64 invalid usage, 69 server or state folder unavailable, 77 credentials missing or rejected."
)]
pub(crate) struct Cli {
    /// State folder of the node, with its keys and enrollment [default: /var/lib/fleetnode for root, else ~/.local/state/fleetnode]
    #[arg(long, global = true, env = "FLEETNODE_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Enroll this node: register with an enrollment code, and fetch the API key after the confirmation
    ///
    /// Reads the code from a prompt without echo, or from standard input. After an operator has confirmed the node, it
    /// fetches its API key. Without a terminal and without `--wait`, and under an upstream server, it reads the API key
    /// from the next line instead. Each step is saved: run `enroll` again to continue.
    Enroll(EnrollArgs),
    /// Take over the enrollment of an upstream node
    ///
    /// Copies server, node id, keys and API key. Stop the upstream node first: two nodes must not use one identity.
    Import {
        /// The upstream node's `state.yaml`.
        #[arg(value_name = "PATH")]
        path: PathBuf,
        /// Name of this node in logs [default: the host name]
        #[arg(long)]
        name: Option<String>,
    },
    /// Change the server's URL or CA certificates without a new enrollment
    ///
    /// The API key is proved at the new address first; if that fails, nothing changes. Stop the node before, and start it
    /// again after.
    Configure(ConfigureArgs),
    /// Delete this node's keys and enrollment
    ///
    /// The server is not notified: an operator must revoke the node there.
    Unenroll {
        /// Do not ask for confirmation.
        #[arg(long)]
        yes: bool,
    },
    /// Show the enrollment and whether the node is running
    Status {
        /// Output format.
        #[arg(short, long, default_value = "table", value_name = "FORMAT")]
        output: Format,
    },
    /// Check the saved API key with the server; ask for the key first if it is missing
    Refresh,
    /// Run the node until SIGTERM or SIGINT; a second signal ends it at once
    Run(RunArgs),
    /// Scan from this machine without a server, and print the devices and a summary
    ///
    /// Does not need an enrollment and reports nothing to a server. Ctrl-C stops the scan and keeps its results. Exit
    /// status: 0 complete, 2 partial, 64 invalid target, 77 halted, 130 canceled.
    Scan(ScanArgs),
    /// Shows how one device is identified: what each port answered, which rule matched and why others did not.
    ///
    /// Only read-only requests are sent, without a login. The exit code is 1 if the device is not identified.
    Identify(IdentifyArgs),
    /// Inspect the site policy
    #[command(subcommand)]
    Policy(Policy),
    /// Stop all scanning and pairing on this node at once, until `resume`; the node stays connected
    Halt {
        /// The reason, which operators can read.
        #[arg(
            long,
            default_value = "",
            hide_default_value = true,
            value_name = "TEXT"
        )]
        reason: String,
    },
    /// End a halt
    Resume,
    /// Run a plugin that must not outlive the node. Called by the node.
    #[command(name = GUARD, hide = true)]
    PluginGuard {
        /// Path of the plugin.
        program: PathBuf,
    },
    /// Print a shell completion script
    Completions {
        /// Name of the shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// Log format.
    #[arg(
        long,
        global = true,
        env = "FLEETNODE_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub(crate) log_format: LogFormat,
    /// Log filter: a level, or directives such as `info,fleet_agent=debug`.
    #[arg(
        long,
        global = true,
        env = "FLEETNODE_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub(crate) log: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Table for people.
    Table,
    /// One JSON document.
    Json,
    /// One JSON object per line; for a scan, one per event, as in the server's event stream.
    Ndjson,
}

#[derive(Debug, Args)]
pub(crate) struct EnrollArgs {
    /// URL of the server, such as `https://fleet.example`; required for the first `enroll`.
    #[arg(long, env = "FLEETNODE_SERVER_URL", value_name = "URL")]
    pub(crate) server_url: Option<String>,
    /// Name of this node [default: the host name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Trust the CA certificates in this PEM file instead of the system's; the state folder keeps a copy.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// The server is an upstream one: sign its challenges, which have no tag that limits their purpose.
    #[arg(long)]
    pub(crate) upstream_server: bool,
    /// Allow plain HTTP to another machine, which exposes the node's keys to the network.
    #[arg(long)]
    pub(crate) allow_insecure_transport: bool,
    /// Wait up to this time for the confirmation, in seconds; the node then fetches its API key itself. On a terminal the default is 3600. Without a terminal the API key is read from standard input, unless this is set.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub(crate) wait: Option<u64>,
    /// Not supported; upstream's flag for replacing an enrollment.
    #[arg(long, hide = true)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct ConfigureArgs {
    /// New URL of the server.
    #[arg(long, value_name = "URL")]
    pub(crate) server_url: Option<String>,
    /// Trust the CA certificates in this PEM file from now on; the state folder keeps a copy.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Allow plain HTTP to another machine, which exposes the node's keys to the network.
    #[arg(long)]
    pub(crate) allow_insecure_transport: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) site: SiteArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Most targets of one command, 1024 to 16384; an interruption repeats at most one command.
    #[arg(long, value_name = "N", default_value_t = MOST_TARGETS, value_parser = clap::value_parser!(u32).range(LEAST_TARGETS..=i64::from(MOST_TARGETS)))]
    pub(crate) max_targets: u32,
    /// Let scans listen for the IP report buttons and announcements of miners, at their UDP ports. The node never answers.
    #[arg(long, env = "FLEETNODE_LISTEN_ANNOUNCEMENTS")]
    pub(crate) listen_announcements: bool,
    /// Never try default logins: those of a plugin, which pairing without a password tries, and those of built-in rules,
    /// which an operator can request.
    #[arg(long, env = "FLEETNODE_NO_DEFAULT_LOGINS")]
    pub(crate) no_default_logins: bool,
    /// Serve metrics for Prometheus at /metrics of this port, on loopback unless an address is given; needs no credential
    /// [default: off]
    #[arg(long, env = "FLEETNODE_METRICS_LISTEN", value_name = "[ADDRESS:]PORT", value_parser = fleet_wire::metrics::address)]
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// Not supported; upstream's flag for the interval of heartbeats.
    #[arg(long, hide = true, value_name = "DURATION")]
    pub(crate) heartbeat_interval: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ScanArgs {
    /// Target: 10.0.0.7, 10.0.0.0/22, 10.0.0.5-40, a host name, fleetnode-local-subnet, @FILE, or - for standard input.
    #[arg(required_unless_present = "listening", value_name = "TARGET")]
    pub(crate) targets: Vec<String>,
    /// Scan hosts in the local subnets that announce this mDNS service [default: _http._tcp]
    #[arg(long, value_name = "SERVICE", num_args = 0..=1, default_missing_value = "", conflicts_with = "targets", group = "listening")]
    pub(crate) mdns: Option<String>,
    /// Scan devices whose IP report button is pressed, in that order.
    #[arg(long, conflicts_with = "targets", group = "listening")]
    pub(crate) announcements: bool,
    /// Listen for this long: to mDNS 1 to 60 [default: 5], for announcements 1 to 540 [default: 300]
    #[arg(
        long,
        value_name = "SECONDS",
        requires = "listening",
        conflicts_with = "targets"
    )]
    pub(crate) listen: Option<i32>,
    /// Port to scan instead of the drivers' default ports; repeat the flag or separate ports by commas.
    #[arg(short, long = "port", value_name = "PORT", value_delimiter = ',')]
    pub(crate) ports: Vec<String>,
    /// Output format.
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) site: SiteArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

#[derive(Debug, Args)]
pub(crate) struct IdentifyArgs {
    /// Address of the device.
    #[arg(value_name = "ADDRESS")]
    pub(crate) address: IpAddr,
    /// Examine this port instead of the drivers' own; may be repeated.
    #[arg(short, long = "port", value_name = "PORT", value_delimiter = ',')]
    pub(crate) ports: Vec<Port>,
    /// Write the conversation to this file as a fixture for a rule. MACs, serials, pool accounts, passwords and
    /// private addresses are replaced.
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    /// List every rule that did not match, too.
    #[arg(long)]
    pub(crate) all_rules: bool,
    #[command(flatten)]
    pub(crate) site: SiteArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Show whether `run` with the same flags and variables may dial each endpoint, and by which rule; exits with 1 if
    /// one is forbidden
    Check {
        /// Address with an optional port, such as 10.0.0.7 or 10.0.0.7:4028. IPv6 with a port takes brackets.
        #[arg(required = true, value_name = "ENDPOINT", value_parser = endpoint)]
        endpoints: Vec<SocketAddr>,
        #[command(flatten)]
        site: SiteArgs,
    },
}

/// The site policy. In variables, values are separated by commas.
#[derive(Debug, Args)]
pub(crate) struct SiteArgs {
    /// Scan only this network; may be repeated.
    #[arg(
        long,
        env = "FLEETNODE_ALLOW_NETWORK",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub(crate) allow_network: Vec<IpNetwork>,
    /// Never dial this port; may be repeated.
    #[arg(
        long,
        env = "FLEETNODE_DENY_PORT",
        value_name = "PORT",
        value_delimiter = ','
    )]
    pub(crate) deny_port: Vec<Port>,
    /// Also scan simulated devices on loopback addresses; for demonstrations and tests only.
    #[arg(long, hide_short_help = true)]
    pub(crate) demo_allow_loopback: bool,
}

/// How devices are scanned.
#[derive(Debug, Args)]
pub(crate) struct EngineArgs {
    /// Most probes per second.
    #[arg(long, env = "FLEETNODE_RATE", value_name = "N", default_value_t = DEFAULT_RATE, value_parser = clap::value_parser!(u32).range(1..=i64::from(FULL_RATE)))]
    pub(crate) rate: u32,
    /// Network for `fleetnode-local-subnet` and mDNS, instead of the networks of this machine's interfaces; may be repeated.
    #[arg(
        long,
        alias = "local-discovery-subnet",
        env = "FLEETNODE_LOCAL_SUBNET",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub(crate) local_subnet: Vec<Ipv4Network>,
    /// Name server for host names, an address with an optional port, instead of the system's name servers; may be
    /// repeated.
    #[arg(long, value_name = "ADDR", value_parser = name_server)]
    pub(crate) dns_server: Vec<SocketAddr>,
    /// Do not look up the names of hosts that answered, by reverse DNS or by asking the hosts themselves.
    #[arg(long, env = "FLEETNODE_NO_HOST_NAMES")]
    pub(crate) no_host_names: bool,
    /// Folder of rule files (NAME.toml) that add to the built-in fingerprints or override those of the same name.
    #[arg(long, env = "FLEETNODE_FINGERPRINTS", value_name = "DIR")]
    pub(crate) fingerprints: Option<PathBuf>,
    /// Folder of driver plugins, writable only by root and this user [default: the folder `plugins` beside this program, if
    /// it exists]
    #[arg(long, env = "FLEETNODE_PLUGIN_DIR", value_name = "DIR")]
    pub(crate) plugin_dir: Option<PathBuf>,
    /// Pass this environment variable to plugins, such as RUST_LOG; may be repeated. PATH, HOME, locale variables and
    /// those of the plugin protocol are always passed.
    #[arg(long, value_name = "NAME")]
    pub(crate) plugin_env: Vec<OsString>,
    /// Ask the plugin of this file name also about silent addresses of lists and ranges, at its own ports; may be repeated.
    /// For plugins that know devices without an open port.
    #[arg(long, value_name = "PLUGIN")]
    pub(crate) ask_silent: Vec<String>,
}

/// Parses the address of a name server. The default port is 53.
fn name_server(text: &str) -> Result<SocketAddr, String> {
    const DNS: u16 = 53;
    let literal = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS));
    literal.or_else(|_| text.parse()).map_err(|_| {
        "write an address such as 10.0.0.1, 10.0.0.1:5353 or [fd00::1]:5353".to_owned()
    })
}

/// Parses an endpoint. The default port is 80.
fn endpoint(text: &str) -> Result<SocketAddr, String> {
    const HTTP: u16 = 80;
    let literal = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, HTTP));
    literal
        .or_else(|_| text.parse())
        .ok()
        .filter(|endpoint| endpoint.port() != 0)
        .ok_or_else(|| {
            "write an endpoint such as 10.0.0.7, 10.0.0.7:4028 or [fd00::7]:80".to_owned()
        })
}

impl Cli {
    /// The state folder: from the flag, or this user's default.
    pub(crate) fn state_dir(&self) -> Result<PathBuf, Usage> {
        if let Some(named) = &self.state_dir {
            return Ok(named.clone());
        }
        if rustix::process::geteuid().is_root() {
            return Ok("/var/lib/fleetnode".into());
        }
        let variable = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        variable("XDG_STATE_HOME")
            .or_else(|| variable("HOME").map(|home| home.join(".local/state")))
            .map(|base| base.join("fleetnode"))
            .ok_or_else(|| {
                Usage::new("neither XDG_STATE_HOME nor HOME is an absolute path; pass --state-dir")
            })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_mdns_service_is_optional() {
        for (arguments, service, seconds) in [
            (&["--mdns"][..], "", None),
            (&["--mdns", "_axeos._tcp"], "_axeos._tcp", None),
            (&["--mdns", "--listen", "20", "-o", "ndjson"], "", Some(20)),
        ] {
            let arguments = ["fleetnode", "scan"].iter().chain(arguments);
            let Ok(Cli {
                command: Command::Scan(scan),
                ..
            }) = Cli::try_parse_from(arguments)
            else {
                panic!("{service}: no scan");
            };
            assert_eq!(
                (scan.mdns.as_deref(), scan.listen),
                (Some(service), seconds)
            );
            assert!(scan.targets.is_empty());
        }
    }

    #[test]
    fn upstreams_name_for_the_local_subnet_is_accepted() {
        let arguments = [
            "fleetnode",
            "run",
            "--local-discovery-subnet",
            "10.90.0.0/24",
        ];
        let Ok(Cli {
            command: Command::Run(run),
            ..
        }) = Cli::try_parse_from(arguments)
        else {
            panic!("the flag is rejected");
        };
        assert_eq!(run.engine.local_subnet.len(), 1);
    }

    #[test]
    fn errors_name_the_invalid_value() {
        for (arguments, named) in [
            (vec!["run", "--allow-network", "10.0.0.0/33"], "10.0.0.0/33"),
            (vec!["run", "--deny-port", "80/tcp"], "80/tcp"),
            (vec!["run", "--rate", "0"], "0"),
            (vec!["run", "--local-subnet", "fd00::/64"], "fd00::/64"),
            (vec!["run", "--max-targets", "1023"], "1023"),
            (vec!["run", "--dns-server", "ns.lan"], "ns.lan"),
            (vec!["configure"], "--server-url"),
            (vec!["scan"], "TARGET"),
            (vec!["scan", "10.0.0.1", "--mdns"], "--mdns"),
            (vec!["scan", "10.0.0.1", "--listen", "9"], "--listen"),
            (vec!["scan", "--listen", "9"], "--mdns"),
            (vec!["scan", "--mdns", "--listen", "long"], "long"),
        ] {
            let arguments = ["fleetnode"].into_iter().chain(arguments);
            let error = Cli::try_parse_from(arguments).expect_err(named).to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
