//! The corpus of the fuzz target as ordinary tests.

#[path = "../../../fuzz/replay.rs"]
mod replay;

use replay::replay;

#[test]
fn every_known_row_keeps_identities_apart() {
    replay("device_identity", fleet_pairing::fuzz::device_identity);
}
