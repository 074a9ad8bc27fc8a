//! Rejects the words of an older dialect in everything that people read: documents, help texts, the
//! web page, comments of the API definitions. [`RULES`] is the list, [`ALLOWED`] its exceptions;
//! [`prose`] finds the text for people in a file.

mod prose;

use std::path::Path;

use anyhow::{Context, Result};
use prose::{Kind, Token};

use crate::files;

/// Forms that are rejected, and what to write instead. Each form is one word or a phrase.
const RULES: &[(&[&str], &str)] = &[
    (
        &["bell", "bells", "ring", "rings"],
        "wake-up, notification, notify",
    ),
    (&["deed", "deeds"], "action"),
    (&["ledger", "ledgers"], "scan summary"),
    (&["place", "places"], "endpoint"),
    (
        &["stranger", "strangers"],
        "unidentified host, or unauthenticated peer",
    ),
    (
        &["meet", "meets", "lend", "lends", "lent", "in turns"],
        "resolve, acquire",
    ),
    (&["dial leave", "a leave"], "dial permit"),
    (&["seat", "seats"], "slot"),
    (&["census"], "connection table"),
    (&["show out", "shows out", "shown out"], "evict"),
    (
        &["fate", "fates", "what became of", "what becomes of"],
        "outcome",
    ),
    (&["way out", "a way up"], "remedy, route"),
    (&["swept", "sweeps event"], "sweep event"),
    (&["wish", "wishes"], "request"),
    (
        &[
            "told",
            "heard",
            "said",
            "last word",
            "a word",
            "no word",
            "in words",
        ],
        "reported, received, answered",
    ),
    (&["lane", "lanes"], "priority, permit or slot"),
    (&["stock"], "upstream"),
    (&["trouble", "troubles"], "failure, problem"),
    (&["sign of life", "signs of life"], "liveness signal"),
    (
        &["good until", "lives until", "lives an hour", "lives on"],
        "expires, is valid until",
    ),
    (&["present password"], "current password"),
    (&["make a code", "makes a code"], "create a code"),
    (&["hand over the key"], "copy the API key"),
    (&["go on scanning", "goes on scanning"], "keep scanning"),
    (&["not told"], "unknown"),
    (&["is of node", "is of a node"], "belongs to node"),
    (
        &[
            "is no address",
            "is no ipv4 address",
            "is no ipv6 address",
            "is no network",
            "is no private network",
            "is no number",
        ],
        "is not an address",
    ),
    (
        &["whoever", "whatever", "whichever"],
        "the party or the thing by its name",
    ),
    (
        &[
            "cancelled",
            "cancelling",
            "dialled",
            "dialling",
            "behaviour",
            "neighbour",
            "neighbours",
            "colour",
            "colours",
            "licence",
            "licences",
            "recognise",
            "recognised",
            "authorise",
            "authorised",
            "honour",
            "centre",
        ],
        "the American spelling",
    ),
];

/// Labels of the web page that are rejected where they stand alone.
const LABELS: &[(&str, &str)] = &[
    ("asked", "Requested"),
    ("made", "Created"),
    ("leave", "Close"),
    ("span", "Range"),
];

/// Phrases in which a rejected form is right.
const ALLOWED: &[&str] = &[
    "in place",
    "in place of",
    "in one place",
    "only place",
    "the place of",
    "in its place",
    "whose place",
    "stock firmware",
];

/// A rejected form in a file.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    line: usize,
    form: String,
    instead: &'static str,
}

/// Returns a sentence for every rejected form in the workspace at `root`.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let mut sentences = Vec::new();
    for file in files::all(root)? {
        let name = file.strip_prefix(root).unwrap_or(&file);
        let Some(kind) = Kind::of(name) else { continue };
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("reading {}", file.display()))?;
        sentences.extend(find(kind, &text).into_iter().map(
            |Finding {
                 line,
                 form,
                 instead,
             }| { format!("{}:{line}: `{form}`: write {instead}", name.display()) },
        ));
    }
    Ok(sentences)
}

