//! Names in `local`, which multicast DNS resolves (RFC 6762, 3): unicast name servers do not know them.

use std::net::IpAddr;

use fleet_core::NamedBy;
use fleet_discovery::HostName;
use ipnetwork::Ipv4Network;

use super::{LookupError, Resolver};
use crate::{BoxFuture, mdns};

/// Resolves names in `local` by multicast DNS on the node's own links, and other names by another resolver.
#[derive(Clone, Copy, Debug)]
pub struct MulticastResolver<'r> {
    /// Resolves the other names. It also gets names with a further label, such as `rig.site.local`, that no host answers:
    /// some sites have a unicast domain of that form.
    pub others: &'r dyn Resolver,
    /// Interfaces in these networks are asked.
    pub subnets: &'r [Ipv4Network],
    /// The port of queries and answers: 5353, except for simulated devices with a port of their own.
    pub port: u16,
}

impl<'r> MulticastResolver<'r> {
    /// Asks at the port of multicast DNS.
    pub fn new(others: &'r dyn Resolver, subnets: &'r [Ipv4Network]) -> Self {
        Self {
            others,
            subnets,
            port: mdns::PORT,
        }
    }
}

impl Resolver for MulticastResolver<'_> {
    fn lookup<'a>(&'a self, name: &'a HostName) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>> {
        Box::pin(async move {
            let Some(host) = name.as_str().strip_suffix(".local") else {
                return self.others.lookup(name).await;
            };
            if let Some(listed) = self.others.listed(name) {
                return Ok(listed);
            }
            let answered = mdns::resolve(name, self.subnets, self.port).await;
            match answered {
                Ok(addresses) if !addresses.is_empty() => Ok(addresses),
                Ok(_) | Err(_) if host.contains('.') => self.others.lookup(name).await,
                Ok(_) => Err(LookupError::Unclaimed),
                Err(error) => Err(LookupError::Failed(error.to_string())),
            }
        })
    }

    fn reverse<'a>(&'a self, ip: IpAddr) -> BoxFuture<'a, Option<NamedBy>> {
        self.others.reverse(ip)
    }
}
