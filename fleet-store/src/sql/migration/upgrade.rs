//! Tests of migrations: an older database with rows in it is upgraded to the newest schema.

use std::future::Future;

use sea_orm::{ConnectionTrait, Database, DatabaseConnection, DbErr, Statement};
use sea_orm_migration::{MigrationTrait, MigratorTrait};

use super::{Migrator, STEPS, Step};
use crate::{SqlStore, StoreOptions};

/// Rows that fit each schema, oldest first. A migration must keep them all. `KEY` stands for 32 bytes, `ID` for 16.
const ROWS: [&[&str]; 19] = [
    &[
        "INSERT INTO org (id, name, created_at) VALUES (1, 'acme', 1)",
        "INSERT INTO operator (id, org_id, email, role, created_at) VALUES (1, 1, 'ann@acme.test', 'admin', 1)",
        "INSERT INTO operator_key (id, operator_id, hash, name, created_at) VALUES (1, 1, KEY, 'laptop', 1)",
        "INSERT INTO site (id, org_id, name, created_at) VALUES (1, 1, 'north', 1)",
        "INSERT INTO node (id, org_id, site_id, name, state, identity_key, encryption_key, keys_proved, created_at, duplicate_identity) VALUES (1, 1, 1, 'north', 'confirmed', KEY, KEY, FALSE, 1, FALSE)",
        "INSERT INTO invitation (id, org_id, hash, state, created_at, expires_at, created_by, node_id) VALUES (1, 1, KEY, 'confirmed', 1, 2, 1, 1)",
        "INSERT INTO device (id, org_id, identifier, node_id, ip, port, scheme, driver, model, manufacturer, firmware, mac, serial, evidence, first_seen, last_seen) VALUES (1, 1, 'mac:02:00:5E:00:00:01', 1, '10.0.0.7', 80, 'http', 'antminer', 'S19', '', '', '02:00:5E:00:00:01', '', 'title', 1, 2)",
        "INSERT INTO device_alias (org_id, identifier, device_id, since) VALUES (1, 'auto:00ff00ff00ff00ff', 1, 2)",
        "INSERT INTO node_endpoint (org_id, ip, port, node_id, since) VALUES (1, '10.0.0.7', 80, 1, 2)",
        "INSERT INTO binding (device_id, org_id, node_id, created_at) VALUES (1, 1, 1, 2)",
        "INSERT INTO pairing (id, org_id, node_id, operator_id, parts, created_at, lease_until, ended_at, code, reason, last_sequence) VALUES ('p1', 1, 1, 1, 1, 1, 2, 3, 'ok', '', 1)",
        "INSERT INTO command (id, org_id, node_id, pairing_id, position, epoch, state, issued_at, deadline, ended_at, rows, refused_rows, flooded) VALUES ('c1', 1, 1, 'p1', 0, 1, 'acked', 1, 2, 3, 0, 0, FALSE)",
        "INSERT INTO node_stream (node_id, epoch, replica, session_id, claimed_at) VALUES (1, 1, ID, 1, 1)",
        "INSERT INTO audit (id, org_id, principal, action, subject, count, at) VALUES (1, 1, 'system', 'code.expire', 'code 1', 1, 1)",
    ],
    &[
        "INSERT INTO scan (id, org_id, node_id, operator_id, state, priority, queues, queued_until, created_at, served_at, not_before, busy_answers, reason, open_scope, skipped, chunks, chunks_done, targets, estimate_ms, units, units_done, units_settled, phase, last_sequence, accepted, rejected) VALUES ('s1', 1, 1, 1, 'completed', 'interactive', FALSE, 1, 1, 1, 1, 0, '', FALSE, '[]', 1, 1, 1, 1, 1, 1, 1, '', 0, 0, 0)",
        "INSERT INTO scan_host (scan_id, ip, command_id, open_ports, reply, requests, at) VALUES ('s1', '10.0.0.7', 'c1', '80', 'HTTP 404', '[]', 1)",
    ],
    &[
        "INSERT INTO scan (id, org_id, node_id, operator_id, state, priority, queues, queued_until, created_at, served_at, not_before, busy_answers, reason, open_scope, skipped, chunks, chunks_done, targets, estimate_ms, units, units_done, units_settled, phase, last_sequence, accepted, rejected, targets_key) VALUES ('s2', 1, 1, 1, 'completed', 'interactive', FALSE, 1, 1, 1, 1, 0, '', FALSE, '[]', 0, 0, 0, 0, 0, 0, 0, '', 0, 0, 0, 'k')",
        "INSERT INTO report_row (command_id, ip, port, scan_id, identifier, device_id, facts) VALUES ('c1', '10.0.0.7', 80, 's2', 'auto:00ff00ff00ff00ff', 1, '{}')",
    ],
    &[
        "INSERT INTO schedule (id, org_id, operator_id, node_id, name, request, recurrence, zone, jitter_s, blackouts, since, created_at, paused_reason, runs, missed) VALUES ('s1', 1, 1, 1, 'nightly', '{}', '@daily', 'UTC', 0, '', 1, 1, '', 0, 0)",
        "INSERT INTO schedule_run (schedule_id, at, due, missed, reason) VALUES ('s1', 1, 1, 0, '')",
    ],
    &[
        "INSERT INTO site_exclude (id, org_id, site_id, target, reason, created_by, created_at) VALUES (1, 1, 1, '10.0.0.9', 'printer', 1, 1)",
    ],
    &[
        "INSERT INTO device (id, org_id, identifier, node_id, scheme, driver, model, manufacturer, firmware, serial, evidence, first_seen, last_seen) VALUES (9, 1, 'mac:02:00:5E:00:00:09', 1, 'http', 'antminer', 'S19', '', '', '', '', 1, 2)",
    ],
    &["INSERT INTO key_fetch (node_id, sequence) VALUES (1, 1)"],
    &["INSERT INTO forwarded_pairing (pairing_id, replica, sealed) VALUES ('p1', ID, KEY)"],
    &[
        "INSERT INTO org (id, name, created_at) VALUES (2, 'other', 1)",
        "INSERT INTO operator (id, org_id, email, role, created_at) VALUES (2, 2, 'ann@acme.test', 'admin', 1)",
        // 256 targets, of which 2 are skipped, in two chunks; the first one is done, and the second is in flight.
        "INSERT INTO scan (id, org_id, node_id, operator_id, state, priority, queues, queued_until, created_at, started_at, served_at, not_before, busy_answers, reason, open_scope, skipped, chunks, chunks_done, targets, estimate_ms, units, units_done, units_settled, phase, last_sequence, accepted, rejected) VALUES ('s3', 1, 1, 1, 'running', 'scheduled', TRUE, 90, 1, 2, 70, 80, 3, '', FALSE, '[]', 2, 1, 256, 1, 256, 150, 129, '', 0, 0, 0)",
        "INSERT INTO scan_request (scan_id, request) VALUES ('s3', '{}')",
        "INSERT INTO chunk (scan_id, position, state, command, ports, scope, targets, attempts, grade, code, reason) VALUES ('s3', 0, 'done', '{}', '', '', 127, 1, 'complete', 'ok', '')",
        "INSERT INTO chunk (scan_id, position, state, command, ports, scope, targets, attempts, reason) VALUES ('s3', 1, 'issued', '{}', '', '', 127, 1, '')",
    ],
    &["UPDATE device SET host_name = 'dns:miner7.lan' WHERE id = 1"],
    &[
        "INSERT INTO alert_org (org_id, since) VALUES (1, 1)",
        "INSERT INTO alert_channel (id, org_id, name, kind, target, shown, secret, created_at) VALUES (1, 1, 'hook', 'webhook', 'https://a.test/', 'https://a.test', KEY, 1)",
        "INSERT INTO alert_rule (id, org_id, name, event, threshold, zone, quiet, enabled, created_at) VALUES (1, 1, 'new', 'device.new', 0, 'UTC', '', TRUE, 1)",
        "INSERT INTO alert_rule_channel (rule_id, channel_id) VALUES (1, 1)",
        "INSERT INTO alert_silence (rule_id, node_id, since) VALUES (1, 1, 1)",
    ],
    &[
        "INSERT INTO site_block (site_id, block, org_id, outcomes, scans, answers, scanned_at) VALUES (1, 655360, 1, KEY, KEY, KEY, 1)",
        "INSERT INTO inventory_day (org_id, day, node_id, seen, added, missing) VALUES (1, 20000, 1, 3, 2, 1)",
        "UPDATE device SET missing_since = 5 WHERE id = 9",
    ],
    &[
        "INSERT INTO scan (id, org_id, node_id, choice, operator_id, state, priority, queues, created_at, reason, open_scope, skipped, chunks, chunks_done, targets, estimate_ms, units, units_done, units_settled, phase, last_sequence, accepted, rejected) VALUES ('s4', 1, 1, 'site 1', 1, 'queued', 'interactive', TRUE, 1, '', FALSE, '[]', 0, 0, 0, 0, 0, 0, 0, '', 0, 0, 0)",
        "INSERT INTO scan_share (scan_id, node_id, org_id, state, reason, targets, chunks, chunks_done, units, units_done, units_settled, queued_until, served_at, not_before, busy_answers) VALUES ('s4', 1, 1, 'queued', '', 0, 0, 0, 0, 0, 0, 1, 0, 1, 0)",
    ],
    &[
        "INSERT INTO device_event (org_id, device_id, kind, former, became, at) VALUES (1, 9, 'firmware', '1.0', '2.0', 1)",
        "INSERT INTO device_label (device_id, label, org_id) VALUES (9, 'rack-7', 1)",
        "INSERT INTO device_note (device_id, org_id, text, changed_by, changed_at) VALUES (9, 1, 'loud', 1, 1)",
    ],
    &["UPDATE scan SET changes = '{}' WHERE id = 's1'"],
    &["INSERT INTO removed_scan (scan_id, org_id, removed_at) VALUES ('s0', 1, 1)"],
    &[
        "INSERT INTO operator_link (org_id, operator_id, issuer, subject, linked_at) VALUES (1, 1, 'https://id.test', '7', 1)",
        "INSERT INTO browser_session (hash, operator_id, created_at, expires_at, agent, issuer) VALUES (KEY, 1, 1, 2, '', 'https://id.test')",
        "INSERT INTO used_attempt (hash, expires_at) VALUES (KEY, 1)",
    ],
    &["UPDATE scan_share SET rate = 500 WHERE scan_id = 's4'"],
    &["INSERT INTO direct_run (scan_id, org_id, replica, started) VALUES ('d1', 1, ID, 1)"],
];