fn find(kind: Kind, text: &str) -> Vec<Finding> {
    let tokens = prose::tokens(kind, text);
    let rules = RULES
        .iter()
        .flat_map(|(forms, instead)| forms.iter().map(|form| (*form, *instead)));
    let mut findings = Vec::new();
    for (form, instead) in rules {
        for at in positions(&tokens, form) {
            if !ALLOWED.iter().any(|allowed| covers(&tokens, allowed, at)) {
                findings.push(Finding {
                    line: tokens[at].line,
                    form: form.to_owned(),
                    instead,
                });
            }
        }
    }
    if kind.has_labels() {
        for (at, token) in tokens
            .iter()
            .enumerate()
            .filter(|(_, token)| !token.is_break())
        {
            let alone = |other: Option<&Token>| other.is_none_or(Token::is_break);
            let label = LABELS.iter().find(|(label, _)| *label == token.text);
            if let Some((label, instead)) = label
                && token.capital
                && alone(at.checked_sub(1).and_then(|before| tokens.get(before)))
                && alone(tokens.get(at + 1))
            {
                findings.push(Finding {
                    line: token.line,
                    form: (*label).to_owned(),
                    instead,
                });
            }
        }
    }
    findings.sort_by(|a, b| (a.line, &a.form).cmp(&(b.line, &b.form)));
    findings
}

/// Where a form begins.
fn positions(tokens: &[Token], form: &str) -> Vec<usize> {
    let words: Vec<&str> = form.split(' ').collect();
    let begins = |window: &[Token]| {
        window
            .iter()
            .map(|token| token.text.as_str())
            .eq(words.iter().copied())
    };
    let windows = tokens.windows(words.len()).enumerate();
    windows
        .filter(|(_, window)| begins(window))
        .map(|(at, _)| at)
        .collect()
}

/// Whether the token at `at` is part of an allowed phrase.
fn covers(tokens: &[Token], allowed: &str, at: usize) -> bool {
    let length = allowed.split(' ').count();
    positions(tokens, allowed)
        .into_iter()
        .any(|start| (start..start + length).contains(&at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forms(kind: Kind, text: &str) -> Vec<String> {
        find(kind, text)
            .into_iter()
            .map(|finding| format!("{} {}", finding.line, finding.form))
            .collect()
    }

    #[test]
    fn rejected_words_and_phrases_are_found_with_their_line() {
        assert_eq!(
            forms(Kind::Markdown, "# The Stranger\n\nA sign of\nlife rings.\n"),
            ["1 stranger", "3 sign of life", "4 rings"]
        );
        assert_eq!(
            forms(Kind::Proto, "// The last seat.\nmessage Seat {}\n"),
            ["1 seat"]
        );
        assert_eq!(
            forms(
                Kind::Rust,
                "/// Makes a code.\nfn bell() { say(\"in trouble\"); }\n"
            ),
            ["1 makes a code", "2 trouble"]
        );
        assert_eq!(
            forms(Kind::Page, "<p title=\"Good until\">Hand over the key</p>"),
            ["1 good until", "1 hand over the key"]
        );
        assert_eq!(
            forms(
                Kind::Script,
                "heading(\"Asked\"); const stranger = 'go on scanning';"
            ),
            ["1 asked", "1 go on scanning"]
        );
    }

    #[test]
    fn code_names_and_permitted_phrases_pass() {
        assert!(
            forms(
                Kind::Markdown,
                "`ledger` and [a](places.md)\n\n```text\ntold\n```\n"
            )
            .is_empty()
        );
        assert!(forms(Kind::Markdown, "It takes the place of a stock firmware.").is_empty());
        assert!(forms(Kind::Proto, "// The event `ledger`.\nLedger ledger = 1;\n").is_empty());
        assert!(forms(Kind::Rust, "// a bell\nlet seat = lane(\"FLEET_LANE\");\n").is_empty());
        assert!(forms(Kind::Page, "<span class=\"seat\">Range</span>").is_empty());
        assert!(
            forms(
                Kind::Script,
                "// a bell\nel('span', { class: 'lane seat' }, `${seat} of 3`)"
            )
            .is_empty()
        );
    }

    #[test]
    fn words_next_to_each_other_only_across_a_break_are_no_phrase() {
        assert!(forms(Kind::Markdown, "It is good. Until then, wait.").is_empty());
        assert!(forms(Kind::Script, "a('good'); b('until')").is_empty());
    }

    #[test]
    fn code_for_tests_is_not_read() {
        assert!(
            forms(
                Kind::Rust,
                "#[cfg(test)]\nmod tests { const A: &str = \"what was told\"; }"
            )
            .is_empty()
        );
    }
}
