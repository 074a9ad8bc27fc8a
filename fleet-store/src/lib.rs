//! Storage behind traits: coarse operations, each one transaction, on SQLite and PostgreSQL.
//!
//! Servers use [`Store`]. Its operations are grouped in [`Operators`], [`Accounts`], [`Enrollment`], [`Sites`],
//! [`Sessions`], [`Streams`], [`Replicas`], [`Scans`], [`Results`], [`Retention`], [`Schedules`], [`Inventory`], [`DeviceSearch`], [`Overview`], [`DeviceDetails`],
//! [`Removal`],
//! [`Pairing`], [`Direct`], [`Audit`] and [`Statistics`]. This crate
//! contains no rules. Each transaction loads and locks rows, lets the pure crates decide, and writes their
//! decisions. Start with [`Reports::record_report`].

mod api;
mod sql;

pub use api::{
    accounts::{
        Account, Accounts, BrowserSession, CreatedKey, KEYS_OF_AN_OPERATOR, KeyError, KeyScope,
        Keys, Member, MemberError, MemberSession, Members, NewKey, OperatorKey, Rotation,
    },
    alerts::{
        ALERT_CHANNELS_OF_A_RULE, ALERT_CHANNELS_OF_AN_ORG, ALERT_KEPT, ALERT_LEASE,
        ALERT_RULES_OF_AN_ORG, ALERTS_WAITING, AlertChannelRow, AlertDeliveryRow,
        AlertDeliveryState, AlertError, AlertRuleRow, AlertTarget, Alerts, LeasedAlert,
        NewAlertChannel, NewAlertRule, UnknownDeliveryState,
    },
    audit::{
        Actor, Audit, AuditChain, AuditEntry, AuditLink, AuditQuery, AuditResult, AuditRow,
        LinkedRecord, Principal,
    },
    details::{AnnotateError, DeviceDetail, DeviceDetails, DeviceEvent, DeviceNote},
    devices::{
        DeviceAlias, DeviceName, DeviceRow, DeviceSighting, Inventory, RefusedDevice,
        SeparatedDevices, UndoError,
    },
    direct::{
        DialRequest, Direct, DirectEnd, DirectOutcome, DirectRun, Exclusion, NewSightings,
        ReleaseError, Released, Sighted,
    },
    enrollment::{
        CancelCodeError, ConfirmError, CreateCodeError, Enrollment, FetchKeyError, FetchingNode,
        Hello, Invitation, Invitations, KeyAnswer, KeyRequest, ListPage, MoveNodeError, NewCode,
        NewNode, NodeRow, OPEN_CODES, RegisterError, Registered, RenameNodeError, RevokeError,
        Revoked,
    },
    error::StoreError,
    links::{Links, ProviderSignIn, ProviderSignInError, ProviderSignedIn},
    operators::{
        CreateKeyError, CreateOperatorError, Credential, NewBrowserSession, NewOperator,
        OpenBrowserSessionError, OperatorIdentity, Operators, PasswordHash, Proof,
    },
    overview::{MapBlock, MapCell, Overview, OverviewCounts, SiteMap},
    pairing::{
        BindError, Bindings, BoundDevice, CancelPairingError, Changed, CreatePairingError,
        DevicePairing, ForwardedCredentials, ForwardedPairing, NewPairResults, NewPairing,
        PairPage, PairResultRow, PairResultsAnswer, PairRow, PairSelection, PairTarget,
        PairTargets, Pairing, PairingRow, PairingStep, SealedCredentials, UnbindError,
    },
    removal::{DeleteDevicesError, Removal},
    replicas::{ENDED_FOR, Notification, Orders, Replicas},
    reports::{NewReport, Pins, PinsError, PinsTaken, ReportAnswer, ReportError, Reports},
    results::{
        Against, DifferenceError, NodeOfSite, RejectedReport, Results, ScanDifference,
        UnidentifiedHost,
    },
    retention::{RemovedScans, Retention, ScanRetention},
    scans::{
        Ack, Acked, CancelScanError, Canceled, Completion, CreateScanError, CreatedScan, Dispatch,
        EventPage, Expired, Grace, IssuedCommand, NewScan, NewShare, Progress, Queueing,
        ScanChanges, ScanHistory, ScanHost, ScanRow, Scans, ShareRow, StoredEvent,
    },
    schedules::{
        NewSchedule, RUNS_KEPT, RunNowError, SCHEDULES_OF_AN_ORG, ScheduleChange, ScheduleError,
        ScheduleRow, ScheduleRunRow, ScheduledScan, Schedules, Settled, SettledRun,
    },
    search::{DeviceFacets, DeviceOrder, DevicePage, DevicePosition, DeviceQuery, DeviceSearch},
    sessions::{BeginError, Challenged, Halt, Heartbeat, NodeIdentity, OpenSessionError, Sessions},
    sites::{NewBlackouts, SiteError, SiteExclude, SiteRow, Sites},
    statistics::{Statistics, Totals},
    streams::{AdoptedCommand, ClaimError, ClaimedStream, StreamClaim, Streams},
};
pub use sql::{DatabaseUrl, MigrateMode, SqlStore, StoreOptions};

/// The complete storage of a server.
pub trait Store:
    Operators
    + Accounts
    + Keys
    + Members
    + Links
    + Invitations
    + Enrollment
    + Sites
    + Sessions
    + Streams
    + Replicas
    + Scans
    + Dispatch
    + Schedules
    + Reports
    + Completion
    + Results
    + Retention
    + Inventory
    + DeviceSearch
    + Overview
    + DeviceDetails
    + Removal
    + Bindings
    + Pairing
    + Direct
    + Audit
    + AuditChain
    + Alerts
    + Statistics
    + std::fmt::Debug
{
}
