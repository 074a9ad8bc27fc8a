//! Which networks of a node's machine belong to its site. A rule over what the kernel reports of interfaces and routes;
//! their names do not matter. Pure. Start with [`site_subnets`].
//!
//! A network belongs to the site if it is reached through a network card, directly or through a bridge, bond or VLAN.
//! Networks inside the machine (containers, virtual machines) and tunnels do not belong to it.

use std::collections::BTreeMap;

use fleet_core::{AddressClass, classify};
use ipnetwork::Ipv4Network;

/// The most interfaces between a network and its network card, such as a bridge over a VLAN over a bond.
const DEPTH: u8 = 8;

/// An interface as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Unique on the machine.
    pub index: u32,
    /// For people. It decides nothing.
    pub name: String,
    /// The kind.
    pub kind: InterfaceKind,
    /// Whether it is enabled, with or without a cable.
    pub is_up: bool,
    /// The bridge or bond of which it is a port.
    pub controller: Option<u32>,
    /// The interface below it, such as that of a VLAN.
    pub lower: Option<LowerInterface>,
    /// Whether the default route leads through it.
    pub has_default_route: bool,
    /// The networks that it reaches without a router.
    pub subnets: Vec<Ipv4Network>,
}

/// The kind of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceKind {
    /// A network card: the kernel reports its device and no kind.
    Device,
    /// The loopback interface.
    Loopback,
    /// Software without a kind, such as the host networks of virtual machine monitors.
    Software,
    /// A kind (`IFLA_INFO_KIND`), such as `bridge` or `wireguard`.
    Named(String),
}

/// The interface below another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LowerInterface {
    /// An interface of this machine, by its index.
    Inside(u32),
    /// An interface outside of the container that the node runs in.
    Outside,
}

/// A network of the machine, and whether it belongs to the site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetChoice {
    /// The network.
    pub subnet: Ipv4Network,
    /// The name of the interface; empty for a network that the administrator named.
    pub interface: String,
    /// Whether it belongs to the site.
    pub is_chosen: bool,
    /// Why, as a phrase.
    pub reason: String,
}

/// Decides for each network of each interface whether it belongs to the site, in the order of the interfaces.
pub fn site_subnets(interfaces: &[Interface]) -> Vec<SubnetChoice> {
    let machine = Machine::new(interfaces);
    let of_interface = |interface: &Interface| {
        let subnets = interface.subnets.iter();
        let choices = subnets.map(|subnet| machine.choice(interface, *subnet));
        choices.collect::<Vec<_>>()
    };
    interfaces.iter().flat_map(of_interface).collect()
}

/// The interfaces of a machine.
struct Machine<'a> {
    by_index: BTreeMap<u32, &'a Interface>,
    has_device: bool,
}

/// Why an interface leads to the site, or why it does not.
type Verdict = Result<String, String>;

impl<'a> Machine<'a> {
    fn new(interfaces: &'a [Interface]) -> Self {
        let by_index = interfaces.iter().map(|one| (one.index, one));
        let mut kinds = interfaces.iter().map(|one| &one.kind);
        Self {
            by_index: by_index.collect(),
            has_device: kinds.any(|kind| *kind == InterfaceKind::Device),
        }
    }

    fn choice(&self, interface: &Interface, subnet: Ipv4Network) -> SubnetChoice {
        let verdict = match unsuitable(interface, subnet) {
            Some(reason) => Err(reason.to_owned()),
            None => self.leads_to_site(interface, DEPTH),
        };
        SubnetChoice {
            subnet,
            interface: interface.name.clone(),
            is_chosen: verdict.is_ok(),
            reason: verdict.unwrap_or_else(|reason| reason),
        }
    }

    fn leads_to_site(&self, interface: &Interface, depth: u8) -> Verdict {
        let kind = match &interface.kind {
            InterfaceKind::Device => return Ok("network card".to_owned()),
            InterfaceKind::Loopback => return Err("loopback".to_owned()),
            InterfaceKind::Software => return by_default_route(interface, "software interface"),
            InterfaceKind::Named(kind) => kind.as_str(),
        };
        match kind {
            "dsa" => Ok("port of a switch".to_owned()),
            "bridge" | "bond" | "team" | "hsr" | "openvswitch" | "batadv" => {
                self.by_ports(interface, kind, depth)
            }
            "vlan" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap" | "macsec" | "virt_wifi" => {
                self.by_lower(interface, kind, depth)
            }
            // Inside a container, it leads out. On the machine itself, it leads to a container.
            "veth" if !self.has_device => Ok("veth of a container".to_owned()),
            "veth" => by_default_route(interface, "veth to a container"),
            kind => Err(format!("virtual interface ({kind})")),
        }
    }

    fn by_ports(&self, interface: &Interface, kind: &str, depth: u8) -> Verdict {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(format!("{kind} over too many interfaces"));
        };
        let ports: Vec<&Interface> = self.ports(interface).collect();
        let port = |port: &&Interface| self.leads_to_site(port, depth).is_ok();
        if let Some(port) = ports.iter().copied().find(port) {
            return Ok(format!("{kind} with the port {}", port.name));
        }
        Err(match ports.as_slice() {
            [] => format!("{kind} without ports"),
            [port, ..] => format!(
                "{kind} whose ports lead to no network card, such as {}",
                port.name
            ),
        })
    }

    /// The ports of a bridge. Open vSwitch has one controller for the ports of all its bridges.
    fn ports(&self, bridge: &'a Interface) -> impl Iterator<Item = &'a Interface> {
        let is_port = move |port: &&Interface| {
            port.controller.is_some_and(|index| {
                let controller = self.by_index.get(&index);
                index == bridge.index
                    || controller.is_some_and(|one| is_openvswitch(one) && is_openvswitch(bridge))
            })
        };
        self.by_index.values().copied().filter(is_port)
    }

    fn by_lower(&self, interface: &Interface, kind: &str, depth: u8) -> Verdict {
        let lower = match interface.lower {
            Some(LowerInterface::Outside) => return Ok(format!("{kind} of a container")),
            Some(LowerInterface::Inside(index)) => self.by_index.get(&index),
            None => None,
        };
        let (Some(lower), Some(depth)) = (lower, depth.checked_sub(1)) else {
            return Err(format!("{kind} without a known interface below"));
        };
        let over = |reason: String| format!("{kind} over {}, {reason}", lower.name);
        self.leads_to_site(lower, depth).map(over).map_err(over)
    }
}

/// Why no scan of a network is useful on any interface.
fn unsuitable(interface: &Interface, subnet: Ipv4Network) -> Option<&'static str> {
    let private = |ip: std::net::Ipv4Addr| classify(ip.into()) == AddressClass::Private;
    if !interface.is_up {
        Some("the interface is disabled")
    } else if !private(subnet.network()) || !private(subnet.broadcast()) {
        Some("not a private network")
    } else if subnet.prefix() == 32 {
        Some("no room for other hosts")
    } else {
        None
    }
}

fn by_default_route(interface: &Interface, what: &str) -> Verdict {
    if interface.has_default_route {
        Ok(format!("{what} with the default route"))
    } else {
        Err(what.to_owned())
    }
}

fn is_openvswitch(interface: &Interface) -> bool {
    interface.kind == InterfaceKind::Named("openvswitch".to_owned())
}
