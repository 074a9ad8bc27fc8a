//! `fleetctl sites`: sites, their excludes and their blackouts.

use std::io::{self, Write};

use fleet_wire::{
    RpcError,
    fleet::{
        CreateSiteRequest, DeleteSiteRequest, ExcludeTargetsRequest, ListSitesRequest,
        MoveNodeRequest, RemoveExcludeRequest, RenameSiteRequest, SetBlackoutsRequest, Site,
        SiteExclude,
    },
};

use crate::{
    cli::{Format, Sites},
    failure::Failure,
    nodes,
    output::{self, Rows},
    server::Server,
    times,
};

pub(crate) async fn run(server: &Server, format: Format, command: Sites) -> Result<u8, Failure> {
    let sites = &server.sites;
    match command {
        Sites::List => output::rows(format, &list(server).await?)?,
        Sites::Show { site } => show(format, &find(server, &site).await?)?,
        Sites::Create { name } => {
            let created = sites
                .create_site(&CreateSiteRequest { name }, server.call()?)
                .await?;
            let site = find(server, &created.site_id.to_string()).await?;
            output::one(format, &site)?;
        }
        Sites::Rename { site, name } => {
            let request = RenameSiteRequest {
                site_id: find(server, &site).await?.site_id,
                name,
            };
            sites.rename_site(&request, server.call()?).await?;
        }
        Sites::Delete { site } => {
            let request = DeleteSiteRequest {
                site_id: find(server, &site).await?.site_id,
            };
            sites.delete_site(&request, server.call()?).await?;
        }
        Sites::AddNode { site, node } => {
            let request = MoveNodeRequest {
                fleet_node_id: nodes::resolve(server, &node).await?,
                site_id: find(server, &site).await?.site_id,
            };
            server.nodes.move_node(&request, server.call()?).await?;
        }
        Sites::Exclude {
            site,
            targets,
            reason,
        } => {
            let request = ExcludeTargetsRequest {
                site_id: find(server, &site).await?.site_id,
                targets: targets.join(" "),
                reason,
            };
            sites.exclude_targets(&request, server.call()?).await?;
        }
        Sites::RemoveExclude { id } => {
            let request = RemoveExcludeRequest {
                site_exclude_id: id,
            };
            sites.remove_exclude(&request, server.call()?).await?;
        }
        Sites::Blackouts {
            site,
            windows,
            time_zone,
        } => {
            let request = SetBlackoutsRequest {
                site_id: find(server, &site).await?.site_id,
                time_zone,
                blackouts: windows.join("; "),
            };
            sites.set_blackouts(&request, server.call()?).await?;
        }
    }
    Ok(0)
}

async fn list(server: &Server) -> Result<Vec<Site>, Failure> {
    let listed = server
        .sites
        .list_sites(&ListSitesRequest {}, server.call()?)
        .await?;
    Ok(listed.sites)
}

/// Finds a site by its id or its name.
pub(crate) async fn find(server: &Server, wanted: &str) -> Result<Site, Failure> {
    Ok(pick(list(server).await?, wanted)?)
}

fn pick(sites: Vec<Site>, wanted: &str) -> Result<Site, RpcError> {
    let id = wanted.parse::<i64>().ok();
    let mut found = sites.into_iter().filter(|site| match id {
        Some(id) => site.site_id == id,
        None => site.name == wanted,
    });
    let wanted = output::plain(wanted);
    let Some(site) = found.next() else {
        return Err(RpcError::not_found(format!(
            "no site `{wanted}` in this organization: `fleetctl sites list` shows them"
        )));
    };
    match found.next() {
        None => Ok(site),
        Some(other) => Err(RpcError::invalid_argument(format!(
            "sites {} and {} have the name `{wanted}`: use an id",
            site.site_id, other.site_id
        ))),
    }
}

fn show(format: Format, site: &Site) -> Result<(), Failure> {
    output::one(format, site)?;
    if !format.is_table() {
        return Ok(());
    }
    let mut out = io::stdout();
    if !site.excludes.is_empty() {
        writeln!(out)?;
        output::rows(format, &site.excludes)?;
    }
    Ok(())
}

impl Rows for Site {
    const HEAD: &'static [&'static str] = &[
        "Site",
        "Name",
        "Nodes",
        "Excludes",
        "Blackouts",
        "Time zone",
        "Blackout until",
    ];
    const OPTIONAL: &'static [&'static str] = &["Time zone", "Blackout until"];
    const WHOLE: &'static [&'static str] = &["Site"];

    fn cells(&self) -> Vec<String> {
        let nodes: Vec<String> = self
            .fleet_node_ids
            .iter()
            .map(ToString::to_string)
            .collect();
        vec![
            self.site_id.to_string(),
            self.name.clone(),
            nodes.join(" "),
            self.excludes.len().to_string(),
            self.blackouts.clone(),
            self.time_zone.clone(),
            times::timestamp(self.blackout_until.as_ref()),
        ]
    }
}

impl Rows for SiteExclude {
    const HEAD: &'static [&'static str] = &["Exclude", "Target", "Reason", "Created by", "Created"];
    const OPTIONAL: &'static [&'static str] = &["Created by", "Created"];
    const WHOLE: &'static [&'static str] = &["Exclude", "Target"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.site_exclude_id.to_string(),
            self.target.clone(),
            self.reason.clone(),
            self.created_by.clone(),
            times::timestamp(self.created_at.as_ref()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use fleet_wire::Code;

    use super::*;

    #[test]
    fn a_site_is_picked_by_id_or_by_a_unique_name() {
        let site = |id, name: &str| Site {
            site_id: id,
            name: name.to_owned(),
            ..Site::default()
        };
        let sites = || vec![site(1, "north"), site(2, "south"), site(3, "south")];
        assert_eq!(pick(sites(), "2").expect("an id").site_id, 2);
        assert_eq!(pick(sites(), "north").expect("a name").site_id, 1);
        let twice = pick(sites(), "south").expect_err("two sites");
        assert_eq!(twice.code, Code::InvalidArgument);
        assert!(twice.message.contains("2 and 3"), "{}", twice.message);
        let none = pick(sites(), "west").expect_err("none");
        assert_eq!(none.code, Code::NotFound);
    }
}
