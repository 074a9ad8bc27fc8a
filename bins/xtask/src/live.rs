//! A `fleetd` of its own for tests of other languages: temporary database, one administrator, one key.

use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::proc::{self, Background, Scratch};

/// How long a server may take to answer its readiness check.
const START: Duration = Duration::from_secs(30);

const EMAIL: &str = "lab@example.org";

/// A running server; dropping it stops the process, then removes its files.
#[derive(Debug)]
pub(crate) struct Server {
    _process: Background,
    _files: Scratch,
    /// Where it listens, as `http://127.0.0.1:PORT`.
    pub(crate) url: String,
    /// The administrator's API key.
    pub(crate) key: String,
}

impl Server {
    /// Starts the built `fleetd` on a free loopback port and waits until it is ready.
    pub(crate) fn start(bin_dir: &Path) -> Result<Self> {
        let files = Scratch::new("fleet-live")?;
        let fleetd = bin_dir.join("fleetd");
        let database = format!(
            "sqlite://{}?mode=rwc",
            files.path().join("fleet.db").display()
        );
        let key = create_operator(&fleetd, &database)?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let log = files.path().join("fleetd.log");
        let output = File::create(&log)?;
        let mut serve = Command::new(&fleetd);
        serve
            .args([
                "serve",
                "--listen",
                &address.to_string(),
                "--database-url",
                &database,
            ])
            .stdout(output.try_clone()?)
            .stderr(output);
        let mut process = Background::start(&mut serve)?;
        wait_until_ready(&mut process, address, &log)?;
        Ok(Self {
            _process: process,
            _files: files,
            url: format!("http://{address}"),
            key,
        })
    }
}

/// Makes the first operator of a database and returns the key.
pub(crate) fn create_operator(fleetd: &Path, database: &str) -> Result<String> {
    let admin = |arguments: &[&str]| {
        let mut command = Command::new(fleetd);
        proc::capture(
            command
                .arg("admin")
                .args(arguments)
                .args(["--database-url", database]),
        )
    };
    admin(&[
        "create-operator",
        "--org",
        "lab",
        "--email",
        EMAIL,
        "--role",
        "admin",
    ])?;
    Ok(admin(&["create-key", "--email", EMAIL])?.trim().to_owned())
}

fn wait_until_ready(process: &mut Background, address: SocketAddr, log: &Path) -> Result<()> {
    let deadline = Instant::now() + START;
    loop {
        if is_ready(address) {
            return Ok(());
        }
        let said = || {
            std::fs::read(log)
                .ok()
                .and_then(|text| proc::last_line(&text))
                .unwrap_or_default()
        };
        if let Some(status) = process.ended()? {
            bail!("fleetd ended at once ({status}): {}", said());
        }
        if Instant::now() >= deadline {
            bail!(
                "fleetd is not ready after {} s: {}",
                START.as_secs(),
                said()
            );
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn is_ready(address: SocketAddr) -> bool {
    let ask = || -> Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        write!(
            stream,
            "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )?;
        let mut status = [0; 12];
        stream
            .read_exact(&mut status)
            .context("an answer shorter than a status line")?;
        Ok(&status == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}
