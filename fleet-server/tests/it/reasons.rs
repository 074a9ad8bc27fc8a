//! Every refusal in the sources has a stable reason and its facts, and docs/api.md lists them. [`sites`] finds the
//! refusals. `FLEET_WRITE_DOCS=1` writes the table anew. The matrix checks the refusals of all procedures against it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Constructors of `RpcError`, by the name of their code.
const CONSTRUCTORS: [&str; 15] = [
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "unavailable",
    "unauthenticated",
    "unknown",
    "not_active",
    "new",
];

/// Refusals whose reason is stated elsewhere, as file and number. Each of them is in a function whose callers state it.
const STATED_ELSEWHERE: [(&str, usize); 1] = [("fleet-server/src/failure/plan.rs", 1)];

/// The codes of requests without a plan, by the kind of error (fleet-discovery/src/plan/error.rs).
const PLAN: &str = "invalid_argument failed_precondition";

/// The place in docs/api.md.
const BEGIN: &str = "<!-- reasons: written by fleet-server/tests/it/reasons.rs -->\n";
const END: &str = "<!-- end of reasons -->\n";

/// A refusal in the sources.
#[derive(Debug)]
struct Site {
    file: String,
    line: usize,
    code: String,
    reason: Option<String>,
    keys: BTreeSet<String>,
}

/// The facts of a reason.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    codes: BTreeSet<String>,
    /// Keys of all its refusals.
    pub(crate) always: BTreeSet<String>,
    /// Keys of at least one.
    pub(crate) sometimes: BTreeSet<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.push(path);
        }
    }
}

/// The position after the bracket that closes the one at `from`.
fn after_closing(text: &str, from: usize) -> usize {
    let (mut depth, mut quoted) = (0, false);
    let bytes = text.as_bytes();
    let mut at = from;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if quoted => at += 1,
            // A bracket or quote as a character.
            b'\'' if !quoted && bytes.get(at + 2) == Some(&b'\'') => at += 2,
            b'"' => quoted = !quoted,
            b'(' if !quoted => depth += 1,
            b')' if !quoted => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    panic!("a bracket is not closed: {}", &text[from..from + 80]);
}

/// The first string in a text.
fn string(text: &str) -> Option<String> {
    let text = text.trim_start().strip_prefix('"')?;
    Some(text[..text.find('"')?].to_owned())
}

/// The methods that are called on the value which ends at `from`, with their arguments.
fn chain(text: &str, mut from: usize) -> Vec<(String, String)> {
    let mut calls = Vec::new();
    while let Some(rest) = text[from..].trim_start().strip_prefix('.') {
        let name: String = rest
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        let open = text.len() - rest.len() + name.len();
        if !text[open..].starts_with('(') {
            break;
        }
        let end = after_closing(text, open);
        calls.push((name, text[open + 1..end - 1].to_owned()));
        from = end;
    }
    calls
}

fn stated(calls: &[(String, String)]) -> (Option<String>, BTreeSet<String>) {
    let of = |method: &'static str| {
        let named = calls.iter().filter(move |(name, _)| name == method);
        named.filter_map(|(_, arguments)| string(arguments))
    };
    let mut keys: BTreeSet<String> = of("with_fact").collect();
    if calls.iter().any(|(name, _)| name == "with_retry_after") {
        keys.insert("retry_after_ms".to_owned());
    }
    (of("with_reason").next(), keys)
}

