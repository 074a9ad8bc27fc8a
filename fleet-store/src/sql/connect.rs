//! Opening a database: URLs, pools, migrations and the schema version check.

use std::{future::ready, path::Path, sync::Arc, time::Duration};

use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, DbErr, Statement,
    sqlx::{
        AssertSqlSafe, Connection as _, Executor as _,
        sqlite::{SqliteJournalMode, SqliteSynchronous},
    },
};
use sea_orm_migration::MigratorTrait;

use super::{
    health::Health, migration::Migrator, replicas::Coordination, transaction::store_error,
};
use crate::{SqlStore, StoreError};

/// How a database is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Connections to PostgreSQL, or readers of SQLite (which has one writer). Default 16.
    pub connections: u32,
    /// How long an operation waits for a connection before the database counts as unavailable.
    /// Default 10 s.
    pub acquire_timeout: Duration,
    /// How long a statement may wait for a lock in PostgreSQL. Zero means no limit, which migrations need.
    /// Default 10 s. SQLite waits 5 s for another process.
    pub lock_timeout: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            connections: 16,
            acquire_timeout: Duration::from_secs(10),
            lock_timeout: Duration::from_secs(10),
        }
    }
}

/// The handling of an older schema when a database is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrateMode {
    /// The schema is migrated.
    Migrate,
    /// Opening fails with an error that names the command to run.
    Check,
}

/// How long a transaction may stand idle before PostgreSQL ends it. The transactions of this crate wait only
/// for the database.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(60);

/// The PostgreSQL advisory lock that prevents two servers from migrating at the same time.
const MIGRATION_LOCK: i64 = 0x666c_6565_746d_6967;

impl SqlStore {
    /// Opens a database, with its schema brought up to date or checked.
    ///
    /// # Errors
    ///
    /// [`StoreError::Url`], [`StoreError::NewerSchema`], [`StoreError::OlderSchema`] in
    /// [`MigrateMode::Check`], or an error of the database.
    pub async fn open(url: &str, mode: MigrateMode) -> Result<Self, StoreError> {
        if mode == MigrateMode::Migrate {
            Self::migrate(url).await?;
        }
        let store = Self::connect(url, StoreOptions::default()).await?;
        store.check_schema().await?;
        Ok(store)
    }

    /// Opens the pools of a database without checking its schema. A missing SQLite file is created with access
    /// for its owner only.
    ///
    /// # Errors
    ///
    /// [`StoreError::Url`] or an error of the database.
    pub async fn connect(url: &str, options: StoreOptions) -> Result<Self, StoreError> {
        let engine = Engine::of(url)?;
        let failed = |error| store_error("connect", &error);
        engine.prepare().map_err(|error| StoreError::Unavailable {
            operation: "connect",
            detail: error.to_string(),
        })?;
        let writers = match engine {
            // SQLite has one writer. With one connection, writers wait in order and do not fail
            // with BUSY.
            Engine::Sqlite { .. } => 1,
            Engine::Postgres => options.connections,
        };
        let health = Arc::new(Health::default());
        let writer = pool(url, &engine, writers, &options, &health)
            .await
            .map_err(failed)?;
        let reader = match engine {
            // Readers of a WAL database need not wait for the writer, so they have their own
            // connections.
            Engine::Sqlite { .. } => pool(url, &engine, options.connections, &options, &health)
                .await
                .map_err(failed)?,
            Engine::Postgres => writer.clone(),
        };
        let coordination = Arc::new(Coordination::of(&writer));
        Ok(Self {
            writer,
            reader,
            health,
            coordination,
        })
    }

    /// Migrates the schema over a dedicated connection, with one transaction for each step.
    ///
    /// # Errors
    ///
    /// [`StoreError::NewerSchema`] when the database was written by a newer version, or an error of the database.
    pub async fn migrate(url: &str) -> Result<(), StoreError> {
        let options = StoreOptions {
            // The advisory lock belongs to one session, and every step has to run in it.
            connections: 1,
            lock_timeout: Duration::ZERO,
            ..StoreOptions::default()
        };
        let store = Self::connect(url, options).await?;
        let migrated = store.run_migrations().await;
        store.close().await;
        migrated
    }

    async fn run_migrations(&self) -> Result<(), StoreError> {
        let failed = |error: DbErr| store_error("migrate", &error);
        let database = self.writer();
        if !self.is_sqlite() {
            let lock = Statement::from_sql_and_values(
                DbBackend::Postgres,
                "SELECT pg_advisory_lock($1)",
                [MIGRATION_LOCK.into()],
            );
            // The lock is held until this connection closes.
            database.execute_raw(lock).await.map_err(failed)?;
        }
        // Under the lock, because another server may have migrated while this one waited.
        if let Some(newer) = newer(&applied(database).await.map_err(failed)?) {
            return Err(StoreError::NewerSchema(newer));
        }
        Migrator::up(database, None).await.map_err(failed)
    }

    /// Compares the schema's version with this program's.
    ///
    /// # Errors
    ///
    /// [`StoreError::NewerSchema`], [`StoreError::OlderSchema`] with the command to run, or an error of the
    /// database.
    pub async fn check_schema(&self) -> Result<(), StoreError> {
        let applied = applied(self.reader())
            .await
            .map_err(|error| store_error("check_schema", &error))?;
        if let Some(newer) = newer(&applied) {
            return Err(StoreError::NewerSchema(newer));
        }
        match known().into_iter().find(|name| !applied.contains(name)) {
            Some(missing) => Err(StoreError::OlderSchema(missing)),
            None => Ok(()),
        }
    }

