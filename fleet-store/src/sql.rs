//! The store on SQLite and PostgreSQL, one code for both.
//!
//! A node's row serves as its lock. Every transaction about a node's enrollment, stream, commands, scans or
//! reports locks it first. All transactions take locks in one order: schedule, alerts of an organization, node,
//! invitation, command, scan, devices by id, bindings, the organization's endpoints, the blocks of a site by address.
//! SQLite locks the whole file instead (BEGIN IMMEDIATE).
//!
//! Each file implements one trait of the store. The body of an operation is in the implementation
//! itself, in a [`transaction!`](transaction::transaction). Rust wants all methods of a trait in one
//! `impl` block, which is why the store has a trait for each file instead of one for all.

mod accounts;
mod alerts;
mod audit;
mod blocks;
mod chain;
mod codec;
mod commands;
mod completion;
mod connect;
mod counts;
mod days;
mod deadlines;
mod details;
mod devices;
mod direct;
mod dispatch;
mod endpoints;
mod enrollment;
mod entity;
mod health;
mod hosts;
mod identity;
mod inserts;
mod ledger;
mod locked;
mod migration;
mod missing;
mod nodelay;
mod nodes;
mod operators;
mod overview;
mod pairing;
mod prelude;
mod refused;
mod removal;
mod replicas;
mod report;
mod results;
mod retention;
mod scans;
mod schedules;
mod schema;
mod search;
mod sessions;
mod sites;
mod statistics;
mod streams;
mod transaction;
mod url;
mod value;

use std::{fmt, sync::Arc};

pub use connect::{MigrateMode, StoreOptions};
use health::Health;
use replicas::Coordination;
use sea_orm::{DatabaseConnection, DbBackend};
pub use url::DatabaseUrl;

use crate::Store;

/// A store in a SQLite file or a PostgreSQL database. Clones share its connections.
///
/// Every operation is one transaction. It is retried when the database reports a conflict. An operation that
/// returns success is durable. Dropping its future leaves either all of its changes or none of them.
#[derive(Clone)]
pub struct SqlStore {
    writer: DatabaseConnection,
    reader: DatabaseConnection,
    health: Arc<Health>,
    coordination: Arc<Coordination>,
}

impl SqlStore {
    fn health(&self) -> &Health {
        &self.health
    }

    fn coordination(&self) -> &Coordination {
        &self.coordination
    }

    fn is_sqlite(&self) -> bool {
        self.writer.get_database_backend() == DbBackend::Sqlite
    }

    fn writer(&self) -> &DatabaseConnection {
        &self.writer
    }

    fn reader(&self) -> &DatabaseConnection {
        &self.reader
    }
}

impl Store for SqlStore {}

impl fmt::Debug for SqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let engine = if self.is_sqlite() {
            "SQLite"
        } else {
            "PostgreSQL"
        };
        f.debug_struct("SqlStore")
            .field("engine", &engine)
            .finish_non_exhaustive()
    }
}
