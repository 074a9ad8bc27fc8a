//! Migrations, versions, URLs, and the agreement of rows and tables.

use fleet_store::*;
use sea_orm::{ConnectionTrait, DbBackend};

use crate::site::Site;

contract! {
    a_missing_postgres_database_is_named
    rows_and_tables_agree
    opening_again_changes_nothing
    a_newer_schema_is_refused
    an_older_schema_names_the_command_to_run
    a_node_with_devices_cannot_be_deleted
}

async fn rows_and_tables_agree(site: Site) {
    assert_eq!(
        site.store.schema_differences().await.expect("read"),
        Vec::<String>::new()
    );
    let raw = site.raw().await;
    raw.execute_unprepared("ALTER TABLE org ADD COLUMN extra bigint")
        .await
        .expect("altered");
    assert_eq!(
        site.store.schema_differences().await.expect("read"),
        ["org.extra is not known"]
    );
    raw.execute_unprepared("ALTER TABLE scan DROP COLUMN phase")
        .await
        .expect("altered");
    assert_eq!(
        site.store.schema_differences().await.expect("read").len(),
        2
    );
}

async fn opening_again_changes_nothing(site: Site) {
    for mode in [MigrateMode::Migrate, MigrateMode::Check] {
        let again = SqlStore::open(&site.url, mode).await.expect("opened");
        assert!(again.has_operators().await.expect("read"));
        again.close().await;
    }
}

async fn a_newer_schema_is_refused(site: Site) {
    let raw = site.raw().await;
    raw.execute_unprepared(
        "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m9999_from_the_future', 1)",
    )
    .await
    .expect("inserted");
    for mode in [MigrateMode::Migrate, MigrateMode::Check] {
        let refused = SqlStore::open(&site.url, mode).await;
        assert!(
            matches!(&refused, Err(StoreError::NewerSchema(name)) if name == "m9999_from_the_future"),
            "{refused:?}"
        );
    }
}

async fn an_older_schema_names_the_command_to_run(site: Site) {
    let raw = site.raw().await;
    for sql in [
        "DELETE FROM seaql_migrations",
        "DROP TABLE seaql_migrations",
    ] {
        raw.execute_unprepared(sql).await.expect(sql);
        let refused = SqlStore::open(&site.url, MigrateMode::Check).await;
        let Err(error @ StoreError::OlderSchema(_)) = refused else {
            panic!("{refused:?}")
        };
        assert!(error.to_string().contains("fleetd migrate"), "{error}");
    }
}

async fn a_node_with_devices_cannot_be_deleted(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    let found = vec![crate::site::plain("10.0.0.7", "80")];
    site.reported(node, command.command, found).await;
    let raw = site.raw().await;
    if raw.get_database_backend() == DbBackend::Sqlite {
        let enforce = "PRAGMA foreign_keys = ON";
        raw.execute_unprepared(enforce).await.expect(enforce);
    }
    // Remove all other references to the node, so that only the attribution protects it.
    for table in [
        "node_endpoint",
        "report_row",
        "report",
        "report_refusal",
        "scan_event",
        "command",
        "chunk",
        "scan_request",
        "scan_share",
        "scan",
        "node_stream",
        "node_session",
        "node_key",
        "invitation",
    ] {
        raw.execute_unprepared(&format!("DELETE FROM {table}"))
            .await
            .expect(table);
    }
    let refused = raw
        .execute_unprepared("DELETE FROM node")
        .await
        .expect_err("restricted");
    let why = refused.to_string().to_lowercase();
    assert!(why.contains("foreign key"), "{why}");
    raw.execute_unprepared("DELETE FROM device")
        .await
        .expect("free");
    raw.execute_unprepared("DELETE FROM node")
        .await
        .expect("nothing holds it now");
}

