//! The steps of a test run, one function each, except Python and the browser ([`crate::python`]).

use std::time::Duration;

use anyhow::Result;

use crate::{
    lab, links, postgres::Cluster, proc, purity, python, session::Session, steps::Verdict, words,
};

/// Time limit of a cargo command that compiles few crates.
const SHORT: Duration = Duration::from_secs(10 * 60);

/// Time limit of a full build, and of all tests.
const LONG: Duration = Duration::from_secs(20 * 60);

/// Tests with this prefix need namespaces. They are marked `#[ignore]`, and [`lab()`] runs them.
const LAB_PREFIX: &str = "lab_";

/// The import options of rustfmt.toml need nightly. Without nightly they are ignored with a warning, and only the rest
/// is checked.
pub(crate) fn fmt(session: &mut Session) -> Result<Verdict> {
    let nightly = ["+nightly", "fmt", "--all", "--check"];
    let has_nightly = proc::capture(&mut session.cargo(&["+nightly", "fmt", "--version"])).is_ok();
    if !has_nightly {
        println!("nightly rustfmt is not installed: the order of imports is not checked");
    }
    session.check(session.cargo(&nightly[usize::from(!has_nightly)..]), SHORT)
}

pub(crate) fn words(session: &mut Session) -> Result<Verdict> {
    Ok(judge(&words::check(&session.root)?))
}

pub(crate) fn links(session: &mut Session) -> Result<Verdict> {
    Ok(judge(&links::check(&session.root)?))
}

pub(crate) fn purity(session: &mut Session) -> Result<Verdict> {
    let findings = purity::check(&session.root)?;
    if let Some(reason) = findings.without_wasm {
        let tests = session.tests.insert(crate::tally::Tally::default());
        tests.passed = u64::from(findings.violations.is_empty());
        tests.skipped.push((
            "purity: build for a target without an operating system".into(),
            reason,
        ));
    }
    Ok(judge(&findings.violations))
}

/// Prints violations, one sentence each; a step passes without any.
fn judge(violations: &[String]) -> Verdict {
    violations
        .iter()
        .for_each(|violation| println!("{violation}"));
    match violations.len() {
        0 => Verdict::Passed,
        count => Verdict::Failed(format!("{count} violations")),
    }
}

pub(crate) fn clippy(session: &mut Session) -> Result<Verdict> {
    session.check(
        session.cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
        LONG,
    )
}

