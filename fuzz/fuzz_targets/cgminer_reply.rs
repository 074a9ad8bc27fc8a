//! What a device says on the CGMiner API is read or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_scan::fuzz::cgminer_reply(data));
