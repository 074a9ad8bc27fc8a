//! Bindings of devices, and pairings that operators request.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use async_trait::async_trait;
use fleet_core::{
    CommandId, DeviceFacts, DeviceId, DeviceIdentifier, Endpoint, Epoch, NodeId, OperatorId, OrgId,
    PairRejectReason, PairResult, PairingId, PairingStatus, ReplicaId, Timestamp, outcome::Code,
};
use fleet_pairing::{BindRefusal, Binding};

use crate::{Actor, DeviceRow, ListPage, ReportError, StoreError};

/// A device that is bound to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundDevice {
    /// The device.
    pub device: DeviceRow,
    /// The node that it is bound to.
    pub node: NodeId,
    /// When it was bound.
    pub since: Timestamp,
    /// The operator that bound it; `None` when a pairing on the node bound it.
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
    /// Whether credentials that its node sealed are stored for it.
    pub has_credentials: bool,
}

impl DevicePairing {
    /// The value for a device without stored pairing data.
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
    /// The request changed nothing.
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
    /// The server itself is dialing the device's address.
    #[error("the server itself is dialing {0}: try again shortly")]
    BeingDialed(IpAddr),
    /// The pairing rules refuse it.
    #[error("device {device} cannot be paired: {why}")]
    Refused {
        /// The device.
        device: DeviceId,
        /// The reason.
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

/// A device for a node to pair, as a scan found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairTarget {
    /// The device.
    pub device: DeviceId,
    /// Its identity.
    pub identifier: DeviceIdentifier,
    /// Its endpoint.
    pub endpoint: Endpoint,
    /// Its scheme, driver, manufacturer and firmware. Other facts are not stored.
    pub facts: DeviceFacts,
}

/// The devices that an operator selects for pairing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairSelection {
    /// The devices with these identifiers.
    pub identifiers: Vec<String>,
    /// All unpaired devices that the node found.
    pub all_unpaired: bool,
    /// Whether the operator supplied a password to try.
    pub with_password: bool,
}

/// The targets of a selection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairTargets {
    /// The devices, each once, by id.
    pub targets: Vec<PairTarget>,
    /// Devices selected by name that the node cannot pair, with the reason.
    pub refused: Vec<(String, String)>,
}

/// A pairing to store.
#[derive(Clone, Debug)]
pub struct NewPairing {
    /// The id, chosen by the caller.
    pub id: PairingId,
    /// The organization.
    pub org: OrgId,
    /// The node.
    pub node: NodeId,
    /// The operator.
    pub operator: OperatorId,
    /// The targets of each command. No part is empty, and no device is in two parts.
    pub parts: Vec<Vec<PairTarget>>,
    /// The credentials for the server that holds the node's stream; `None` if that is the caller.
    pub forwarded: Option<ForwardedCredentials>,
    /// The current time.
    pub now: Timestamp,
}

/// Credentials for another server, sealed to a key that only its process has. They are never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ForwardedCredentials {
    /// The server that can open them.
    pub replica: ReplicaId,
    /// The sealed message.
    pub sealed: Vec<u8>,
}

impl fmt::Debug for ForwardedCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ForwardedCredentials({:?})", self.replica)
    }
}

/// A pairing that another server forwarded. The taker has its only copy of the credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct ForwardedPairing {
    /// The pairing.
    pub pairing: PairingId,
    /// Its node.
    pub node: NodeId,
    /// The number of its parts, none of which was issued yet.
    pub parts: usize,
    /// The sealed message.
    pub sealed: Vec<u8>,
}

impl fmt::Debug for ForwardedPairing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ForwardedPairing({})", self.pairing)
    }
}

/// Why a pairing could not be stored.
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
    /// A command was issued and must be handed to the stream.
    Issued {
        /// The devices to pair.
        targets: Vec<PairTarget>,
        /// When the command expires.
        deadline: Timestamp,
    },
    /// The epoch is not current, or another command is in flight. Call again later.
    Waits,
    /// The pairing has ended.
    Over,
}

/// Credentials that a node sealed to itself. Only that node can read them, and they are never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedCredentials {
    /// The user name, at most 4,096 bytes.
    pub username: Vec<u8>,
    /// The password, at most 4,096 bytes.
    pub password: Vec<u8>,
}

impl fmt::Debug for SealedCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedCredentials(..)")
    }
}

/// A report of pairing results with a valid envelope.
#[derive(Clone, Debug)]
pub struct NewPairResults {
    /// The node that sent it, from the bearer token.
    pub node: NodeId,
    /// The organization of the node.
    pub org: OrgId,
    /// The address it came from, for the audit trail.
    pub from: Option<IpAddr>,
    /// The command it belongs to.
    pub command: CommandId,
    /// Its rows in order; a malformed row with its reason and an escaped example.
    pub rows: Vec<Result<PairRow, (PairRejectReason, String)>>,
    /// The current time.
    pub now: Timestamp,
}

/// One result, with the credentials that its node sealed.
#[derive(Clone, Debug)]
pub struct PairRow {
    /// The result, with its error escaped and bounded.
    pub result: PairResult,
    /// The credentials that worked.
    pub sealed: Option<SealedCredentials>,
}

/// The result of a report of pairing results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairResultsAnswer {
    /// The number of results stored now or before.
    pub accepted: u64,
    /// The number of refused results.
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
    /// When it was requested.
    pub created_at: Timestamp,
    /// The number of devices.
    pub targets: u64,
    /// The number of devices with a result.
    pub done: u64,
    /// Its conclusion; `None` while it runs.
    pub ended: Option<(Code, String)>,
}

