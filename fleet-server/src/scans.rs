//! Starting, planning, canceling scans: the operator's request becomes a plan, the plan a stored scan.
//! The first step of a scan's way; dispatch takes it from there.

use std::{sync::Arc, time::Duration};

use fleet_core::{Lane, NodeId, ScanId, enrollment::NodeState, limits};
use fleet_discovery::{Plan, ScanRequest, plan};
use fleet_store::{Actor, CreatedScan, NewScan, NodeRow, OperatorIdentity, Queueing, ScanRow};
use fleet_wire::RpcError;

use crate::{
    app::App,
    audit::Attempt,
    failure::{self, Refusal},
};

/// How long a node of ours may take to stop and report what it has after a cancel.
const CANCEL_GRACE: Duration = Duration::from_secs(10);
/// How long the call that cancels waits for the scan's end.
const CANCEL_WAIT: Duration = Duration::from_secs(3);

/// What an operator wants to start.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) node: NodeId,
    pub(crate) request: ScanRequest,
    pub(crate) request_id: Option<String>,
    pub(crate) lane: Lane,
    pub(crate) queueing: Queueing,
}

/// Plans and stores a scan, and has it dispatched.
pub(crate) async fn start(
    app: &App,
    operator: &OperatorIdentity,
    actor: Actor,
    start: Start,
) -> Result<CreatedScan, RpcError> {
    let attempt = Attempt {
        org: Some(operator.org),
        actor: actor.clone(),
        action: "scan.start",
        subject: format!("node {}", start.node),
    };
    match store(app, operator, actor, start).await {
        Ok(created) => Ok(created),
        Err(error) => Err(attempt.refused(app, error).await),
    }
}

async fn store(
    app: &App,
    operator: &OperatorIdentity,
    actor: Actor,
    start: Start,
) -> Result<CreatedScan, RpcError> {
    // A retry is answered whatever has become of its node meanwhile.
    if let Some(request_id) = &start.request_id {
        let now = app.environment.now();
        let made = app
            .store
            .scan_by_request(operator.org, request_id, now)
            .await;
        if let Some(scan) = made.map_err(Refusal::refusal)? {
            return Ok(CreatedScan {
                scan,
                existing: true,
            });
        }
    }
    let (_, plan) = planned(app, operator, start.node, &start.request).await?;
    let new = NewScan {
        id: app.environment.scan_id(),
        org: operator.org,
        node: start.node,
        operator: operator.operator,
        request_id: start.request_id,
        request: start.request,
        plan,
        lane: start.lane,
        queueing: start.queueing,
        now: app.environment.now(),
    };
    let created = app
        .store
        .create_scan(new, actor)
        .await
        .map_err(Refusal::refusal)?;
    if !created.existing {
        tracing::info!(scan = %created.scan.id, node = %created.scan.node, commands = created.scan.chunks, "scan stored");
    }
    app.work.look_at(created.scan.node);
    Ok(created)
}

/// Plans a request for a node without storing anything.
pub(crate) async fn planned(
    app: &App,
    operator: &OperatorIdentity,
    node: NodeId,
    request: &ScanRequest,
) -> Result<(NodeRow, Plan), RpcError> {
    let row = app
        .store
        .node(operator.org, node)
        .await
        .map_err(|error| failure::storage(&error))?;
    let row =
        row.ok_or_else(|| RpcError::not_found(format!("no node {node} in this organization")))?;
    if row.state != NodeState::Confirmed {
        return Err(RpcError::failed_precondition(format!(
            "node {node} is not confirmed yet: compare its fingerprint {} and confirm it first",
            row.fingerprint
        )));
    }
    let profile = row.hello.as_ref().map_or_else(
        fleet_discovery::NodeProfile::upstream,
        fleet_store::Hello::profile,
    );
    let plan = plan(request, &profile, &app.plan_policy())
        .map_err(|error| RpcError::new(failure::code(error.code()), error.to_string()))?;
    Ok((row, plan))
}

/// One scan of the operator's organization.
pub(crate) async fn get(
    app: &App,
    operator: &OperatorIdentity,
    scan: ScanId,
) -> Result<ScanRow, RpcError> {
    let row = app
        .store
        .scan(operator.org, scan, app.environment.now())
        .await
        .map_err(|error| failure::storage(&error))?;
    row.ok_or_else(|| RpcError::not_found(format!("no scan {scan} in this organization")))
}

/// Cancels a scan. A connected node of ours is told and given a moment to report what it has.
pub(crate) async fn cancel(
    app: &Arc<App>,
    operator: &OperatorIdentity,
    actor: Actor,
    scan: ScanId,
) -> Result<ScanRow, RpcError> {
    let attempt = Attempt {
        org: Some(operator.org),
        actor: actor.clone(),
        action: "scan.cancel",
        subject: format!("scan {scan}"),
    };
    match end(app, operator, actor, scan).await {
        Ok(row) => Ok(row),
        Err(error) => Err(attempt.refused(app, error).await),
    }
}

async fn end(
    app: &Arc<App>,
    operator: &OperatorIdentity,
    actor: Actor,
    scan: ScanId,
) -> Result<ScanRow, RpcError> {
    let row = get(app, operator, scan).await?;
    let canceled = {
        let (app, org, node) = (app.clone(), operator.org, row.node);
        let action = app.clone();
        app.carry_through(async move {
            let app = action;
            let grace = app.hub.can_cancel(node).then_some(CANCEL_GRACE);
            let now = app.environment.now();
            let canceled = app
                .store
                .cancel_scan(org, scan, grace, actor, now)
                .await
                .map_err(Refusal::refusal)?;
            if let Some(command) = canceled.in_flight {
                app.hub.cancel(node, command);
            }
            app.bells.ring(scan);
            app.work.look_at(node);
            Ok(canceled)
        })
        .await?
    };
    if canceled.scan.state.is_terminal() {
        return Ok(canceled.scan);
    }
    let ended = async {
        loop {
            let bell = app.bells.listen(scan);
            let row = get(app, operator, scan).await?;
            if row.state.is_terminal() {
                return Ok(row);
            }
            let _ = tokio::time::timeout(limits::WATCH_POLL, bell).await;
        }
    };
    match tokio::time::timeout(CANCEL_WAIT, ended).await {
        Ok(ended) => ended,
        Err(_) => get(app, operator, scan).await,
    }
}