/// The newest schema and a migration of this test after it.
struct Longer;

const LATER: Step = Step {
    name: "m9999_test",
    sql: "ALTER TABLE device ADD COLUMN rack TEXT; UPDATE device SET rack = 'A' WHERE id = 1; CREATE TABLE rack (id {id}, photo {bytes});",
};

#[async_trait::async_trait]
impl MigratorTrait for Longer {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let mut steps = Migrator::migrations();
        steps.push(Box::new(LATER));
        steps
    }
}

/// Runs a test on a new SQLite file and, where the tests have one, a new PostgreSQL database.
async fn on_both<F: Future<Output = ()>>(name: &str, test: impl Fn(SqlStore) -> F) {
    let options = StoreOptions {
        connections: 1,
        ..StoreOptions::default()
    };
    let folder = tempfile::tempdir().expect("a folder");
    let sqlite = format!("sqlite://{}", folder.path().join("old.db").display());
    let store = SqlStore::connect(&sqlite, options.clone()).await;
    test(store.expect("connected")).await;
    let Ok(server) = std::env::var("FLEET_TEST_POSTGRES") else {
        return;
    };
    let name = format!("fleet_{name}_{}", std::process::id());
    let admin = Database::connect(&server).await.expect("PostgreSQL");
    let create = format!("CREATE DATABASE {name}");
    admin.execute_unprepared(&create).await.expect(&create);
    let (head, _) = server.rsplit_once('/').expect("a database in the URL");
    let store = SqlStore::connect(&format!("{head}/{name}"), options).await;
    test(store.expect("connected")).await;
    let drop = format!("DROP DATABASE {name} WITH (FORCE)");
    admin.execute_unprepared(&drop).await.expect(&drop);
}

