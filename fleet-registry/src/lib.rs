//! The two halves of a node's control stream as machines without IO: the server's [`Registry`] (who is
//! connected, what is in flight, who is the newest) and the node's [`NodeLink`] (reconnect, sessions, one
//! command at a time) with its [`Spool`] of reports.
//!
//! Each is driven by calls: inputs with the time they came at, `poll_output()` for what to do,
//! `poll_timeout()` for when to call `handle_timeout(now)`. No clock, no randomness (seeds are arguments), no
//! sockets, no storage: the shells that have these live in the server and in the node.

mod capability;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod link;
mod random;
pub mod registry;
pub mod spool;
mod timers;

pub use capability::{Announced, Capabilities, Capability};
pub use link::NodeLink;
pub use registry::Registry;
pub use spool::Spool;
