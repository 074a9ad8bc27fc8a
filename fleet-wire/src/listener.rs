//! The port: one accept loop for TLS and plaintext, HTTP/1.1 and HTTP/2. Everything that a peer can make the server hold
//! or do has a bound. `config` has the numbers, `table` assigns connection slots, and `meter` counts the frames that
//! neither hyper nor h2 counts.
//!
//! [`serve`] runs until its token is canceled and then drains. It serves any tower service, in this project
//! [`crate::server::HttpService`].

mod accept;
mod config;
mod connection;
mod frames;
mod guard;
mod meter;
mod metered;
mod proxied;
mod request;
mod rewind;
mod stall;
mod table;
mod tls;

pub use accept::{Accept, Drained, serve};
pub use config::{ListenerConfig, ListenerCounts};
pub use guard::ConnectionGuard;
pub use meter::Flood;
pub use request::RequestGuard;
pub use tls::{DevCertificate, TlsError, TlsIdentity, dev_certificate};
