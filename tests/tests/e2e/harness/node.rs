//! A `fleetnode` process: enrolled through its prompts and `fleetctl`, then run, killed, restarted or copied to a
//! second machine.

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use super::{
    World,
    command::{Dialogue, binary},
    eventually,
    process::Process,
    server::Server,
};

/// Server log line for every stream that became the newest of a node.
pub(crate) const CONNECTED: &str = "node connected";

/// An enrolled node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: i64,
    name: String,
    folder: PathBuf,
    state: PathBuf,
    flags: Vec<String>,
    /// Which addresses the node may scan: those of a demonstration, or private ones.
    policy: &'static str,
    log_filter: String,
    process: Option<Process>,
}

/// Also permits loopback addresses. Their names are not looked up.
const DEMO: &str = "--demo-allow-loopback";

impl Node {
    /// Enrolls a node with a new code and confirms it after comparing the fingerprint.
    pub(crate) async fn enroll(world: &World, name: &str) -> Self {
        let code = new_code(world).await;
        let mut dialogue = Self::begin(world, name);
        dialogue.write_line(&code).await;
        let Some(fingerprint) = dialogue.read_after("Fingerprint: ").await else {
            panic!("no fingerprint: {:?}", dialogue.end().await);
        };
        let id = world.operator.node_named(name).await.fleet_node_id;
        let key = confirm(world, id, &fingerprint).await;
        dialogue.write_line(&key).await;
        dialogue.end().await.succeeded();
        Self::enrolled(world, name, id)
    }

    /// Wraps a node that the test enrolled itself.
    pub(crate) fn enrolled(world: &World, name: &str, id: i64) -> Self {
        Self {
            id,
            name: name.to_owned(),
            folder: world.folder().to_owned(),
            state: state_of(world.folder(), name),
            flags: Vec::new(),
            policy: DEMO,
            log_filter: "info,fleet_agent=debug".to_owned(),
            process: None,
        }
    }

    /// Starts `fleetnode enroll`.
    pub(crate) fn begin(world: &World, name: &str) -> Dialogue {
        Self::begin_with(world, name, &[])
    }

    /// Starts `fleetnode enroll` with more flags.
    pub(crate) fn begin_with(world: &World, name: &str, flags: &[&str]) -> Dialogue {
        let mut command = binary("fleetnode", world.folder());
        command
            .args(["enroll", "--name", name, "--server-url"])
            .arg(world.server.url())
            .arg("--state-dir")
            .arg(state_of(world.folder(), name))
            .args(flags);
        Dialogue::begin(command)
    }

    /// Sets the flags of `fleetnode run` for the next start.
    pub(crate) fn set_flags(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    }

    /// Lets the node scan only one private network, as in operation.
    pub(crate) fn set_network(&mut self, flag: &'static str) {
        self.policy = flag;
    }

    /// Sets the log filter for the next start.
    pub(crate) fn set_log(&mut self, filter: &str) {
        filter.clone_into(&mut self.log_filter);
    }

    /// Returns the state directory.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// Starts the process and waits until the server has accepted its stream.
    pub(crate) async fn start(&mut self, server: &Server) {
        let before = server.log_count(CONNECTED);
        self.spawn();
        eventually("the node's stream", async || {
            (server.log_count(CONNECTED) > before).then_some(())
        })
        .await;
    }

    /// Starts the process.
    pub(crate) fn spawn(&mut self) {
        let mut command = binary("fleetnode", &self.folder);
        command
            .args(["run", self.policy, "--log", &self.log_filter])
            .arg("--state-dir")
            .arg(&self.state)
            .args(&self.flags);
        self.process = Some(Process::spawn(&self.name, command, &self.log()));
    }

    /// Ends the process with SIGKILL.
    pub(crate) async fn kill(&mut self) {
        self.running().kill().await;
    }

    /// Ends the process with SIGTERM.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        self.running().terminate().await
    }

    /// Waits until the process ends by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        self.running().ended().await
    }

    fn running(&mut self) -> Process {
        self.process.take().expect("the node runs")
    }

    /// Copies the identity to a second machine, which is not started.
    pub(crate) fn copy(&self, name: &str) -> Self {
        let state = state_of(&self.folder, name);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&state)
            .expect("a second state folder");
        for entry in fs::read_dir(&self.state).expect("the state can be listed") {
            let entry = entry.expect("the state can be listed");
            fs::copy(entry.path(), state.join(entry.file_name())).expect("state can be copied");
        }
        Self {
            id: self.id,
            name: name.to_owned(),
            folder: self.folder.clone(),
            state,
            flags: self.flags.clone(),
            policy: self.policy,
            log_filter: self.log_filter.clone(),
            process: None,
        }
    }

    /// Returns the log of the node's processes.
    pub(crate) fn logged(&self) -> String {
        fs::read_to_string(self.log()).expect("the log can be read")
    }

    fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }
}

/// Creates an enrollment code with `fleetctl`.
pub(crate) async fn new_code(world: &World) -> String {
    let made = world
        .fleetctl(&["nodes", "code", "-o", "json"])
        .await
        .succeeded();
    let made: serde_json::Value = serde_json::from_str(&made).expect("one line of JSON");
    made["code"].as_str().expect("a code").to_owned()
}

/// Confirms a node with `fleetctl` and returns its API key.
pub(crate) async fn confirm(world: &World, id: i64, fingerprint: &str) -> String {
    let id = id.to_string();
    let confirmed = world
        .fleetctl(&["nodes", "confirm", &id, "--fingerprint", fingerprint])
        .await
        .succeeded();
    confirmed.trim().to_owned()
}

fn state_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.state"))
}
