//! The node as a library: it enrolls, proves who it is, holds the control stream, scans when asked, and
//! reports until everything found has reached the server. The binary around it is `fleetnode`.
//!
//! Start with [`register`] and [`finish`] (enrollment, once), then [`Agent`] (everything after). The rules of
//! reconnecting, resending and gathering are fleet-registry's machines; here is their shell: clock, randomness,
//! sockets, tasks.

mod agent;
mod enroll;
mod local;
mod seal;
mod session;
mod site;
mod state;
mod transport;

pub use agent::{Agent, AgentError, AgentOptions, AgentStatus};
pub use enroll::{EnrollError, EnrollOptions, Registered, finish, refresh, register};
pub use fleet_registry::link::StopReason;
pub use local::{LocalScan, LocalScanError, LocalSummary, RunningScan};
pub use seal::{Half, SealError, open, seal};
pub use session::SessionError;
pub use site::{SitePolicy, Unscannable};
pub use state::{NodeState, SecretKey, SecretText, Stage, StateDir, StateError};
pub use transport::TransportError;
