//! A plugin's answer becomes a valid report, or is rejected.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_plugin::fuzz::discovery_answer(data));
