//! Resolves names by DNS, with the system's name servers or configured ones.

use std::net::{IpAddr, SocketAddr};

use fleet_discovery::HostName;
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

/// Queries name servers without a cache, so every scan gets current addresses.
#[derive(Clone, Debug)]
pub struct DnsResolver {
    /// In place of the system's name servers.
    servers: Vec<SocketAddr>,
}

impl DnsResolver {
    /// Resolves like the system: its name servers, search domains and hosts file. They are read at each lookup, because a
    /// node can move to another network.
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
        // Both families, whatever the system prefers: an address that is not looked up would not be checked.
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
            let resolver = self.resolver().map_err(failed)?;
            let found = resolver.lookup_ip(name.as_str()).await.map_err(failed)?;
            Ok(found.iter().collect())
        })
    }
}
