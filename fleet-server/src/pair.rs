//! Pairing as operators ask for it: whom a device is bound to, and pairing with credentials on a node.

mod credentials;
mod drive;
mod parts;
mod results;
mod service;

use std::sync::Arc;

pub(crate) use credentials::PairCredentials;
use drive::Drive;
use fleet_core::{DeviceId, NodeId, PairingId, PairingStatus};
use fleet_store::{Actor, NewPairing, NodeRow, OperatorIdentity, PairPage, PairTargets, PairWish};
use fleet_wire::{
    BoxStream, Reply, RpcError,
    admin::{
        DevicePairingResult, PairDiscoveredDevicesOnFleetNodeRequest,
        PairDiscoveredDevicesOnFleetNodeResponse,
    },
    pairing::Credentials,
};
use http::{HeaderName, HeaderValue};

use crate::{app::App, audit::Attempt, convert, failure::Refusal};

/// Names the pairing behind an upstream-shaped call.
const PAIRING_ID: HeaderName = HeaderName::from_static("fleet-pairing-id");

/// Binds a device to a node.
pub(crate) async fn bind(
    app: &Arc<App>,
    operator: &OperatorIdentity,
    actor: Actor,
    node: NodeId,
    device: DeviceId,
) -> Result<(), RpcError> {
    let attempt = Attempt {
        org: Some(operator.org),
        actor: actor.clone(),
        action: "device.pair",
        subject: format!("device {device} to node {node}"),
    };
    let now = app.environment.now();
    match app
        .store
        .bind_device(operator.org, node, device, actor, now)
        .await
    {
        Ok(_) => Ok(()),
        Err(error) => Err(attempt.refused(app, error.refusal()).await),
    }
}

/// Releases a device.
pub(crate) async fn unbind(
    app: &Arc<App>,
    operator: &OperatorIdentity,
    actor: Actor,
    device: DeviceId,
) -> Result<(), RpcError> {
    let attempt = Attempt {
        org: Some(operator.org),
        actor: actor.clone(),
        action: "device.unpair",
        subject: format!("device {device}"),
    };
    let now = app.environment.now();
    match app
        .store
        .unbind_device(operator.org, device, actor, now)
        .await
    {
        Ok(_) => Ok(()),
        Err(error) => Err(attempt.refused(app, error.refusal()).await),
    }
}

/// What an operator wants a node to pair.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) node: NodeId,
    pub(crate) identifiers: Vec<String>,
    pub(crate) all_unpaired: bool,
    pub(crate) credentials: Option<Credentials>,
}

/// Pairing that was started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pairing: PairingId,
    /// Devices that were asked for and cannot be paired there, each with its reason.
    pub(crate) refused: Vec<DevicePairingResult>,
}

/// Starts pairing on a node: stored, then sent. What was asked for is done whether the caller stays or
/// not.
pub(crate) async fn start(
    app: &Arc<App>,
    operator: &OperatorIdentity,
    actor: Actor,
    wanted: Wanted,
) -> Result<Started, RpcError> {
    let attempt = Attempt {
        org: Some(operator.org),
        actor: actor.clone(),
        action: "pairing.start",
        subject: format!("node {}", wanted.node),
    };
    let (carried, operator) = (Arc::clone(app), operator.clone());
    let started = app
        .carry_through(async move { carry_out(&carried, &operator, actor, wanted).await })
        .await;
    match started {
        Ok(started) => Ok(started),
        Err(error) => Err(attempt.refused(app, error).await),
    }
}

