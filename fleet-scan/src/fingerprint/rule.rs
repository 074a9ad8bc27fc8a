//! One rule: which answers identify a make, and where each fact is found. Pure.

use std::fmt;

use fleet_core::{Mac, Serial};
use regex::Regex;

use super::{
    answer::{Answered, Answers, Selector},
    login::LoginRule,
    request::{Protocol, Request},
};
use crate::text;

/// Default MACs that firmware uses before it knows its own. Several devices of one network can have them.
const FACTORY_MACS: [Mac; 2] = [
    // The example address of Xilinx, which Zynq control boards keep (foreman-apps, DragonmintDetectITest.java).
    Mac::new([0x00, 0x0a, 0x35, 0x00, 0x00, 0x00]),
    Mac::new([0x00, 0x0a, 0x35, 0x00, 0x01, 0x22]),
];

/// The precedence among matching rules. The higher rank wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// A name that any make can have. It counts only if no other rule matches.
    Guess,
    /// A signature that several makes share. It counts only if no more specific rule matches.
    Shared,
    /// The maker's own firmware.
    Maker,
    /// Firmware for hardware of other makers. It also shows the maker's signature, so it ranks higher.
    Aftermarket,
}

impl Rank {
    /// Whether the scanner requests further answers before it accepts the match.
    pub(crate) fn is_weak(self) -> bool {
        self <= Self::Shared
    }
}

/// One rule file.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    /// The name of its file, without `.toml`.
    pub(crate) name: String,
    /// The make or firmware in the table of makes.
    pub(crate) make: String,
    pub(crate) driver: String,
    /// The scheme of the link to the device's page, or `tcp` if it has no page.
    pub(crate) scheme: String,
    pub(crate) rank: Rank,
    pub(crate) manufacturer: String,
    /// Names of published recordings. A rule without recordings is unverified.
    pub(crate) published: Vec<String>,
    pub(super) matches: Vec<Match>,
    pub(super) sources: FactSources,
    pub(crate) login: Option<LoginRule>,
}

/// One signature. All of its conditions must hold.
#[derive(Debug, Clone)]
pub(super) struct Match {
    pub(super) conditions: Vec<Condition>,
    pub(super) is_weak: bool,
    pub(super) driver: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Condition {
    pub(super) answer: Request,
    pub(super) at: Selector,
    pub(super) written_at: String,
    /// The pattern that the value must match. Without a pattern, the value must exist.
    pub(super) like: Option<Pattern>,
    /// Inverts the condition.
    pub(super) is_negated: bool,
}

/// The pattern for a value.
#[derive(Debug, Clone)]
pub(super) enum Pattern {
    /// Plain words, which most signatures use. Searching for them costs a tenth of a regex match.
    Words(Words),
    Regex(Regex),
}

/// A pattern of plain words: `(?i)vnish|anthill` or `^blackMiner`.
#[derive(Debug, Clone)]
pub(super) struct Words {
    written: String,
    words: Vec<String>,
    ignores_case: bool,
    is_at_start: bool,
}

impl Words {
    /// The words of a pattern. None if the pattern needs a regex.
    pub(super) fn of(pattern: &str) -> Option<Self> {
        let (ignores_case, rest) = match pattern.strip_prefix("(?i)") {
            Some(rest) => (true, rest),
            None => (false, pattern),
        };
        let (is_at_start, rest) = match rest.strip_prefix('^') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let is_plain =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'|' | b'_' | b' ');
        let case = |word: &str| {
            if ignores_case {
                word.to_ascii_lowercase()
            } else {
                word.to_owned()
            }
        };
        let words: Vec<_> = rest.split('|').map(case).collect();
        let is_one = !is_at_start || words.len() == 1;
        let fits =
            rest.bytes().all(is_plain) && words.iter().all(|word| !word.is_empty()) && is_one;
        fits.then(|| Self {
            written: pattern.to_owned(),
            words,
            ignores_case,
            is_at_start,
        })
    }

    pub(super) fn is_in(&self, text: &str) -> bool {
        if self.ignores_case {
            self.is_in_exactly(&text.to_ascii_lowercase())
        } else {
            self.is_in_exactly(text)
        }
    }

    fn is_in_exactly(&self, text: &str) -> bool {
        self.words.iter().any(|word| {
            if self.is_at_start {
                text.starts_with(word)
            } else {
                text.contains(word)
            }
        })
    }
}

