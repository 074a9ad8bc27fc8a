//! Checks the sources of a pure crate, without tests, for clocks, randomness, IO and unordered iteration. [`scan`] checks
//! one file with the tokens of [`super::lexer`].

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::lexer::{self, Token};

/// Paths of std that a pure crate must not use. Each includes longer paths.
const PATHS: [(&str, &str); 12] = [
    ("std::*", "name what you import"),
    ("std::env", "configuration is an argument"),
    ("std::fs", "files belong to the adapters"),
    ("std::io", "IO belongs to the adapters"),
    ("std::net::TcpListener", "sockets belong to the adapters"),
    ("std::net::TcpStream", "sockets belong to the adapters"),
    (
        "std::net::ToSocketAddrs",
        "names are resolved by the adapters",
    ),
    ("std::net::UdpSocket", "sockets belong to the adapters"),
    ("std::os", "the operating system belongs to the adapters"),
    ("std::process", "processes belong to the adapters"),
    ("std::sync::mpsc", "a state machine is driven by calls"),
    ("std::thread", "threads belong to the shells"),
];

/// Names that are rejected everywhere, regardless of how they were imported.
const WORDS: [(&str, &str); 8] = [
    ("HashMap", "its order differs between runs; use BTreeMap"),
    ("HashSet", "its order differs between runs; use BTreeSet"),
    ("RandomState", "it uses randomness"),
    (
        "SystemTime",
        "wall-clock time is a value of fleet-core, handed in",
    ),
    ("hash_map", "its order differs between runs; use BTreeMap"),
    ("hash_set", "its order differs between runs; use BTreeSet"),
    ("new_v4", "ids are arguments"),
    ("now_v7", "ids and time are arguments"),
];

/// Macros that write to the terminal.
const MACROS: [&str; 5] = ["dbg", "eprint", "eprintln", "print", "println"];

/// Checks all sources below `folder`, except modules for tests.
pub(super) fn check(folder: &Path) -> Result<Vec<String>> {
    let mut files = BTreeSet::new();
    collect(folder, &mut files)?;
    let mut violations = Vec::new();
    let mut tests_only = Vec::new();
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("reading {}", file.display()))?;
        let scanned = scan(&text);
        tests_only.extend(
            scanned
                .test_modules
                .iter()
                .map(|name| module_folder(&file).join(name)),
        );
        found.push((file, scanned.violations));
    }
    for (file, sentences) in found {
        let for_tests = tests_only
            .iter()
            .any(|module| file.starts_with(module) || file == module.with_extension("rs"));
        if !for_tests {
            violations.extend(
                sentences
                    .into_iter()
                    .map(|(line, text)| format!("{}:{line}: {text}", file.display())),
            );
        }
    }
    Ok(violations)
}

/// The result of [`scan`].
#[derive(Debug)]
struct Scanned {
    /// Line and sentence of each violation.
    violations: Vec<(usize, String)>,
    /// Modules for tests that the file declares and that are in other files.
    test_modules: Vec<String>,
}

fn scan(text: &str) -> Scanned {
    let (tokens, test_modules) = lexer::without_tests(lexer::tokens(text));
    let mut violations = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let next = |offset: usize| tokens.get(at + offset).map_or("", |token| token.text);
        match token.text {
            "std" | "core" if next(1) == "::" => {
                for (line, path) in paths(&tokens[at..]) {
                    let refused = PATHS.iter().find(|(refused, _)| is_within(&path, refused));
                    violations.extend(refused.map(|(_, why)| (line, format!("{path}: {why}"))));
                }
            }
            "Instant" if next(1) == "::" && next(2) == "now" => {
                violations.push((token.line, "Instant::now: time is an argument".into()));
            }
            name if next(1) == "!" && MACROS.contains(&name) => {
                violations.push((
                    token.line,
                    format!("{name}!: output belongs to the binaries"),
                ));
            }
            name => {
                let refused = WORDS.iter().find(|(refused, _)| *refused == name);
                violations.extend(refused.map(|(_, why)| (token.line, format!("{name}: {why}"))));
            }
        }
    }
    violations.sort();
    violations.dedup();
    Scanned {
        violations,
        test_modules,
    }
}

