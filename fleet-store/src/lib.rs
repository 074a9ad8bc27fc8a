//! Storage behind traits: coarse operations, each one transaction, on SQLite and PostgreSQL.
//!
//! [`Store`] is what servers hold; its operations are grouped in [`Operators`], [`Accounts`], [`Enrollment`],
//! [`Sessions`], [`Streams`], [`Scans`], [`Inventory`], [`Pairing`], [`Direct`] and [`Audit`]. Rules are not decided here:
//! the pure crates decide over the rows that a transaction has loaded and locked, and the same
//! transaction writes what they decided. Start with [`Scans::record_report`].

mod api;
mod sql;

pub use api::{
    accounts::{
        Account, Accounts, BrowserSession, KEYS_OF_AN_OPERATOR, KeyError, Member, MemberError,
        NewKey, OperatorKey, Reach, Rotation,
    },
    audit::{
        Actor, Audit, AuditEntry, AuditLink, AuditQuery, AuditResult, AuditRow, LinkedRecord, Who,
    },
    devices::{DeviceAlias, DeviceName, DeviceRow, Inventory, RefusedDevice, ToldApart, UndoError},
    direct::{DialRequest, Direct, Exclusion, NewSightings, ReleaseError, Released, Sighted},
    enrollment::{
        CancelCodeError, ConfirmError, CreateCodeError, Enrollment, Hello, Invitation, NewCode,
        NewNode, NodeRow, RegisterError, Registered, RevokeError, Revoked,
    },
    error::StoreError,
    operators::{
        CreateKeyError, CreateOperatorError, Credential, NewBrowserSession, NewOperator,
        OpenBrowserSessionError, OperatorIdentity, Operators, PasswordHash, Proof,
    },
    pairing::{
        BindError, BoundDevice, CancelPairingError, Changed, CreatePairingError, DevicePairing,
        NewPairResults, NewPairing, PairPage, PairResultRow, PairResultsAnswer, PairRow,
        PairTarget, PairTargets, PairWish, Pairing, PairingRow, PairingStep, SealedCredentials,
        UnbindError,
    },
    reports::{NewReport, ReportAnswer, ReportError},
    scans::{
        Ack, Acked, CancelScanError, Canceled, CreateScanError, CreatedScan, EventPage,
        IssuedCommand, NewScan, Pins, PinsError, PinsTaken, Progress, Queueing, ScanRow, Scans,
        StoredEvent, Swept,
    },
    sessions::{BeginError, Challenged, NodeIdentity, OpenSessionError, Sessions},
    streams::{AdoptedCommand, ClaimError, ClaimedStream, StreamClaim, Streams},
};
pub use sql::{MigrateMode, SqlStore, StoreOptions};

/// Everything a server keeps.
pub trait Store:
    Operators
    + Accounts
    + Enrollment
    + Sessions
    + Streams
    + Scans
    + Inventory
    + Pairing
    + Direct
    + Audit
    + std::fmt::Debug
{
}

impl<T> Store for T where
    T: Operators
        + Accounts
        + Enrollment
        + Sessions
        + Streams
        + Scans
        + Inventory
        + Pairing
        + Direct
        + Audit
        + std::fmt::Debug
{
}