#[tokio::test]
async fn a_wrong_url_is_named_without_its_password() {
    for (url, shown) in [
        ("mysql://root:secret@db/fleet", "mysql://root@db/fleet"),
        ("sqlite::memory:", "sqlite::memory:"),
        ("sqlite://?mode=rwc", "sqlite://?mode=rwc"),
        ("fleet.db", "fleet.db"),
    ] {
        let refused = SqlStore::open(url, MigrateMode::Migrate).await;
        assert!(
            matches!(&refused, Err(StoreError::Url { url, .. }) if url == shown),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn an_error_names_the_address_that_cannot_be_reached_and_the_reason() {
    let options = StoreOptions {
        acquire_timeout: std::time::Duration::from_secs(5),
        ..StoreOptions::default()
    };
    // Nothing listens on a port that was free a moment ago.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = closed.local_addr().expect("an address").port();
    drop(closed);
    let refused = format!("at 127.0.0.1:{port}");
    for (url, parts) in [
        (
            format!("postgres://fleet:secret@127.0.0.1:{port}/none"),
            [
                "database `none` of user `fleet`",
                &refused,
                "Connection refused",
            ],
        ),
        (
            "postgres://fleet@db.invalid/none".to_owned(),
            ["db.invalid:5432", "check the host", "cannot open"],
        ),
        (
            "postgres://fleet@localhost/none?host=/nonexistent".to_owned(),
            [
                "socket /nonexistent/.s.PGSQL.5432",
                "No such file",
                "cannot open",
            ],
        ),
        (
            "sqlite:///nonexistent/folder/fleet.db".to_owned(),
            [
                "SQLite file /nonexistent/folder/fleet.db",
                "No such file",
                "cannot open",
            ],
        ),
    ] {
        let refused = SqlStore::connect(&url, options.clone()).await;
        let Err(error @ StoreError::Unreachable { .. }) = refused else {
            panic!("{refused:?}")
        };
        let text = error.to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}

#[tokio::test]
async fn only_migrating_creates_a_sqlite_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fleet.db");
    let url = format!("sqlite://{}?mode=rwc", path.display());
    let refused = SqlStore::open(&url, MigrateMode::Check).await;
    let Err(error @ StoreError::Unreachable { .. }) = refused else {
        panic!("{refused:?}")
    };
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()), "{text}");
    assert!(text.contains("fleetd migrate"), "{text}");
    assert!(!path.exists());
    let created = SqlStore::open(&url, MigrateMode::Migrate).await;
    created.expect("created").close().await;
    let opened = SqlStore::open(&url, MigrateMode::Check).await;
    opened.expect("opened").close().await;
}

async fn a_missing_postgres_database_is_named(site: Site) {
    let Some((head, _)) = site
        .url
        .rsplit_once('/')
        .filter(|_| site.url.starts_with("postgres"))
    else {
        // Skip this engine: a SQLite database is a file, which has its own test.
        return;
    };
    let refused = SqlStore::open(&format!("{head}/no_such_fleet"), MigrateMode::Migrate).await;
    let Err(error @ StoreError::Unreachable { .. }) = refused else {
        panic!("{refused:?}")
    };
    let text = error.to_string();
    assert!(
        text.contains("`no_such_fleet`") && text.contains("does not exist"),
        "{text}"
    );
}

#[tokio::test]
async fn a_sqlite_file_that_others_can_read_or_replace_is_refused() {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fleet.db");
    let url = format!("sqlite://{}", path.display());
    let created = SqlStore::open(&url, MigrateMode::Migrate).await;
    created.expect("created").close().await;
    for (of, unsafe_mode, safe_mode, remedy) in [
        (path.as_path(), 0o640, 0o600, "mode 640"),
        (path.as_path(), 0o604, 0o600, "chmod 600"),
        (folder.path(), 0o707, 0o700, "chmod o-w"),
    ] {
        std::fs::set_permissions(of, Permissions::from_mode(unsafe_mode)).expect("set");
        let refused = SqlStore::open(&url, MigrateMode::Migrate).await;
        let Err(error @ StoreError::Unreachable { .. }) = refused else {
            panic!("{refused:?}")
        };
        assert!(error.to_string().contains(remedy), "{error}");
        std::fs::set_permissions(of, Permissions::from_mode(safe_mode)).expect("set");
    }
    let opened = SqlStore::open(&url, MigrateMode::Check).await;
    opened.expect("opened").close().await;
}

#[tokio::test]
async fn a_new_sqlite_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fleet.db");
    let store = SqlStore::open(
        &format!("sqlite://{}", path.display()),
        MigrateMode::Migrate,
    )
    .await
    .expect("opened");
    for name in ["fleet.db", "fleet.db-wal"] {
        let mode = std::fs::metadata(folder.path().join(name))
            .expect(name)
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    store.close().await;
}
