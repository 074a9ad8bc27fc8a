//! Resolves names by DNS, with the system's name servers or configured ones.

use std::{
    fs::File,
    io::{self, Read},
    net::{IpAddr, SocketAddr},
};

use fleet_core::{NameSource, NamedBy, parse_literal};
use fleet_discovery::HostName;
use hickory_proto::rr::{Name, RData};
use hickory_resolver::{
    TokioResolver,
    config::{
        ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
        ResolverOpts,
    },
    net::{NetError, runtime::TokioRuntimeProvider},
};

use super::{LookupError, Resolver};
use crate::BoxFuture;

/// The system's hosts file.
const HOSTS: &str = "/etc/hosts";
/// The limit of bytes read from the hosts file.
const HOSTS_MOST: u64 = 1024 * 1024;

/// Queries name servers without a cache, so every scan gets current addresses.
#[derive(Clone, Debug)]
pub struct DnsResolver {
    /// Replaces the system's name servers, unless empty.
    servers: Vec<SocketAddr>,
}

impl DnsResolver {
    /// Resolves like the system: with its name servers, search domains and hosts file. They are read at each lookup,
    /// because a node can move to another network.
    pub fn system() -> Self {
        Self {
            servers: Vec::new(),
        }
    }

    /// Queries only these name servers, without hosts file and search domains. An empty list means [`Self::system`].
    pub fn asking(servers: Vec<SocketAddr>) -> Self {
        Self { servers }
    }

    fn resolver(&self) -> Result<TokioResolver, NetError> {
        // Not `getaddrinfo`, which takes `127.1` for an address and blocks a thread (decision
        // 0009).
        let mut builder = if self.servers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let servers = self.servers.iter().copied().map(server).collect();
            let config = ResolverConfig::from_name_servers(servers);
            let mut builder =
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.options_mut().use_hosts_file = ResolveHosts::Never;
            builder
        };
        let options: &mut ResolverOpts = builder.options_mut();
        // Query both families, not only the one that the system prefers. Otherwise some addresses would skip the check.
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.cache_size = 0;
        builder.build()
    }
}

fn server(address: SocketAddr) -> NameServerConfig {
    let mut config = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut config.connections {
        let connection: &mut ConnectionConfig = connection;
        connection.port = address.port();
    }
    config
}

/// Reads the system's hosts file, up to a bound.
fn read_hosts() -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(HOSTS)?
        .take(HOSTS_MOST)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The addresses of a name in the text of a hosts file; empty if the name is not in it.
fn in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = parse_literal(words.next()?)?;
        words
            .any(|word| word.eq_ignore_ascii_case(name))
            .then_some(address)
    };
    text.lines().filter_map(address).collect()
}

impl Resolver for DnsResolver {
    fn lookup<'a>(&'a self, name: &'a HostName) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>> {
        Box::pin(async move {
            let failed = |error: NetError| {
                if error.is_no_records_found() {
                    LookupError::NoAddress
                } else {
                    LookupError::Failed(error.to_string())
                }
            };
            // The resolver library queries a name server for the family that the hosts file lacks, and fails without a
            // server. System programs use only the hosts file for such a name.
            if let Some(listed) = self.listed(name) {
                return Ok(listed);
            }
            let resolver = self.resolver().map_err(failed)?;
            let found = resolver.lookup_ip(name.as_str()).await.map_err(failed)?;
            Ok(found.iter().collect())
        })
    }

    fn reverse<'a>(&'a self, ip: IpAddr) -> BoxFuture<'a, Option<NamedBy>> {
        Box::pin(async move {
            let resolver = self.resolver().ok()?;
            let found = resolver.reverse_lookup(Name::from(ip)).await.ok()?;
            let mut names = found.answers().iter().filter_map(|record| {
                let RData::PTR(name) = &record.data else {
                    return None;
                };
                NamedBy::new(&name.to_ascii(), NameSource::ReverseDns)
            });
            names.next()
        })
    }

    fn listed(&self, name: &HostName) -> Option<Vec<IpAddr>> {
        if !self.servers.is_empty() {
            return None;
        }
        // A machine without a hosts file is normal.
        let found = in_hosts(&read_hosts().unwrap_or_default(), name.as_str());
        (!found.is_empty()).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_the_hosts_file_has_exactly_the_addresses_there() {
        let text = "# 10.0.0.1 miner.lan\n10.0.0.2 other miner.LAN # rack 4\nfd00::2\tminer.lan\n300.0.0.1 miner.lan\n";
        let expected: [IpAddr; 2] = [[10, 0, 0, 2].into(), "fd00::2".parse().expect("an address")];
        assert_eq!(in_hosts(text, "miner.lan"), expected);
        assert!(in_hosts(text, "rack").is_empty());
    }
}
