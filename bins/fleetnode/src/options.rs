//! Converts flags into the options of an agent. All commands with these flags use it.

use std::sync::Arc;

use fleet_agent::{AgentOptions, SitePolicy};
use fleet_core::{AddressPolicy, classify};
use fleet_scan::{DnsResolver, ScanOptions};

use crate::{
    cli::{EngineArgs, SiteArgs},
    exit::Usage,
};

pub(crate) fn site(args: SiteArgs) -> SitePolicy {
    SitePolicy {
        allowed_networks: args.allow_network,
        denied_ports: args.deny_port.into_iter().collect(),
        addresses: if args.demo_allow_loopback {
            AddressPolicy::DEMO
        } else {
            AddressPolicy::default()
        },
    }
}

/// Upstream's variable for the local subnet.
const UPSTREAM_SUBNET: &str = "FLEETNODE_LOCAL_DISCOVERY_SUBNET";

pub(crate) fn agent(site_args: SiteArgs, mut args: EngineArgs) -> Result<AgentOptions, Usage> {
    let site = site(site_args);
    if args.local_subnet.is_empty()
        && let Ok(text) = std::env::var(UPSTREAM_SUBNET)
    {
        args.local_subnet.push(text.parse().map_err(|_| {
            Usage::new(format!(
                "{UPSTREAM_SUBNET}={text:?} is not an IPv4 network; write one such as 10.0.0.0/22"
            ))
        })?);
    }
    for subnet in &args.local_subnet {
        let edges = [subnet.network(), subnet.broadcast()];
        if let Some(edge) = edges
            .into_iter()
            .find(|edge| site.addresses.admit((*edge).into()).is_err())
        {
            let class = classify(edge.into()).as_str();
            return Err(Usage::new(format!(
                "--local-subnet {subnet} contains {edge}, a {class} address; specify a private network such as 10.0.0.0/22"
            )));
        }
    }
    Ok(AgentOptions {
        site,
        scan: ScanOptions {
            rate: args.rate,
            ..ScanOptions::default()
        },
        local_subnets: (!args.local_subnet.is_empty()).then_some(args.local_subnet),
        resolver: Arc::new(DnsResolver::asking(args.dns_server)),
        ..AgentOptions::default()
    })
}