impl Pattern {
    fn is_match(&self, text: &str) -> bool {
        match self {
            Self::Words(words) => words.is_in(text),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(words) => f.write_str(&words.written),
            Self::Regex(regex) => f.write_str(regex.as_str()),
        }
    }
}

/// The sources of each fact, in order of preference.
#[derive(Debug, Clone, Default)]
pub(super) struct FactSources {
    pub(super) model: Vec<Source>,
    pub(super) manufacturer: Vec<Source>,
    pub(super) firmware: Vec<Source>,
    pub(super) mac: Vec<Source>,
    pub(super) serial: Vec<Source>,
    pub(super) hostname: Vec<Source>,
}

#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) origin: Origin,
    pub(super) like: Option<Regex>,
    /// The value of the fact. `$1` inserts a group of the pattern.
    pub(super) value: Option<String>,
    /// Replacements for the value of the pattern's first group, or of the whole text.
    pub(super) table: Option<Vec<(String, String)>>,
}

#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// A value of an answer, optionally followed by a space and a second value.
    Answer {
        request: Request,
        at: Selector,
        append: Option<Selector>,
    },
    /// The model that was already found.
    Model,
    /// The source's own constant.
    Constant,
}

/// The facts of a device. Each text is one line and fits a report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) model: String,
    pub(crate) manufacturer: String,
    pub(crate) firmware: String,
    pub(crate) mac: Option<Mac>,
    pub(crate) serial: Option<Serial>,
    pub(crate) hostname: String,
}

impl Rule {
    /// The requests that its signatures need.
    pub(crate) fn opening_requests(&self) -> impl Iterator<Item = &Request> {
        let conditions = self.matches.iter().flat_map(|one| &one.conditions);
        conditions
            // A missing answer satisfies a negated condition, so no request is sent for it alone.
            .filter(|condition| !condition.is_negated)
            .map(|condition| &condition.answer)
    }

    /// The names of facts that have a source.
    pub(crate) fn known_facts(&self) -> Vec<&'static str> {
        let facts = &self.sources;
        [
            ("model", &facts.model),
            ("firmware", &facts.firmware),
            ("MAC", &facts.mac),
            ("serial", &facts.serial),
        ]
        .into_iter()
        .filter(|(_, sources)| !sources.is_empty())
        .map(|(name, _)| name)
        .collect()
    }

    /// Whether the devices show their MAC over a protocol.
    pub(super) fn shows_mac(&self, protocol: Protocol) -> bool {
        self.sources.mac.iter().any(|source| source.is_of(protocol))
    }

    /// Whether the devices show their serial over a protocol.
    pub(super) fn shows_serial(&self, protocol: Protocol) -> bool {
        self.sources
            .serial
            .iter()
            .any(|source| source.is_of(protocol))
    }

    /// The first signature that the answers match. Strong signatures come before weak ones.
    pub(super) fn matching(&self, answers: &Answers) -> Option<&Match> {
        let hits = || self.matches.iter().filter(|one| one.holds(answers));
        hits().find(|one| !one.is_weak).or_else(|| hits().next())
    }

    /// The next request of a protocol that a fact needs. None once every fact is known or every source was tried.
    pub(crate) fn wanted(&self, answers: &Answers, protocol: Protocol) -> Option<&Request> {
        let facts = &self.sources;
        let any = |_: &str| true;
        let is_mac = |text: &str| mac(text).is_some();
        type Accepts<'a> = &'a dyn Fn(&str) -> bool;
        let wanted: [(&[Source], Accepts<'_>); 5] = [
            (&facts.model, &any),
            (&facts.firmware, &any),
            (&facts.mac, &is_mac),
            (&facts.serial, &any),
            (&facts.hostname, &any),
        ];
        wanted.into_iter().find_map(|(sources, is_fact)| {
            // Sources are in order of preference. A later source is skipped once an earlier one has a value.
            for source in sources {
                if source
                    .value_of(answers, "")
                    .is_some_and(|text| is_fact(&text))
                {
                    return None;
                }
                if let Origin::Answer { request, .. } = &source.origin
                    && request.protocol == protocol
                    && !answers.was_sent(request)
                {
                    return Some(request);
                }
            }
            None
        })
    }

    /// Extracts the facts from the answers.
    pub(crate) fn facts(&self, answers: &Answers) -> Facts {
        let sources = &self.sources;
        let of = |fact: &[Source], model: &str| {
            fact.iter()
                .find_map(|source| source.value_of(answers, model))
                .unwrap_or_default()
        };
        let model = of(&sources.model, "");
        let manufacturer = match of(&sources.manufacturer, &model) {
            text if text.is_empty() => self.manufacturer.clone(),
            text => text,
        };
        let macs = sources
            .mac
            .iter()
            .filter_map(|source| source.value_of(answers, &model));
        let serials = sources
            .serial
            .iter()
            .filter_map(|source| source.value_of(answers, &model));
        Facts {
            firmware: of(&sources.firmware, &model),
            // The first that identifies, because an earlier source may hold a placeholder.
            mac: macs.filter_map(|text| mac(&text)).next(),
            serial: serials.filter_map(|text| Serial::new(&text)).next(),
            hostname: of(&sources.hostname, &model),
            manufacturer,
            model,
        }
    }
}

