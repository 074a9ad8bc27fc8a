//! A text or bytes that are an address are judged alike in every form.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_core::fuzz::address_class(data));
