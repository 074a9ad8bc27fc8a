//! No accepted host name is an address to any resolver.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_discovery::fuzz::host_name(data));
