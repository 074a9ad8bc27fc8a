//! Decides which targets this machine reaches without a router, and over which interface. Pure.

use std::{
    cmp::Reverse,
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
};

use fleet_core::Mac;

/// An interface that resolves hardware addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) index: u32,
    pub(super) mac: Option<Mac>,
    /// Its own addresses.
    pub(super) addresses: Vec<IpAddr>,
}

impl Interface {
    /// Its IPv4 address nearest to a target. Some hosts answer nobody outside their own network.
    pub(super) fn address_for(&self, target: Ipv4Addr) -> Option<Ipv4Addr> {
        let own = self.addresses.iter().filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        own.min_by_key(|own| own.to_bits() ^ target.to_bits())
    }
}

/// An entry of the routing table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) to: IpAddr,
    /// Length of the prefix in bits.
    pub(super) length: u8,
    pub(super) metric: u32,
    pub(super) next_hop: NextHop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NextHop {
    /// Directly over this interface.
    OnLink(u32),
    /// Through this router, over this interface.
    Via(IpAddr, u32),
    /// Through several routers, to this machine, or nowhere.
    Elsewhere,
}

/// The interfaces and routes that matter to a scan.
#[derive(Debug)]
pub(super) struct Links {
    interfaces: Vec<Interface>,
    /// The longest prefix first, then the smallest metric.
    routes: Vec<Route>,
}

impl Links {
    /// Keeps the routes that lead to an address in `range`.
    pub(super) fn new(
        interfaces: Vec<Interface>,
        mut routes: Vec<Route>,
        range: RangeInclusive<IpAddr>,
    ) -> Self {
        // Every target searches this list, and a router's table can have many thousands of routes.
        routes.retain(|route| route.first() <= *range.end() && *range.start() <= route.last());
        routes.sort_by_key(|route| (Reverse(route.length), route.metric));
        Self { interfaces, routes }
    }

    /// The interface to a target, and the router behind which the target is or that is on its link. None for targets
    /// on this machine or without a single route.
    pub(super) fn path(&self, target: IpAddr) -> Option<(u32, Option<IpAddr>)> {
        let route = self.routes.iter().find(|route| route.covers(target))?;
        match route.next_hop {
            NextHop::Via(router, interface) => Some((interface, Some(router))),
            NextHop::OnLink(interface) => {
                self.of(target)?;
                let routers = self.routes.iter().filter_map(|route| match route.next_hop {
                    NextHop::Via(router, index) if index == interface => Some(router),
                    NextHop::Via(..) | NextHop::OnLink(_) | NextHop::Elsewhere => None,
                });
                let mut routers = routers.filter(|router| router.is_ipv4() == target.is_ipv4());
                // A host cannot be its own canary.
                Some((interface, routers.find(|router| *router != target)))
            }
            NextHop::Elsewhere => None,
        }
    }

    /// The interface on whose link a target is, if any.
    pub(super) fn of(&self, target: IpAddr) -> Option<&Interface> {
        let route = self.routes.iter().find(|route| route.covers(target))?;
        let NextHop::OnLink(index) = route.next_hop else {
            return None;
        };
        // Nobody answers a request for an address of this machine, so it must not wait for an
        // answer.
        let own = |interface: &&Interface| interface.addresses.contains(&target);
        if self.interfaces.iter().any(|interface| own(&interface)) {
            return None;
        }
        self.interfaces
            .iter()
            .find(|interface| interface.index == index)
    }
}

impl Route {
    fn covers(&self, target: IpAddr) -> bool {
        self.first() <= target && target <= self.last() && self.to.is_ipv4() == target.is_ipv4()
    }

    fn first(&self) -> IpAddr {
        match self.to {
            IpAddr::V4(to) => IpAddr::V4(Ipv4Addr::from_bits(to.to_bits() & !self.host_bits_v4())),
            IpAddr::V6(to) => IpAddr::V6((to.to_bits() & !self.host_bits_v6()).into()),
        }
    }

    fn last(&self) -> IpAddr {
        match self.to {
            IpAddr::V4(to) => IpAddr::V4(Ipv4Addr::from_bits(to.to_bits() | self.host_bits_v4())),
            IpAddr::V6(to) => IpAddr::V6((to.to_bits() | self.host_bits_v6()).into()),
        }
    }

    fn host_bits_v4(&self) -> u32 {
        // A shift by all bits overflows. Such a prefix has no host bits.
        u32::MAX.checked_shr(self.length.into()).unwrap_or(0)
    }

    fn host_bits_v6(&self) -> u128 {
        u128::MAX.checked_shr(self.length.into()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn route(to: &str, length: u8, metric: u32, next_hop: NextHop) -> Route {
        Route {
            to: ip(to),
            length,
            metric,
            next_hop,
        }
    }

    fn interface(index: u32, addresses: &[&str]) -> Interface {
        Interface {
            index,
            mac: None,
            addresses: addresses.iter().map(|address| ip(address)).collect(),
        }
    }

    #[test]
    fn the_most_specific_route_decides_whether_a_target_is_on_the_link() {
        let links = Links::new(
            vec![
                interface(2, &["fe80::1", "10.0.0.1", "fd00::1"]),
                interface(3, &["10.9.0.1"]),
            ],
            vec![
                route("0.0.0.0", 0, 0, NextHop::Elsewhere),
                route("10.0.0.0", 22, 100, NextHop::OnLink(2)),
                route("10.0.0.0", 22, 200, NextHop::Elsewhere),
                route("10.0.1.0", 24, 0, NextHop::Elsewhere),
                route("10.0.1.7", 32, 0, NextHop::OnLink(3)),
                route("10.5.0.0", 16, 0, NextHop::OnLink(9)),
                route("fd00::", 64, 0, NextHop::OnLink(2)),
            ],
            ip("10.0.0.0")..=ip("fd00::ffff"),
        );
        for (target, expected) in [
            ("10.0.0.7", Some(2)),
            ("10.0.3.255", Some(2)),
            ("10.0.0.1", None),
            ("10.9.0.1", None),
            ("10.0.1.6", None),
            ("10.0.1.7", Some(3)),
            ("10.0.4.1", None),
            ("10.5.0.1", None),
            ("fd00::7", Some(2)),
            ("fd00:0:0:1::7", None),
        ] {
            let found = links.of(ip(target)).map(|interface| interface.index);
            assert_eq!(found, expected, "{target}");
        }
    }

    #[test]
    fn an_interface_uses_its_address_in_the_targets_network() {
        let interface = interface(2, &["fe80::1", "192.168.7.1", "10.0.0.1"]);
        for (target, expected) in [
            ([10, 0, 3, 255], [10, 0, 0, 1]),
            ([192, 168, 0, 9], [192, 168, 7, 1]),
        ] {
            let address = interface.address_for(target.into());
            assert_eq!(address, Some(expected.into()));
        }
    }

    #[test]
    fn routes_to_other_addresses_are_left_out() {
        let routes = vec![
            route("10.0.0.0", 24, 0, NextHop::OnLink(2)),
            route("10.0.9.0", 24, 0, NextHop::OnLink(2)),
            route("0.0.0.0", 0, 0, NextHop::Elsewhere),
            route("fd00::", 64, 0, NextHop::OnLink(2)),
        ];
        let links = Links::new(Vec::new(), routes, ip("10.0.0.9")..=ip("10.0.1.9"));
        assert_eq!(links.routes.len(), 2);
    }
}
