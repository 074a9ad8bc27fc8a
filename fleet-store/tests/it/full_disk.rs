//! A full disk under SQLite: an answer that reports success is durable, and the store serves again as
//! soon as there is space.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use fleet_core::Role;
use fleet_store::*;

use crate::site::at;

/// A small tmpfs, unmounted on drop.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"])
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_acknowledged_on_a_full_disk_are_stored() {
    let Some(disk) = SmallDisk::mount() else {
        crate::site::skip("tmpfs cannot be mounted here");
        return;
    };
    let url = format!("sqlite://{}", disk.path().join("fleet.db").display());
    let store = SqlStore::open(&url, MigrateMode::Migrate)
        .await
        .expect("opened");
    let mut acknowledged = BTreeSet::new();
    let mut refused = 0;
    for round in 0..20 {
        disk.fill();
        for attempt in 0..8 {
            let email = format!("full-{round}-{attempt}@acme.test");
            match create(&store, &email).await {
                Ok(()) => _ = acknowledged.insert(email),
                Err(CreateOperatorError::Storage(StoreError::Unavailable { .. })) => {
                    refused += 1;
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert!(store.ping().await.is_err(), "round {round}: not ready");
        disk.free();
        store.ping().await.expect("ready by itself");
        let email = format!("free-{round}@acme.test");
        create(&store, &email).await.expect("created");
        acknowledged.insert(email);
    }
    assert!(refused > 0, "the disk was full");
    store.close().await;
    let again = SqlStore::open(&url, MigrateMode::Check)
        .await
        .expect("opened");
    let org = fleet_core::OrgId(1);
    let stored = again.list_members(org, at(0)).await.expect("read");
    let stored: BTreeSet<_> = stored.into_iter().map(|member| member.email).collect();
    let lost: Vec<_> = acknowledged.difference(&stored).collect();
    assert!(lost.is_empty(), "{lost:?}");
    again.close().await;
}
