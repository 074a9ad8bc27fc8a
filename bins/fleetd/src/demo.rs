//! `fleetd demo`: the whole product on one machine. Server, simulated devices and node are the real
//! ones; only the devices' hardware is not.

mod node;
mod show;

use std::{io::Write, net::SocketAddr, sync::Arc, time::Instant};

use anyhow::{Context, Result, bail};
use fleet_core::{AddressPolicy, Password, Port, Role, SecretKind};
use fleet_server::{Environment, Server, ServerConfig, SystemEnvironment, hash_password};
use fleet_sim::{Lab, Ports, Site};
use fleet_store::{Actor, MigrateMode, NewOperator, Operators, PasswordHash, SqlStore};
use fleet_wire::{
    client::{CallOptions, Channel, ChannelConfig},
    fleet::{ListNodesRequest, NodeClient, ScanClient, StartScanRequest, WatchScanRequest},
    listener::{self, ListenerConfig},
    pairing::{DiscoverRequest, NmapModeRequest, discover_request::Mode},
};
use ipnetwork::Ipv4Network;
use node::{DemoNode, Surroundings};
use show::Show;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::DemoArgs,
    config, logging,
    serve::{BindError, bind, on_signals},
};

/// The same site every time.
const SEED: u64 = 8_420;
/// Who the demonstration belongs to.
const EMAIL: &str = "demo@example.org";
/// Ports tried after a busy one.
const PORTS: u16 = 100;

pub(crate) async fn run(args: DemoArgs) -> Result<()> {
    logging::start(
        &config::log(args.log.clone()),
        Some("warn,fleet_agent=error"),
    )?;
    fleet_sim::raise_descriptor_limit();
    let shutdown = on_signals()?;
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let url = format!(
        "sqlite://{}?mode=rwc",
        folder.path().join("fleet.db").display()
    );
    let store = SqlStore::open(&url, MigrateMode::Migrate).await?;
    let Credentials { password, key } = operator(&store).await?;

    let listener = bind_next(args.listen).await?;
    let address = listener.local_addr().context("the port has no address")?;
    let base = format!("http://{address}");
    let config = ServerConfig {
        addresses: AddressPolicy::DEMO,
        rates: None,
        ..ServerConfig::default()
    };
    let server = Server::start(config, Arc::new(store), Arc::new(SystemEnvironment));
    let closing = CancellationToken::new();
    let port = {
        let (service, closing) = (server.service(), closing.clone());
        tokio::spawn(async move {
            listener::serve(listener, service, &ListenerConfig::plaintext(), closing).await
        })
    };
    let mut show = Show::new(args.json);
    show.step(&format!("server     {base}"))?;

    let site = Lab::start(Site::demo(usize::from(args.devices), SEED)).await?;
    let devices = site.site().devices.len();
    show.step(&format!(
        "site       {devices} simulated devices on loopback, {} of them identifiable",
        args.devices
    ))?;

    let operator = Operator::new(&base, key.clone())?;
    let network = covering(site.site())?;
    let surroundings = Surroundings {
        network,
        http: Port::new(Ports::UNPRIVILEGED.http).into_iter().collect(),
    };
    let node = DemoNode::start(&base, &folder.path().join("node"), &operator, surroundings).await?;
    show.step(&format!(
        "node       {} enrolled over the wire, fingerprint {} compared",
        node.id, node.fingerprint
    ))?;

    tokio::select! {
        scanned = scan(&operator, node.id, network, &mut show) => scanned?,
        () = shutdown.cancelled() => {}
    }
    if !args.once && !shutdown.is_cancelled() {
        show.invite(&base, EMAIL, password.expose(), &key)?;
        shutdown.cancelled().await;
    }
    node.stop().await;
    server.drain().await;
    closing.cancel();
    port.await.context("the port's task failed")?;
    site.shutdown().await;
    Ok(())
}

/// What the demonstration's operator signs in with.
#[derive(Debug)]
struct Credentials {
    password: Password,
    key: String,
}

