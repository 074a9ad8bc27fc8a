//! The first line of a plugin is read or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_plugin::fuzz::handshake_line(data));
