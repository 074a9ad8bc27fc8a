//! The port: one accept loop for TLS and plaintext, HTTP/1.1 and HTTP/2, with a bound on everything a peer can make us
//! hold or do: `config` has the numbers, `census` says who may have a place, `meter` counts the frames that neither hyper
//! nor h2 counts.
//!
//! [`serve`] runs until its token is canceled and then drains. What is served is any tower service;
//! [`crate::server::HttpService`] in this project.

mod accept;
mod census;
mod config;
mod connection;
mod frames;
mod guard;
mod meter;
mod metered;
mod patience;
mod rewind;
mod tls;

pub use accept::{Accept, Drained, serve};
pub use config::{ListenerConfig, ListenerCounts};
pub use guard::ConnectionGuard;
pub use meter::Flood;
pub use tls::{DevCertificate, TlsError, TlsIdentity, dev_certificate};
