//! Announcements of miners are parsed without a panic, for every port.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fleet_scan::fuzz::ip_report(data));
