//! What the steps around cargo do, one function each. Python's and the browser's are in [`crate::python`].

use std::time::Duration;

use anyhow::Result;

use crate::{lab, postgres::Cluster, proc, purity, python, session::Session, steps::Verdict};

/// Longest time for a cargo command that compiles at most some crates.
const SHORT: Duration = Duration::from_secs(10 * 60);

/// Longest time for a build from nothing, and for all tests.
const LONG: Duration = Duration::from_secs(20 * 60);

/// Tests of this name need namespaces: they are marked `#[ignore]`, and [`lab()`] runs them.
const LAB_PREFIX: &str = "lab_";

pub(crate) fn fmt(session: &mut Session) -> Result<Verdict> {
    session.check(session.cargo(&["fmt", "--all", "--check"]), SHORT)
}

pub(crate) fn purity(session: &mut Session) -> Result<Verdict> {
    let findings = purity::check(&session.root)?;
    findings
        .violations
        .iter()
        .for_each(|violation| println!("{violation}"));
    if let Some(reason) = findings.without_wasm {
        let tests = session.tests.insert(crate::tally::Tally::default());
        tests.passed = u64::from(findings.violations.is_empty());
        tests.skipped.push((
            "purity: compilation without an operating system".into(),
            reason,
        ));
    }
    Ok(match findings.violations.len() {
        0 => Verdict::Passed,
        count => Verdict::Failed(format!("{count} violations")),
    })
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
        println!("{} is set: that server is used", crate::postgres::ENV);
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

/// Builds binaries and tests in one go: asked for apart, cargo would settle features twice and compile twice.
pub(crate) fn build(session: &mut Session) -> Result<Verdict> {
    session.check(
        session.cargo(&["build", "--workspace", "--all-targets"]),
        LONG,
    )
}

pub(crate) fn tests(session: &mut Session) -> Result<Verdict> {
    python::provide(session);
    let verdict = session.suite(
        session.cargo(&["test", "--workspace", "--tests", "--no-fail-fast"]),
        LONG,
    )?;
    if let Some(tests) = &mut session.tests {
        tests.skipped.retain(|(name, _)| !belongs_to_lab(name));
    }
    Ok(verdict)
}

pub(crate) fn doctests(session: &mut Session) -> Result<Verdict> {
    session.suite(
        session.cargo(&["test", "--workspace", "--doc", "--no-fail-fast"]),
        SHORT,
    )
}

pub(crate) fn lab(session: &mut Session) -> Result<Verdict> {
    if let Err(error) = lab::permitted() {
        return Ok(Verdict::Skipped(format!("{error:#}")));
    }
    // The glob takes the integration tests only; `--package` would settle features anew and compile again.
    let filter = [
        "test",
        "--workspace",
        "--test",
        "*",
        "--no-fail-fast",
        "--",
        "--ignored",
        LAB_PREFIX,
    ];
    let verdict = session.suite(session.cargo(&filter), SHORT)?;
    let ran = session
        .tests
        .as_ref()
        .is_some_and(|tests| tests.passed + tests.failed > 0);
    if verdict == Verdict::Passed && !ran {
        return Ok(Verdict::Skipped(format!(
            "no integration test is named {LAB_PREFIX}*"
        )));
    }
    Ok(verdict)
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
    // What needs no network is checked in any case.
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

/// On stable: only running the targets takes cargo-fuzz and a nightly compiler. Dependencies were checked before.
pub(crate) fn fuzz_build(session: &mut Session) -> Result<Verdict> {
    if proc::which("c++").is_none() {
        let reason = "libFuzzer takes a C++ compiler; the corpora are replayed by the tests";
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
    fn only_tests_whose_own_name_starts_so_belong_to_the_lab() {
        assert!(belongs_to_lab("boundary::lab_scan_crosses_it"));
        assert!(belongs_to_lab("lab_scan_crosses_it"));
        assert!(!belongs_to_lab("slab_grows"));
        assert!(!belongs_to_lab("lab_support::helper_works"));
    }
}
