//! Beginning, ending and retrying transactions, and converting database errors into [`StoreError`]. The
//! statements of a transaction are in the file of its operation. Read [`transaction!`] first.

use std::time::Duration;

use fleet_core::Backoff;
use sea_orm::{
    DatabaseTransaction, DbErr, RuntimeErr, SqlErr, SqliteTransactionMode, TransactionOptions,
    TransactionTrait,
};

use crate::{SqlStore, StoreError};

/// The most attempts of an operation before the database counts as unavailable. With their pauses they last
/// about 2.5 s, which is longer than any transaction of this crate holds a lock.
const ATTEMPTS: u32 = 12;
/// The first and the last upper bound of the pause between attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(500));

/// Why the body of a transaction failed. None of its changes are kept.
pub(crate) enum Failure<E> {
    /// The database's error, which determines whether the body runs again.
    Database(DbErr),
    /// The error of a COMMIT. It is unknown whether the transaction is durable.
    Uncommitted(DbErr),
    /// The operation's own error.
    Refused(E),
}

impl<E> From<DbErr> for Failure<E> {
    fn from(error: DbErr) -> Self {
        Self::Database(error)
    }
}

/// Ends the body of a transaction with the operation's own error.
pub(crate) fn refuse<T, E>(error: E) -> Result<T, Failure<E>> {
    Err(Failure::Refused(error))
}

/// Runs a body in one transaction and commits it: `transaction!(store, "operation", |tx| { .. })`.
///
/// The body ends in `Result<T, Failure<E>>`, the macro in `Result<T, E>`. Any error leaves nothing
/// behind. Deadlocks, serialization failures, a busy database and unique violations (another
/// transaction won a race) run the body again from the start, so it must keep its tallies inside.
/// Dropping the future rolls back.
// This is a macro because the future of a closure that borrows its transaction cannot be declared `Send`. A
// function would have to box it and pass every captured value through a tuple.
macro_rules! transaction {
    ($store:expr, $operation:expr, |$tx:ident| $body:block) => {{
        let store: &$crate::SqlStore = $store;
        let mut attempts = $crate::sql::transaction::Attempts::new($operation);
        loop {
            let outcome = match store.begin().await {
                Ok(transaction) => {
                    let outcome = {
                        let $tx = &transaction;
                        $crate::sql::transaction::typed(async { $body }).await
                    };
                    store.end(transaction, outcome).await
                }
                Err(error) => Err(error.into()),
            };
            if let Some(result) = attempts.settle(outcome, store).await {
                break result;
            }
        }
    }};
}
pub(crate) use transaction;

/// Fixes the type of a body, so that `?` and [`refuse`] need no annotation.
pub(crate) async fn typed<T, E>(
    body: impl Future<Output = Result<T, Failure<E>>>,
) -> Result<T, Failure<E>> {
    body.await
}

/// Counts the attempts of one operation.
pub(crate) struct Attempts {
    operation: &'static str,
    pauses: Backoff,
}

impl Attempts {
    pub(crate) fn new(operation: &'static str) -> Self {
        Self {
            operation,
            pauses: Backoff::new(PAUSES.0, PAUSES.1),
        }
    }

    /// Returns the result of the operation. Before another attempt it waits and returns `None`.
    pub(crate) async fn settle<T, E: From<StoreError>>(
        &mut self,
        outcome: Result<T, Failure<E>>,
        store: &SqlStore,
    ) -> Option<Result<T, E>> {
        let operation = self.operation;
        let (error, uncommitted) = match outcome {
            Ok(value) => return Some(Ok(value)),
            Err(Failure::Refused(error)) => return Some(Err(error)),
            Err(Failure::Database(error)) => (error, false),
            Err(Failure::Uncommitted(error)) => (error, true),
        };
        if !is_retryable(&error) || self.pauses.attempts() + 1 >= ATTEMPTS {
            if is_unavailable(&error) {
                store.health().write_failed();
            }
            let error = if uncommitted {
                // After a failed COMMIT the outcome is unknown in every case. The caller must retry the request.
                StoreError::Unavailable {
                    operation,
                    detail: error.to_string(),
                }
            } else {
                store_error(operation, &error)
            };
            return Some(Err(error.into()));
        }
        tracing::debug!(operation, %error, "transaction runs again");
        // A system without randomness must not stop the retry.
        let random = getrandom::u64().unwrap_or(u64::MAX / 2);
        tokio::time::sleep(self.pauses.next_delay(random)).await;
        None
    }
}

