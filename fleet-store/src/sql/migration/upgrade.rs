//! For tests of migrations: a database of an earlier version with rows in it, taken to the newest.

use std::future::Future;

use sea_orm::{ConnectionTrait, Database, Statement};
use sea_orm_migration::MigratorTrait;

use super::Migrator;
use crate::{MigrateMode, SqlStore, StoreOptions};

/// A node that was enrolled, a scan's device, an operator: what every later version must take along.
pub(super) const POPULATION: &[&str] = &[
    "INSERT INTO org (id, name, created_at) VALUES (1, 'acme', 1)",
    "INSERT INTO operator (id, org_id, email, role, created_at) VALUES (1, 1, 'ann@acme.test', 'admin', 1)",
    "INSERT INTO node (id, org_id, name, state, identity_key, encryption_key, created_at, duplicate_identity) VALUES (1, 1, 'north', 'confirmed', KEY, KEY, 1, FALSE)",
    "INSERT INTO invitation (id, org_id, hash, state, created_at, expires_at, created_by, node_id) VALUES (1, 1, KEY, 'confirmed', 1, 2, 1, 1)",
    "INSERT INTO device (id, org_id, identifier, node_id, ip, port, scheme, driver, model, manufacturer, firmware, mac, serial, evidence, first_seen, last_seen) VALUES (1, 1, 'mac:02:00:5E:00:00:01', 1, '10.0.0.7', 80, 'http', 'antminer', 'S19', '', '', '02:00:5E:00:00:01', '', 'title', 1, 2)",
    "INSERT INTO device_alias (org_id, identifier, device_id, since) VALUES (1, 'auto:00ff00ff00ff00ff', 1, 2)",
    "INSERT INTO node_endpoint (org_id, ip, port, node_id, since) VALUES (1, '10.0.0.7', 80, 1, 2)",
    "INSERT INTO binding (device_id, org_id, node_id, created_at) VALUES (1, 1, 1, 2)",
];

/// Takes a database of `steps` migrations with [`POPULATION`] and `more` in it to the newest version, on
/// SQLite and, where the tests have one, on PostgreSQL, and hands it to `check`. The rows of this version
/// agree with its tables.
pub(super) async fn upgraded<F: Future<Output = ()>>(
    steps: u32,
    more: &[&str],
    check: impl Fn(SqlStore) -> F,
) {
    let folder = tempfile::tempdir().expect("a folder");
    let sqlite = format!("sqlite://{}", folder.path().join("old.db").display());
    upgrade(&sqlite, steps, more, &check).await;
    let Ok(server) = std::env::var("FLEET_TEST_POSTGRES") else {
        return;
    };
    let name = format!("fleet_upgrade_{}_{steps}", std::process::id());
    let admin = Database::connect(&server).await.expect("PostgreSQL");
    let create = format!("CREATE DATABASE {name}");
    admin.execute_unprepared(&create).await.expect(&create);
    let (head, _) = server.rsplit_once('/').expect("a database in the URL");
    upgrade(&format!("{head}/{name}"), steps, more, &check).await;
    let drop = format!("DROP DATABASE {name} WITH (FORCE)");
    admin.execute_unprepared(&drop).await.expect(&drop);
}

async fn upgrade<F: Future<Output = ()>>(
    url: &str,
    steps: u32,
    more: &[&str],
    check: &impl Fn(SqlStore) -> F,
) {
    let options = StoreOptions {
        connections: 1,
        ..StoreOptions::default()
    };
    let old = SqlStore::connect(url, options).await.expect("connected");
    Migrator::up(old.writer(), Some(steps))
        .await
        .expect("migrated");
    let bytes = if old.is_sqlite() {
        format!("x'{}'", "00".repeat(32))
    } else {
        format!("'\\x{}'", "00".repeat(32))
    };
    for sql in POPULATION.iter().chain(more) {
        let sql = sql.replace("KEY", &bytes);
        old.writer().execute_unprepared(&sql).await.expect(&sql);
    }
    old.close().await;
    let store = SqlStore::open(url, MigrateMode::Migrate)
        .await
        .expect("upgraded");
    let differences = store.schema_differences().await.expect("read");
    assert_eq!(differences, Vec::<String>::new());
    check(store.clone()).await;
    store.close().await;
}

/// The one text that a query answers; none for NULL.
pub(super) async fn answer(store: &SqlStore, sql: &str) -> Option<String> {
    let statement = Statement::from_string(store.reader().get_database_backend(), sql.to_owned());
    let row = store.reader().query_one_raw(statement).await.expect(sql);
    row.expect("a row").try_get_by_index(0).expect("a text")
}
