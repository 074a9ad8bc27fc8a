//! `fleet.v1`: scans and nodes, as operators use them. Devices are in [`crate::devices`], accounts in
//! [`crate::accounts`].

use std::{str::FromStr, sync::Arc, time::Duration};

use fleet_core::{Lane, NodeId, PendingEnrollmentId, Permission, ScanId, limits};
use fleet_discovery::LogEvent;
use fleet_store::Queueing;
use fleet_wire::{
    BoxStream, Context, Reply, RpcError,
    fleet::{
        CancelEnrollmentCodeRequest, CancelEnrollmentCodeResponse, CancelScanRequest,
        CancelScanResponse, GetScanRequest, GetScanResponse, ListEnrollmentCodesRequest,
        ListEnrollmentCodesResponse, ListNodesRequest, ListNodesResponse, ListRevokedNodesRequest,
        ListRevokedNodesResponse, ListScansRequest, ListScansResponse, NodeService,
        PlanScanRequest, PlanScanResponse, ScanLane, ScanService, ScanWarning, StartScanRequest,
        StartScanResponse, WatchScanRequest, WatchScanResponse, watch_scan_response::Event,
    },
    pairing,
};
use futures::StreamExt;

use crate::{
    app::App,
    audit::Attempt,
    auth::{calling_operator, while_permitted},
    convert,
    failure::Refusal,
    scans::{self, Start},
    watch::{self, Item},
};

/// The operator services.
#[derive(Clone, Debug)]
pub(crate) struct OperatorApi {
    pub(crate) app: Arc<App>,
}

/// Scans of a page unless the caller says.
const SCANS: u32 = 50;
/// Scans of a page at the most.
const SCANS_MOST: u32 = 200;

impl ScanService for OperatorApi {
    async fn start_scan(
        &self,
        context: Context,
        request: StartScanRequest,
    ) -> Result<Reply<StartScanResponse>, RpcError> {
        let (operator, actor) = calling_operator(&context)?;
        let lane = match request.lane() {
            ScanLane::Unspecified | ScanLane::Interactive => Lane::Interactive,
            ScanLane::Scheduled => Lane::Scheduled,
        };
        let queue_for = queue_for(request.queue_for)?;
        let start = Start {
            node: NodeId(request.fleet_node_id),
            request: scan_request(request.request)?,
            request_id: Some(request.request_id),
            lane,
            queueing: Queueing::Until(self.app.environment.now().plus(queue_for)),
        };
        let created = scans::start(&self.app, operator, actor, start).await?;
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
        let (operator, _) = calling_operator(&context)?;
        let wanted = scan_request(request.request)?;
        let (_, plan) =
            scans::planned(&self.app, operator, NodeId(request.fleet_node_id), &wanted).await?;
        Ok(Reply::new(PlanScanResponse {
            targets: plan.targets,
            skipped: plan.skipped.iter().map(|tally| tally.count).sum(),
            commands: u32::try_from(plan.chunks.len()).unwrap_or(u32::MAX),
            ports: plan.ports.iter().map(ToString::to_string).collect(),
            estimate: Some(wire_duration(plan.estimate)),
            notes: plan.notes,
        }))
    }

    async fn get_scan(
        &self,
        context: Context,
        request: GetScanRequest,
    ) -> Result<Reply<GetScanResponse>, RpcError> {
        let (operator, _) = calling_operator(&context)?;
        let row = scans::get(&self.app, operator, scan_id(&request.scan_id)?).await?;
        Ok(Reply::new(GetScanResponse {
            scan: Some(convert::scan(row)),
        }))
    }

    async fn list_scans(
        &self,
        context: Context,
        request: ListScansRequest,
    ) -> Result<Reply<ListScansResponse>, RpcError> {
        let (operator, _) = calling_operator(&context)?;
        let before = if request.before.is_empty() {
            None
        } else {
            Some(scan_id(&request.before)?)
        };
        let limit = if request.limit == 0 {
            SCANS
        } else {
            request.limit.min(SCANS_MOST)
        };
        let node = (request.fleet_node_id != 0).then_some(NodeId(request.fleet_node_id));
        let rows = self
            .app
            .store
            .list_scans(
                operator.org,
                node,
                before,
                limit,
                self.app.environment.now(),
            )
            .await
            .map_err(Refusal::refusal)?;
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
        let (operator, _) = calling_operator(&context)?;
        let scan = scan_id(&request.scan_id)?;
        // An unknown scan is refused before the stream begins.
        scans::get(&self.app, operator, scan).await?;
        let items = watch::watch(self.app.clone(), operator.org, scan, request.after_sequence);
        let messages = items.map(|item| item.map(watched).map_err(Refusal::refusal));
        let permission = Permission::NodeRead;
        Ok(Reply::stream(while_permitted(
            self.app.clone(),
            operator,
            permission,
            messages,
        )))
    }

