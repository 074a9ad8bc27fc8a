//! State machines, without IO, for the two ends of a node's control stream.
//!
//! The server's end is [`Registry`]: current connections, their epochs, and the commands in flight. The node's end
//! is [`NodeLink`] (reconnects, sessions, one command at a time) with its [`Spool`] of reports.
//!
//! Each machine is driven by calls: inputs carry the time at which they arrived, `poll_output()` returns the next
//! action, and `poll_timeout()` returns when to call `handle_timeout(now)`. The machines have no clock, no source of
//! randomness (seeds are arguments), no sockets and no storage. The server and the node own those.
mod capability;
pub mod link;
mod random;
pub mod registry;
pub mod spool;
mod timers;

pub use capability::{Announced, Capabilities, Capability};
pub use link::NodeLink;
pub use registry::Registry;
pub use spool::Spool;
