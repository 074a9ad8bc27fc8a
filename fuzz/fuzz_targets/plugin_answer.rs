//! What a plugin says of a device is made fit for a report or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_plugin::fuzz::discovery_answer(data));
