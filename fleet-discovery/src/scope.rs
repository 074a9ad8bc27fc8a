//! The scope of a command: the closed set of addresses and ports that its node may report, fixed before dispatch.
//! Address classes and ownership are checked elsewhere. Start with [`Scope`].

mod pins;
mod ports;
mod text;

use std::net::{IpAddr, Ipv4Addr};

use fleet_core::{AddressPolicy, Endpoint, Port, RejectReason, canonical, limits};
use ipnetwork::Ipv4Network;
use pins::Pin;
pub use pins::{PinError, Pinned, pinnable};
pub(crate) use ports::Ports as ScopePorts;
use ports::Ports;
pub use text::InvalidScope;

use crate::{AddressList, HostName};

/// Number of addresses in the subnet to which an open scope closes.
const SUBNET_ADDRESSES: u64 = 1 << (32 - limits::UPSTREAM_COMMAND_PREFIX);

/// The addresses and ports that the node of a command may report.
///
/// Its text ([`std::fmt::Display`], [`std::str::FromStr`]) is canonical and small. Storage keeps it with the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    addresses: Addresses,
    ports: Ports,
}

/// How a scope was fixed, in order from strict to loose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScopeKind {
    /// Fixed by the request alone.
    Exact,
    /// Fixed by local subnets or default ports that the node announced in Hello.
    Announced,
    /// Fixed by names. The node reports their addresses before its first report.
    Pinned,
    /// Fixed by the first reported devices, within a limit.
    Open,
}

impl ScopeKind {
    /// The name that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Announced => "announced",
            Self::Pinned => "pinned",
            Self::Open => "open",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Addresses {
    /// The addresses of the request.
    Exact(AddressList),
    /// The addresses from the node's Hello.
    Announced(AddressList),
    /// The names, in the order of the command.
    Pinned(Vec<Pin>),
    /// The aligned /22 of the first accepted device.
    Subnet(Option<Ipv4Network>),
    /// The first eight addresses reported for a name that the node does not pin.
    Unpinned(HostName, Vec<IpAddr>),
}

impl Scope {
    /// Creates a scope of these addresses and ports.
    pub(crate) fn exact(addresses: AddressList, ports: Ports) -> Self {
        Self {
            addresses: Addresses::Exact(addresses),
            ports,
        }
    }

    /// Creates a scope of addresses that the node announced.
    pub(crate) fn announced(addresses: AddressList, ports: Ports) -> Self {
        Self {
            addresses: Addresses::Announced(addresses),
            ports,
        }
    }

    /// Creates a scope of names that the node will pin.
    pub(crate) fn names(names: impl IntoIterator<Item = HostName>, ports: Ports) -> Self {
        Self {
            addresses: Addresses::Pinned(names.into_iter().map(Pin::unanswered).collect()),
            ports,
        }
    }

    /// Creates a scope of one name that the node will not pin.
    pub(crate) fn unpinned(name: HostName, ports: Ports) -> Self {
        Self {
            addresses: Addresses::Unpinned(name, Vec::new()),
            ports,
        }
    }

    /// Creates a scope of the subnet that an upstream node selects.
    pub(crate) fn subnet(ports: Ports) -> Self {
        Self {
            addresses: Addresses::Subnet(None),
            ports,
        }
    }

    /// Applies the endpoint of an accepted device, which closes an open scope. Call it only for an endpoint that
    /// [`Self::check`] permits and whose address may be reported.
    pub(crate) fn narrow(&mut self, endpoint: Endpoint) {
        match &mut self.addresses {
            Addresses::Exact(_) | Addresses::Announced(_) | Addresses::Pinned(_) => {}
            Addresses::Subnet(subnet) => {
                if subnet.is_none() {
                    *subnet = subnet_of(endpoint.ip);
                }
            }
            Addresses::Unpinned(_, seen) => {
                let ip = canonical(endpoint.ip);
                if !seen.contains(&ip) {
                    seen.push(ip);
                }
            }
        }
        self.ports.narrow(endpoint.port);
    }

    /// Stores a node's answer for a name: its addresses, or the reason why the name is skipped. The name is also
    /// skipped if the answer has no address, more than eight, or one that may not be scanned.
    ///
    /// # Errors
    ///
    /// [`PinError`] if the name is not in this scope, or had a different answer before.
    pub fn pin(
        &mut self,
        name: &str,
        answer: Result<&[IpAddr], &str>,
        policy: AddressPolicy,
    ) -> Result<Pinned, PinError> {
        match &mut self.addresses {
            Addresses::Pinned(pins) => pins::answer(pins, name, answer, policy),
            Addresses::Exact(_)
            | Addresses::Announced(_)
            | Addresses::Subnet(_)
            | Addresses::Unpinned(..) => Err(PinError::unknown(name)),
        }
    }

    /// Checks whether a device at this endpoint may be reported.
    ///
    /// # Errors
    ///
    /// [`RejectReason::AddressOutOfScope`] or [`RejectReason::PortOutOfScope`].
    pub fn check(&self, endpoint: Endpoint) -> Result<(), RejectReason> {
        let ip = canonical(endpoint.ip);
        let inside = match &self.addresses {
            Addresses::Exact(list) | Addresses::Announced(list) => list.contains(ip),
            Addresses::Pinned(pins) => pins.iter().any(|pin| pin.addresses().contains(&ip)),
            Addresses::Subnet(Some(subnet)) => match ip {
                IpAddr::V4(ip) => subnet.contains(ip),
                IpAddr::V6(_) => false,
            },
            // The first accepted device fixes the subnet.
            // Its class is checked as that of every other.
            Addresses::Subnet(None) => ip.is_ipv4(),
            Addresses::Unpinned(_, seen) => {
                seen.contains(&ip) || seen.len() < limits::NAME_ADDRESSES
            }
        };
        if !inside {
            return Err(RejectReason::AddressOutOfScope);
        }
        if !self.ports.admits(endpoint.port) {
            return Err(RejectReason::PortOutOfScope);
        }
        Ok(())
    }

