//! Errors of the database itself. Each operation has its own error type for refusals.

/// A failure of the database. Its text is for the log and never reaches a client.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached, or stayed busy through every retry.
    #[error("the database cannot serve `{operation}` now: {detail}")]
    Unavailable {
        /// The operation that failed.
        operation: &'static str,
        /// The database's message, for the log.
        detail: String,
    },
    /// The database rejected a statement, or returned a value that this version cannot read.
    #[error("`{operation}` failed: {detail}")]
    Broken {
        /// The operation that failed.
        operation: &'static str,
        /// What was wrong, for the log.
        detail: String,
    },
    /// The database cannot be opened.
    #[error("cannot open the {database}: {detail}")]
    Unreachable {
        /// The database, as [`DatabaseUrl`](crate::DatabaseUrl) is displayed.
        database: String,
        /// The reason and the remedy.
        detail: String,
    },
    /// The schema is newer than this program.
    #[error(
        "the database was written by a newer version (it has the migration `{0}`): run that version, or restore a backup"
    )]
    NewerSchema(String),
    /// The schema is older than this program.
    #[error(
        "the database lacks the migration `{0}`: run `fleetd migrate`, or `fleetd serve --migrate`"
    )]
    OlderSchema(String),
    /// The database URL is invalid.
    #[error(
        "`{url}` is not a database URL: {detail}; write sqlite:///path/fleet.db?mode=rwc or postgres://user@host/database"
    )]
    Url {
        /// The URL without its password.
        url: String,
        /// The reason.
        detail: String,
    },
}
