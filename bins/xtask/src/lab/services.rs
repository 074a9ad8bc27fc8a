//! The server and the node of a lab, each in its namespace. The node is enrolled as a person would do it: code,
//! fingerprint, confirmation, key. Read [`Services::up`] first.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{
    SUBNET,
    network::{HUB_ADDRESS, Network, Zone},
    start,
};
use crate::{live, proc};

/// Port of the server at [`HUB_ADDRESS`].
const PORT: u16 = 8420;

/// Name of the node.
const NODE: &str = "lab";

/// Time limit of an enrollment, as an argument of `timeout`.
const ENROLLMENT: &str = "60s";

/// The programs of a lab, except the simulator.
#[derive(Debug)]
pub(super) struct Services<'a> {
    network: &'a Network,
    bin_dir: &'a Path,
    files: &'a Path,
}

impl<'a> Services<'a> {
    /// Describes the programs and starts none.
    pub(super) fn new(network: &'a Network, bin_dir: &'a Path, files: &'a Path) -> Self {
        Self {
            network,
            bin_dir,
            files,
        }
    }

    /// Starts the server, enrolls the node, and starts it with these additional options. Both run until the lab is
    /// removed.
    pub(super) fn up(&self, options: &[&str]) -> Result<()> {
        let database = format!("sqlite://{}?mode=rwc", self.file("fleet.db").display());
        let key = live::create_operator(&self.bin_dir.join("fleetd"), &database)?;
        write_secret(&self.file("operator.key"), &key)?;
        let mut serve = self.program(Zone::Hub, "fleetd");
        serve.args([
            "serve",
            "--allow-insecure-transport",
            "--public-url",
            &url(),
        ]);
        serve.args(["--listen", &format!("{HUB_ADDRESS}:{PORT}")]);
        serve.args(["--database-url", &database]);
        start(serve, &self.file("fleetd.log"), "serving")?;

        let node = self.enroll()?;
        fs::write(self.file("node"), node)?;
        let mut run = self.program(Zone::Node, "fleetnode");
        run.args(["run", "--local-subnet", SUBNET, "--state-dir"])
            .arg(self.file("state"))
            .args(options);
        start(run, &self.file("fleetnode.log"), "connected")
    }

    /// `fleetctl ARGUMENTS...` in the hub, with the operator's key.
    pub(super) fn fleetctl(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(Zone::Hub, "fleetctl");
        command.args(arguments).args([
            "--server",
            &url(),
            "--allow-insecure-transport",
            "--api-key",
        ]);
        command.arg(self.file("operator.key"));
        command
    }

    /// `fleetctl scan start --node NODE`. The caller appends the target.
    pub(super) fn scan(&self) -> Result<Command> {
        Ok(self.fleetctl(&["scan", "start", "--node", &self.node()?]))
    }

    /// The id of the enrolled node.
    fn node(&self) -> Result<String> {
        let file = self.file("node");
        fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))
    }

    /// Performs both sides of an enrollment and returns the node's id.
    fn enroll(&self) -> Result<String> {
        let code = proc::capture(&mut self.fleetctl(&["nodes", "code"]))?;
        let log = self.file("enroll.log");
        let mut enroll = self.network.exec(Zone::Node, "timeout");
        enroll
            .arg(ENROLLMENT)
            .arg(self.bin_dir.join("fleetnode"))
            .args(["enroll", "--allow-insecure-transport", "--name", NODE])
            .args(["--server-url", &url(), "--state-dir"])
            .arg(self.file("state"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log)?);
        let mut enroll = enroll.spawn().context("starting `ip netns exec`")?;
        let mut stdin = enroll.stdin.take().context("standard input is piped")?;
        let stdout = enroll.stdout.take().context("standard output is piped")?;

        // If writing fails, the program's own error at its end explains more.
        let mut write = |line: &str| {
            let _ = writeln!(stdin, "{}", line.trim());
        };
        write(&code);
        let mut output = BufReader::new(stdout).lines().map_while(Result::ok);
        let fingerprint =
            output.find_map(|line| Some(line.strip_prefix("Fingerprint: ")?.to_owned()));
        let mut node = String::new();
        if let Some(fingerprint) = &fingerprint {
            let nodes = proc::capture(&mut self.fleetctl(&["nodes", "list", "-o", "csv"]))?;
            node = only_id(&nodes)?;
            let confirm = ["nodes", "confirm", &node, "--fingerprint", fingerprint];
            write(&proc::capture(&mut self.fleetctl(&confirm))?);
        }
        drop(stdin);
        // The program would fail if its last output were not read.
        output.for_each(drop);
        let status = enroll.wait()?;
        if !status.success() || fingerprint.is_none() {
            let error = proc::last_line(&fs::read(&log)?).unwrap_or_default();
            bail!("`fleetnode enroll` failed ({status}): {error}");
        }
        Ok(node)
    }

    /// A program in its namespace, started in the lab's directory.
    fn program(&self, zone: Zone, name: &str) -> Command {
        let mut command = self.network.exec(zone, self.bin_dir.join(name));
        // `fleetd` reads fleetd.toml in the directory where it is started.
        command.current_dir(self.files);
        command
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.join(name)
    }
}

/// Creates the directory of a lab, closed to other users because it will contain keys.
pub(super) fn make_folder(files: &Path) -> Result<()> {
    if files.exists() {
        fs::remove_dir_all(files).with_context(|| format!("removing {}", files.display()))?;
    }
    let mut folder = fs::DirBuilder::new();
    folder.mode(0o700).recursive(true);
    folder
        .create(files)
        .with_context(|| format!("making {}", files.display()))
}

fn url() -> String {
    format!("http://{HUB_ADDRESS}:{PORT}")
}

fn write_secret(file: &Path, secret: &str) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(file);
    Ok(writeln!(file?, "{secret}")?)
}

/// Parses the id in the first column of a table with one node.
fn only_id(table: &str) -> Result<String> {
    let rows: Vec<&str> = table.lines().skip(1).collect();
    match rows.as_slice() {
        [row] => Ok(row.split(',').next().unwrap_or_default().to_owned()),
        _ => bail!("a new server should list one node, but lists {table}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_node_is_parsed_from_the_first_column() {
        assert_eq!(only_id("Id,Name\n7,lab\n").expect("one row"), "7");
        assert!(only_id("Id,Name\n").is_err());
        assert!(only_id("Id,Name\n7,lab\n8,other\n").is_err());
    }
}
