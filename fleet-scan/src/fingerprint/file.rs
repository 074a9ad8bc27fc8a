//! Reads rule files. Parses text into a [`Rule`] once, and reports every error with its line. `file/logins.rs` reads
//! the login.

mod logins;

use std::{collections::BTreeMap, fmt::Display, ops::Range};

use logins::{RawLogin, login_of};
use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use toml::Spanned;

use super::{
    answer::Selector,
    request::{Protocol, Request},
    rule::{Condition, FactSources, Match, Origin, Pattern, Rank, Rule, Source, Words},
};

/// The longest pattern, in characters. Built-in patterns have at most 100.
const LONGEST_PATTERN: usize = 512;

/// The size limit of a compiled pattern, in bytes. The regex crate matches in linear time for every pattern, so only
/// its memory needs a bound.
const PATTERN_SIZE: usize = 512 * 1024;

/// The limit of signatures per rule, conditions per signature, sources per fact, and rows per table.
const MOST_PARTS: usize = 64;
const MOST_ROWS: usize = 512;

/// Why a rule file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {reason}")]
pub struct FingerprintError {
    /// The file name.
    pub file: String,
    /// The line of the error, from 1.
    pub line: usize,
    /// The error text.
    pub reason: String,
}

impl FingerprintError {
    pub(super) fn in_file(self, file: &str) -> Self {
        Self {
            file: file.to_owned(),
            ..self
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawRule {
    make: String,
    driver: Option<Spanned<String>>,
    scheme: Option<Spanned<String>>,
    rank: Option<RawRank>,
    #[serde(default)]
    manufacturer: String,
    #[serde(default)]
    published: Vec<String>,
    #[serde(rename = "match")]
    matches: Vec<RawMatch>,
    #[serde(default)]
    facts: RawFacts,
    #[serde(default)]
    tables: BTreeMap<String, BTreeMap<String, String>>,
    login: Option<RawLogin>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum RawRank {
    Guess,
    Shared,
    Maker,
    Aftermarket,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMatch {
    answer: Spanned<String>,
    at: Option<Spanned<String>>,
    like: Option<Spanned<String>>,
    #[serde(default)]
    and: Vec<RawCondition>,
    #[serde(default)]
    not: Vec<RawCondition>,
    #[serde(default)]
    weak: bool,
    driver: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCondition {
    answer: Option<Spanned<String>>,
    at: Option<Spanned<String>>,
    like: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawFacts {
    model: Vec<RawSource>,
    manufacturer: Vec<RawSource>,
    firmware: Vec<RawSource>,
    mac: Vec<RawSource>,
    serial: Vec<RawSource>,
    hostname: Vec<RawSource>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSource {
    answer: Option<Spanned<String>>,
    at: Option<Spanned<String>>,
    append: Option<Spanned<String>>,
    fact: Option<Spanned<String>>,
    like: Option<Spanned<String>>,
    value: Option<String>,
    table: Option<Spanned<String>>,
}

/// An error and its location.
struct Fault {
    span: Option<Range<usize>>,
    reason: String,
}

impl Fault {
    fn at(span: &Spanned<String>, reason: impl Display) -> Self {
        Self {
            span: Some(span.span()),
            reason: reason.to_string(),
        }
    }

    fn of_file(reason: impl Display) -> Self {
        Self {
            span: None,
            reason: reason.to_string(),
        }
    }
}

impl Rule {
    /// Reads a rule file. The rule takes the name of the file without `.toml`.
    ///
    /// # Errors
    /// [`FingerprintError`] with the first invalid line.
    pub(crate) fn read(file: &str, text: &str) -> Result<Self, FingerprintError> {
        read(file, text).map_err(|fault| FingerprintError {
            file: file.to_owned(),
            line: line_of(text, fault.span),
            reason: fault.reason,
        })
    }
}

fn line_of(text: &str, span: Option<Range<usize>>) -> usize {
    let start = span.map_or(0, |span| span.start).min(text.len());
    text.as_bytes()[..start]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}

fn read(file: &str, text: &str) -> Result<Rule, Fault> {
    let raw: RawRule = toml::from_str(text).map_err(|error| Fault {
        span: error.span(),
        reason: error.message().replace('\n', " "),
    })?;
    let name = file.strip_suffix(".toml").unwrap_or(file);
    if name.is_empty()
        || !name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    {
        return Err(Fault::of_file(
            "name the file of lower-case letters, digits and dashes",
        ));
    }
    if raw.matches.is_empty() || raw.matches.len() > MOST_PARTS {
        return Err(Fault::of_file(format!(
            "a rule has 1 to {MOST_PARTS} `[[match]]` tables"
        )));
    }
    let tables: BTreeMap<String, Vec<(String, String)>> = raw
        .tables
        .into_iter()
        .map(|(name, rows)| (name, rows.into_iter().collect()))
        .collect();
    if tables.values().any(|rows| rows.len() > MOST_ROWS) {
        return Err(Fault::of_file(format!(
            "a table has at most {MOST_ROWS} rows"
        )));
    }
    let facts = |sources: Vec<RawSource>| sources_of(sources, &tables);
    Ok(Rule {
        name: name.to_owned(),
        make: raw.make,
        driver: raw
            .driver
            .as_ref()
            .map(driver)
            .transpose()?
            .unwrap_or_else(|| "asicrs".to_owned()),
        scheme: match raw.scheme {
            None => "tcp".to_owned(),
            Some(scheme) if matches!(scheme.get_ref().as_str(), "http" | "https" | "tcp") => {
                scheme.into_inner()
            }
            Some(scheme) => return Err(Fault::at(&scheme, "a scheme is `http`, `https` or `tcp`")),
        },
        rank: match raw.rank.unwrap_or(RawRank::Maker) {
            RawRank::Guess => Rank::Guess,
            RawRank::Shared => Rank::Shared,
            RawRank::Maker => Rank::Maker,
            RawRank::Aftermarket => Rank::Aftermarket,
        },
        manufacturer: raw.manufacturer,
        published: raw.published,
        matches: raw
            .matches
            .into_iter()
            .map(match_of)
            .collect::<Result<_, _>>()?,
        sources: FactSources {
            model: facts(raw.facts.model)?,
            manufacturer: facts(raw.facts.manufacturer)?,
            firmware: facts(raw.facts.firmware)?,
            mac: facts(raw.facts.mac)?,
            serial: facts(raw.facts.serial)?,
            hostname: facts(raw.facts.hostname)?,
        },
        login: raw.login.map(login_of).transpose()?,
    })
}

fn match_of(raw: RawMatch) -> Result<Match, Fault> {
    // Any host can announce attributes for another.
    if request(&raw.answer)?.protocol == Protocol::Mdns {
        return Err(Fault::at(
            &raw.answer,
            "`mdns txt` identifies no device alone; use it in `and`, in `not` or in facts",
        ));
    }
    if raw.and.len() + raw.not.len() >= MOST_PARTS {
        return Err(Fault::at(
            &raw.answer,
            format!("a match has fewer than {MOST_PARTS} conditions"),
        ));
    }
    let first = RawCondition {
        answer: None,
        at: raw.at,
        like: raw.like,
    };
    let required = [first]
        .into_iter()
        .chain(raw.and)
        .map(|condition| (condition, false));
    let conditions = required
        .chain(raw.not.into_iter().map(|condition| (condition, true)))
        .map(|(condition, is_negated)| condition_of(condition, &raw.answer, is_negated))
        .collect::<Result<_, _>>()?;
    let driver = raw.driver.as_ref().map(driver).transpose()?;
    Ok(Match {
        conditions,
        is_weak: raw.weak,
        driver,
    })
}

fn condition_of(
    raw: RawCondition,
    answer: &Spanned<String>,
    is_negated: bool,
) -> Result<Condition, Fault> {
    let like = raw
        .like
        .as_ref()
        .map(|like| match Words::of(like.get_ref()) {
            Some(words) => Ok(Pattern::Words(words)),
            None => pattern(like).map(Pattern::Regex),
        });
    let like = like.transpose()?;
    if raw.at.is_none() && like.is_none() {
        let place = raw.answer.as_ref().unwrap_or(answer);
        return Err(Fault::at(place, "a condition names `at`, `like` or both"));
    }
    Ok(Condition {
        answer: request(raw.answer.as_ref().unwrap_or(answer))?,
        written_at: raw
            .at
            .as_ref()
            .map_or_else(|| "text".to_owned(), |at| at.get_ref().clone()),
        at: raw.at.as_ref().map_or(Ok(Selector::Text), selector)?,
        like,
        is_negated,
    })
}

fn sources_of(
    raw: Vec<RawSource>,
    tables: &BTreeMap<String, Vec<(String, String)>>,
) -> Result<Vec<Source>, Fault> {
    if raw.len() > MOST_PARTS {
        return Err(Fault::of_file(format!(
            "a fact has at most {MOST_PARTS} sources"
        )));
    }
    raw.into_iter()
        .map(|source| source_of(source, tables))
        .collect()
}

fn source_of(
    raw: RawSource,
    tables: &BTreeMap<String, Vec<(String, String)>>,
) -> Result<Source, Fault> {
    let origin = match (&raw.answer, &raw.fact) {
        (Some(answer), None) => Origin::Answer {
            request: request(answer)?,
            at: raw.at.as_ref().map_or(Ok(Selector::Text), selector)?,
            append: raw.append.as_ref().map(selector).transpose()?,
        },
        (None, Some(fact)) if fact.get_ref() == "model" => Origin::Model,
        (None, None) if raw.value.is_some() => Origin::Constant,
        (_, Some(fact)) => {
            return Err(Fault::at(
                fact,
                "`fact` can only be `model`, and stands without `answer`",
            ));
        }
        (None, None) => return Err(Fault::of_file("a source names `answer`, `fact` or `value`")),
    };
    let table = match &raw.table {
        None => None,
        Some(name) => {
            let rows = tables.get(name.get_ref());
            Some(rows.cloned().ok_or_else(|| {
                Fault::at(name, format!("there is no table `{}`", name.get_ref()))
            })?)
        }
    };
    Ok(Source {
        origin,
        like: raw.like.as_ref().map(pattern).transpose()?,
        value: raw.value,
        table,
    })
}

fn driver(name: &Spanned<String>) -> Result<String, Fault> {
    let text = name.get_ref();
    let fits = (1..=50).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    if fits {
        Ok(text.clone())
    } else {
        Err(Fault::at(name, "a driver has 1 to 50 lower-case letters"))
    }
}

fn request(written: &Spanned<String>) -> Result<Request, Fault> {
    written
        .get_ref()
        .parse()
        .map_err(|reason: String| Fault::at(written, reason))
}

fn selector(written: &Spanned<String>) -> Result<Selector, Fault> {
    Selector::parse(written.get_ref()).map_err(|reason| Fault::at(written, reason))
}

fn pattern(written: &Spanned<String>) -> Result<Regex, Fault> {
    let text = written.get_ref();
    if text.chars().count() > LONGEST_PATTERN {
        return Err(Fault::at(
            written,
            format!("a pattern has at most {LONGEST_PATTERN} characters"),
        ));
    }
    RegexBuilder::new(text)
        .size_limit(PATTERN_SIZE)
        .dfa_size_limit(PATTERN_SIZE)
        .build()
        .map_err(|error| {
            Fault::at(
                written,
                format!("bad pattern: {}", last_line(&error.to_string())),
            )
        })
}

/// The regex crate's error message shows the pattern first. Its last line is the reason.
fn last_line(text: &str) -> String {
    text.lines()
        .last()
        .unwrap_or_default()
        .trim_start_matches("error: ")
        .to_owned()
}
