//! What fuzzing reached, again.

#[path = "../../../fuzz/replay.rs"]
mod replay;

use replay::replay;

#[test]
fn every_known_first_line_is_read_or_refused() {
    replay("plugin_handshake", fleet_plugin::fuzz::handshake_line);
}

#[test]
fn every_known_answer_is_made_fit_or_refused() {
    replay("plugin_answer", fleet_plugin::fuzz::discovery_answer);
}
