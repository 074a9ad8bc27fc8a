//! Rules that identify devices: each make is a file of data, and the protocols are code.
//!
//! [`Fingerprints`] first. A rule file is read and checked in `fingerprint/file.rs` and becomes the types of
//! `fingerprint/rule.rs`; answers of devices are `fingerprint/answer.rs`. Nothing here does IO except
//! [`Fingerprints::with_folder`]. Which requests are sent, and how, is `conversation.rs`.

mod answer;
mod explain;
mod file;
mod login;
mod rule;

use std::{
    cmp::Reverse,
    fs, io,
    path::Path,
    sync::{Arc, LazyLock},
};

pub(crate) use answer::{Answered, Answers, realm, title};
pub use explain::RuleVerdict;
pub use file::FingerprintError;
pub(crate) use login::{DigestRule, KnownLogin, LoginRule, Shown, TokenRule};
pub(crate) use rule::{Protocol, Request, Rule, mac};

/// The rule files of `fingerprints/`, by name; written by `build.rs`.
const EMBEDDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/fingerprints.rs"));

/// Rule files of one folder that are read. The built-in set has about fifty.
const MOST_FILES: usize = 256;

/// Bytes of one rule file. Built-in files have a tenth of it.
pub(crate) const LONGEST_FILE: u64 = 64 * 1024;

/// The rules of a scanner: the built-in ones, and those that a folder adds or overrides.
#[derive(Debug)]
pub struct Fingerprints {
    /// Ordered by name.
    rules: Vec<Rule>,
}

impl Fingerprints {
    /// The rules that come with this crate.
    pub fn built_in() -> Arc<Self> {
        static BUILT_IN: LazyLock<Arc<Fingerprints>> = LazyLock::new(|| {
            // A test reads every embedded file, so none is left out in a released build.
            Arc::new(Fingerprints {
                rules: EMBEDDED
                    .iter()
                    .filter_map(|(name, text)| Rule::read(name, text).ok())
                    .collect(),
            })
        });
        Arc::clone(&BUILT_IN)
    }

    /// The built-in rules with those of every `.toml` file of a folder. A file overrides the rule of the same name.
    /// A file that cannot be used is left out and returned as an error; the other rules stay.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn with_folder(folder: &Path) -> io::Result<(Self, Vec<FingerprintError>)> {
        let mut paths: Vec<_> = fs::read_dir(folder)?
            .collect::<io::Result<Vec<_>>>()?
            .into_iter()
            .map(|entry| entry.path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "toml")
            })
            .collect();
        paths.sort();
        let mut rules = Self::built_in().rules.clone();
        let mut errors = Vec::new();
        for (at, path) in paths.iter().enumerate() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let file = path.display().to_string();
            let read = if at < MOST_FILES {
                read_bounded(path)
            } else {
                Err(format!("the folder has more than {MOST_FILES} rule files"))
            };
            let rule = read
                .map_err(|reason| FingerprintError {
                    file: file.clone(),
                    line: 1,
                    reason,
                })
                .and_then(|text| Rule::read(&name, &text).map_err(|error| error.in_file(&file)));
            match rule {
                Ok(rule) => {
                    rules.retain(|other| other.name != rule.name);
                    rules.push(rule);
                }
                Err(error) => errors.push(error),
            }
        }
        rules.sort_by(|one, other| one.name.cmp(&other.name));
        Ok((Self { rules }, errors))
    }

    /// A set of rules from texts, by file name.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn from_texts<'t>(
        texts: impl IntoIterator<Item = (&'t str, &'t str)>,
    ) -> Result<Self, FingerprintError> {
        let rules = texts.into_iter().map(|(name, text)| Rule::read(name, text));
        Ok(Self {
            rules: rules.collect::<Result<_, _>>()?,
        })
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What each rule is for, by name.
    pub fn makes(&self) -> Vec<Make> {
        let make = |rule: &Rule| Make {
            name: rule.name.clone(),
            make: rule.make.clone(),
            protocols: Protocol::ALL
                .into_iter()
                .filter(|protocol| {
                    rule.opening_requests()
                        .any(|request| request.protocol == *protocol)
                })
                .map(Protocol::title)
                .collect(),
            facts: rule.known_facts(),
            login: rule.login.as_ref().map(LoginRule::title),
            published: rule.published.clone(),
        };
        self.rules.iter().map(make).collect()
    }

    /// The login of a rule.
    pub(crate) fn login(&self, name: &str) -> Option<&LoginRule> {
        self.rules
            .iter()
            .find(|rule| rule.name == name)?
            .login
            .as_ref()
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The requests that rules of a protocol match against, in the order in which they are sent until a rule
    /// matches: first those that the protocol's own code prefers, then those that most rules need.
    pub(crate) fn openings(&self, protocol: Protocol) -> Vec<&Request> {
        let mut counted: Vec<(&Request, usize)> = Vec::new();
        for request in self.rules.iter().flat_map(Rule::opening_requests) {
            if request.protocol != protocol {
                continue;
            }
            match counted.iter_mut().find(|(other, _)| *other == request) {
                Some((_, count)) => *count += 1,
                None => counted.push((request, 1)),
            }
        }
        counted.sort_by_key(|(request, count)| {
            (request.preference(), Reverse(*count), request.text.as_str())
        });
        counted.into_iter().map(|(request, _)| request).collect()
    }

    /// The rule that the answers match best, and whether later answers may still speak for another rule.
    pub(crate) fn best(&self, answers: &Answers) -> Option<Matched<'_>> {
        let matched = self.rules.iter().filter_map(|rule| {
            let found = rule.matching(answers)?;
            Some(Matched {
                rule,
                driver: found.driver.as_deref(),
                is_weak: found.is_weak || rule.rank.is_weak(),
            })
        });
        // Of rules of one rank the first by name wins: a fixed order, whatever the device answers first.
        matched.max_by_key(|found| {
            (
                !found.is_weak,
                found.rule.rank,
                Reverse(found.rule.name.clone()),
            )
        })
    }
}

