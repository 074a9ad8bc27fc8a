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

#[test]
fn every_known_host_name_is_no_address_to_any_resolver() {
    replay("host_name", fleet_discovery::fuzz::host_name);
}

#[test]
fn every_known_run_of_reports_and_pins_is_judged_as_the_model_does() {
    replay("report_admission", fleet_discovery::fuzz::report_admission);
}
