//! The purity check: the pure crates use no runtime, clock, randomness or IO. [`dependencies`] checks the crates that
//! they link, [`source`] checks their code, and [`layers`] checks which libraries use which. This file runs all three.

mod dependencies;
mod layers;
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
const PURE: [&str; 5] = [
    "fleet-core",
    "fleet-discovery",
    "fleet-registry",
    "fleet-pairing",
    "fleet-inventory",
];

/// A target without sockets, files, threads or clock. Code that compiles for it uses none of them.
const WASM: &str = "wasm32-unknown-unknown";

/// The result of the check.
#[derive(Debug)]
pub(crate) struct Findings {
    /// One sentence per violation, with its file and line.
    pub(crate) violations: Vec<String>,
    /// Why the build for a target without an operating system was skipped, if it was.
    pub(crate) without_wasm: Option<String>,
}

/// Checks the layers and every pure crate of the workspace at `root`.
pub(crate) fn check(root: &Path) -> Result<Findings> {
    let mut violations = layers::check(root)?;
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
