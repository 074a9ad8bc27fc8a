//! Whom a device is bound to: whether it may be bound to a node or to the server, and what may be
//! paired where. Rows are loaded and locked by the caller; one row a device holds the answer.

use fleet_core::{NodeId, PairingStatus, enrollment::NodeState};

use crate::Binding;

/// What becomes of a request to bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindDecision {
    /// Bind, and forget credentials that were stored for an earlier binding.
    Bind,
    /// It is bound so already: nothing changes.
    Already,
}

/// Why a device is not bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindRefusal {
    /// Only a confirmed node can be asked for anything.
    #[error("node {0} is not confirmed")]
    NotConfirmed(NodeId),
    /// One row a device: no second binding.
    #[error("it is bound to node {0}: unpair it first")]
    BoundToNode(NodeId),
    /// The server pairs it itself.
    #[error("it is paired by the server itself: unpair it first")]
    BoundToServer,
    /// The server never dials what a node has found.
    #[error("node {0} found it: the server itself never dials what a node has found")]
    FoundByNode(NodeId),
    /// Another device has its place, or it was never seen at any.
    #[error("where it is now is not known: scan for it first")]
    NoPlace,
}

/// Whether a device may be bound to a node. Attribution is no hindrance: the operator decides, and
/// attribution follows the binding.
///
/// # Errors
///
/// Why it may not.
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

/// What the server must know before it binds a device to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerClaim {
    /// Whom the device is bound to.
    pub binding: Binding,
    /// The node that it is attributed to, live or not: attribution is never cleared.
    pub owner: Option<NodeId>,
    /// Whether it is at a known place.
    pub has_place: bool,
    /// A node to which that place was ever attributed.
    pub place_of: Option<NodeId>,
}

/// Whether the server may bind a device to itself: never one that has or had a node's attribution, nor
/// one at a place that ever had.
///
/// # Errors
///
/// Why it may not.
pub fn decide_bind_to_server(claim: ServerClaim) -> Result<BindDecision, BindRefusal> {
    if let Some(node) = claim.owner.or(claim.place_of) {
        return Err(BindRefusal::FoundByNode(node));
    }
    match claim.binding {
        Binding::Node(node) => Err(BindRefusal::BoundToNode(node)),
        Binding::Server => Ok(BindDecision::Already),
        Binding::Free if !claim.has_place => Err(BindRefusal::NoPlace),
        Binding::Free => Ok(BindDecision::Bind),
    }
}

/// A device that an operator asks a node to pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairCandidate {
    /// Whom it is bound to.
    pub binding: Binding,
    /// The node that it is attributed to.
    pub owner: Option<NodeId>,
    /// Where it stands.
    pub status: PairingStatus,
    /// Whether it is at a known place.
    pub has_place: bool,
}

/// Why a device is not a target of pairing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPairable {
    /// Another node found it, or nobody did.
    #[error("node {0} did not find it: bind it to that node first, or scan with it")]
    NotOfNode(NodeId),
    /// It is bound elsewhere.
    #[error(transparent)]
    Bound(#[from] BindRefusal),
    /// Paired already, and only what is not was asked for.
    #[error("it is paired already")]
    Paired,
    /// It is known to want a password, and there is none.
    #[error("it wants a password: give one")]
    PasswordMissing,
}

/// Whether a device that was asked for by name is a target of pairing on a node.
///
/// # Errors
///
/// Why it is not.
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
        Binding::Free => {}
    }
    if candidate.has_place {
        Ok(())
    } else {
        Err(BindRefusal::NoPlace.into())
    }
}

/// Whether a device is one of "all that are not paired": without a password, what is known to want one
/// is left out.
///
/// # Errors
///
/// Why it is not.
pub fn decide_unpaired_target(
    node: NodeId,
    candidate: PairCandidate,
    with_password: bool,
) -> Result<(), NotPairable> {
    decide_target(node, candidate)?;
    match candidate.status {
        PairingStatus::Paired | PairingStatus::DefaultPassword => Err(NotPairable::Paired),
        PairingStatus::AuthenticationNeeded if !with_password => Err(NotPairable::PasswordMissing),
        PairingStatus::AuthenticationNeeded
        | PairingStatus::Unpaired
        | PairingStatus::Pending
        | PairingStatus::Failed => Ok(()),
    }
}

#[cfg(test)]
mod tests;
