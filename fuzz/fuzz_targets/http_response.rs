//! What a device says on HTTP is read or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_scan::fuzz::http_response(data));
