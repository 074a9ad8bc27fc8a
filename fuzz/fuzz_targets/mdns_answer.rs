//! What strangers answer by mDNS is kept within bounds, and makes nobody ask without end.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_scan::fuzz::mdns_answer(data));
