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
    let mut prove = session::cargo();
    prove.args([
        "run",
        "--release",
        "--package",
        "fleet-prove",
        "--",
        "boundary",
    ]);
    prove.args(names);
    let mut cluster = None;
    if std::env::var_os(postgres::ENV).is_none() {
        let started = cluster.insert(Cluster::start()?);
        prove.env(postgres::ENV, started.url());
    }
    let ended = proc::run(&mut prove, LIMIT, |_| {})?;
    drop(cluster);
    Ok(ended.is_success())
}
