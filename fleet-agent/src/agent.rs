//! The running node: one task drives the state machines of fleet-registry and executes their outputs.
//!
//! Start with [`Agent`]; the task is in `agent/shell.rs`.

mod ack;
mod calls;
mod command;
mod counts;
mod pairing;
mod report;
mod route;
mod scan_task;
mod shell;
mod stream;
mod upstream;
mod work;

use std::{sync::Arc, time::Duration};

pub(crate) use command::denied_ports_note;
pub use counts::AgentCounts;
use fleet_core::{AddressPolicy, NodeId, limits};
use fleet_discovery::SubnetChoice;
use fleet_registry::link::StopReason;
use fleet_scan::{DnsResolver, DriverSet, Resolver, ScanOptions};
use fleet_wire::gateway::FleetNodeGatewayClient;
use ipnetwork::Ipv4Network;
pub(crate) use scan_task::{Entry, ScanTask};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    site::SitePolicy,
    state::{Stage, StateFile},
    transport::{self, ServerAddress, TransportError},
};

/// Options of an agent. The defaults suit a node on a site's own LAN.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The networks and ports that the site permits.
    pub site: SitePolicy,
    /// Rate and time limits of scans.
    pub scan: ScanOptions,
    /// The drivers that identify devices. Default ports of external drivers are announced as known when a stream opens.
    pub drivers: Arc<DriverSet>,
    /// Resolves host names.
    pub resolver: Arc<dyn Resolver>,
    /// The networks for `fleetnode-local-subnet` and mDNS. If absent, the site's networks among those of the machine's
    /// interfaces, see [`SitePolicy::choose_subnets`].
    pub local_subnets: Option<Vec<Ipv4Network>>,
    /// Most targets of one command, 1,024..=16,384. A crash repeats at most one command.
    pub command_targets: u32,
    /// The site's kill switch: while it holds a reason, every scan and pairing stops and new ones are refused.
    pub halt: watch::Receiver<Option<String>>,
    /// Whether the names of hosts that answered are looked up, by the resolver and by asking the hosts.
    pub host_names: bool,
    /// Whether scans may listen at the ports of IP report buttons.
    pub listen_announcements: bool,
    /// Whether pairings may try the default passwords of a make, if an operator requests it.
    pub default_passwords: bool,
    /// Time limit for uploading results during the shutdown.
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
            host_names: false,
            listen_announcements: false,
            default_passwords: true,
            drain: Duration::from_secs(10),
        }
    }
}

impl AgentOptions {
    /// The resolver for names of hosts, if they are looked up. Addresses of a demonstration have none.
    pub(crate) fn host_names(&self) -> Option<Arc<dyn Resolver>> {
        let looks_up = self.host_names && self.site.addresses != AddressPolicy::DEMO;
        looks_up.then(|| Arc::clone(&self.resolver))
    }
}

/// The state of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentStatus {
    /// The server has accepted the control stream.
    pub connected: bool,
    /// There is a valid session.
    pub session: bool,
    /// The command that runs or is being reported.
    pub running: Option<String>,
    /// Found devices that the server has not accepted yet.
    pub spooled: usize,
    /// Why there is no session or control stream; if other calls succeed, with what to configure.
    pub problem: Option<String>,
    /// The networks of this machine, and which of them are the local subnets. Empty before the first stream.
    pub subnets: Vec<SubnetChoice>,
    /// What the agent has done since it started.
    pub counts: AgentCounts,
}

/// Why an agent cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The enrollment is not finished.
    #[error("this node is not enrolled; run `fleetnode enroll` first")]
    NotEnrolled,
    /// The server's URL or certificates cannot be used.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The system provides no random bytes.
    #[error("the system provides no random bytes: {0}")]
    Random(getrandom::Error),
}

/// An enrolled node.
#[derive(Debug)]
pub struct Agent {
    state: StateFile,
    node: NodeId,
    options: AgentOptions,
    client: FleetNodeGatewayClient,
    /// Random at every start. The server uses it to detect two machines with one identity.
    instance: [u8; 16],
    seed: u64,
    status: watch::Sender<AgentStatus>,
}

impl Agent {
    /// Creates an agent without connecting.
    ///
    /// # Errors
    ///
    /// [`AgentError`] if the enrollment is unfinished, or the URL or the CA file cannot be used.
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

    /// Watches the state of the agent.
    pub fn status(&self) -> watch::Receiver<AgentStatus> {
        self.status.subscribe()
    }

    /// Runs until `shutdown` fires: holds the session and the control stream, runs commands, and reports. It keeps
    /// retrying while the server is unavailable.
    ///
    /// When `shutdown` fires, a running scan stops and its results are uploaded within [`AgentOptions::drain`]. The
    /// command is not acked: the server issues its chunk to this node again after the restart.
    ///
    /// Not cancel-safe: dropping the future stops everything at once and loses results that were not uploaded.
    ///
    /// # Errors
    ///
    /// [`StopReason`] if the server has ended this node permanently. Its text is advice.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StopReason> {
        shell::Shell::new(self).run(shutdown).await
    }
}
