//! A reply on the CGMiner API is parsed within bounds, or rejected.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_scan::fuzz::cgminer_reply(data));
