//! The rules of sites for the server's own network. Nobody knows of which site that network is a part, so the rules of all
//! sites hold.

use std::net::IpAddr;

use fleet_core::{OrgId, Timestamp};
use fleet_discovery::Exclusion;
use fleet_wire::RpcError;
use ipnetwork::IpNetwork;

use crate::{
    app::App,
    failure::Answered,
    scans::{self, SiteBlackout},
};

/// The excludes of all sites, and the subnets of those that have a blackout.
#[derive(Debug)]
pub(super) struct SiteRules {
    pub(super) exclusions: Vec<Exclusion>,
    blackouts: Vec<(SiteBlackout, Vec<IpNetwork>)>,
}

impl SiteRules {
    /// Reads the rules that hold at a moment.
    ///
    /// # Errors
    ///
    /// FAILED_PRECONDITION if an exclude cannot be read: nothing is dialed then.
    pub(super) async fn at(app: &App, org: OrgId, now: Timestamp) -> Result<Self, RpcError> {
        let sites = app.store.list_sites(org).await.answered()?;
        let mut exclusions = Vec::new();
        for site in &sites {
            exclusions.extend(scans::exclusions(Some(site))?);
        }
        let mut blackouts = Vec::new();
        let with_blackout = sites
            .iter()
            .filter_map(|site| Some((site.id, SiteBlackout::of(site, now)?)));
        let with_blackout: Vec<_> = with_blackout.collect();
        if !with_blackout.is_empty() {
            let nodes = app.all_nodes(org).await.answered()?;
            for (site, blackout) in with_blackout {
                let of_site = nodes.iter().filter(|node| node.site == site);
                let hellos = of_site.filter_map(|node| node.hello.as_ref());
                let subnets = hellos.flat_map(|hello| hello.profile().local_subnets);
                blackouts.push((blackout, subnets.collect()));
            }
        }
        Ok(Self {
            exclusions,
            blackouts,
        })
    }

    /// The exclude of some site that covers an address.
    pub(super) fn exclude(&self, ip: IpAddr) -> Option<&Exclusion> {
        self.exclusions.iter().find(|exclude| exclude.contains(ip))
    }

    /// The blackout of the site in whose subnets an address lies.
    pub(super) fn blackout(&self, ip: IpAddr) -> Option<&SiteBlackout> {
        let mut blackouts = self.blackouts.iter();
        let within = blackouts.find(|(_, subnets)| subnets.iter().any(|net| net.contains(ip)));
        within.map(|(blackout, _)| blackout)
    }
}
