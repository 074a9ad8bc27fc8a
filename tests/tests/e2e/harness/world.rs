//! The environment of a test: a server, an administrator and addresses for simulated devices. Dropping it ends
//! every process.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
};

use fleet_core::Role;
use futures::FutureExt;
use tokio::process::Command;

use super::{
    Kind, Node, Operator, Range,
    command::{Dialogue, Done, binary, run},
    database::Database,
    server::Server,
};

/// A server with its database, operators and nodes.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) server: Server,
    /// An administrator of the server.
    pub(crate) operator: Operator,
    /// Loopback addresses that no other test uses.
    pub(crate) range: Range,
    folder: PathBuf,
}

/// Runs a test on a new database.
pub(crate) fn on<F: Future<Output = ()>>(kind: Kind, name: &str, test: impl FnOnce(World) -> F) {
    fleet_sim::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let Some(database) = Database::create(kind, name, folder.path()).await else {
            return;
        };
        let tested = async { test(World::new(database.url(), folder.path()).await).await };
        let ended = AssertUnwindSafe(tested).catch_unwind().await;
        database.remove().await;
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
}

impl World {
    async fn new(database_url: &str, folder: &Path) -> Self {
        let server = Server::start(database_url, folder).await;
        let key = create_operator(&server, Role::Admin).await;
        Self {
            operator: Operator::new(&server.url(), &key),
            server,
            range: Range::next(),
            folder: folder.to_owned(),
        }
    }

    /// Creates an operator of the same organization with this role.
    pub(crate) async fn another_operator(&self, role: Role) -> Operator {
        let key = create_operator(&self.server, role).await;
        Operator::new(&self.server.url(), &key)
    }

    /// Runs `fleetctl` as the administrator.
    pub(crate) async fn fleetctl(&self, arguments: &[&str]) -> Done {
        self.fleetctl_as(&self.operator, arguments).await
    }

    /// Runs `fleetctl` with the key of another operator.
    pub(crate) async fn fleetctl_as(&self, operator: &Operator, arguments: &[&str]) -> Done {
        run(self.command(operator, arguments)).await
    }

    /// Starts `fleetctl` as the administrator and waits until it has printed a line.
    pub(crate) async fn fleetctl_in_background(&self, arguments: &[&str]) -> Dialogue {
        let mut dialogue = Dialogue::begin(self.command(&self.operator, arguments));
        let first = dialogue.read_after("").await;
        assert!(first.is_some(), "{:?}", dialogue.end().await);
        dialogue
    }

    fn command(&self, operator: &Operator, arguments: &[&str]) -> Command {
        let mut command = binary("fleetctl", &self.folder);
        command
            .args(arguments)
            .env("FLEET_SERVER", self.server.url())
            .env("FLEET_API_KEY", operator.key());
        command
    }

    /// Enrolls a node with `fleetctl` and starts it with these flags.
    pub(crate) async fn node(&self, name: &str, flags: &[&str]) -> Node {
        let mut node = Node::enroll(self, name).await;
        node.set_flags(flags);
        node.start(&self.server).await;
        node
    }

    /// Returns the directory for files of the test.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Creates an operator named after the role and returns a key.
async fn create_operator(server: &Server, role: Role) -> String {
    let (role, email) = (role.to_string(), format!("{role}@example.test"));
    let create = ["admin", "create-operator", "--org", "acme"];
    let who = ["--email", &email, "--role", &role];
    server.fleetd(&[create, who].concat()).await.succeeded();
    let key = server
        .fleetd(&["admin", "create-key", "--email", &email])
        .await
        .succeeded();
    key.trim().to_owned()
}
