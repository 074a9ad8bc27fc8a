//! Why a request has no plan. Every message names the invalid entry and the accepted form.

use std::net::{IpAddr, Ipv4Addr};

use fleet_core::{AddressClass, Port, RefusedAddress, limits, outcome::Code};
use ipnetwork::IpNetwork;

use crate::{HostName, LOCAL_SUBNET, ListeningError, PortsError, TargetError};

/// Why a request has no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The ports are invalid.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// A target, or an entry of a list, is invalid.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The list has no entries.
    #[error("the list is empty: name at least one address or host name")]
    EmptyList,
    /// The request combines the local-subnet keyword with other targets, and the node announced no subnet.
    #[error(
        "`{LOCAL_SUBNET}` cannot be combined with other targets on this node, which does not announce its subnets: scan it alone"
    )]
    LocalSubnetCombined,
    /// The excludes cover every target.
    #[error("every target is excluded: leave out one of the entries that begin with `!`")]
    NothingLeft,
    /// The site excludes every target.
    #[error("every target is excluded: {0}")]
    AllExcluded(String),
    /// The site excludes addresses, and only the node learns the addresses of a target.
    #[error(
        "`{target}` cannot be scanned at this site: only the node learns its addresses, and some must be left out ({exclusion}); name addresses, networks or ranges"
    )]
    ExcludedUnknown {
        /// The target.
        target: String,
        /// The first exclusion.
        exclusion: String,
    },
    /// No node of the scan covers a target.
    #[error(
        "none of the {count} targets, first {first}, is in a subnet that a node of the scan announced: to reach them through a router, name one node"
    )]
    Uncovered {
        /// Number of targets.
        count: u64,
        /// The first one.
        first: IpAddr,
    },
    /// The request over several nodes has a host name.
    #[error(
        "`{0}` is a host name, which belongs to no subnet, so its node cannot be chosen: name one node, or write its address"
    )]
    SplitName(HostName),
    /// The request over several nodes has the local-subnet keyword, and no node announced a subnet.
    #[error(
        "`{LOCAL_SUBNET}`: no node of the scan announces its subnets: name one node, or a private IPv4 network"
    )]
    SplitLocalSubnet,
    /// The request over several nodes is for multicast DNS.
    #[error("an mDNS scan runs on one node: name one node, or scan addresses")]
    SplitMdns,
    /// The scan has too many nodes.
    #[error(
        "{0} nodes are too many for one scan, which runs on {most} at most: start one scan for each site",
        most = limits::SCAN_NODES
    )]
    TooManyNodes(usize),
    /// The address may not be scanned.
    #[error(transparent)]
    Address(#[from] RefusedAddress),
    /// The network or range contains an address that may not be scanned.
    #[error("`{entry}` holds {ip}, a {} address: only private networks can be scanned (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, fc00::/7)", .class.as_str())]
    Holds {
        /// The entry in canonical form.
        entry: String,
        /// The first such address.
        ip: IpAddr,
        /// Its class.
        class: AddressClass,
    },
    /// An end of the range is not an IPv4 address.
    #[error(
        "the {end} of the range, `{input}`, is not an IPv4 address: write four decimals from 0 to 255 without leading zeros, such as 10.0.0.7"
    )]
    RangeEnd {
        /// `start` or `end`.
        end: &'static str,
        /// The text as received; escaped and bounded.
        input: String,
    },
    /// The range ends before it starts.
    #[error("the range ends at {end}, before its start {start}: exchange the two")]
    RangeOrder {
        /// The first address.
        start: Ipv4Addr,
        /// The last address.
        end: Ipv4Addr,
    },
    /// The request has more targets than a scan accepts.
    #[error(
        "`{entry}` makes {count} targets: a scan takes {} at most, start several scans",
        limits::SCAN_TARGETS
    )]
    TooManyTargets {
        /// The entry with which the limit is exceeded.
        entry: String,
        /// Number of targets.
        count: u64,
    },
    /// The target is a host name, and the node does not pin names.
    #[error(
        "`{0}` is a host name, and this node cannot pin names to addresses: write its address, or choose a node that can"
    )]
    NameUnpinned(HostName),
    /// The request has the local-subnet keyword, and the node's subnets are too large for a scan.
    #[error("`{LOCAL_SUBNET}` makes {count} targets with the node's subnet {subnet}: a scan takes {most} at most; name a part of it such as a /24, or narrow the subnets in the node's configuration", most = limits::SCAN_TARGETS)]
    LocalSubnetTooLarge {
        /// The subnet with which the limit is exceeded.
        subnet: IpNetwork,
        /// Number of targets including that subnet.
        count: u64,
    },
    /// The request has the local-subnet keyword, and none of the announced subnets can be scanned.
    #[error(
        "`{LOCAL_SUBNET}`: none of the subnets that the node announced can be swept ({subnets}): name a private IPv4 network instead"
    )]
    NoLocalSubnet {
        /// The announced subnets.
        subnets: String,
    },
    /// The request is for multicast DNS, which the node does not announce.
    #[error("this node cannot listen to mDNS: choose a node that announces it, or scan addresses")]
    MdnsNotAnnounced,
    /// The node does not listen for the announcements of IP report buttons.
    #[error(
        "this node does not listen for announcements: start it with `fleetnode run --listen-announcements`"
    )]
    ReportsNotAnnounced,
    /// The service type, domain or time is invalid.
    #[error(transparent)]
    Listening(#[from] ListeningError),
    /// The request has ports, and the command of a multicast DNS scan cannot carry them.
    #[error(
        "port {0} cannot be asked for in an mDNS scan, which tries the node's default ports: leave the ports out, or scan the target `{LOCAL_SUBNET}`"
    )]
    MdnsPorts(Port),
    /// The request is for multicast DNS, and the node's subnets exceed one command.
    #[error(
        "an mDNS scan covers the node's own subnets, {count} targets with {subnet}: this node takes {most} in one command; narrow its subnets with --local-subnet, or scan a part by its address"
    )]
    MdnsTooLarge {
        /// The subnet with which the limit is exceeded.
        subnet: IpNetwork,
        /// Number of targets including that subnet.
        count: u64,
        /// Maximum number of targets that the node accepts.
        most: usize,
    },
    /// The request is for multicast DNS, and none of the announced subnets can be scanned.
    #[error(
        "an mDNS scan covers the node's own subnets, and none that it announced can be scanned ({subnets}): name a private IPv4 network with --local-subnet there, or scan addresses"
    )]
    MdnsNoSubnet {
        /// The announced subnets.
        subnets: String,
    },
}

