//! Opening a database: pools, migrations and the schema version check.

use std::{
    fs::OpenOptions,
    future::ready,
    io,
    path::Path,
    sync::{Arc, Once},
    time::Duration,
};

use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, DbErr, Statement,
    sqlx::{
        self, AssertSqlSafe, Connection as _, Executor as _,
        postgres::{PgConnectOptions, PgConnection},
        sqlite::{SqliteJournalMode, SqliteSynchronous},
    },
};
use sea_orm_migration::MigratorTrait;

use super::{
    health::Health,
    migration::Migrator,
    nodelay,
    replicas::Coordination,
    transaction::store_error,
    url::{self, DatabaseUrl, Engine},
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
    /// Whether a missing SQLite file is created. Default true.
    pub create: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            connections: 16,
            acquire_timeout: Duration::from_secs(10),
            lock_timeout: Duration::from_secs(10),
            create: true,
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

/// The error for a SQLite file that does not exist and must not be created.
const MISSING: &str = "it does not exist; `fleetd serve` and `fleetd migrate` create it, and --database-url or the configuration file names another one";

impl SqlStore {
    /// Opens a database, with its schema brought up to date or checked. Only [`MigrateMode::Migrate`] creates a
    /// missing SQLite file.
    ///
    /// # Errors
    ///
    /// [`StoreError::Url`], [`StoreError::Unreachable`], [`StoreError::NewerSchema`],
    /// [`StoreError::OlderSchema`] in [`MigrateMode::Check`], or an error of the database.
    pub async fn open(url: &str, mode: MigrateMode) -> Result<Self, StoreError> {
        if mode == MigrateMode::Migrate {
            Self::migrate(url).await?;
        }
        let options = StoreOptions {
            create: false,
            ..StoreOptions::default()
        };
        let store = Self::connect(url, options).await?;
        store.check_schema().await?;
        Ok(store)
    }

    /// Opens the pools of a database without checking its schema. A missing SQLite file is created with access
    /// for its owner only.
    ///
    /// # Errors
    ///
    /// [`StoreError::Url`], or [`StoreError::Unreachable`] with the address and the reason.
    pub async fn connect(url: &str, options: StoreOptions) -> Result<Self, StoreError> {
        let url = DatabaseUrl::parse(url)?;
        let failed = |detail: String| StoreError::Unreachable {
            database: url.to_string(),
            detail,
        };
        let writers = match url.engine() {
            Engine::Sqlite { file } => {
                if options.create {
                    create_for_owner(file).map_err(|error| failed(error.to_string()))?;
                } else if !file.exists() {
                    return Err(failed(MISSING.to_owned()));
                }
                check_private(file).map_err(failed)?;
                // SQLite has one writer. With one connection, writers wait in order and do not fail
                // with BUSY.
                1
            }
            Engine::Postgres(server) => {
                let reached = reach(server, options.acquire_timeout).await;
                reached.map_err(failed)?;
                options.connections
            }
        };
        let health = Arc::new(Health::default());
        let opened = |connections| pool(&url, connections, &options, &health);
        let writer = opened(writers).await;
        let writer = writer.map_err(|error| failed(error.to_string()))?;
        let reader = match url.engine() {
            // Readers of a WAL database need not wait for the writer, so they have their own
            // connections.
            Engine::Sqlite { .. } => {
                let reader = opened(options.connections).await;
                reader.map_err(|error| failed(error.to_string()))?
            }
            Engine::Postgres(_) => writer.clone(),
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

/// Restricts a new SQLite file to its owner before anything is written to it.
fn create_for_owner(file: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(file) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Checks that other users can neither read the file of a database nor replace it. It contains everything that the
/// server knows.
#[cfg(unix)]
fn check_private(file: &Path) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt as _;
    let mode = |path: &Path| {
        let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
        Ok::<_, String>(metadata.mode() & 0o7777)
    };
    let own = mode(file)?;
    if own & 0o077 != 0 {
        return Err(format!(
            "other users can access it (mode {own:o}); run `chmod 600` on it"
        ));
    }
    let folder = file.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    let around = mode(folder)?;
    // In a sticky folder, such as /tmp, users replace only their own files.
    if around & 0o002 != 0 && around & 0o1000 == 0 {
        return Err(format!(
            "other users can replace files in its folder (mode {around:o}); run `chmod o-w` on {}",
            folder.display()
        ));
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_private(_: &Path) -> Result<(), String> {
    Ok(())
}

/// Opens one connection to PostgreSQL, because a pool repeats refused attempts and then only reports a timeout.
async fn reach(options: &PgConnectOptions, limit: Duration) -> Result<(), String> {
    let check = "check the host and port in the database URL, and that PostgreSQL runs there";
    match tokio::time::timeout(limit, PgConnection::connect_with(options)).await {
        Ok(Ok(connection)) => {
            // An error of the farewell is irrelevant.
            let _ = connection.close().await;
            Ok(())
        }
        Ok(Err(sqlx::Error::Io(error))) => Err(format!("{error}; {check}")),
        Ok(Err(sqlx::Error::Database(error))) => Err(format!(
            "PostgreSQL refused the connection: {}",
            error.message()
        )),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!(
            "no answer within {} s; {check}",
            limit.as_secs_f32()
        )),
    }
}

async fn pool(
    url: &DatabaseUrl,
    connections: u32,
    settings: &StoreOptions,
    health: &Arc<Health>,
) -> Result<DatabaseConnection, DbErr> {
    let mut options = ConnectOptions::new(url.as_str());
    options
        .max_connections(connections)
        .acquire_timeout(settings.acquire_timeout)
        .connect_timeout(settings.acquire_timeout)
        // Statements contain hashes and addresses, which must not appear in logs or spans.
        .sqlx_logging(false)
        .record_stmt_in_spans(false);
    let health = Arc::clone(health);
    match url.engine() {
        Engine::Sqlite { .. } => {
            options.map_sqlx_sqlite_before_acquire(move |connection, connected| {
                // An idle connection must have no open transaction. One stays open when the database rolled
                // back by itself and the driver's own ROLLBACK therefore failed.
                let usable = !connection.is_in_transaction() && health.allows(connected.age);
                Box::pin(ready(Ok(usable)))
            });
            options.map_sqlx_sqlite_opts(|sqlite| {
                sqlite
                    // A missing file was created with access for its owner only.
                    .create_if_missing(false)
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
        Engine::Postgres(server) => {
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
            let tcp_port = url::socket(server).is_none().then(|| server.get_port());
            options.map_sqlx_postgres_pool_opts(move |pool| {
                let bounds = bounds.clone();
                pool.after_connect(move |connection, _| {
                    if let Some(port) = tcp_port {
                        send_at_once(port);
                    }
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

/// Sets TCP_NODELAY on the connections to PostgreSQL. Without it the store works, but large statements are slow.
fn send_at_once(port: u16) {
    static WARNED: Once = Once::new();
    let slow = |reason: &str| {
        WARNED.call_once(|| {
            tracing::warn!(
                port,
                reason,
                "TCP_NODELAY cannot be set on connections to PostgreSQL, so each large report takes 40 ms longer: use a Unix socket if the database is on this machine"
            );
        });
    };
    match nodelay::set_on_connections_to(port) {
        Ok(0) => slow("the connection was not found in /proc/self/fd"),
        Ok(_) => {}
        Err(error) => slow(&error.to_string()),
    }
}
