//! A plugin's first line is parsed, or rejected.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_plugin::fuzz::handshake_line(data));
