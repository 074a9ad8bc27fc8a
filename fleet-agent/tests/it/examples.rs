//! The examples run as they are documented.

#[expect(dead_code, reason = "its main is not called")]
#[path = "../../examples/embedded_node.rs"]
mod embedded_node;

use std::{future::ready, path::Path, process::ExitCode};

use fleet_agent::{StateDir, StateFile};

use crate::{gateway::Gateway, state, within};

#[tokio::test]
async fn the_embedded_node_runs_as_long_as_its_service() {
    let gateway = Gateway::start().await;
    let parent = tempfile::tempdir().expect("a folder");
    let folder = parent.path().join("node");
    save(&folder, &state(&gateway));
    let service = async { drop(gateway.accepted().await) };
    let ended = within("the service", embedded_node::run(&folder, service)).await;
    assert_eq!(ended.expect("it ends well"), ExitCode::SUCCESS);
    StateDir::open(&folder).expect("the folder is not locked any more");
}

#[tokio::test]
async fn the_embedded_node_requires_an_enrollment() {
    let gateway = Gateway::start().await;
    let parent = tempfile::tempdir().expect("a folder");
    let folder = parent.path().join("node");
    let registered = StateFile {
        api_key: None,
        ..state(&gateway)
    };
    for state in [None, Some(registered)] {
        if let Some(state) = state {
            save(&folder, &state);
        }
        let ended = embedded_node::run(&folder, ready(())).await;
        assert_eq!(ended.expect("it ends well"), ExitCode::from(64));
    }
}

fn save(folder: &Path, state: &StateFile) {
    let dir = StateDir::open(folder).expect("a state folder");
    dir.save(state).expect("the state is saved");
}
