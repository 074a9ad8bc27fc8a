//! `fleetd demo`: the whole product in one process. The server and the node are the real ones; `fleet-sim`
//! simulates the devices on loopback sockets.

mod alerts;
mod later;
mod network;
mod node;
mod pairing;
mod show;

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use alerts::Receiver;
use anyhow::{Context, Result, bail};
use fleet_core::{AddressPolicy, Password, Port, Role, SecretKind};
use fleet_server::{Environment, Server, ServerConfig, SystemEnvironment, hash_password};
use fleet_sim::{Button, Device, Ports, Site, Truth};
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

/// Seed of the simulated site, which is therefore the same in every run.
const SEED: u64 = 8_420;
/// E-mail of the demonstration's operator.
const EMAIL: &str = "demo@example.org";
/// The broadcast address of the loopback interface.
const LOOPBACK: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 255);
/// The time between two presses of IP report buttons.
const PRESS_EVERY: Duration = Duration::from_secs(3);
/// Number of ports to try after a port in use.
const PORTS: u16 = 100;

pub(crate) async fn run(args: DemoArgs) -> Result<()> {
    logging::start(
        &config::log(args.log.clone()),
        Some("warn,fleet_agent=error"),
    )?;
    fleet_sim::raise_descriptor_limit();
    let shutdown = on_signals()?;
    let folder = tempfile::tempdir().context("cannot create a temporary directory")?;
    let url = format!(
        "sqlite://{}?mode=rwc",
        folder.path().join("fleet.db").display()
    );
    let store = SqlStore::open(&url, MigrateMode::Migrate).await?;
    let Credentials { password, key } = operator(&store).await?;

    let listener = bind_next(args.listen).await?;
    let address = listener
        .local_addr()
        .context("the listener has no address")?;
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

    let wanted = Site::demo(usize::from(args.devices), SEED).with_logins();
    // The claim keeps other demonstrations away while the site stops and starts again.
    let (site, _claim) = network::start_site(&wanted).await?;
    let devices = site.site().devices.len();
    show.step(&format!(
        "site       {devices} simulated devices on loopback, {} of them identifiable",
        args.devices
    ))?;

    let operator = Operator::new(&base, key.clone())?;
    let network = network::covering(site.site())?;
    let surroundings = Surroundings {
        network,
        http: Port::new(Ports::UNPRIVILEGED.http).into_iter().collect(),
    };
    let start = async |name: &str| {
        let folder = folder.path().join(name);
        DemoNode::start(&base, name, &folder, &operator, surroundings.clone()).await
    };
    let node = start("demo-node").await?;
    show.step(&format!(
        "node       {} enrolled, fingerprint {} compared",
        node.id, node.fingerprint
    ))?;

    let receiver = if args.once {
        None
    } else {
        Some(Receiver::start(&operator, &show).await?)
    };
    let buttons = tokio::spawn(press_buttons(site.site().clone()));
    let first = node.id;
    tokio::select! {
        scanned = scan(&operator, first, network, &mut show) => scanned?,
        () = shutdown.cancelled() => {}
    }
    let mut nodes = vec![node];
    let mut site = Some(site);
    if !args.once && !shutdown.is_cancelled() {
        nodes.push(start("demo-node-2").await?);
        if let (Some(before), [first, second]) = (site.take(), nodes.as_slice()) {
            tokio::select! {
                later = later::run(&operator, (first, second), network, before, receiver.as_ref(), &show) => site = Some(later?),
                () = shutdown.cancelled() => {}
            }
        }
    }
    if !args.once && !shutdown.is_cancelled() {
        show.sign_in(&base, EMAIL, password.expose(), &key, first)?;
        shutdown.cancelled().await;
    }
    buttons.abort();
    // The nodes first, because they report their last results to the server.
    for node in nodes {
        node.stop().await;
    }
    server.drain().await;
    closing.cancel();
    port.await.context("the port's task failed")?;
    if let Some(site) = site {
        site.shutdown().await;
    }
    Ok(())
}

/// Presses the IP report buttons of devices in turn, so a scan that listens for them has devices to show.
async fn press_buttons(site: Site) {
    let ports = [Ports::UNPRIVILEGED.cgminer, Ports::UNPRIVILEGED.http];
    let is_known = |device: &&Device| matches!(device.truth(&ports), Truth::Identified(_));
    let devices = site.devices.iter().filter(is_known);
    let buttons: Vec<Button> = devices
        .filter_map(|one| Button::of(one, LOOPBACK))
        .collect();
    for button in buttons.iter().cycle() {
        tokio::time::sleep(PRESS_EVERY).await;
        let button = *button;
        // A press takes seconds, because the buttons repeat.
        tokio::spawn(async move {
            if let Err(error) = button.press().await {
                tracing::debug!(ip = %button.ip, %error, "cannot press a button");
            }
        });
    }
}

/// The request to scan the site, at the default ports.
fn network_request(network: Ipv4Network) -> DiscoverRequest {
    let target = NmapModeRequest {
        target: network.to_string(),
        ports: Vec::new(),
    };
    DiscoverRequest {
        mode: Some(Mode::Nmap(target)),
        max_rate: 0,
    }
}

/// Credentials of the demonstration's operator.
#[derive(Debug)]
struct Credentials {
    password: Password,
    key: String,
}

/// Creates the operator with a password and a key, as `fleetd admin` does.
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
        .map_err(|error| anyhow::anyhow!("cannot hash the password: {error}"))?;
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

/// Binds the wanted port, or the next free one if it is in use.
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

/// A client of the public API with the operator's key.
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
            .context("the key is not a valid header value")
    }
}

/// Starts a scan of the site's network and prints its events until it ends.
async fn scan(operator: &Operator, node: i64, network: Ipv4Network, show: &mut Show) -> Result<()> {
    wait_for_stream(operator, node).await?;
    let scans = ScanClient::new(operator.channel.clone());
    let requested_at = Instant::now();
    let start = StartScanRequest {
        // The database is new, so a fixed id is unique.
        request_id: "demo".to_owned(),
        fleet_node_id: node,
        name: "first look".to_owned(),
        request: Some(network_request(network)),
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
        show.message(&message, requested_at)?;
    }
    Ok(())
}

/// Waits until the node is connected, because the demonstration should not start with a queued scan.
async fn wait_for_stream(operator: &Operator, node: i64) -> Result<()> {
    let nodes = NodeClient::new(operator.channel.clone());
    for _ in 0..200 {
        let list = nodes
            .list_nodes(&ListNodesRequest::default(), operator.call()?)
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

/// Writes a line to standard output. A closed pipe is not an error, because the demonstration continues.
fn print(line: &str) -> std::io::Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}
