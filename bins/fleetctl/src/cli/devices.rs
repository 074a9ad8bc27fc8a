//! Commands about devices, their pairing, and the server's own network.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Targets;
use crate::search;

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
