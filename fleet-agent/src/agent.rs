//! The running node: one task that drives the link and the spool, and carries out what they say. Start with
//! [`Agent`]; the rules are in fleet-registry, what is done for each of their outputs in `agent/shell.rs`.

mod ack;
mod calls;
mod order;
mod pairing;
mod report;
mod shell;
mod stream;
mod task;
mod work;

use std::{sync::Arc, time::Duration};

use fleet_core::{NodeId, limits};
use fleet_registry::link::StopReason;
use fleet_scan::{DnsResolver, DriverSet, Resolver, ScanOptions};
use fleet_wire::gateway::FleetNodeGatewayClient;
use ipnetwork::Ipv4Network;
pub(crate) use task::{Entry, Task};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    site::SitePolicy,
    state::{Stage, StateFile},
    transport::{self, ServerAddress, TransportError},
};

/// How an agent works. The defaults suit a node on a site's own LAN.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// What the site lets it scan.
    pub site: SitePolicy,
    /// How it treats the network.
    pub scan: ScanOptions,
    /// The drivers that name devices. The default ports of external ones are announced as they are when a stream opens.
    pub drivers: Arc<DriverSet>,
    /// What says which addresses a host name has.
    pub resolver: Arc<dyn Resolver>,
    /// What `fleetnode-local-subnet` stands for, and where mDNS is listened to; none takes the private subnets of the machine's own interfaces.
    pub local_subnets: Option<Vec<Ipv4Network>>,
    /// Targets that it asks for in one command at the most, 1,024..=16,384; what a crash costs is at most one command.
    pub command_targets: u32,
    /// The site's kill switch: while there is a reason, nothing is scanned or paired, and what runs stops at once.
    pub halt: watch::Receiver<Option<String>>,
    /// How long it may take, once told to shut down, to upload what was found.
    pub drain: Duration,
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            site: SitePolicy::default(),
            scan: ScanOptions::default(),
            drivers: Arc::new(DriverSet::built_in()),
            resolver: Arc::new(DnsResolver::system()),
            local_subnets: None,
            command_targets: u32::try_from(limits::COMMAND_TARGETS).unwrap_or(u32::MAX),
            halt: watch::channel(None).1,
            drain: Duration::from_secs(10),
        }
    }
}

/// What an agent is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentStatus {
    /// The server has accepted the control stream.
    pub connected: bool,
    /// A session lives.
    pub session: bool,
    /// The command that is carried out or being reported.
    pub running: Option<String>,
    /// Devices found and not yet taken by the server.
    pub spooled: usize,
}

/// Why an agent cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The enrollment is not finished.
    #[error("this node is not enrolled yet: run `fleetnode enroll` first")]
    NotEnrolled,
    /// The server cannot be talked to.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// No randomness from the system.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
}

/// A node that is enrolled and can run.
#[derive(Debug)]
pub struct Agent {
    state: StateFile,
    node: NodeId,
    options: AgentOptions,
    client: FleetNodeGatewayClient,
    /// New at every start, so that the server can tell two machines with one identity.
    instance: [u8; 16],
    seed: u64,
    status: watch::Sender<AgentStatus>,
}

impl Agent {
    /// Makes an agent; nothing is dialed yet.
    ///
    /// # Errors
    ///
    /// [`AgentError`]: the enrollment is not finished, or URL or CA file cannot be used.
    pub fn new(state: StateFile, options: AgentOptions) -> Result<Self, AgentError> {
        let node = state
            .fleet_node_id
            .filter(|_| state.stage() == Stage::Enrolled)
            .map(NodeId)
            .ok_or(AgentError::NotEnrolled)?;
        let channel = transport::open(ServerAddress {
            url: &state.server_url,
            ca_file: state.ca_file.as_ref(),
            allow_insecure: state.allow_insecure_transport,
        })?;
        let mut instance = [0; 16];
        getrandom::fill(&mut instance).map_err(AgentError::Random)?;
        let seed = getrandom::u64().map_err(AgentError::Random)?;
        let client = FleetNodeGatewayClient::new(channel);
        Ok(Self {
            state,
            node,
            options,
            client,
            instance,
            seed,
            status: watch::Sender::default(),
        })
    }

    /// Watches what the agent is doing.
    pub fn status(&self) -> watch::Receiver<AgentStatus> {
        self.status.subscribe()
    }

    /// Runs until `shutdown` fires: holds session and control stream, carries out commands, reports. A server that
    /// is away is waited for. When `shutdown` fires, a scan stops and what it found is uploaded within
    /// [`AgentOptions::drain`]; it is not acked, so that the server gives the chunk to the next start of this node.
    ///
    /// Not cancel-safe: dropping the future stops everything at once, and what was not uploaded is lost.
    ///
    /// # Errors
    ///
    /// [`StopReason`] when the server has ended this node for good; its text is advice.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StopReason> {
        shell::Shell::new(self).run(shutdown).await
    }
}
