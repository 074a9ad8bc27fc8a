//! `fleet.v1.ScanService`: scans through nodes.

use std::time::Duration;

use fleet_core::{Permission, Priority, limits};
use fleet_discovery::NodeChoice;
use fleet_store::Queueing;
use fleet_wire::{
    BoxStream, Context, Reply, RpcError,
    fleet::{
        CancelScanRequest, CancelScanResponse, GetScanRequest, GetScanResponse,
        ListScanHostsRequest, ListScanHostsResponse, ListScansRequest, ListScansResponse,
        PlanScanRequest, PlanScanResponse, PlannedShare, ScanPriority, ScanService,
        StartScanRequest, StartScanResponse, WatchScanRequest, WatchScanResponse,
    },
};
use futures::StreamExt;

use super::Api;
use crate::{
    auth::while_permitted,
    convert,
    failure::{Answered, Refusal},
    planning::{self, Named, Planned},
    scans::{self, Start},
    watch,
};

/// Default and maximum number of scans on a page.
const PAGE: (u32, u32) = (50, 200);
/// Maximum number of hosts on a page, which is the default too.
const HOST_PAGE: u32 = 1_000;
/// Maximum number of uncovered ranges in a plan. The count has all of them.
const RANGES: usize = 64;

impl ScanService for Api {
    async fn start_scan(
        &self,
        context: Context,
        request: StartScanRequest,
    ) -> Result<Reply<StartScanResponse>, RpcError> {
        let call = self.operator(&context)?;
        let priority = match request.priority() {
            ScanPriority::Unspecified | ScanPriority::Interactive => Priority::Interactive,
            ScanPriority::Scheduled => Priority::Scheduled,
        };
        let queue_for = queue_for(request.queue_for)?;
        let choice = planning::choice(Named {
            node: request.fleet_node_id,
            nodes: &request.fleet_node_ids,
            site: request.site_id,
            auto: request.auto,
        })?;
        let start = Start {
            choice,
            request: convert::scan_request(request.request)?,
            request_id: Some(request.request_id),
            name: request.name,
            priority,
            queueing: Queueing::Until(call.now.plus(queue_for)),
            override_blackout: request.override_blackout,
        };
        let created = scans::start(&self.app, &call, start).await?;
        Ok(Reply::new(StartScanResponse {
            existing: created.existing,
            scan: Some(convert::scan(created.scan)),
        }))
    }

    async fn plan_scan(
        &self,
        context: Context,
        request: PlanScanRequest,
    ) -> Result<Reply<PlanScanResponse>, RpcError> {
        let call = self.operator(&context)?;
        let wanted = convert::scan_request(request.request)?;
        let choice = planning::choice(Named {
            node: request.fleet_node_id,
            nodes: &request.fleet_node_ids,
            site: request.site_id,
            auto: request.auto,
        })?;
        let planned = planning::planned(&self.app, call.org, &choice, &wanted).await?;
        let (planned, warnings, packets) = scans::judged(&self.app, call.org, planned).await?;
        let shares = shares(&planned);
        let rate = planned.rate();
        let mut plan = planned.joint.plan;
        if let NodeChoice::Node(node) = choice {
            let priority = Priority::Interactive;
            let hint = scans::queue_hint(&self.app, &call, node, priority).await?;
            plan.notes.extend(hint);
        }
        if let Some(blackout) = &planned.blackout {
            plan.notes.push(format!(
                "site {} has a blackout (`{}`) until {}: an interactive scan is refused until then, and a scheduled one waits",
                blackout.site, blackout.end.window, blackout.end.local
            ));
        }
        Ok(Reply::new(PlanScanResponse {
            targets: plan.targets,
            skipped: plan.skipped.iter().map(|tally| tally.count).sum(),
            commands: u32::try_from(plan.chunks.len()).unwrap_or(u32::MAX),
            ports: plan.ports.iter().map(ToString::to_string).collect(),
            estimate: Some(convert::duration(plan.estimate)),
            notes: plan.notes,
            skipped_reasons: convert::tallies(&plan.skipped),
            blackout_until: planned
                .blackout
                .map(|blackout| convert::timestamp(blackout.end.at)),
            shares,
            uncovered: planned.joint.uncovered.len(),
            uncovered_targets: planned.joint.uncovered.ranges().take(RANGES).collect(),
            packets,
            rate,
            warnings,
        }))
    }

    async fn get_scan(
        &self,
        context: Context,
        request: GetScanRequest,
    ) -> Result<Reply<GetScanResponse>, RpcError> {
        let call = self.operator(&context)?;
        let scan = convert::id("scan_id", &request.scan_id)?;
        let row = scans::get(&self.app, call.org, scan).await?;
        Ok(Reply::new(GetScanResponse {
            scan: Some(convert::scan(row)),
        }))
    }

