//! The product end to end: the built binaries as processes, real sockets, simulated devices on loopback
//! addresses, and the simulator's own record as the truth. Every test runs on SQLite and on PostgreSQL.
//!
//! The binaries are those of `FLEET_BIN_DIR`, or lie beside this test: `cargo build --workspace --bins`
//! makes them. Start with `harness::World`; what a scan's end must look like is in `harness/truth.rs`.

#[macro_use]
mod harness;

mod alone;
mod audit;
mod canceling;
mod command_line;
mod direct;
mod enrollment;
mod identity;
mod interruptions;
mod lab;
mod lanes;
mod names;
mod pairing;
mod plugins;
mod revoking;
mod scanning;
mod secrets;
mod watching;
