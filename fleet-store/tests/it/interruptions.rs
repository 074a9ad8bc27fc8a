//! Interruptions: callers that drop their futures, and a database that blocks.

use std::{future::poll_fn, task::Poll};

use fleet_core::outcome::AckCode;
use fleet_store::*;
use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbBackend, SqliteTransactionMode, TransactionOptions,
    TransactionTrait,
};

use crate::site::{Node, Site, at, plain};

contract! {
    a_dropped_operation_leaves_all_or_nothing
    a_busy_database_is_waited_for
    a_database_that_stays_locked_is_unavailable
}

async fn a_dropped_operation_leaves_all_or_nothing(site: Site) {
    let node = site.node("north").await;
    let command = site.running(node, "10.0.0.0/24").await;
    for most in 0..80_usize {
        let rows = vec![plain(&format!("10.0.0.{}", most + 1), "80")];
        let mut recording = site
            .store
            .record_report(site.report(node, command.command, rows));
        let mut polls = 0;
        poll_fn(|context| {
            polls += 1;
            if polls > most {
                return Poll::Ready(());
            }
            recording.as_mut().poll(context).map(drop)
        })
        .await;
    }
    let whole = vec![plain("10.0.0.200", "80")];
    assert_eq!(site.reported(node, command.command, whole).await, (1, 0));
    let events = site.stored_events(command.scan).await.len() as i64;
    for table in ["device", "report_row", "report", "node_endpoint"] {
        let rows = site.number(&format!("SELECT count(*) FROM {table}")).await;
        assert_eq!(rows, events, "{table}");
    }
    site.acked(node, command.command, AckCode::Ok).await;
    let ledger = site.look(command.scan).await.ledger.expect("ended");
    assert_eq!(ledger.accepted as i64, events);
}

/// A foreign transaction that has written the node's row.
async fn block(site: &Site, node: Node) -> DatabaseTransaction {
    let raw = site.raw().await;
    let immediate = TransactionOptions {
        sqlite_transaction_mode: (raw.get_database_backend() == DbBackend::Sqlite)
            .then_some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    let blocking = raw.begin_with_options(immediate).await.expect("begun");
    let seen = format!("UPDATE node SET last_seen_at = 1 WHERE id = {}", node.id);
    blocking.execute_unprepared(&seen).await.expect("locked");
    blocking
}

async fn a_database_that_stays_locked_is_unavailable(site: Site) {
    let node = site.node("north").await;
    if site.url.starts_with("sqlite") {
        // Skip this engine: its wait of 5 s, repeated a dozen times, is too long for a test.
        return;
    }
    let options = StoreOptions {
        lock_timeout: std::time::Duration::from_millis(1),
        ..StoreOptions::default()
    };
    let store = SqlStore::connect(&site.url, options)
        .await
        .expect("connected");
    let blocking = block(&site, node).await;
    let beat = store.heartbeat(node.id, Heartbeat::default(), at(77)).await;
    assert!(
        matches!(
            beat,
            Err(StoreError::Unavailable {
                operation: "heartbeat",
                ..
            })
        ),
        "{beat:?}"
    );
    blocking.rollback().await.expect("rolled back");
    assert!(
        store
            .heartbeat(node.id, Heartbeat::default(), at(78))
            .await
            .expect("served")
    );
    store.close().await;
}

async fn a_busy_database_is_waited_for(site: Site) {
    let node = site.node("north").await;
    let blocking = block(&site, node).await;
    let store = site.store.clone();
    let beating =
        tokio::spawn(async move { store.heartbeat(node.id, Heartbeat::default(), at(77)).await });
    // Reads succeed in the meantime.
    let row = site.store.node(site.org, node.id).await.expect("read");
    assert_eq!(row.expect("there").last_seen_at, Some(at(3)));
    assert!(!beating.is_finished());
    blocking.commit().await.expect("committed");
    assert!(beating.await.expect("ran").expect("served after all"));
    let row = site.store.node(site.org, node.id).await.expect("read");
    assert_eq!(row.expect("there").last_seen_at, Some(at(77)));
}
