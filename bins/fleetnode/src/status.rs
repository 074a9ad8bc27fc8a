//! `fleetnode status`: the content of the state folder. Does not disturb a running node.

use std::{
    fmt, fs,
    io::{self, Write},
    path::Path,
};

use fleet_agent::{SitePolicy, Stage, StateDir};
use fleet_discovery::SubnetChoice;
use serde::{Deserialize, Serialize};

use crate::{cli::Format, halt};

/// The file in which a running node records its connection.
const CONNECTION: &str = "connection";

/// The file in which a running node records its local subnets.
const SUBNETS: &str = "subnets";

#[derive(Debug, Serialize)]
struct Status {
    /// `new`, `registered` (the API key is missing) or `enrolled`.
    stage: &'static str,
    name: Option<String>,
    server_url: Option<String>,
    fleet_node_id: Option<i64>,
    fingerprint: Option<String>,
    /// The id of the process that locks the state folder.
    process: Option<String>,
    /// The connection of the running node, as a sentence.
    connection: Option<String>,
    /// The reason of a halt; may be empty.
    halted: Option<String>,
    /// The networks of this machine, and which of them `fleetnode-local-subnet` and mDNS cover.
    local_subnets: Vec<Subnet>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Subnet {
    subnet: String,
    /// Empty for a subnet that the administrator named.
    interface: String,
    chosen: bool,
    reason: String,
}

impl From<SubnetChoice> for Subnet {
    fn from(choice: SubnetChoice) -> Self {
        Self {
            subnet: choice.subnet.to_string(),
            interface: choice.interface,
            chosen: choice.is_chosen,
            reason: choice.reason,
        }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = if self.interface.is_empty() {
            ""
        } else {
            " on "
        };
        let verdict = if self.chosen { "chosen" } else { "left out" };
        let Self {
            subnet,
            interface,
            reason,
            ..
        } = self;
        write!(f, "{subnet}{on}{interface}: {verdict}, {reason}")
    }
}

/// States that the state folder contains the state of an upstream node, if so, and how to import it.
pub(crate) fn upstream_state(state_dir: &Path) -> Option<String> {
    let path = state_dir.join("state.yaml");
    path.exists().then(|| {
        let path = path.display();
        format!(
            "{path} is the state of an upstream node; run `fleetnode import {path}` to take it over"
        )
    })
}

/// Records the connection of the running node for [`show`]. A failure is not worth stopping the node.
pub(crate) fn record(state_dir: &Path, connection: &str) {
    if let Err(error) = fs::write(state_dir.join(CONNECTION), connection) {
        tracing::debug!(%error, "cannot record the connection for `fleetnode status`");
    }
}

/// Records the local subnets of the running node for [`show`].
pub(crate) fn record_subnets(state_dir: &Path, subnets: &[SubnetChoice]) {
    let subnets: Vec<Subnet> = subnets.iter().cloned().map(Subnet::from).collect();
    let written = serde_json::to_string(&subnets)
        .map_err(io::Error::from)
        .and_then(|text| fs::write(state_dir.join(SUBNETS), text));
    if let Err(error) = written {
        tracing::debug!(%error, "cannot record the local subnets for `fleetnode status`");
    }
}

/// The local subnets as a running node recorded them, or as a node without options would choose them.
fn subnets(state_dir: &Path, is_running: bool) -> Vec<Subnet> {
    let recorded = || {
        let text = fs::read_to_string(state_dir.join(SUBNETS)).ok()?;
        serde_json::from_str(&text).ok()
    };
    let choose = || SitePolicy::default().choose_subnets(None).into_iter();
    let recorded: Option<Vec<Subnet>> = is_running.then(recorded).flatten();
    recorded.unwrap_or_else(|| choose().map(Subnet::from).collect())
}

pub(crate) fn show(state_dir: &Path, output: Format) -> anyhow::Result<()> {
    let state = StateDir::peek(state_dir)?;
    let process = StateDir::holder(state_dir);
    // Without a process, the file is what an earlier one left.
    let connection = process
        .as_ref()
        .and_then(|_| fs::read_to_string(state_dir.join(CONNECTION)).ok());
    let status = Status {
        stage: match state.as_ref().map_or(Stage::New, |state| state.stage()) {
            Stage::New => "new",
            Stage::Registered => "registered",
            Stage::Enrolled => "enrolled",
        },
        fleet_node_id: state.as_ref().and_then(|state| state.fleet_node_id),
        fingerprint: state.as_ref().map(|state| state.fingerprint().to_string()),
        name: state.as_ref().map(|state| state.name.clone()),
        server_url: state.map(|state| state.server_url),
        local_subnets: subnets(state_dir, process.is_some()),
        process,
        connection,
        halted: halt::reason(state_dir),
    };
    let mut out = io::stdout().lock();
    if output != Format::Table {
        writeln!(out, "{}", serde_json::to_string(&status)?)?;
        return Ok(());
    }
    let next = match status.stage {
        "new" => "not enrolled; run `fleetnode enroll` with a code from the server",
        "registered" => {
            "registered, without an API key; run `fleetnode enroll` and enter the key from the confirmation"
        }
        _ => "enrolled",
    };
    writeln!(out, "enrollment   {next}")?;
    if let Some(advice) = upstream_state(state_dir).filter(|_| status.stage == "new") {
        writeln!(out, "upstream     {advice}")?;
    }
    let id = status.fleet_node_id.map(|id| id.to_string());
    for (label, value) in [
        ("name", &status.name),
        ("server", &status.server_url),
        ("id", &id),
        ("fingerprint", &status.fingerprint),
    ] {
        if let Some(value) = value {
            writeln!(out, "{label:<12} {value}")?;
        }
    }
    let running = status.process.map_or_else(
        || "not running".to_owned(),
        |process| format!("running as process {process}"),
    );
    writeln!(out, "node         {running}")?;
    if let Some(connection) = status.connection {
        writeln!(out, "connection   {connection}")?;
    }
    if let Some(reason) = status.halted {
        writeln!(
            out,
            "scanning     halted until `fleetnode resume`: {reason}"
        )?;
    }
    for (at, subnet) in status.local_subnets.iter().enumerate() {
        let label = if at == 0 { "subnets" } else { "" };
        writeln!(out, "{label:<12} {subnet}")?;
    }
    Ok(())
}
