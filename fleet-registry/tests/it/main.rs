//! Scenarios for each state machine, and random operations compared with the reference models in `../models`.

mod corpus;
mod link;
#[path = "../models/models.rs"]
mod models;
mod properties;
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
