//! End-to-end tests: the built binaries as processes, real sockets, and simulated devices on loopback addresses.
//! The simulator's record of connections is the reference. Every test runs on SQLite and on PostgreSQL.
//!
//! The binaries are in `FLEET_BIN_DIR`, or beside this test after `cargo build --workspace --bins`. Read
//! `harness::World` first; `harness/truth.rs` defines the expected result of a scan.

#[macro_use]
mod harness;

mod alone;
mod announcements;
mod audit;
mod canceling;
mod command_line;
mod databases;
mod direct;
mod enrollment;
mod estimates;
mod host_names;
mod identity;
mod interruptions;
mod lab;
mod names;
mod pairing;
mod plugins;
mod queues;
mod revoking;
mod scanning;
mod secrets;
mod sites;
mod watching;
