//! Commands about nodes and sites.

use clap::Subcommand;

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
    /// next scan of either node joins what both know. The former site is deleted if it was created with the node and has
    /// no other nodes, excludes, blackouts or schedules.
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
    ///
    /// The former site is deleted if it was created with the node and has no other nodes, excludes, blackouts or
    /// schedules.
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
