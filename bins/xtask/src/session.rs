//! State that the steps of one test run share: paths, the database, and counts.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    postgres::{self, Cluster},
    proc::{self, Ended, Scratch},
    steps::Verdict,
    tally::Tally,
};

/// A file to which a test appends `NAME: REASON` if it cannot run here. libtest has no way to skip a test at run time.
const SKIP_LOG: &str = "FLEET_SKIP_LOG";

/// A Python with the packages of `tests/python`, for tests that host a plugin.
const PYTHON: &str = "FLEET_TEST_PYTHON";

/// The directory of the built programs, for tests that start them.
const BIN_DIR: &str = "FLEET_BIN_DIR";

/// If more tests than this fail, something common to them is broken, and none of them is repeated.
const MOST_REPEATED: usize = 3;

/// The state of a test run.
#[derive(Debug)]
pub(crate) struct Session {
    /// The root of the workspace.
    pub(crate) root: PathBuf,
    /// The directory of programs of the development profile.
    pub(crate) bin_dir: PathBuf,
    /// The tests of the current step, if it has any.
    pub(crate) tests: Option<Tally>,
    /// The tests' database, after its step.
    pub(crate) postgres: Option<Cluster>,
    /// The tests' Python, after it was prepared.
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

    /// A cargo command at the root of the workspace.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut cargo = cargo();
        cargo.args(arguments);
        // Incremental state costs time and space if nothing is built twice.
        if std::env::var_os("CI").is_some() && std::env::var_os("CARGO_INCREMENTAL").is_none() {
            cargo.env("CARGO_INCREMENTAL", "0");
        }
        cargo
    }

    /// Runs a command and judges its exit status.
    pub(crate) fn check(&self, mut command: Command, limit: Duration) -> Result<Verdict> {
        let ended = proc::run(&mut command, limit, |_| {})?;
        Ok(if ended.is_success() {
            Verdict::Passed
        } else {
            Verdict::Failed(ended.to_string())
        })
    }

    /// Runs a test runner with the tests' environment, and counts tests. `runner` makes its command, for all tests or for
    /// the named ones.
    ///
    /// Up to [`MOST_REPEATED`] failed tests run once more, without the others. A test that passes then is counted as passed
    /// and listed as flaky. If one test fails only now and then, this tells it from a defect that every run shows.
    pub(crate) fn suite(
        &mut self,
        limit: Duration,
        runner: impl Fn(&Self, &[String]) -> Command,
    ) -> Result<Verdict> {
        let (mut tally, mut ended) = self.count(runner(self, &[]), limit)?;
        if tally.may_repeat(MOST_REPEATED) {
            println!("\nThe failed tests run once more, without the others.");
            let (second, ended_again) = self.count(runner(self, &tally.failures), limit)?;
            if tally.repeated(&second) {
                ended = ended_again;
            }
        }
        let failed = tally.failed;
        self.tests = Some(tally);
        Ok(match (ended.is_success(), failed) {
            (true, 0) => Verdict::Passed,
            (_, 0) => Verdict::Failed(ended.to_string()),
            (_, failed) => Verdict::Failed(format!("{failed} tests failed")),
        })
    }

    /// Runs a test runner once.
    fn count(&self, mut command: Command, limit: Duration) -> Result<(Tally, Ended)> {
        let log = self.scratch.path().join("skipped");
        std::fs::write(&log, "").with_context(|| format!("writing {}", log.display()))?;
        command.env(SKIP_LOG, &log).env(BIN_DIR, &self.bin_dir);
        if let Some(cluster) = &self.postgres {
            command.env(postgres::ENV, cluster.url());
        }
        if let Some(python) = &self.python {
            command.env(PYTHON, python);
        }
        let mut tally = Tally::default();
        let ended = proc::run(&mut command, limit, |line| tally.read(line))?;
        std::fs::read_to_string(&log)?
            .lines()
            .for_each(|line| tally.record_skip(line));
        Ok((tally, ended))
    }
}

/// A cargo command at the root of the workspace, without the variables that `cargo run` sets for this program. Build
/// scripts that read them would run again, and with ring half of the workspace.
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

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap_or(Path::new("."))
        .to_owned()
}

/// The directory of the built programs: the one of xtask itself, because the target directory may be configured.
pub(crate) fn bin_dir() -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding the path of xtask")?;
    Ok(own
        .parent()
        .context("the path of xtask has no parent")?
        .to_owned())
}

/// The directory of programs of the release profile.
pub(crate) fn release_dir() -> Result<PathBuf> {
    let bin_dir = bin_dir()?;
    let target = bin_dir
        .parent()
        .context("the programs are not in a target directory")?;
    Ok(target.join("release"))
}
