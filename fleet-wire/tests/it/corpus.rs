//! What fuzzing reached, again.

#[path = "../../../fuzz/replay.rs"]
mod replay;

use replay::replay;

#[test]
fn every_known_message_is_decoded_or_refused() {
    replay("wire_decode", fleet_wire::fuzz::decode_any);
}
