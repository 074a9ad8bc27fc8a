//! The storage traits and their argument and result types, one file per group. Nothing here depends on a
//! database.

pub(crate) mod accounts;
pub(crate) mod alerts;
pub(crate) mod audit;
pub(crate) mod details;
pub(crate) mod devices;
pub(crate) mod direct;
pub(crate) mod enrollment;
pub(crate) mod error;
pub(crate) mod links;
pub(crate) mod operators;
pub(crate) mod overview;
pub(crate) mod pairing;
pub(crate) mod removal;
pub(crate) mod replicas;
pub(crate) mod reports;
pub(crate) mod results;
pub(crate) mod retention;
pub(crate) mod scans;
pub(crate) mod schedules;
pub(crate) mod search;
pub(crate) mod sessions;
pub(crate) mod sites;
pub(crate) mod statistics;
pub(crate) mod streams;
