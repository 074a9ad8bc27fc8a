//! Every message is decoded within its bounds, or rejected, as bytes and as JSON.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_wire::fuzz::decode_any(data));
