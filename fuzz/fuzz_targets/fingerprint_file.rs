//! A rule file is read or refused, and the facts that it finds are bounded.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_scan::fuzz::fingerprint_file(data));
