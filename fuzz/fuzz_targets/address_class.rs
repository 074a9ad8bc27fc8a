//! Every spelling of an address is classified alike.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_core::fuzz::address_class(data));
