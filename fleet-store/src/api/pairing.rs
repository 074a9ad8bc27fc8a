//! Bindings of devices, and pairing that operators request.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use async_trait::async_trait;
use fleet_core::{
    CommandId, DeviceFacts, DeviceId, DeviceIdentifier, Endpoint, Epoch, NodeId, OperatorId, OrgId,
    PairRejectReason, PairResult, PairingId, PairingStatus, Timestamp, outcome::Code,
};
use fleet_pairing::{BindRefusal, Binding};

use crate::{Actor, DeviceRow, ReportError, StoreError};

/// A device that is bound to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundDevice {
    /// The device.
    pub device: DeviceRow,
    /// The node that it is bound to.
    pub node: NodeId,
    /// When it was bound.
    pub since: Timestamp,
    /// The operator that bound it; `None` when a pairing on the node did.
    pub assigned_by: Option<OperatorId>,
}

/// The pairing of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePairing {
    /// The status.
    pub status: PairingStatus,
    /// The error of the last attempt, escaped; may be empty.
    pub error: String,
    /// The binding, which is independent of the status.
    pub binding: Binding,
    /// Whether credentials that its node sealed are kept for it.
    pub has_credentials: bool,
}

impl DevicePairing {
    /// The pairing of a device without stored data.
    pub const NONE: Self = Self {
        status: PairingStatus::Unpaired,
        error: String::new(),
        binding: Binding::Free,
        has_credentials: false,
    };
}

/// Whether a request changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Something changed.
    Yes,
    /// Nothing had to change.
    No,
}

/// Why a device could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// No such live node in this organization.
    #[error("no node {0} in this organization")]
    NodeNotFound(NodeId),
    /// No such live device in this organization.
    #[error("no device {0} in this organization")]
    DeviceNotFound(DeviceId),
    /// The server itself is dialing where the device is.
    #[error("the server itself is dialing {0}: try again shortly")]
    BeingDialed(IpAddr),
    /// The rules refuse it.
    #[error("device {device} cannot be paired: {why}")]
    Refused {
        /// The device.
        device: DeviceId,
        /// Why.
        why: BindRefusal,
    },
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Why a device could not be released.
#[derive(Debug, thiserror::Error)]
pub enum UnbindError {
    /// No such live device in this organization.
    #[error("no device {0} in this organization")]
    NotFound(DeviceId),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// A device for a node to pair, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairTarget {
    /// The device.
    pub device: DeviceId,
    /// Its identity.
    pub identifier: DeviceIdentifier,
    /// Where it is.
    pub endpoint: Endpoint,
    /// Scheme, driver, manufacturer and firmware of it; the other facts are not stored.
    pub facts: DeviceFacts,
}

/// The devices that an operator selects for pairing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairSelection {
    /// These, by identifier.
    pub identifiers: Vec<String>,
    /// All devices that the node found and that are not paired.
    pub all_unpaired: bool,
    /// Whether there is a password to try.
    pub with_password: bool,
}

/// The targets of a selection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairTargets {
    /// Each device once, by id.
    pub targets: Vec<PairTarget>,
    /// Devices selected by name that the node cannot pair, with the reason.
    pub refused: Vec<(String, String)>,
}

/// Pairing to store.
#[derive(Clone, Debug)]
pub struct NewPairing {
    /// Made by the caller.
    pub id: PairingId,
    /// Whose node it is.
    pub org: OrgId,
    /// The node.
    pub node: NodeId,
    /// The operator.
    pub operator: OperatorId,
    /// The targets of each command. No part is empty, and no device is in two.
    pub parts: Vec<Vec<PairTarget>>,
    /// The current time.
    pub now: Timestamp,
}