impl Match {
    /// Whether it is only words that occur anywhere in the root page.
    pub(super) fn is_words_of_page(&self) -> bool {
        let mut conditions = self.conditions.iter().filter(|one| !one.is_negated);
        conditions.all(|one| {
            one.answer.protocol == Protocol::Http
                && one.answer.text == "/"
                && one.at == Selector::Text
        })
    }

    pub(super) fn holds(&self, answers: &Answers) -> bool {
        self.conditions
            .iter()
            .all(|condition| condition.holds(answers))
    }
}

impl Condition {
    pub(super) fn holds(&self, answers: &Answers) -> bool {
        let holds = answers
            .get(&self.answer)
            .is_some_and(|answer| self.is_in(answer));
        holds != self.is_negated
    }

    fn is_in(&self, answer: &Answered) -> bool {
        match &self.like {
            None => answer.has(&self.at),
            // Most signatures search the whole text for words, so its lower-case form is cached.
            Some(Pattern::Words(words)) if words.ignores_case && self.at == Selector::Text => {
                words.is_in_exactly(answer.lower_text())
            }
            Some(like) => answer
                .select(&self.at)
                .is_some_and(|text| like.is_match(&text)),
        }
    }
}

impl Source {
    /// Whether the value comes from an answer of this protocol.
    fn is_of(&self, protocol: Protocol) -> bool {
        match &self.origin {
            Origin::Answer { request, .. } => request.protocol == protocol,
            Origin::Model | Origin::Constant => false,
        }
    }

    /// The value of the fact, if this source has one.
    fn value_of(&self, answers: &Answers, model: &str) -> Option<String> {
        let text = match &self.origin {
            Origin::Constant => return self.value.clone(),
            Origin::Model if model.is_empty() => return None,
            Origin::Model => model.to_owned(),
            Origin::Answer {
                request,
                at,
                append,
            } => {
                let answer = answers.get(request)?;
                let text = answer.select(at)?;
                match append.as_ref().and_then(|append| answer.select(append)) {
                    Some(more) => format!("{text} {more}"),
                    None => text.into_owned(),
                }
            }
        };
        let mut found = text.clone();
        if let Some(like) = &self.like {
            let groups = like.captures(&text)?;
            found = match (&self.value, groups.get(1)) {
                (Some(value), _) => {
                    let mut expanded = String::new();
                    groups.expand(value, &mut expanded);
                    expanded
                }
                (None, Some(group)) => group.as_str().to_owned(),
                (None, None) => text,
            };
        } else if let Some(value) = &self.value {
            found = value.replace("$0", &text);
        }
        if let Some(table) = &self.table {
            let known = |key: &str| key.eq_ignore_ascii_case(&found);
            found = table.iter().find(|(key, _)| known(key))?.1.clone();
        }
        let found = text::field(&found);
        (!found.is_empty()).then_some(found)
    }
}

/// Parses a MAC that identifies a device. Rejects placeholders and firmware defaults.
pub(crate) fn mac(text: &str) -> Option<Mac> {
    let mac: Mac = text.trim().parse().ok()?;
    (!mac.is_placeholder() && !FACTORY_MACS.contains(&mac)).then_some(mac)
}
