//! Why a request has no plan. Every text names the offending entry and says what would do.

use std::net::{IpAddr, Ipv4Addr};

use fleet_core::{AddressClass, Port, RefusedAddress, limits, outcome::Code};
use ipnetwork::IpNetwork;

use crate::{HostName, LOCAL_SUBNET, ListeningError, PortsError, TargetError};

/// Why a request has no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The ports.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// A target, or an entry of a list.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A list without entries.
    #[error("the list is empty: name at least one address or host name")]
    EmptyList,
    /// The local subnet of a node that announced none, among other targets.
    #[error(
        "`{LOCAL_SUBNET}` cannot be combined with other targets on this node, which does not announce its subnets: scan it alone"
    )]
    LocalSubnetCombined,
    /// Every target is excluded.
    #[error("every target is excluded: leave out one of the entries that begin with `!`")]
    NothingLeft,
    /// An address that may not be scanned.
    #[error(transparent)]
    Address(#[from] RefusedAddress),
    /// A network or range that holds an address that may not be scanned.
    #[error("`{entry}` holds {ip}, a {} address: only private networks can be scanned (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, fc00::/7)", .class.as_str())]
    Holds {
        /// The entry, canonical.
        entry: String,
        /// The first such address.
        ip: IpAddr,
        /// Its class.
        class: AddressClass,
    },
    /// An end of a range that is not an IPv4 address.
    #[error(
        "the {end} of the range, `{input}`, is not an IPv4 address: write four decimals from 0 to 255 without leading zeros, such as 10.0.0.7"
    )]
    RangeEnd {
        /// `start` or `end`.
        end: &'static str,
        /// As it came, escaped and bounded.
        input: String,
    },
    /// A range that ends before it starts.
    #[error("the range ends at {end}, before its start {start}: exchange the two")]
    RangeOrder {
        /// The first address.
        start: Ipv4Addr,
        /// The last address.
        end: Ipv4Addr,
    },
    /// More targets than a scan takes.
    #[error(
        "`{entry}` makes {count} targets: a scan takes {} at most, start several scans",
        limits::SCAN_TARGETS
    )]
    TooManyTargets {
        /// What asks for them.
        entry: String,
        /// How many.
        count: u64,
    },
    /// A name for a node that does not pin names.
    #[error(
        "`{0}` is a host name, and this node cannot pin names to addresses: write its address, or choose a node that can"
    )]
    NameUnpinned(HostName),
    /// The local-subnet word for a node whose subnets are too large to be swept.
    #[error("`{LOCAL_SUBNET}` makes {count} targets with the node's subnet {subnet}: a scan takes {most} at most; name a part of it such as a /24, or narrow the subnets in the node's configuration", most = limits::SCAN_TARGETS)]
    LocalSubnetTooLarge {
        /// The subnet with which the bound is passed.
        subnet: IpNetwork,
        /// Targets with it.
        count: u64,
    },
    /// The local-subnet word for a node none of whose announced subnets can be scanned.
    #[error(
        "`{LOCAL_SUBNET}`: none of the subnets that the node announced can be swept ({subnets}): name a private IPv4 network instead"
    )]
    NoLocalSubnet {
        /// What it announced.
        subnets: String,
    },
    /// Multicast DNS for a node that does not announce it.
    #[error("this node cannot listen to mDNS: choose a node that announces it, or scan addresses")]
    MdnsNotAnnounced,
    /// What is to be listened for.
    #[error(transparent)]
    Listening(#[from] ListeningError),
    /// Ports for a multicast DNS scan, whose command has no room for them.
    #[error(
        "port {0} cannot be asked for in an mDNS scan, which tries the node's default ports: leave the ports out, or scan the target `{LOCAL_SUBNET}`"
    )]
    MdnsPorts(Port),
    /// Multicast DNS for a node whose subnets are more than one command takes.
    #[error(
        "an mDNS scan covers the node's own subnets, {count} targets with {subnet}: this node takes {most} in one command; narrow its subnets with --local-subnet, or scan a part by its address"
    )]
    MdnsTooLarge {
        /// The subnet with which the bound is passed.
        subnet: IpNetwork,
        /// Targets with it.
        count: u64,
        /// Targets that the node takes.
        most: usize,
    },
    /// Multicast DNS for a node that announced no subnet which can be scanned.
    #[error(
        "an mDNS scan covers the node's own subnets, and none that it announced can be scanned ({subnets}): name a private IPv4 network with --local-subnet there, or scan addresses"
    )]
    MdnsNoSubnet {
        /// What it announced.
        subnets: String,
    },
}

impl PlanError {
    /// The code that the operator gets: the request is wrong, or it asks for what this node or the
    /// policy does not allow.
    pub fn code(&self) -> Code {
        match self {
            Self::Ports(_)
            | Self::Target(_)
            | Self::EmptyList
            | Self::NothingLeft
            | Self::Address(_)
            | Self::Holds { .. }
            | Self::RangeEnd { .. }
            | Self::RangeOrder { .. }
            | Self::TooManyTargets { .. }
            | Self::Listening(_)
            | Self::MdnsPorts(_) => Code::InvalidArgument,
            Self::LocalSubnetCombined
            | Self::NameUnpinned(_)
            | Self::LocalSubnetTooLarge { .. }
            | Self::NoLocalSubnet { .. }
            | Self::MdnsNotAnnounced
            | Self::MdnsTooLarge { .. }
            | Self::MdnsNoSubnet { .. } => Code::FailedPrecondition,
        }
    }
}
