//! The purity check: the crates that decide know no runtime, clock, randomness or IO.
//! [`dependencies`] judges what they link, [`source`] what they write; this file lists the crates and runs both.

mod dependencies;
mod lexer;
mod source;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{proc, session};

/// The crates that must stay pure.
const PURE: [&str; 4] = [
    "fleet-core",
    "fleet-discovery",
    "fleet-registry",
    "fleet-pairing",
];

/// The target that has no sockets, files, threads or clock: what compiles for it reaches none.
const WASM: &str = "wasm32-unknown-unknown";

/// What the check found, and what of it could not be done here.
#[derive(Debug)]
pub(crate) struct Findings {
    /// One sentence for each violation, with its place.
    pub(crate) violations: Vec<String>,
    /// Why the compilation for a target without an operating system was left out, if it was.
    pub(crate) without_wasm: Option<String>,
}

/// Checks every pure crate of the workspace at `root`.
pub(crate) fn check(root: &Path) -> Result<Findings> {
    let mut violations = Vec::new();
    for package in PURE {
        violations.extend(dependencies::check(root, package)?);
        violations.extend(source::check(&root.join(package).join("src"))?);
    }
    let without_wasm = compile_for_wasm(root)?;
    Ok(Findings {
        violations,
        without_wasm,
    })
}

fn compile_for_wasm(root: &Path) -> Result<Option<String>> {
    let libraries = proc::capture(Command::new("rustc").current_dir(root).args([
        "--print",
        "target-libdir",
        "--target",
        WASM,
    ]))?;
    if !PathBuf::from(libraries.trim()).exists() {
        return Ok(Some(format!("the target {WASM} is not installed")));
    }
    let mut command = session::cargo();
    command
        .args(["check", "--target", WASM])
        .args(PURE.iter().flat_map(|package| ["-p", package]));
    let ended = proc::run(&mut command, Duration::from_secs(300), |_| {})?;
    if !ended.is_success() {
        bail!("the pure crates do not compile for {WASM}: {ended}");
    }
    Ok(None)
}
