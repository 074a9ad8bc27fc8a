//! Counts tests in the output of test runners, and lists skipped and failed ones. Supports libtest and pytest. Start with
//! [`Tally::read`].

use std::ops::AddAssign;

/// Passed, failed and skipped tests.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Name and reason of each skipped test.
    pub(crate) skipped: Vec<(String, String)>,
    /// Names of the failed tests.
    pub(crate) failures: Vec<String>,
    /// Names of the tests that failed beside the others and passed without them.
    pub(crate) flaky: Vec<String>,
}

impl Tally {
    /// Reads one line of a test runner's output. Other lines are ignored.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test ") {
            self.read_libtest(result);
        } else if let Some(result) = line
            .strip_prefix("SKIPPED ")
            .or_else(|| line.strip_prefix("XFAIL "))
        {
            self.skipped.push(split_reason(result));
        } else if let Some(name) = line
            .strip_prefix("FAILED ")
            .or_else(|| line.strip_prefix("ERROR "))
        {
            self.failures.push(split_reason(name).0);
        } else if line.starts_with('=') && line.ends_with('=') {
            self.read_pytest_summary(line);
        }
    }

    /// Records a test that skipped itself at run time, which its runner counted as passed.
    pub(crate) fn record_skip(&mut self, line: &str) {
        self.passed = self.passed.saturating_sub(1);
        self.skipped.push(split_reason(line));
    }

    /// Whether the failed tests can run again by name: all are known, and there are at most `most`.
    pub(crate) fn may_repeat(&self, most: usize) -> bool {
        let failures = self.failures.len();
        (1..=most).contains(&failures) && self.failed == failures as u64
    }

    /// Applies the result of running the failed tests once more. Returns whether each of them passed.
    ///
    /// If the second run counted fewer tests than failed, a name did not select its test, and nothing is changed.
    pub(crate) fn repeated(&mut self, second: &Self) -> bool {
        if second.passed + second.failed < self.failed {
            return false;
        }
        let failures = std::mem::take(&mut self.failures);
        let (failed, passed) = failures
            .into_iter()
            .partition(|name| second.failures.contains(name));
        self.failures = failed;
        self.flaky = passed;
        self.failed = self.failures.len() as u64;
        self.passed += self.flaky.len() as u64;
        self.failures.is_empty()
    }

    /// One result line, `NAME ... ok|FAILED|ignored[, REASON]`, or a binary's closing line.
    fn read_libtest(&mut self, result: &str) {
        if let Some(counts) = result.strip_prefix("result: ") {
            self.passed += count_before(counts, "passed");
            self.failed += count_before(counts, "failed");
        } else if let Some((name, how)) = result.rsplit_once(" ... ") {
            if let Some(reason) = how.strip_prefix("ignored") {
                let reason = reason.trim_start_matches([',', ' ']);
                self.skipped.push((name.into(), reason.into()));
            } else if how == "FAILED" {
                self.failures.push(name.into());
            }
        }
    }

    /// `=== 3 passed, 1 failed, 2 skipped in 0.12s ===`. Skipped tests were listed before.
    fn read_pytest_summary(&mut self, line: &str) {
        self.passed += count_before(line, "passed");
        self.failed += count_before(line, "failed")
            + count_before(line, "error")
            + count_before(line, "errors");
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
        self.failures.extend(other.failures);
        self.flaky.extend(other.flaky);
    }
}

/// Splits `NAME - REASON`, `[1] NAME: REASON` or `NAME: REASON`.
fn split_reason(text: &str) -> (String, String) {
    let (name, reason) = text
        .split_once(" - ")
        .or_else(|| text.split_once(": "))
        .unwrap_or((text, ""));
    (name.trim().into(), reason.trim().into())
}

/// Finds the number before `word`: 12 in "ok. 12 passed; 0 failed".
fn count_before(text: &str, word: &str) -> u64 {
    let words: Vec<&str> = text.split_whitespace().collect();
    words
        .windows(2)
        .find(|pair| pair[1].trim_end_matches([',', ';']) == word)
        .and_then(|pair| pair[0].parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.read(line));
        tally
    }

    fn named(name: &str, reason: &str) -> (String, String) {
        (name.into(), reason.into())
    }

    #[test]
    fn counts_of_several_libtest_binaries_are_added() {
        let tally = tally(&[
            "running 3 tests",
            "test a::b ... ok",
            "test a::c ... ignored, needs root",
            "test a::d ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s",
        ]);
        assert_eq!((tally.passed, tally.failed), (13, 1));
        assert_eq!(tally.skipped, [named("a::c", "needs root")]);
        assert_eq!(tally.failures, ["a::d"]);
    }

    #[test]
    fn counts_of_pytest_are_added() {
        let tally = tally(&[
            "SKIPPED [1] test_live.py:12: no server",
            "FAILED test_golden.py::test_hello - AssertionError",
            "=========== short test summary info ===========",
            "==== 1 failed, 3 passed, 1 skipped, 2 errors in 0.12s ====",
        ]);
        assert_eq!((tally.passed, tally.failed), (3, 3));
        assert_eq!(tally.skipped, [named("[1] test_live.py:12", "no server")]);
        assert_eq!(tally.failures, ["test_golden.py::test_hello"]);
    }

    #[test]
    fn a_test_that_skips_itself_does_not_count_as_passed() {
        let mut tally =
            tally(&["test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out"]);
        tally.record_skip("store::postgres::claims: no PostgreSQL");
        assert_eq!(tally.passed, 1);
        assert_eq!(
            tally.skipped,
            [named("store::postgres::claims", "no PostgreSQL")]
        );
    }

    fn failed(names: &[&str]) -> Tally {
        Tally {
            failed: names.len() as u64,
            failures: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Tally::default()
        }
    }

    #[test]
    fn a_test_that_passes_when_repeated_is_listed_as_flaky() {
        let mut first = failed(&["a::b", "c::d"]);
        let second = Tally {
            passed: 1,
            ..failed(&["c::d"])
        };
        assert!(!first.repeated(&second));
        assert_eq!((first.passed, first.failed), (1, 1));
        assert_eq!(
            (first.flaky, first.failures),
            (vec!["a::b".into()], vec!["c::d".into()])
        );

        let mut first = failed(&["a::b"]);
        let passed = Tally {
            passed: 1,
            ..Tally::default()
        };
        assert!(first.repeated(&passed));
        assert_eq!((first.passed, first.failed), (1, 0));
    }

    #[test]
    fn a_test_that_did_not_run_again_stays_failed() {
        let mut first = failed(&["a::b"]);
        assert!(!first.repeated(&Tally::default()));
        assert_eq!(
            (first.failed, first.failures.len(), first.flaky.len()),
            (1, 1, 0)
        );
    }

    #[test]
    fn only_a_few_named_failures_are_repeated() {
        assert!(failed(&["a", "b"]).may_repeat(2));
        assert!(!failed(&["a", "b", "c"]).may_repeat(2));
        assert!(!failed(&[]).may_repeat(2));
        // A program that crashed has failed tests without a name.
        let unnamed = Tally {
            failed: 2,
            ..failed(&["a"])
        };
        assert!(!unnamed.may_repeat(2));
    }

    #[test]
    fn lines_of_other_programs_are_ignored() {
        assert_eq!(
            tally(&[
                "   Compiling x",
                "tests passed",
                "5 passed",
                "",
                "= not a summary"
            ]),
            Tally::default()
        );
    }
}