pub(crate) fn docs(session: &mut Session) -> Result<Verdict> {
    let mut doc = session.cargo(&["doc", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-Dwarnings");
    session.check(doc, SHORT)
}

pub(crate) fn postgres(session: &mut Session) -> Result<Verdict> {
    if std::env::var_os(crate::postgres::ENV).is_some() {
        println!("{} is set, and that server is used", crate::postgres::ENV);
        return Ok(Verdict::Passed);
    }
    match Cluster::start() {
        Ok(cluster) => {
            println!("{}={}", crate::postgres::ENV, cluster.url());
            session.postgres = Some(cluster);
            Ok(Verdict::Passed)
        }
        Err(error) => Ok(Verdict::Skipped(format!("{error:#}"))),
    }
}

/// Builds programs and tests in one command. Two commands would resolve features differently and compile twice.
pub(crate) fn build(session: &mut Session) -> Result<Verdict> {
    session.check(
        session.cargo(&["build", "--workspace", "--all-targets"]),
        LONG,
    )
}

pub(crate) fn tests(session: &mut Session) -> Result<Verdict> {
    python::provide(session);
    let verdict = libtest(
        session,
        &["test", "--workspace", "--tests", "--no-fail-fast"],
        &[],
        LONG,
    )?;
    if let Some(tests) = &mut session.tests {
        tests.skipped.retain(|(name, _)| !belongs_to_lab(name));
    }
    Ok(verdict)
}

pub(crate) fn doctests(session: &mut Session) -> Result<Verdict> {
    libtest(
        session,
        &["test", "--workspace", "--doc", "--no-fail-fast"],
        &[],
        SHORT,
    )
}

pub(crate) fn lab(session: &mut Session) -> Result<Verdict> {
    if let Err(error) = lab::permitted() {
        return Ok(Verdict::Skipped(format!("{error:#}")));
    }
    // The glob selects integration tests only. `--package` would resolve features differently and compile again.
    let verdict = libtest(
        session,
        &["test", "--workspace", "--test", "*", "--no-fail-fast"],
        &["--ignored", LAB_PREFIX],
        SHORT,
    )?;
    let ran = session
        .tests
        .as_ref()
        .is_some_and(|tests| tests.passed + tests.failed > 0);
    if verdict == Verdict::Passed && !ran {
        return Ok(Verdict::Skipped(format!(
            "no integration test has a name like {LAB_PREFIX}*"
        )));
    }
    Ok(verdict)
}

/// Runs `cargo test` with the arguments of cargo and those of libtest. Named tests replace a filter.
fn libtest(
    session: &mut Session,
    cargo: &[&str],
    options: &[&str],
    limit: Duration,
) -> Result<Verdict> {
    session.suite(limit, |session, names| {
        let mut command = session.cargo(cargo);
        command.arg("--");
        match names {
            [] => command.args(options),
            names => command
                .args(options.iter().filter(|option| option.starts_with("--")))
                .arg("--exact")
                .args(names),
        };
        command
    })
}

fn belongs_to_lab(test: &str) -> bool {
    test.rsplit("::")
        .next()
        .is_some_and(|name| name.starts_with(LAB_PREFIX))
}

pub(crate) fn advisories(session: &mut Session) -> Result<Verdict> {
    if proc::which("cargo-deny").is_none() {
        return Ok(Verdict::Skipped(
            "cargo-deny is not installed (`cargo install cargo-deny`)".into(),
        ));
    }
    // These checks need no network.
    let offline = session.check(
        session.cargo(&["deny", "check", "bans", "licenses", "sources"]),
        SHORT,
    )?;
    if offline != Verdict::Passed {
        return Ok(offline);
    }
    if let Err(error) = proc::capture(&mut session.cargo(&["deny", "fetch", "db"])) {
        return Ok(Verdict::Skipped(format!(
            "the advisory database cannot be fetched: {error:#}"
        )));
    }
    session.check(
        session.cargo(&["deny", "check", "--disable-fetch", "advisories"]),
        SHORT,
    )
}

/// Checks packaging without the network, and without building each package: the workspace build has compiled the same
/// sources, and a build from the packages takes minutes.
pub(crate) fn package(session: &mut Session) -> Result<Verdict> {
    let arguments = [
        "package",
        "--workspace",
        "--no-verify",
        "--offline",
        "--allow-dirty",
        "--quiet",
    ];
    session.check(session.cargo(&arguments), SHORT)
}

/// Compiles on stable. Only running the targets needs cargo-fuzz and a nightly compiler.
pub(crate) fn fuzz_build(session: &mut Session) -> Result<Verdict> {
    if proc::which("c++").is_none() {
        let reason = "libFuzzer needs a C++ compiler; the tests replay the corpora";
        return Ok(Verdict::Skipped(reason.into()));
    }
    let target = session.bin_dir.parent().unwrap_or(&session.bin_dir);
    let mut check = session.cargo(&["check", "--manifest-path", "fuzz/Cargo.toml"]);
    check.arg("--target-dir").arg(target);
    session.check(check, LONG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tests_with_the_prefix_in_their_own_name_belong_to_the_lab() {
        assert!(belongs_to_lab("boundary::lab_scan_crosses_it"));
        assert!(belongs_to_lab("lab_scan_crosses_it"));
        assert!(!belongs_to_lab("slab_grows"));
        assert!(!belongs_to_lab("lab_support::helper_works"));
    }
}
