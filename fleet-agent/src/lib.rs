//! The node as a library: it enrolls, proves its identity, holds the control stream, scans on request, and reports
//! until the server has accepted everything. The binary is `fleetnode`.
//!
//! Start with [`register`] and [`finish`] (enrollment, once), then [`Agent`] (everything after). The state machines for
//! reconnects, retries and batching are in fleet-registry. This crate supplies the clock, randomness, sockets and tasks.

mod agent;
mod enroll;
mod import;
mod local;
mod metrics;
mod seal;
mod session;
mod site;
mod state;
mod transport;

pub use agent::{Agent, AgentCounts, AgentError, AgentOptions, AgentStatus};
pub use enroll::{
    ConfigureOptions, EnrollError, EnrollOptions, KeyFetch, Registration, configure, fetch_key,
    finish, refresh, register,
};
pub use fleet_registry::link::StopReason;
pub use import::import;
pub use local::{LocalScan, LocalScanError, LocalSummary, RunningScan};
pub use metrics::metrics;
pub use seal::{CredentialPart, SealError, open, seal};
pub use session::SessionError;
pub use site::{PolicyViolation, SitePolicy};
pub use state::{SecretKey, SecretText, Stage, StateDir, StateError, StateFile};
pub use transport::TransportError;
