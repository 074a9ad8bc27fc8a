//! Decides whether a device may be bound to a node or to the server, and where it may be paired. The caller loads and
//! locks the rows. There is one binding per device.

use fleet_core::{NodeId, PairingStatus, enrollment::NodeState};

use crate::Binding;

/// The decision about a request to bind a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindDecision {
    /// Bind the device, and delete credentials that were stored for an earlier binding.
    Bind,
    /// The device already has this binding. Nothing changes.
    Already,
}

/// Why a device cannot be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindRefusal {
    /// The node is not confirmed. Only a confirmed node receives commands.
    #[error("node {0} is not confirmed")]
    NotConfirmed(NodeId),
    /// The device is already bound to this node. A device has at most one binding.
    #[error("it is bound to node {0}: unpair it first")]
    BoundToNode(NodeId),
    /// The device is bound to the server.
    #[error("it is paired by the server itself: unpair it first")]
    BoundToServer,
    /// The node found the device. The server never dials a device that a node found.
    #[error("node {0} found it: the server itself never dials what a node has found")]
    FoundByNode(NodeId),
    /// The device has no known endpoint: it never had one, or another device took it.
    #[error("where it is now is not known: scan for it first")]
    NoEndpoint,
}

/// Decides whether a device may be bound to a node. Attribution to another node does not prevent the binding: the
/// operator decides, and the attribution follows the binding.
///
/// # Errors
///
/// [`BindRefusal`] states why the device cannot be bound.
pub fn decide_bind(
    node: NodeId,
    state: NodeState,
    binding: Binding,
) -> Result<BindDecision, BindRefusal> {
    if state != NodeState::Confirmed {
        return Err(BindRefusal::NotConfirmed(node));
    }
    match binding {
        Binding::Free => Ok(BindDecision::Bind),
        Binding::Node(bound) if bound == node => Ok(BindDecision::Already),
        Binding::Node(bound) => Err(BindRefusal::BoundToNode(bound)),
        Binding::Server => Err(BindRefusal::BoundToServer),
    }
}

/// The facts that decide whether the server may bind a device to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerClaim {
    /// The current binding of the device.
    pub binding: Binding,
    /// The node to which the device is attributed, enrolled or revoked. Attribution is never cleared.
    pub owner: Option<NodeId>,
    /// Whether the device has a known endpoint.
    pub has_endpoint: bool,
    /// A node to which that endpoint was ever attributed.
    pub endpoint_node: Option<NodeId>,
}

/// Decides whether the server may bind a device to itself. It may not if the device or its endpoint was ever
/// attributed to a node.
///
/// # Errors
///
/// [`BindRefusal`] states why the device cannot be bound.
pub fn decide_bind_to_server(claim: ServerClaim) -> Result<BindDecision, BindRefusal> {
    // Checked before the binding: a node can find a device after the server bound it.
    if let Some(node) = claim.owner.or(claim.endpoint_node) {
        return Err(BindRefusal::FoundByNode(node));
    }
    match claim.binding {
        Binding::Node(node) => Err(BindRefusal::BoundToNode(node)),
        Binding::Server => Ok(BindDecision::Already),
        Binding::Free if !claim.has_endpoint => Err(BindRefusal::NoEndpoint),
        Binding::Free => Ok(BindDecision::Bind),
    }
}

/// A device that an operator asks a node to pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairCandidate {
    /// The current binding of the device.
    pub binding: Binding,
    /// The node to which the device is attributed.
    pub owner: Option<NodeId>,
    /// The current pairing status.
    pub status: PairingStatus,
    /// Whether the device has a known endpoint.
    pub has_endpoint: bool,
    /// The revoked node whose record this was, if the current owner claimed it by its endpoint and no operator has
    /// confirmed that.
    pub claimed_from: Option<NodeId>,
}

/// Why a device cannot be paired on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPairable {
    /// Another node found the device, or no node did.
    #[error("node {0} did not find it: bind it to that node first, or scan with it")]
    NotOfNode(NodeId),
    /// The device is bound to another node or to the server, or cannot be bound.
    #[error(transparent)]
    Bound(#[from] BindRefusal),
    /// The node claimed the device from a revoked node, and credentials would go to an unverified device at its endpoint.
    #[error(
        "revoked node {0} had found it, and this node claims it by its address: check that it is the same device, then bind it to this node"
    )]
    Claimed(NodeId),
    /// The device is already paired, and the request selects unpaired devices only.
    #[error("it is paired already")]
    Paired,
    /// The device requires a password, and the request has none.
    #[error("it wants a password: give one")]
    PasswordMissing,
}

/// Decides whether a device that the request names can be paired on a node.
///
/// # Errors
///
/// [`NotPairable`] states why it cannot.
pub fn decide_target(node: NodeId, candidate: PairCandidate) -> Result<(), NotPairable> {
    match candidate.binding {
        Binding::Server => return Err(BindRefusal::BoundToServer.into()),
        Binding::Node(bound) if bound != node => {
            return Err(BindRefusal::BoundToNode(bound).into());
        }
        Binding::Node(_) => {}
        Binding::Free if candidate.owner != Some(node) => {
            return Err(NotPairable::NotOfNode(node));
        }
        Binding::Free => {
            if let Some(from) = candidate.claimed_from {
                return Err(NotPairable::Claimed(from));
            }
        }
    }
    if candidate.has_endpoint {
        Ok(())
    } else {
        Err(BindRefusal::NoEndpoint.into())
    }
}

/// Decides whether a request for all unpaired devices includes this device. Without a password, the request skips
/// devices that are known to require one.
///
/// # Errors
///
/// [`NotPairable`] states why the device is skipped.
pub fn decide_unpaired_target(
    node: NodeId,
    candidate: PairCandidate,
    with_password: bool,
) -> Result<(), NotPairable> {
    decide_target(node, candidate)?;
    match candidate.status {
        PairingStatus::Paired | PairingStatus::DefaultPassword | PairingStatus::Open => {
            Err(NotPairable::Paired)
        }
        PairingStatus::AuthenticationNeeded if !with_password => Err(NotPairable::PasswordMissing),
        PairingStatus::AuthenticationNeeded
        | PairingStatus::Unpaired
        | PairingStatus::Pending
        | PairingStatus::Failed => Ok(()),
    }
}

#[cfg(test)]
mod tests;
