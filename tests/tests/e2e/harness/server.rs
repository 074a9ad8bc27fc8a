//! `fleetd serve` as a process that can be killed, drained and started again on the same port and database.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::atomic::{AtomicU16, Ordering},
};

use http::StatusCode;

use super::{
    command::{Done, binary, run},
    eventually, http as plain,
    process::Process,
};

/// Ports below those that the kernel gives to outgoing connections, so that none of these takes a server's
/// port while the server is down.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// A server.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    database_url: String,
    folder: PathBuf,
    log_filter: String,
    flags: Vec<String>,
    process: Option<Process>,
}

impl Server {
    /// Prepares the database and starts a server on a free port.
    pub(crate) async fn start(database_url: &str, folder: &Path) -> Self {
        let mut server = Self {
            address: free_port(),
            database_url: database_url.to_owned(),
            folder: folder.to_owned(),
            log_filter: "info,fleet_server=debug,sqlx=warn".to_owned(),
            flags: Vec::new(),
            process: None,
        };
        server.fleetd(&["migrate"]).await.succeeded();
        server.restart().await;
        server
    }

    /// Runs `fleetd` to its end on this server's database.
    pub(crate) async fn fleetd(&self, arguments: &[&str]) -> Done {
        let mut command = binary("fleetd", &self.folder);
        command
            .args(arguments)
            .args(["--database-url", &self.database_url]);
        run(command).await
    }

    /// Starts the process, again if there was one, and waits until it is ready.
    pub(crate) async fn restart(&mut self) {
        let listen = self.address.to_string();
        let mut command = binary("fleetd", &self.folder);
        command.args(["serve", "--listen", &listen, "--demo-allow-loopback"]);
        command.args(["--database-url", &self.database_url]);
        command.args(["--log", &self.log_filter]);
        command.args(&self.flags);
        let log = self.log();
        let process = self.process.insert(Process::spawn("fleetd", command, &log));
        eventually("a ready server", async || {
            if let Some(status) = process.has_ended() {
                panic!("fleetd ended at its start: {status}");
            }
            plain::status(self.address, "/readyz")
                .await
                .filter(|status| *status == StatusCode::OK)
        })
        .await;
    }

    /// What the process logs from its next start on.
    pub(crate) fn set_log(&mut self, filter: &str) {
        filter.clone_into(&mut self.log_filter);
    }

    /// What `fleetd serve` is given besides from the next start on.
    pub(crate) fn set_flags(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    }

    /// Ends the process with SIGKILL.
    pub(crate) async fn kill(&mut self) {
        self.running().kill().await;
    }

    /// Ends the process with SIGTERM and waits for its drain.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        self.running().terminate().await
    }

    /// The id of the process.
    pub(crate) fn id(&self) -> i32 {
        self.process.as_ref().expect("the server runs").id()
    }

    fn running(&mut self) -> Process {
        self.process.take().expect("the server runs")
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it is given as its database.
    pub(crate) fn database_url(&self) -> &str {
        &self.database_url
    }

    /// How many lines of the log say this.
    pub(crate) fn log_count(&self, text: &str) -> usize {
        let log = std::fs::read_to_string(self.log()).expect("the log can be read");
        log.lines().filter(|line| line.contains(text)).count()
    }

    fn log(&self) -> PathBuf {
        self.folder.join("fleetd.log")
    }
}

/// A loopback port that is free now and that no other test of this process gets.
fn free_port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    // Two runs at a time begin at different ports.
    let first = u16::try_from(std::process::id() % u32::from(count)).unwrap_or(0);
    (0..count)
        .map(|_| {
            let offset = (first + NEXT.fetch_add(1, Ordering::Relaxed) % count) % count;
            SocketAddr::from((Ipv4Addr::LOCALHOST, PORTS.start + offset))
        })
        .find(|address| TcpListener::bind(address).is_ok())
        .expect("one of ten thousand ports is free")
}
