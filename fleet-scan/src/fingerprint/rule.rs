//! One rule: which answers identify a make, and where they hold each fact. Pure.

use std::{fmt, str::FromStr};

use fleet_core::{Mac, Serial};
use regex::Regex;

use super::{
    answer::{Answered, Answers, Selector},
    login::LoginRule,
};
use crate::text;

/// MACs that firmware writes before it knows its own. Several devices of one network show them.
const FACTORY_MACS: [Mac; 2] = [
    // Xilinx' example, as Zynq control boards keep it (foreman-apps, DragonmintDetectITest.java).
    Mac::new([0x00, 0x0a, 0x35, 0x00, 0x00, 0x00]),
    Mac::new([0x00, 0x0a, 0x35, 0x00, 0x01, 0x22]),
];

/// A protocol that rules can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    /// The CGMiner API.
    Cgminer,
    /// HTTP, with and without TLS.
    Http,
    /// ePIC's HTTP API at the port of the CGMiner API.
    Epic,
    /// Whatsminer API 3.
    Whatsminer,
}

impl Protocol {
    pub(crate) const ALL: [Self; 4] = [Self::Cgminer, Self::Http, Self::Epic, Self::Whatsminer];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cgminer => "cgminer",
            Self::Http => "http",
            Self::Epic => "epic",
            Self::Whatsminer => "whatsminer",
        }
    }

    /// Its name in the table of makes.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Cgminer => "CGMiner API",
            Self::Http => "HTTP",
            Self::Epic => "ePIC API",
            Self::Whatsminer => "Whatsminer API 3",
        }
    }

    /// The requests that go first, since most devices answer them.
    fn preferred(self) -> &'static [&'static str] {
        match self {
            Self::Cgminer => &["version", "devdetails", "stats", "get_version"],
            Self::Http => &[
                "/",
                "/api/v1/pairing/info",
                "/api/system/info",
                "/mcb/status",
            ],
            Self::Epic => &["/summary"],
            Self::Whatsminer => &["get.device.info"],
        }
    }
}

/// Commands of the CGMiner API that only read. No other is sent, whatever a rule file says.
const CGMINER_READS: [&str; 12] = [
    "version",
    "devdetails",
    "stats",
    "estats",
    "litestats",
    "summary",
    "config",
    "coin",
    "devs",
    "get_version",
    "get_miner_info",
    "check",
];

/// Parts of paths at which a GET changes something on some make (`reboot.cgi`, `reset_conf.cgi`, `/lock/others`).
const CHANGING_PATHS: [&str; 14] = [
    "reboot", "reset", "restart", "set_", "/set", "upgrade", "update", "delete", "lock", "logout",
    "login", "blink", "factory", "shutdown",
];

/// A read-only request, as rule files write it: `cgminer version`, `http /api/system/info`,
/// `http POST /graphql {"query":"{ .. }"}`, `epic /summary`, `whatsminer get.device.info`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Request {
    pub(crate) protocol: Protocol,
    /// A command, a path, or `POST`, a path and a body.
    pub(crate) text: String,
}

impl Request {
    /// The place among the requests that the protocol prefers; later for all others.
    pub(super) fn preference(&self) -> usize {
        let preferred = self.protocol.preferred();
        preferred
            .iter()
            .position(|text| *text == self.text)
            .unwrap_or(preferred.len())
    }

    /// Whether it has a body. Only GraphQL queries have one.
    pub(crate) fn is_post(&self) -> bool {
        self.text.starts_with("POST ")
    }
}

impl FromStr for Request {
    type Err = String;

    fn from_str(written: &str) -> Result<Self, String> {
        let unknown = || {
            format!(
                "`{written}` is no request; write `cgminer COMMAND`, `http /PATH`, `http POST /PATH QUERY`, \
                 `epic /PATH` or `whatsminer COMMAND`"
            )
        };
        let (protocol, text) = written.split_once(' ').ok_or_else(unknown)?;
        let protocol = Protocol::ALL
            .into_iter()
            .find(|one| one.name() == protocol)
            .ok_or_else(unknown)?;
        let printable = text.len() <= 512 && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        let is_read = printable
            && match protocol {
                Protocol::Cgminer => CGMINER_READS.contains(&text),
                Protocol::Http | Protocol::Epic => match text.strip_prefix("POST ") {
                    Some(post) => is_query(post),
                    None => is_read_path(text),
                },
                Protocol::Whatsminer => text
                    .strip_prefix("get.")
                    .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_lowercase() || b == b'.')),
            };
        if is_read {
            Ok(Self {
                protocol,
                text: text.to_owned(),
            })
        } else {
            Err(format!(
                "`{written}` is not known to only read; requests of rules change nothing"
            ))
        }
    }
}