    /// Closes every connection after the running operations have ended.
    pub async fn close(&self) {
        self.coordination().close().await;
        for pool in [self.reader(), self.writer()] {
            let _ = pool.close_by_ref().await;
        }
    }
}

fn known() -> Vec<String> {
    Migrator::migrations()
        .iter()
        .map(|step| step.name().to_owned())
        .collect()
}

/// Finds a migration that this program does not know.
fn newer(applied: &[String]) -> Option<String> {
    let known = known();
    applied
        .iter()
        .rev()
        .find(|name| !known.contains(name))
        .cloned()
}

/// The migrations that a database has applied, oldest first. Empty before the first migration.
async fn applied(database: &DatabaseConnection) -> Result<Vec<String>, DbErr> {
    let backend = database.get_database_backend();
    let tables = if backend == DbBackend::Sqlite {
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'seaql_migrations'"
    } else {
        "SELECT table_name AS name FROM information_schema.tables WHERE table_schema = CURRENT_SCHEMA() AND table_name = 'seaql_migrations'"
    };
    let exists = database
        .query_one_raw(Statement::from_string(backend, tables))
        .await?;
    if exists.is_none() {
        return Ok(Vec::new());
    }
    let rows = database
        .query_all_raw(Statement::from_string(
            backend,
            "SELECT version FROM seaql_migrations ORDER BY version",
        ))
        .await?;
    rows.iter().map(|row| row.try_get("", "version")).collect()
}

/// The kind of database that a URL names.
enum Engine {
    Sqlite { path: String },
    Postgres,
}

impl Engine {
    fn of(url: &str) -> Result<Self, StoreError> {
        let refused = |detail: &str| {
            Err(StoreError::Url {
                url: without_password(url),
                detail: detail.to_owned(),
            })
        };
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Self::Postgres);
        }
        let Some(rest) = url.strip_prefix("sqlite:") else {
            return refused("it must begin with sqlite: or postgres://");
        };
        let path = rest
            .trim_start_matches("//")
            .split('?')
            .next()
            .unwrap_or_default();
        if path.is_empty() || path == ":memory:" || rest.contains("mode=memory") {
            return refused("SQLite needs a file here: several connections share it");
        }
        Ok(Self::Sqlite {
            path: path.to_owned(),
        })
    }

    /// Restricts a new SQLite file to its owner before anything is written to it.
    fn prepare(&self) -> std::io::Result<()> {
        let Self::Sqlite { path } = self else {
            return Ok(());
        };
        if Path::new(path).exists() {
            return Ok(());
        }
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        // SQLite creates the -wal and -shm files with the mode of the database file.
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        match options.open(path) {
            Ok(_) => Ok(()),
            // Another process created it in the meantime.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(std::io::Error::new(
                error.kind(),
                format!("cannot create `{path}`: {error}"),
            )),
        }
    }
}

async fn pool(
    url: &str,
    engine: &Engine,
    connections: u32,
    settings: &StoreOptions,
    health: &Arc<Health>,
) -> Result<DatabaseConnection, DbErr> {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(connections)
        .acquire_timeout(settings.acquire_timeout)
        .connect_timeout(settings.acquire_timeout)
        // Statements contain hashes and addresses, which must not appear in logs or spans.
        .sqlx_logging(false)
        .record_stmt_in_spans(false);
    let health = Arc::clone(health);
    match engine {
        Engine::Sqlite { .. } => {
            options.map_sqlx_sqlite_before_acquire(move |connection, connected| {
                // An idle connection must have no open transaction. One stays open when the database rolled
                // back by itself and the driver's own ROLLBACK therefore failed.
                let usable = !connection.is_in_transaction() && health.allows(connected.age);
                Box::pin(ready(Ok(usable)))
            });
            options.map_sqlx_sqlite_opts(|sqlite| {
                sqlite
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    // With NORMAL, a power failure can lose the last commits of a WAL database, and
                    // an accepted report must be durable.
                    .synchronous(SqliteSynchronous::Full)
                    // SQLite checks references only on connections that enable it. They keep
                    // tenants apart.
                    .foreign_keys(true)
                    .busy_timeout(Duration::from_secs(5))
            });
        }
        Engine::Postgres => {
            options.set_application_name("fleetd");
            options.map_sqlx_postgres_before_acquire(move |connection, connected| {
                let usable = !connection.is_in_transaction() && health.allows(connected.age);
                Box::pin(ready(Ok(usable)))
            });
            // A server that hangs in a transaction must not block the others.
            let bounds = format!(
                "SET lock_timeout = {}; SET idle_in_transaction_session_timeout = {}",
                settings.lock_timeout.as_millis(),
                IDLE_IN_TRANSACTION.as_millis(),
            );
            options.map_sqlx_postgres_pool_opts(move |pool| {
                let bounds = bounds.clone();
                pool.after_connect(move |connection, _| {
                    let bounds = bounds.clone();
                    Box::pin(
                        async move { connection.execute(AssertSqlSafe(bounds)).await.map(drop) },
                    )
                })
            });
        }
    }
    Database::connect(options).await
}

/// The URL in a form that is safe to show, without its password.
fn without_password(url: &str) -> String {
    match url
        .split_once("://")
        // The last `@`, because a password may contain one.
        .and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?)))
    {
        Some((scheme, (user, host))) => {
            let name = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{name}@{host}")
        }
        None => url.to_owned(),
    }
}
