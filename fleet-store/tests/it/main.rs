//! The contract of the store, identical for both databases. Each `contract!` creates two tests per listed function: one
//! on a SQLite file, and one on its own PostgreSQL database.

#[macro_use]
mod site;

mod accounts;
mod alerts;
mod audit;
mod canceling;
mod chain;
mod details;
mod direct;
mod dispatch;
mod ending;
mod enrollment;
mod expiry;
mod full_disk;
mod hosts;
mod identity;
mod interruptions;
mod inventory;
mod links;
mod lists;
mod old_scans;
mod operators;
mod overview;
mod ownership;
mod pairing;
mod pairing_commands;
mod races;
mod refusals;
mod replicas;
mod reports;
mod results;
mod retention;
mod schedules;
mod schema;
mod search;
mod sessions;
mod several_sites;
mod shares;
mod site_rules;
mod sites;
mod streams;
mod throughput;
mod wandering;
