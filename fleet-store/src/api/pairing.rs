//! Whom devices are bound to, and where their pairing stands.

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
    /// Since when.
    pub since: Timestamp,
    /// Who bound it; none when a pairing on the node did.
    pub assigned_by: Option<OperatorId>,
}

/// Where the pairing of a device stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePairing {
    /// Where it stands.
    pub status: PairingStatus,
    /// What the last attempt said, escaped; may be empty.
    pub error: String,
    /// Whom it is bound to: apart from where it stands.
    pub binding: Binding,
    /// Whether credentials that its node sealed are kept for it.
    pub has_credentials: bool,
}

impl DevicePairing {
    /// Of a device that nothing is stored of.
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
    /// It did.
    Yes,
    /// It was so already.
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
    #[error("the server itself is dialing {0} just now: try again shortly")]
    BeingDialed(IpAddr),
    /// The rules refuse it.
    #[error("device {device} cannot be paired: {why}")]
    Refused {
        /// The device.
        device: DeviceId,
        /// Why.
        why: BindRefusal,
    },
    /// Storage trouble.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Why a device could not be released.
#[derive(Debug, thiserror::Error)]
pub enum UnbindError {
    /// No such live device in this organization.
    #[error("no device {0} in this organization")]
    NotFound(DeviceId),
    /// Storage trouble.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// A device that a node is asked to pair, as it was found.
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

/// Which devices an operator wants a node to pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairWish {
    /// These, by identifier.
    pub identifiers: Vec<String>,
    /// Everything that the node found and that is not paired.
    pub all_unpaired: bool,
    /// Whether there is a password to try.
    pub with_password: bool,
}

/// What a wish comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairTargets {
    /// Each device once, by id.
    pub targets: Vec<PairTarget>,
    /// Those asked for by name that cannot be paired there, with the reason.
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
    /// Who asks.
    pub operator: OperatorId,
    /// What each command holds: none is empty, no device is named twice.
    pub parts: Vec<Vec<PairTarget>>,
    /// Now.
    pub now: Timestamp,
}

/// Why pairing could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum CreatePairingError {
    /// No such live node in this organization.
    #[error("no node {0} in this organization")]
    NodeNotFound(NodeId),
    /// Only a confirmed node can be asked for anything.
    #[error("node {0} is not confirmed")]
    NotConfirmed(NodeId),
    /// A node runs one scan or pairing at a time.
    #[error("node {0} is busy: it runs one scan or pairing at a time, retry shortly")]
    Busy(NodeId),
    /// Storage trouble.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// What came of asking for the next part of pairing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PairingStep {
    /// A command in flight, to be handed to the stream.
    Issued {
        /// What it asks for.
        targets: Vec<PairTarget>,
        /// When the server stops waiting.
        deadline: Timestamp,
    },
    /// The stream is not this one, or something else is in flight: ask again.
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
    /// Now.
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

/// What was taken of a report of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairResultsAnswer {
    /// Results stored, or stored before.
    pub accepted: u64,
    /// Results refused.
    pub rejected: u64,
    /// The pairing, whose watchers want a bell.
    pub pairing: PairingId,
}

/// Pairing as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairingRow {
    /// Its id.
    pub id: PairingId,
    /// The node.
    pub node: NodeId,
    /// Who asked.
    pub operator: OperatorId,
    /// When.
    pub created_at: Timestamp,
    /// Devices asked for.
    pub targets: u64,
    /// Devices with a result.
    pub done: u64,
    /// How it ended: none while it goes on.
    pub ended: Option<(Code, String)>,
}

/// One device's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairResultRow {
    /// Dense from 1 within the pairing.
    pub sequence: i64,
    /// The device.
    pub device: DeviceId,
    /// What the operator asked for.
    pub identifier: String,
    /// What came of it.
    pub told: PairingStatus,
    /// Why, escaped; may be empty.
    pub error: String,
}

/// A page of results, read together with where the pairing stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairPage {
    /// Where it stands.
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
    /// Storage trouble.
    #[error(transparent)]
    Storage(#[from] StoreError),
}

/// Bindings and what comes of pairing.
#[async_trait]
pub trait Pairing: Send + Sync {
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
    /// the device nor the place where it is may ever have been attributed to one. Decided under the
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

    /// Where the pairing of devices stands; those that are not in the answer are
    /// [`DevicePairing::NONE`].
    async fn pairings_of(
        &self,
        org: OrgId,
        devices: &[DeviceId],
    ) -> Result<BTreeMap<DeviceId, DevicePairing>, StoreError>;

    /// What an operator's wish comes to on a node: pure rules over the rows as they are now. Results are
    /// judged again when they come.
    async fn pair_targets(
        &self,
        org: OrgId,
        node: NodeId,
        wish: PairWish,
    ) -> Result<PairTargets, StoreError>;

    /// Stores pairing and its targets; credentials are not among what is stored. The node's slot is
    /// its own until it ends; whoever drives it must say so within [`limits::PAIRING_LEASE`].
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

    /// Says that somebody still drives a pairing. Whether it goes on.
    async fn keep_pairing(&self, pairing: PairingId, now: Timestamp) -> Result<bool, StoreError>;

    /// Ends a pairing of which nothing is in flight, or whose command could not be handed to the stream:
    /// what has no result yet is told as failed for this reason, and devices stay as they were.
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

    /// Expires commands of pairing past their deadline, and ends pairing that nobody drives any more.
    /// Answers the commands.
    async fn sweep_pairings(&self, now: Timestamp) -> Result<Vec<(NodeId, CommandId)>, StoreError>;

    /// Results after a cursor, at most `limit`; none when the pairing is not this organization's.
    async fn read_pairing(
        &self,
        org: OrgId,
        pairing: PairingId,
        after: i64,
        limit: u32,
    ) -> Result<Option<PairPage>, StoreError>;
}
