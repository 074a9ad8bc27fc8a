//! What a device's API over HTTP says is read, bounded, or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_scan::fuzz::device_json(data));
