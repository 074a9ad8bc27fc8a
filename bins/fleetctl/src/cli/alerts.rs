//! Commands about alerts.

use clap::{Args, Subcommand};

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
