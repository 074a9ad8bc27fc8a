//! What fuzzing reached, again.

#[path = "../../../fuzz/replay.rs"]
mod replay;

use replay::replay;

#[test]
fn every_known_address_text_is_judged_alike_in_every_form() {
    replay("address_class", fleet_core::fuzz::address_class);
}
