//! What the steps of one test run share: where things are, the database, and the counts so far.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    postgres::{self, Cluster},
    proc::{self, Scratch},
    steps::Verdict,
    tally::Tally,
};

/// A file to which a test appends `NAME: REASON` when it cannot do its work here: libtest itself knows
/// no way to say at run time that a test was skipped.
const SKIP_LOG: &str = "FLEET_SKIP_LOG";

/// A Python with the packages of `tests/python`, for tests that host a plugin in it.
const PYTHON: &str = "FLEET_TEST_PYTHON";

/// The folder of the built binaries, for tests that start them.
const BIN_DIR: &str = "FLEET_BIN_DIR";

/// The state of a test run.
#[derive(Debug)]
pub(crate) struct Session {
    /// The top folder of the workspace.
    pub(crate) root: PathBuf,
    /// Where cargo puts the binaries of the development profile.
    pub(crate) bin_dir: PathBuf,
    /// The tests of the step that runs now, if it has any.
    pub(crate) tests: Option<Tally>,
    /// The tests' database, once its step has started it.
    pub(crate) postgres: Option<Cluster>,
    /// The tests' Python, once it is set up.
    pub(crate) python: Option<PathBuf>,
    scratch: Scratch,
}

impl Session {
    pub(crate) fn new() -> Result<Self> {
        let bin_dir = bin_dir()?;
        let scratch = Scratch::new("fleet-xtask")?;
        Ok(Self {
            root: root(),
            bin_dir,
            tests: None,
            postgres: None,
            python: None,
            scratch,
        })
    }

    /// A cargo command at the top of the workspace.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut cargo = cargo();
        cargo.args(arguments);
        // Incremental state costs time and space where nothing is built twice.
        if std::env::var_os("CI").is_some() && std::env::var_os("CARGO_INCREMENTAL").is_none() {
            cargo.env("CARGO_INCREMENTAL", "0");
        }
        cargo
    }

    /// Runs a command whose status alone decides.
    pub(crate) fn check(&self, mut command: Command, limit: Duration) -> Result<Verdict> {
        let ended = proc::run(&mut command, limit, |_| {})?;
        Ok(if ended.is_success() {
            Verdict::Passed
        } else {
            Verdict::Failed(ended.to_string())
        })
    }

    /// Runs a test runner with what tests need, and counts.
    pub(crate) fn suite(&mut self, mut command: Command, limit: Duration) -> Result<Verdict> {
        let log = self.scratch.path().join("skipped");
        std::fs::write(&log, "").with_context(|| format!("writing {}", log.display()))?;
        command.env(SKIP_LOG, &log).env(BIN_DIR, &self.bin_dir);
        if let Some(cluster) = &self.postgres {
            command.env(postgres::ENV, cluster.url());
        }
        if let Some(python) = &self.python {
            command.env(PYTHON, python);
        }
        let tally = self.tests.insert(Tally::default());
        let ended = proc::run(&mut command, limit, |line| tally.read(line))?;
        std::fs::read_to_string(&log)?
            .lines()
            .for_each(|line| tally.confess(line));
        Ok(match (ended.is_success(), tally.failed) {
            (true, 0) => Verdict::Passed,
            (_, 0) => Verdict::Failed(ended.to_string()),
            (_, failed) => Verdict::Failed(format!("{failed} tests failed")),
        })
    }
}

/// A cargo command at the top of the workspace, in the environment that a person's shell would give it: what `cargo run`
/// told this program of itself would make build scripts that look at it run again, and with ring half of the workspace.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(root());
    let own = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in names.filter(|name| own(name)) {
        cargo.env_remove(name);
    }
    cargo
}

/// The top folder of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap_or(Path::new("."))
        .to_owned()
}

/// The folder of the built binaries: xtask's own, wherever the target folder was put.
pub(crate) fn bin_dir() -> Result<PathBuf> {
    let own = std::env::current_exe().context("asking for the path of xtask")?;
    Ok(own.parent().context("xtask lies in a folder")?.to_owned())
}

/// The folder of what was built with the release profile, beside that.
pub(crate) fn release_dir() -> Result<PathBuf> {
    let bin_dir = bin_dir()?;
    let target = bin_dir
        .parent()
        .context("the binaries' folder lies in the target folder")?;
    Ok(target.join("release"))
}
