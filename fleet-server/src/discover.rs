//! `DiscoverOnFleetNode`: a scan that never queues, followed in the upstream format. Closing the stream never cancels
//! the scan, whose id is in the header `fleet-scan-id`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fleet_core::{
    NodeId, OrgId, Permission, Priority, ScanId, ScanState, limits,
    outcome::{self, Conclusion},
};
use fleet_discovery::{LogEvent, NodeChoice, ScanRequest};
use fleet_store::Queueing;
use fleet_wire::{
    BoxStream, Reply, RpcError,
    admin::{DiscoverOnFleetNodeRequest, DiscoverOnFleetNodeResponse},
    pairing::DiscoverResponse,
};
use futures::{StreamExt, stream};
use http::{HeaderName, HeaderValue};

use crate::{
    app::App,
    auth::while_permitted,
    call::OperatorCall,
    convert,
    failure::{self, Answered, Refusal},
    scans::{self, Start},
    watch::{self, Item},
};

/// The response header with the id of the scan.
const SCAN_ID: HeaderName = HeaderName::from_static("fleet-scan-id");
/// Interval of checks whether the node is connected.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Starts the scan and streams its devices.
pub(crate) async fn start(
    app: &Arc<App>,
    call: &OperatorCall,
    request: DiscoverOnFleetNodeRequest,
) -> Result<Reply<BoxStream<DiscoverOnFleetNodeResponse>>, RpcError> {
    let node = NodeId(request.fleet_node_id);
    let request = convert::scan_request(request.request)?;
    let ready = ready(app, call, node, &request).await;
    call.attempt("scan.start", format!("node {node}"))
        .or_refused(&app.auditor, ready)
        .await?;
    let start = Start {
        choice: NodeChoice::Node(node),
        request,
        request_id: None,
        name: String::new(),
        priority: Priority::Interactive,
        queueing: Queueing::Never,
        override_blackout: false,
    };
    let scan = scans::start(app, call, start).await?.scan.id;
    // The node may have disconnected since `ready`, and this scan must not queue.
    if !connected(app, call.org, node).await? {
        give_up(app, call, node, scan).await?;
    }
    let messages = Discovery {
        app: app.clone(),
        org: call.org,
        node,
        scan,
        checked_at: None,
        away_since: None,
        over: false,
    }
    .messages(call);
    let header = HeaderValue::from_str(&scan.to_string())
        .map_err(|_| RpcError::internal("a scan id is not a header value"))?;
    let messages = while_permitted(app.clone(), call, Permission::NodeManage, messages);
    Ok(Reply::stream(messages).with_header(SCAN_ID, header))
}

/// Checks the node and the request before the connection, so that the more specific refusal comes first.
async fn ready(
    app: &App,
    call: &OperatorCall,
    node: NodeId,
    request: &ScanRequest,
) -> Result<(), RpcError> {
    let row = scans::planned(app, call.org, node, request).await?.node;
    if app.is_connected(&row) {
        return Ok(());
    }
    Err(RpcError::failed_precondition(format!(
        "node {node} is not connected: start it, or queue the scan with fleet.v1 StartScan"
    ))
    .with_reason("NODE_NOT_CONNECTED")
    .with_fact("node_id", node))
}

/// Whether the node has a stream, at this or another server.
async fn connected(app: &Arc<App>, org: OrgId, node: NodeId) -> Result<bool, RpcError> {
    let row = app.detached(move |app| async move { app.store.node(org, node).await });
    Ok(row
        .await
        .answered()?
        .is_some_and(|row| app.is_connected(&row)))
}

/// Ends a scan whose node disconnected before a command was sent. A scan with a sent command continues.
async fn give_up(
    app: &App,
    call: &OperatorCall,
    node: NodeId,
    scan: ScanId,
) -> Result<(), RpcError> {
    let row = scans::get(app, call.org, scan).await?;
    if row.state != ScanState::Queued {
        return Ok(());
    }
    let reason = format!("node {node} disconnected before the scan was sent to it: run it again");
    let conclusion = Conclusion::new(ScanState::Failed, outcome::Code::FailedPrecondition, reason);
    app.store
        .end_scan(scan, conclusion, app.environment.now())
        .await
        .answered()?;
    app.wakeups.notify(scan);
    Ok(())
}

struct Discovery {
    app: Arc<App>,
    org: OrgId,
    node: NodeId,
    scan: ScanId,
    checked_at: Option<Instant>,
    away_since: Option<Instant>,
    over: bool,
}

impl Discovery {
    fn messages(
        self,
        call: &OperatorCall,
    ) -> impl futures::Stream<Item = Result<DiscoverOnFleetNodeResponse, RpcError>> + Send + use<>
    {
        let items = Box::pin(watch::watch(self.app.clone(), call.org, self.scan, 0));
        stream::unfold((self, items), |(mut discovery, mut items)| async move {
            while !discovery.over {
                if let Err(gone) = discovery.check_node().await {
                    discovery.over = true;
                    return Some((Err(gone), (discovery, items)));
                }
                // Cancel-safe: the watch keeps its pending read inside the stream.
                let Ok(item) = tokio::time::timeout(CHECK_EVERY, items.next()).await else {
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

    /// Fails when the node has been disconnected for too long; its scan continues.
    async fn check_node(&mut self) -> Result<(), RpcError> {
        let now = self.app.environment.instant();
        let is_recent = |at| now.saturating_duration_since(at) < CHECK_EVERY;
        if self.checked_at.is_some_and(is_recent) {
            return Ok(());
        }
        self.checked_at = Some(now);
        // A storage failure says nothing about the node.
        if let Ok(true) | Err(_) = connected(&self.app, self.org, self.node).await {
            self.away_since = None;
            return Ok(());
        }
        let away = now.duration_since(*self.away_since.get_or_insert(now));
        if away < limits::NODE_AWAY {
            return Ok(());
        }
        Err(RpcError::failed_precondition(format!(
            "node {} has been disconnected for {} s; scan {} continues when it reconnects: watch it with fleet.v1 WatchScan",
            self.node,
            away.as_secs(),
            self.scan
        )).with_reason("NODE_NOT_CONNECTED").with_fact("node_id", self.node).with_fact("scan_id", self.scan))
    }

    /// The message for an item, if the upstream format has one.
    fn message(
        &mut self,
        item: Result<Item, watch::WatchError>,
    ) -> Option<Result<DiscoverOnFleetNodeResponse, RpcError>> {
        self.over = match &item {
            Ok(Item::Event(stored)) => matches!(stored.event, LogEvent::Ended(_)),
            Ok(Item::Alive | Item::Note(_) | Item::Progress(_)) => false,
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

/// An item in the upstream format, if the format has it.
pub(crate) fn upstream(item: Item) -> Option<Result<DiscoverResponse, RpcError>> {
    Some(Ok(match item {
        Item::Alive => DiscoverResponse::default(),
        Item::Note(_) | Item::Progress(_) => return None,
        Item::Event(stored) => match stored.event {
            LogEvent::Device(found) => DiscoverResponse {
                devices: vec![convert::upstream_device(&found)],
                error: String::new(),
            },
            // The upstream format has a field for the reason of the end only. Warnings of the scan are not that.
            LogEvent::Warning { .. } | LogEvent::Host(_) => return None,
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

/// How the stream ends: OK, OK with a reason, or with the code of the outcome.
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
            Err(
                RpcError::new(failure::code(code), conclusion.reason.clone())
                    .with_reason("SCAN_ENDED")
                    .with_fact("state", conclusion.state),
            )
        }
    }
}
