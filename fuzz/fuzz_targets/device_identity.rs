//! Deriving an identity is idempotent, placeholders are no identity, and distinct devices of several nodes stay distinct.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_pairing::fuzz::device_identity(data));
