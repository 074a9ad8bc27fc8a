//! Commands about scans and schedules.

use clap::{Args, Subcommand};

use crate::{choice, difference};

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
