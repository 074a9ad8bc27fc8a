//! Planning, starting and canceling scans: an operator's request becomes a plan, the plan a stored scan.
//! [`dispatch`](crate::dispatch) then sends its chunks.

use std::{collections::BTreeSet, fmt::Display, sync::Arc, time::Duration};

use fleet_core::{
    NodeId, OrgId, Permission, Priority, ScanId, Timestamp, enrollment::NodeState, limits,
};
use fleet_discovery::{
    Exclusion, NodeChoice, NodeProfile, OtherNode, Plan, PlanError, ScanRequest, estimate, packets,
    plan_at_site, queue_wait, warnings,
};
use fleet_inventory::BlackoutEnd;
use fleet_registry::{Capabilities, Capability};
use fleet_store::{CreatedScan, Grace, NewScan, NodeRow, Queueing, ScanRow, SiteRow};
use fleet_wire::RpcError;

use crate::{
    app::App,
    call::OperatorCall,
    failure::{self, Answered},
    planning,
};

/// How long our node may take to stop and report its results after a cancel.
const CANCEL_GRACE: Duration = Duration::from_secs(10);
/// How long the call that cancels waits for the scan's end.
const CANCEL_WAIT: Duration = Duration::from_secs(3);

/// The scan to start.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) choice: NodeChoice,
    pub(crate) request: ScanRequest,
    pub(crate) request_id: Option<String>,
    pub(crate) name: String,
    pub(crate) priority: Priority,
    pub(crate) queueing: Queueing,
    /// Starts it in spite of the blackouts of its site.
    pub(crate) override_blackout: bool,
}

/// Plans and stores a scan, and queues it for dispatch.
pub(crate) async fn start(
    app: &Arc<App>,
    call: &OperatorCall,
    start: Start,
) -> Result<CreatedScan, RpcError> {
    call.attempt("scan.start", planning::shown(&start.choice))
        .or_refused(&app.auditor, store(app, call, start).await)
        .await
}

async fn store(app: &Arc<App>, call: &OperatorCall, start: Start) -> Result<CreatedScan, RpcError> {
    // A retry gets the scan of the first call, even if the node is revoked or gone since.
    if let Some(request_id) = &start.request_id {
        let stored = app.store.scan_by_request(call.org, request_id, call.now);
        if let Some(scan) = stored.await.answered()? {
            return repeated(scan, &start.choice, &start.request, start.priority);
        }
    }
    let planned = planning::planned(app, call.org, &start.choice, &start.request).await?;
    let queueing = held_back(call, &start, planned.blackout.clone())?;
    let (request, priority) = (start.request.clone(), start.priority);
    let new = NewScan {
        id: app.environment.scan_id(),
        org: call.org,
        choice: start.choice.clone(),
        shares: planned.shares(),
        operator: call.operator,
        request_id: start.request_id,
        name: start.name,
        request: start.request,
        plan: planned.joint.plan,
        priority: start.priority,
        queueing,
        ignores_blackout: start.override_blackout,
        now: app.environment.now(),
    };
    let created = app.store.create_scan(new, call.actor()).await.answered()?;
    if created.existing {
        // Another call with this request id was faster.
        return repeated(created.scan, &start.choice, &request, priority);
    }
    app.metrics.scan_started();
    tracing::info!(scan = %created.scan.id, nodes = %start.choice, shares = created.scan.shares.len(), commands = created.scan.chunks, "scan stored");
    for share in &created.scan.shares {
        app.notify_node(share.node);
    }
    Ok(created)
}

/// Answers a request id that was used before. The same request is a retry and gets its scan; another request is
/// refused, because its operator would wait for a scan that never starts.
fn repeated(
    scan: ScanRow,
    choice: &NodeChoice,
    request: &ScanRequest,
    priority: Priority,
) -> Result<CreatedScan, RpcError> {
    if (&scan.choice, &scan.request, scan.priority) != (choice, request, priority) {
        return Err(RpcError::already_exists(format!(
            "this request id belongs to scan {}, whose nodes, targets or priority differ: use another request id",
            scan.id
        )).with_reason("REQUEST_ID_USED").with_fact("scan_id", scan.id));
    }
    Ok(CreatedScan {
        scan,
        existing: true,
    })
}

