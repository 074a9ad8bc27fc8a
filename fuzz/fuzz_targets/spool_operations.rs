//! The node's spool does what its model does.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_registry::fuzz::spool_operations(
    std::time::Instant::now(),
    data
));
