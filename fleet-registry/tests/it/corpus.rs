//! What fuzzing reached, again.

#[path = "../../../fuzz/replay.rs"]
mod replay;

use fleet_registry::fuzz;
use replay::replay;

use crate::now;

#[test]
fn the_registry_does_what_its_model_does_on_every_known_run() {
    replay("registry_operations", |data| {
        fuzz::registry_operations(now(), data)
    });
}

#[test]
fn the_link_does_what_its_model_does_on_every_known_run() {
    replay("link_operations", |data| fuzz::link_operations(now(), data));
}

#[test]
fn the_spool_does_what_its_model_does_on_every_known_run() {
    replay("spool_operations", |data| {
        fuzz::spool_operations(now(), data)
    });
}
