//! The steps of a test run, their order, and the summary at the end. The list is [`STEPS`]; [`run`] executes it.
//! [`checks`] and [`python`] implement the steps.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{checks, page, python, session::Session, tally::Tally};

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    /// The reason in short; the details were printed before.
    Failed(String),
    /// The missing prerequisite.
    Skipped(String),
}

/// One part of a test run.
#[derive(Debug)]
struct Step {
    name: &'static str,
    about: &'static str,
    /// Steps that run too when this one is selected by name.
    needs: &'static [&'static str],
    run: fn(&mut Session) -> Result<Verdict>,
}

/// If this step fails, the steps that need it are skipped.
const BUILD: &str = "build";

/// All steps. The quick ones come first, because an early failure saves time.
const STEPS: [Step; 17] = [
    Step::new("fmt", "formatting", checks::fmt),
    Step::new(
        "words",
        "standard terms in documents, help and web page",
        checks::words,
    ),
    Step::new("links", "links and sizes of documents", checks::links),
    Step::new("types", "types of the web page's scripts", page::types),
    Step::new(
        "purity",
        "pure crates use no clock, randomness or IO",
        checks::purity,
    ),
    Step::new(
        "clippy",
        "lints of all targets; warnings are errors",
        checks::clippy,
    ),
    Step::new(
        "docs",
        "API documentation builds without warnings",
        checks::docs,
    ),
    Step::new(
        "postgres",
        "a temporary PostgreSQL for the tests",
        checks::postgres,
    ),
    Step::new(BUILD, "programs and tests", checks::build),
    Step::new("tests", "all tests, on both databases", checks::tests).needs(&[BUILD, "postgres"]),
    Step::new(
        "doctests",
        "examples in the documentation",
        checks::doctests,
    ),
    Step::new(
        "python",
        "a client in another language, written from the wire contract",
        python::client,
    )
    .needs(&[BUILD, "postgres"]),
    Step::new(
        "browser",
        "the web page in Chromium, Firefox and WebKit",
        python::browser,
    )
    .needs(&[BUILD]),
    Step::new(
        "lab",
        "a scan across a real network boundary, in network namespaces",
        checks::lab,
    )
    .needs(&[BUILD]),
    Step::new(
        "package",
        "crates can be packaged (without network)",
        checks::package,
    ),
    Step::new(
        "advisories",
        "advisories, licenses and sources of dependencies",
        checks::advisories,
    ),
    Step::new("fuzz-build", "fuzz targets compile", checks::fuzz_build),
];

impl Step {
    const fn new(
        name: &'static str,
        about: &'static str,
        run: fn(&mut Session) -> Result<Verdict>,
    ) -> Self {
        Self {
            name,
            about,
            needs: &[],
            run,
        }
    }

    const fn needs(self, needs: &'static [&'static str]) -> Self {
        Self { needs, ..self }
    }
}

/// The selected steps.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// List the steps.
    List,
    /// Run these, in the order of [`STEPS`].
    Run(Vec<&'static str>),
}

impl Plan {
    /// Parses `--only STEP`, `--skip STEP` and `--list`.
    pub(crate) fn parse(options: &[&str]) -> Result<Self> {
        let (mut only, mut skip) = (Vec::new(), Vec::new());
        let mut options = options.iter();
        while let Some(option) = options.next() {
            let list = match *option {
                "--list" => return Ok(Self::List),
                "--only" => &mut only,
                "--skip" => &mut skip,
                other => {
                    bail!(
                        "unknown option `{other}`; the options are --only STEP, --skip STEP and --list"
                    )
                }
            };
            let name = options.next().copied().unwrap_or_default();
            let Some(step) = STEPS.iter().find(|step| step.name == name) else {
                let known: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
                bail!(
                    "{option} `{name}` is not a step; the steps are {}",
                    known.join(", ")
                );
            };
            list.push(step);
        }
        let selected = |step: &Step| {
            only.is_empty()
                || only
                    .iter()
                    .any(|only| only.name == step.name || only.needs.contains(&step.name))
        };
        let skipped = |step: &Step| skip.iter().any(|skip| skip.name == step.name);
        Ok(Self::Run(
            STEPS
                .iter()
                .filter(|step| selected(step) && !skipped(step))
                .map(|step| step.name)
                .collect(),
        ))
    }
}

