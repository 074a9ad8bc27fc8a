//! Names by DNS: the system's name servers, or those that the operator names.

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

/// Asks name servers, and asks them again for every scan: nothing is cached.
#[derive(Clone, Debug)]
pub struct DnsResolver {
    /// Instead of the system's.
    servers: Vec<SocketAddr>,
}

impl DnsResolver {
    /// Asks as the system does: its name servers, its search domains, its hosts file. They are read at each lookup, so
    /// that a node follows its network.
    pub fn system() -> Self {
        Self {
            servers: Vec::new(),
        }
    }

    /// Asks these name servers only, neither hosts file nor search domains; with none, as [`Self::system`].
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
        // Both families whatever the system prefers: an address that is not asked for is one that nobody judges.
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