    /// Returns how the scope was fixed, by the loosest of its parts.
    pub fn kind(&self) -> ScopeKind {
        let addresses = match &self.addresses {
            Addresses::Exact(_) => ScopeKind::Exact,
            Addresses::Announced(_) => ScopeKind::Announced,
            Addresses::Pinned(_) => ScopeKind::Pinned,
            Addresses::Subnet(_) | Addresses::Unpinned(..) => ScopeKind::Open,
        };
        addresses.max(self.ports.kind())
    }

    /// Whether the node chooses the addresses. They are known only from its reports.
    pub fn is_chosen_by_node(&self) -> bool {
        matches!(self.addresses, Addresses::Subnet(_))
    }

    /// Returns the number of known targets: addresses, and names without an address.
    pub fn targets(&self) -> u64 {
        match &self.addresses {
            Addresses::Exact(list) | Addresses::Announced(list) => list.len(),
            Addresses::Pinned(pins) => {
                let nameless = pins.iter().filter(|pin| pin.addresses().is_empty()).count();
                (pins::addresses(pins).count() + nameless) as u64
            }
            Addresses::Subnet(_) => 0,
            // The name itself counts until an address is known.
            Addresses::Unpinned(_, seen) => seen.len().max(1) as u64,
        }
    }

    /// Returns the known addresses, in the order of the command's outcome bytes.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        // `impl Iterator` has one type, so the parts that a kind lacks are empty iterators.
        let (list, pins, seen) = match &self.addresses {
            Addresses::Exact(list) | Addresses::Announced(list) => (Some(list), None, None),
            Addresses::Pinned(pins) => (None, Some(pins), None),
            Addresses::Subnet(_) => (None, None, None),
            Addresses::Unpinned(_, seen) => (None, None, Some(seen)),
        };
        let list = list.into_iter().flat_map(AddressList::iter);
        let pins = pins.into_iter().flat_map(|pins| pins::addresses(pins));
        let seen = seen.into_iter().flatten().copied();
        list.chain(pins).chain(seen)
    }

    /// Returns the known addresses as a list.
    pub fn address_list(&self) -> AddressList {
        match &self.addresses {
            Addresses::Exact(list) | Addresses::Announced(list) => list.clone(),
            Addresses::Pinned(_) | Addresses::Subnet(_) | Addresses::Unpinned(..) => {
                self.addresses().collect()
            }
        }
    }

    /// Whether a name of the command is not pinned yet. Until then, nothing may be reported.
    pub fn awaits_pins(&self) -> bool {
        match &self.addresses {
            // Pins and reports travel on different calls, so a report can arrive first.
            Addresses::Pinned(pins) => pins.iter().any(Pin::is_unanswered),
            Addresses::Exact(_)
            | Addresses::Announced(_)
            | Addresses::Subnet(_)
            | Addresses::Unpinned(..) => false,
        }
    }

    /// Returns the addresses to which a name is pinned; none if it is not pinned or not in this scope.
    pub fn pinned_to(&self, name: &str) -> &[IpAddr] {
        match &self.addresses {
            Addresses::Pinned(pins) => pins
                .iter()
                .find(|pin| pin.is_of(name))
                .map_or(&[], Pin::addresses),
            Addresses::Exact(_)
            | Addresses::Announced(_)
            | Addresses::Subnet(_)
            | Addresses::Unpinned(..) => &[],
        }
    }

    /// Returns the names without a known address, each with the reason if it was skipped.
    pub fn names_without_address(&self) -> impl Iterator<Item = (&HostName, Option<&str>)> {
        let (pins, name) = match &self.addresses {
            Addresses::Exact(_) | Addresses::Announced(_) | Addresses::Subnet(_) => (None, None),
            Addresses::Pinned(pins) => (Some(pins), None),
            Addresses::Unpinned(name, seen) => (None, seen.is_empty().then_some((name, None))),
        };
        pins.into_iter()
            .flatten()
            .filter(|pin| pin.addresses().is_empty())
            .map(|pin| (pin.name(), pin.skipped()))
            .chain(name)
    }

    /// Returns the maximum number of rows of the command: targets times ports.
    pub fn quota(&self) -> u64 {
        let targets = match &self.addresses {
            Addresses::Exact(list) | Addresses::Announced(list) => list.len(),
            Addresses::Pinned(pins) => pins.iter().map(Pin::most_addresses).sum(),
            Addresses::Subnet(_) => SUBNET_ADDRESSES,
            Addresses::Unpinned(..) => limits::NAME_ADDRESSES as u64,
        };
        targets.saturating_mul(self.ports.most())
    }

    /// Whether the node chose the ports itself. [`Self::ports`] then holds only those that it reported.
    pub(crate) fn has_open_ports(&self) -> bool {
        self.ports.kind() == ScopeKind::Open
    }

    /// Returns the permitted ports in ascending order; for open ports, those reported so far.
    pub fn ports(&self) -> &[Port] {
        self.ports.known()
    }
}

/// Returns the aligned /22 around an IPv4 address.
fn subnet_of(ip: IpAddr) -> Option<Ipv4Network> {
    match canonical(ip) {
        IpAddr::V4(ip) => {
            let mask = u32::MAX << (32 - limits::UPSTREAM_COMMAND_PREFIX);
            let network = Ipv4Addr::from_bits(ip.to_bits() & mask);
            Ipv4Network::new_checked(network, limits::UPSTREAM_COMMAND_PREFIX)
        }
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests;
