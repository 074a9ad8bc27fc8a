//! Databases for tests that run on both engines.

use std::io::Write;

use sea_orm::{ConnectionTrait, Database};

use super::unique;

/// Creates both tests of each listed function `async fn(&str)`, which gets the URL of an empty database.
macro_rules! on_both_databases {
    ($($test:ident)*) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                crate::harness::on_sqlite(async |url| super::$test(url).await).await;
            })*
        }

        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                crate::harness::on_postgres(async |url| super::$test(url).await).await;
            })*
        }
    };
}
pub(crate) use on_both_databases;

const POSTGRES: &str = "FLEET_TEST_POSTGRES";

pub(crate) async fn on_sqlite(test: impl AsyncFnOnce(&str)) {
    let folder = tempfile::tempdir().expect("a folder");
    test(&format!(
        "sqlite://{}",
        folder.path().join("fleet.db").display()
    ))
    .await;
}

pub(crate) async fn on_postgres(test: impl AsyncFnOnce(&str)) {
    let Ok(server) = std::env::var(POSTGRES) else {
        return skip(&format!("{POSTGRES} is not set"));
    };
    let name = format!("fleet_server_{}_{}", std::process::id(), unique());
    let admin = Database::connect(&server).await.expect(POSTGRES);
    admin
        .execute_unprepared(&format!("CREATE DATABASE {name}"))
        .await
        .expect("a database");
    let (head, _) = server.rsplit_once('/').expect("a database in the URL");
    test(&format!("{head}/{name}")).await;
    admin
        .execute_unprepared(&format!("DROP DATABASE {name} WITH (FORCE)"))
        .await
        .expect("dropped");
}

/// Reports a skipped test by name: on standard error, and in the list of the test run if there is one.
#[expect(clippy::print_stderr, reason = "skipped tests are named")]
fn skip(why: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {why}", thread.name().unwrap_or("a test"));
    eprintln!("skipped: {line}");
    if let Ok(log) = std::env::var("FLEET_SKIP_LOG") {
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(log);
        log.and_then(|mut log| writeln!(log, "{line}"))
            .expect("the list of skipped tests");
    }
}