async fn populate(store: &SqlStore, rows: &[&str]) {
    let zeros = |count| {
        let digits = "00".repeat(count);
        if store.is_sqlite() {
            format!("x'{digits}'")
        } else {
            format!("'\\x{digits}'")
        }
    };
    for sql in rows {
        let sql = sql
            .replace("KEY", &zeros(32))
            .replace(" ID,", &format!(" {},", zeros(16)));
        store.writer().execute_unprepared(&sql).await.expect(&sql);
    }
}

/// The number of rows in all tables that hold any.
async fn rows(store: &SqlStore) -> i64 {
    let mut sum = 0;
    for table in [
        "org",
        "operator",
        "operator_key",
        "site",
        "node",
        "invitation",
        "device",
        "device_alias",
        "node_endpoint",
        "binding",
        "node_stream",
        "pairing",
        "command",
        "audit",
        "scan",
        "chunk",
        "report_row",
    ] {
        sum += number(store.writer(), &format!("SELECT count(*) FROM {table}")).await;
    }
    sum
}

async fn number(db: &DatabaseConnection, sql: &str) -> i64 {
    let statement = Statement::from_string(db.get_database_backend(), sql.to_owned());
    let row: Result<_, DbErr> = db.query_one_raw(statement).await;
    let row = row.expect(sql).expect("a row");
    row.try_get_by_index(0).expect("a number")
}

