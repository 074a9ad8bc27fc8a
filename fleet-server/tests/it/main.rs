//! A server on a real database, with real clients and scripted nodes over loopback. Start with [`harness::World`]; each
//! other module tests one part of the contract.

mod access;
mod accounts;
mod alerts;