/// Applies the blackout of a site to a new scan. An interactive scan is refused, and a scheduled one waits.
fn held_back(
    call: &OperatorCall,
    start: &Start,
    blackout: Option<SiteBlackout>,
) -> Result<Queueing, RpcError> {
    if start.override_blackout && !call.role.may(Permission::OrgAdmin) {
        return Err(RpcError::permission_denied(
            "override_blackout needs the permission `org:admin`: ask an administrator to start the scan",
        ).with_reason("PERMISSION_MISSING").with_fact("permission", Permission::OrgAdmin));
    }
    let Some(blackout) = blackout.filter(|_| !start.override_blackout) else {
        return Ok(start.queueing);
    };
    match (start.queueing, start.priority) {
        // The time in the queue begins when the blackout ends.
        (Queueing::Until(until), Priority::Scheduled) => {
            let wait = blackout.end.at.since(call.now);
            Ok(Queueing::Until(until.plus(wait)))
        }
        (Queueing::Until(_) | Queueing::Never, _) => Err(blackout.refusal()),
    }
}

/// The blackout of a site.
#[derive(Clone, Debug)]
pub(crate) struct SiteBlackout {
    /// The name of the site.
    pub(crate) site: String,
    pub(crate) end: BlackoutEnd,
}

impl SiteBlackout {
    /// The blackout of a site at a moment; none outside of blackouts.
    pub(crate) fn of(site: &SiteRow, now: Timestamp) -> Option<Self> {
        let end = site.blackout(now)?;
        let site = site.name.clone();
        Some(Self { site, end })
    }

    /// The refusal of a scan that cannot wait.
    pub(crate) fn refusal(&self) -> RpcError {
        self.refused("start the scan then, or let an administrator override the blackout")
    }

    /// The refusal of work that cannot wait, with what the operator can do.
    pub(crate) fn refused(&self, advice: &str) -> RpcError {
        RpcError::failed_precondition(format!(
            "site {} has a blackout (`{}`) until {}: {advice}",
            self.site, self.end.window, self.end.local
        ))
        .with_reason("SITE_BLACKOUT")
        .with_fact("value", &self.site)
        .with_fact("until", &self.end.local)
    }
}

/// A plan for a node, with what its site says about the moment.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) node: NodeRow,
    /// The node, at the rate of the scan.
    pub(crate) profile: NodeProfile,
    pub(crate) plan: Plan,
    pub(crate) blackout: Option<SiteBlackout>,
}

/// Plans a request for a node without storing anything.
pub(crate) async fn planned(
    app: &App,
    org: OrgId,
    node: NodeId,
    request: &ScanRequest,
) -> Result<Planned, RpcError> {
    let row = app.store.node(org, node).await.answered()?;
    let row = row.ok_or_else(|| {
        RpcError::not_found(format!("no node {node} in this organization"))
            .with_reason("NODE_NOT_FOUND")
            .with_fact("node_id", node)
    })?;
    if row.state != NodeState::Confirmed {
        return Err(RpcError::failed_precondition(format!(
            "node {node} is not confirmed yet: compare its fingerprint {} and confirm it first",
            row.fingerprint
        ))
        .with_reason("NODE_NOT_CONFIRMED")
        .with_fact("node_id", node));
    }
    let profile = row
        .hello
        .as_ref()
        .map_or_else(NodeProfile::upstream, fleet_store::Hello::profile);
    let turn = app.plans.turn(org).await?;
    let site = app.store.site(org, row.site).await.answered()?;
    let exclusions = exclusions(site.as_ref())?;
    let work = {
        let (request, profile, policy) = (request.clone(), profile.clone(), app.plan_policy());
        move || plan_at_site(&request, &profile, &policy, &exclusions)
    };
    let (plan, turn) = turn.compute(work).await?;
    let mut plan = plan.map_err(|error| unplanned(&row, &error))?;
    let history = app.store.scan_history(org, node).await.answered()?;
    let paced = profile.clone().at_most(request.rate);
    let work = move || {
        plan.estimate = estimate(&plan, &paced, &history.past);
        (plan, paced)
    };
    let ((plan, paced), _turn) = turn.compute(work).await?;
    let now = app.environment.now();
    let blackout = site.and_then(|site| SiteBlackout::of(&site, now));
    Ok(Planned {
        node: row,
        profile: paced,
        plan,
        blackout,
    })
}

