//! Migrations, versions, URLs, and the agreement of rows and tables.

use fleet_store::*;
use sea_orm::{ConnectionTrait, DbBackend};

use crate::site::{Site, at, secret};

contract! {
    rows_and_tables_agree
    opening_again_changes_nothing
    a_newer_schema_is_refused
    an_older_schema_says_what_to_run
    a_node_with_devices_cannot_be_deleted
    signing_in_by_password_came_without_ending_sessions_or_keys
    bindings_of_the_schema_before_pairing_are_kept
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

async fn an_older_schema_says_what_to_run(site: Site) {
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
    // Everything else that refers to the node goes first: attribution alone must hold it.
    for table in [
        "node_endpoint",
        "report_row",
        "report",
        "report_refusal",
        "scan_event",
        "command",
        "chunk",
        "scan_request",
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

/// Takes a database back to before `m0005_sign_in`, with a session in it, and forward again.
async fn signing_in_by_password_came_without_ending_sessions_or_keys(site: Site) {
    let raw = site.raw().await;
    let sqlite = raw.get_database_backend() == DbBackend::Sqlite;
    let hash: String = secret("token")
        .as_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let (bytes, hash) = if sqlite {
        ("blob", format!("x'{hash}'"))
    } else {
        ("bytea", format!("'\\x{hash}'"))
    };
    let key = site.number("SELECT min(id) FROM operator_key").await;
    let (opened, ends) = (at(1).as_micros(), at(100).as_micros());
    for sql in [
        "DROP TABLE browser_session",
        "DROP TABLE operator_source",
        "DROP TABLE operator_password",
        "DROP INDEX operator_email",
        "CREATE UNIQUE INDEX operator_email ON operator (email)",
        "DROP INDEX operator_by_org",
        "DROP INDEX operator_key_operator",
        "DROP INDEX node_stream_claimed",
        "ALTER TABLE operator DROP COLUMN removed_at",
        "ALTER TABLE operator_key DROP COLUMN name",
        "ALTER TABLE operator_key DROP COLUMN last_used_at",
        "ALTER TABLE operator_key DROP COLUMN expires_at",
        "ALTER TABLE node_stream DROP COLUMN takeovers",
        &format!(
            "CREATE TABLE operator_session (hash {bytes} NOT NULL PRIMARY KEY, key_id bigint NOT NULL REFERENCES operator_key (id), created_at bigint NOT NULL, expires_at bigint NOT NULL)"
        ),
        "CREATE INDEX operator_session_expiry ON operator_session (expires_at)",
        &format!("INSERT INTO operator_session VALUES ({hash}, {key}, {opened}, {ends})"),
        "DELETE FROM seaql_migrations WHERE version = 'm0005_sign_in'",
    ] {
        raw.execute_unprepared(sql).await.expect(sql);
    }
    raw.close().await.expect("closed");
    let store = SqlStore::open(&site.url, MigrateMode::Migrate)
        .await
        .expect("brought up to date");
    assert_eq!(
        store.schema_differences().await.expect("read"),
        Vec::<String>::new()
    );
    let by_session = store.operator_by_session(secret("token"), at(99)).await;
    let by_key = store.operator_by_key(secret("ann's key"), at(99)).await;
    for identity in [by_session, by_key] {
        let identity = identity.expect("read").expect("known");
        assert_eq!(identity.operator, site.operator);
    }
    let reach = Reach::Own(site.operator);
    let keys = store.list_keys(site.org, reach, 10, at(99)).await;
    assert_eq!(keys.expect("read").len(), 1);
    store.close().await;
}

async fn bindings_of_the_schema_before_pairing_are_kept(site: Site) {
    let north = site.node("north").await;
    let device = site.found_by(north, "10.0.0.7").await;
    // The schema as it was: without what the step adds, and with what a store of then had written.
    let raw = site.raw().await;
    for sql in [
        "DROP TABLE pairing_target",
        "DROP TABLE pairing_command",
        "DROP TABLE pairing",
        "DROP TABLE device_credential",
        "DROP TABLE device_pairing",
        "ALTER TABLE binding DROP COLUMN assigned_by",
        "DELETE FROM seaql_migrations WHERE version = 'm0003_pairing'",
        &format!(
            "INSERT INTO binding (device_id, org_id, node_id, created_at) VALUES ({}, {}, {}, 5)",
            device, site.org, north.id
        ),
    ] {
        raw.execute_unprepared(sql).await.expect(sql);
    }
    let checked = SqlStore::open(&site.url, MigrateMode::Check).await;
    assert!(
        matches!(checked, Err(StoreError::OlderSchema(name)) if name == "m0003_pairing"),
        "it is missed"
    );
    let again = SqlStore::open(&site.url, MigrateMode::Migrate)
        .await
        .expect("migrated");
    assert_eq!(
        again.schema_differences().await.expect("read"),
        Vec::<String>::new()
    );
    let kept = again
        .list_bound_devices(site.org, None)
        .await
        .expect("read");
    assert_eq!(kept.len(), 1);
    assert_eq!(
        (kept[0].device.id, kept[0].node, kept[0].assigned_by),
        (device, north.id, None)
    );
    again.close().await;
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
async fn a_database_that_is_away_is_unavailable() {
    let options = StoreOptions {
        acquire_timeout: std::time::Duration::from_millis(200),
        ..StoreOptions::default()
    };
    for url in [
        "postgres://fleet@127.0.0.1:1/none",
        "sqlite:///nonexistent/folder/fleet.db",
    ] {
        let refused = SqlStore::connect(url, options.clone()).await;
        assert!(
            matches!(
                refused,
                Err(StoreError::Unavailable {
                    operation: "connect",
                    ..
                })
            ),
            "{refused:?}"
        );
    }
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
