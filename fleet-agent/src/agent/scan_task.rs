//! The targets of a scan that the policy permits: addresses, and names that are not resolved yet. Start with
//! [`ScanTask`].

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use fleet_core::{Endpoint, Port, limits};
use fleet_discovery::HostName;
use fleet_registry::link::WireCommandId;
use fleet_scan::{Guard, Listen, MulticastResolver, PinnedName, Resolver, ScanJob, pin_names};
use fleet_wire::gateway::{self, ControlPins};
use ipnetwork::Ipv4Network;

use crate::site::SitePolicy;

/// Wire limits: names of one pins message, and characters of a reason.
const PINS: (usize, usize) = (256, 512);

/// A scan that the site permits as far as it is known. Addresses of names are checked after the lookup.
#[derive(Clone, Debug)]
pub(crate) struct ScanTask {
    /// In the order of the command.
    pub(crate) entries: Vec<Entry>,
    pub(crate) ports: Vec<Port>,
    /// Whether the ports are the defaults that the node announced.
    pub(crate) default_ports: bool,
    /// Whether the targets were listed or are a range.
    pub(crate) listed: bool,
    pub(crate) budget: Duration,
    /// The most probes per second; 0 for the rate of the node.
    pub(crate) rate: u32,
    /// If set, only addresses that announce this service are scanned.
    pub(crate) listen: Option<Listen>,
    pub(crate) policy: Arc<SitePolicy>,
    /// Looks up the names of hosts that answered.
    pub(crate) host_names: Option<Arc<dyn Resolver>>,
    /// Whether notes describe unidentified hosts.
    pub(crate) note_hosts: bool,
    /// Whether the hardware address of the link identifies a device that shows nothing else.
    pub(crate) link_identity: bool,
    /// Where names in `local` are asked for.
    pub(crate) local_subnets: Vec<Ipv4Network>,
    /// What the site policy removed from the scan, for the operator.
    pub(crate) notes: Vec<String>,
}

/// An entry of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Address(IpAddr),
    Name(HostName),
}

impl Entry {
    /// The most addresses that the entry can become.
    pub(crate) fn max_addresses(&self) -> usize {
        match self {
            Self::Address(_) => 1,
            Self::Name(_) => limits::NAME_ADDRESSES,
        }
    }
}

impl ScanTask {
    /// The distinct names, in order.
    pub(crate) fn names(&self) -> Vec<HostName> {
        let mut seen = BTreeSet::new();
        let names = self.entries.iter().filter_map(|entry| match entry {
            Entry::Name(name) => Some(name.clone()),
            Entry::Address(_) => None,
        });
        names.filter(|name| seen.insert(name.clone())).collect()
    }

    /// Resolves each name once. A name with an address outside the site's networks is skipped.
    pub(crate) async fn pin(&self, resolver: &dyn Resolver) -> Vec<PinnedName> {
        let resolver = MulticastResolver::new(resolver, &self.local_subnets);
        let mut pins = pin_names(&resolver, self.names(), self.policy.addresses).await;
        for pin in &mut pins {
            let outside = |addresses: &Vec<IpAddr>| {
                let outside = addresses.iter().find(|ip| !self.policy.allows(**ip))?;
                Some(format!(
                    "it resolves to {outside}, outside the networks that this site allows"
                ))
            };
            if let Some(why) = pin.addresses.as_ref().ok().and_then(outside) {
                pin.addresses = Err(why);
            }
        }
        pins
    }

    /// Builds the scan of the addresses and the pinned addresses of names. The order matters: outcomes refer to it. It
    /// is that of the command, and if there are names, each address occurs once.
    pub(crate) fn job(self, pins: &[PinnedName]) -> ScanJob {
        let mut seen = BTreeSet::new();
        let targets = self.entries.iter().flat_map(|entry| match entry {
            Entry::Address(ip) => std::slice::from_ref(ip),
            Entry::Name(name) => pins
                .iter()
                .find(|pin| pin.name == *name)
                .and_then(|pin| pin.addresses.as_deref().ok())
                .unwrap_or_default(),
        });
        let targets = targets
            .copied()
            // The server reads outcomes by position. Its
            // scope of pinned names has each address once.
            .filter(|ip| pins.is_empty() || seen.insert(*ip))
            .collect();
        let policy = self.policy;
        ScanJob {
            targets,
            ports: self.ports,
            ports_are_defaults: self.default_ports,
            listed: self.listed,
            budget: self.budget,
            rate: self.rate,
            listen: self.listen,
            names: self.host_names,
            note_hosts: self.note_hosts,
            link_identity: self.link_identity,
            guard: Guard::new(move |endpoint: Endpoint| {
                policy.check(endpoint).map_err(|why| why.to_string())
            }),
        }
    }
}

/// Converts pins into messages to the server.
pub(crate) fn messages(command: &WireCommandId, pins: &[PinnedName]) -> Vec<ControlPins> {
    let named = |pin: &PinnedName| {
        let (addresses, skipped_reason) = match &pin.addresses {
            Ok(addresses) => (
                addresses.iter().map(ToString::to_string).collect(),
                String::new(),
            ),
            Err(why) => (Vec::new(), why.chars().take(PINS.1).collect()),
        };
        gateway::PinnedName {
            name: pin.name.to_string(),
            addresses,
            skipped_reason,
        }
    };
    pins.chunks(PINS.0)
        .map(|pins| ControlPins {
            command_id: command.as_str().to_owned(),
            names: pins.iter().map(named).collect(),
        })
        .collect()
}

/// The reason for a partial result if names could not be looked up. Such a name may have devices, unlike one without
/// addresses.
pub(crate) fn failed_lookups(pins: &[PinnedName]) -> Option<String> {
    let mut failed = pins.iter().filter(|pin| pin.lookup_failed);
    let first = failed.next()?;
    let reason = first.addresses.as_ref().err()?;
    let more = match failed.count() {
        0 => String::new(),
        more => format!(" (and {more} more names)"),
    };
    Some(format!(
        "`{}` could not be looked up: {reason}{more}",
        first.name
    ))
}

/// The reason for a partial result if the server does not support pins and names were skipped.
pub(crate) fn skipped_names(pins: &[PinnedName]) -> Option<String> {
    let mut out = pins
        .iter()
        .filter_map(|pin| Some((&pin.name, pin.addresses.as_ref().err()?)));
    let (name, why) = out.next()?;
    let more = match out.count() {
        0 => String::new(),
        more => format!(" (and {more} more names)"),
    };
    Some(format!("`{name}` was skipped: {why}{more}"))
}
