//! A target has one canonical form and a bounded plan, or is rejected with an explanation.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_discovery::fuzz::target_grammar(data));
