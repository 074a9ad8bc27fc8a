//! A challenge to log in is answered without the password in it, or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_scan::fuzz::login_challenge(data));
