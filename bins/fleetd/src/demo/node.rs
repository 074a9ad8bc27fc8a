//! The node of the demonstration. It enrolls through the API as a real node does, and runs in this process.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use fleet_agent::{
    Agent, AgentOptions, EnrollOptions, SecretText, SitePolicy, StateDir, StopReason,
};
use fleet_core::{AddressPolicy, Fingerprint, Port};
use fleet_scan::{Driver, DriverSet, Fingerprints, ProtocolDriver, ScanOptions};
use fleet_wire::{
    admin::{ConfirmFleetNodeRequest, CreateEnrollmentCodeRequest, FleetNodeAdminClient},
    fleet::{ListNodesRequest, NodeClient},
};
use ipnetwork::Ipv4Network;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Operator;

/// The site of the node: its network, and the unprivileged HTTP ports of its devices.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    pub(super) network: Ipv4Network,
    pub(super) http: Vec<Port>,
}

impl Surroundings {
    fn drivers(&self) -> Result<Arc<DriverSet>> {
        let drivers: Vec<Arc<dyn Driver>> = vec![
            Arc::new(ProtocolDriver::cgminer(Fingerprints::built_in())),
            Arc::new(ProtocolDriver::http(Fingerprints::built_in()).at(self.http.clone())),
        ];
        Ok(Arc::new(DriverSet::new(drivers)?))
    }
}

/// A running node.
#[derive(Debug)]
pub(super) struct DemoNode {
    pub(super) id: i64,
    pub(super) fingerprint: Fingerprint,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), StopReason>>,
    /// Keeps the state directory locked.
    _state: StateDir,
}

impl DemoNode {
    /// Enrolls, confirms and starts a node: code, Register, fingerprint, ConfirmFleetNode, API key, handshake.
    pub(super) async fn start(
        base: &str,
        name: &str,
        folder: &Path,
        operator: &Operator,
        surroundings: Surroundings,
    ) -> Result<Self> {
        let admin = FleetNodeAdminClient::new(operator.channel.clone());
        let code = admin
            .create_enrollment_code(&CreateEnrollmentCodeRequest::default(), operator.call()?)
            .await?;
        let dir = StateDir::open(folder)?;
        let options = EnrollOptions {
            name: name.to_owned(),
            ..EnrollOptions::new(base)
        };
        let registered = fleet_agent::register(&dir, options, &SecretText::new(code.code)).await?;

        let nodes = NodeClient::new(operator.channel.clone())
            .list_nodes(&ListNodesRequest::default(), operator.call()?)
            .await?
            .nodes;
        let seen = nodes
            .into_iter()
            .find(|node| node.fleet_node_id == registered.fleet_node_id)
            .context("the server does not list the node")?;
        if seen.identity_fingerprint != registered.fingerprint.to_string() {
            bail!(
                "the server has the fingerprint {} for the node, but the node has {}",
                seen.identity_fingerprint,
                registered.fingerprint
            );
        }
        let confirm = ConfirmFleetNodeRequest {
            fleet_node_id: registered.fleet_node_id,
            pending_enrollment_id: code.pending_enrollment_id,
        };
        let key = admin
            .confirm_fleet_node(&confirm, operator.call()?)
            .await?
            .api_key;
        fleet_agent::finish(&dir, SecretText::new(key)).await?;

        let state = dir
            .load()?
            .context("the node has no state after its enrollment")?;
        let site = SitePolicy {
            addresses: AddressPolicy::DEMO,
            ..SitePolicy::default()
        };
        // Some simulated devices accept connections but never reply, and this time limit ends the scan.
        let scan = ScanOptions {
            reply_timeout: Duration::from_secs(2),
            ..ScanOptions::default()
        };
        let options = AgentOptions {
            site,
            scan,
            drivers: surroundings.drivers()?,
            local_subnets: Some(vec![surroundings.network]),
            listen_announcements: true,
            ..AgentOptions::default()
        };
        let agent = Agent::new(state, options)?;
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(agent.run(shutdown.clone()));
        Ok(Self {
            id: registered.fleet_node_id,
            fingerprint: registered.fingerprint,
            shutdown,
            running,
            _state: dir,
        })
    }

    /// Stops the node as SIGTERM does.
    pub(super) async fn stop(self) {
        self.shutdown.cancel();
        match self.running.await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => tracing::warn!(%reason, "the node stopped"),
            Err(error) => tracing::warn!(%error, "the node failed"),
        }
    }
}
