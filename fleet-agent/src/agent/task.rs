//! What a command asks to be scanned, once it is allowed: addresses, and names that are still to be pinned. Start with
//! [`Task`].

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use fleet_core::{Endpoint, Port, limits};
use fleet_discovery::HostName;
use fleet_registry::link::WireCommandId;
use fleet_scan::{Guard, Listen, PinnedName, Resolver, ScanJob, pin_names};
use fleet_wire::gateway::{self, ControlPins};

use crate::site::SitePolicy;

/// Names of one message of pins, and characters of a reason in it.
const PINS: (usize, usize) = (256, 512);

/// What a command asks, allowed by the site as far as it is known.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// In the order of the command.
    pub(crate) entries: Vec<Entry>,
    pub(crate) ports: Vec<Port>,
    /// The command names no ports; these are the defaults that the server knows of this node.
    pub(crate) default_ports: bool,
    pub(crate) budget: Duration,
    /// Of the addresses only those are tried that announce a service.
    pub(crate) listen: Option<Listen>,
    pub(crate) policy: Arc<SitePolicy>,
}

/// An entry of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Address(IpAddr),
    Name(HostName),
}

impl Entry {
    /// How many targets it may become.
    pub(crate) fn most_addresses(&self) -> usize {
        match self {
            Self::Address(_) => 1,
            Self::Name(_) => limits::NAME_ADDRESSES,
        }
    }
}

impl Task {
    /// The names, each once, in order.
    pub(crate) fn names(&self) -> Vec<HostName> {
        let mut seen = BTreeSet::new();
        let names = self.entries.iter().filter_map(|entry| match entry {
            Entry::Name(name) => Some(name.clone()),
            Entry::Address(_) => None,
        });
        names.filter(|name| seen.insert(name.clone())).collect()
    }

    /// Looks the names up, once. A name with an address outside of the site's networks is left out.
    pub(crate) async fn pin(&self, resolver: &dyn Resolver) -> Vec<PinnedName> {
        let mut pins = pin_names(resolver, self.names(), self.policy.addresses).await;
        for pin in &mut pins {
            let outside = |addresses: &Vec<IpAddr>| {
                let outside = addresses.iter().find(|ip| !self.policy.allows(**ip))?;
                Some(format!(
                    "it resolves to {outside}, outside of the networks that this site lets its node scan"
                ))
            };
            if let Some(why) = pin.addresses.as_ref().ok().and_then(outside) {
                pin.addresses = Err(why);
            }
        }
        pins
    }

    /// The scan of the addresses and of what the names are pinned to. The server counts on the order: that of the
    /// command; where there are names, each address once.
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
            .filter(|ip| pins.is_empty() || seen.insert(*ip))
            .collect();
        let policy = self.policy;
        ScanJob {
            targets,
            ports: self.ports,
            ports_are_defaults: self.default_ports,
            budget: self.budget,
            listen: self.listen,
            guard: Guard::new(move |endpoint: Endpoint| {
                policy.check(endpoint).map_err(|why| why.to_string())
            }),
        }
    }
}

/// Pins as messages to the server.
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

/// What is missing for a server that cannot be told which names were left out.
pub(crate) fn left_out(pins: &[PinnedName]) -> Option<String> {
    let mut out = pins
        .iter()
        .filter_map(|pin| Some((&pin.name, pin.addresses.as_ref().err()?)));
    let (name, why) = out.next()?;
    let more = match out.count() {
        0 => String::new(),
        more => format!(", and {more} more names"),
    };
    Some(format!("`{name}` was left out: {why}{more}"))
}
