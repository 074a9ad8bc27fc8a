//! Reading identities is idempotent, placeholders are none, and rows of several nodes keep apart what is apart.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_pairing::fuzz::device_identity(data));
