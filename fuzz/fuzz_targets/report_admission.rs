//! Scope and admission do what their model does.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_discovery::fuzz::report_admission(data));
