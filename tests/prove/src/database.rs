//! Empty databases, one per proof and engine. The caller removes them.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use fleet_store::{MigrateMode, SqlStore};
use sea_orm::{ConnectionTrait, Database};
use tempfile::TempDir;

/// Variable with the server on which databases are created and dropped.
const POSTGRES: &str = "FLEET_TEST_POSTGRES";

/// An empty database with the current schema.
pub(crate) struct Scratch {
    pub(crate) engine: &'static str,
    pub(crate) store: SqlStore,
    /// Direct access to the database, without the store.
    pub(crate) url: String,
    location: Location,
}

enum Location {
    Folder { _folder: TempDir },
    Postgres { server: String, name: String },
}

impl Scratch {
    /// Creates one database per engine.
    pub(crate) async fn both() -> Result<[Self; 2]> {
        Ok([Self::sqlite().await?, Self::postgres().await?])
    }

    /// Creates a SQLite database in a temporary directory.
    pub(crate) async fn sqlite() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let url = format!("sqlite://{}", folder.path().join("fleet.db").display());
        Ok(Self {
            engine: "SQLite",
            store: SqlStore::open(&url, MigrateMode::Migrate).await?,
            url,
            location: Location::Folder { _folder: folder },
        })
    }

    /// Creates a database on the PostgreSQL server of the environment.
    pub(crate) async fn postgres() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let server = postgres_server()?;
        let name = format!(
            "fleet_prove_{}_{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        Database::connect(&server)
            .await?
            .execute_unprepared(&format!("CREATE DATABASE {name}"))
            .await?;
        let url = beside(&server, &name)?;
        Ok(Self {
            engine: "PostgreSQL",
            store: SqlStore::open(&url, MigrateMode::Migrate).await?,
            url,
            location: Location::Postgres { server, name },
        })
    }

    /// Another connection pool, as in another process.
    pub(crate) async fn open_again(&self) -> Result<SqlStore> {
        Ok(SqlStore::open(&self.url, MigrateMode::Check).await?)
    }

    /// Closes and removes the database.
    pub(crate) async fn remove(self) -> Result<()> {
        self.store.close().await;
        if let Location::Postgres { server, name } = &self.location {
            Database::connect(server)
                .await?
                .execute_unprepared(&format!("DROP DATABASE {name} WITH (FORCE)"))
                .await?;
        }
        Ok(())
    }
}

/// The administrative database of the server in the environment variable.
pub(crate) fn postgres_server() -> Result<String> {
    std::env::var(POSTGRES).with_context(|| {
        format!("{POSTGRES} must name a PostgreSQL server, as `cargo xtask prove` does")
    })
}

/// The URL of another database on the same server.
pub(crate) fn beside(server: &str, name: &str) -> Result<String> {
    let (head, _) = server
        .rsplit_once('/')
        .with_context(|| format!("{POSTGRES} names no database: end it with /postgres"))?;
    Ok(format!("{head}/{name}"))
}
