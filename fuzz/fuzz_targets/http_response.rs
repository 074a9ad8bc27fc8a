//! An HTTP response of a device is parsed within bounds, or rejected.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_scan::fuzz::http_response(data));
