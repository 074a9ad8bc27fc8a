//! The port.
mod guard;
pub(crate) use guard::ActiveCall;
pub use guard::ConnectionGuard;