/// The first operator, a password and a key, as `fleetd admin` makes them.
async fn operator(store: &SqlStore) -> Result<Credentials> {
    let environment: &dyn Environment = &SystemEnvironment;
    let new = NewOperator {
        org: "demo".to_owned(),
        email: EMAIL.to_owned(),
        role: Role::Admin,
        now: environment.now(),
    };
    let password = Password::one_time(&environment.random());
    let phc = hash_password(&password, &environment.random())
        .map_err(|error| anyhow::anyhow!("the password cannot be hashed: {error}"))?;
    let hash = PasswordHash {
        phc,
        one_time_until: None,
    };
    store
        .create_operator_with(new, Some(hash), Actor::SYSTEM)
        .await?;
    let key = environment.secret(SecretKind::OperatorKey);
    store
        .create_operator_key(EMAIL, key.hash(), Actor::SYSTEM, environment.now())
        .await?;
    Ok(Credentials {
        password,
        key: key.expose().to_owned(),
    })
}

/// Binds the wanted port or the next free one.
async fn bind_next(wanted: SocketAddr) -> Result<TcpListener, BindError> {
    let mut last = bind(wanted).await;
    for step in 1..=PORTS {
        let Err(BindError { source, .. }) = &last else {
            break;
        };
        if source.kind() != std::io::ErrorKind::AddrInUse {
            break;
        }
        last = bind(SocketAddr::new(
            wanted.ip(),
            wanted.port().saturating_add(step),
        ))
        .await;
    }
    last
}

/// The operator's side of the demonstration: the public API and a key.
#[derive(Debug)]
struct Operator {
    channel: Channel,
    key: String,
}

impl Operator {
    fn new(base: &str, key: String) -> Result<Self> {
        Ok(Self {
            channel: Channel::new(base, &ChannelConfig::default())?,
            key,
        })
    }

    fn call(&self) -> Result<CallOptions> {
        CallOptions::new()
            .bearer(&self.key)
            .context("the key is no header value")
    }
}

/// Starts a scan of the site's network and shows it until its end.
async fn scan(operator: &Operator, node: i64, network: Ipv4Network, show: &mut Show) -> Result<()> {
    wait_for_stream(operator, node).await?;
    let target = NmapModeRequest {
        target: network.to_string(),
        ports: Vec::new(),
    };
    let request = DiscoverRequest {
        mode: Some(Mode::Nmap(target)),
    };
    let scans = ScanClient::new(operator.channel.clone());
    let asked = Instant::now();
    let start = StartScanRequest {
        request_id: "demo".to_owned(),
        fleet_node_id: node,
        request: Some(request),
        ..StartScanRequest::default()
    };
    let scan = scans
        .start_scan(&start, operator.call()?)
        .await?
        .scan
        .unwrap_or_default();
    show.step(&format!("scan       {} of {network}\n", scan.scan_id))?;
    let watch = WatchScanRequest {
        scan_id: scan.scan_id,
        after_sequence: 0,
    };
    let mut messages = scans.watch_scan(&watch, operator.call()?).await?;
    while let Some(message) = messages.message().await? {
        show.message(&message, asked)?;
    }
    Ok(())
}

/// A scan may queue, but a demonstration that begins with waiting shows nothing.
async fn wait_for_stream(operator: &Operator, node: i64) -> Result<()> {
    let nodes = NodeClient::new(operator.channel.clone());
    for _ in 0..200 {
        let list = nodes
            .list_nodes(&ListNodesRequest {}, operator.call()?)
            .await?
            .nodes;
        if list
            .iter()
            .any(|seen| seen.fleet_node_id == node && seen.connected)
        {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    bail!("the node did not connect within 5 s")
}

/// The smallest network that holds every device of the site; the rest of it refuses.
fn covering(site: &Site) -> Result<Ipv4Network> {
    let devices: Vec<_> = site
        .addresses()
        .into_iter()
        .filter_map(|ip| match ip {
            std::net::IpAddr::V4(ip) => Some(ip),
            std::net::IpAddr::V6(_) => None,
        })
        .collect();
    let first = devices.first().copied().context("the site is empty")?;
    let fits = |prefix: &u8| {
        Ipv4Network::new(first, *prefix).is_ok_and(|net| {
            devices
                .iter()
                .all(|ip| net.contains(*ip) && *ip != net.broadcast() && *ip != net.network())
        })
    };
    let prefix = (16..=30)
        .rev()
        .find(fits)
        .context("the site does not fit a /16")?;
    Ok(Ipv4Network::new(
        Ipv4Network::new(first, prefix)?.network(),
        prefix,
    )?)
}

/// Writes to standard output; a reader that left ends nothing.
fn print(line: &str) -> std::io::Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}