impl SqlStore {
    pub(crate) async fn begin(&self) -> Result<DatabaseTransaction, DbErr> {
        let options = TransactionOptions {
            // A deferred transaction that writes after a read fails at once if another transaction wrote in
            // between. PostgreSQL keeps READ COMMITTED, which the row locks are designed for.
            sqlite_transaction_mode: self.is_sqlite().then_some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let begun = self.writer().begin_with_options(options).await;
        // A timeout while waiting for a free connection does not indicate a broken connection.
        begun.inspect_err(|error| {
            if !matches!(error, DbErr::ConnectionAcquire(_)) {
                self.check_connection(error);
            }
        })
    }

    /// Commits a transaction whose body succeeded, and rolls back any other.
    pub(crate) async fn end<T, E>(
        &self,
        transaction: DatabaseTransaction,
        outcome: Result<T, Failure<E>>,
    ) -> Result<T, Failure<E>> {
        match outcome {
            Ok(value) => {
                if let Err(error) = transaction.commit().await {
                    self.check_connection(&error);
                    return Err(Failure::Uncommitted(error));
                }
                self.health().committed();
                Ok(value)
            }
            Err(failure) => {
                // The failure of the body explains more than this error, which only concerns the
                // connection.
                if let Err(error) = transaction.rollback().await {
                    self.check_connection(&error);
                }
                Err(failure)
            }
        }
    }

    /// Schedules the replacement of connections after an error of BEGIN, COMMIT or ROLLBACK. A busy database
    /// and a serialization failure leave the connections intact.
    fn check_connection(&self, error: &DbErr) {
        if !is_retryable(error) {
            tracing::warn!(%error, "connections to the database are replaced");
            self.health().connection_is_unknown();
        }
    }
}

/// Names the operation in the error of a query that runs outside a transaction.
pub(crate) trait During<T> {
    fn during(self, operation: &'static str) -> Result<T, StoreError>;
}

impl<T> During<T> for Result<T, DbErr> {
    fn during(self, operation: &'static str) -> Result<T, StoreError> {
        self.map_err(|error| store_error(operation, &error))
    }
}

/// PostgreSQL: serialization failure, deadlock. SQLite: BUSY, LOCKED and their extended forms
/// (RECOVERY, SNAPSHOT, SHAREDCACHE).
fn is_retryable(error: &DbErr) -> bool {
    // Bodies look for a row before they insert it, so the next attempt finds the winner's row.
    if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) {
        return true;
    }
    matches!(
        database_code(error).as_deref(),
        Some("40001" | "40P01" | "5" | "6" | "261" | "262" | "517")
    )
}

fn sqlx_error(error: &DbErr) -> Option<&sea_orm::sqlx::Error> {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "only these three carry the driver's error"
    )]
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}

fn database_code(error: &DbErr) -> Option<String> {
    let code = sqlx_error(error)?.as_database_error()?.code()?;
    Some(code.into_owned())
}

/// Whether the database is unreachable or lacks a resource. Any other error is a defect of this crate.
fn is_unavailable(error: &DbErr) -> bool {
    use sea_orm::sqlx::Error;
    if matches!(error, DbErr::ConnectionAcquire(_) | DbErr::Conn(_)) || is_retryable(error) {
        return true;
    }
    if let Some(code) = database_code(error) {
        // PostgreSQL classes: connection, resources, lock timeout, operator intervention, system. SQLite: out of
        // memory, read-only, IO error, full, cannot open; extended codes have these in the low byte.
        let classes = ["08", "53", "55", "57", "58"];
        return match code.parse::<u32>() {
            Ok(number) if code.len() < 5 => matches!(number & 0xff, 7 | 8 | 10 | 13 | 14),
            _ => classes.iter().any(|class| code.starts_with(class)),
        };
    }
    matches!(
        sqlx_error(error),
        Some(
            Error::Io(_)
                | Error::Tls(_)
                | Error::Protocol(_)
                | Error::PoolTimedOut
                | Error::PoolClosed
                | Error::WorkerCrashed
        )
    )
}

