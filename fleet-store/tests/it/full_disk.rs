//! A full disk: an answer that reports success is durable, and the store serves again as soon as there is space.
//! `cargo xtask prove faults` runs more rounds, with a server and a node.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use fleet_core::Role;
use fleet_store::*;
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement};

use crate::site::at;

/// A small tmpfs, unmounted on drop.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .output();
        mounted.ok()?.status.success().then_some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file until nothing more fits.
    fn fill(&self) {
        let mut file = fs::File::create(self.path().join("filler")).expect("a file");
        for size in [65_536, 512, 1] {
            let block = vec![0; size];
            while std::io::Write::write_all(&mut file, &block).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.path().join("filler")).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

async fn create(store: &SqlStore, email: &str) -> Result<(), CreateOperatorError> {
    let new = NewOperator {
        org: "acme".into(),
        email: email.into(),
        role: Role::Operator,
        now: at(0),
    };
    store.create_operator(new, Actor::SYSTEM).await.map(drop)
}

/// Fills and frees the disk many times. Every refusal is UNAVAILABLE, readiness follows at once, and no acknowledged
/// operator is lost.
async fn fill_and_free(disk: &SmallDisk, url: &str, rounds: usize, attempts: usize) {
    let store = SqlStore::open(url, MigrateMode::Migrate)
        .await
        .expect("opened");
    let mut acknowledged = BTreeSet::new();
    for round in 0..rounds {
        disk.fill();
        let mut refused = 0;
        for attempt in 0..attempts {
            let email = format!("full-{round}-{attempt}@acme.test");
            match create(&store, &email).await {
                Ok(()) => _ = acknowledged.insert(email),
                Err(CreateOperatorError::Storage(StoreError::Unavailable { .. })) => {
                    refused += 1;
                }
                Err(other) => panic!("{other}"),
            }
            if refused > 2 {
                break;
            }
        }
        assert!(refused > 0, "round {round}: the disk was full");
        assert!(store.ping().await.is_err(), "round {round}: not ready");
        disk.free();
        store.ping().await.expect("ready by itself");
        let email = format!("free-{round}@acme.test");
        create(&store, &email).await.expect("created");
        acknowledged.insert(email);
    }
    store.close().await;
    let again = SqlStore::open(url, MigrateMode::Check)
        .await
        .expect("opened");
    let account = again.account("free-0@acme.test", None).await;
    let org = account.expect("read").expect("created").org;
    let stored = again
        .list_members(org, fleet_store::ListPage::FIRST, at(0))
        .await
        .expect("read");
    let stored: BTreeSet<_> = stored.into_iter().map(|member| member.email).collect();
    let lost: Vec<_> = acknowledged.difference(&stored).collect();
    assert!(lost.is_empty(), "{lost:?}");
    again.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_acknowledged_by_sqlite_on_a_full_disk_are_stored() {
    let Some(disk) = SmallDisk::mount("6m") else {
        crate::site::skip("tmpfs cannot be mounted here");
        return;
    };
    let url = format!("sqlite://{}", disk.path().join("fleet.db").display());
    fill_and_free(&disk, &url, 20, 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_acknowledged_by_postgres_in_a_full_tablespace_are_stored() {
    let Ok(server) = std::env::var(crate::site::POSTGRES) else {
        crate::site::skip("FLEET_TEST_POSTGRES is not set");
        return;
    };
    let Some(disk) = SmallDisk::mount("48m") else {
        crate::site::skip("tmpfs cannot be mounted here");
        return;
    };
    let admin = Database::connect(&server).await.expect("connected");
    let Some(folder) = tablespace(&admin, &disk).await else {
        crate::site::skip("PostgreSQL runs on another machine");
        return;
    };
    let name = format!("fleet_full_{}", std::process::id());
    for sql in [
        format!("CREATE TABLESPACE {name} LOCATION '{}'", folder.display()),
        format!("CREATE DATABASE {name} TABLESPACE {name}"),
    ] {
        admin.execute_unprepared(&sql).await.expect(&sql);
    }
    let (head, _) = server.rsplit_once('/').expect("a database in the URL");
    let url = format!("{head}/{name}");
    let disk = Arc::new(disk);
    let filled = disk.clone();
    let proved = tokio::spawn(async move { fill_and_free(&filled, &url, 5, 1_000).await }).await;
    // Also after a failure, because no checkpoint of the server succeeds once the disk is gone.
    let _ = fs::remove_file(disk.path().join("filler"));
    for sql in [
        format!("DROP DATABASE {name} WITH (FORCE)"),
        format!("DROP TABLESPACE {name}"),
    ] {
        admin.execute_unprepared(&sql).await.expect(&sql);
    }
    proved.expect("proved");
}

/// A folder on the disk that belongs to the PostgreSQL server. `None` if the server has no data here.
async fn tablespace(admin: &DatabaseConnection, disk: &SmallDisk) -> Option<PathBuf> {
    let show = Statement::from_string(DbBackend::Postgres, "SHOW data_directory");
    let row = admin.query_one_raw(show).await.expect("shown")?;
    let data: String = row.try_get_by_index(0).expect("a path");
    let owner = fs::metadata(data).ok()?;
    fs::set_permissions(disk.path(), fs::Permissions::from_mode(0o711)).expect("set");
    let folder = disk.path().join("tablespace");
    fs::create_dir(&folder).expect("created");
    chown(&folder, Some(owner.uid()), Some(owner.gid())).expect("given");
    Some(folder)
}
