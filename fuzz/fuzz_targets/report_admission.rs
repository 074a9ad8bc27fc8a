//! Scope and admission behave as their model.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_discovery::fuzz::report_admission(data));