/// What a rule is for: a row of the table of makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Make {
    /// The name of the rule.
    pub name: String,
    /// The make or firmware.
    pub make: String,
    /// The protocols by which it identifies devices.
    pub protocols: Vec<&'static str>,
    /// The kind of login by which devices are paired. None when there is none.
    pub login: Option<&'static str>,
    /// The facts that it can find.
    pub facts: Vec<&'static str>,
    /// Names of published answers that prove it; none when it is unverified.
    pub published: Vec<String>,
}

/// A rule that matched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matched<'a> {
    pub(crate) rule: &'a Rule,
    /// The driver for devices that this signature identifies, if it is not the rule's.
    pub(crate) driver: Option<&'a str>,
    pub(crate) is_weak: bool,
}

fn read_bounded(path: &Path) -> Result<String, String> {
    let length = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > LONGEST_FILE {
        return Err(format!(
            "the file has {length} bytes; at most {LONGEST_FILE} are read"
        ));
    }
    fs::read_to_string(path).map_err(|error| error.to_string())
}

/// Entry point for fuzzing: a rule file is read or refused, and what it matches is bounded.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let (file, answer) = match bytes.iter().position(|byte| *byte == 0xff) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (
            bytes,
            &br#"{"STATUS":[],"VERSION":[{"Type":"Antminer S19"}]}"#[..],
        ),
    };
    let rule = Rule::read("fuzz.toml", &String::from_utf8_lossy(file));
    let mut answers = Answers::default();
    let Some(json) = crate::json::parse(answer) else {
        return;
    };
    for text in ["cgminer version", "cgminer stats", "http /api/system/info"] {
        if let Ok(request) = text.parse::<Request>() {
            answers.insert(request, Answered::json(json.clone()));
        }
    }
    if let Ok(rule) = rule {
        let _ = rule.matching(&answers);
        let facts = rule.facts(&answers);
        assert!(facts.model.chars().count() <= crate::text::FIELD);
        assert!(facts.mac.is_none_or(|mac| !mac.is_placeholder()));
    }
    if let Some(found) = Fingerprints::built_in().best(&answers) {
        assert!(found.rule.facts(&answers).firmware.chars().count() <= crate::text::FIELD);
    }
}

#[cfg(test)]
mod tests;
