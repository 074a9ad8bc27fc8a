//! The one place where transactions begin, end and are tried again, and where the database's errors
//! become ours. What happens inside a transaction lives with its operation.

use std::{pin::Pin, time::Duration};

use fleet_core::Backoff;
use sea_orm::{
    DatabaseTransaction, DbErr, RuntimeErr, SqlErr, SqliteTransactionMode, TransactionOptions,
    TransactionTrait,
};

use crate::{SqlStore, StoreError};

/// How often an operation is tried before the database counts as unable to serve it.
const ATTEMPTS: u32 = 12;
/// Ceilings of the pauses between attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(500));

/// Why the body of a transaction did not end well: nothing of it is kept.
pub(crate) enum Failure<E> {
    /// The database's word, which decides whether it is tried again.
    Database(DbErr),
    /// The operation's own refusal.
    Refused(E),
}

impl<E> From<DbErr> for Failure<E> {
    fn from(error: DbErr) -> Self {
        Self::Database(error)
    }
}

/// Refuses from within a transaction.
pub(crate) fn refuse<T, E>(error: E) -> Result<T, Failure<E>> {
    Err(Failure::Refused(error))
}

/// What the body of a transaction answers.
pub(crate) type Body<'a, T, E> = Pin<Box<dyn Future<Output = Result<T, Failure<E>>> + Send + 'a>>;

impl SqlStore {
    /// Runs `body` in one transaction and commits it; an error of any kind leaves nothing behind.
    ///
    /// Deadlocks, serialization failures, a busy database, and unique violations (a race that was
    /// lost: the next attempt sees who won) start the body over from nothing, so it must keep all
    /// its tallies inside. Dropping the future rolls back.
    pub(crate) async fn transaction<A, T, E>(
        &self,
        operation: &'static str,
        argument: A,
        body: impl for<'a> Fn(&'a DatabaseTransaction, &'a A) -> Body<'a, T, E> + Send + Sync,
    ) -> Result<T, E>
    where
        A: Send + Sync,
        T: Send,
        E: From<StoreError> + Send,
    {
        let mut pauses = Backoff::new(PAUSES.0, PAUSES.1);
        loop {
            let error = match self.attempt(&argument, &body).await {
                Ok(value) => return Ok(value),
                Err(Failure::Refused(error)) => return Err(error),
                Err(Failure::Database(error)) => error,
            };
            if !is_retryable(&error) || pauses.attempts() + 1 >= ATTEMPTS {
                return Err(store_error(operation, &error).into());
            }
            tracing::debug!(operation, %error, "transaction starts over");
            let random = getrandom::u64().unwrap_or(u64::MAX / 2);
            tokio::time::sleep(pauses.next_delay(random)).await;
        }
    }

    async fn attempt<A, T, E>(
        &self,
        argument: &A,
        body: &(impl for<'a> Fn(&'a DatabaseTransaction, &'a A) -> Body<'a, T, E> + Send + Sync),
    ) -> Result<T, Failure<E>> {
        let options = TransactionOptions {
            // A deferred transaction that writes after it has read fails at once when another wrote
            // in between; PostgreSQL's default, READ COMMITTED, is what the row locks are made for.
            sqlite_transaction_mode: self.is_sqlite().then_some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let transaction = self.writer().begin_with_options(options).await?;
        match body(&transaction, argument).await {
            Ok(value) => {
                transaction.commit().await?;
                Ok(value)
            }
            Err(failure) => {
                // The connection may be the very thing that failed; dropping it rolls back as well.
                let _ = transaction.rollback().await;
                Err(failure)
            }
        }
    }
}

/// PostgreSQL: serialization failure, deadlock. SQLite: BUSY, LOCKED and their extended forms
/// (RECOVERY, SNAPSHOT, SHAREDCACHE).
fn is_retryable(error: &DbErr) -> bool {
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

/// Whether the database is away or out of means, rather than ours to mend.
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

/// The database's error as ours; its words go to the log only.
pub(crate) fn store_error(operation: &'static str, error: &DbErr) -> StoreError {
    let detail = error.to_string();
    if is_unavailable(error) {
        StoreError::Unavailable { operation, detail }
    } else {
        StoreError::Broken { operation, detail }
    }
}

/// The error of something stored that this version cannot read.
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

    /// Loses a race `losses` times, after a write that must not stay.
    async fn race(store: &SqlStore, losses: u32) -> (Result<(), StoreError>, u32) {
        let attempts = AtomicU32::new(0);
        let ended = store
            .transaction("race", (losses, &attempts), |tx, (losses, attempts)| {
                Box::pin(async move {
                    tx.execute_unprepared(FIRST).await?;
                    if attempts.fetch_add(1, Ordering::Relaxed) < *losses {
                        tx.execute_unprepared(ONE).await?;
                    }
                    Ok(())
                })
            })
            .await;
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
            let ended: Result<(), StoreError> = store
                .transaction("mistake", &attempts, |tx, attempts| {
                    Box::pin(async move {
                        attempts.fetch_add(1, Ordering::Relaxed);
                        tx.execute_unprepared("SELECT nothing FROM nowhere").await?;
                        Ok(())
                    })
                })
                .await;
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
