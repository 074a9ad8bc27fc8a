//! The store on SQLite and PostgreSQL, one code for both.
//!
//! A node's row is its lock: whatever concerns a node's enrollment, stream, commands, scans or reports
//! begins by locking it. All locks are taken in one order: node, invitation, command, scan, devices by
//! id, bindings, the organization's places. SQLite locks the whole file instead (BEGIN IMMEDIATE).

mod accounts;
mod audit;
mod chain;
mod codec;
mod commands;
mod completion;
mod connect;
mod counts;
mod devices;
mod direct;
mod dispatch;
mod endpoints;
mod enrollment;
mod entity;
mod identity;
mod inserts;
mod ledger;
mod locked;
mod migration;
mod nodes;
mod operators;
mod pairing;
mod prelude;
mod refused;
mod report;
mod scans;
mod schema;
mod sessions;
mod streams;
mod transaction;
mod value;

use std::fmt;

pub use connect::{MigrateMode, StoreOptions};
use sea_orm::{DatabaseConnection, DbBackend};

use crate::Store;

/// A store in a SQLite file or a PostgreSQL database. Clones share its connections.
///
/// Every operation is one transaction, tried again inside when the database asks for it. Dropping an
/// operation's future leaves either all of it behind or nothing.
#[derive(Clone)]
pub struct SqlStore {
    writer: DatabaseConnection,
    reader: DatabaseConnection,
}

impl SqlStore {
    fn new(writer: DatabaseConnection, reader: DatabaseConnection) -> Self {
        Self { writer, reader }
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
