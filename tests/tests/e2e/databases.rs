//! Which database the programs use, and what they say when they cannot use it.

use std::net::TcpListener;

use crate::harness::{Kind, World, binary, on, run};

/// Status of a database that cannot be used (EX_UNAVAILABLE of sysexits.h).
const UNAVAILABLE: i32 = 69;

#[test]
fn a_second_server_on_a_sqlite_file_is_refused_with_the_process_that_serves_it() {
    on(Kind::Sqlite, "second server", async |mut world: World| {
        for _ in 0..2 {
            let mut second = binary("fleetd", world.folder());
            second.args(["serve", "--listen", "127.0.0.1:0"]);
            second.args(["--database-url", world.server.database_url()]);
            let refused = run(second).await;
            assert_eq!(refused.status, UNAVAILABLE, "{refused:?}");
            let holder = format!("process {} already serves", world.server.id());
            assert!(refused.stderr.contains(&holder), "{refused:?}");
            // A killed server holds nothing.
            world.server.kill().await;
            world.server.restart().await;
        }
    });
}

#[test]
fn admin_names_its_database_and_creates_neither_a_file_nor_a_similar_organization() {
    on(Kind::Sqlite, "admin", async |world: World| {
        let create = |org| {
            let operator = ["--email", "bo@example.test", "--role", "viewer"];
            [&["admin", "create-operator", "--org", org], &operator[..]].concat()
        };
        let similar = world.server.fleetd(&create("Acme")).await;
        assert_eq!(similar.status, 1, "{similar:?}");
        assert!(similar.stderr.contains("`acme`"), "{similar:?}");
        let file = world.folder().join("fleet.db");
        let named = format!("using the SQLite file {}", file.display());
        assert!(similar.stderr.contains(&named), "{similar:?}");
        let created = world.server.fleetd(&create("acme")).await;
        assert!(created.stderr.contains(&named), "{created:?}");
        created.succeeded();

        let folder = world.folder().join("elsewhere");
        std::fs::create_dir(&folder).expect("a folder");
        let mut mistaken = binary("fleetd", &folder);
        mistaken.args(create("acme"));
        let refused = run(mistaken).await;
        assert_eq!(refused.status, UNAVAILABLE, "{refused:?}");
        let missing = folder.join("fleet.db").display().to_string();
        for part in [&*missing, "does not exist", "fleetd migrate"] {
            assert!(refused.stderr.contains(part), "{refused:?}");
        }
        let files = std::fs::read_dir(&folder).expect("listed");
        assert_eq!(files.count(), 0);
    });
}

#[tokio::test]
async fn a_wrong_database_address_is_named_with_the_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    // Nothing listens on a port that was free a moment ago.
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = closed.local_addr().expect("an address");
    drop(closed);
    let url = format!("postgres://fleet:secret@{address}/inventory");
    for command in [
        &["serve", "--listen", "127.0.0.1:0"][..],
        &["migrate"],
        &["admin", "audit-head"],
    ] {
        let mut command_line = binary("fleetd", folder.path());
        command_line.args(command).args(["--database-url", &url]);
        let refused = run(command_line).await;
        assert_eq!(refused.status, UNAVAILABLE, "{refused:?}");
        for part in [&*address.to_string(), "`inventory`", "refused"] {
            assert!(refused.stderr.contains(part), "{refused:?}");
        }
        assert!(!refused.stderr.contains("secret"), "{refused:?}");
    }
}
