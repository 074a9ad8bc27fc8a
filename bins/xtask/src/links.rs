//! Checks the documents: every link, every path to a source file and every test that the threat model names leads to
//! something, and the documents that must stay short are. [`check`] is the entry.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::files;

/// The longest that a document may be, in lines.
const LENGTHS: [(&str, usize); 2] = [("README.md", 150), ("ARCHITECTURE.md", 250)];

/// How wide a line of the README may be, in characters: wider ones are cut on forges and in terminals.
const WIDTH: usize = 100;

/// Endings of files that documents name by their path.
const SOURCES: [&str; 8] = ["rs", "proto", "txt", "py", "js", "json", "toml", "csv"];

/// The document that names tests.
const NAMES_TESTS: &str = "docs/security.md";

/// Returns a sentence for every broken link and every document that is too long.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let files = files::all(root)?;
    let mut sentences = Vec::new();
    for file in files
        .iter()
        .filter(|file| file.extension().is_some_and(|kind| kind == "md"))
    {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(file);
        let broken = broken_links(root, name, &text)
            .into_iter()
            .chain(broken_paths(&files, name, &text));
        let broken = broken.chain(missing_tests(&files, name, &text)?);
        sentences.extend(
            broken
                .chain(too_long(name, &text))
                .map(|what| format!("{}: {what}", name.display())),
        );
    }
    Ok(sentences)
}

/// The text outside of code blocks.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

fn broken_links(root: &Path, file: &Path, text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    for part in prose(text).split("](").skip(1) {
        let link = part.split(')').next().unwrap_or_default();
        let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
        if link.contains("://") {
            continue;
        }
        let target = if path.is_empty() {
            file.to_owned()
        } else {
            normal(&file.with_file_name("").join(path))
        };
        let there = root.join(&target);
        if !there.exists() {
            broken.push(format!("the link `{link}` leads nowhere"));
        } else if !anchor.is_empty() {
            let text = std::fs::read_to_string(there).unwrap_or_default();
            if !anchors(&text).contains(anchor) {
                broken.push(format!(
                    "{} has no heading for `#{anchor}`",
                    target.display()
                ));
            }
        }
    }
    broken
}

/// Checks the source files that code spans name, by their path from the root or by its end. A name in capitals is an
/// example. Records of decisions are not updated, and a crate's README is read outside of the workspace.
fn broken_paths(files: &[PathBuf], file: &Path, text: &str) -> Vec<String> {
    let of_a_crate =
        file.components().count() == 2 && file.ends_with("README.md") && !file.starts_with("docs");
    if of_a_crate || file.starts_with("docs/decisions") || file.ends_with("CHANGELOG.md") {
        return Vec::new();
    }
    let is_source = |span: &&str| {
        let (name, kind) = span.rsplit_once('.').unwrap_or_default();
        let is_example = name.contains(|c: char| c.is_ascii_uppercase());
        !name.is_empty()
            && SOURCES.contains(&kind)
            && !is_example
            && !span.contains([' ', '*'])
            && !span.starts_with('/')
    };
    let is_missing = |span: &&str| !files.iter().any(|file| file.ends_with(span));
    let text = prose(text);
    let spans = text.split('`').skip(1).step_by(2);
    spans
        .filter(is_source)
        .filter(is_missing)
        .map(|span| format!("there is no file `{span}`"))
        .collect()
}

/// Checks that the tests exist that the threat model names: code spans of at least five words.
fn missing_tests(files: &[PathBuf], file: &Path, text: &str) -> Result<Vec<String>> {
    if file != Path::new(NAMES_TESTS) {
        return Ok(Vec::new());
    }
    let text = prose(text);
    let is_test = |span: &&str| {
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        span.matches('_').count() >= 4 && span.chars().all(is_name)
    };
    let mut missing: BTreeSet<&str> = text.split('`').skip(1).step_by(2).filter(is_test).collect();
    for source in files {
        let keyword = match source.extension().and_then(|kind| kind.to_str()) {
            Some("rs") => "fn",
            Some("py") => "def",
            Some(_) | None => continue,
        };
        let code = std::fs::read_to_string(source)
            .with_context(|| format!("reading {}", source.display()))?;
        missing.retain(|name| !code.contains(&format!("{keyword} {name}(")));
    }
    let sentence = |name| format!("there is no test `{name}`");
    Ok(missing.into_iter().map(sentence).collect())
}

