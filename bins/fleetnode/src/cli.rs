//! The command line. What its values mean is decided here, what is done with them elsewhere.

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

/// Targets that a server puts into one command of any node.
const LEAST_TARGETS: i64 = UPSTREAM_COMMAND_TARGETS as i64;
/// Targets that a server puts into one command at the most.
const MOST_TARGETS: u32 = COMMAND_TARGETS as u32;

/// The command that a plugin runs under.
pub(crate) const GUARD: &str = "plugin-guard";

/// The fleet node: runs beside the devices, dials out to its server, scans when asked.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "Exit status: 0 done, 1 failed, 2 a scan with gaps, 64 wrong flags, 69 server or state folder unavailable, 77 credentials missing or refused for good."
)]
pub(crate) struct Cli {
    /// The node's own folder for keys and enrollment [default: /var/lib/fleetnode for root, else ~/.local/state/fleetnode]
    #[arg(long, global = true, env = "FLEETNODE_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Registers this node with an enrollment code, then takes the API key that confirming it shows.
    ///
    /// Code and key come from a prompt that does not show them, or one a line on standard input. What is done is
    /// saved: a second `enroll` goes on at the API key.
    Enroll(EnrollArgs),
    /// Says how far the enrollment is and whether the node runs.
    Status {
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Proves to the server that the saved API key is good; takes the key first if it is missing.
    Refresh,
    /// Runs the node until SIGTERM or SIGINT; a second signal ends it at once.
    Run(RunArgs),
    /// Scans from this machine without a server: a table of what answers, and what became of the rest.
    ///
    /// Nothing is enrolled or reported. Ctrl-C stops it and keeps what was found. Exit status: 0 complete, 2 with gaps,
    /// 64 a target that cannot be scanned, 77 halted, 130 stopped.
    Scan(ScanArgs),
    /// What the site lets its node scan.
    #[command(subcommand)]
    Policy(Policy),
    /// Stops all scanning and pairing by this node at once, until `resume`; the node stays connected and says so.
    Halt {
        /// What operators are told.
        #[arg(
            long,
            default_value = "",
            hide_default_value = true,
            value_name = "TEXT"
        )]
        reason: String,
    },
    /// Lets a halted node scan again.
    Resume,
    /// Runs a plugin that must not outlive the node. The node calls it.
    #[command(name = GUARD, hide = true)]
    PluginGuard {
        /// The plugin.
        program: PathBuf,
    },
    /// Prints a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// Log lines for people or for machines.
    #[arg(
        long,
        global = true,
        env = "FLEETNODE_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub(crate) log_format: LogFormat,
    /// What to log: a level, or directives such as `info,fleet_agent=debug`.
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

#[derive(Debug, Args)]
pub(crate) struct EnrollArgs {
    /// The server, such as `https://fleet.example`; needed for the first `enroll`.
    #[arg(long, env = "FLEETNODE_SERVER_URL", value_name = "URL")]
    pub(crate) server_url: Option<String>,
    /// The name that operators see [default: this machine's host name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Trust the authorities in this PEM file instead of the system's.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// The server is an upstream one, whose challenges do not say what they are for.
    #[arg(long)]
    pub(crate) upstream_server: bool,
    /// Accept plain HTTP to another machine; anybody on the way can read the node's keys.
    #[arg(long)]
    pub(crate) allow_insecure_transport: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) site: SiteArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Targets to take in one command, 1024 to 16384: a scan that is interrupted repeats at most one command.
    #[arg(long, value_name = "N", default_value_t = MOST_TARGETS, value_parser = clap::value_parser!(u32).range(LEAST_TARGETS..=i64::from(MOST_TARGETS)))]
    pub(crate) max_targets: u32,
}

