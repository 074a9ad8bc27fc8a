//! A separate `fleetd` for tests in other languages: temporary database, one administrator, one key.

use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::proc::{self, Background, Scratch};

/// Time limit for a server to become ready.
const START: Duration = Duration::from_secs(30);

/// Time limit for a demo to print its address, including its first scan.
const DEMO: Duration = Duration::from_secs(90);

const EMAIL: &str = "lab@example.org";

/// A running server. Dropping it stops the process and removes its files.
#[derive(Debug)]
pub(crate) struct Server {
    _process: Background,
    _files: Scratch,
    /// `http://127.0.0.1:PORT`.
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

/// Devices of the demo: enough for a scan that lasts a few seconds.
const DEMO_DEVICES: &str = "250";

/// A running demo: a server with a simulated site and a node. Dropping it stops all of them.
#[derive(Debug)]
pub(crate) struct Demo {
    _process: Background,
    _files: Scratch,
    /// URL of the server.
    pub(crate) url: String,
    /// The administrator's API key.
    pub(crate) key: String,
    /// The administrator's e-mail.
    pub(crate) email: String,
    /// The administrator's password.
    pub(crate) password: String,
}

impl Demo {
    /// Starts `fleetd demo` on a free loopback port and waits until it prints its address.
    pub(crate) fn start(bin_dir: &Path) -> Result<Self> {
        let files = Scratch::new("fleet-demo")?;
        let log = files.path().join("demo.log");
        let mut demo = Command::new(bin_dir.join("fleetd"));
        demo.args([
            "demo",
            "--json",
            "--listen",
            "127.0.0.1:0",
            "--devices",
            DEMO_DEVICES,
        ])
        .stdout(Stdio::null())
        .stderr(File::create(&log)?);
        let mut process = Background::start(&mut demo)?;
        let deadline = Instant::now() + DEMO;
        loop {
            let output = std::fs::read_to_string(&log).unwrap_or_default();
            let word = |label| word_after(&output, label);
            if let (Some(url), Some(email), Some(password), Some(key)) = (
                word("web page"),
                word("e-mail "),
                word("password "),
                word("key "),
            ) {
                return Ok(Self {
                    _process: process,
                    _files: files,
                    url,
                    key,
                    email,
                    password,
                });
            }
            if let Some(status) = process.ended()? {
                bail!("fleetd demo ended at once ({status}): {output}");
            }
            if Instant::now() >= deadline {
                bail!(
                    "fleetd demo is not ready after {} s: {output}",
                    DEMO.as_secs()
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The first word after a label that begins a line.
fn word_after(text: &str, label: &str) -> Option<String> {
    let line = text
        .lines()
        .map(str::trim)
        .find_map(|line| line.strip_prefix(label))?;
    line.split_whitespace()
        .next()
        .map(|word| word.trim_end_matches('/').to_owned())
}

/// Creates a database with its first operator, and returns the operator's key.
pub(crate) fn create_operator(fleetd: &Path, database: &str) -> Result<String> {
    let mut migrate = Command::new(fleetd);
    proc::capture(migrate.args(["migrate", "--database-url", database]))?;
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
        let last_line = || {
            std::fs::read(log)
                .ok()
                .and_then(|text| proc::last_line(&text))
                .unwrap_or_default()
        };
        if let Some(status) = process.ended()? {
            bail!("fleetd ended at once ({status}): {}", last_line());
        }
        if Instant::now() >= deadline {
            bail!(
                "fleetd is not ready after {} s: {}",
                START.as_secs(),
                last_line()
            );
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn is_ready(address: SocketAddr) -> bool {
    let request = || -> Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        write!(
            stream,
            "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )?;
        let mut status = [0; 12];
        stream
            .read_exact(&mut status)
            .context("the answer is shorter than a status line")?;
        Ok(&status == b"HTTP/1.1 200")
    };
    request().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::word_after;

    #[test]
    fn address_and_key_are_parsed_from_the_output() {
        let output = "\nThe demonstration stays up.\n  web page   http://127.0.0.1:8420/\n  key        fok_x\n";
        assert_eq!(
            word_after(output, "web page").as_deref(),
            Some("http://127.0.0.1:8420")
        );
        assert_eq!(word_after(output, "key ").as_deref(), Some("fok_x"));
        assert_eq!(word_after("starting", "key "), None);
    }
}
