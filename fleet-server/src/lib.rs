//! The server: what nodes and operators call, dispatch of scans to connected nodes, authentication,
//! audit, and the web page. Rules are the pure crates', rows the store's, protocols the wire's; here
//! they meet.
//!
//! Start with [`Server`]; a scan's way begins in `scans`, goes on in `dispatch`, `stream` and `gateway`,
//! and is seen by `watch`.

mod accounts;
mod admin;
mod app;
mod audit;
mod auth;
mod bells;
mod convert;
mod devices;
mod direct;
mod discover;
mod dispatch;
mod environment;
mod failure;
mod gateway;
mod http;
mod hub;
mod limiter;
mod messages;
mod operators;
mod pair;
mod passwords;
mod points;
mod policy;
mod scans;
mod seal;
mod server;
mod stream;
mod sweep;
mod trail;
mod watch;

pub use app::{Rates, ServerConfig};
pub use direct::{
    DirectPath, Leave, PairAnswer, PairLogin, PairOrder, ProbeEvent, ProbeOrder, ProbeSummary,
    Prober,
};
pub use environment::{Environment, SystemEnvironment};
pub use passwords::hash_password;
pub use server::Server;
