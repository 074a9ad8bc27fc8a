//! No answer of a device is accepted as encrypted with a password that it does not have.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_scan::fuzz::whatsminer_login(data));
