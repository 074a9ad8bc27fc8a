//! A login challenge is answered without the password, or rejected.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_scan::fuzz::login_challenge(data));