async fn carry_out(
    app: &Arc<App>,
    operator: &OperatorIdentity,
    actor: Actor,
    wanted: Wanted,
) -> Result<Started, RpcError> {
    let Wanted {
        node,
        identifiers,
        all_unpaired,
        credentials,
    } = wanted;
    let credentials = PairCredentials::take(credentials);
    if identifiers.is_empty() && !all_unpaired {
        return Err(RpcError::invalid_argument(
            "device_identifiers is empty: name the devices to pair, or set pair_all_unpaired",
        ));
    }
    may_pair(app, operator, node).await?;
    let wish = PairWish {
        identifiers,
        all_unpaired,
        with_password: credentials.has_password(),
    };
    let PairTargets { targets, refused } = app
        .store
        .pair_targets(operator.org, node, wish)
        .await
        .map_err(Refusal::refusal)?;
    if targets.is_empty() {
        return Err(RpcError::invalid_argument(nothing_to_pair(node, &refused)));
    }
    let parts = parts::cut(targets, credentials.to_wire().as_ref());
    let drive = Drive {
        app: Arc::clone(app),
        pairing: app.environment.pairing_id(),
        node,
        parts: parts.len(),
        credentials,
    };
    let pairing = drive.pairing;
    let new = NewPairing {
        id: pairing,
        org: operator.org,
        node,
        operator: operator.operator,
        parts,
        now: app.environment.now(),
    };
    app.store
        .create_pairing(new, actor)
        .await
        .map_err(Refusal::refusal)?;
    app.tasks.spawn(drive.run());
    let refused = refused
        .into_iter()
        .map(|(identifier, why)| convert::pairing_result(identifier, PairingStatus::Failed, why))
        .collect();
    Ok(Started { pairing, refused })
}

/// The node, if it can be asked now.
async fn may_pair(
    app: &App,
    operator: &OperatorIdentity,
    node: NodeId,
) -> Result<NodeRow, RpcError> {
    let row = app
        .store
        .node(operator.org, node)
        .await
        .map_err(Refusal::refusal)?;
    let row =
        row.ok_or_else(|| RpcError::not_found(format!("no node {node} in this organization")))?;
    if row.state != fleet_core::enrollment::NodeState::Confirmed {
        return Err(RpcError::failed_precondition(format!(
            "node {node} is not confirmed"
        )));
    }
    if !app.hub.is_connected(node) {
        return Err(RpcError::failed_precondition(format!(
            "node {node} is not connected: start it first"
        )));
    }
    Ok(row)
}

fn nothing_to_pair(node: NodeId, refused: &[(String, String)]) -> String {
    match refused.first() {
        Some((identifier, why)) => {
            format!("none of the devices can be paired on node {node}: {identifier}: {why}")
        }
        None => format!(
            "node {node} has no unpaired device that could be paired without more: scan first, or give a password"
        ),
    }
}

/// Starts pairing and answers its results as they come, in the upstream shape. Leaving changes nothing.
pub(crate) async fn pair(
    app: &Arc<App>,
    operator: &OperatorIdentity,
    actor: Actor,
    request: PairDiscoveredDevicesOnFleetNodeRequest,
) -> Result<Reply<BoxStream<PairDiscoveredDevicesOnFleetNodeResponse>>, RpcError> {
    let wanted = Wanted {
        node: NodeId(request.fleet_node_id),
        identifiers: request.device_identifiers,
        all_unpaired: request.pair_all_unpaired,
        credentials: request.credentials,
    };
    let Started { pairing, refused } = start(app, operator, actor, wanted).await?;
    let header = HeaderValue::from_str(&pairing.to_string())
        .map_err(|_| RpcError::internal("a pairing id is no header value"))?;
    let messages = results::stream(app.clone(), operator.org, pairing, refused);
    Ok(Reply::stream(messages).with_header(PAIRING_ID, header))
}

/// A page of a pairing's results.
pub(crate) async fn page(
    app: &App,
    operator: &OperatorIdentity,
    pairing: PairingId,
    after: i64,
) -> Result<PairPage, RpcError> {
    app.store
        .read_pairing(operator.org, pairing, after, results::PAGE)
        .await
        .map_err(Refusal::refusal)?
        .ok_or_else(|| RpcError::not_found(format!("no pairing {pairing} in this organization")))
}

/// Cancels a pairing: the node is told where it can be.
pub(crate) async fn cancel(
    app: &Arc<App>,
    operator: &OperatorIdentity,
    actor: Actor,
    pairing: PairingId,
) -> Result<(), RpcError> {
    let attempt = Attempt {
        org: Some(operator.org),
        actor: actor.clone(),
        action: "pairing.cancel",
        subject: format!("pairing {pairing}"),
    };
    let now = app.environment.now();
    let canceled = app
        .store
        .cancel_pairing(operator.org, pairing, actor, now)
        .await;
    match canceled {
        Ok(in_flight) => {
            if let Some((node, command)) = in_flight {
                app.hub.cancel(node, command);
            }
            app.bells.ring(pairing);
            Ok(())
        }
        Err(error) => Err(attempt.refused(app, error.refusal()).await),
    }
}
