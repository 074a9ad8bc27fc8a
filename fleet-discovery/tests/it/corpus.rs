//! What fuzzing reached, again.

#[path = "../../../fuzz/replay.rs"]
mod replay;

use replay::replay;

#[test]
fn every_known_target_text_is_canonical_or_refused() {
    replay("target_grammar", fleet_discovery::fuzz::target_grammar);
}

#[test]
fn every_known_scope_text_is_canonical_or_refused() {
    replay("scope_text", fleet_discovery::fuzz::scope_text);
}
