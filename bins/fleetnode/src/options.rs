//! Converts flags into the options of an agent. All commands with these flags use it.

use std::{path::Path, sync::Arc};

use fleet_agent::{AgentOptions, SitePolicy};
use fleet_core::{AddressPolicy, classify};
use fleet_scan::{DnsResolver, DriverSet, Fingerprints, ScanOptions};

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
        drivers: Arc::new(DriverSet::with_fingerprints(fingerprints(
            args.fingerprints.as_deref(),
        )?)),
        scan: ScanOptions {
            rate: args.rate,
            ..ScanOptions::default()
        },
        local_subnets: (!args.local_subnet.is_empty()).then_some(args.local_subnet),
        resolver: Arc::new(DnsResolver::asking(args.dns_server)),
        host_names: !args.no_host_names,
        ..AgentOptions::default()
    })
}

/// The built-in rules with those of a folder. A rule that cannot be used is logged; the others stay.
fn fingerprints(folder: Option<&Path>) -> Result<Arc<Fingerprints>, Usage> {
    let Some(folder) = folder else {
        return Ok(Fingerprints::built_in());
    };
    let (rules, errors) = Fingerprints::with_folder(folder).map_err(|error| {
        let folder = folder.display();
        Usage::new(format!(
            "--fingerprints {folder} cannot be read: {error}; specify a folder of rule files"
        ))
    })?;
    for error in errors {
        tracing::warn!(
            file = error.file,
            line = error.line,
            reason = error.reason,
            "ignoring a fingerprint rule"
        );
    }
    Ok(Arc::new(rules))
}