/// Converts a database error. Its text is for the log only.
pub(crate) fn store_error(operation: &'static str, error: &DbErr) -> StoreError {
    let detail = error.to_string();
    if is_unavailable(error) {
        StoreError::Unavailable { operation, detail }
    } else {
        StoreError::Broken { operation, detail }
    }
}

/// The error for a stored value that this version cannot read.
pub(crate) fn unreadable(what: &'static str, detail: impl std::fmt::Display) -> DbErr {
    DbErr::Type(format!("stored {what}: {detail}"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use sea_orm::ConnectionTrait;

    use super::*;
    use crate::MigrateMode;

    async fn on_empty_store(test: impl AsyncFnOnce(SqlStore)) {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite://{}", folder.path().join("fleet.db").display());
        let store = SqlStore::open(&url, MigrateMode::Migrate)
            .await
            .expect("opened");
        test(store.clone()).await;
        store.close().await;
    }

    const ONE: &str = "INSERT INTO org (id, name, created_at) VALUES (1, 'one', 0)";
    const FIRST: &str = "INSERT INTO org (name, created_at) VALUES ('first', 0)";

    /// Fails `losses` times as if it lost a race, after a write that must be rolled back.
    async fn race(store: &SqlStore, losses: u32) -> (Result<(), StoreError>, u32) {
        let attempts = AtomicU32::new(0);
        let ended = transaction!(store, "race", |tx| {
            tx.execute_unprepared(FIRST).await?;
            if attempts.fetch_add(1, Ordering::Relaxed) < losses {
                tx.execute_unprepared(ONE).await?;
            }
            Ok(())
        });
        (ended, attempts.into_inner())
    }

    #[tokio::test]
    async fn a_lost_race_starts_over_from_nothing() {
        on_empty_store(async |store| {
            store
                .writer()
                .execute_unprepared(ONE)
                .await
                .expect("inserted");
            let (ended, attempts) = race(&store, 3).await;
            ended.expect("the fourth attempt");
            assert_eq!(attempts, 4);
            let (again, _) = race(&store, 0).await;
            assert!(
                again.is_err(),
                "`first` was stored once, so that another is refused"
            );
        })
        .await;
    }

    #[tokio::test]
    async fn a_race_that_is_always_lost_ends_as_unavailable() {
        on_empty_store(async |store| {
            store
                .writer()
                .execute_unprepared(ONE)
                .await
                .expect("inserted");
            let (ended, attempts) = race(&store, u32::MAX).await;
            assert!(
                matches!(
                    ended,
                    Err(StoreError::Unavailable {
                        operation: "race",
                        ..
                    })
                ),
                "{ended:?}"
            );
            assert_eq!(attempts, ATTEMPTS);
        })
        .await;
    }

    #[tokio::test]
    async fn a_mistake_of_ours_is_not_tried_again() {
        on_empty_store(async |store| {
            let attempts = AtomicU32::new(0);
            let ended: Result<(), StoreError> = transaction!(&store, "mistake", |tx| {
                attempts.fetch_add(1, Ordering::Relaxed);
                tx.execute_unprepared("SELECT nothing FROM nowhere").await?;
                Ok(())
            });
            assert!(
                matches!(
                    ended,
                    Err(StoreError::Broken {
                        operation: "mistake",
                        ..
                    })
                ),
                "{ended:?}"
            );
            assert_eq!(attempts.into_inner(), 1);
        })
        .await;
    }
}