    async fn list_scans(
        &self,
        context: Context,
        request: ListScansRequest,
    ) -> Result<Reply<ListScansResponse>, RpcError> {
        let call = self.operator(&context)?;
        let before = if request.before.is_empty() {
            None
        } else {
            Some(convert::id("scan_id", &request.before)?)
        };
        let limit = convert::page_size(request.limit, PAGE.0, PAGE.1);
        let node = convert::node_filter(request.fleet_node_id);
        let store = &self.app.store;
        let rows = store.list_scans(call.org, node, before, limit, call.now);
        let rows = rows.await.answered()?;
        let full = rows.len() >= limit as usize;
        let next_before = rows
            .last()
            .filter(|_| full)
            .map(|row| row.id.to_string())
            .unwrap_or_default();
        Ok(Reply::new(ListScansResponse {
            scans: rows.into_iter().map(convert::scan).collect(),
            next_before,
        }))
    }

    async fn watch_scan(
        &self,
        context: Context,
        request: WatchScanRequest,
    ) -> Result<Reply<BoxStream<WatchScanResponse>>, RpcError> {
        let call = self.operator(&context)?;
        let scan = convert::id("scan_id", &request.scan_id)?;
        // An unknown scan is refused before the stream begins.
        scans::get(&self.app, call.org, scan).await?;
        let items = watch::watch(self.app.clone(), call.org, scan, request.after_sequence);
        let messages = items.map(|item| item.map(watch::message).map_err(Refusal::refusal));
        let permission = Permission::NodeRead;
        Ok(Reply::stream(while_permitted(
            self.app.clone(),
            &call,
            permission,
            messages,
        )))
    }

    async fn cancel_scan(
        &self,
        context: Context,
        request: CancelScanRequest,
    ) -> Result<Reply<CancelScanResponse>, RpcError> {
        let call = self.operator(&context)?;
        let scan = convert::id("scan_id", &request.scan_id)?;
        let row = scans::cancel(&self.app, &call, scan).await?;
        Ok(Reply::new(CancelScanResponse {
            scan: Some(convert::scan(row)),
        }))
    }

    async fn list_scan_hosts(
        &self,
        context: Context,
        request: ListScanHostsRequest,
    ) -> Result<Reply<ListScanHostsResponse>, RpcError> {
        let call = self.operator(&context)?;
        let scan = convert::id("scan_id", &request.scan_id)?;
        let limit = convert::page_size(request.limit, HOST_PAGE, HOST_PAGE);
        let store = &self.app.store;
        let hosts = store.scan_hosts(call.org, scan, request.cursor, limit);
        let Some(hosts) = hosts.await.answered()? else {
            return Err(scans::unknown(&self.app, call.org, scan).await);
        };
        let full = hosts.len() >= limit as usize;
        Ok(Reply::new(ListScanHostsResponse {
            next_cursor: hosts.last().filter(|_| full).map_or(0, |host| host.id),
            hosts: hosts.iter().map(convert::scan_host).collect(),
        }))
    }
}

/// The shares of a plan, by node.
fn shares(planned: &Planned) -> Vec<PlannedShare> {
    let shares = planned.shares().into_iter().zip(&planned.joint.shares);
    let share = |(new, share): (fleet_store::NewShare, &fleet_discovery::PlannedShare)| {
        let node = planned.nodes.get(&share.node);
        PlannedShare {
            fleet_node_id: share.node.0,
            node_name: node.map(|node| node.name.clone()).unwrap_or_default(),
            targets: new.targets,
            commands: u32::try_from(new.chunks).unwrap_or(u32::MAX),
            estimate: Some(convert::duration(share.plan.estimate)),
            connected: node.is_some_and(|node| node.connected),
        }
    };
    shares.map(share).collect()
}

/// How long a scan may wait: 1 s to 7 d, by default 24 h.
fn queue_for(requested: Option<fleet_wire::Duration>) -> Result<Duration, RpcError> {
    let Some(requested) = requested else {
        return Ok(limits::QUEUE_FOR);
    };
    let seconds = u64::try_from(requested.seconds)
        .ok()
        .map(Duration::from_secs);
    seconds
        .filter(|time| (Duration::from_secs(1)..=limits::QUEUE_FOR_MOST).contains(time))
        .ok_or_else(|| {
            RpcError::invalid_argument(format!(
                "queue_for is {} s: it must be between 1 s and {} s (7 days)",
                requested.seconds,
                limits::QUEUE_FOR_MOST.as_secs()
            ))
            .with_reason("INVALID_FIELD")
            .with_fact("field", "queue_for")
            .with_fact("value", requested.seconds)
            .with_fact("limit", limits::QUEUE_FOR_MOST.as_secs())
        })
}