#[tokio::test]
async fn every_migration_keeps_the_rows_of_the_schema_before_it() {
    assert_eq!(ROWS.len(), STEPS.len(), "each schema has rows to keep");
    on_both("upgrade", |store| async move {
        for (step, own) in STEPS.iter().zip(ROWS) {
            let first = step.name == STEPS[0].name;
            let before = if first { 0 } else { rows(&store).await };
            Migrator::up(store.writer(), Some(1))
                .await
                .expect(step.name);
            assert_eq!(rows(&store).await, before, "{}", step.name);
            populate(&store, own).await;
        }
        let differences = store.schema_differences().await.expect("read");
        assert_eq!(differences, Vec::<String>::new());
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn devices_of_earlier_versions_sort_by_address() {
    on_both("addresses", |store| async move {
        let steps = STEPS.iter().zip(ROWS);
        for (step, own) in steps.take_while(|(step, _)| step.name != "m0015_address_order") {
            Migrator::up(store.writer(), Some(1))
                .await
                .expect(step.name);
            populate(&store, own).await;
        }
        Migrator::up(store.writer(), None).await.expect("migrated");
        let keyed =
            "SELECT count(*) FROM device WHERE address_key = '401000000000700080' AND id = 1";
        assert_eq!(number(store.writer(), keyed).await, 1);
        let without = "SELECT count(*) FROM device WHERE address_key = '' AND id = 9";
        assert_eq!(number(store.writer(), without).await, 1);
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_later_migration_runs_on_a_populated_database() {
    on_both("later", |store| async move {
        for (step, own) in STEPS.iter().zip(ROWS) {
            let migrated = Migrator::up(store.writer(), Some(1)).await;
            migrated.expect(step.name);
            populate(&store, own).await;
        }
        let before = rows(&store).await;
        Longer::up(store.writer(), None).await.expect("upgraded");
        assert_eq!(rows(&store).await, before);
        let moved = "SELECT count(*) FROM device WHERE rack = 'A'";
        assert_eq!(number(store.writer(), moved).await, 1);
        let refused = store.check_schema().await;
        assert!(matches!(refused, Err(crate::StoreError::NewerSchema(name)) if name == LATER.name));
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn scans_of_one_node_become_scans_with_one_share() {
    on_both("shares", |store| async move {
        for (step, own) in STEPS.iter().zip(ROWS) {
            let migrated = Migrator::up(store.writer(), Some(1)).await;
            migrated.expect(step.name);
            if step.name == "m0013_scan_shares" {
                break;
            }
            populate(&store, own).await;
        }
        let one = |what: &'static str| {
            let store = &store;
            async move { number(store.writer(), &format!("SELECT count(*) FROM {what}")).await }
        };
        assert_eq!(one("scan_share").await, one("scan").await);
        let s3 = "scan_share WHERE scan_id = 's3' AND node_id = 1 AND org_id = 1 AND state = 'running' AND targets = 254 AND chunks = 2 AND chunks_done = 1 AND units = 254 AND units_done = 148 AND units_settled = 127 AND queued_until = 90 AND served_at = 70 AND not_before = 80 AND busy_answers = 3";
        assert_eq!(one(s3).await, 1);
        assert_eq!(one("chunk WHERE node_id = 1").await, 2);
        assert_eq!(one("scan WHERE choice = 'node 1'").await, 3);
        assert_eq!(one("schedule WHERE choice = 'node 1'").await, 1);
        store.close().await;
    })
    .await;
}