/// Expands the path or use tree that starts at the first token: `std::{fs, net::{IpAddr, TcpStream}}` is three paths.
fn paths(tokens: &[Token<'_>]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut prefixes: Vec<usize> = Vec::new();
    let mut path: Vec<&str> = Vec::new();
    let mut line = 0;
    for (at, token) in tokens.iter().enumerate() {
        let in_tree = !prefixes.is_empty();
        let after_colons = at > 0 && tokens[at - 1].text == "::";
        match token.text {
            "::" => {}
            "{" if after_colons => prefixes.push(path.len()),
            "," | "}" if in_tree => {
                let ends_a_path = at > 0 && !["{", "}", ","].contains(&tokens[at - 1].text);
                found.extend(ends_a_path.then(|| (line, path.join("::"))));
                let depth = if token.text == "}" {
                    prefixes.pop()
                } else {
                    prefixes.last().copied()
                };
                path.truncate(depth.unwrap_or(0));
                if prefixes.is_empty() {
                    return found;
                }
            }
            // The original name decides; the new name after `as` does not.
            "as" if in_tree => path.push("as"),
            word if at == 0 || after_colons || in_tree => {
                line = token.line;
                path.push(if at == 0 { "std" } else { word });
            }
            _ => break,
        }
    }
    found.push((line, path.join("::")));
    found
}

fn is_within(path: &str, refused: &str) -> bool {
    path.strip_prefix(refused)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The directory of a file's submodules: its own directory for lib.rs, else one with its name.
fn module_folder(file: &Path) -> PathBuf {
    let is_root = file.file_name().is_some_and(|name| name == "lib.rs");
    if is_root {
        file.with_file_name("")
    } else {
        file.with_extension("")
    }
}

fn collect(folder: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    for entry in
        std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?
    {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.insert(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        scan(text)
            .violations
            .into_iter()
            .map(|(line, text)| format!("{line} {text}"))
            .collect()
    }

    fn check(text: &str, expected: &[&str]) {
        let found = found(text);
        assert_eq!(found.len(), expected.len(), "{text}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                found.starts_with(expected),
                "{text}: {found} is not {expected}"
            );
        }
    }

    #[test]
    fn each_use_of_clock_randomness_or_io_is_reported() {
        check("fn f() { std::fs::read(p) }", &["1 std::fs::read:"]);
        check(
            "use std::{fmt, net::{IpAddr, TcpStream}};",
            &["1 std::net::TcpStream:"],
        );
        check(
            "use std::{\n    fmt,\n    io::{self, Read},\n    env,\n};",
            &["3 std::io::Read:", "3 std::io::self:", "4 std::env:"],
        );
        check("use ::std::thread::sleep;", &["1 std::thread::sleep:"]);
        check("fn f() { let a = Instant::now(); }", &["1 Instant::now:"]);
        check("\nlet m: HashMap<u8, u8>;", &["2 HashMap:"]);
        check("fn f() { println!(\"x\"); }", &["1 println!:"]);
        check("let id = Uuid::now_v7();", &["1 now_v7:"]);
        check("use std::fs as harmless;", &["1 std::fs:"]);
    }

    #[test]
    fn harmless_code_passes() {
        check(
            "use std::{collections::{BTreeMap, BTreeSet}, fmt, net::{IpAddr, Ipv4Addr}, time::Duration};",
            &[],
        );
        check(
            "use core::fmt::Write; fn f(x: std::num::NonZeroU8) { writeln!(s, \"{x}\"); }",
            &[],
        );
        check("fn std_fs(environment: &str) {}", &[]);
        check("fn handle_timeout(&mut self, now: Instant) {}", &[]);
    }

    #[test]
    fn comments_strings_and_test_code_are_ignored() {
        check(
            "// std::fs\n/* HashMap /* nested */ std::io */\n/// See [`Instant`].\nfn f() {}",
            &[],
        );
        check(
            r##"const A: &str = "std::fs \" HashMap"; const B: &str = r#"std::io " HashMap"#; const C: char = '"';"##,
            &[],
        );
        check(
            "fn f<'a>(x: &'a str) {} fn g() { std::fs::read(p) }",
            &["1 std::fs::read:"],
        );
        check(
            "#[cfg(test)]\nmod tests { use std::fs; fn f() { { println!() } } }\nuse std::env;",
            &["3 std::env:"],
        );
        check("#[cfg(test)] use std::fs;\nuse std::env;", &["2 std::env:"]);
        check("#[cfg(not(test))] use std::fs;", &["1 std::fs:"]);
    }

    #[test]
    fn test_modules_in_their_own_files_are_listed_by_name() {
        assert_eq!(
            scan("#[cfg(test)]\nmod model;\nmod real;").test_modules,
            ["model"]
        );
        assert_eq!(
            module_folder(Path::new("a/src/lib.rs")).join("model"),
            Path::new("a/src/model")
        );
        assert_eq!(
            module_folder(Path::new("a/src/machine.rs")).join("model"),
            Path::new("a/src/machine/model")
        );
    }
}