/// Runs the selected steps, prints the result of each, and returns whether all passed or were skipped.
pub(crate) fn run(plan: &Plan) -> Result<bool> {
    let names = match plan {
        Plan::List => {
            STEPS
                .iter()
                .for_each(|step| println!("{:<11} {}", step.name, step.about));
            return Ok(true);
        }
        Plan::Run(names) => names,
    };
    let mut session = Session::new()?;
    let mut report = Report::default();
    for step in STEPS.iter().filter(|step| names.contains(&step.name)) {
        println!("\n=== {}: {}", step.name, step.about);
        let started = Instant::now();
        let verdict = match report.blocker(step) {
            Some(why) => Verdict::Skipped(why),
            None => (step.run)(&mut session)
                .unwrap_or_else(|error| Verdict::Failed(format!("{error:#}"))),
        };
        let line = Line {
            name: step.name,
            verdict,
            took: started.elapsed(),
            tests: session.tests.take(),
        };
        println!("--- {line}");
        report.lines.push(line);
    }
    drop(session);
    print!("{report}");
    Ok(report.is_good())
}

/// The result of one step.
#[derive(Debug)]
struct Line {
    name: &'static str,
    verdict: Verdict,
    took: Duration,
    /// The step's tests. A step without tests counts as one test.
    tests: Option<Tally>,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (result, why) = match &self.verdict {
            Verdict::Passed => ("passed", ""),
            Verdict::Failed(why) => ("FAILED", why.as_str()),
            Verdict::Skipped(why) => ("skipped", why.as_str()),
        };
        let line = format!(
            "{result:<8}{:<11}{:>7.1} s  {why}",
            self.name,
            self.took.as_secs_f64()
        );
        f.write_str(line.trim_end())
    }
}

/// The result of a run.
#[derive(Debug, Default)]
struct Report {
    lines: Vec<Line>,
}

impl Report {
    fn is_good(&self) -> bool {
        !self
            .lines
            .iter()
            .any(|line| matches!(line.verdict, Verdict::Failed(_)))
    }

    /// Returns why a step cannot run, if a step that it needs has failed.
    fn blocker(&self, step: &Step) -> Option<String> {
        let failed =
            |line: &&Line| line.name == BUILD && matches!(line.verdict, Verdict::Failed(_));
        let build = self.lines.iter().find(failed)?;
        step.needs
            .contains(&build.name)
            .then(|| "the build failed".into())
    }

