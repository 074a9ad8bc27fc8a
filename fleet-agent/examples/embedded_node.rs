//! Runs a node inside another service: `embedded_node STATE_FOLDER`
#![expect(clippy::print_stderr, reason = "a program for people")]

use std::{env, error::Error, path::Path, process::ExitCode, time::Duration};

use fleet_agent::{Agent, AgentOptions, Stage, StateDir};
use tokio_util::sync::CancellationToken;

/// The exit code for wrong usage.
const USAGE: u8 = 64;

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let Some(folder) = env::args_os().nth(1) else {
        eprintln!("usage: embedded_node STATE_FOLDER");
        return Ok(USAGE.into());
    };
    let until_stopped = async {
        tokio::select! {
            () = service() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    run(folder.as_ref(), until_stopped).await
}

/// Replace this with your service.
async fn service() {
    tokio::time::sleep(Duration::from_secs(3_600)).await;
}

/// Runs the node until `service` ends. The service continues if the server ends the node.
pub(crate) async fn run(
    folder: &Path,
    service: impl Future<Output = ()>,
) -> Result<ExitCode, Box<dyn Error>> {
    // Locked until this function returns: two processes must not use one identity.
    let dir = StateDir::open(folder)?;
    let state = dir.load()?;
    let Some(state) = state.filter(|state| state.stage() == Stage::Enrolled) else {
        let folder = folder.display();
        eprintln!("{folder} holds no enrolled node; run `fleetnode --state-dir {folder} enroll`");
        return Ok(USAGE.into());
    };
    let agent = Agent::new(state, AgentOptions::default())?;
    let shutdown = CancellationToken::new();
    let node = tokio::spawn(agent.run(shutdown.clone()));
    service.await;
    // Dropping the task instead would lose results that are not uploaded yet.
    shutdown.cancel();
    node.await??;
    Ok(ExitCode::SUCCESS)
}
