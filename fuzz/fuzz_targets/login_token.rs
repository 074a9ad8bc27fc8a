//! A response to a login yields a token, a cookie or nothing, and facts within bounds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_scan::fuzz::login_token(data));