/// The refusals in the sources of the server and of the listener.
fn sites() -> Vec<Site> {
    let mut files = Vec::new();
    sources(&root().join("fleet-server/src"), &mut files);
    sources(&root().join("fleet-wire/src/server"), &mut files);
    for name in ["engine.rs", "bounds.rs"] {
        files.push(root().join("fleet-wire/src").join(name));
    }
    files.sort();
    let mut found = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).expect("a source");
        let text = text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default();
        let file = path
            .strip_prefix(root())
            .expect("a source of the workspace");
        let file = file.display().to_string();
        let line = |at: usize| text[..at].matches('\n').count() + 1;
        for code in CONSTRUCTORS {
            for of in ["RpcError::", "Self::"] {
                if of == "Self::" && !file.ends_with("bounds.rs") {
                    continue;
                }
                let call = format!("{of}{code}(");
                for (at, _) in text.match_indices(&call) {
                    let end = after_closing(text, at + call.len() - 1);
                    let (reason, keys) = stated(&chain(text, end));
                    let code = code.to_owned();
                    found.push(Site {
                        file: file.clone(),
                        line: line(at),
                        code,
                        reason,
                        keys,
                    });
                }
            }
        }
        if file.ends_with("failure/plan.rs") {
            for (at, _) in text.match_indices("=> refused") {
                let (reason, keys) = stated(&chain(text, at + "=> refused".len()));
                found.push(Site {
                    file: file.clone(),
                    line: line(at),
                    code: PLAN.to_owned(),
                    reason,
                    keys,
                });
            }
        }
        // The table of `refusals!`: `Variant => code REASON [key = value, ...], retry DELAY;`.
        for (number, row) in text.lines().enumerate() {
            let Some((_, row)) = row.split_once(" => ").filter(|_| row.ends_with(';')) else {
                continue;
            };
            let mut words = row.trim_end_matches(';').splitn(3, ' ');
            let (Some(code), Some(reason)) = (words.next(), words.next()) else {
                continue;
            };
            if !CONSTRUCTORS.contains(&code) {
                continue;
            }
            let facts = words.next().unwrap_or_default();
            let named = facts
                .split_once('[')
                .and_then(|(_, rest)| rest.split_once(']'));
            let keys = named.map_or("", |(keys, _)| keys).split(", ");
            let mut keys: BTreeSet<String> = keys
                .filter_map(|fact| Some(fact.split_once(" = ")?.0.to_owned()))
                .collect();
            if row.contains("retry ") {
                keys.insert("retry_after_ms".to_owned());
            }
            found.push(Site {
                file: file.clone(),
                line: number + 1,
                code: code.to_owned(),
                reason: Some(reason.trim_end_matches(',').to_owned()),
                keys,
            });
        }
    }
    found
}

/// The reasons in the sources.
pub(crate) fn reasons() -> BTreeMap<String, Facts> {
    let mut reasons: BTreeMap<String, Facts> = BTreeMap::new();
    for site in sites() {
        let Some(reason) = site.reason else { continue };
        let known = reasons.contains_key(&reason);
        let facts = reasons.entry(reason).or_default();
        facts.codes.extend(match site.code.as_str() {
            "not_active" => vec!["`unavailable`".to_owned()],
            "new" => vec!["the outcome's".to_owned()],
            codes => codes.split(' ').map(|code| format!("`{code}`")).collect(),
        });
        facts.always = if known {
            facts.always.intersection(&site.keys).cloned().collect()
        } else {
            site.keys.clone()
        };
        facts.sometimes.extend(site.keys);
    }
    reasons
}

#[test]
fn every_refusal_in_the_sources_states_a_reason() {
    let sites = sites();
    assert!(sites.len() > 200, "only {} refusals", sites.len());
    let mut bare: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for site in sites.iter().filter(|site| site.reason.is_none()) {
        bare.entry(&site.file).or_default().push(site.line);
    }
    for (file, most) in STATED_ELSEWHERE {
        let lines = bare.remove(file).unwrap_or_default();
        assert_eq!(lines.len(), most, "{file}: {lines:?}");
    }
    assert!(
        bare.is_empty(),
        "refusals without `.with_reason(\"...\")`, by file and line: {bare:#?}"
    );
    for site in &sites {
        let reason = site.reason.as_deref().unwrap_or("X");
        let stable = reason.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        assert!(stable, "{site:?}");
    }
}

#[test]
fn the_api_documentation_lists_every_reason_with_its_facts() {
    let file = root().join("docs/api.md");
    let text = fs::read_to_string(&file).expect("the documentation");
    let (head, rest) = text.split_once(BEGIN).expect("the table begins");
    let (table, tail) = rest.split_once(END).expect("the table ends");
    let mut wanted = String::from("\n| reason | code | metadata |\n|---|---|---|\n");
    for (reason, facts) in reasons() {
        let codes: Vec<_> = facts.codes.iter().map(String::as_str).collect();
        let keys = facts.sometimes.iter().map(|key| {
            let often = if facts.always.contains(key) { "" } else { "?" };
            format!("`{key}`{often}")
        });
        let keys: Vec<_> = keys.collect();
        let row = format!(
            "| `{reason}` | {} | {} |\n",
            codes.join(", "),
            keys.join(", ")
        );
        wanted.push_str(&row.replace("|  |", "| |"));
    }
    wanted.push('\n');
    if std::env::var_os("FLEET_WRITE_DOCS").is_some() {
        fs::write(&file, format!("{head}{BEGIN}{wanted}{END}{tail}")).expect("written");
    } else {
        assert_eq!(
            table, wanted,
            "docs/api.md is out of date: run this test with FLEET_WRITE_DOCS=1"
        );
    }
}
