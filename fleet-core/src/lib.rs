//! The values that all other crates use: ids, addresses and their classes, ports, device facts and
//! identities, formats of secrets, state machines, outcomes, permissions and limits.
//!
//! The crate has no clock, no randomness and no IO: time and random bytes are arguments. Start with
//! [`AddressPolicy`] (which addresses may be scanned), [`DeviceReport`] (what a node may report) and
//! [`outcome`] (how a scan ended).

mod address;
mod audit;
mod backoff;
mod endpoint_outcome;
pub mod enrollment;
mod facts;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
mod host;
mod identity;
mod ids;
pub mod limits;
mod mac;
pub mod outcome;
mod pairing;
mod password;
mod permission;
mod port;
pub mod presence;
mod regressions;
mod report;
mod scan;
mod secret;
pub mod sso;
pub mod takeover;
pub mod text;
mod time;

pub use address::{
    AddressClass, AddressPolicy, Endpoint, RefusedAddress, canonical, classify, parse_literal,
};
pub use audit::{
    ChainFault, ChainHash, ChainHead, ChainRecord, ChainVerifier, InvalidHead, StoredLink,
};
pub use backoff::{Backoff, full_jitter};
pub use endpoint_outcome::EndpointOutcome;
pub use facts::DeviceFacts;
pub use host::{HostReport, NameSource, NamedBy, RawHostReport};
pub use identity::{DeviceIdentifier, Fingerprint, InvalidIdentifier, Serial, auto_identifier};
pub use ids::{
    AlertChannelId, AlertDeliveryId, AlertRuleId, BrowserSessionId, CommandId, ConnectionId,
    DeviceId, Epoch, IdentityChangeId, InstanceId, KeyId, NodeId, OperatorId, OrgId, PairingId,
    ParseUuidError, PendingEnrollmentId, ReplicaId, ScanId, ScheduleId, SessionId, SiteExcludeId,
    SiteId,
};
pub use mac::{InvalidMac, Mac};
pub use pairing::{PairOutcome, PairRejectReason, PairResult, PairingStatus, RawPairResult};
pub use password::{PASSWORD_LEAST, PASSWORD_MOST, Password, WeakPassword};
pub use permission::{Permission, Role, UnknownRole};
pub use port::{InvalidPort, Port};
pub use report::{DeviceReport, RawDeviceReport, RejectReason};
pub use scan::{ChunkState, CommandState, Priority, ScanState, TargetOutcome, UnknownState};
pub use secret::{
    CHALLENGE_BYTES, CHALLENGE_TAG, InvalidSecret, Secret, SecretHash, SecretKind, challenge,
    is_domain_separated, is_upstream_challenge, key_statement, registration_statement,
};
pub use time::Timestamp;
