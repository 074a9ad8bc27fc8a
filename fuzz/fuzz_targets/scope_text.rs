//! A stored scope is canonical, bounded and closed, or rejected.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_discovery::fuzz::scope_text(data));