/// The result of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairResultRow {
    /// The sequence number, dense from 1 within the pairing.
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

/// Why a pairing could not be canceled.
#[derive(Debug, thiserror::Error)]
pub enum CancelPairingError {
    /// No such pairing in this organization.
    #[error("no pairing {0} in this organization")]
    NotFound(PairingId),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// The node or server that each device is bound to.
#[async_trait]
pub trait Bindings: Send + Sync {
    /// Binds a device to a node and attributes it to that node. Credentials that another binding stored are
    /// deleted. Repeating the call changes nothing.
    async fn bind_device(
        &self,
        org: OrgId,
        node: NodeId,
        device: DeviceId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Changed, BindError>;

    /// Releases a device. Its binding, pairing status and stored credentials are deleted, and results of
    /// earlier pairing requests are refused. Its attribution stays.
    async fn unbind_device(
        &self,
        org: OrgId,
        device: DeviceId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Changed, UnbindError>;

    /// Binds a device to the server itself, which has paired it. Neither the device nor its endpoint may ever
    /// have been attributed to a node. This is checked under the device's lock, because the state may have
    /// changed since the server dialed.
    async fn bind_to_server(
        &self,
        org: OrgId,
        device: DeviceId,
        status: PairingStatus,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Changed, BindError>;

    /// Counts the devices that are bound to one node, or to any node.
    async fn count_bound_devices(
        &self,
        org: OrgId,
        node: Option<NodeId>,
    ) -> Result<u64, StoreError>;

    /// Lists the devices that are bound to one node, or to any node, by device id.
    async fn list_bound_devices(
        &self,
        org: OrgId,
        node: Option<NodeId>,
        page: ListPage,
    ) -> Result<Vec<BoundDevice>, StoreError>;

    /// Lists devices that nodes have found, of one node or of all, with ids above `after`, by id, at most
    /// `limit`.
    async fn list_found_devices(
        &self,
        org: OrgId,
        node: Option<NodeId>,
        after: DeviceId,
        limit: u32,
    ) -> Result<Vec<DeviceRow>, StoreError>;

    /// Returns the pairing of devices. A device that is missing in the map is [`DevicePairing::NONE`].
    async fn pairings_of(
        &self,
        org: OrgId,
        devices: &[DeviceId],
    ) -> Result<BTreeMap<DeviceId, DevicePairing>, StoreError>;
}

/// Pairings that operators request from nodes.
#[async_trait]
pub trait Pairing: Send + Sync {
    /// Returns the targets of a selection on a node, according to the rules and the current rows. Results are
    /// judged again when they arrive.
    async fn pair_targets(
        &self,
        org: OrgId,
        node: NodeId,
        selection: PairSelection,
    ) -> Result<PairTargets, StoreError>;

    /// Stores a pairing and its targets, without credentials that the database could read. The node runs nothing else until the pairing
    /// ends. The server must renew the lease within [`limits::PAIRING_LEASE`].
    ///
    /// [`limits::PAIRING_LEASE`]: fleet_core::limits::PAIRING_LEASE
    async fn create_pairing(&self, new: NewPairing, actor: Actor)
    -> Result<(), CreatePairingError>;

    /// Removes and returns the pairings that were forwarded to a server, and renews their leases.
    async fn take_forwarded(
        &self,
        replica: ReplicaId,
        now: Timestamp,
    ) -> Result<Vec<ForwardedPairing>, StoreError>;

    /// Issues the next part under a command id, if the epoch is current and nothing is in flight. A part is
    /// issued only once. Extends the lease. Without an epoch the node has no stream, and a pairing with nothing
    /// in flight ends as unavailable.
    async fn issue_pairing(
        &self,
        pairing: PairingId,
        epoch: Option<Epoch>,
        command: CommandId,
        now: Timestamp,
    ) -> Result<PairingStep, StoreError>;

    /// Renews the lease of a pairing. Returns whether the pairing still runs.
    async fn renew_pairing(&self, pairing: PairingId, now: Timestamp) -> Result<bool, StoreError>;

    /// Ends a pairing that has nothing in flight, or whose command could not be handed to the stream. Devices
    /// without a result are reported as failed with this reason and keep their status.
    async fn end_pairing(
        &self,
        pairing: PairingId,
        code: Code,
        reason: String,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Judges and stores results in one transaction. A result, the device's status, its binding and its sealed
    /// credentials become durable together. Results that were stored before change nothing.
    async fn record_pair_results(
        &self,
        report: NewPairResults,
    ) -> Result<PairResultsAnswer, ReportError>;

    /// Cancels a pairing. No further command is sent. This returns the command in flight, which may still bring
    /// results until its ack or its deadline. Canceling again, or after the end, changes nothing.
    async fn cancel_pairing(
        &self,
        org: OrgId,
        pairing: PairingId,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Option<(NodeId, CommandId)>, CancelPairingError>;

    /// Ends pairings whose lease has expired and that have no command in flight.
    async fn sweep_pairings(&self, now: Timestamp) -> Result<(), StoreError>;

    /// Returns results after a cursor, at most `limit`, or `None` if the organization has no such pairing.
    async fn read_pairing(
        &self,
        org: OrgId,
        pairing: PairingId,
        after: i64,
        limit: u32,
    ) -> Result<Option<PairPage>, StoreError>;
}
