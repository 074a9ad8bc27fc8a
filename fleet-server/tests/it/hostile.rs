//! Floods over real sockets: each is cut off, and callers that keep to the rules are not affected.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use fleet_core::Role;
use fleet_sim::attack::{ATTACKS, Attack};
use fleet_wire::{fleet::watch_scan_response::Event, gateway::AckCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::harness::{
    Enrolled, Node, Operator, PATIENCE, Profile, World, device, heartbeat, list, request, soon,
    start,
};

/// Attackers at a time.
const ATTACKERS: usize = 4;
/// A flood that is not cut would write this much for ever; gigabytes.
const NEVER: u64 = 100_000_000;
/// What a process may hold more after all floods.
const MEMORY: u64 = 128 << 20;
/// Set in the process that the floods have for themselves.
const ALONE: &str = "FLEET_TEST_FLOODS_ALONE";
/// What an honest call may take at most while two cores are under attack and other tests run.
const PATIENT: Duration = PATIENCE;

/// A node at work and who watches it.
struct Honest<'a> {
    world: &'a World,
    operator: &'a Operator,
    enrolled: &'a Enrolled,
    node: Node,
}

impl Honest<'_> {
    /// A scan from its start to its end: command, report, the watcher's device, ack; and a heartbeat. The longest step.
    async fn work(&mut self) -> Duration {
        let mut longest = Duration::ZERO;
        let mut since = Instant::now();
        let mut step = || {
            longest = longest.max(since.elapsed());
            since = Instant::now();
            longest
        };
        let scan = start(self.operator, self.enrolled, list(&["10.0.0.1"], &["4028"])).await;
        step();
        let mut watch = scan.watch(0).await;
        let (command, _) = self.node.command().await;
        step();
        let reported = self.node.report(&command, vec![device("10.0.0.1")]).await;
        assert_eq!(reported.expect("is taken").accepted_count, 1);
        step();
        let seen = async {
            loop {
                let message = watch
                    .message()
                    .await
                    .expect("continues")
                    .expect("no end yet");
                if let Some(Event::Device(_)) = message.event {
                    return;
                }
            }
        };
        soon(seen).await;
        step();
        self.node.ack(&command, AckCode::Ok).await;
        scan.is("SCAN_STATE_COMPLETED").await;
        step();
        heartbeat(&self.world.gateway(), &self.node.token)
            .await
            .expect("a new connection");
        assert_eq!(
            request(self.world.address(), "GET", "/healthz", &[], "")
                .await
                .status,
            200
        );
        step()
    }
}

/// Attacks again and again until the returned set is dropped; each attack must end by itself.
fn besiege(world: &World, attack: Attack) -> JoinSet<()> {
    let address = world.address();
    let mut attackers = JoinSet::new();
    for _ in 0..ATTACKERS {
        attackers.spawn(async move {
            loop {
                let socket = TcpStream::connect(address)
                    .await
                    .expect("the kernel accepts");
                let outcome = attack.run(socket, NEVER).await;
                assert!(outcome.cut, "{}: {outcome:?}", attack.name);
            }
        });
    }
    attackers
}

/// In a process of its own, because it measures the memory of its process, and other tests run in this one.
#[test]
fn a_node_and_its_watcher_keep_working_through_every_flood() {
    if std::env::var_os(ALONE).is_some() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        return runtime.block_on(floods());
    }
    let own = std::env::current_exe().expect("this program");
    let name = "hostile::a_node_and_its_watcher_keep_working_through_every_flood";
    let ended = Command::new(own)
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .expect("it starts");
    let (printed, errors) = (
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr),
    );
    // Not one test that was left out because its name is another one.
    let ran = printed.contains("1 passed");
    assert!(ended.status.success() && ran, "{printed}{errors}");
}

async fn floods() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let node = enrolled.connect(&world, Profile::ours()).await;
    let mut honest = Honest {
        world: &world,
        operator: &operator,
        enrolled: &enrolled,
        node,
    };
    let before = resident();
    for attack in ATTACKS {
        let mut attackers = besiege(&world, attack);
        let longest = honest.work().await;
        assert!(longest < PATIENT, "{}: {longest:?}", attack.name);
        if let Some(ended) = attackers.try_join_next() {
            ended.expect("an attack is cut");
        }
        attackers.shutdown().await;
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < MEMORY, "{grown} bytes more than before");
}

/// The memory that this process has, attackers and all.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux says so");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    4_096_u64 * pages.unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_slow_and_silent_peers_do_not_disturb_a_node() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let enrolled = Enrolled::new(&world, &operator).await;
    let node = enrolled.connect(&world, Profile::ours()).await;
    let mut honest = Honest {
        world: &world,
        operator: &operator,
        enrolled: &enrolled,
        node,
    };
    let openings: [&[u8]; 5] = [
        b"",
        b"PRI * HTTP/2.0\r\n\r\nSM",
        b"\x16\x03\x01\x02\x00\x01",
        b"GET /healthz HTTP/1.1\r\nx-slow: ",
        b"POST /api/session HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
    ];
    let mut slow = Vec::new();
    for n in 0..1_000 {
        let mut socket = TcpStream::connect(world.address())
            .await
            .expect("the kernel accepts");
        socket
            .write_all(openings[n % openings.len()])
            .await
            .expect("sent");
        slow.push(socket);
    }
    let longest = honest.work().await;
    assert!(longest < PATIENT, "{longest:?}");
    // Each of them ends within the bounds of the port: 5 s for a preface, 10 s and 5 s for a request, 10 s for a body.
    let mut received = Vec::new();
    for socket in &mut slow {
        let end = tokio::time::timeout(Duration::from_secs(60), socket.read_to_end(&mut received));
        // A reset is an end as good as any.
        let _ = end.await.expect("ends");
    }
    assert!(honest.work().await < PATIENT);
}
