//! The server: the services that nodes and operators call, dispatch of scans to connected nodes, authentication,
//! audit, and the web page. The pure crates contain the rules, the store the rows, and the wire crate the protocols.
//! This crate connects them.
//!
//! Start with [`Server`]. A scan passes through `scans`, `dispatch`, `stream` and `api::gateway`; `watch` follows it.
//!
//! # Module map
//!
//! Modules of a row use only rows below it (and, where noted, their own submodules):
//!
//! ```text
//! server                                               mounts everything
//! api/*, http/*                                        RPC handlers, plain HTTP
//! dispatch, orders, schedules, alerts, sweep, seal, readiness, stream  background tasks, control streams
//! discover, pair/*, direct/*                           operations with their own streams
//! scans, watch, call                                   operations on scans; an operator's call
//! auth                                                 who calls
//! app                                                  shared state
//! provider/*                                           an OpenID provider
//! hub, audit, messages                                 connected nodes, refusals, messages to nodes
//! convert, failure, policy, credentials, prober, ...   values, conversions, small tools
//! ```

mod alerts;
mod api;
mod app;
mod audit;
mod auth;
mod call;
mod call_limits;
mod changes;
mod config;
mod convert;
mod credential_limits;
mod credentials;
mod dial_permit;
mod direct;
mod direct_slots;
mod discover;
mod dispatch;
mod dispatch_queue;
mod environment;
mod failure;
mod http;
mod hub;
mod key_slots;
mod limiter;
mod messages;
mod metrics;
mod orders;
mod pair;
mod passwords;
mod planning;
mod plans;
mod policy;
mod prober;
mod provider;
mod public_keys;
mod readiness;
mod replicas;
mod results;
mod scans;
mod schedules;
mod seal;
mod sealed_key;
mod server;
mod stream;
mod sweep;
mod wakeups;
mod watch;

pub use config::{DirectPath, Rates, ServerConfig, Smtp, SmtpSecurity};
pub use dial_permit::DialPermit;
pub use environment::{Environment, SystemEnvironment};
pub use passwords::hash_password;
pub use prober::{PairAnswer, PairLogin, PairOrder, ProbeEvent, ProbeOrder, ProbeSummary, Prober};
pub use provider::{EMAIL_VERIFIED, SignInProvider};
pub use server::Server;