#[derive(Debug, Args)]
pub(crate) struct ScanArgs {
    /// What to scan: 10.0.0.7, 10.0.0.0/22, 10.0.0.5-40, a host name, or fleetnode-local-subnet.
    #[arg(required_unless_present = "mdns", value_name = "TARGET")]
    pub(crate) targets: Vec<String>,
    /// Scan what announces this service by mDNS in this machine's own subnets, _http._tcp unless named.
    #[arg(long, value_name = "SERVICE", num_args = 0..=1, default_missing_value = "", conflicts_with = "targets")]
    pub(crate) mdns: Option<String>,
    /// Listen to mDNS for so long, 1 to 60 [default: 5].
    #[arg(
        long,
        value_name = "SECONDS",
        requires = "mdns",
        conflicts_with = "targets"
    )]
    pub(crate) listen: Option<i32>,
    /// Try this port instead of the drivers' own; may be repeated.
    #[arg(short, long = "port", value_name = "PORT", value_delimiter = ',')]
    pub(crate) ports: Vec<String>,
    /// A JSON object a line, in the shape of the server's event stream, instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) site: SiteArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Says of endpoints whether `run` with the same flags and variables would dial them, and by which rule; exits with 1
    /// when it would not dial one.
    Check {
        /// An address with or without a port, such as 10.0.0.7:4028; one of IPv6 with a port is written in brackets.
        #[arg(required = true, value_name = "ENDPOINT", value_parser = endpoint)]
        endpoints: Vec<SocketAddr>,
        #[command(flatten)]
        site: SiteArgs,
    },
}

/// What the site lets its node do. Commas part the values of a variable.
#[derive(Debug, Args)]
pub(crate) struct SiteArgs {
    /// Scan nothing outside of this network; may be repeated.
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
    /// For demonstrations and tests only: also scan simulated devices on this machine's loopback addresses.
    #[arg(long, hide_short_help = true)]
    pub(crate) demo_allow_loopback: bool,
}

/// How devices are looked for.
#[derive(Debug, Args)]
pub(crate) struct EngineArgs {
    /// Probes a second.
    #[arg(long, env = "FLEETNODE_RATE", value_name = "N", default_value_t = DEFAULT_RATE, value_parser = clap::value_parser!(u32).range(1..=i64::from(FULL_RATE)))]
    pub(crate) rate: u32,
    /// What `fleetnode-local-subnet` stands for, and where mDNS is listened to, instead of the networks of this machine's interfaces; may be repeated.
    #[arg(
        long,
        env = "FLEETNODE_LOCAL_SUBNET",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub(crate) local_subnet: Vec<Ipv4Network>,
    /// Ask this name server for host names, an address with or without a port, instead of those of this machine; may be
    /// repeated.
    #[arg(long, value_name = "ADDR", value_parser = name_server)]
    pub(crate) dns_server: Vec<SocketAddr>,
    /// Run the driver plugins in this folder; only root and this user may be able to change it [default: `plugins` beside
    /// this program, if there is such a folder]
    #[arg(long, env = "FLEETNODE_PLUGIN_DIR", value_name = "DIR")]
    pub(crate) plugin_dir: Option<PathBuf>,
    /// Let plugins see this variable of the environment too, such as RUST_LOG; may be repeated. They see PATH, HOME, the
    /// language and what their protocol needs.
    #[arg(long, value_name = "NAME")]
    pub(crate) plugin_env: Vec<OsString>,
}

/// The address of a name server, at DNS's own port unless it says another.
fn name_server(text: &str) -> Result<SocketAddr, String> {
    const DNS: u16 = 53;
    let literal = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS));
    literal.or_else(|_| text.parse()).map_err(|_| {
        "write an address such as 10.0.0.1, 10.0.0.1:5353 or [fd00::1]:5353".to_owned()
    })
}

/// An address, at HTTP's port unless it says another.
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
    /// The state folder: named, or the usual one of this user.
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
                Usage::new("neither XDG_STATE_HOME nor HOME names a folder: pass --state-dir")
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
    fn a_service_need_not_be_named() {
        for (arguments, service, seconds) in [
            (&["--mdns"][..], "", None),
            (&["--mdns", "_axeos._tcp"], "_axeos._tcp", None),
            (&["--mdns", "--listen", "20", "--json"], "", Some(20)),
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
    fn wrong_values_are_named() {
        for (arguments, named) in [
            (vec!["run", "--allow-network", "10.0.0.0/33"], "10.0.0.0/33"),
            (vec!["run", "--deny-port", "80/tcp"], "80/tcp"),
            (vec!["run", "--rate", "0"], "0"),
            (vec!["run", "--local-subnet", "fd00::/64"], "fd00::/64"),
            (vec!["run", "--max-targets", "1023"], "1023"),
            (vec!["run", "--dns-server", "ns.lan"], "ns.lan"),
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