/// Returns a plan with its warnings as sentences, and with the packets that its nodes send.
pub(crate) async fn judged(
    app: &App,
    org: OrgId,
    planned: planning::Planned,
) -> Result<(planning::Planned, Vec<String>, u64), RpcError> {
    let turn = app.plans.turn(org).await?;
    let rows = app.all_nodes(org).await.answered()?;
    let shares = planned.joint.shares.iter();
    let of_shares: BTreeSet<NodeId> = shares.map(|share| share.node).collect();
    let takes_part = |row: &NodeRow| of_shares.contains(&row.id);
    let others = rows
        .iter()
        .filter(|row| row.state == NodeState::Confirmed && !takes_part(row));
    // Read once: an organization can have ten thousand nodes, and a scan a thousand shares.
    let other = |row: &NodeRow| {
        let hello = row.hello.as_ref();
        let other = OtherNode {
            same_site: false,
            local_subnets: hello
                .map(|hello| hello.profile().local_subnets)
                .unwrap_or_default(),
            name: row.name.clone(),
        };
        (row.site, other)
    };
    let (sites, mut others): (Vec<_>, Vec<_>) = others.map(other).unzip();
    let work = move || {
        let mut seen = BTreeSet::new();
        let (mut all, mut sent) = (Vec::new(), 0);
        for (plan, node) in planned.plans() {
            for (site, other) in sites.iter().zip(&mut others) {
                other.same_site = *site == node.site;
            }
            let new = warnings(plan, &node.profile, &others).into_iter();
            all.extend(new.filter(|warning| seen.insert(warning.clone())));
            sent += packets(plan, &node.profile);
        }
        (planned, all, sent)
    };
    let (judged, _turn) = turn.compute(work).await?;
    Ok(judged)
}

/// What a site excludes.
pub(crate) fn exclusions(site: Option<&SiteRow>) -> Result<Vec<Exclusion>, RpcError> {
    let Some(site) = site else {
        return Ok(Vec::new());
    };
    site.exclusions().map_err(|error| {
        RpcError::failed_precondition(format!(
            "an exclude of site {} cannot be read, so nothing is scanned or paired: {error}",
            site.name
        ))
        .with_reason("EXCLUDES_UNREADABLE")
        .with_fact("site_id", site.id)
    })
}

/// The answer to a request without a plan. A node that is too old for it is named with what it lacks.
fn unplanned(node: &NodeRow, error: &PlanError) -> RpcError {
    match error.lacks() {
        Some(capability) => upgrade_required(node, capability, error),
        None => failure::plan(error),
    }
}

/// The refusal of a request that needs a capability which a node lacks. `why` states the cause and another way.
pub(crate) fn upgrade_required(node: &NodeRow, capability: &str, why: impl Display) -> RpcError {
    let version = match &node.hello {
        Some(hello) if !hello.version.is_empty() => format!("has version {}", hello.version),
        Some(_) => "is an upstream node".to_owned(),
        None => "has never connected".to_owned(),
    };
    RpcError::failed_precondition(format!(
        "upgrade required: node {} ({version}) lacks the capability `{capability}`, which an upgrade to fleetnode {} adds: {why}",
        node.id,
        env!("CARGO_PKG_VERSION"),
    ))
    .with_reason("UPGRADE_REQUIRED")
    .with_fact("node_id", node.id)
    .with_fact("capability", capability)
}

/// When a scan of this node would start, as a hint; none if it starts at once.
pub(crate) async fn queue_hint(
    app: &App,
    call: &OperatorCall,
    node: NodeId,
    priority: Priority,
) -> Result<Option<String>, RpcError> {
    let history = app.store.scan_history(call.org, node).await.answered()?;
    let seconds = queue_wait(&history.open, priority).as_secs_f64().ceil();
    let ahead = match history.open.len() {
        0 => return Ok(None),
        1 => "another scan of this node has".to_owned(),
        scans => format!("{scans} other scans of this node have"),
    };
    Ok(Some(format!(
        "it starts in about {seconds} s: {ahead} not ended"
    )))
}

