//! Pairing devices with credentials through a node: stored, then sent to the node in batches.

mod batches;
mod forward;
mod results;
mod sender;

use std::sync::Arc;

use fleet_core::{NodeId, PairingId, PairingStatus, Permission, enrollment::NodeState};
use fleet_discovery::Exclusion;
use fleet_registry::{Capabilities, Capability};
use fleet_store::{NewPairing, NodeRow, PairPage, PairSelection, PairTargets};
use fleet_wire::{
    BoxStream, Reply, RpcError,
    admin::{
        DevicePairingResult, PairDiscoveredDevicesOnFleetNodeRequest,
        PairDiscoveredDevicesOnFleetNodeResponse,
    },
    pairing::Credentials,
};
use forward::Holder;
pub(crate) use forward::{ForwardKey, take as take_forwarded};
use http::{HeaderName, HeaderValue};
use sender::Sender;

use crate::{
    app::App,
    auth::while_permitted,
    call::OperatorCall,
    convert,
    credentials::PairCredentials,
    failure::Answered,
    scans::{self, SiteBlackout, exclusions},
};

/// The response header with the id of the pairing.
const PAIRING_ID: HeaderName = HeaderName::from_static("fleet-pairing-id");

/// The devices that a node shall pair.
#[derive(Debug)]
pub(crate) struct PairRequest {
    pub(crate) node: NodeId,
    pub(crate) identifiers: Vec<String>,
    pub(crate) all_unpaired: bool,
    pub(crate) credentials: Option<Credentials>,
}

/// A pairing that was started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pairing: PairingId,
    /// Requested devices that cannot be paired there, each with the reason.
    pub(crate) refused: Vec<DevicePairingResult>,
}

/// Stores a pairing and begins to send it. It continues if the caller hangs up.
pub(crate) async fn start(
    app: &Arc<App>,
    call: &OperatorCall,
    request: PairRequest,
) -> Result<Started, RpcError> {
    let attempt = call.attempt("pairing.start", format!("node {}", request.node));
    let (carried, call) = (Arc::clone(app), call.clone());
    let started = app.carry_through(async move { store(&carried, &call, request).await });
    attempt.or_refused(&app.auditor, started.await).await
}

async fn store(
    app: &Arc<App>,
    call: &OperatorCall,
    request: PairRequest,
) -> Result<Started, RpcError> {
    let node = request.node;
    let credentials = PairCredentials::take(request.credentials);
    if request.identifiers.is_empty() && !request.all_unpaired {
        return Err(RpcError::invalid_argument(
            "device_identifiers is empty: name the devices to pair, or set pair_all_unpaired",
        )
        .with_reason("INVALID_FIELD")
        .with_fact("field", "device_identifiers"));
    }
    let row = confirmed(app, call, node).await?;
    if credentials.tries_defaults() && !can_try_defaults(&row) {
        return Err(scans::upgrade_required(
            &row,
            Capability::DefaultPasswords.as_str(),
            "it cannot try default passwords; give the password",
        ));
    }
    let site = app.store.site(call.org, row.site).await.answered()?;
    let now = app.environment.now();
    if let Some(blackout) = site.as_ref().and_then(|site| SiteBlackout::of(site, now)) {
        return Err(blackout.refused("pair then"));
    }
    let exclusions = exclusions(site.as_ref())?;
    let holder = holder(app, &row).await?;
    let selection = PairSelection {
        identifiers: request.identifiers,
        all_unpaired: request.all_unpaired,
        with_password: credentials.has_password() || credentials.tries_defaults(),
    };
    let wanted = app.store.pair_targets(call.org, node, selection).await;
    let PairTargets { targets, refused } = without_excluded(wanted.answered()?, &exclusions);
    if targets.is_empty() {
        return Err(RpcError::invalid_argument(nothing_to_pair(node, &refused))
            .with_reason("NOTHING_TO_PAIR")
            .with_fact("node_id", node));
    }
    let batches = batches::split(targets, credentials.to_wire().as_ref());
    let pairing = app.environment.pairing_id();
    let forwarded = holder
        .map(|holder| forward::seal(holder, pairing, node, &credentials))
        .transpose()
        .map_err(|error| RpcError::internal(format!("the credentials are not sealed: {error}")))?;
    let here = forwarded.is_none().then(|| Sender {
        app: Arc::clone(app),
        pairing,
        node,
        unsent: batches.len(),
        credentials,
    });
    let new = NewPairing {
        id: pairing,
        org: call.org,
        node,
        operator: call.operator,
        parts: batches,
        forwarded,
        now: app.environment.now(),
    };
    app.store
        .create_pairing(new, call.actor())
        .await
        .answered()?;
    // Stored first: if this server ends now, others end the pairing after its lease.
    match here {
        Some(sender) => drop(app.tasks.spawn(sender.run())),
        None => app.notify_node(node),
    }
    let refused = refused
        .into_iter()
        .map(|(identifier, why)| convert::pairing_result(identifier, PairingStatus::Failed, why))
        .collect();
    Ok(Started { pairing, refused })
}