impl PlanError {
    /// The capability that a newer version of the node would have, if the node is too old for the request.
    pub fn lacks(&self) -> Option<&'static str> {
        // Only these two: the other errors concern the request or the configuration.
        if let Self::NameUnpinned(_) = self {
            Some("pins")
        } else if let Self::MdnsNotAnnounced = self {
            Some("mdns")
        } else {
            None
        }
    }

    /// Returns the code for the operator: the request is invalid, or the node or the policy does not allow it.
    pub fn code(&self) -> Code {
        match self {
            Self::Ports(_)
            | Self::Target(_)
            | Self::EmptyList
            | Self::NothingLeft
            | Self::AllExcluded(_)
            | Self::SplitName(_)
            | Self::SplitMdns
            | Self::TooManyNodes(_)
            | Self::Address(_)
            | Self::Holds { .. }
            | Self::RangeEnd { .. }
            | Self::RangeOrder { .. }
            | Self::TooManyTargets { .. }
            | Self::Listening(_)
            | Self::MdnsPorts(_) => Code::InvalidArgument,
            Self::LocalSubnetCombined
            | Self::ExcludedUnknown { .. }
            | Self::Uncovered { .. }
            | Self::SplitLocalSubnet
            | Self::NameUnpinned(_)
            | Self::LocalSubnetTooLarge { .. }
            | Self::NoLocalSubnet { .. }
            | Self::MdnsNotAnnounced
            | Self::ReportsNotAnnounced
            | Self::MdnsTooLarge { .. }
            | Self::MdnsNoSubnet { .. } => Code::FailedPrecondition,
        }
    }
}
