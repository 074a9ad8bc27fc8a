//! The estimate of a plan against the time of its scan, over simulated sites: before the first scan of a site, and after
//! it at another rate. Every scan is slow enough that its rate decides the time. The time for which tasks waited for this
//! machine ([`stalled`]) counts for neither.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use fleet_sim::{Lab, RunningSite, Site};
use futures::future::join_all;
use tokio::net::{TcpListener, TcpSocket};

use crate::harness::{Node, PORTS, Range, ScanState, World, adds_up, range, skip};

on_both_databases! {
    a_plan_states_how_long_its_scan_takes
}

/// The largest factor between an estimate and the time of the scan.
const FACTOR: f64 = 1.5;

/// Addresses of each site.
const TARGETS: u16 = 300;

/// Endpoints without an answer: the queue of each listener is full, so the kernel drops further SYNs.
#[derive(Debug)]
struct Silence {
    _held: Vec<(TcpListener, TcpStream)>,
}

impl Silence {
    fn at(addresses: impl Iterator<Item = Ipv4Addr>) -> Self {
        let endpoints = addresses.flat_map(|ip| PORTS.map(|port| SocketAddr::from((ip, port))));
        let hold = |at: SocketAddr| {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.bind(at).expect("a free endpoint");
            // Linux keeps one connection more than the queue has room for.
            let listener = socket.listen(0).expect("a listener");
            let filled = TcpStream::connect(at).expect("the first connection");
            (listener, filled)
        };
        Self {
            _held: endpoints.map(hold).collect(),
        }
    }
}

/// Seconds since the start of the machine in which some task waited for a CPU, for memory or for storage; none if the
/// kernel does not count them.
fn stalled() -> Option<f64> {
    let of = |resource: &str| {
        let text = fs::read_to_string(format!("/proc/pressure/{resource}")).ok()?;
        let some = text.lines().find(|line| line.starts_with("some "))?;
        let (_, total) = some.split_once("total=")?;
        Some(total.trim().parse::<u64>().ok()? as f64 / 1e6)
    };
    Some(of("cpu")? + of("io")? + of("memory")?)
}

/// A planned time, the real one, and the part of it in which the machine was short of something, in seconds.
#[derive(Clone, Copy, Debug)]
struct Times {
    planned: f64,
    real: f64,
    stalled: f64,
}

impl Times {
    /// Whether planned and real time agree. `before` is the stalled time of an earlier scan, by which the plan may be too
    /// long.
    fn agree(self, before: f64) -> bool {
        self.real - self.stalled <= FACTOR * self.planned
            && self.planned - before <= FACTOR * self.real
    }
}

/// A site with its node.
#[derive(Debug)]
struct Scanned {
    kind: &'static str,
    node: Node,
    /// The first target.
    first: u16,
    /// The most probes per second of the first and of the second scan; 0 for the rate of the node.
    rates: [u32; 2],
    _lab: RunningSite,
    _silence: Option<Silence>,
}

impl Scanned {
    async fn new(
        world: &World,
        kind: &'static str,
        block: u16,
        site: Site,
        rates: [u32; 2],
    ) -> Self {
        Self {
            kind,
            node: world.node(kind, &["--rate", "150"]).await,
            first: first_of(block),
            rates,
            _lab: Lab::start(site).await.expect("a site"),
            _silence: None,
        }
    }

    /// Plans and scans the site. The real time is from the first command of the scan to the answer to its last one.
    async fn scan(&self, world: &World, pass: usize) -> Times {
        let at = |number| world.range.address(number);
        let mut request = range(at(self.first), at(self.first + TARGETS - 1));
        request.max_rate = self.rates[pass];
        let plan = world.operator.plan(self.node.id, request.clone()).await;
        let planned = plan.estimate.expect("an estimate");
        let planned = planned.seconds as f64 + f64::from(planned.nanos) / 1e9;
        let before = stalled().unwrap_or_default();
        let scan = world.operator.start(self.node.id, request).await.scan_id;
        let history = world.operator.history(&scan).await;
        let ledger = history.ended_as(ScanState::Completed);
        adds_up(ledger);
        assert_eq!(ledger.targets, u64::from(TARGETS));
        let real = ledger.elapsed_ms as f64 / 1e3;
        Times {
            planned,
            real,
            stalled: stalled().unwrap_or_default() - before,
        }
    }
}

/// The first address of a block.
fn first_of(block: u16) -> u16 {
    block * 1_024 + 1
}

/// Moves a site to a block.
fn moved(site: Site, block: u16, here: Range) -> Site {
    site.starting_at(here.address(first_of(block)))
}

async fn a_plan_states_how_long_its_scan_takes(world: World) {
    if stalled().is_none() {
        let why = "this kernel does not count stalls (/proc/pressure)";
        return skip("a_plan_states_how_long_its_scan_takes", why);
    }
    let here = world.range;
    let quick = here.spread(60, 5, Duration::from_millis(2));
    let few = moved(here.crowd(20, Duration::ZERO), 1, here);
    let slow = moved(
        here.crowd(TARGETS.into(), Duration::from_millis(500)),
        2,
        here,
    );
    let many = moved(here.mixed(280), 3, here);
    let mut silent = Scanned::new(&world, "silent-hosts", 1, few, [0, 0]).await;
    // 20 devices, 40 addresses that refuse, and 240 silent ones.
    let numbers = (60..TARGETS).map(|number| here.address(first_of(1) + number));
    silent._silence = Some(Silence::at(numbers));
    let sites = [
        Scanned::new(&world, "refusing-hosts", 0, quick, [100, 0]).await,
        silent,
        Scanned::new(&world, "slow-devices", 2, slow, [0, 100]).await,
        Scanned::new(&world, "many-devices", 3, many, [0, 0]).await,
    ];
    let mut wrong = Vec::new();
    let mut all = Vec::new();
    let mut stalled_before = vec![0.0; sites.len()];
    for (pass, name) in ["first scan", "second scan"].into_iter().enumerate() {
        let times = join_all(sites.iter().map(|site| site.scan(&world, pass))).await;
        for ((site, times), before) in sites.iter().zip(times).zip(&mut stalled_before) {
            let line = format!("{}, {name}: {times:.1?}", site.kind);
            if !times.agree(*before) {
                wrong.push(line.clone());
            }
            *before = times.stalled;
            all.push(line);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?} of {all:#?}");
}
