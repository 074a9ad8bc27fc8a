//! What fuzzing reached, again.

#[path = "../../../fuzz/replay.rs"]
mod replay;

use replay::replay;

#[test]
fn every_known_cgminer_reply_is_read_or_refused() {
    replay("cgminer_reply", fleet_scan::fuzz::cgminer_reply);
}

#[test]
fn every_known_http_response_is_read_or_refused() {
    replay("http_response", fleet_scan::fuzz::http_response);
}
