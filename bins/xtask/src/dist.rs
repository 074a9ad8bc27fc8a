//! Builds the programs for deployment, with debug information in separate files.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{proc, session};

/// Time limit of the build.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// The programs that are deployed.
const PROGRAMS: [&str; 3] = ["fleetd", "fleetnode", "fleetctl"];

/// Builds the programs into `target/dist`, each beside its debug information.
pub(crate) fn run() -> Result<bool> {
    let mut build = session::cargo();
    build.args(["build", "--release", "--locked"]);
    build.args(PROGRAMS.iter().flat_map(|program| ["--bin", program]));
    if !proc::run(&mut build, LIMIT, |_| {})?.is_success() {
        return Ok(false);
    }
    let built = session::release_dir()?;
    let folder = built.with_file_name("dist");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    for program in PROGRAMS {
        let (program, debug) = separate(&built.join(program), &folder)?;
        println!(
            "{} {} MiB, {} {} MiB",
            program.display(),
            mebibytes(&program)?,
            debug.display(),
            mebibytes(&debug)?
        );
    }
    Ok(true)
}

/// Copies a program without its debug information, which goes to a file that debuggers and backtraces find by its name.
/// rustc cannot do this on Linux: its split debug information leaves the line tables in the program.
fn separate(program: &Path, folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let objcopy = proc::which("objcopy").context("`objcopy` (the binutils package) is missing")?;
    let name = program.file_name().context("a program has a name")?;
    let (stripped, debug) = (folder.join(name), folder.join(name).with_extension("debug"));
    if program == stripped {
        bail!(
            "{} is in the target directory of its copy",
            program.display()
        );
    }
    proc::capture(
        Command::new(&objcopy)
            .arg("--only-keep-debug")
            .args([program, &debug]),
    )?;
    // The link holds the name without a directory.
    let mut strip = Command::new(&objcopy);
    strip
        .current_dir(folder)
        .arg("--strip-debug")
        .arg("--add-gnu-debuglink")
        .arg(&debug)
        .args([program, &stripped]);
    proc::capture(&mut strip)?;
    Ok((stripped, debug))
}

fn mebibytes(file: &Path) -> Result<u64> {
    Ok(file
        .metadata()
        .with_context(|| format!("reading {}", file.display()))?
        .len()
        >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc::Scratch;

    #[test]
    fn a_program_runs_without_its_debug_information() {
        if proc::which("objcopy").is_none() {
            return;
        }
        let folder = Scratch::new("xtask-dist").expect("a directory");
        let own = std::env::current_exe().expect("a test binary");
        let (program, debug) = separate(&own, folder.path()).expect("objcopy");
        let size = |file: &Path| file.metadata().expect("it exists").len();
        assert!(size(&program) < size(&own) && size(&debug) > 0);
        proc::capture(Command::new(&program).arg("--list")).expect("it runs");
    }
}
