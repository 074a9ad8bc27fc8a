//! A frame of Whatsminer API 3 is read or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_scan::fuzz::whatsminer_frame(data));