/// A node that was confirmed.
async fn confirmed(app: &App, call: &OperatorCall, node: NodeId) -> Result<NodeRow, RpcError> {
    let row = app.store.node(call.org, node).await.answered()?;
    let row = row.ok_or_else(|| {
        RpcError::not_found(format!("no node {node} in this organization"))
            .with_reason("NODE_NOT_FOUND")
            .with_fact("node_id", node)
    })?;
    if row.state != NodeState::Confirmed {
        return Err(
            RpcError::failed_precondition(format!("node {node} is not confirmed"))
                .with_reason("NODE_NOT_CONFIRMED")
                .with_fact("node_id", node),
        );
    }
    Ok(row)
}

/// Whether the node announced that it can try the default passwords of a make.
fn can_try_defaults(row: &NodeRow) -> bool {
    let capabilities = row.hello.iter().flat_map(|hello| &hello.capabilities);
    let capabilities = Capabilities::parse(capabilities.map(String::as_str));
    capabilities.has(Capability::DefaultPasswords)
}

/// Refuses the targets whose addresses the site excludes.
fn without_excluded(wanted: PairTargets, exclusions: &[Exclusion]) -> PairTargets {
    let mut kept = PairTargets {
        targets: Vec::new(),
        refused: wanted.refused,
    };
    for target in wanted.targets {
        let ip = target.endpoint.ip;
        match exclusions.iter().find(|exclude| exclude.contains(ip)) {
            Some(exclude) => {
                let why = format!("{} ({})", exclude.skipped(), exclude.target());
                kept.refused.push((target.identifier.to_string(), why));
            }
            None => kept.targets.push(target),
        }
    }
    kept
}

/// The other server that holds the node's stream; `None` if this server does. Refuses a node that is not connected.
async fn holder(app: &App, row: &NodeRow) -> Result<Option<Holder>, RpcError> {
    let node = row.id;
    if app.holds(row) {
        return Ok(None);
    }
    let stream = row.stream.filter(|_| app.is_connected(row));
    let Some(replica) = stream.map(|stream| stream.replica) else {
        return Err(RpcError::failed_precondition(format!(
            "node {node} is not connected: start it first"
        ))
        .with_reason("NODE_NOT_CONNECTED")
        .with_fact("node_id", node));
    };
    let Some(key) = app.store.replica_key(replica).await.answered()? else {
        return Err(RpcError::failed_precondition(format!(
            "node {node} is connected to a server of an older version: pair through that server, or upgrade it"
        )).with_reason("SERVER_OUTDATED").with_fact("node_id", node));
    };
    Ok(Some(Holder { replica, key }))
}

fn nothing_to_pair(node: NodeId, refused: &[(String, String)]) -> String {
    match refused.first() {
        Some((identifier, why)) => {
            format!("none of the devices can be paired on node {node}: {identifier}: {why}")
        }
        None => format!(
            "node {node} has no unpaired device that can be paired without credentials: scan first, or give a password"
        ),
    }
}

/// Starts a pairing and streams its results in the upstream format. Closing the stream does not affect the pairing.
pub(crate) async fn pair(
    app: &Arc<App>,
    call: &OperatorCall,
    request: PairDiscoveredDevicesOnFleetNodeRequest,
) -> Result<Reply<BoxStream<PairDiscoveredDevicesOnFleetNodeResponse>>, RpcError> {
    let request = PairRequest {
        node: NodeId(request.fleet_node_id),
        identifiers: request.device_identifiers,
        all_unpaired: request.pair_all_unpaired,
        credentials: request.credentials,
    };
    let Started { pairing, refused } = start(app, call, request).await?;
    let header = HeaderValue::from_str(&pairing.to_string())
        .map_err(|_| RpcError::internal("a pairing id is not a header value"))?;
    let messages = results::stream(app.clone(), call.org, pairing, refused);
    let messages = while_permitted(app.clone(), call, Permission::MinerPair, messages);
    Ok(Reply::stream(messages).with_header(PAIRING_ID, header))
}

/// A page of a pairing's results.
pub(crate) async fn page(
    app: &App,
    call: &OperatorCall,
    pairing: PairingId,
    after: i64,
) -> Result<PairPage, RpcError> {
    app.store
        .read_pairing(call.org, pairing, after, results::PAGE)
        .await
        .answered()?
        .ok_or_else(|| {
            RpcError::not_found(format!("no pairing {pairing} in this organization"))
                .with_reason("PAIRING_NOT_FOUND")
                .with_fact("pairing_id", pairing)
        })
}

/// Cancels a pairing, and sends the cancel to a connected node that understands it.
pub(crate) async fn cancel(
    app: &Arc<App>,
    call: &OperatorCall,
    pairing: PairingId,
) -> Result<(), RpcError> {
    let canceled = app
        .store
        .cancel_pairing(call.org, pairing, call.actor(), call.now)
        .await;
    let in_flight = call
        .attempt("pairing.cancel", format!("pairing {pairing}"))
        .or_refused(&app.auditor, canceled)
        .await?;
    if let Some((node, _)) = in_flight {
        app.notify_node(node);
    }
    app.wakeups.notify(pairing);
    Ok(())
}
