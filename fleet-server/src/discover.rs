//! `DiscoverOnFleetNode`: a scan that never queues, watched in the upstream shape. Leaving the stream never
//! cancels the scan, whose id is in the header `fleet-scan-id`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fleet_core::{
    Lane, NodeId, Permission, ScanId, ScanState, limits,
    outcome::{self, Conclusion},
};
use fleet_discovery::{LogEvent, ScanRequest};
use fleet_store::{Actor, OperatorIdentity, Queueing};
use fleet_wire::{
    BoxStream, Reply, RpcError,
    admin::{DiscoverOnFleetNodeRequest, DiscoverOnFleetNodeResponse},
    pairing::DiscoverResponse,
};
use futures::{StreamExt, stream};
use http::{HeaderName, HeaderValue};

use crate::{
    app::App,
    audit::Attempt,
    auth::while_permitted,
    convert,
    failure::{self, Refusal},
    operators::scan_request,
    scans::{self, Start},
    watch::{self, Item},
};

/// Names the scan behind an upstream-shaped discovery.
const SCAN_ID: HeaderName = HeaderName::from_static("fleet-scan-id");
/// Between two looks at whether the node is there.
const LOOK: Duration = Duration::from_secs(1);

/// Starts the scan and answers its devices as they come.
pub(crate) async fn start(
    app: &Arc<App>,
    operator: &OperatorIdentity,
    actor: Actor,
    request: DiscoverOnFleetNodeRequest,
) -> Result<Reply<BoxStream<DiscoverOnFleetNodeResponse>>, RpcError> {
    let node = NodeId(request.fleet_node_id);
    let wanted = scan_request(request.request)?;
    let attempt = Attempt {
        org: Some(operator.org),
        actor: actor.clone(),
        action: "scan.start",
        subject: format!("node {node}"),
    };
    if let Err(error) = ready(app, operator, node, &wanted).await {
        return Err(attempt.refused(app, error).await);
    }
    let start = Start {
        node,
        request: wanted,
        request_id: None,
        lane: Lane::Interactive,
        queueing: Queueing::Never,
    };
    let scan = scans::start(app, operator, actor, start).await?.scan.id;
    if !app.hub.is_connected(node) {
        give_up(app, operator, scan).await?;
    }
    let messages = Discovery {
        app: app.clone(),
        node,
        scan,
        away: None,
        over: false,
    }
    .messages(operator);
    let header = HeaderValue::from_str(&scan.to_string())
        .map_err(|_| RpcError::internal("a scan id is no header value"))?;
    let messages = while_permitted(app.clone(), operator, Permission::NodeManage, messages);
    Ok(Reply::stream(messages).with_header(SCAN_ID, header))
}

/// Unknown nodes and bad requests are told first, whether the node is there or not.
async fn ready(
    app: &App,
    operator: &OperatorIdentity,
    node: NodeId,
    wanted: &ScanRequest,
) -> Result<(), RpcError> {
    scans::planned(app, operator, node, wanted).await?;
    if app.hub.is_connected(node) {
        return Ok(());
    }
    Err(RpcError::failed_precondition(format!(
        "node {node} is not connected: start it, or queue the scan with fleet.v1 StartScan"
    )))
}

/// Ends a scan whose node went away before anything was sent; what was sent goes on.
async fn give_up(app: &App, operator: &OperatorIdentity, scan: ScanId) -> Result<(), RpcError> {
    let row = scans::get(app, operator, scan).await?;
    if row.state != ScanState::Queued {
        return Ok(());
    }
    let reason = format!(
        "node {} went away before the scan was sent to it: run it again",
        row.node
    );
    let conclusion = Conclusion::new(ScanState::Failed, outcome::Code::FailedPrecondition, reason);
    app.store
        .end_scan(scan, conclusion, app.environment.now())
        .await
        .map_err(Refusal::refusal)?;
    app.bells.ring(scan);
    Ok(())
}

