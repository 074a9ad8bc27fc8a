//! Hosts external driver plugins: existing programs, in any language, that tell what kind of device is behind a port.
//!
//! [`PluginHost::start`] first: it checks a folder, starts every plugin in it and looks after them; its
//! [`drivers`](PluginHost::drivers) go into a scanner's [`DriverSet`](fleet_scan::DriverSet). What a plugin prints and
//! answers is untrusted: read in `handshake.rs`, `answer.rs` and `lines.rs`, which are pure, as is the rule of restarts
//! in `supervisor.rs`. Nothing here knows the server.
//!
//! Each plugin runs under a guard, a small process that ends it and all that it started when this one is gone, however
//! it went. The guard is a program that calls [`guard`]: `fleet-plugin-guard`, or the embedding program itself.

mod answer;
mod client;
mod driver;
mod environment;
mod folder;
mod guard;
mod handshake;
mod host;
mod lines;
mod names;
mod plugin;
mod process;
mod supervisor;

pub use folder::{FolderError, Skipped};
pub use guard::guard;
pub use host::{HostOptions, PluginHost};
pub use supervisor::Timing;

/// Entry points for fuzzing: the parsers of what plugins say, as functions of bytes.
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz {
    /// Reads a first line of output.
    pub fn handshake_line(bytes: &[u8]) {
        crate::handshake::fuzz(bytes);
    }

    /// Reads the answer to a discovery.
    pub fn discovery_answer(bytes: &[u8]) {
        crate::answer::fuzz(bytes);
    }
}
