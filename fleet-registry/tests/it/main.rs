//! Every machine against its model, and what it promises told as scenarios.

mod corpus;
mod link;
mod models;
mod registry;
mod spool;

use std::time::Instant;

use fleet_registry::link::WireCommandId;

/// Some moment: only differences count.
#[expect(
    clippy::disallowed_methods,
    reason = "an `Instant` has no other origin; nothing depends on which one it is"
)]
fn now() -> Instant {
    Instant::now()
}

fn id(text: &str) -> WireCommandId {
    WireCommandId::new(text).expect("it is short")
}