struct Discovery {
    app: Arc<App>,
    node: NodeId,
    scan: ScanId,
    away: Option<Instant>,
    over: bool,
}

impl Discovery {
    fn messages(
        self,
        operator: &OperatorIdentity,
    ) -> impl futures::Stream<Item = Result<DiscoverOnFleetNodeResponse, RpcError>> + Send + use<>
    {
        let items = Box::pin(watch::watch(self.app.clone(), operator.org, self.scan, 0));
        stream::unfold((self, items), |(mut discovery, mut items)| async move {
            while !discovery.over {
                if let Err(gone) = discovery.look() {
                    discovery.over = true;
                    return Some((Err(gone), (discovery, items)));
                }
                let Ok(item) = tokio::time::timeout(LOOK, items.next()).await else {
                    continue;
                };
                let item = item?;
                if let Some(message) = discovery.message(item) {
                    return Some((message, (discovery, items)));
                }
            }
            None
        })
    }

    /// Ends the stream when the node has been away for too long; its scan goes on.
    fn look(&mut self) -> Result<(), RpcError> {
        if self.app.hub.is_connected(self.node) {
            self.away = None;
            return Ok(());
        }
        let now = self.app.environment.instant();
        let away = now.duration_since(*self.away.get_or_insert(now));
        if away < limits::NODE_AWAY {
            return Ok(());
        }
        Err(RpcError::failed_precondition(format!(
            "node {} has been away for {} s; scan {} goes on when it comes back: watch it with fleet.v1 WatchScan",
            self.node,
            away.as_secs(),
            self.scan
        )))
    }

    /// What an item is in the upstream shape, if anything.
    fn message(
        &mut self,
        item: Result<Item, watch::WatchError>,
    ) -> Option<Result<DiscoverOnFleetNodeResponse, RpcError>> {
        self.over = match &item {
            Ok(Item::Event(stored)) => matches!(stored.event, LogEvent::Ended(_)),
            Ok(Item::Alive | Item::Progress(_)) => false,
            Err(_) => true,
        };
        let response = match item {
            Ok(item) => upstream(item)?,
            Err(error) => Err(error.refusal()),
        };
        Some(response.map(|response| DiscoverOnFleetNodeResponse {
            response: Some(response),
        }))
    }
}

/// What an item is in the upstream shape, if anything.
pub(crate) fn upstream(item: Item) -> Option<Result<DiscoverResponse, RpcError>> {
    Some(Ok(match item {
        Item::Alive => DiscoverResponse::default(),
        Item::Progress(_) => return None,
        Item::Event(stored) => match stored.event {
            LogEvent::Device(found) => DiscoverResponse {
                devices: vec![convert::upstream_device(&found)],
                error: String::new(),
            },
            // Warnings are of the scan, not of this call; the upstream shape has a place for the end's reason only.
            LogEvent::Warning { .. } => return None,
            LogEvent::Ended(ended) => match conclude(&ended.conclusion) {
                Ok(None) => return None,
                Ok(Some(error)) => DiscoverResponse {
                    devices: Vec::new(),
                    error,
                },
                Err(error) => return Some(Err(error)),
            },
        },
    }))
}

/// How the stream ends: well, well with a reason, or with the outcome's code.
fn conclude(conclusion: &Conclusion) -> Result<Option<String>, RpcError> {
    match conclusion.state {
        ScanState::Completed => Ok(None),
        ScanState::Partial => Ok(Some(conclusion.reason.clone())),
        ScanState::Queued
        | ScanState::Running
        | ScanState::Failed
        | ScanState::Canceled
        | ScanState::Expired => {
            let code = if conclusion.code == outcome::Code::Ok {
                outcome::Code::Internal
            } else {
                conclusion.code
            };
            Err(RpcError::new(
                failure::code(code),
                conclusion.reason.clone(),
            ))
        }
    }
}
