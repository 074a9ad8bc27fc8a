//! `fleet.v1.OverviewService`: counts, the last days and maps of sites.

use fleet_core::{SiteId, enrollment::NodeState};
use fleet_inventory::{BlockNumber, Day, DayCounts, WideCounts, WideNetwork};
use fleet_store::{MapBlock, MapCell};
use fleet_wire::{
    Context, Reply, RpcError,
    fleet::{
        self, GetOverviewRequest, GetOverviewResponse, GetSiteMapRequest, GetSiteMapResponse,
        InventoryDay, Ipv6Network, MapHost, OverviewService,
    },
};

use super::Api;
use crate::{convert, failure::Answered};

/// Default and maximum number of blocks on a page.
const PAGE: (u32, u32) = (16, 64);

impl OverviewService for Api {
    async fn get_overview(
        &self,
        context: Context,
        _: GetOverviewRequest,
    ) -> Result<Reply<GetOverviewResponse>, RpcError> {
        let call = self.operator(&context)?;
        let store = &self.app.store;
        let counts = store.overview_counts(call.org, call.now).await.answered()?;
        let days = store.overview_days(call.org, call.now).await.answered()?;
        let nodes = self.app.all_nodes(call.org).await.answered()?;
        let is_away = |node: &&fleet_store::NodeRow| {
            node.state == NodeState::Confirmed && !self.app.is_online(node, call.now)
        };
        Ok(Reply::new(GetOverviewResponse {
            devices: counts.devices,
            new_today: counts.new_today,
            missing: counts.missing,
            need_password: counts.need_password,
            nodes_offline: nodes.iter().filter(is_away).count() as u64,
            scans_running: counts.scans_running,
            days: days.into_iter().map(day).collect(),
        }))
    }

    async fn get_site_map(
        &self,
        context: Context,
        request: GetSiteMapRequest,
    ) -> Result<Reply<GetSiteMapResponse>, RpcError> {
        let call = self.operator(&context)?;
        let id = SiteId(request.site_id);
        let after = cursor(&request.cursor)?;
        let limit = convert::page_size(request.limit, PAGE.0, PAGE.1);
        let store = &self.app.store;
        let found = store
            .site_map(call.org, id, after, limit)
            .await
            .answered()?;
        let map = found
            .ok_or(fleet_store::SiteError::NotFound(id))
            .answered()?;
        Ok(Reply::new(GetSiteMapResponse {
            blocks: map.blocks.iter().map(block).collect(),
            next_cursor: map.next.map_or_else(String::new, |next| next.to_string()),
            total: map.total,
            ipv6_networks: map.wide.iter().map(wide).collect(),
            ipv6_total: map.wide_total,
        }))
    }
}

fn wide((network, counts): &(WideNetwork, WideCounts)) -> Ipv6Network {
    Ipv6Network {
        network: network.to_string(),
        devices: counts.devices,
        announced: counts.announced,
    }
}

fn day((day, counts): (Day, DayCounts)) -> InventoryDay {
    InventoryDay {
        date: day.date(),
        seen: counts.seen,
        added: counts.new,
        missing: counts.missing,
    }
}

fn cursor(text: &str) -> Result<Option<BlockNumber>, RpcError> {
    if text.is_empty() {
        return Ok(None);
    }
    let block = text.parse().map_err(|error| {
        RpcError::invalid_argument(format!(
            "cursor: {error}, or leave it empty for the first page"
        ))
        .with_reason("INVALID_FIELD")
        .with_fact("field", "cursor")
    })?;
    Ok(Some(block))
}

fn block(block: &MapBlock) -> fleet::MapBlock {
    let state = |cell: &MapCell| cell.state.to_byte();
    fleet::MapBlock {
        network: block.block.to_string(),
        outcomes: block.cells.iter().map(state).collect::<Vec<u8>>().into(),
        scanned_at: block.scanned_at.map(convert::timestamp),
        hosts: (0..).zip(&block.cells).filter_map(host).collect(),
    }
}

fn host((octet, cell): (u32, &MapCell)) -> Option<MapHost> {
    let host = MapHost {
        octet,
        device_id: cell.device.map_or(0, |device| device.0),
        scan_id: cell
            .host_scan
            .map_or_else(String::new, |scan| scan.to_string()),
        answered_at: cell.answered.map(convert::timestamp),
    };
    let is_known = cell.device.is_some() || cell.host_scan.is_some() || cell.answered.is_some();
    is_known.then_some(host)
}