/// Why pairing could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum CreatePairingError {
    /// No such live node in this organization.
    #[error("no node {0} in this organization")]
    NodeNotFound(NodeId),
    /// Only a confirmed node can pair.
    #[error("node {0} is not confirmed")]
    NotConfirmed(NodeId),
    /// A node runs one scan or pairing at a time.
    #[error("node {0} is busy: it runs one scan or pairing at a time, retry shortly")]
    Busy(NodeId),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// The result of issuing the next part of a pairing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PairingStep {
    /// A command in flight, to be handed to the stream.
    Issued {
        /// The devices to pair.
        targets: Vec<PairTarget>,
        /// When the command expires.
        deadline: Timestamp,
    },
    /// The epoch is not current, or another command is in flight. Call again later.
    Waits,
    /// It has ended.
    Over,
}

/// Credentials that a node sealed to itself: bytes that nobody else can read, and that are not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedCredentials {
    /// At most 4,096 bytes.
    pub username: Vec<u8>,
    /// At most 4,096 bytes.
    pub password: Vec<u8>,
}

impl fmt::Debug for SealedCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedCredentials(..)")
    }
}

/// A report of pairing results whose envelope is in order.
#[derive(Clone, Debug)]
pub struct NewPairResults {
    /// Who sent it, from the bearer token.
    pub node: NodeId,
    /// Whose node it is.
    pub org: OrgId,
    /// Where it came from, for the audit trail.
    pub from: Option<IpAddr>,
    /// The command it belongs to.
    pub command: CommandId,
    /// Its rows in order; a malformed one with its reason and an escaped example.
    pub rows: Vec<Result<PairRow, (PairRejectReason, String)>>,
    /// The current time.
    pub now: Timestamp,
}

/// One result, with what its node sealed.
#[derive(Clone, Debug)]
pub struct PairRow {
    /// The result; its error escaped and bounded.
    pub result: PairResult,
    /// Credentials that worked.
    pub sealed: Option<SealedCredentials>,
}

/// The result of a report of pairing results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairResultsAnswer {
    /// Results stored, or stored before.
    pub accepted: u64,
    /// Results refused.
    pub rejected: u64,
    /// The pairing, whose watchers must be notified.
    pub pairing: PairingId,
}

/// A pairing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairingRow {
    /// Its id.
    pub id: PairingId,
    /// The node.
    pub node: NodeId,
    /// The operator that requested it.
    pub operator: OperatorId,
    /// When it happened.
    pub created_at: Timestamp,
    /// The number of devices.
    pub targets: u64,
    /// The number of devices with a result.
    pub done: u64,
    /// How it ended; `None` while it runs.
    pub ended: Option<(Code, String)>,
}

/// One device's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairResultRow {
    /// Dense from 1 within the pairing.
    pub sequence: i64,
    /// The device.
    pub device: DeviceId,
    /// The identifier in the request.
    pub identifier: String,
    /// The resulting status.
    pub result: PairingStatus,
    /// The error, escaped; may be empty.
    pub error: String,
}

/// A page of results, read together with the pairing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairPage {
    /// The status.
    pub pairing: PairingRow,
    /// Results after the cursor, in order.
    pub results: Vec<PairResultRow>,
}