    /// Counts passed, failed and skipped tests, and steps without tests.
    fn totals(&self) -> (u64, u64, u64) {
        let (mut passed, mut failed, mut skipped) = (0, 0, 0);
        for line in &self.lines {
            let tests = line.tests.as_ref();
            match &line.verdict {
                Verdict::Passed => passed += u64::from(tests.is_none()),
                // A suite that does not compile or exceeds its time limit fails without a failed test.
                Verdict::Failed(_) => {
                    failed += u64::from(tests.is_none_or(|tests| tests.failed == 0))
                }
                Verdict::Skipped(_) => skipped += 1,
            }
            if let Some(tests) = tests {
                passed += tests.passed;
                failed += tests.failed;
                skipped += tests.skipped.len() as u64;
            }
        }
        (passed, failed, skipped)
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "\n=== summary")?;
        self.lines
            .iter()
            .try_for_each(|line| writeln!(f, "{line}"))?;
        let tests = || self.lines.iter().filter_map(|line| line.tests.as_ref());
        tests()
            .flat_map(|tests| &tests.failures)
            .try_for_each(|name| writeln!(f, "FAILED  {name}"))?;
        tests()
            .flat_map(|tests| &tests.flaky)
            .try_for_each(|name| {
                writeln!(
                    f,
                    "flaky   {name} (failed beside the others, passed without them)"
                )
            })?;
        let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, reason) in tests().flat_map(|tests| &tests.skipped) {
            by_reason.entry(reason).or_default().push(name);
        }
        for (reason, names) in by_reason {
            let reason = if reason.is_empty() {
                "no reason was given"
            } else {
                reason
            };
            writeln!(f, "skipped {} ({reason})", names.join(", "))?;
        }
        let (passed, failed, skipped) = self.totals();
        writeln!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &'static str, verdict: Verdict, tests: Option<Tally>) -> Line {
        Line {
            name,
            verdict,
            took: Duration::ZERO,
            tests,
        }
    }

    fn planned(options: &[&str]) -> Vec<&'static str> {
        match Plan::parse(options).expect("a known step") {
            Plan::Run(names) => names,
            Plan::List => Vec::new(),
        }
    }

    #[test]
    fn a_selected_step_brings_the_steps_that_it_needs_in_order() {
        assert_eq!(
            planned(&["--only", "tests"]),
            ["postgres", "build", "tests"]
        );
        assert_eq!(
            planned(&["--only", "tests", "--skip", "postgres"]),
            ["build", "tests"]
        );
        assert_eq!(
            planned(&["--only", "docs", "--only", "fmt"]),
            ["fmt", "docs"]
        );
        assert_eq!(planned(&[]).len(), STEPS.len());
    }

    #[test]
    fn the_error_for_an_unknown_step_or_option_lists_the_known_ones() {
        for options in [&["--only", "test"][..], &["--skip"], &["--fast"]] {
            let error = Plan::parse(options).expect_err("not an option").to_string();
            assert!(
                error.contains(options.last().expect("not empty")),
                "{error}"
            );
        }
        assert!(
            Plan::parse(&["--only", "x"])
                .expect_err("not a step")
                .to_string()
                .contains("clippy")
        );
    }

    #[test]
    fn every_needed_step_runs_earlier() {
        for (at, step) in STEPS.iter().enumerate() {
            for need in step.needs {
                assert!(
                    STEPS[..at].iter().any(|earlier| earlier.name == *need),
                    "{} needs {need}",
                    step.name
                );
            }
        }
    }

    #[test]
    fn a_failed_build_skips_the_steps_that_need_it() {
        let lines = vec![line("fmt", Verdict::Failed("exit status: 1".into()), None)];
        let mut report = Report { lines };
        let blocked = |report: &Report| {
            STEPS
                .iter()
                .filter(|step| report.blocker(step).is_some())
                .count()
        };
        assert_eq!(blocked(&report), 0);
        report.lines.push(line(
            BUILD,
            Verdict::Failed("exit status: 101".into()),
            None,
        ));
        assert_eq!(
            blocked(&report),
            STEPS
                .iter()
                .filter(|step| step.needs.contains(&BUILD))
                .count()
        );
    }

    #[test]
    fn the_last_line_counts_tests_and_steps() {
        let skipped = vec![("a::b".to_owned(), "no database".to_owned())];
        let tests = Tally {
            passed: 10,
            failed: 2,
            skipped,
            failures: vec!["c::d".into()],
            flaky: vec!["e::f".into()],
        };
        let did_not_compile = Tally::default();
        let lines = vec![
            line("fmt", Verdict::Passed, None),
            line("clippy", Verdict::Failed("exit status: 101".into()), None),
            line("lab", Verdict::Skipped("not root".into()), None),
            line(
                "tests",
                Verdict::Failed("2 tests failed".into()),
                Some(tests),
            ),
            line(
                "doctests",
                Verdict::Failed("exit status: 101".into()),
                Some(did_not_compile),
            ),
        ];
        let report = Report { lines };
        let text = report.to_string();
        assert_eq!(
            text.lines().last(),
            Some("11 passed, 4 failed, 2 skipped"),
            "{text}"
        );
        for part in [
            "not root",
            "a::b (no database)",
            "FAILED  c::d",
            "flaky   e::f",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!report.is_good());
    }
}