fn too_long(file: &Path, text: &str) -> Vec<String> {
    let mut sentences = Vec::new();
    let lines = text.lines().count();
    if let Some((_, most)) = LENGTHS
        .iter()
        .find(|(name, most)| Path::new(name) == file && lines > *most)
    {
        sentences.push(format!("{lines} lines are more than {most}"));
    }
    let wide = (1..)
        .zip(text.lines())
        .filter(|(_, line)| line.chars().count() > WIDTH);
    if file == Path::new("README.md") {
        sentences.extend(wide.map(|(at, _)| format!("line {at} is wider than {WIDTH} characters")));
    }
    sentences
}

/// The anchors that a forge makes of headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    let kept = |c: char| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        _ => c.is_alphanumeric().then(|| c.to_ascii_lowercase()),
    };
    headings
        .map(|heading| {
            heading
                .trim_start_matches('#')
                .trim()
                .chars()
                .filter_map(kept)
                .collect()
        })
        .collect()
}

/// Takes `..` out of a path without asking the file system.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            Component::Normal(_) | Component::RootDir | Component::Prefix(_) => normal.push(part),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::root;

    #[test]
    fn links_lead_to_files_and_headings() {
        let broken = |text| broken_links(&root(), Path::new("docs/a.md"), text);
        assert!(
            broken("[a](../README.md) [b](https://example.org/x) [c](../README.md#try-it)")
                .is_empty()
        );
        assert_eq!(
            broken("[a](nowhere.md)"),
            ["the link `nowhere.md` leads nowhere"]
        );
        assert_eq!(
            broken("[a](../README.md#nowhere)"),
            ["README.md has no heading for `#nowhere`"]
        );
        assert!(broken("```\n[a](nowhere.md)\n```").is_empty());
    }

    #[test]
    fn paths_of_sources_exist() {
        let files = files::all(&root()).expect("the workspace is readable");
        let broken = |text| broken_paths(&files, Path::new("docs/a.md"), text);
        assert!(
            broken("`bins/xtask/src/main.rs`, `words/prose.rs`, `main.rs`, `bins/NAME.rs`, `*.rs`")
                .is_empty()
        );
        assert_eq!(
            broken("`bins/nowhere.rs`"),
            ["there is no file `bins/nowhere.rs`"]
        );
    }

    #[test]
    fn tests_that_the_threat_model_names_exist() {
        let files = files::all(&root()).expect("the workspace is readable");
        let missing = |file: &str, text: &str| {
            missing_tests(&files, Path::new(file), text).expect("the sources are readable")
        };
        // Its text must not be in this file as it would be in a definition.
        let nowhere = ["no", "test", "has", "this", "name"].join("_");
        let text = format!("`tests_that_the_threat_model_names_exist`, `two_words`, `{nowhere}`");
        assert_eq!(
            missing(NAMES_TESTS, &text),
            [format!("there is no test `{nowhere}`")]
        );
        assert!(missing("docs/a.md", &text).is_empty());
    }

    #[test]
    fn the_readme_is_short_and_narrow() {
        let long = "line\n".repeat(151);
        assert_eq!(
            too_long(Path::new("README.md"), &long),
            ["151 lines are more than 150"]
        );
        assert_eq!(
            too_long(Path::new("README.md"), &"x".repeat(101)),
            ["line 1 is wider than 100 characters"]
        );
        assert!(too_long(Path::new("docs/a.md"), &long).is_empty());
    }

    #[test]
    fn headings_become_anchors_as_on_forges() {
        let anchors = anchors("# Neighbors and CAP_NET_RAW\n## What's new?\n");
        assert!(
            anchors.contains("neighbors-and-cap_net_raw") && anchors.contains("whats-new"),
            "{anchors:?}"
        );
    }
}
