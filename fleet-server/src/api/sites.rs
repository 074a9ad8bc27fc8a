//! `fleet.v1.SiteService`: sites and the rules that bind their scans.

use fleet_core::{SiteExcludeId, SiteId, Timestamp};
use fleet_discovery::excluded_entries;
use fleet_inventory::{Blackout, Zone, is_always};
use fleet_store::{NewBlackouts, SiteRow};
use fleet_wire::{
    Context, Reply, RpcError,
    fleet::{
        self, CreateSiteRequest, CreateSiteResponse, DeleteSiteRequest, DeleteSiteResponse,
        ExcludeTargetsRequest, ExcludeTargetsResponse, ListSitesRequest, ListSitesResponse,
        RemoveExcludeRequest, RemoveExcludeResponse, RenameSiteRequest, RenameSiteResponse,
        SetBlackoutsRequest, SetBlackoutsResponse, SiteService,
    },
};

use super::Api;
use crate::{convert, failure::Answered};

impl SiteService for Api {
    async fn list_sites(
        &self,
        context: Context,
        _: ListSitesRequest,
    ) -> Result<Reply<ListSitesResponse>, RpcError> {
        let call = self.operator(&context)?;
        let rows = self.app.store.list_sites(call.org).await.answered()?;
        Ok(Reply::new(ListSitesResponse {
            sites: rows.into_iter().map(|row| site(row, call.now)).collect(),
        }))
    }

    async fn create_site(
        &self,
        context: Context,
        request: CreateSiteRequest,
    ) -> Result<Reply<CreateSiteResponse>, RpcError> {
        let call = self.operator(&context)?;
        let store = &self.app.store;
        let created = store.create_site(call.org, &request.name, call.actor(), call.now);
        let site = call
            .attempt("site.create", format!("site {}", request.name))
            .or_refused(&self.app.auditor, created.await)
            .await?;
        Ok(Reply::new(CreateSiteResponse { site_id: site.0 }))
    }

    async fn rename_site(
        &self,
        context: Context,
        request: RenameSiteRequest,
    ) -> Result<Reply<RenameSiteResponse>, RpcError> {
        let call = self.operator(&context)?;
        let (id, name) = (SiteId(request.site_id), &request.name);
        let store = &self.app.store;
        let renamed = store.rename_site(call.org, id, name, call.actor(), call.now);
        call.attempt("site.rename", format!("site {id} to {name}"))
            .or_refused(&self.app.auditor, renamed.await)
            .await?;
        Ok(Reply::new(RenameSiteResponse {}))
    }

    async fn delete_site(
        &self,
        context: Context,
        request: DeleteSiteRequest,
    ) -> Result<Reply<DeleteSiteResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = SiteId(request.site_id);
        let store = &self.app.store;
        let deleted = store.delete_site(call.org, id, call.actor(), call.now);
        call.attempt("site.delete", format!("site {id}"))
            .or_refused(&self.app.auditor, deleted.await)
            .await?;
        Ok(Reply::new(DeleteSiteResponse {}))
    }

    async fn exclude_targets(
        &self,
        context: Context,
        request: ExcludeTargetsRequest,
    ) -> Result<Reply<ExcludeTargetsResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = SiteId(request.site_id);
        let targets = excluded_entries(&request.targets).map_err(|error| {
            RpcError::invalid_argument(error.to_string())
                .with_reason("INVALID_FIELD")
                .with_fact("field", "targets")
        })?;
        let count = targets.len();
        let excluded = self.app.store.exclude_targets(
            call.org,
            id,
            &targets,
            &request.reason,
            call.operator,
            call.actor(),
            call.now,
        );
        call.attempt("site.exclude", format!("{count} targets at site {id}"))
            .or_refused(&self.app.auditor, excluded.await)
            .await?;
        Ok(Reply::new(ExcludeTargetsResponse {}))
    }

    async fn remove_exclude(
        &self,
        context: Context,
        request: RemoveExcludeRequest,
    ) -> Result<Reply<RemoveExcludeResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = SiteExcludeId(request.site_exclude_id);
        let store = &self.app.store;
        let removed = store.remove_exclude(call.org, id, call.actor(), call.now);
        call.attempt("site.remove_exclude", format!("exclude {id}"))
            .or_refused(&self.app.auditor, removed.await)
            .await?;
        Ok(Reply::new(RemoveExcludeResponse {}))
    }

    async fn set_blackouts(
        &self,
        context: Context,
        request: SetBlackoutsRequest,
    ) -> Result<Reply<SetBlackoutsResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = SiteId(request.site_id);
        let new = blackouts(&request)?;
        let store = &self.app.store;
        let set = store.set_blackouts(call.org, id, new, call.actor(), call.now);
        call.attempt("site.set_blackouts", format!("site {id}"))
            .or_refused(&self.app.auditor, set.await)
            .await?;
        Ok(Reply::new(SetBlackoutsResponse {}))
    }
}

fn blackouts(request: &SetBlackoutsRequest) -> Result<NewBlackouts, RpcError> {
    let zone = match request.time_zone.as_str() {
        "" => "UTC",
        zone => zone,
    };
    let zone: Zone = zone
        .parse()
        .map_err(|error: fleet_inventory::UnknownZone| {
            RpcError::invalid_argument(error.to_string())
                .with_reason("INVALID_FIELD")
                .with_fact("field", "time_zone")
                .with_fact("value", convert::printable(&request.time_zone, 64))
        })?;
    let windows = Blackout::parse_list(&request.blackouts).map_err(|error| {
        RpcError::invalid_argument(error.to_string())
            .with_reason("INVALID_FIELD")
            .with_fact("field", "blackouts")
    })?;
    if is_always(&windows, &zone) {
        return Err(RpcError::invalid_argument(format!(
            "`{}` leaves no minute of a week for scans: shorten a window, or halt the nodes instead",
            request.blackouts
        )).with_reason("INVALID_FIELD").with_fact("field", "blackouts").with_fact("value", convert::printable(&request.blackouts, 256)));
    }
    Ok(NewBlackouts { zone, windows })
}

fn site(row: SiteRow, now: Timestamp) -> fleet::Site {
    let blackout = row.blackout(now);
    let windows: Vec<String> = row.blackouts.iter().map(ToString::to_string).collect();
    fleet::Site {
        site_id: row.id.0,
        name: row.name,
        created_at: Some(convert::timestamp(row.created_at)),
        fleet_node_ids: row.nodes.iter().map(|node| node.0).collect(),
        excludes: row.excludes.into_iter().map(exclude).collect(),
        time_zone: row.zone.to_string(),
        blackouts: windows.join("; "),
        blackout_until: blackout.map(|end| convert::timestamp(end.at)),
    }
}

fn exclude(one: fleet_store::SiteExclude) -> fleet::SiteExclude {
    fleet::SiteExclude {
        site_exclude_id: one.id.0,
        target: one.target,
        reason: one.reason,
        created_by: one.created_by,
        created_at: Some(convert::timestamp(one.created_at)),
    }
}