/// Why pairing could not be canceled.
#[derive(Debug, thiserror::Error)]
pub enum CancelPairingError {
    /// No such pairing in this organization.
    #[error("no pairing {0} in this organization")]
    NotFound(PairingId),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Which node or server a device is bound to.
#[async_trait]
pub trait Bindings: Send + Sync {
    /// Binds a device to a node and attributes it to it; what was stored of another binding's
    /// credentials is forgotten. The same again changes nothing.
    async fn bind_device(
        &self,
        org: OrgId,
        node: NodeId,
        device: DeviceId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Changed, BindError>;

    /// Releases a device: bound to nobody, paired nowhere, its stored credentials deleted, and results
    /// of pairing that were asked for before are not taken any more. Its attribution stays.
    async fn unbind_device(
        &self,
        org: OrgId,
        device: DeviceId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Changed, UnbindError>;

    /// Binds a device to the server itself, which has paired it, unless a node has or had it: neither
    /// the device nor its endpoint may ever have been attributed to one. Decided under the
    /// device's lock, whatever was known when the server dialed.
    async fn bind_to_server(
        &self,
        org: OrgId,
        device: DeviceId,
        status: PairingStatus,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Changed, BindError>;

    /// The devices that are bound to a node, or to any, by id of the device.
    async fn list_bound_devices(
        &self,
        org: OrgId,
        node: Option<NodeId>,
    ) -> Result<Vec<BoundDevice>, StoreError>;

    /// Devices that nodes have found, of one node or of all, with ids above `after`, by id, at most
    /// `limit`.
    async fn list_found_devices(
        &self,
        org: OrgId,
        node: Option<NodeId>,
        after: DeviceId,
        limit: u32,
    ) -> Result<Vec<DeviceRow>, StoreError>;

    /// The pairing of devices. Devices that are missing in the map are [`DevicePairing::NONE`].
    async fn pairings_of(
        &self,
        org: OrgId,
        devices: &[DeviceId],
    ) -> Result<BTreeMap<DeviceId, DevicePairing>, StoreError>;
}

/// Pairing that operators request from nodes.
#[async_trait]
pub trait Pairing: Send + Sync {
    /// The targets of a selection on a node, by the rules over the current rows. Results are judged again
    /// when they arrive.
    async fn pair_targets(
        &self,
        org: OrgId,
        node: NodeId,
        selection: PairSelection,
    ) -> Result<PairTargets, StoreError>;

    /// Stores pairing and its targets; credentials are not among what is stored. The node runs
    /// nothing else until it ends. Its server must renew the lease within [`limits::PAIRING_LEASE`].
    ///
    /// [`limits::PAIRING_LEASE`]: fleet_core::limits::PAIRING_LEASE
    async fn create_pairing(&self, new: NewPairing, actor: Actor)
    -> Result<(), CreatePairingError>;

    /// Issues the next part under a command id, if the epoch is current and nothing is in flight. A part
    /// is issued once. Extends the lease. Without an epoch the node has no stream: a pairing of which
    /// nothing is in flight ends as unavailable.
    async fn issue_pairing(
        &self,
        pairing: PairingId,
        epoch: Option<Epoch>,
        command: CommandId,
        now: Timestamp,
    ) -> Result<PairingStep, StoreError>;

    /// Renews the lease of a pairing. Returns whether the pairing still runs.
    async fn renew_pairing(&self, pairing: PairingId, now: Timestamp) -> Result<bool, StoreError>;

    /// Ends a pairing of which nothing is in flight, or whose command could not be handed to the stream:
    /// devices without a result are reported as failed for this reason and keep their status.
    async fn end_pairing(
        &self,
        pairing: PairingId,
        code: Code,
        reason: String,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Judges and stores results: one transaction. A result, the device's status, its binding and what
    /// was sealed become durable together. Results that came before change nothing.
    async fn record_pair_results(
        &self,
        report: NewPairResults,
    ) -> Result<PairResultsAnswer, ReportError>;

    /// Cancels pairing: nothing more is sent, and the command in flight, which is answered, may still
    /// bring results until its node acknowledges it or its deadline. Again, or after the end: nothing.
    async fn cancel_pairing(
        &self,
        org: OrgId,
        pairing: PairingId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Option<(NodeId, CommandId)>, CancelPairingError>;

    /// Ends pairings whose lease has expired and that have no command in flight.
    async fn sweep_pairings(&self, now: Timestamp) -> Result<(), StoreError>;

    /// Results after a cursor, at most `limit`; none when the pairing is not this organization's.
    async fn read_pairing(
        &self,
        org: OrgId,
        pairing: PairingId,
        after: i64,
        limit: u32,
    ) -> Result<Option<PairPage>, StoreError>;
}
