//! A process with few descriptors under more connections than it can hold. The server runs in a child, which is this
//! test again with a lower limit.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream as BlockingStream,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use fleet_wire::{
    gateway::FleetNodeGatewayClient,
    listener::{self, ListenerConfig},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::{
    harness::{Scripted, TOKEN, services},
    pipes::{http2, post},
};

const MANNER: &str = "FLEET_TEST_DESCRIPTORS";
const LIMIT: usize = 256;
/// More than the child can hold, and fewer than what the kernel keeps waiting for it (1,024).
const SILENT: usize = 600;

/// The child, when it is one.
#[test]
fn child() {
    let Ok(manner) = std::env::var(MANNER) else {
        return;
    };
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = Some(LIMIT as u64);
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).expect("lower is allowed");
    let mut config = ListenerConfig {
        exempt: Vec::new(),
        ..ListenerConfig::plaintext()
    };
    if manner == "within" {
        config = config.within_descriptors(LIMIT);
    }
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(serve(config));
}

/// Serves until stdin ends; each line of it is a request to open files.
async fn serve(config: ListenerConfig) {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    say(&format!(
        "port {}",
        socket.local_addr().expect("bound").port()
    ));
    let (service, _) = services(&Scripted::default());
    let shutdown = CancellationToken::new();
    let port = tokio::spawn({
        let (config, shutdown) = (config.clone(), shutdown.clone());
        async move { listener::serve(socket, service, &config, shutdown).await }
    });
    let requests = tokio::task::spawn_blocking(|| {
        for request in std::io::stdin().lines().map_while(Result::ok) {
            let files: std::io::Result<Vec<_>> = (0..40).map(|_| File::open("/dev/null")).collect();
            say(&format!("{request} {}", files.is_ok()));
        }
    });
    requests.await.expect("stdin ends");
    shutdown.cancel();
    port.await.expect("drains");
    let counts = &config.counts;
    say(&format!(
        "counts {} {}",
        counts.accept_errors(),
        counts.evicted()
    ));
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n:{line}")
        .and_then(|()| out.flush())
        .expect("the parent reads");
}

/// The parent's half.
struct Limited {
    child: Child,
    requests: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

impl Limited {
    fn start(manner: &str) -> Self {
        let this = std::env::current_exe().expect("this test");
        let mut child = Command::new(this)
            .args(["--exact", "descriptors::child", "--nocapture"])
            .env(MANNER, manner)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts again");
        Self {
            requests: child.stdin.take(),
            replies: BufReader::new(child.stdout.take().expect("piped")),
            child,
        }
    }

    /// What the child says next under a name.
    fn hear(&mut self, name: &str) -> String {
        let mut lines = self
            .replies
            .by_ref()
            .lines()
            .map(|line| line.expect("the child lives"));
        let begin = format!(":{name} ");
        let line = lines.find(|line| line.starts_with(&begin));
        line.expect("it says so")[begin.len()..].to_owned()
    }

    fn can_open_files(&mut self) -> bool {
        let requests = self.requests.as_mut().expect("not ended");
        writeln!(requests, "open").expect("the child lives");
        self.hear("open") == "true"
    }

    /// Ends it: failures to accept, and peers shown out.
    fn end(mut self) -> (u64, u64) {
        self.requests = None;
        let counts = self.hear("counts");
        assert!(self.child.wait().expect("ends").success());
        let (errors, out) = counts.split_once(' ').expect("two");
        (
            errors.parse().expect("a number"),
            out.parse().expect("a number"),
        )
    }
}

/// Connects an honest peer and makes a call. Where no place is free at that moment it comes again, as nodes do.
async fn calls(port: u16) -> u16 {
    let call = async {
        loop {
            let attempt = tokio::spawn(async move {
                let path = FleetNodeGatewayClient::UPLOAD_HEARTBEAT.path();
                let tcp = TcpStream::connect(("127.0.0.1", port))
                    .await
                    .expect("the kernel accepts");
                let (mut client, _open) = http2(tcp).await;
                post(&mut client, path, Some(TOKEN)).await
            });
            match attempt.await {
                Ok(status) => return status,
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), call)
        .await
        .expect("comes in")
}

fn besiege(port: u16) -> Vec<BlockingStream> {
    let connect = |_| BlockingStream::connect(("127.0.0.1", port)).expect("the kernel accepts");
    (0..SILENT).map(connect).collect()
}

#[tokio::test]
async fn a_port_that_knows_its_descriptors_leaves_enough_for_files_and_known_peers() {
    let mut server = Limited::start("within");
    let port = server.hear("port").parse().expect("a port");
    assert_eq!(calls(port).await, 200);
    let _silent = besiege(port);
    assert!(server.can_open_files());
    assert_eq!(calls(port).await, 200);
    assert!(server.can_open_files());
    let (errors, out) = server.end();
    assert_eq!(errors, 0, "it never ran out");
    assert!(out > 100, "{out} were shown out");
}

#[tokio::test]
async fn a_process_without_descriptors_makes_room_and_does_not_spin() {
    let mut server = Limited::start("careless");
    let port = server.hear("port").parse().expect("a port");
    let _silent = besiege(port);
    assert_eq!(calls(port).await, 200);
    let (errors, out) = server.end();
    // Each failure pauses 10 ms at least and makes 16 leave: some 40 failures take all of them in.
    assert!((1..1_000).contains(&errors), "{errors} failures to accept");
    assert!(out >= 16, "{out} were shown out");
}
