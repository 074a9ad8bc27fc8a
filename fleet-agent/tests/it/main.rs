//! The node against a scripted server on loopback and simulated devices: what it says on the wire, and what it does
//! when the other end misbehaves. The script is `gateway.rs`.

mod enrollment;
mod examples;
mod gateway;
mod interruptions;
mod local;
mod logs;
mod mdns;
mod names;
mod pairing;
mod refusals;
mod scans;
mod sessions;
mod subnets;
mod upstream;

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use fleet_agent::{Agent, AgentOptions, SecretKey, SecretText, SitePolicy, StateFile, StopReason};
use fleet_core::AddressPolicy;
use fleet_scan::ScanOptions;
use fleet_sim::{Lab, RunningSite, Site};
use gateway::Gateway;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The id that every node of these tests has.
const NODE: i64 = 7;

/// Fails a test that would wait forever.
async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(60), work).await {
        Ok(done) => done,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// Starts a site on a part of 127/8 of its own, so that tests run side by side.
async fn start(site: Site, test: u8) -> RunningSite {
    Lab::start(site.starting_at(Ipv4Addr::new(127, 91, test, 1)))
        .await
        .expect("the site starts")
}

fn state(gateway: &Gateway) -> StateFile {
    StateFile {
        server_url: gateway.url(),
        name: "barn".to_owned(),
        identity_key: SecretKey::new([7; 32]),
        encryption_key: SecretKey::new([9; 32]),
        ca_file: None,
        allow_insecure_transport: false,
        upstream_server: false,
        imported: false,
        fleet_node_id: Some(NODE),
        api_key: Some(SecretText::new("fnk_of-the-tests-only".to_owned())),
    }
}

/// Scans loopback, at a rate of so many connections a second.
fn options(rate: u32) -> AgentOptions {
    AgentOptions {
        site: SitePolicy {
            addresses: AddressPolicy::DEMO,
            ..SitePolicy::default()
        },
        scan: ScanOptions {
            rate,
            reply_timeout: Duration::from_secs(2),
            ..ScanOptions::default()
        },
        ..AgentOptions::default()
    }
}

/// A node that runs until it is dropped.
struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), StopReason>>,
}

impl Running {
    fn start(gateway: &Arc<Gateway>, rate: u32) -> Self {
        Self::with(gateway, options(rate))
    }

    fn with(gateway: &Arc<Gateway>, options: AgentOptions) -> Self {
        let agent = Agent::new(state(gateway), options).expect("an agent");
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(agent.run(shutdown.clone()));
        Self { shutdown, task }
    }

    /// Waits for the node to end.
    async fn ended(mut self) -> Result<(), StopReason> {
        within("the node's end", &mut self.task)
            .await
            .expect("the node does not crash")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}
