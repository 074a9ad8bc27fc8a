//! The fixture of every contract test: an empty database with one organization and one operator, and helpers for common
//! steps. Start with [`Site`].

use std::{
    future::Future,
    io::Write,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use fleet_core::{
    CommandId, DeviceReport, Epoch, NodeId, OperatorId, OrgId, RawDeviceReport, RejectReason, Role,
    SecretHash, Timestamp,
};
use fleet_store::*;
use sea_orm::{ConnectionTrait, Database};

mod steps;

/// Creates both tests of each listed function `async fn(Site)`.
macro_rules! contract {
    ($($test:ident)*) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $test() {
                crate::site::on_sqlite(super::$test).await;
            })*
        }

        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $test() {
                crate::site::on_postgres(super::$test).await;
            })*
        }
    };
}

pub(crate) const POSTGRES: &str = "FLEET_TEST_POSTGRES";

/// Reports a skipped test by name: on standard error, and in the list of the test run if there is one.
#[expect(clippy::print_stderr, reason = "skipped tests are named")]
pub(crate) fn skip(why: &str) {
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

/// Numbers that are unique among the tests of this process.
pub(crate) fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub(crate) async fn on_sqlite<F: Future<Output = ()>>(test: impl FnOnce(Site) -> F) {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("fleet.db").display());
    let site = Site::new(&url).await;
    let store = site.store.clone();
    test(site).await;
    store.close().await;
}

pub(crate) async fn on_postgres<F: Future<Output = ()>>(test: impl FnOnce(Site) -> F) {
    let Ok(server) = std::env::var(POSTGRES) else {
        skip(&format!("{POSTGRES} is not set"));
        return;
    };
    let name = format!("fleet_store_{}_{}", std::process::id(), unique());
    let admin = Database::connect(&server).await.expect(POSTGRES);
    admin
        .execute_unprepared(&format!("CREATE DATABASE {name}"))
        .await
        .expect("a database");
    let (head, _) = server.rsplit_once('/').expect("a database in the URL");
    let site = Site::new(&format!("{head}/{name}")).await;
    let store = site.store.clone();
    test(site).await;
    store.close().await;
    admin
        .execute_unprepared(&format!("DROP DATABASE {name} WITH (FORCE)"))
        .await
        .expect("dropped");
}

/// An empty database with one organization and one operator. Its clock is fixed.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) url: String,
    pub(crate) store: SqlStore,
    pub(crate) org: OrgId,
    pub(crate) operator: OperatorId,
}

/// A confirmed node with a claimed stream.
#[derive(Clone, Copy)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) epoch: Epoch,
}

pub(crate) fn secret(text: &str) -> SecretHash {
    SecretHash::of(text)
}

/// Seconds after the start of the test's clock.
pub(crate) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_micros(1_800_000_000_000_000).plus(Duration::from_secs(seconds))
}

pub(crate) fn command_id() -> CommandId {
    CommandId::new(at(unique()), [7; 10])
}

pub(crate) fn nobody() -> Actor {
    Actor {
        principal: Principal::Anonymous,
        from: None,
    }
}

impl Site {
    async fn new(url: &str) -> Self {
        let store = SqlStore::open(url, MigrateMode::Migrate)
            .await
            .expect("opened");
        let new = NewOperator {
            org: "acme".into(),
            email: "ann@acme.test".into(),
            role: Role::Admin,
            now: at(0),
        };
        let operator = store
            .create_operator(new, Actor::SYSTEM)
            .await
            .expect("an operator");
        let key = secret("ann's key");
        store
            .create_operator_key("ann@acme.test", key, Actor::SYSTEM, at(0))
            .await
            .expect("a key");
        let identity = store
            .operator_by_key(key, at(0))
            .await
            .expect("read")
            .expect("known");
        Self {
            url: url.to_owned(),
            store,
            org: identity.org,
            operator,
        }
    }
}

pub(crate) type Row = Result<DeviceReport, (RejectReason, String)>;

/// A device without MAC or serial.
pub(crate) fn plain(ip: &str, port: &str) -> Row {
    row(RawDeviceReport {
        ip,
        port,
        ..blank()
    })
}

/// A device with a MAC.
pub(crate) fn with_mac(ip: &str, mac: &str) -> Row {
    row(RawDeviceReport { ip, mac, ..blank() })
}

pub(crate) fn blank() -> RawDeviceReport<'static> {
    RawDeviceReport {
        identifier: "auto:0000000000000000",
        port: "80",
        driver: "antminer",
        model: "S19",
        ..RawDeviceReport::default()
    }
}

pub(crate) fn row(raw: RawDeviceReport<'_>) -> Row {
    DeviceReport::parse(raw).map_err(|reason| (reason, raw.ip.to_owned()))
}

/// The MAC number `n`.
pub(crate) fn mac(n: usize) -> String {
    format!(
        "02:00:5E:{:02X}:{:02X}:{:02X}",
        n >> 16 & 255,
        n >> 8 & 255,
        n & 255
    )
}
