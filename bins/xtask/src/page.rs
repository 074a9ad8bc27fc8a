//! The step that type-checks the scripts of the web page. TypeScript and axe-core are development dependencies: npm
//! installs them below the target directory. The page itself has no build step and no dependencies.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{proc, session::Session, steps::Verdict};

const LIMIT: Duration = Duration::from_secs(2 * 60);

/// The pinned dependencies and the compiler options.
const FOLDER: &str = "tests/page";

/// Checks the scripts with the TypeScript compiler, which reads their JSDoc types.
pub(crate) fn types(session: &mut Session) -> Result<Verdict> {
    let modules = match modules(session) {
        Ok(modules) => modules,
        Err(error) => return Ok(Verdict::Skipped(format!("{error:#}"))),
    };
    let mut tsc = Command::new(modules.join(".bin/tsc"));
    tsc.arg("--project").arg(session.root.join(FOLDER));
    session.check(tsc, LIMIT)
}

/// Returns the path of axe-core, which tests the page for accessibility.
pub(crate) fn axe(session: &Session) -> Result<PathBuf> {
    Ok(modules(session)?.join("axe-core/axe.min.js"))
}

/// Installs the dependencies if they are missing or the lock file has changed. Returns their directory.
fn modules(session: &Session) -> Result<PathBuf> {
    let npm = proc::which("npm").context("npm is not installed")?;
    let target = session
        .bin_dir
        .parent()
        .context("the programs are not in a target directory")?;
    let folder = target.join("page");
    let modules = folder.join("node_modules");
    let lock = "package-lock.json";
    let source = session.root.join(FOLDER);
    if modules.exists() && read(&folder.join(lock))? == read(&source.join(lock))? {
        return Ok(modules);
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    for file in ["package.json", lock] {
        std::fs::copy(source.join(file), folder.join(file))
            .with_context(|| format!("copying {file} to {}", folder.display()))?;
    }
    let mut install = Command::new(npm);
    install
        .current_dir(&folder)
        // Packages must not run code of their own when they are installed.
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
    if let Err(error) = proc::capture(&mut install) {
        // A partial installation must not count as complete.
        let _ = std::fs::remove_dir_all(&modules);
        return Err(error.context("npm cannot install the packages"));
    }
    Ok(modules)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}
