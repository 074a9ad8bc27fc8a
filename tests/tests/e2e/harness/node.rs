//! `fleetnode` as it is used: enrolled in a dialogue with an operator at the other end, run as a process
//! that can be killed and started again, or copied to a second machine.

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

/// What the server's log says for every stream that became a node's newest.
pub(crate) const CONNECTED: &str = "node connected";

/// An enrolled node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: i64,
    name: String,
    folder: PathBuf,
    state: PathBuf,
    flags: Vec<String>,
    log_filter: String,
    process: Option<Process>,
}

impl Node {
    /// Enrolls a node with a new code, confirmed by an operator who compared the fingerprint.
    pub(crate) async fn enroll(world: &World, name: &str) -> Self {
        let code = new_code(world).await;
        let mut dialogue = Self::begin(world, name);
        dialogue.say(&code).await;
        let Some(fingerprint) = dialogue.hear("Fingerprint: ").await else {
            panic!("no fingerprint: {:?}", dialogue.end().await);
        };
        let id = world.operator.node_named(name).await.fleet_node_id;
        let key = confirm(world, id, &fingerprint).await;
        dialogue.say(&key).await;
        dialogue.end().await.well();
        Self::enrolled(world, name, id)
    }

    /// A node that was enrolled in a dialogue of a test's own.
    pub(crate) fn enrolled(world: &World, name: &str, id: i64) -> Self {
        Self {
            id,
            name: name.to_owned(),
            folder: world.folder().to_owned(),
            state: state_of(world.folder(), name),
            flags: Vec::new(),
            log_filter: "info,fleet_agent=debug".to_owned(),
            process: None,
        }
    }

    /// Begins `fleetnode enroll`.
    pub(crate) fn begin(world: &World, name: &str) -> Dialogue {
        let mut command = binary("fleetnode", world.folder());
        command
            .args(["enroll", "--name", name, "--server-url"])
            .arg(world.server.url())
            .arg("--state-dir")
            .arg(state_of(world.folder(), name));
        Dialogue::begin(command)
    }

    /// What `fleetnode run` is given from the next start on.
    pub(crate) fn set_flags(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    }

    /// What the process logs from its next start on.
    pub(crate) fn set_log(&mut self, filter: &str) {
        filter.clone_into(&mut self.log_filter);
    }

    /// Where it keeps its keys.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// Starts the process and waits until the server has accepted its stream.
    pub(crate) async fn start(&mut self, server: &Server) {
        let before = server.said(CONNECTED);
        self.spawn();
        eventually("the node's stream", async || {
            (server.said(CONNECTED) > before).then_some(())
        })
        .await;
    }

    /// Starts the process.
    pub(crate) fn spawn(&mut self) {
        let mut command = binary("fleetnode", &self.folder);
        command
            .args(["run", "--demo-allow-loopback", "--log", &self.log_filter])
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

    /// The same identity on a second machine, not started yet.
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
            log_filter: self.log_filter.clone(),
            process: None,
        }
    }

    /// What the node's processes have logged.
    pub(crate) fn logged(&self) -> String {
        fs::read_to_string(self.log()).expect("the log can be read")
    }

    fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }
}

/// A new enrollment code, by `fleetctl`.
pub(crate) async fn new_code(world: &World) -> String {
    let made = world
        .fleetctl(&["nodes", "code", "-o", "json"])
        .await
        .well();
    let made: serde_json::Value = serde_json::from_str(&made).expect("one line of JSON");
    made["code"].as_str().expect("a code").to_owned()
}

/// The API key of a node that an operator confirmed, by `fleetctl`.
pub(crate) async fn confirm(world: &World, id: i64, fingerprint: &str) -> String {
    let id = id.to_string();
    let confirmed = world
        .fleetctl(&["nodes", "confirm", &id, "--fingerprint", fingerprint])
        .await
        .well();
    confirmed.trim().to_owned()
}

fn state_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.state"))
}
