//! A server on a real database, with real clients and scripted nodes over loopback. Start with [`harness::World`]; each
//! other module tests one part of the contract.

mod access;
mod accounts;
mod audit;
mod bad_reports;
mod bystanders;
mod commands;
mod devices;
mod direct;
mod discover;
mod drain;
mod enrollment;
mod examples;
mod exports;
mod handshake;
mod harness;
mod hostile;
mod key_fetch;
mod matrix;
mod metrics;
mod names;
mod pairing;
mod replicas;
mod requests;
mod results;
mod scans;
mod schedules;
mod search;
mod shares;
mod site_rules;
mod stream;
mod watching;
mod web;
