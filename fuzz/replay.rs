//! Runs the committed corpus of a fuzz target as an ordinary test. Each crate's integration tests include this file and
//! run their targets' functions on every input, on stable.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

/// Runs `target` on every file of the corpus of that name.
///
/// # Panics
/// If the corpus is missing or empty, or if `target` panics on an input; the message lists these inputs.
pub(crate) fn replay(corpus: &str, target: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(corpus);
    let entries = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{} cannot be listed: {error}", folder.display()));
    let mut inputs = 0;
    let mut broken = Vec::new();
    for entry in entries {
        let path = entry.expect("the corpus can be listed").path();
        let input = fs::read(&path)
            .unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()));
        inputs += 1;
        if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
            broken.push(path);
        }
    }
    assert!(inputs > 0, "{} is empty", folder.display());
    assert!(broken.is_empty(), "{corpus} breaks on {broken:#?}");
}
