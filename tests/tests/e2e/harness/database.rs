//! A new database for each test.

use std::{
    io::Write,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use sea_orm::{ConnectionTrait, DatabaseConnection};

/// Variable with the server on which tests may create databases.
const POSTGRES: &str = "FLEET_TEST_POSTGRES";
/// Variable with the file that collects skipped tests.
const SKIP_LOG: &str = "FLEET_SKIP_LOG";

/// The database engine of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
}

/// A database that only one test uses.
#[derive(Debug)]
pub(crate) struct Database {
    url: String,
    on_server: Option<(DatabaseConnection, String)>,
}

impl Database {
    /// Creates an empty database. Returns `None` and records a skip if there is no server for it.
    pub(crate) async fn create(kind: Kind, test: &str, folder: &Path) -> Option<Self> {
        match kind {
            Kind::Sqlite => Some(Self {
                url: format!("sqlite://{}", folder.join("fleet.db").display()),
                on_server: None,
            }),
            Kind::Postgres => {
                let Ok(server) = std::env::var(POSTGRES) else {
                    skip(test, &format!("{POSTGRES} is not set"));
                    return None;
                };
                Some(Self::on_server(&server).await)
            }
        }
    }

    async fn on_server(server: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fleet_e2e_{}_{number}", std::process::id());
        let admin = sea_orm::Database::connect(server)
            .await
            .unwrap_or_else(|error| panic!("{POSTGRES} does not answer: {error}"));
        admin
            .execute_unprepared(&format!("CREATE DATABASE {name}"))
            .await
            .expect("a database can be created");
        let (head, _) = server.rsplit_once('/').expect("the URL names a database");
        Self {
            url: format!("{head}/{name}"),
            on_server: Some((admin, name)),
        }
    }

    /// Returns the URL for `fleetd`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Drops the database. A SQLite file is removed with its directory.
    pub(crate) async fn remove(self) {
        if let Some((admin, name)) = self.on_server {
            admin
                .execute_unprepared(&format!("DROP DATABASE {name} WITH (FORCE)"))
                .await
                .expect("the database can be dropped");
        }
    }
}

#[expect(clippy::print_stdout, reason = "the test runner shows it on request")]
pub(crate) fn skip(test: &str, reason: &str) {
    let line = format!("{test}: {reason}\n");
    print!("skipped {line}");
    let Some(log) = std::env::var_os(SKIP_LOG) else {
        return;
    };
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(log)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .expect("the skip log can be written");
}
