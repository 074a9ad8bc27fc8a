//! The server's registry behaves as its reference model does.
#![no_main]

#[path = "../../fleet-registry/tests/models/models.rs"]
#[expect(dead_code, reason = "each target runs one of the models")]
mod models;

libfuzzer_sys::fuzz_target!(|data: &[u8]| models::registry_operations(std::time::Instant::now(), data));
