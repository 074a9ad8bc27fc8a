//! Runs the proofs that are too long for a test run (`tests/prove`): a release build with a database.

use std::time::Duration;

use anyhow::Result;

use crate::{
    postgres::{self, Cluster},
    proc, session,
};

/// Time limit of the build and all proofs.
const LIMIT: Duration = Duration::from_secs(2 * 60 * 60);

/// Runs all proofs of the trust boundary, or the named ones. Returns whether all hold.
pub(crate) fn boundary(names: &[&str]) -> Result<bool> {
    suite("boundary", &["--release"], names)
}

/// Runs all proofs of faults, or the named ones. Returns whether all hold. They wait for disks, servers and networks more
/// than they compute, so they use the development build that the tests have made.
pub(crate) fn faults(names: &[&str]) -> Result<bool> {
    let mut programs = session::cargo();
    programs.args(["build", "--bin", "fleetnode"]);
    if !proc::run(&mut programs, LIMIT, |_| {})?.is_success() {
        return Ok(false);
    }
    suite("faults", &[], names)
}

fn suite(name: &str, profile: &[&str], names: &[&str]) -> Result<bool> {
    let mut prove = session::cargo();
    prove.arg("run").args(profile);
    prove.args(["--package", "fleet-prove", "--", name]);
    prove.args(names).env("FLEET_BIN_DIR", session::bin_dir()?);
    let mut cluster = None;
    if std::env::var_os(postgres::ENV).is_none() {
        let started = cluster.insert(Cluster::start()?);
        prove.env(postgres::ENV, started.url());
    }
    let ended = proc::run(&mut prove, LIMIT, |_| {})?;
    drop(cluster);
    Ok(ended.is_success())
}
