//! The server and the node of a lab, each in its place, with an operator who has enrolled the node as a
//! person would: code, fingerprint, confirmation, key. Read [`Services::up`] first.

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
    network::{HUB_ADDRESS, Network, Place},
    start,
};
use crate::{live, proc};

/// Where the server listens at [`HUB_ADDRESS`].
const PORT: u16 = 8420;

/// What the node is called.
const NODE: &str = "lab";

/// How long an enrollment may take, in the words of `timeout`.
const ENROLLMENT: &str = "60s";

/// The programs of a lab besides its simulator.
#[derive(Debug)]
pub(super) struct Services<'a> {
    network: &'a Network,
    bin_dir: &'a Path,
    files: &'a Path,
}

impl<'a> Services<'a> {
    /// Names where they run, which binaries they are and where they keep their files; nothing is started yet.
    pub(super) fn new(network: &'a Network, bin_dir: &'a Path, files: &'a Path) -> Self {
        Self {
            network,
            bin_dir,
            files,
        }
    }

    /// Starts the server, enrolls the node and starts it with these options besides; both stay until the lab goes.
    pub(super) fn up(&self, options: &[&str]) -> Result<()> {
        let database = format!("sqlite://{}?mode=rwc", self.file("fleet.db").display());
        let key = live::create_operator(&self.bin_dir.join("fleetd"), &database)?;
        write_secret(&self.file("operator.key"), &key)?;
        let mut serve = self.program(Place::Hub, "fleetd");
        serve.args(["serve", "--allow-insecure-transport"]);
        serve.args(["--listen", &format!("{HUB_ADDRESS}:{PORT}")]);
        serve.args(["--database-url", &database]);
        start(serve, &self.file("fleetd.log"), "serving")?;

        let node = self.enroll()?;
        fs::write(self.file("node"), node)?;
        let mut run = self.program(Place::Node, "fleetnode");
        run.args(["run", "--local-subnet", SUBNET, "--state-dir"])
            .arg(self.file("state"))
            .args(options);
        start(run, &self.file("fleetnode.log"), "connected")
    }

    /// A command of the operator's: `fleetctl WORDS...` in the hub, with the operator's key.
    pub(super) fn fleetctl(&self, words: &[&str]) -> Command {
        let mut command = self.program(Place::Hub, "fleetctl");
        command.args(words).args([
            "--server",
            &url(),
            "--allow-insecure-transport",
            "--api-key",
        ]);
        command.arg(self.file("operator.key"));
        command
    }

    /// A scan on the node that the operator starts and watches: `fleetctl scan start --node NODE`, without a target.
    pub(super) fn scan(&self) -> Result<Command> {
        Ok(self.fleetctl(&["scan", "start", "--node", &self.node()?]))
    }

    /// The id of the enrolled node.
    fn node(&self) -> Result<String> {
        let file = self.file("node");
        fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))
    }

    /// Both sides of an enrollment; answers the node's id.
    fn enroll(&self) -> Result<String> {
        let code = proc::capture(&mut self.fleetctl(&["nodes", "code"]))?;
        let log = self.file("enroll.log");
        let mut enroll = self.network.exec(Place::Node, "timeout");
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

        // Not written is told better by what the program says at its end.
        let mut say = |line: &str| {
            let _ = writeln!(stdin, "{}", line.trim());
        };
        say(&code);
        let mut said = BufReader::new(stdout).lines().map_while(Result::ok);
        let fingerprint =
            said.find_map(|line| Some(line.strip_prefix("Fingerprint: ")?.to_owned()));
        let mut node = String::new();
        if let Some(fingerprint) = &fingerprint {
            let nodes = proc::capture(&mut self.fleetctl(&["nodes", "list", "-o", "csv"]))?;
            node = only_id(&nodes)?;
            let confirm = ["nodes", "confirm", &node, "--fingerprint", fingerprint];
            say(&proc::capture(&mut self.fleetctl(&confirm))?);
        }
        drop(stdin);
        // A program whose output nobody takes would fail at its last sentence.
        said.for_each(drop);
        let status = enroll.wait()?;
        if !status.success() || fingerprint.is_none() {
            let said = proc::last_line(&fs::read(&log)?).unwrap_or_default();
            bail!("`fleetnode enroll` failed ({status}): {said}");
        }
        Ok(node)
    }

    /// A program in its place, with its files beside the others'.
    fn program(&self, place: Place, name: &str) -> Command {
        let mut command = self.network.exec(place, self.bin_dir.join(name));
        // `fleetd` would read a fleetd.toml that lies where it is started.
        command.current_dir(self.files);
        command
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.join(name)
    }
}

/// Makes the folder of a lab anew, closed to others: an operator's and a node's keys will lie there.
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

/// Takes the id out of a table with one node, whose first column it is.
fn only_id(table: &str) -> Result<String> {
    let rows: Vec<&str> = table.lines().skip(1).collect();
    match rows.as_slice() {
        [row] => Ok(row.split(',').next().unwrap_or_default().to_owned()),
        _ => bail!("a new server should have one node, and lists {table}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_node_is_taken_from_the_first_column() {
        assert_eq!(only_id("Id,Name\n7,lab\n").expect("one row"), "7");
        assert!(only_id("Id,Name\n").is_err());
        assert!(only_id("Id,Name\n7,lab\n8,other\n").is_err());
    }
}
