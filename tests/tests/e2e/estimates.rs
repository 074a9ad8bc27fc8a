//! The estimate of a plan against the time of its scan, over simulated sites: before the first scan of a site, and after
//! it at another rate. Every scan is slow enough that its rate decides the time, unless the machine is overloaded
//! ([`late`]).

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
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

/// The share of its time by which a machine is late for a sleeper if it is too busy. It was 0.05 with
/// three tasks per processor, and 0.09 with eight, when scans took up to three times as long.
const BUSY: f64 = 0.07;

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

/// Seconds by which this machine was late for a thread that only sleeps, since the first call. A node that paces its
/// packets is late with it.
fn late() -> f64 {
    const NAP: Duration = Duration::from_millis(10);
    static LATE: AtomicU64 = AtomicU64::new(0);
    static SLEEPER: OnceLock<()> = OnceLock::new();
    SLEEPER.get_or_init(|| {
        thread::spawn(|| {
            loop {
                let begun = Instant::now();
                thread::sleep(NAP);
                let late = begun.elapsed().saturating_sub(NAP).as_micros();
                LATE.fetch_add(u64::try_from(late).unwrap_or(0), Ordering::Relaxed);
            }
        });
    });
    LATE.load(Ordering::Relaxed) as f64 / 1e6
}

/// A planned time, the real one, and how late the machine was meanwhile, in seconds.
#[derive(Clone, Copy, Debug)]
struct Times {
    planned: f64,
    real: f64,
    late: f64,
}

impl Times {
    /// Whether planned and real time agree.
    fn agree(self) -> bool {
        self.real <= FACTOR * self.planned && self.planned <= FACTOR * self.real
    }

    /// Whether the machine was too busy for the rate to decide the time.
    fn is_overloaded(self) -> bool {
        self.late > BUSY * self.real
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
        let before = late();
        let scan = world.operator.start(self.node.id, request).await.scan_id;
        let history = world.operator.history(&scan).await;
        let ledger = history.ended_as(ScanState::Completed);
        adds_up(ledger);
        assert_eq!(ledger.targets, u64::from(TARGETS));
        let real = ledger.elapsed_ms as f64 / 1e3;
        Times {
            planned,
            real,
            late: late() - before,
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
    let mut overloaded = false;
    for (pass, name) in ["first scan", "second scan"].into_iter().enumerate() {
        let times = join_all(sites.iter().map(|site| site.scan(&world, pass))).await;
        for (site, times) in sites.iter().zip(times) {
            let line = format!("{}, {name}: {times:.1?}", site.kind);
            if !times.agree() {
                wrong.push(line.clone());
            }
            overloaded |= times.is_overloaded();
            all.push(line);
        }
    }
    if overloaded && !wrong.is_empty() {
        let why = "this machine is too busy to compare times";
        return skip("a_plan_states_how_long_its_scan_takes", why);
    }
    assert!(wrong.is_empty(), "{wrong:#?} of {all:#?}");
}
