//! The node's link behaves as its model.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_registry::fuzz::link_operations(
    std::time::Instant::now(),
    data
));