    async fn cancel_scan(
        &self,
        context: Context,
        request: CancelScanRequest,
    ) -> Result<Reply<CancelScanResponse>, RpcError> {
        let (operator, actor) = calling_operator(&context)?;
        let row = scans::cancel(&self.app, operator, actor, scan_id(&request.scan_id)?).await?;
        Ok(Reply::new(CancelScanResponse {
            scan: Some(convert::scan(row)),
        }))
    }
}

impl NodeService for OperatorApi {
    async fn list_nodes(
        &self,
        context: Context,
        _: ListNodesRequest,
    ) -> Result<Reply<ListNodesResponse>, RpcError> {
        let (operator, _) = calling_operator(&context)?;
        let rows = self
            .app
            .store
            .list_nodes(operator.org)
            .await
            .map_err(Refusal::refusal)?;
        let now = self.app.environment.now();
        Ok(Reply::new(ListNodesResponse {
            nodes: rows
                .into_iter()
                .map(|row| convert::node(row, now))
                .collect(),
        }))
    }

    async fn list_revoked_nodes(
        &self,
        context: Context,
        _: ListRevokedNodesRequest,
    ) -> Result<Reply<ListRevokedNodesResponse>, RpcError> {
        let (operator, _) = calling_operator(&context)?;
        let rows = self
            .app
            .store
            .list_revoked_nodes(operator.org)
            .await
            .map_err(Refusal::refusal)?;
        let now = self.app.environment.now();
        Ok(Reply::new(ListRevokedNodesResponse {
            nodes: rows
                .into_iter()
                .map(|row| convert::node(row, now))
                .collect(),
        }))
    }

    async fn list_enrollment_codes(
        &self,
        context: Context,
        _: ListEnrollmentCodesRequest,
    ) -> Result<Reply<ListEnrollmentCodesResponse>, RpcError> {
        let (operator, _) = calling_operator(&context)?;
        let rows = self
            .app
            .store
            .list_codes(operator.org)
            .await
            .map_err(Refusal::refusal)?;
        Ok(Reply::new(ListEnrollmentCodesResponse {
            codes: rows.into_iter().map(convert::invitation).collect(),
        }))
    }

    async fn cancel_enrollment_code(
        &self,
        context: Context,
        request: CancelEnrollmentCodeRequest,
    ) -> Result<Reply<CancelEnrollmentCodeResponse>, RpcError> {
        let (operator, actor) = calling_operator(&context)?;
        let id = PendingEnrollmentId(request.pending_enrollment_id);
        let attempt = Attempt {
            org: Some(operator.org),
            actor: actor.clone(),
            action: "code.cancel",
            subject: format!("enrollment code {id}"),
        };
        let canceled = self
            .app
            .store
            .cancel_code(operator.org, id, actor, self.app.environment.now())
            .await;
        if let Err(error) = canceled {
            return Err(attempt.refused(&self.app, error.refusal()).await);
        }
        Ok(Reply::new(CancelEnrollmentCodeResponse {}))
    }
}

/// An item of a watch on the wire.
pub(crate) fn watched(item: Item) -> WatchScanResponse {
    match item {
        Item::Alive => WatchScanResponse::default(),
        Item::Progress(progress) => WatchScanResponse {
            sequence: 0,
            event: Some(Event::Progress(convert::progress(&progress))),
        },
        Item::Event(stored) => {
            let event = match &stored.event {
                LogEvent::Device(found) => Event::Device(convert::device_found(found)),
                LogEvent::Warning { text } => Event::Warning(ScanWarning { text: text.clone() }),
                LogEvent::Ended(ended) => Event::Ended(convert::scan_ended(ended)),
            };
            WatchScanResponse {
                sequence: stored.sequence,
                event: Some(event),
            }
        }
    }
}

/// The id of a scan.
pub(crate) fn scan_id(text: &str) -> Result<ScanId, RpcError> {
    ScanId::from_str(text).map_err(|error| RpcError::invalid_argument(format!("scan_id: {error}")))
}

/// What to scan.
pub(crate) fn scan_request(
    request: Option<pairing::DiscoverRequest>,
) -> Result<fleet_discovery::ScanRequest, RpcError> {
    request.and_then(convert::scan_request).ok_or_else(|| {
        RpcError::invalid_argument("request names no mode: give ip_list, ip_range, nmap or mdns")
    })
}

fn wire_duration(duration: Duration) -> fleet_wire::Duration {
    fleet_wire::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// How long a scan may wait: 1 s .. 7 d, 24 h when not said.
fn queue_for(wanted: Option<fleet_wire::Duration>) -> Result<Duration, RpcError> {
    let Some(wanted) = wanted else {
        return Ok(limits::QUEUE_FOR);
    };
    let meant = u64::try_from(wanted.seconds).ok().map(Duration::from_secs);
    meant
        .filter(|meant| (Duration::from_secs(1)..=limits::QUEUE_FOR_MOST).contains(meant))
        .ok_or_else(|| {
            RpcError::invalid_argument(format!(
                "queue_for is {} s: it must lie between 1 s and {} s (7 days)",
                wanted.seconds,
                limits::QUEUE_FOR_MOST.as_secs()
            ))
        })
}
