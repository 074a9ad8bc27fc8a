//! mDNS answers use bounded memory and cause a bounded number of questions.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_scan::fuzz::mdns_answer(data));