pub(super) fn is_read_path(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    path.starts_with('/')
        && !path.contains(' ')
        && !CHANGING_PATHS.iter().any(|part| lower.contains(part))
}

/// Whether a POST is a GraphQL query, which only reads by its definition.
fn is_query(post: &str) -> bool {
    let Some((path, body)) = post.split_once(' ') else {
        return false;
    };
    let query = serde_json::from_str::<serde_json::Value>(body).ok();
    let query = query.as_ref().and_then(|body| body.get("query")?.as_str());
    path == "/graphql" && query.is_some_and(|query| query.starts_with('{'))
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol.name(), self.text)
    }
}

/// Which rule wins when several match: the higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// A name that may be any make's. Counts only when all else failed.
    Guess,
    /// A signature that several makes share. Counts only when nothing better came.
    Shared,
    /// The maker's own firmware.
    Maker,
    /// Firmware for other makers' hardware, which shows the maker's signature too.
    Aftermarket,
}

impl Rank {
    /// Whether further answers are asked for before it counts.
    pub(crate) fn is_weak(self) -> bool {
        self <= Self::Shared
    }
}

/// One rule file.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    /// The name of its file, without `.toml`.
    pub(crate) name: String,
    /// The make or firmware, as the table of makes shows it.
    pub(crate) make: String,
    pub(crate) driver: String,
    /// The scheme of the link to the device's page; `tcp` where it has none.
    pub(crate) scheme: String,
    pub(crate) rank: Rank,
    pub(crate) manufacturer: String,
    /// Names of recorded answers that were published. A rule without one is unverified.
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
    /// The value must match; without it, it must only be there.
    pub(super) like: Option<Pattern>,
    /// Must not hold.
    pub(super) is_negated: bool,
}

/// What a value must match.
#[derive(Debug, Clone)]
pub(super) enum Pattern {
    /// Plain words, which most signatures are: a search for them costs a tenth of a pattern's.
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
    /// The words of a pattern. None when it says more than words.
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

/// Where each fact stands, the first that yields something.
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
    /// What the fact is, with `$1` for groups of the pattern.
    pub(super) value: Option<String>,
    /// Values of the pattern's first group, or of the whole text, that stand for others.
    pub(super) table: Option<Vec<(String, String)>>,
}

#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// A value of an answer, and another one that is appended after a space.
    Answer {
        request: Request,
        at: Selector,
        append: Option<Selector>,
    },
    /// The model, as it was found before.
    Model,
    /// The source's own value.
    Constant,
}

/// What is known of a device. Texts are one line and fit a report.
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
    /// The requests of its signatures.
    pub(crate) fn opening_requests(&self) -> impl Iterator<Item = &Request> {
        let conditions = self.matches.iter().flat_map(|one| &one.conditions);
        conditions
            .filter(|condition| !condition.is_negated)
            .map(|condition| &condition.answer)
    }

    /// The facts that have a source.
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

    /// The first signature that the answers match, a strong one before a weak one.
    pub(super) fn matching(&self, answers: &Answers) -> Option<&Match> {
        let hits = || self.matches.iter().filter(|one| one.holds(answers));
        hits().find(|one| !one.is_weak).or_else(|| hits().next())
    }

    /// The next request of a protocol that a fact needs; none once every fact is known or every source was asked.
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
            // Sources stand in order of preference: a later one is not asked once an earlier one answered.
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

    /// What the answers say.
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
            mac: macs.filter_map(|text| mac(&text)).next(),
            serial: serials.filter_map(|text| Serial::new(&text)).next(),
            hostname: of(&sources.hostname, &model),
            manufacturer,
            model,
        }
    }
}

impl Match {
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
            // Most signatures look for words in the whole text, so its lower-case form is kept.
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
    /// The fact, if this source has it.
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
            found = table.iter().find(|(key, _)| *key == found)?.1.clone();
        }
        let found = text::field(&found);
        (!found.is_empty()).then_some(found)
    }
}

/// A MAC that identifies a device: no placeholder, and none that firmware writes before it knows its own.
pub(crate) fn mac(text: &str) -> Option<Mac> {
    let mac: Mac = text.trim().parse().ok()?;
    (!mac.is_placeholder() && !FACTORY_MACS.contains(&mac)).then_some(mac)
}