/// One scan of the operator's organization.
pub(crate) async fn get(app: &App, org: OrgId, scan: ScanId) -> Result<ScanRow, RpcError> {
    let now = app.environment.now();
    let row = app.store.scan(org, scan, now).await.answered()?;
    match row {
        Some(row) => Ok(row),
        None => Err(unknown(app, org, scan).await),
    }
}

/// The refusal for a scan that the organization does not have, or not any more.
pub(crate) async fn unknown(app: &App, org: OrgId, scan: ScanId) -> RpcError {
    match app.store.removed_scan(org, scan).await.answered() {
        Ok(Some(_)) => RpcError::not_found(format!(
            "scan {scan} was removed with its results, because it ended longer ago than this server keeps scans ([retention] scan-results-days)"
        ))
        .with_reason("SCAN_REMOVED")
        .with_fact("scan_id", scan),
        Ok(None) => RpcError::not_found(format!("no scan {scan} in this organization"))
            .with_reason("SCAN_NOT_FOUND")
            .with_fact("scan_id", scan),
        Err(error) => error,
    }
}

/// Cancels a scan. A connected node of ours receives the cancel and has a moment to report its results.
pub(crate) async fn cancel(
    app: &Arc<App>,
    call: &OperatorCall,
    scan: ScanId,
) -> Result<ScanRow, RpcError> {
    call.attempt("scan.cancel", format!("scan {scan}"))
        .or_refused(&app.auditor, end(app, call, scan).await)
        .await
}

/// The nodes that have a stream, here or at another server, and understand a cancel.
async fn able_to_cancel(app: &App, org: OrgId, nodes: &[NodeId]) -> Result<Vec<NodeId>, RpcError> {
    let mut able = Vec::new();
    for node in nodes {
        let row = app.store.node(org, *node).await.answered()?;
        let can = row.is_some_and(|row| {
            let capabilities = row.hello.iter().flat_map(|hello| &hello.capabilities);
            let capabilities = Capabilities::parse(capabilities.map(String::as_str));
            capabilities.has(Capability::Cancel) && app.is_connected(&row)
        });
        able.extend(can.then_some(*node));
    }
    Ok(able)
}

async fn end(app: &Arc<App>, call: &OperatorCall, scan: ScanId) -> Result<ScanRow, RpcError> {
    let row = get(app, call.org, scan).await?;
    let running = row.shares.iter().filter(|share| !share.state.is_terminal());
    let nodes: Vec<NodeId> = running.map(|share| share.node).collect();
    // The shares of the other nodes end at once (decision 0007).
    let grace = Grace {
        time: CANCEL_GRACE,
        nodes: able_to_cancel(app, call.org, &nodes).await?,
    };
    let (carried, org, actor) = (app.clone(), call.org, call.actor());
    // A caller that hangs up between the two steps must not keep the cancel from the node.
    let canceled = app.carry_through(async move {
        let app = carried;
        let now = app.environment.now();
        let canceled = app.store.cancel_scan(org, scan, grace, actor, now);
        let canceled = canceled.await.answered()?;
        app.wakeups.notify(scan);
        for node in nodes {
            app.notify_node(node);
        }
        Ok(canceled.scan)
    });
    let canceled = canceled.await?;
    if canceled.state.is_terminal() {
        return Ok(canceled);
    }
    let ended = async {
        loop {
            let changed = app.wakeups.subscribe(scan);
            let row = get(app, call.org, scan).await?;
            if row.state.is_terminal() {
                return Ok(row);
            }
            let _ = tokio::time::timeout(limits::WATCH_POLL, changed).await;
        }
    };
    match tokio::time::timeout(CANCEL_WAIT, ended).await {
        Ok(ended) => ended,
        Err(_) => get(app, call.org, scan).await,
    }
}
