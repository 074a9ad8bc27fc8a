//! Hosts external driver plugins: existing programs, in any language, that identify the device behind a port.
//!
//! Start with [`PluginHost::start`]: it checks a folder, starts every plugin in it and supervises them. Pass its
//! [`drivers`](PluginHost::drivers) to a scanner's [`DriverSet`](fleet_scan::DriverSet). The output and the answers of
//! a plugin are untrusted. They are parsed in `handshake.rs`, `answer.rs` and `lines.rs`, which are pure; so is
//! the restart state machine in `supervisor.rs`. This crate does not know the server.
//!
//! Each plugin runs under a guard: a small process that kills the plugin and its children if this process ends in any
//! way. The guard is a program that calls [`guard`]: `fleet-plugin-guard`, or the embedding program itself.

mod answer;
mod client;
mod driver;
mod driver_names;
mod environment;
mod folder;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
mod guard;
mod handshake;
mod host;
mod lines;
mod plugin;
mod process;
mod supervisor;

pub use folder::{FolderError, Skipped};
pub use guard::guard;
pub use host::{HostOptions, PluginHost};
pub use supervisor::Timing;
